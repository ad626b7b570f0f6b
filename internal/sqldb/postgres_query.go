package sqldb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"millrace/internal/mcp"
)

// drainRows is how many rows of a truncated result are read to its end; behind more the connection is given up, which
// costs less than reading what nobody wants.
const drainRows = 1000

// pgQuery is a compiled statement on a PostgreSQL source.
type pgQuery struct {
	source    *postgresSource
	spec      Spec
	statement statement
	settings  *settings // nil for none
	batch     *batcher  // nil for none
	forMany   bool      // it is the statement of a batch
	keys      int       // the parameter that is the keys of a batch
	each      bounding  // of a batch's results
	number    int       // index of its prepared statement on every connection
	fetch     uint32    // rows that a read asks the server for; 0 for all
	locks     bool      // the text may take the session's advisory locks, which no rollback releases
	span      time.Duration
	limit     limit

	took       quickest     // of its runs alone, from when it has a connection and is prepared; 0 while none was measured
	aloneUntil atomic.Int64 // it shares no round trip before; nanoseconds since 1970
}

// The states in PostgreSQL's own words (SQLSTATE) that matter here.
const (
	stateFeatureNotSupported = "0A000" // cached plan must not change result type
	stateUnknownStatement    = "26000"
	stateIndeterminateType   = "42P18"
	stateUndefinedTable      = "42P01"
	stateCancelled           = "57014"
	stateReadOnly            = "25006"
	stateInvalidParameter    = "22023" // a snapshot that is gone, as 15 tells it; later versions use the two below
	stateUndefinedObject     = "42704"
	stateNotInState          = "55000"
	stateSerialization       = "40001"
	stateDeadlock            = "40P01"
)

// Run implements Query.
func (q *pgQuery) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	if err := ctx.Err(); err != nil {
		return dst, Outcome{}, err
	}
	if len(x.Args) != len(q.spec.Params) {
		return dst, Outcome{}, fmt.Errorf("%s: %d arguments for %d parameters", q.spec.Name, len(x.Args), len(q.spec.Params))
	}
	b := runBounds(q.span, q.limit, x)
	if x.Once != nil {
		done, err := q.source.turns.take(ctx, b.deadline, x.Once.Key)
		if errors.Is(err, context.DeadlineExceeded) {
			return dst, Outcome{}, b.timeout(q.spec.Name, err)
		} else if err != nil {
			return dst, Outcome{}, err
		}
		defer done()
	}
	if q.settings != nil {
		if err := q.settings.refuse(q.spec.Name, x.Caller); err != nil {
			return dst, Outcome{}, err
		}
	}
	if q.batch != nil {
		return q.batch.run(ctx, dst, x, &b)
	}
	return q.single(ctx, dst, x, &b)
}

// single runs the statement for one caller.
func (q *pgQuery) single(ctx context.Context, dst []byte, x *Execution, b *bounds) ([]byte, Outcome, error) {
	if q.shares(x) {
		return q.travel(ctx, dst, x, b)
	}
	return q.alone(ctx, dst, x, b)
}

// alone runs the statement on a connection of its own.
func (q *pgQuery) alone(ctx context.Context, dst []byte, x *Execution, b *bounds) ([]byte, Outcome, error) {
	if err := ctx.Err(); err != nil { // it has waited for others
		return dst, Outcome{}, err
	}
	for try := 0; ; try++ {
		out, outcome, again, err := q.attempt(ctx, dst, x, b)
		// Tried again unseen, and once: a plan that the tables have outgrown, a connection that had died while idle, and a
		// read whose connection broke. A write that was sent is not repeated when its connection breaks.
		if err == nil || !again || try > 0 || ctx.Err() != nil {
			return out, outcome, err
		}
	}
}

