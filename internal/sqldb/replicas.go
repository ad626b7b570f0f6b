package sqldb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// replicated is a primary and its replicas by streaming replication. Reads go to a replica that has replayed what their caller has
// last written, and that is not further behind than max_lag; else, and with every write, to the primary.
//
// How far a replica has come is a position in the primary's log, never a time: the monitor knows it to a tenth of a second, which is enough
// to choose by, and a read of a caller that has written asks for it again in its own transaction, before its snapshot. So neither a
// restart of a replica, which may set it back, nor the monitor's delay can show anybody less than what he wrote.
type replicated struct {
	*postgresSource // the primary
	replicas        []*replica
	known           atomic.Pointer[positions]
	position        Query       // where the log is
	pages           atomic.Bool // its pages have the usual size
	maxLag          time.Duration

	mu      sync.Mutex // guards what follows
	samples []sample   // the primary's positions of late, oldest first
	system  string     // its system identifier; "" while it is not known

	lostAt atomic.Int64 // since when the primary does not answer, in nanoseconds since 1970; 0 where it does

	others atomic.Pointer[Others]

	begun sync.Once
	ctx   context.Context // of the work
	stop  context.CancelFunc
	work  sync.WaitGroup
}

// Others are the other processes that serve the same callers from the same databases.
type Others interface {
	// Tell tells them of a caller's position, and returns when all that are Sure know it; or, where they cannot be told, when those
	// that cannot hear each other either are not Sure any more: they are told later.
	Tell(key PositionKey, lsn uint64)
	// Sure tells whether this process knows all that others have told.
	Sure() bool
}

// Replicated is a Source with replicas.
type Replicated interface {
	Source
	// Share lets other processes know of its callers' positions.
	Share(o Others)
	// Heard takes a position that another process has told.
	Heard(key PositionKey, lsn uint64)
	// Missed says that some may not have been heard.
	Missed()
	// CheckReplicas asks each replica once whether it is one, and gives what is wrong with each, nil for nothing.
	CheckReplicas(ctx context.Context) []error
	// CatchUp has everybody read all that has been committed by now.
	CatchUp(ctx context.Context)
	// Inherit takes over what another of the same primary knows of its callers, and shares it from then on. It is called before the first Run.
	Inherit(old Replicated)
}

// Share implements Replicated.
func (r *replicated) Share(o Others) { r.others.Store(&o) }

// Heard implements Replicated.
func (r *replicated) Heard(key PositionKey, lsn uint64) { r.known.Load().note(key, lsn) }

// Missed implements Replicated.
func (r *replicated) Missed() { r.known.Load().miss() }

// CatchUp implements Replicated.
func (r *replicated) CatchUp(ctx context.Context) {
	out, _, err := r.position.Run(ctx, nil, &Execution{Deadline: time.Now().Add(pollLimit)})
	var got struct{ Rows []struct{ LSN string } }
	if err != nil || json.Unmarshal(out, &got) != nil || len(got.Rows) != 1 {
		r.Missed()
		return
	}
	lsn, err := parseLSN([]byte(got.Rows[0].LSN))
	if err != nil {
		r.Missed()
		return
	}
	r.Heard(Everybody, r.recordEnd(lsn))
}

// Inherit implements Replicated.
func (r *replicated) Inherit(old Replicated) {
	if o, ok := old.(*replicated); ok && o.cfg.Postgres.Primary == r.cfg.Postgres.Primary {
		r.known.Store(o.known.Load())
	}
}

// wrote notes, here and everywhere, where the log was after a write.
func (r *replicated) wrote(x *Execution, lsn uint64) {
	key := Everybody
	if !x.Everybody {
		key = positionKey(x.Caller)
	}
	r.Heard(key, lsn)
	if o := r.others.Load(); o != nil && key != (PositionKey{}) {
		(*o).Tell(key, lsn)
	}
}

// after is what a caller must be able to read.
func (r *replicated) after(c *mcp.Caller) uint64 {
	if c == nil {
		return 0
	}
	key := positionKey(c)
	if o := r.others.Load(); o != nil && key != (PositionKey{}) && !(*o).Sure() {
		return unknownPosition
	}
	return r.known.Load().of(key)
}

// sample is how far the primary had come at a time.
type sample struct {
	at  time.Time
	lsn uint64
}

