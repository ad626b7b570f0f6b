package sqldb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"millrace/internal/mcp"
)

// progressEvery is how many rows pass between two calls of Execution.Progress.
const progressEvery = 1000

// sqliteQuery is a compiled statement on a SQLite source.
type sqliteQuery struct {
	source    *sqliteSource
	spec      Spec
	statement statement
	number    int // index of its prepared statement on every connection
	span      time.Duration
	limit     limit
}

// Run implements Query. A statement that cannot change anything goes to a reader, even in ReadWrite mode: it would only
// stand in the writers' line.
func (q *sqliteQuery) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	if err := ctx.Err(); err != nil {
		return dst, Outcome{}, err
	}
	if len(x.Args) != len(q.spec.Params) {
		return dst, Outcome{}, fmt.Errorf("%s: %d arguments for %d parameters", q.spec.Name, len(x.Args), len(q.spec.Params))
	}
	if q.statement.writes {
		return q.write(ctx, dst, x)
	}
	out, outcome, err := q.read(ctx, dst, x)
	if err == nil && q.spec.Mode == ReadWrite && x.Confirm != nil && !x.Confirm(0) {
		outcome.RolledBack = true
	}
	return out, outcome, err
}

func (q *sqliteQuery) read(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	b := runBounds(q.span, q.limit, x)
	pool := q.source.readers
	c, err := pool.get(ctx, b.deadline)
	if err != nil {
		return dst, Outcome{}, err
	}
	broken := true // should this panic: the statement would stay in the middle of its rows
	defer func() { pool.put(c, broken) }()
	out, outcome, err := q.readOn(c, dst, x)
	broken = isBroken(err)
	if err != nil {
		return dst, outcome, q.failure(ctx, pool.stopped(c), &b, err)
	}
	return out, outcome, nil
}

// readOn runs the statement on a connection.
func (q *sqliteQuery) readOn(c *sqliteConn, dst []byte, x *Execution) ([]byte, Outcome, error) {
	st, err := c.stmt(q)
	if err != nil {
		return dst, Outcome{}, err
	}
	large := q.bind(c, st.stmt, x.Args)
	r := beginRows(dst, q.spec.MaxRows, q.spec.MaxBytes)
	for {
		row, err := c.step(st)
		if err != nil {
			if large {
				_ = st.stmt.ClearBindings()
			}
			return dst, Outcome{Rows: r.n}, err
		}
		if !row || !r.beginRow() || !c.appendRow(&r, st) {
			break
		}
		if x.Progress != nil && r.n%progressEvery == 0 {
			x.Progress(r.n)
		}
	}
	_ = st.stmt.Reset()
	if large {
		_ = st.stmt.ClearBindings()
	}
	return r.end(), Outcome{Rows: r.n, Truncated: r.truncated}, nil
}

// bind puts the arguments into the placeholders. It tells whether one is too large to be kept.
func (q *sqliteQuery) bind(c *sqliteConn, stmt *sqlite.Stmt, args []mcp.Value) (large bool) {
	for i, arg := range q.statement.binds {
		v := &args[arg]
		switch v.Kind {
		case mcp.KindInt, mcp.KindBool:
			stmt.BindInt64(i+1, v.Int)
		case mcp.KindText, mcp.KindJSON:
			stmt.BindText(i+1, string(v.Text))
			large = large || len(v.Text) > keepBound
		case mcp.KindFloat:
			stmt.BindFloat(i+1, v.Float)
		default:
			stmt.BindNull(i + 1)
		}
	}
	return large
}

// appendRow encodes the row that the statement stands on. It tells whether the result may go on.
func (c *sqliteConn) appendRow(r *rows, st *sqliteStmt) bool {
	for i := range st.cols {
		col := &st.cols[i]
		r.dst = append(r.dst, col.prefix...)
		switch st.stmt.ColumnType(i) {
		case sqlite.TypeInteger:
			v := st.stmt.ColumnInt64(i)
			switch col.declared {
			case declaredBoolean:
				r.dst = appendBool(r.dst, v != 0)
			case declaredDecimal:
				r.dst = append(strconv.AppendInt(append(r.dst, '"'), v, 10), '"')
			default:
				r.dst = appendInt(r.dst, v)
			}
		case sqlite.TypeFloat:
			v := st.stmt.ColumnFloat(i)
			switch col.declared {
			case declaredBoolean:
				r.dst = appendBool(r.dst, v != 0)
			case declaredDecimal:
				r.dst = appendDecimal(r.dst, v)
			default:
				r.dst = appendFloat(r.dst, v, 64)
			}
		case sqlite.TypeText:
			// The length first: it makes the engine turn UTF-16 into UTF-8 in place.
			n := st.stmt.ColumnLen(i)
			if n > r.room() {
				r.dropRow()
				return false
			}
			if col.declared <= declaredText {
				r.dst = append(slices.Grow(r.dst, n+2), '"')
				from := len(r.dst)
				r.dst = r.dst[:from+st.stmt.ColumnBytes(i, r.dst[from:from+n])]
				r.dst = closeText(r.dst, from)
				continue
			}
			r.dst = appendDeclared(r.dst, col.declared, c.bytes(st.stmt, i, n))
		case sqlite.TypeBlob:
			n := st.stmt.ColumnLen(i)
			if n > r.room() {
				r.dropRow()
				return false
			}
			r.dst = appendBase64(r.dst, c.bytes(st.stmt, i, n))
		default:
			r.dst = append(r.dst, "null"...)
		}
	}
	r.dst = append(r.dst, '}')
	return r.endRow()
}

