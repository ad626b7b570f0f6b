package sqldb

import (
	"context"
	"slices"

	"zombiezen.com/go/sqlite"
)

// write runs the statement in a transaction of its own on the one connection that writes. BEGIN IMMEDIATE takes the
// file's write lock before anything is read, so that no write fails halfway because another process was quicker.
func (q *sqliteQuery) write(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	b := runBounds(q.span, q.limit, x)
	pool := q.source.writer
	c, err := pool.get(ctx, b.deadline)
	if err != nil {
		return dst, Outcome{}, err
	}
	broken := false
	defer func() { pool.put(c, broken) }()

	st, err := c.stmt(q)
	if err == nil {
		err = c.prepareOnce(q)
	}
	if err != nil {
		return dst, Outcome{}, q.failure(ctx, pool.stopped(c), &b, err)
	}
	if err := c.control(c.begin); err != nil {
		broken = isBroken(err)
		return dst, Outcome{}, q.failure(ctx, pool.stopped(c), &b, err)
	}
	broken = true // should this panic: its transaction would be open still
	var out []byte
	var outcome Outcome
	claimed := x.Once == nil
	if !claimed {
		out, outcome, claimed, err = q.claim(dst, c, x.Once)
	}
	if claimed && err == nil {
		out, outcome, err = q.change(dst, c, st, x)
	}
	confirmed := err == nil && (outcome.Repeated || x.Confirm == nil || x.Confirm(outcome.Affected))
	if x.Once != nil && confirmed && !outcome.Repeated {
		err = c.remember(x.Once, outcome, out[len(dst):])
		defer q.source.swept.sweep(q.source, q.source.name, q.source.log)
	}
	broken = false

	// From here on nothing interrupts: the transaction ends one way or the other.
	cause := pool.extend(c)
	if err == nil && cause != stopNone {
		err = sqlite.ResultInterrupt.ToError()
	}
	if err == nil && confirmed {
		if err = c.control(c.commit); err == nil {
			return out, outcome, nil
		}
	}
	// A full disk or a failed COMMIT may have ended the transaction already.
	if !c.conn.AutocommitEnabled() {
		broken = c.control(c.rollback) != nil
	}
	if err != nil {
		broken = broken || isBroken(err)
		return dst, Outcome{}, q.failure(ctx, cause, &b, err)
	}
	outcome.RolledBack = true
	return out, outcome, nil
}

// change runs the statement inside the transaction. Rows beyond the bounds are stepped over, not left: the engine changes
// everything before it returns the first row, and the number of rows changed is known at the end.
func (q *sqliteQuery) change(dst []byte, c *sqliteConn, st *sqliteStmt, x *Execution) ([]byte, Outcome, error) {
	large := q.bind(c, st.stmt, x.Args)
	r := beginRows(dst, q.spec.MaxRows, q.spec.MaxBytes)
	for {
		row, err := c.step(st)
		if err != nil {
			if large {
				_ = st.stmt.ClearBindings()
			}
			return dst, Outcome{}, err
		}
		if !row {
			break
		}
		if r.truncated || !r.beginRow() || !c.appendRow(&r, st) {
			continue
		}
		if x.Progress != nil && r.n%progressEvery == 0 {
			x.Progress(r.n)
		}
	}
	outcome := Outcome{Rows: r.n, Truncated: r.truncated, Removed: q.statement.verb == "DELETE"}
	if slices.Contains(changeVerbs, q.statement.verb) {
		outcome.Affected = int64(c.conn.Changes())
	}
	_ = st.stmt.Reset()
	if large {
		_ = st.stmt.ClearBindings()
	}
	if len(st.cols) == 0 {
		return appendAffected(r.dst[:len(dst)], outcome.Affected), outcome, nil
	}
	return r.end(), outcome, nil
}

// control runs BEGIN, COMMIT or ROLLBACK.
func (c *sqliteConn) control(stmt *sqlite.Stmt) error {
	c.own = true
	_, err := stmt.Step()
	c.own = false
	_ = stmt.Reset()
	return err
}