// How replicas are looked after.
const (
	pollEvery = 100 * time.Millisecond
	pollLimit = 500 * time.Millisecond // for an answer: longer is as good as gone
	// dialReplica is less than the primary gets: there is somewhere else to go.
	dialReplica = time.Second
	// A replica that comes back has answered for trustAfter, and gets its whole share of reads over rampOver.
	trustAfter = 2 * time.Second
	rampOver   = 10 * time.Second
	// lostAfter is for how long the primary must be away until lag, which cannot be known without it, keeps no replica from reads.
	lostAfter  = 2 * time.Second
	leastShare = 0.1
	// sameLatency is what tells replicas apart.
	sameLatency = 500 * time.Microsecond
)

// replica is one of them.
type replica struct {
	*postgresSource
	number   int
	replayed atomic.Uint64 // up to where, when it was last asked
	lag      atomic.Int64  // at most, in nanoseconds
	running  atomic.Int64  // reads
	latency  atomic.Int64  // of a read, about, in nanoseconds

	mu    sync.Mutex // guards what follows
	since time.Time  // since when it serves; zero while it is out
	good  time.Time  // since when it has answered; zero where it does not
	gone  context.Context
	leave context.CancelCauseFunc // ends gone, and with it the reads there
	why   string                  // it is out; told once
}

// errGone ends reads on a replica that has left.
var errGone = errors.New("the replica has left")

func newReplicated(name string, cfg Config, log *slog.Logger) (Source, error) {
	primary, err := newServer(name, primaryRole, connectLimit, cfg, log)
	if err != nil || len(cfg.Postgres.Replicas) == 0 {
		return primary, err
	}
	r := &replicated{postgresSource: primary, maxLag: cfg.MaxLag.Std()}
	r.known.Store(newPositions())
	if r.position, err = primary.Compile(Spec{Name: "position", Text: "SELECT CAST(pg_current_wal_insert_lsn() AS text) AS lsn", Own: true}); err != nil {
		primary.Close()
		return nil, err
	}
	for i, url := range cfg.Postgres.Replicas {
		own := cfg
		own.Postgres = &PostgresConfig{Primary: url}
		s, err := newServer(name, fmt.Sprintf("replica%d", i+1), dialReplica, own, log)
		if err != nil {
			primary.Close()
			for _, o := range r.replicas {
				o.Close()
			}
			return nil, err
		}
		r.replicas = append(r.replicas, &replica{postgresSource: s, number: i + 1})
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r, nil
}

// begin looks after the servers from now on: a source that nobody uses connects to none.
func (r *replicated) begin() {
	r.begun.Do(func() {
		r.work.Go(func() { r.watchPrimary(r.ctx) })
		for _, o := range r.replicas {
			r.work.Go(func() { r.watchReplica(r.ctx, o) })
		}
	})
}

// Ping implements Source: it is the primary's answer.
func (r *replicated) Ping(ctx context.Context) error {
	r.begin()
	return r.postgresSource.Ping(ctx)
}

// CheckReplicas implements Replicated.
func (r *replicated) CheckReplicas(ctx context.Context) []error {
	out := make([]error, len(r.replicas))
	primary, err := r.ask(ctx, askPrimary)
	if err != nil {
		return out // which is told of the primary
	}
	var wg sync.WaitGroup
	for i, o := range r.replicas {
		wg.Go(func() {
			switch s, err := o.ask(ctx, askReplica); {
			case err != nil:
				out[i] = errors.New("it does not answer: " + pollFailure(err))
			case s.system != primary.system:
				out[i] = errors.New("it is no replica of this primary")
			case !s.recovering:
				out[i] = errors.New("it is a primary by itself")
			}
		})
	}
	wg.Wait()
	return out
}

// ask asks a server once.
func (s *postgresSource) ask(ctx context.Context, question string) (serverState, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return serverState{}, err
	}
	defer goodbye(conn)
	return answer(ctx, conn, question)
}

// Compile implements Source.
func (r *replicated) Compile(spec Spec) (Query, error) {
	q, err := r.postgresSource.Compile(spec)
	if err != nil {
		return nil, err
	}
	out := &routedQuery{source: r, Query: q}
	if spec.Mode == ReadWrite {
		return &positionedWrite{q, r}, nil
	}
	if q.(*pgQuery).locks { // of the primary's sessions
		return q, nil
	}
	for _, o := range r.replicas {
		own, err := o.Compile(spec)
		if err != nil {
			return nil, err
		}
		out.on = append(out.on, own)
	}
	return out, nil
}

// Stats implements Source: the primary, then the replicas in their order.
func (r *replicated) Stats() []PoolStats {
	stats := r.postgresSource.Stats()
	for _, o := range r.replicas {
		stats = append(stats, o.Stats()...)
	}
	return stats
}