// attempt is one run on one connection. again tells that nothing happened and another try may do better.
func (q *pgQuery) attempt(ctx context.Context, dst []byte, x *Execution, b *bounds) (out []byte, outcome Outcome, again bool, err error) {
	if q.spec.Mode == ReadWrite {
		if err := q.source.writes.enter(ctx, b.deadline); err != nil {
			return dst, outcome, false, err
		}
		defer q.source.writes.leave()
	}
	pool := q.source.pool
	c, err := pool.get(ctx, b.deadline)
	if err != nil {
		return dst, outcome, false, err
	}
	c.notice = x.Notice
	if q.spec.Mode == ReadOnly {
		c.reading.Store(q)
	}
	broken := false
	defer func() {
		c.notice = nil
		c.reading.Store(nil)
		if p := recover(); p != nil { // nobody knows what is still to be read
			c.abandon()
			pool.put(c, true)
			panic(p)
		}
		// A cancel that was sent may still strike: who was stopped gives the connection up.
		pool.put(c, broken || c.isBroken() || pool.stopped(c) != stopNone)
	}()
	if now := time.Now(); q.spec.Mode == ReadWrite && now.Sub(c.looked) > time.Second {
		//lint:ignore SA1019 Ping would cost a round trip; this need not find every broken connection, only spare most writes one
		if err := c.conn.CheckConn(); err != nil { // waits a millisecond for bad news
			c.abandon()
			pool.flush()
			return dst, outcome, true, q.failure(ctx, stopNone, b, err)
		}
		c.looked = now
	}
	st, err := c.stmt(context.Background(), q)
	if err == nil {
		err = q.bind(c, st, x.Args)
	}
	if err != nil {
		return dst, outcome, q.isStale(c, err), q.failure(ctx, pool.stopped(c), b, err)
	}
	started := time.Now()
	claimed := x.Once == nil
	if !claimed {
		out, outcome, claimed, err = q.claim(dst, c, x)
	}
	if claimed && err == nil {
		out, outcome, err = q.rows(dst, c, st, x)
	}
	took := time.Since(started)
	if errors.Is(err, errTooMany) {
		broken, err = true, nil
	}
	if q.spec.Mode == ReadOnly {
		switch {
		case err == nil:
			q.took.add(took)
			q.source.trips.quickest.add(took)
		case pool.stopped(c) == stopTimeout: // at least that long
			q.took.add(max(took, q.took.get()))
		}
	}
	if err != nil {
		alive := !c.isBroken()
		again = q.isStale(c, err) && (q.spec.Mode == ReadOnly || alive)
		if !c.isBroken() && c.conn.TxStatus() != 'I' {
			broken = !q.rollback(c)
		}
		return dst, Outcome{}, again, q.failure(ctx, pool.stopped(c), b, err)
	}
	if q.spec.Mode == ReadOnly {
		return out, outcome, false, nil // its ROLLBACK went with it
	}
	confirmed := outcome.Repeated || x.Confirm == nil || x.Confirm(outcome.Affected)
	// From here on nothing interrupts: the transaction ends one way or the other.
	if cause := pool.extend(c); cause != stopNone {
		broken = true
		return dst, Outcome{}, false, q.failure(ctx, cause, b, &pgconn.PgError{Code: stateCancelled})
	}
	if !confirmed {
		broken = !q.rollback(c)
		outcome.RolledBack = true
		return out, outcome, false, nil
	}
	c.position = 0
	positioned := q.source.replicated
	if outcome.Repeated { // who asks again, since he does not know, must read what was written then
		_, clean, _ := c.endWrite(controlRollback, 0, positioned)
		broken = !clean
		x.committed = c.position
		return out, outcome, false, nil
	}
	before := 0
	if x.Once != nil {
		answer, err := answerOf(outcome, out[len(dst):])
		if err != nil {
			broken = !q.rollback(c)
			return dst, Outcome{}, false, err
		}
		before = q.sendAnswer(c, x.Once, answer)
		defer q.source.swept.sweep(q.source, q.source.name, q.source.log)
	}
	tag, clean, err := c.endWrite(controlCommit, before, positioned)
	broken = !clean
	var server *pgconn.PgError
	switch {
	case tag == "COMMIT": // ROLLBACK where the transaction had failed
		x.committed = c.position
		return out, outcome, false, nil
	case err == nil:
		return dst, Outcome{}, false, sqlFailure(q.spec.Name, "the database rolled the transaction back; nothing was changed", nil)
	case errors.As(err, &server) && !c.isBroken():
		return dst, Outcome{}, false, q.failure(ctx, stopNone, b, err)
	}
	// Also where the server's last word was that it ends the connection: it may say so with the commit already on disk.
	return dst, Outcome{}, false, &mcp.ToolError{Kind: kindUnavailable, Cause: fmt.Errorf("%w: %w", mcp.ErrUnknownFate, err), Meta: []byte(`"millrace/write":"unknown"`),
		Message: q.spec.Name + ": the connection broke during the commit: whether the change was made is unknown; " + lookFirst(x)}
}

