package sqldb

import (
	"context"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// The statements around a write that happens once, in the order in which a connection prepares them.
const (
	onceClaim = iota
	onceLook
	onceRemember
	onceDeferred
	onceRole
)

var pgOnceSQL = []string{
	onceClaim: onceStatements[PostgreSQL].claim, onceLook: onceStatements[PostgreSQL].look, onceRemember: onceStatements[PostgreSQL].remember,
	// What the statement has left for the commit runs as who ran the statement: db_settings, or it itself, may have taken a role, which the
	// table of keys is not for.
	onceDeferred: "SET CONSTRAINTS ALL IMMEDIATE",
	onceRole:     "SET LOCAL role TO DEFAULT",
}

func onceName(i int) string { return "millrace_once" + strconv.Itoa(i) }

// prepareOnce prepares what goes around a write that happens once.
func (c *pgConn) prepareOnce(ctx context.Context) error {
	for ; c.once < len(pgOnceSQL); c.once++ {
		if _, err := c.conn.Prepare(ctx, onceName(c.once), pgOnceSQL[c.once], nil); err != nil {
			return err
		}
	}
	return nil
}

// claim begins the transaction of a write that happens once and puts its key in. claimed is false where the first run's answer was there
// already, which it gives.
func (q *pgQuery) claim(dst []byte, c *pgConn, x *Execution) (out []byte, outcome Outcome, claimed bool, err error) {
	key := []byte(x.Once.key())
	c.send(controlNames[controlBeginWrite], nil, nil, 0)
	c.send(onceName(onceClaim), [][]byte{key, []byte(x.Once.arguments()), strconv.AppendInt(nil, x.Once.seconds(), 10)}, nil, 0)
	c.send(onceName(onceLook), [][]byte{key}, nil, 0)
	if err := c.sync(); err != nil {
		return dst, outcome, false, err
	}
	var found [][]byte
	for {
		message, err := c.receive()
		if err != nil {
			return dst, outcome, false, err
		}
		switch m := message.(type) {
		case *pgproto3.DataRow:
			found = nil
			for _, v := range m.Values {
				found = append(found, slices.Clone(v))
			}
		case *pgproto3.ErrorResponse:
			err := pgconn.ErrorResponseToPgError(m)
			_ = c.ready()
			if err.Code == stateUndefinedTable {
				return dst, outcome, false, errNotInstalled(q.spec.Name, q.source.name, err)
			}
			return dst, outcome, false, err
		case *pgproto3.ReadyForQuery:
			if len(found) != 2 {
				return dst, outcome, false, errSwept(q.spec.Name)
			}
			return x.Once.recall(q.spec.Name, dst, string(found[0]), found[1])
		}
	}
}

// sendAnswer queues what keeps the answer of a write with its key, as who the source is. It gives the number of commands.
func (q *pgQuery) sendAnswer(c *pgConn, o *Once, answer []byte) (commands int) {
	c.send(onceName(onceDeferred), nil, nil, 0)
	c.send(onceName(onceRole), nil, nil, 0)
	c.send(onceName(onceRemember), [][]byte{[]byte(o.key()), answer}, nil, 0)
	return 3
}
