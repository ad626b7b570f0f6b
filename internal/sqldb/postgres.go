package sqldb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"millrace/internal/conf"
)

// connectLimit is how long opening one connection may take; closeLimit how long saying goodbye.
const (
	connectLimit = 5 * time.Second
	closeLimit   = time.Second
)

// maxMessage bounds one message of the server, and with it one row in memory.
const maxMessage = 64 << 20

// parsePostgresURL reads a connection URL. Its error must not be shown: it may hold the password.
func parsePostgresURL(url conf.Secret) (*pgconn.Config, error) {
	return pgconn.ParseConfig(url.Reveal())
}

// postgresSource is one PostgreSQL server. Reads and writes share its pool.
type postgresSource struct {
	name   string
	role   string // of a replica
	cfg    Config
	config *pgconn.Config
	pool   *pool[*pgConn]
	writes *writeGate
	leads  atomic.Bool // it is the primary
	checks bool        // whether it is one: there are others
	// replicated tells that there are others, any of which may be the primary one day.
	replicated bool
	trips      trips
	swept      sweeper
	turns      turns
	log        *slog.Logger

	mu       sync.Mutex        // guards what follows
	numbers  map[string]int    // of the statements, by SQL text and that of its settings: they are prepared once on each connection
	types    map[uint32]pgType // the server's own types, by OID
	down     bool              // the last attempt to connect failed: logged once
	system   string            // of the primary, and the latest timeline of one that was seen there
	timeline uint64
}

// primaryRole is that of a server that takes writes.
const primaryRole = "primary"

// newServer makes the source of one server, which is a primary until it is told otherwise.
func newServer(name, role string, cfg Config, log *slog.Logger) (*postgresSource, error) {
	config, err := parsePostgresURL(cfg.Postgres.Primary)
	if err != nil {
		return nil, fmt.Errorf("source %q: postgres.primary is not a connection URL; write postgres://user:password@host:5432/database", name)
	}
	maps.Copy(config.RuntimeParams, map[string]string{
		"application_name": "millrace", "client_encoding": "UTF8", "DateStyle": "ISO, MDY", "TimeZone": "UTC", "IntervalStyle": "postgres",
		"extra_float_digits": "1",
	})
	hosts := hostsOf(config)
	named := strings.Contains(cfg.Postgres.Primary.Reveal(), "target_session_attrs")
	if hosts > 1 {
		if config.ConnectTimeout == 0 { // for each: one that is silent leaves time for the others
			config.ConnectTimeout = connectLimit / time.Duration(hosts+1)
		}
	}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		f := pgproto3.NewFrontend(r, w)
		f.SetMaxBodyLen(maxMessage)
		return f
	}
	s := &postgresSource{name: name, role: role, cfg: cfg, config: config, log: log, numbers: map[string]int{}, types: map[uint32]pgType{}}
	s.pool = newPool(name, role, cfg.Pool, s.open)
	s.trips.most, s.trips.wait = min(mostTrips, cfg.Pool.Size), rideWait
	s.pool.beside = s.trips.look
	s.pool.check = func(c *pgConn) error { return c.run(controlPing) }
	s.writes = newWriteGate(name, cfg)
	s.leads.Store(true)
	if hosts > 1 && !named && (role == primaryRole || role == "replica0") {
		s.config.ValidateConnect = s.isPrimary // of several, the first of which that holds
	}
	return s, nil
}

// roleNow is what the server is.
func (s *postgresSource) roleNow() string {
	if s.leads.Load() {
		return primaryRole
	}
	return s.role
}

// hostsOf gives how many servers a connection URL names. For each there may be one way with TLS and one without.
func hostsOf(config *pgconn.Config) int {
	hosts := map[string]bool{fmt.Sprintf("%s:%d", config.Host, config.Port): true}
	for _, f := range config.Fallbacks {
		hosts[fmt.Sprintf("%s:%d", f.Host, f.Port)] = true
	}
	return len(hosts)
}