// lookFirst says what to do about a write whose fate is unknown.
func lookFirst(x *Execution) string {
	if x.Once != nil {
		return "repeat it with the same idempotency key to know"
	}
	return "look before you repeat it"
}

// endWrite ends a write's transaction by COMMIT or ROLLBACK and cleans the session, in one round trip, in which before commands have been queued
// already. tag is what the server says was done; clean tells that the connection may serve the next call.
func (c *pgConn) endWrite(control, before int, positioned bool) (tag string, clean bool, err error) {
	controls := append([]int{control}, afterWrite...)
	if positioned { // last, when nothing of the write is left in the session
		controls = append(controls, controlPosition)
	}
	tag, clean, err = c.runAll(controls, before)
	switch {
	case tag != "" || c.isBroken():
	case c.conn.TxStatus() == 'I': // a COMMIT that failed: the server passed over the rest
		_, clean, _ = c.runAll(afterWrite, 0)
	default: // what was queued before it did
		_, clean, _ = c.runAll(append([]int{controlRollback}, afterWrite...), 0)
	}
	return tag, clean, err
}

// runAll executes statements of our own in one round trip, behind as many as have been queued before. tag is of the first of controls; clean
// tells that all were executed and no transaction is open.
func (c *pgConn) runAll(controls []int, before int) (tag string, clean bool, err error) {
	for _, control := range controls {
		c.send(controlNames[control], nil, nil, 0)
	}
	if err := c.sync(); err != nil {
		return "", false, err
	}
	for done := 0; ; {
		message, failure := c.receive()
		if failure != nil {
			if err == nil {
				err = failure
			}
			return tag, false, err
		}
		switch m := message.(type) {
		case *pgproto3.DataRow:
			if done >= before && controls[done-before] == controlPosition && len(m.Values) == 1 {
				c.position, _ = parseLSN(m.Values[0]) // 0 is not known
			}
		case *pgproto3.CommandComplete:
			if done++; done == before+1 {
				tag = string(m.CommandTag)
			}
		case *pgproto3.ErrorResponse:
			if err == nil {
				err = pgconn.ErrorResponseToPgError(m)
			}
		case *pgproto3.ReadyForQuery:
			return tag, m.TxStatus == 'I' && done == before+len(controls), err
		}
	}
}

// rollback ends the transaction and leaves nothing of the statement in the session. It tells whether that went well.
func (q *pgQuery) rollback(c *pgConn) bool {
	if q.spec.Mode == ReadWrite {
		_, clean, _ := c.endWrite(controlRollback, 0, false)
		return clean
	}
	return c.run(controlRollback) == nil && (!q.locks || c.run(controlUnlock) == nil)
}

// errTooMany says that a result had so many rows beyond its bounds that they were not read.
var errTooMany = errors.New("more rows than are read")

// errBehind is of a replica that has not replayed what its reader has written.
var errBehind = errors.New("the replica is behind")

// rows runs BEGIN, the statement and, for a read, ROLLBACK in one round trip. A read ends in ROLLBACK, not COMMIT: what
// the statement did to the session with set_config(…) is undone with it. A session's default of read-only would not do,
// since it can be undone by the statement; a transaction's cannot once the statement has a snapshot.
//
// The messages are written and read one by one, since pgconn's batch allocates for each of its statements: 2 of 46 µs.
func (q *pgQuery) rows(dst []byte, c *pgConn, st *pgStmt, x *Execution) ([]byte, Outcome, error) {
	asks := x.after > c.replayed
	queued := q.sendTransaction(c, st, x, asks)
	if err := c.sync(); err != nil {
		return dst, Outcome{}, err
	}
	out, outcome, err := q.reply(dst, c, st, x, queued)
	if errors.Is(err, errTooMany) {
		return out, outcome, err
	}
	if readyErr := c.ready(); err == nil {
		err = readyErr
	}
	if err != nil {
		return dst, Outcome{}, err
	}
	return out, outcome, nil
}

// queued says what was queued for one statement.
type queued struct {
	commands  int
	statement int  // its place among them, from 0
	asked     bool // the second one asks a replica how far it has come
	guard     int  // the place of what gives a read its epoch; 0 for none
	drained   bool // all rows are read, however many are beyond the bounds
}