// Close implements Source.
func (r *replicated) Close() error {
	r.stop()
	r.work.Wait()
	for _, o := range r.replicas {
		_ = o.Close() // never fails
	}
	return r.postgresSource.Close()
}

// positionedWrite notes how far the log is after a write: from then on its caller reads nothing older.
type positionedWrite struct {
	Query
	source *replicated
}

// Run implements Query.
func (q *positionedWrite) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	q.source.begin()
	x.committed = 0
	out, outcome, err := q.Query.Run(ctx, dst, x)
	switch {
	case x.Caller == nil:
	case x.committed > 0:
		q.source.wrote(x, q.source.recordEnd(x.committed))
	case err == nil && !outcome.RolledBack, errors.Is(err, mcp.ErrUnknownFate):
		q.source.wrote(x, unknownPosition) // it may be anywhere
	}
	return out, outcome, err
}

// routedQuery is a read that may run on a replica.
type routedQuery struct {
	Query  // on the primary
	source *replicated
	on     []Query // by replica
}

// Run implements Query.
func (q *routedQuery) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	q.source.begin()
	if x.Primary {
		return q.Query.Run(ctx, dst, x)
	}
	own := *x // all attempts together have its time
	x, own.began = &own, time.Now()
	after := q.source.after(x.Caller)
	o, gone := q.source.pick(after, false)
	if o == nil && q.source.isLost(own.began) {
		o, gone = q.source.pick(after, true)
	}
	if o == nil {
		out, outcome, err := q.Query.Run(ctx, dst, x)
		if !isUnavailable(err) || ctx.Err() != nil {
			return out, outcome, err
		}
		if o, gone = q.source.pick(after, true); o == nil {
			return out, outcome, err
		}
		dst = dst[:len(dst):len(dst)]
	}
	out, outcome, err := o.run(ctx, gone, q.on[o.number-1], dst, x, after)
	if err == nil || ctx.Err() != nil || !elsewhere(err) {
		return out, outcome, err
	}
	return q.Query.Run(ctx, dst[:len(dst):len(dst)], x)
}

// elsewhere tells whether an error is the replica's own, so that the primary may do better. Whether it leaves is the monitor's to say.
func elsewhere(err error) bool {
	var tool *mcp.ToolError
	switch {
	case errors.Is(err, errBehind), errors.Is(err, errGone):
		return true
	case !errors.As(err, &tool):
		return errors.Is(err, context.Canceled) // by its leaving: the caller's own was looked at
	case tool.Kind == kindUnavailable, tool.Kind == kindOverloaded: // also a conflict of the read with what it replays
		return true
	}
	// What the statement itself did wrong with its arguments the primary would refuse too. A table may not have come yet, and not all works on a replica.
	var server *pgconn.PgError
	return tool.Kind == kindSQL && errors.As(err, &server) && server.Code != stateCancelled && !strings.HasPrefix(server.Code, "22") && !strings.HasPrefix(server.Code, "23")
}

// run runs a read on the replica, which ends it should it leave.
func (o *replica) run(ctx, gone context.Context, q Query, dst []byte, x *Execution, after uint64) ([]byte, Outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(gone, func() { cancel(errGone) })()
	own := *x
	own.after = after
	o.running.Add(1)
	began := time.Now()
	out, outcome, err := q.Run(ctx, dst, &own)
	took := int64(time.Since(began))
	o.running.Add(-1)
	if was := o.latency.Load(); err == nil { // who refuses at once is not quick
		o.latency.Store(was + (took-was)/16) // of two at the same time one may be lost
	}
	if err != nil && context.Cause(ctx) == errGone {
		err = errGone
	}
	outcome.Replica = o.number
	return out, outcome, err
}

func isUnavailable(err error) bool {
	var tool *mcp.ToolError
	return errors.As(err, &tool) && tool.Kind == kindUnavailable
}

// isLost tells whether the primary has been away for a while.
func (r *replicated) isLost(now time.Time) bool {
	since := r.lostAt.Load()
	return since != 0 && now.Sub(time.Unix(0, since)) > lostAfter
}

// pick gives the better of two replicas that may serve a read after a position, with what ends when it leaves; nil where there is none. With
// lost, when the primary serves nobody, it may be any that answers and has come that far.
func (r *replicated) pick(after uint64, lost bool) (*replica, context.Context) {
	now := time.Now()
	var best *replica
	var gone context.Context
	first := rand.IntN(len(r.replicas))
	for i, seen := 0, 0; i < len(r.replicas) && seen < 2; i++ {
		o := r.replicas[(first+i)%len(r.replicas)]
		if o.replayed.Load() < after || !lost && time.Duration(o.lag.Load()) > r.maxLag {
			continue
		}
		ctx, ok := o.serves(now, lost)
		if !ok {
			continue
		}
		if seen++; best == nil || o.cost() < best.cost() {
			best, gone = o, ctx
		}
	}
	return best, gone
}