// pgConn is one connection with its prepared statements. It belongs to whoever got it from the pool.
type pgConn struct {
	place

	conn      *pgconn.PgConn
	once      int                            // statements of onceSQL that are prepared
	guards    [2]bool                        // statements of guardSQL that are prepared
	stmts     []*pgStmt                      // by pgQuery.number; nil where not prepared yet
	notice    func(severity, message string) // of the run
	cancelled chan struct{}                  // closed when a cancel request is through; nil where there was none
	values    [][]byte                       // of the run's parameters
	buf       []byte                         // what values point into
	position  uint64                         // of the log after the write that ended last
	replayed  uint64                         // of the log on a replica, when it was last asked here: it does not go back while the connection lives
	bind      pgproto3.Bind                  // the message being sent
	abandoned bool                           // its socket is closed: no more use
	looked    time.Time                      // when it was opened, or a write last made sure that it lives
	reading   atomic.Pointer[pgQuery]        // what runs alone here, if it only reads: for late
}

// The statements of our own on every connection.
const (
	controlBeginRead = iota
	controlBeginWrite
	controlCommit
	controlRollback
	controlCloseCursors
	controlUnlisten
	controlForgetSequences
	controlResetUser
	controlResetAll
	controlDropTemporary
	controlUnlock
	controlPing
	controlPosition
	controlReplayed
	controlBeginReplica
	controlBeginSnapshot
	controlExport
	controlSavepoint
	controlRollbackTo
	controlBeginGuarded
	controlCount
)

var controlSQL = [controlCount]string{
	controlBeginRead: "BEGIN TRANSACTION READ ONLY", controlBeginWrite: "BEGIN TRANSACTION READ WRITE",
	controlCommit: "COMMIT", controlRollback: "ROLLBACK",
	controlCloseCursors: "CLOSE ALL", controlUnlisten: "UNLISTEN *", controlForgetSequences: "DISCARD SEQUENCES",
	controlResetUser: "RESET SESSION AUTHORIZATION", controlResetAll: "RESET ALL", controlDropTemporary: "DISCARD TEMPORARY",
	controlUnlock: "SELECT pg_catalog.pg_advisory_unlock_all()", controlPing: "SELECT 1",
	// Both servers can prepare both, and each runs its own.
	controlPosition: "SELECT pg_catalog.pg_current_wal_insert_lsn()", controlReplayed: "SELECT pg_catalog.pg_last_wal_replay_lsn()",
	// Whatever the default is: a replica has no other that is stricter, and the statement's snapshot must come after what is asked before it.
	controlBeginReplica:  "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ ONLY",
	controlBeginSnapshot: "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", controlExport: "SELECT pg_catalog.pg_export_snapshot()",
	controlSavepoint: "SAVEPOINT millrace", controlRollbackTo: "ROLLBACK TO SAVEPOINT millrace",
	// Whatever the default is: what the guard waits for must be seen by what comes after it.
	controlBeginGuarded: "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE",
}

// controlNames are the names under which they are prepared.
var controlNames = func() (names [controlCount]string) {
	for i := range names {
		names[i] = "millrace_" + strconv.Itoa(i)
	}
	return names
}()

// prepareControls prepares our own statements, all in one round trip: many connections are opened at once when calls
// come all at once.
func (c *pgConn) prepareControls(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	if err := c.conn.Conn().SetDeadline(deadline); err != nil {
		return err
	}
	for i, sql := range controlSQL {
		c.conn.Frontend().SendParse(&pgproto3.Parse{Name: controlNames[i], Query: sql})
	}
	err := c.sync()
	if err == nil {
		err = c.ready()
	}
	if err == nil {
		err = c.conn.Conn().SetDeadline(time.Time{})
	}
	return err
}

