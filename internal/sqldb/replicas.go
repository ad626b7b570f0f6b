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
// last written, and that is not further behind than max_lag; else, and with every write, to the primary. When that is gone and a replica has
// been promoted, it is the primary from then on: see succeed.
//
// How far a replica has come is a position in the primary's log, never a time: the monitor knows it to a tenth of a second, which is enough
// to choose by, and a read of a caller that has written asks for it again in its own transaction, before its snapshot. So neither a
// restart of a replica, which may set it back, nor the monitor's delay can show anybody less than what he wrote.
type replicated struct {
	name    string
	cfg     Config
	log     *slog.Logger
	servers []*replica   // by number: the first is the one that the file names as the primary
	lead    atomic.Int32 // the number of the one that is the primary
	known   atomic.Pointer[positions]
	pages   atomic.Bool // those of its log have the usual size
	maxLag  time.Duration

	mu       sync.Mutex // guards what follows, and that it changes together with lead
	samples  []sample   // the primary's positions of late, oldest first
	system   string     // its system identifier; "" while it is not known
	answered time.Time  // when it was last asked something that it answered
	timeline uint64     // the latest of a primary
	fork     uint64     // where that began; 0 where it is not known
	guessed  bool       // it was found at the start, and not seen to be promoted
	released bool       // reads that waited for it have been told that it is lost
	told     string     // why no other server has taken the place of a primary that is lost; told once

	lostAt atomic.Int64         // since when the primary does not answer, in nanoseconds since 1970; 0 where it does
	term   atomic.Pointer[term] // of the primary

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

// term is for how long reads and watches go on at one primary: until another takes its place, or it is lost for lostAfter.
type term struct {
	ctx context.Context
	end context.CancelCauseFunc
}

// newTerm ends what goes on at the primary, and begins anew.
func (r *replicated) newTerm() {
	t := &term{}
	t.ctx, t.end = context.WithCancelCause(context.Background())
	if old := r.term.Swap(t); old != nil {
		old.end(errGone)
	}
}

// during gives a context that ends with the primary's term too, with errGone as its cause then.
func (r *replicated) during(ctx context.Context) (context.Context, context.CancelFunc) {
	term := r.term.Load().ctx
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(term, func() { cancel(errGone) })
	return ctx, func() { stop(); cancel(nil) }
}

// leader is the server that is the primary.
func (r *replicated) leader() *replica { return r.servers[r.lead.Load()] }

// CatchUp implements Replicated.
func (r *replicated) CatchUp(ctx context.Context) {
	out, _, err := r.leader().position.Run(ctx, nil, &Execution{Deadline: time.Now().Add(pollLimit)})
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
	o, ok := old.(*replicated)
	if !ok {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	lead := o.leader()
	if first := r.cfg.Postgres.Primary; first != lead.cfg.Postgres.Primary && first != o.cfg.Postgres.Primary {
		return
	}
	r.known.Store(o.known.Load())
	for _, s := range r.servers { // what has taken over goes on, and what was passed over is
		for _, was := range o.servers {
			if s.cfg.Postgres.Primary != was.cfg.Postgres.Primary {
				continue
			}
			s.promoted, s.as, s.last, s.shown, s.recovered = was.promoted, was.as, was.last, was.shown, was.recovered
			if was == lead && o.system != "" {
				r.follow(s)
				r.system, r.timeline, r.fork, r.answered, r.guessed = o.system, o.timeline, o.fork, o.answered, o.guessed
			}
			break
		}
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
	if o := r.others.Load(); o != nil && !(*o).Sure() {
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
	// promotion is for how long after the primary was lost a read that only it can do waits for another.
	promotion = 5 * time.Second
	// sameLatency is what tells replicas apart.
	sameLatency = 500 * time.Microsecond
)

// replica is one of the servers. While it is the primary it is out, as a replica.
type replica struct {
	*postgresSource
	number   int
	position Query         // where its log is
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

	// Guarded by replicated.mu: when one that has been promoted was first seen as a primary, zero for never, and what it answered then; its
	// last answer, whatever it is, zero where it did not answer; the latest timeline that it has shown since it answers; whether it was ever seen
	// as a replica.
	promoted  time.Time
	as, last  serverState
	shown     uint64
	recovered bool
}

// errGone ends reads on a replica that has left, and on a primary that is none any more.
var errGone = errors.New("the server has left")

func newReplicated(name string, cfg Config, log *slog.Logger) (Source, error) {
	if len(cfg.Postgres.Replicas) == 0 {
		return newServer(name, primaryRole, cfg, log)
	}
	r := &replicated{name: name, cfg: cfg, log: log, maxLag: cfg.MaxLag.Std()}
	r.known.Store(newPositions())
	for i, url := range append([]conf.Secret{cfg.Postgres.Primary}, cfg.Postgres.Replicas...) {
		own := cfg
		own.Postgres = &PostgresConfig{Primary: url}
		s, err := newServer(name, "replica"+strconv.Itoa(i), own, log)
		if err == nil {
			s.replicated, s.checks = true, true
			s.leads.Store(i == 0)
			o := &replica{postgresSource: s, number: i}
			r.servers = append(r.servers, o)
			o.position, err = s.Compile(Spec{Name: "position", Text: "SELECT CAST(pg_current_wal_insert_lsn() AS text) AS lsn", Own: true})
		}
		if err != nil {
			for _, o := range r.servers {
				o.Close()
			}
			return nil, err
		}
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.newTerm()
	return r, nil
}

// begin looks after the servers from now on: a source that nobody uses connects to none.
func (r *replicated) begin() {
	r.begun.Do(func() {
		for _, o := range r.servers {
			r.work.Go(func() { r.watch(r.ctx, o) })
		}
	})
}

// Ping implements Source: it is the primary's answer.
func (r *replicated) Ping(ctx context.Context) error {
	r.begin()
	return r.leader().Ping(ctx)
}

// Dialect implements Source.
func (r *replicated) Dialect() Dialect { return PostgreSQL }

// Sharded implements Source.
func (r *replicated) Sharded() bool { return false }

// Widest implements Source.
func (r *replicated) Widest() mcp.Scope { return widest(r.cfg.Settings) }

// Watch implements Source, on the primary: it ends when another takes its place.
func (r *replicated) Watch(ctx context.Context, channel string, woke func()) error {
	r.begin()
	during, cancel := r.during(ctx)
	defer cancel()
	err := r.leader().Watch(during, channel, woke)
	if ctx.Err() == nil && during.Err() != nil {
		return unavailable(r.name, errGone)
	}
	return err
}

// Script implements Source, on the primary.
func (r *replicated) Script(ctx context.Context, statements []string) error {
	return r.leader().Script(ctx, statements)
}

// CheckReplicas implements Replicated.
func (r *replicated) CheckReplicas(ctx context.Context) []error {
	out := make([]error, len(r.servers)-1)
	primary, err := r.servers[0].ask(ctx)
	if err != nil {
		return out // which is told of the primary
	}
	var wg sync.WaitGroup
	for i, o := range r.servers[1:] {
		wg.Go(func() {
			switch s, err := o.ask(ctx); {
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
func (s *postgresSource) ask(ctx context.Context) (serverState, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return serverState{}, err
	}
	defer goodbye(conn)
	return answer(ctx, conn)
}

// Compile implements Source: on each of the servers, since each may be the primary one day.
func (r *replicated) Compile(spec Spec) (Query, error) {
	if len(spec.Parts) > 0 && !spec.Snapshot {
		return newParts(&spec, dialectPostgres, r.cfg.Parallel, r.Compile)
	}
	on := make([]Query, len(r.servers))
	for i, o := range r.servers {
		var err error
		if on[i], err = o.Compile(spec); err != nil {
			return nil, err
		}
	}
	if spec.Mode == ReadWrite || on[0].(serverQuery).locking() { // locks are of the primary's sessions
		return &primaryQuery{r, on, spec.Mode == ReadWrite}, nil
	}
	return &routedQuery{r, on}, nil
}

// Stats implements Source: the primary, then the replicas in their order. The server that the file names as the primary is a replica only
// where another has taken its place.
func (r *replicated) Stats() []PoolStats {
	lead := r.leader()
	of := func(o *replica) []PoolStats {
		stats, s := o.Stats(), &ServerStats{Key: "primary", Primary: o == lead}
		if o.number > 0 {
			s.Key = conf.Index("replicas", o.number-1)
		}
		if o == lead {
			s.Serves = r.lostAt.Load() == 0
		} else {
			s.Lag = -1
			o.mu.Lock()
			if !o.since.IsZero() {
				s.Lag = time.Duration(o.lag.Load())
			}
			o.mu.Unlock()
			s.Serves = s.Lag >= 0 && (s.Lag <= r.maxLag || r.isLost(time.Now()))
		}
		stats[0].Server = s
		return stats
	}
	stats := of(lead)
	for _, o := range r.servers {
		if o != lead {
			stats = append(stats, of(o)...)
		}
	}
	return stats
}

// Close implements Source.
func (r *replicated) Close() error {
	r.stop()
	r.work.Wait()
	r.term.Load().end(errGone)
	for _, o := range r.servers {
		_ = o.Close() // never fails
	}
	return nil
}

// primaryQuery runs on the primary. After a write it notes how far the log is: from then on its caller reads nothing older.
type primaryQuery struct {
	source *replicated
	on     []Query // by server
	writes bool
}

// Describe implements Query.
func (q *primaryQuery) Describe(ctx context.Context) ([]Column, error) {
	return q.on[q.source.lead.Load()].Describe(ctx)
}

// Run implements Query.
func (q *primaryQuery) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	q.source.begin()
	x.committed = 0
	out, outcome, err := q.on[q.source.lead.Load()].Run(ctx, dst, x)
	switch {
	case !q.writes, x.Caller == nil:
	case x.committed > 0:
		q.source.wrote(x, q.source.recordEnd(x.committed))
	case err == nil && !outcome.RolledBack, errors.Is(err, mcp.ErrUnknownFate):
		q.source.wrote(x, unknownPosition) // it may be anywhere
	}
	return out, outcome, err
}

// routedQuery is a read that may run on a replica.
type routedQuery struct {
	source *replicated
	on     []Query // by server
}

// Describe implements Query.
func (q *routedQuery) Describe(ctx context.Context) ([]Column, error) {
	return q.on[q.source.lead.Load()].Describe(ctx)
}

// Run implements Query.
func (q *routedQuery) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	r := q.source
	r.begin()
	if x.Primary {
		return q.on[r.lead.Load()].Run(ctx, dst, x)
	}
	own := *x // all attempts together have its time
	x, own.began = &own, time.Now()
	after := r.after(x.Caller)
	o, gone := r.pick(after, false)
	if o == nil && r.isLost(own.began) {
		o, gone = r.pick(after, true)
	}
	dst = dst[:len(dst):len(dst)] // what one attempt leaves is not the next one's
	for try := 0; ; try++ {
		lead := r.lead.Load()
		if o != nil {
			out, outcome, err := o.run(ctx, gone, q.on[o.number], dst, x, after)
			if err == nil || ctx.Err() != nil || !elsewhere(err) {
				outcome.Replica = r.replicaNumber(o)
				return out, outcome, err
			}
			o = nil // the primary may do better
			continue
		}
		out, outcome, err := r.onPrimary(ctx, q.on[lead], dst, x)
		if !isUnavailable(err) || ctx.Err() != nil || try > 2*len(r.servers) {
			return out, outcome, err
		}
		if o, gone = r.await(ctx, q.on[0].(serverQuery).bounds(x), after, lead); o == nil && r.lead.Load() == lead {
			return out, outcome, err
		}
	}
}

// replicaNumber is the number of a replica for who counts reads: the server that the file names as the primary comes last.
func (r *replicated) replicaNumber(o *replica) int {
	if o.number == 0 {
		return len(r.servers)
	}
	return o.number
}

// onPrimary runs a read on the primary while it is that.
func (r *replicated) onPrimary(ctx context.Context, q Query, dst []byte, x *Execution) ([]byte, Outcome, error) {
	during, cancel := r.during(ctx)
	defer cancel()
	out, outcome, err := q.Run(during, dst, x)
	if err != nil && context.Cause(during) == errGone && ctx.Err() == nil {
		err = unavailable(r.name, errGone)
	}
	return out, outcome, err
}

// await waits, when the primary is not available, for a replica that has come as far as a reader must see, or, without one, for another primary
// than lead. How far replicas have come is known to a tenth of a second; promoting one takes longer, and is waited for while the primary has not
// been away for long.
func (r *replicated) await(ctx context.Context, b bounds, after uint64, lead int32) (*replica, context.Context) {
	noticed := time.Now().Add(pollEvery + pollLimit)
	t := time.NewTicker(pollEvery / 5)
	defer t.Stop()
	for {
		if o, gone := r.pick(after, true); o != nil || r.lead.Load() != lead {
			return o, gone
		}
		until := noticed // by then the monitor knows too
		if since := r.lostAt.Load(); since != 0 {
			until = time.Unix(0, since).Add(promotion)
		}
		if now := time.Now(); !now.Before(until) || !now.Before(b.deadline) {
			return nil, nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, nil
		}
	}
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
	first := rand.IntN(len(r.servers))
	for i, seen := 0, 0; i < len(r.servers) && seen < 2; i++ {
		o := r.servers[(first+i)%len(r.servers)]
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

// leading is why the primary takes no reads as a replica.
const leading = "it is the primary"

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
	if was := o.why; was != why {
		o.why = why
		if why == leading || was == leading && o.number == 0 {
			return // which has been told
		}
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
