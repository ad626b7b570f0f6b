package sqldb

import (
	"strings"

	"zombiezen.com/go/sqlite"
)

// sqliteOnce are a connection's prepared statements around a write that happens once.
type sqliteOnce struct{ claim, look, remember *sqlite.Stmt }

// prepareOnce prepares them, where that has not been done.
func (c *sqliteConn) prepareOnce(q *sqliteQuery) error {
	if !q.spec.Once || c.once.remember != nil {
		return nil
	}
	c.own = true
	defer func() { c.own = false }()
	texts := onceStatements[SQLite]
	var made sqliteOnce
	for _, s := range []struct {
		stmt **sqlite.Stmt
		text string
	}{{&made.claim, texts.claim}, {&made.look, texts.look}, {&made.remember, texts.remember}} {
		stmt, err := c.conn.Prepare(s.text)
		if err != nil {
			for _, stmt := range []*sqlite.Stmt{made.claim, made.look} {
				if stmt != nil {
					_ = stmt.Finalize()
				}
			}
			return q.notInstalled(err)
		}
		*s.stmt = stmt
	}
	c.once = made
	return nil
}

// notInstalled says where the table is not there what to do.
func (q *sqliteQuery) notInstalled(err error) error {
	if strings.Contains(err.Error(), "no such table: "+onceTable) {
		return errNotInstalled(q.spec.Name, q.source.name, err)
	}
	return err
}

// claim puts the key of a write in, whose transaction has begun. claimed is false where the first run's answer was there already, which it
// gives.
func (q *sqliteQuery) claim(dst []byte, c *sqliteConn, o *Once) (out []byte, outcome Outcome, claimed bool, err error) {
	c.once.claim.BindText(1, o.key())
	c.once.claim.BindText(2, o.arguments())
	c.once.claim.BindInt64(3, o.seconds())
	if err := c.control(c.once.claim); err != nil {
		return dst, outcome, false, q.notInstalled(err)
	}
	return q.look(dst, c, o)
}

// look gives what there is under a key.
func (q *sqliteQuery) look(dst []byte, c *sqliteConn, o *Once) (out []byte, outcome Outcome, claimed bool, err error) {
	look := c.once.look
	look.BindText(1, o.key())
	c.own = true
	row, err := look.Step()
	c.own = false
	defer func() { _ = look.Reset() }()
	if err != nil {
		return dst, outcome, false, q.notInstalled(err)
	}
	if !row {
		return dst, outcome, false, errSwept(q.spec.Name)
	}
	var answer []byte
	if look.ColumnType(1) != sqlite.TypeNull {
		answer = []byte(look.ColumnText(1))
	}
	return o.recall(q.spec.Name, dst, look.ColumnText(0), answer)
}

// remember keeps the answer of a write with its key.
func (c *sqliteConn) remember(o *Once, outcome Outcome, returned []byte) error {
	answer, err := answerOf(outcome, returned)
	if err != nil {
		return err
	}
	c.once.remember.BindText(1, o.key())
	c.once.remember.BindText(2, string(answer))
	defer func() { _ = c.once.remember.ClearBindings() }()
	return c.control(c.once.remember)
}