// afterWrite goes with the end of every write, in its round trip: what the write left in the session must not reach
// whoever has the connection next. A rollback undoes most of it, but neither locks nor what currval answers.
var afterWrite = []int{
	controlCloseCursors, controlUnlisten, controlForgetSequences, controlResetUser, controlResetAll, controlDropTemporary, controlUnlock,
}

// open connects. ctx does not reach the server's handshake: the pool's caller may leave, and the connection serves the
// next one.
func (s *postgresSource) open(_ context.Context, deadline time.Time) (*pgConn, error) {
	dial := connectLimit
	if !s.leads.Load() {
		dial = dialReplica
	}
	limit := time.Now().Add(dial)
	if deadline.Before(limit) {
		limit = deadline
	}
	ctx, cancel := context.WithDeadline(context.Background(), limit)
	defer cancel()
	c := &pgConn{looked: time.Now()}
	config := s.config.Copy()
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if c.notice != nil {
			c.notice(n.SeverityUnlocalized, n.Message)
		}
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err == nil {
		c.conn = conn
		if err = c.prepareControls(ctx); err == nil && s.checks && s.leads.Load() {
			err = s.isPrimary(ctx, c.conn)
		}
		if err != nil {
			c.close()
		}
	}
	s.mu.Lock()
	was := s.down
	s.down = err != nil
	s.mu.Unlock()
	switch {
	case err != nil && !was:
		s.log.Error("database is not available", "source", s.name, "role", s.roleNow(), "err", connectFailure(err))
	case err == nil && was:
		s.log.Info("database is available again", "source", s.name, "role", s.role)
	}
	if err != nil {
		return nil, unavailable(s.name, connectFailure(err))
	}
	return c, nil
}

// errRecovering is of a server that was the primary and has become a replica: what is read there need not be all that was written.
var errRecovering = errors.New("the server is no primary any more")

// isPrimary asks a server that is taken for the primary whether it is, and of the latest timeline that was seen: an old one that comes back is
// none.
func (s *postgresSource) isPrimary(ctx context.Context, c *pgconn.PgConn) error {
	r := c.ExecParams(ctx, `SELECT pg_catalog.pg_is_in_recovery(), (SELECT system_identifier FROM pg_catalog.pg_control_system()),
		CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0' ELSE substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END`, nil, nil, nil, nil).Read()
	if r.Err != nil {
		return r.Err
	}
	if len(r.Rows) != 1 || len(r.Rows[0]) != 3 {
		return errOtherAnswer
	}
	timeline, err := strconv.ParseUint(string(r.Rows[0][2]), 16, 32)
	if err != nil {
		return errOtherAnswer
	}
	if string(r.Rows[0][0]) != "f" || !s.atLeast(string(r.Rows[0][1]), timeline) {
		return errRecovering
	}
	return nil
}

// atLeast notes the timeline of a primary; it is false for one earlier than that of another of the same system.
func (s *postgresSource) atLeast(system string, timeline uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.system == system && timeline < s.timeline {
		return false
	}
	s.system, s.timeline = system, timeline
	return true
}

// connectFailure is what of a failed connection may be shown: pgconn's own text names user and database, and the server's
// could name more.
func connectFailure(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return fmt.Errorf("the server refused the connection (SQLSTATE %s)", server.Code)
	}
	if errors.Is(err, errRecovering) {
		return errRecovering
	}
	var netErr interface{ Timeout() bool }
	if errors.As(err, &netErr) && netErr.Timeout() {
		return errors.New("the server did not answer in time")
	}
	return errors.New("the server cannot be reached")
}

// stop implements pooled: it asks the server to end what runs.
func (c *pgConn) stop() {
	done := make(chan struct{})
	c.cancelled = done
	go func() { // ends by its own limit; renew and close wait for it
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		defer cancel()
		if c.conn.CancelRequest(ctx) != nil {
			// The server cannot be reached: nobody would ever answer on the connection either.
			_ = c.conn.Conn().SetDeadline(time.Now())
			return
		}
		// A server that has gone silent after all gets no more than this.
		_ = c.conn.Conn().SetDeadline(time.Now().Add(closeLimit))
	}()
}