// sendTransaction queues the statement, whose arguments have been bound, with what goes around it: the whole of a
// read's transaction, or the beginning of a write's. The arguments are the frontend's then, until it has sent them; an idle
// connection is not to keep them alive.
//
// replayed asks a replica before the statement, which takes its snapshot after that, how far it has come.
func (q *pgQuery) sendTransaction(c *pgConn, st *pgStmt, x *Execution, replayed bool) (out queued) {
	if q.spec.Mode == ReadWrite {
		if x.Once == nil { // else claim has begun
			begin := controlBeginWrite
			if q.spec.guarded {
				begin = controlBeginGuarded
			}
			c.send(controlNames[begin], nil, nil, 0)
			out.commands = 1
		}
		q.sendGuard(c, x, &out)
		q.sendStatement(c, st, x, &out)
		return out
	}
	begin := controlBeginRead
	switch {
	case q.spec.guarded:
		begin = controlBeginSnapshot
	case !q.source.leads.Load():
		begin = controlBeginReplica
	}
	c.send(controlNames[begin], nil, nil, 0)
	out.commands = 1
	if out.asked = replayed; replayed {
		c.send(controlNames[controlReplayed], nil, nil, 0)
		out.commands++
	}
	q.sendGuard(c, x, &out)
	q.sendStatement(c, st, x, &out)
	c.send(controlNames[controlRollback], nil, nil, 0)
	out.commands++
	if q.locks {
		c.send(controlNames[controlUnlock], nil, nil, 0)
		out.commands++
	}
	return out
}

// sendSettings queues what sets the statement's settings for the transaction.
func (q *pgQuery) sendSettings(c *pgConn, st *pgStmt, x *Execution, out *queued) {
	if st.settings != "" {
		c.send(st.settings, q.settings.of(x.Caller), nil, 0)
		out.commands++
	}
}

// sendStatement queues the statement behind its settings.
func (q *pgQuery) sendStatement(c *pgConn, st *pgStmt, x *Execution, out *queued) {
	q.sendSettings(c, st, x, out)
	q.sendText(c, st, out)
}

func (q *pgQuery) sendText(c *pgConn, st *pgStmt, out *queued) {
	out.statement = out.commands
	c.send(st.description.Name, c.values, st.formats, q.fetch)
	out.commands++
	clear(c.values)
}

// reply reads what the server answers to sendTransaction. After an error from the server it has skipped all that was
// sent before the next Sync; after any other the connection is abandoned.
func (q *pgQuery) reply(dst []byte, c *pgConn, st *pgStmt, x *Execution, queued queued) ([]byte, Outcome, error) {
	r := beginRows(dst, q.spec.MaxRows, q.spec.MaxBytes)
	q.beginEach(x.passengers)
	var outcome Outcome
	extra := 0 // rows beyond the bounds
	behind, moved := queued.asked, queued.guard > 0
	for done := 0; done < queued.commands; {
		message, err := c.receive()
		if err != nil {
			return dst, Outcome{}, err
		}
		switch m := message.(type) {
		case *pgproto3.DataRow:
			if done == 1 && queued.asked {
				lsn, err := parseLSN(m.Values[0])
				if err == nil {
					c.replayed = max(c.replayed, lsn)
				}
				behind = lsn < x.after
			}
			if moved && done == queued.guard {
				epoch, err := strconv.ParseInt(string(m.Values[0]), 10, 64)
				moved = err != nil || epoch != x.epoch
			}
			if done != queued.statement || behind || moved {
				continue
			}
			if x.passengers != nil {
				x.row(st, m.Values)
				continue
			}
			if r.truncated || !r.beginRow() || !appendPgRow(&r, st, m.Values) {
				if extra++; extra > drainRows && q.spec.Mode == ReadOnly && !queued.drained {
					c.abandon()
					return r.end(), Outcome{Rows: r.n, Truncated: true}, errTooMany
				}
				continue
			}
			if x.Progress != nil && r.n%progressEvery == 0 {
				x.Progress(r.n)
			}
		case *pgproto3.CommandComplete:
			if done++; done == queued.statement+1 && slices.Contains(changeVerbs, q.statement.verb) {
				outcome.Affected = pgconn.NewCommandTag(string(m.CommandTag)).RowsAffected()
			}
		case *pgproto3.EmptyQueryResponse, *pgproto3.PortalSuspended:
			done++
		case *pgproto3.ErrorResponse:
			return dst, Outcome{}, pgconn.ErrorResponseToPgError(m)
		}
	}
	switch {
	case behind:
		return dst, Outcome{}, errBehind
	case moved:
		return dst, Outcome{}, errMoved
	}
	outcome.Rows, outcome.Truncated, outcome.Removed = r.n, r.truncated, q.statement.verb == "DELETE"
	if len(st.columns) == 0 && r.n == 0 && !r.truncated { // SELECT without a list gives rows of no columns
		return appendAffected(r.dst[:len(dst)], outcome.Affected), outcome, nil
	}
	return r.end(), outcome, nil
}