// bytes reads a column into the connection's scratch buffer.
func (c *sqliteConn) bytes(stmt *sqlite.Stmt, col, n int) []byte {
	buf := c.scratch
	if n > cap(buf) {
		buf = make([]byte, n)
		if n <= keepBound {
			c.scratch = buf
		}
	}
	buf = buf[:n]
	return buf[:stmt.ColumnBytes(col, buf)]
}

// appendDeclared encodes text of a column whose declared type means something.
func appendDeclared(dst []byte, d declared, text []byte) []byte {
	switch d {
	case declaredJSON:
		return appendJSON(dst, text)
	case declaredDateTime:
		return appendDateTime(dst, text)
	case declaredBoolean:
		switch strings.ToLower(string(text)) {
		case "true", "t", "yes", "on":
			return append(dst, "true"...)
		case "false", "f", "no", "off":
			return append(dst, "false"...)
		}
	}
	return mcp.AppendText(dst, text)
}

// appendDecimal writes what SQLite keeps of a DECIMAL: a string, as the column's other values are.
func appendDecimal(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...)
	}
	return append(appendFloat(append(dst, '"'), f, 64), '"')
}

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, "true"...)
	}
	return append(dst, "false"...)
}

// Describe implements Query.
func (q *sqliteQuery) Describe(ctx context.Context) ([]Column, error) {
	b := runBounds(q.span, q.limit, &Execution{})
	pool := q.source.readers
	if q.statement.writes {
		pool = q.source.writer
	}
	c, err := pool.get(ctx, b.deadline)
	if err != nil {
		return nil, err
	}
	defer pool.put(c, false)
	st, err := c.stmt(q)
	if err == nil && q.statement.writes {
		if err = c.prepareOnce(q); err == nil && q.spec.Once { // the table may have gone since
			if _, _, _, err = q.look(nil, c, &Once{}); errors.Is(err, errExpired) {
				err = nil
			}
		}
	}
	if err != nil {
		return nil, q.failure(ctx, pool.stopped(c), &b, err)
	}
	cols := make([]Column, len(st.cols))
	for i, col := range st.cols {
		cols[i] = Column{Name: col.name, Schema: col.declared.schema()}
	}
	return cols, nil
}

// isBroken tells whether a connection is of no more use after err.
func isBroken(err error) bool {
	if err == nil {
		return false
	}
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultCorrupt, sqlite.ResultNotADB, sqlite.ResultIOErr, sqlite.ResultCantOpen, sqlite.ResultNoMem:
		return true
	}
	return false
}

// failure says for the caller what went wrong.
func (q *sqliteQuery) failure(ctx context.Context, cause stopCause, b *bounds, err error) error {
	var tool *mcp.ToolError
	if errors.As(err, &tool) {
		return err
	}
	if cause == stopCancel && ctx.Err() != nil {
		return ctx.Err()
	}
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultInterrupt:
		return b.timeout(q.spec.Name, err)
	case sqlite.ResultFull:
		return &mcp.ToolError{
			Kind: kindUnavailable, Cause: err,
			Message: q.spec.Name + ": the database's disk is full; nothing was changed; try again when there is room",
		}
	case sqlite.ResultBusy, sqlite.ResultLocked:
		return &mcp.ToolError{
			Kind: kindOverloaded, Cause: err, Meta: []byte(`"millrace/retryAfterMs":1000`),
			Message: q.spec.Name + ": another process holds the database; nothing was changed; try again in a second",
		}
	case sqlite.ResultCorrupt, sqlite.ResultNotADB, sqlite.ResultIOErr, sqlite.ResultCantOpen, sqlite.ResultNoMem,
		sqlite.ResultReadOnly, sqlite.ResultPerm:
		return unavailable(q.source.name, err)
	case sqlite.ResultTooBig:
		return sqlFailure(q.spec.Name, fmt.Sprintf("a value is larger than %d MiB; ask for less", maxValue>>20), err)
	case sqlite.ResultConstraint, sqlite.ResultMismatch, sqlite.ResultRange:
		return sqlFailure(q.spec.Name, "the database refused it: "+innermost(err), err)
	}
	return sqlFailure(q.spec.Name, "the statement failed: "+innermost(err), err)
}

// innermost is the database's own words.
func innermost(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}