// late implements pooled: the read travels alone for a while. Whoever only waits for a connection has no part in it.
func (c *pgConn) late() {
	if q := c.reading.Load(); q != nil {
		q.stayAlone(aloneAfterStall)
	}
}

// renew implements pooled.
func (c *pgConn) renew() {
	if c.cancelled != nil {
		<-c.cancelled
		c.cancelled = nil
		_ = c.conn.Conn().SetDeadline(time.Time{})
	}
}

func (c *pgConn) close() {
	if c.cancelled != nil {
		<-c.cancelled
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	_ = c.conn.Close(ctx)
}

// Compile implements Source. Statements of one text share their prepared statements, so that a reload adds none.
func (s *postgresSource) Compile(spec Spec) (Query, error) {
	switch {
	case spec.Snapshot:
		return newPgSnapshot(s, &spec)
	case len(spec.Parts) > 0:
		return newParts(&spec, dialectPostgres, s.cfg.Parallel, s.Compile)
	}
	return compiled(s.compileOne(spec))
}

// compiled keeps a query that is nil from becoming an interface that is not.
func compiled[Q Query](q Q, err error) (Query, error) {
	if err != nil {
		return nil, err
	}
	return q, nil
}

func (s *postgresSource) compileOne(spec Spec) (*pgQuery, error) {
	st, faults := parse(spec.Text, dialectPostgres, spec.Params, spec.Mode)
	if err := append(faults, validateHints(spec.Hints)...).Err(); err != nil {
		return nil, err
	}
	q := &pgQuery{source: s, spec: spec, statement: st, locks: strings.Contains(strings.ToLower(st.sql), "advisory_lock")}
	if spec.Mode == ReadOnly && spec.MaxRows > 0 {
		q.fetch = uint32(min(spec.MaxRows, 1<<30)) + 1 // one more tells that there were more
	}
	q.span, q.limit = queryTimeout(s.cfg.QueryTimeout.Std(), spec.Timeout)
	if spec.Batch != nil && spec.Mode == ReadOnly {
		q.batch = &batcher{q: q, cfg: *spec.Batch, lanes: map[string]*lane{}}
	}
	text := st.sql
	if spec.Once { // what goes around it is prepared with it
		text += "\x00once"
	}
	if spec.guarded {
		text += "\x00guarded"
	}
	if !spec.Own {
		if q.settings = newSettings(s.cfg.Settings, spec.Hints); q.settings != nil {
			// The server keeps a plan with a prepared statement: under other settings it is another one.
			text += fmt.Sprintf("\x00%s\x00%q", q.settings.sql, q.settings.values)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	number, ok := s.numbers[text]
	if !ok {
		number = len(s.numbers)
		s.numbers[text] = number
	}
	q.number = number
	return q, nil
}

// Ping implements Source.
func (s *postgresSource) Ping(ctx context.Context) error {
	s.pool.keep()
	c, err := s.pool.get(ctx, time.Now().Add(min(s.cfg.QueryTimeout.Std(), connectLimit)))
	if err != nil {
		return err
	}
	err = c.run(controlPing)
	s.pool.put(c, c.isBroken() || s.pool.stopped(c) != stopNone)
	if err != nil {
		s.pool.flush()
		return unavailable(s.name, errors.New("the connection broke"))
	}
	return nil
}

// Stats implements Source.
func (s *postgresSource) Stats() []PoolStats {
	stats := s.pool.stats()
	stats.Role = s.roleNow()
	stats.Waiting += s.trips.queue() + int(s.writes.waiting.Load())
	return []PoolStats{stats}
}

// Close implements Source.
func (s *postgresSource) Close() error {
	s.pool.close()
	return nil
}

// run executes one of our own statements.
func (c *pgConn) run(control int) error {
	_, err := c.conn.ExecStatement(context.Background(), &pgconn.StatementDescription{Name: controlNames[control]}, nil, nil, nil).Close()
	return err
}

// pgStmt is a prepared statement with its columns.
type pgStmt struct {
	description *pgconn.StatementDescription
	settings    string  // the prepared statement of the query's settings; "" for none
	each        *pgStmt // what of the columns is each call's, of a batch's statement
	columns     []pgColumn
	formats     []int16 // of the results: text, but bytes come as they are
}

type pgColumn struct {
	name   string
	prefix []byte
	typ    pgType
	oid    uint32
}

// known gives the query's prepared statement if it has been prepared here, else nil.
func (c *pgConn) known(q *pgQuery) *pgStmt {
	if q.number < len(c.stmts) {
		return c.stmts[q.number]
	}
	return nil
}

// stmt gives the query's prepared statement, preparing it on its first use here.
func (c *pgConn) stmt(ctx context.Context, q *pgQuery) (*pgStmt, error) {
	if st := c.known(q); st != nil {
		return st, nil
	}
	if q.spec.Once {
		if err := c.prepareOnce(ctx); err != nil {
			var server *pgconn.PgError
			if errors.As(err, &server) && server.Code == stateUndefinedTable {
				return nil, errNotInstalled(q.spec.Name, q.source.name, err)
			}
			return nil, err
		}
	}
	if q.spec.guarded {
		if err := c.prepareGuard(ctx, q.spec.Mode); err != nil {
			return nil, err
		}
	}
	name := "millrace_q" + strconv.Itoa(q.number)
	description, err := c.conn.Prepare(ctx, name, q.statement.sql, nil)
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Code == stateIndeterminateType { // of :a IS NULL: the file knows
		description, err = c.conn.Prepare(ctx, name, q.statement.sql, q.paramTypes())
	}
	if err != nil {
		return nil, err
	}
	if err := q.source.learnTypes(ctx, c.conn, description); err != nil {
		_ = c.conn.Deallocate(ctx, name)
		return nil, err
	}
	st := &pgStmt{description: description, formats: make([]int16, len(description.Fields))}
	seen := map[string]bool{}
	for i, f := range description.Fields {
		if seen[f.Name] {
			_ = c.conn.Deallocate(ctx, description.Name)
			return nil, sqlFailure(q.spec.Name, fmt.Sprintf("two columns are called %q; give one of them another name with AS", f.Name), nil)
		}
		seen[f.Name] = true
		column := pgColumn{f.Name, columnPrefix(i, f.Name), q.source.typeOf(f.DataTypeOID), f.DataTypeOID}
		if column.typ.kind == pgBytes {
			st.formats[i] = 1
		}
		st.columns = append(st.columns, column)
	}
	if q.forMany {
		st.each = &pgStmt{}
		for i, column := range st.columns[1:] {
			column.prefix = columnPrefix(i, column.name)
			st.each.columns = append(st.each.columns, column)
		}
	}
	if q.settings != nil { // last: what fails before would leave it
		st.settings = "millrace_s" + strconv.Itoa(q.number)
		if _, err := c.conn.Prepare(ctx, st.settings, q.settings.sql, nil); err != nil {
			_ = c.conn.Deallocate(ctx, name)
			return nil, err
		}
	}
	if n := q.number + 1 - len(c.stmts); n > 0 {
		c.stmts = slices.Grow(c.stmts, n)[:q.number+1]
	}
	c.stmts[q.number] = st
	return st, nil
}

// forget drops a prepared statement that no longer fits the tables.
func (c *pgConn) forget(q *pgQuery) {
	if st := c.known(q); st != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		defer cancel()
		_ = c.conn.Deallocate(ctx, st.description.Name)
		if st.settings != "" {
			_ = c.conn.Deallocate(ctx, st.settings)
		}
		c.stmts[q.number] = nil
	}
}