// sync sends what is queued and asks the server to say when it is through.
func (c *pgConn) sync() error {
	frontend := c.conn.Frontend()
	frontend.SendSync(&pgproto3.Sync{})
	if err := frontend.Flush(); err != nil {
		c.abandon()
		return err
	}
	return nil
}

// receive reads one message; without one the connection is abandoned.
func (c *pgConn) receive() (pgproto3.BackendMessage, error) {
	message, err := c.conn.ReceiveMessage(context.Background())
	if err != nil {
		c.abandon()
	}
	return message, err
}

// ready reads until the server is through with what went before a Sync, and gives the first error that it reports.
func (c *pgConn) ready() error {
	if c.isBroken() {
		return nil // the error is known
	}
	var failed error
	for {
		message, err := c.receive()
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			if failed == nil {
				failed = pgconn.ErrorResponseToPgError(m)
			}
		case *pgproto3.ReadyForQuery:
			return failed
		}
	}
}

// send queues one run of a prepared statement; fetch is how many rows it may give, 0 for all.
func (c *pgConn) send(name string, values [][]byte, formats []int16, fetch uint32) {
	c.bind = pgproto3.Bind{PreparedStatement: name, Parameters: values, ResultFormatCodes: formats}
	frontend := c.conn.Frontend()
	frontend.SendBind(&c.bind)
	c.bind = pgproto3.Bind{}
	frontend.SendExecute(&pgproto3.Execute{MaxRows: fetch})
}

// abandon gives the connection up in the middle of something: nobody says goodbye on it.
func (c *pgConn) abandon() {
	_ = c.conn.Conn().Close()
	c.abandoned = true
}

// abandonOnPanic, deferred, abandons the connection in a panic: nobody knows what is still to be read.
func (c *pgConn) abandonOnPanic() {
	if p := recover(); p != nil {
		c.abandon()
		panic(p)
	}
}

// isBroken tells whether the connection is of no more use.
func (c *pgConn) isBroken() bool { return c.abandoned || c.conn.IsClosed() }

// isStale tells whether err came of a prepared statement or a connection that had gone stale, and mends that.
func (q *pgQuery) isStale(c *pgConn, err error) bool {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		if server.Code == stateUnknownStatement { // somebody ran DEALLOCATE: perhaps ALL, and our own are gone too
			c.abandon()
			return true
		}
		if isOutgrown(server) {
			if !c.isBroken() && c.conn.TxStatus() != 'I' {
				_ = c.run(controlRollback)
			}
			c.forget(q)
			return true
		}
		if q.spec.Mode == ReadWrite && isReplica(server) { // what was the primary is one now
			c.abandon()
			q.source.pool.flush()
			return true
		}
		// The server is being stopped or restarted, and the other idle connections with it.
		if strings.HasPrefix(server.Code, "57P") {
			q.source.pool.flush()
			return true
		}
		return false
	}
	var large *pgproto3.ExceededMaxBodyLenErr
	if c.isBroken() && !errors.As(err, &large) && q.source.pool.stopped(c) == stopNone {
		q.source.pool.flush()
		return true
	}
	return false
}

// isOutgrown tells whether a server refused a plan that the tables have outgrown.
func isOutgrown(err *pgconn.PgError) bool {
	return err.Code == stateFeatureNotSupported && strings.Contains(err.Message, "cached plan")
}

// isReplica tells whether a server refused a write since it is a replica.
func isReplica(err *pgconn.PgError) bool {
	return err.Code == stateReadOnly || err.Code == stateFeatureNotSupported && strings.Contains(err.Message, "during recovery")
}