// cost is about how long a read that comes now takes, in powers of two of sameLatency: between those that are much alike chance decides.
func (o *replica) cost() int64 {
	return (o.running.Load() + 1) << bits.Len64(uint64(max(0, o.latency.Load()))/uint64(sameLatency))
}

// serves tells whether the replica takes a read: one that came back takes few at first, unless all must.
func (o *replica) serves(now time.Time, all bool) (context.Context, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return nil, false
	}
	if share := max(leastShare, float64(now.Sub(o.since))/float64(rampOver)); share < 1 && !all && rand.Float64() > share {
		return nil, false
	}
	return o.gone, true
}

// out takes the replica out, and ends the reads there.
func (o *replica) out(why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.replayed.Store(0)
	o.good = time.Time{}
	if !o.since.IsZero() {
		o.since = time.Time{}
		o.leave(errGone)
	}
	if o.why != why {
		o.why = why
		o.log.Warn("a replica takes no reads", "source", o.name, "replica", o.number, "why", why)
	}
}

// in notes that the replica answers, and lets it serve when it has done so for a while; at once where it is the first time.
func (o *replica) in(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.good.IsZero() {
		o.good = now
	}
	if !o.since.IsZero() || o.why != "" && now.Sub(o.good) < trustAfter {
		return
	}
	if o.since = now; o.why == "" {
		o.since = now.Add(-rampOver)
	} else {
		o.log.Info("a replica takes reads again", "source", o.name, "replica", o.number)
	}
	o.why = ""
	o.gone, o.leave = context.WithCancelCause(context.Background())
}

// The monitor's questions: https://www.postgresql.org/docs/current/functions-admin.html
const (
	askPrimary = `SELECT pg_catalog.pg_is_in_recovery(), (SELECT system_identifier FROM pg_catalog.pg_control_system()),
		CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_flush_lsn() END,
		CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_insert_lsn() END, pg_catalog.current_setting('wal_block_size')`
	askReplica = `SELECT pg_catalog.pg_is_in_recovery(), (SELECT system_identifier FROM pg_catalog.pg_control_system()), pg_catalog.pg_last_wal_replay_lsn(), NULL, NULL`
)

// state is a server's answer.
type serverState struct {
	recovering bool
	system     string
	lsn        uint64    // flushed, or replayed
	inserted   uint64    // of a primary
	pages      bool      // its log has pages of the usual size
	asked      time.Time // before it answered
}

// poll asks a server again and again on a connection of its own, and tells of each answer, or error.
func (s *postgresSource) poll(ctx context.Context, question string, tell func(serverState, error)) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for ctx.Err() == nil {
		conn, err := s.connect(ctx)
		for err == nil && ctx.Err() == nil {
			limited, cancel := context.WithTimeout(ctx, pollLimit)
			var state serverState
			state, err = answer(limited, conn, question)
			cancel()
			if err == nil {
				tell(state, nil)
				select {
				case <-t.C:
				case <-ctx.Done():
				}
			}
		}
		if conn != nil {
			goodbye(conn)
		}
		if ctx.Err() != nil {
			return
		}
		tell(serverState{}, err)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// answer asks on a connection.
func answer(ctx context.Context, conn *pgconn.PgConn, question string) (serverState, error) {
	asked := time.Now()
	results, err := conn.Exec(ctx, question).ReadAll()
	if err != nil {
		return serverState{}, err
	}
	if len(results) != 1 {
		return serverState{}, errOtherAnswer
	}
	s, err := parseState(results[0].Rows)
	s.asked = asked
	return s, err
}

var errOtherAnswer = errors.New("another answer than was asked for")

func parseState(rows [][][]byte) (s serverState, err error) {
	if len(rows) != 1 || len(rows[0]) != 5 {
		return s, errOtherAnswer
	}
	s.recovering, s.system = string(rows[0][0]) == "t", string(rows[0][1])
	if rows[0][2] != nil {
		s.lsn, err = parseLSN(rows[0][2])
	}
	if err == nil && rows[0][3] != nil {
		s.inserted, err = parseLSN(rows[0][3])
	}
	s.pages = string(rows[0][4]) == strconv.Itoa(logPage)
	return s, err
}

// watchPrimary notes how far the primary comes.
func (r *replicated) watchPrimary(ctx context.Context) {
	r.poll(ctx, askPrimary, func(s serverState, err error) {
		now := time.Now()
		if err != nil || s.recovering {
			r.lostAt.CompareAndSwap(0, now.UnixNano())
			return
		}
		r.lostAt.Store(0)
		r.pages.Store(s.pages)
		r.known.Load().learn(s.asked, r.recordEnd(s.inserted))
		r.mu.Lock()
		defer r.mu.Unlock()
		r.system = s.system
		r.samples = append(r.samples, sample{s.asked, s.lsn})
		old := 0
		for old < len(r.samples)-1 && now.Sub(r.samples[old+1].at) > r.maxLag+time.Second {
			old++
		}
		r.samples = append(r.samples[:0], r.samples[old:]...)
	})
}

// behind gives how far behind the primary a replica is at most that has replayed up to lsn: how long ago the primary had come that far.
func (r *replicated) behind(lsn uint64, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.samples) - 1; i >= 0; i-- {
		if r.samples[i].lsn <= lsn {
			return now.Sub(r.samples[i].at)
		}
	}
	return r.maxLag + time.Hour
}