// Describe implements Query.
func (q *pgQuery) Describe(ctx context.Context) ([]Column, error) {
	b := runBounds(q.span, q.limit, &Execution{})
	pool := q.source.pool
	c, err := pool.get(ctx, b.deadline)
	if err != nil {
		return nil, err
	}
	defer func() { pool.put(c, c.isBroken() || pool.stopped(c) != stopNone) }()
	st, err := c.stmt(context.Background(), q)
	if err != nil {
		return nil, q.failure(ctx, pool.stopped(c), &b, err)
	}
	if q.settings != nil { // those of a caller are not known
		if s := q.settings.constant(); s != nil {
			if err := c.conn.ExecParams(context.Background(), s.sql, s.of(nil), nil, nil, nil).Read().Err; err != nil {
				return nil, q.failure(ctx, pool.stopped(c), &b, err)
			}
		}
	}
	if q.spec.Once { // the table may have gone since
		r := c.conn.ExecPrepared(context.Background(), onceName(onceLook), [][]byte{{}}, nil, nil).Read()
		var server *pgconn.PgError
		if errors.As(r.Err, &server) && server.Code == stateUndefinedTable {
			return nil, errNotInstalled(q.spec.Name, q.source.name, r.Err)
		}
	}
	if q.batch != nil && q.batch.many.Load() == nil {
		var never unfitError
		if _, err := q.batch.fit(context.Background(), c); errors.As(err, &never) {
			return nil, sqlFailure(q.spec.Name, "its calls cannot be batched: "+err.Error()+"; remove batch", err)
		}
	}
	columns := make([]Column, len(st.columns))
	for i, column := range st.columns {
		columns[i] = Column{Name: column.name, Schema: column.typ.schema(), oid: column.oid}
	}
	return columns, nil
}

// failure says for the caller what went wrong.
func (q *pgQuery) failure(ctx context.Context, cause stopCause, b *bounds, err error) error {
	var tool *mcp.ToolError
	if errors.As(err, &tool) || errors.Is(err, errBehind) || errors.Is(err, errMoved) {
		return err
	}
	if cause == stopCancel && ctx.Err() != nil {
		return ctx.Err()
	}
	if cause == stopTimeout {
		return b.timeout(q.spec.Name, err)
	}
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		var timeout interface{ Timeout() bool }
		if errors.As(err, &timeout) && timeout.Timeout() {
			return b.timeout(q.spec.Name, err)
		}
		var large *pgproto3.ExceededMaxBodyLenErr
		if errors.As(err, &large) {
			return sqlFailure(q.spec.Name, fmt.Sprintf("a row is larger than %d MiB; ask for less", maxMessage>>20), err)
		}
		return unavailable(q.source.name, err)
	}
	if q.spec.guarded {
		if err := q.guardFailure(server); err != nil {
			return err
		}
	}
	switch {
	case server.Code == stateCancelled:
		return sqlFailure(q.spec.Name, "the database stopped the statement; nothing was changed", err)
	case q.spec.Mode == ReadWrite && isReplica(server):
		return unavailable(q.source.name, err)
	case server.Code == stateReadOnly:
		return sqlFailure(q.spec.Name, "the tool is read-only, and its statement tried to write: "+server.Message, err)
	case server.Code == stateSerialization, server.Code == stateDeadlock:
		return &mcp.ToolError{Kind: kindOverloaded, Cause: err, Meta: []byte(`"millrace/retryAfterMs":100`),
			Message: q.spec.Name + ": the database gave another transaction the way; nothing was changed; try again"}
	case strings.HasPrefix(server.Code, "53100"):
		return &mcp.ToolError{Kind: kindUnavailable, Cause: err,
			Message: q.spec.Name + ": the database's disk is full; nothing was changed; try again when there is room"}
	case strings.HasPrefix(server.Code, "08"), strings.HasPrefix(server.Code, "53"), strings.HasPrefix(server.Code, "57P"):
		return unavailable(q.source.name, err)
	case strings.HasPrefix(server.Code, "22"), strings.HasPrefix(server.Code, "23"):
		return sqlFailure(q.spec.Name, "the database refused it: "+server.Message, err)
	}
	return sqlFailure(q.spec.Name, "the statement failed: "+server.Message, err)
}