// watchReplica notes how far a replica comes, and takes it out and in.
func (r *replicated) watchReplica(ctx context.Context, o *replica) {
	slow := false
	o.poll(ctx, askReplica, func(s serverState, err error) {
		r.mu.Lock()
		system := r.system
		r.mu.Unlock()
		now := time.Now()
		switch {
		case err != nil:
			o.out("it does not answer: " + pollFailure(err))
		case system != "" && s.system != system:
			o.out("it is no replica of this primary")
		case !s.recovering:
			o.out("it is a primary by itself")
		case system == "": // the primary has never answered: nobody knows whose replica it is
		default:
			o.replayed.Store(s.lsn)
			was := o.latency.Load() // what was slow once is tried again after a while
			o.latency.CompareAndSwap(was, was-was/8)
			lag := r.behind(s.lsn, now)
			o.lag.Store(int64(lag))
			if far := lag > r.maxLag && !r.isLost(now); far != slow {
				slow = far
				if far {
					o.log.Warn("a replica is further behind than max_lag, and takes no reads until it is not", "source", o.name, "replica", o.number)
				} else {
					o.log.Info("a replica has caught up", "source", o.name, "replica", o.number)
				}
			}
			o.in(now)
		}
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		o.leave(errGone)
	}
}

// pollFailure is what of an error may be shown.
func pollFailure(err error) string {
	var tool *mcp.ToolError
	if errors.As(err, &tool) && tool.Cause != nil {
		return tool.Cause.Error()
	}
	return connectFailure(err).Error()
}

// logPage is the usual size of a page of the log, whose header has 24 bytes, or 40 on the first of a segment.
const logPage = 8192

// recordEnd gives where the last record ends before a place at which the next one may begin: at the end of a page the primary says that it
// is behind the next page's header, which no replica reaches before there is something on it.
func (r *replicated) recordEnd(lsn uint64) uint64 {
	if header := lsn % logPage; r.pages.Load() && (header == 24 || header == 40) {
		return lsn - header
	}
	return lsn
}

// parseLSN reads a position in PostgreSQL's log.
func parseLSN(text []byte) (uint64, error) {
	first, second, _ := strings.Cut(string(text), "/")
	high, err := strconv.ParseUint(first, 16, 32)
	low, err2 := strconv.ParseUint(second, 16, 32)
	if err != nil || err2 != nil {
		return 0, fmt.Errorf("%.40q is no position of the log", text)
	}
	return high<<32 | low, nil
}

// validateReplicas gives the faults of `replicas:`.
func (c *Config) validateReplicas() (fs conf.Faults) {
	for i, url := range c.Postgres.Replicas {
		if _, err := parsePostgresURL(url); url == "" || err != nil {
			fs = append(fs, conf.Fault{Path: conf.Index("postgres.replicas", i), Message: "is not a connection URL", Fix: "write postgres://user:password@host:5432/database"})
		}
	}
	if len(c.Postgres.Replicas) > mostReplicas {
		fs = append(fs, conf.Fault{Path: "postgres.replicas", Message: fmt.Sprintf("names %d", len(c.Postgres.Replicas)), Fix: fmt.Sprintf("name %d at most", mostReplicas)})
	}
	return fs
}

// mostReplicas bounds the replicas of a source: each has a pool and is asked ten times a second.
const mostReplicas = 64
