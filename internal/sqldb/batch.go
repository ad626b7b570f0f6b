package sqldb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// BatchingConfig is `batching:`.
type BatchingConfig struct {
	MaxSize     int           `yaml:"max_size" desc:"Calls of a tool with batch: that one statement serves at most."`
	MaxWait     conf.Duration `yaml:"max_wait" desc:"How long a call waits for others at most. It waits only while parallelism statements like its own are under way."`
	Parallelism int           `yaml:"parallelism" desc:"Statements like a call's own that may be under way before it waits for company; of quick ones three at most."`
}

// DefaultBatching gives the defaults.
func DefaultBatching() BatchingConfig {
	return BatchingConfig{MaxSize: 100, MaxWait: conf.Duration(100 * time.Millisecond), Parallelism: 16}
}

// Validate gives every fault.
func (c *BatchingConfig) Validate() (fs conf.Faults) {
	if c.MaxSize < 2 || c.MaxSize > 10_000 {
		fs = append(fs, conf.Fault{Path: "max_size", Message: fmt.Sprintf("is %d", c.MaxSize), Fix: "give 2 to 10000"})
	}
	if c.MaxWait.Std() < time.Millisecond || c.MaxWait.Std() > time.Minute {
		fs = append(fs, conf.Fault{Path: "max_wait", Message: fmt.Sprintf("is %s", c.MaxWait.Std()), Fix: "give 1ms to 1m"})
	}
	if c.Parallelism < 1 || c.Parallelism > maxPool {
		fs = append(fs, conf.Fault{Path: "parallelism", Message: fmt.Sprintf("is %d", c.Parallelism), Fix: fmt.Sprintf("give 1 to %d", maxPool)})
	}
	return fs
}

// Batch lets runs of a ReadOnly statement that come at the same time share statements.
type Batch struct {
	BatchingConfig
	By      int            // the place of the parameter in which the runs of a batch differ
	Observe func(runs int) // is told how many runs each statement served; nil for nobody
}

// batcher joins runs of one statement. A run leaves at once, by itself, while fewer statements of its lane than most are under way:
// with one caller nothing is different. Else it waits, and leaves with all that wait when one of those returns, in one statement: a join of their
// keys with the tool's own statement, whose rows are told apart by the number of the key.
type batcher struct {
	q   *pgQuery
	cfg Batch

	making sync.Mutex              // is held while the statement for many is made
	rest   atomic.Int64            // until when calls run one by one, in nanoseconds since 1970
	many   atomic.Pointer[pgQuery] // nil until it is needed
	unfit  atomic.Pointer[error]   // why there is none; nil where there may be

	mu    sync.Mutex // guards what follows
	lanes map[string]*lane
}

// lane is of the runs that may share a statement: their other arguments are the same, and so are the source's settings for their callers.
type lane struct {
	key     string
	running int // statements under way
	waiting []*passenger
	timer   *time.Timer // rings at next; nil while nobody waits
	next    time.Time   // when the patience of the first of them ends, or one that has left
}

// passenger is a run that waits. Its caller may leave before its statement returns, so nothing of it is the caller's.
type passenger struct {
	key      []byte // of the batch, as JSON
	after    uint64
	deadline time.Time
	until    time.Time // it waits no longer
	leads    bool      // it has been told to lead; batcher.mu guards it
	company  []*passenger
	rows     rows // that the statement gave
	wake     chan wake
}

// laneOf gives what runs of a lane have in common.
func (b *batcher) laneOf(x *Execution) string {
	var key []byte
	for i, v := range x.Args {
		if i != b.cfg.By {
			key = v.AppendKey(key)
		}
	}
	if b.q.settings != nil {
		for _, v := range b.q.settings.of(x.Caller) {
			key = mcp.Value{Kind: mcp.KindText, Text: v}.AppendKey(key)
		}
	}
	return string(key)
}

// run runs the statement, alone or with others.
func (b *batcher) run(ctx context.Context, dst []byte, x *Execution, limits *bounds) ([]byte, Outcome, error) {
	value, ok := appendJSONValue(nil, x.Args[b.cfg.By])
	if !ok || x.Progress != nil || x.Notice != nil || b.unfit.Load() != nil || time.Now().UnixNano() < b.rest.Load() {
		return b.q.single(ctx, dst, x, limits)
	}
	key := b.laneOf(x)
	b.mu.Lock()
	l := b.lanes[key]
	if l == nil {
		l = &lane{key: key}
		b.lanes[key] = l
	}
	may := l.running < b.most()
	if may && len(l.waiting) == 0 {
		l.running++
		b.mu.Unlock()
		defer b.returned(l)
		b.observe(1)
		return b.q.single(ctx, dst, x, limits)
	}
	// It must leave while there is time for the statement.
	now := time.Now()
	p := &passenger{key: value, after: x.after, deadline: limits.deadline, until: now.Add(min(b.cfg.MaxWait.Std(), limits.deadline.Sub(now)/2)), wake: make(chan wake, 1)}
	if l.waiting = append(l.waiting, p); l.timer == nil || p.until.Before(l.next) {
		b.arm(l)
	}
	if (may || len(l.waiting) >= b.cfg.MaxSize && l.running < b.cfg.Parallelism) && b.depart(l) {
		l.running++
	}
	b.mu.Unlock()
	over := time.NewTimer(time.Until(p.deadline))
	defer over.Stop()
	var w wake
	select {
	case w = <-p.wake:
	case <-ctx.Done():
		if !b.leave(l, p) {
			return dst, Outcome{}, ctx.Err()
		}
		w = <-p.wake // the others wait for it
	case <-over.C:
		if !b.leave(l, p) {
			return dst, Outcome{}, limits.timeout(b.q.spec.Name, context.DeadlineExceeded)
		}
		w = <-p.wake
	}
	if w == wakeLead && len(p.company) == 0 {
		defer b.returned(l)
		b.observe(1)
		return b.q.single(ctx, dst, x, limits)
	}
	if w == wakeLead {
		w = b.lead(ctx, l, p, x)
	}
	if w == wakeAlone {
		return b.q.single(ctx, dst, x, limits)
	}
	return append(dst, p.rows.end()...), Outcome{Rows: p.rows.n, Truncated: p.rows.truncated}, nil
}

// most is how many statements of a lane may be under way before others wait for company: once those are as many as go together they leave while there
// are fewer than Parallelism. Quick ones share round trips too, of which there are few: more would wait for each other with less in each. One
// that was not quick of late, with other arguments, keeps nobody.
func (b *batcher) most() int {
	if b.q.quick() && time.Now().UnixNano() >= b.q.aloneUntil.Load() {
		return min(b.cfg.Parallelism, mostTrips)
	}
	return b.cfg.Parallelism
}

func (b *batcher) observe(runs int) {
	if b.cfg.Observe != nil {
		b.cfg.Observe(runs)
	}
}

// leave takes a passenger out whose time is over. It tells whether it has to lead instead.
func (b *batcher) leave(l *lane, p *passenger) (leads bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(l.waiting, p); i >= 0 {
		if l.waiting = slices.Delete(l.waiting, i, i+1); len(l.waiting) == 0 {
			b.arm(l)
		}
	}
	return p.leads
}

// arm sets the timer of a lane to the first end of somebody's patience. b.mu is locked.
func (b *batcher) arm(l *lane) {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if len(l.waiting) > 0 {
		l.next = l.impatient()
		l.timer = time.AfterFunc(time.Until(l.next), func() { b.late(l) })
	}
}

// impatient is when the first of those that wait will not any more.
func (l *lane) impatient() time.Time {
	return slices.MinFunc(l.waiting, func(a, b *passenger) int { return a.until.Compare(b.until) }).until
}

// returned ends a statement of a lane: the place is that of those who wait, or free.
func (b *batcher) returned(l *lane) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.running <= b.most() && b.depart(l) {
		return
	}
	if l.running--; l.running == 0 {
		delete(b.lanes, l.key)
	}
}

// late lets those go that have waited for long, though there is no place.
func (b *batcher) late(l *lane) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(l.waiting) > 0 && !time.Now().Before(l.impatient()) && b.depart(l) {
		l.running++
	}
	b.arm(l)
}

// depart sends those that wait on their way, the first of them leading. It is false where nobody waits. b.mu is locked.
func (b *batcher) depart(l *lane) bool {
	if len(l.waiting) == 0 {
		return false
	}
	n := min(len(l.waiting), b.cfg.MaxSize)
	leader := l.waiting[0]
	leader.leads, leader.company = true, slices.Clone(l.waiting[1:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	b.arm(l)
	leader.wake <- wakeLead
	return true
}

// lead runs the statement for a passenger and its company, and wakes those. It says what the leader itself is to do.
func (b *batcher) lead(ctx context.Context, l *lane, p *passenger, x *Execution) wake {
	w := wakeAlone
	defer func() { // after a panic too
		for _, other := range p.company {
			other.wake <- w
		}
		b.returned(l)
	}()
	b.observe(1 + len(p.company))
	all := append([]*passenger{p}, p.company...)
	many := Execution{Caller: x.Caller, passengers: all}
	keys := []byte{'['}
	for i, other := range all {
		if i > 0 {
			keys = append(keys, ',')
		}
		keys = append(keys, other.key...)
		many.after = max(many.after, other.after)
		if i == 0 || other.deadline.Before(many.Deadline) {
			many.Deadline = other.deadline
		}
	}
	// The keys run one after the other: where they take long, there must be time left for each alone.
	began := time.Now()
	many.Deadline = began.Add(min(many.Deadline.Sub(began)/2, longestBatch))
	keys = append(keys, ']')
	for i, v := range x.Args {
		if i == b.cfg.By {
			v = mcp.Value{Kind: mcp.KindJSON, Text: keys}
		}
		many.Args = append(many.Args, v)
	}
	own, cancel := context.WithDeadline(context.Background(), many.Deadline)
	defer cancel()
	defer context.AfterFunc(ctx, func() { // the leader may leave; but what is gone for one is for all
		if context.Cause(ctx) == errGone {
			cancel()
		}
	})()
	q, err := b.statement(own, many.Deadline)
	if err == nil {
		limits := runBounds(q.span, q.limit, &many)
		_, _, err = q.alone(own, nil, &many, &limits)
	}
	var server *pgconn.PgError
	switch {
	case err == nil:
		w = wakeDone
	case own.Err() != nil, !time.Now().Before(many.Deadline): // too slow for company
		b.pause()
	case errors.As(err, &server) && strings.HasPrefix(server.Code, "42"):
		b.many.Store(nil) // the tables have changed: it is made anew
	}
	return w // what failed is told to each whose own run fails
}

// longestBatch is for how long the statement of a batch may run, and restAfter for how long calls run one by one after one that took longer, or
// could not be made.
const (
	longestBatch = time.Second
	restAfter    = 2 * time.Second
)

func (b *batcher) pause() { b.rest.Store(time.Now().Add(restAfter).UnixNano()) }

// statement gives the statement for many. Where there can be none, the error says why, and it is not tried again.
func (b *batcher) statement(ctx context.Context, deadline time.Time) (*pgQuery, error) {
	if q := b.many.Load(); q != nil {
		return q, nil
	}
	if !b.making.TryLock() {
		return nil, errMaking
	}
	defer b.making.Unlock()
	if q := b.many.Load(); q != nil {
		return q, nil
	}
	if err := b.unfit.Load(); err != nil {
		return nil, *err
	}
	pool := b.q.source.pool
	c, err := pool.get(ctx, deadline)
	if err != nil {
		return nil, err
	}
	defer func() { pool.put(c, c.isBroken() || pool.stopped(c) != stopNone) }()
	return b.fit(ctx, c)
}

// errMaking says that another batch makes the statement just now.
var errMaking = errors.New("the statement of the batch is being made")

// unfitError says why calls can never be batched.
type unfitError struct{ error }

// fit makes the statement for many on a connection, where that can be done.
func (b *batcher) fit(ctx context.Context, c *pgConn) (*pgQuery, error) {
	q, err := b.make(ctx, c)
	var never unfitError
	switch {
	case err == nil:
		b.many.Store(q)
	case errors.As(err, &never):
		b.unfit.Store(&err)
		b.q.source.log.Warn("calls of a tool with batch: run one by one", "tool", b.q.spec.Name, "error", err)
	default:
		b.pause()
	}
	return q, err
}

// lasting tells whether what the server said of a statement will not change while its tables stay as they are.
func lasting(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && strings.HasPrefix(server.Code, "42") && !slices.Contains([]string{stateUndefinedTable, "42703", "42883"}, server.Code)
}

// make makes the statement for many on a connection: the type of the key is that which the server found for the tool's own.
func (b *batcher) make(ctx context.Context, c *pgConn) (*pgQuery, error) {
	st, err := c.stmt(ctx, b.q)
	if err != nil {
		return nil, err
	}
	place := slices.Index(b.q.statement.binds, b.cfg.By)
	oid := st.description.ParamOIDs[place]
	if b.q.source.typeOf(oid).kind == pgArray {
		return nil, unfitError{errors.New("its key is an array in the database")}
	}
	if lower := strings.ToLower(b.q.statement.sql); b.q.locks || strings.Contains(lower, "set_config") {
		return nil, unfitError{errors.New("what it does to its session would be the others' too")}
	}
	// Without a modifier: character would be one character.
	r := c.conn.ExecParams(ctx, "SELECT pg_catalog.format_type($1::oid, -1)", [][]byte{strconv.AppendUint(nil, uint64(oid), 10)}, nil, nil, nil).Read()
	if r.Err != nil || len(r.Rows) != 1 {
		return nil, errors.Join(r.Err, errOtherAnswer)
	}
	name := b.q.spec.Params[b.cfg.By].Name
	limit := ""
	if b.q.spec.MaxRows > 0 {
		limit = " LIMIT " + strconv.Itoa(b.q.spec.MaxRows+1)
	}
	names := make([]string, len(st.columns)) // as they are alone: an expression's own would be another
	for i, column := range st.columns {
		names[i] = `"` + strings.ReplaceAll(column.name, `"`, `""`) + `"`
	}
	as := ""
	if len(names) > 0 {
		as = "(" + strings.Join(names, ", ") + ")"
	}
	spec := b.q.spec
	spec.Text = fmt.Sprintf("SELECT millrace_k.millrace_at, millrace_t.* FROM unnest(CAST(:%s AS %s[])) WITH ORDINALITY AS millrace_k(millrace_key, millrace_at) "+
		"CROSS JOIN LATERAL (SELECT * FROM (\n%s\n) AS millrace_s%s) AS millrace_t%s", name, r.Rows[0][0], replaceParam(spec.Text, name, "millrace_k.millrace_key"), limit, as)
	spec.MaxRows, spec.MaxBytes, spec.Batch, spec.Params = 0, 0, nil, slices.Clone(spec.Params)
	spec.Params[b.cfg.By].Type = "array"
	compiled, err := b.q.source.Compile(spec)
	if err != nil {
		return nil, unfitError{err}
	}
	q := compiled.(*pgQuery)
	q.forMany, q.keys, q.each = true, b.cfg.By, bounding{b.q.spec.MaxRows, b.q.spec.MaxBytes}
	many, err := c.stmt(ctx, q)
	if err != nil {
		if lasting(err) {
			err = unfitError{err}
		}
		return nil, err
	}
	for i, f := range st.description.Fields {
		if i+1 >= len(many.description.Fields) || many.description.Fields[i+1].DataTypeOID != f.DataTypeOID {
			return nil, unfitError{fmt.Errorf("its column %q would be of another type", f.Name)}
		}
	}
	return q, nil
}

// bounding are a result's bounds.
type bounding struct{ rows, bytes int }

// replaceParam puts a text in the place of a parameter, and cuts what follows the statement.
func replaceParam(text, name, with string) string {
	var b strings.Builder
	copied := 0
	for s := (scanner{text: text, dialect: dialectPostgres}); ; {
		switch t := s.next(); {
		case t.kind == tokenEnd, t.kind == tokenBad:
			b.WriteString(text[copied:])
			return b.String()
		case t.kind == tokenSymbol && text[t.start:t.end] == ";":
			b.WriteString(text[copied:t.start])
			return b.String()
		case t.kind == tokenParam && text[t.start+1:t.end] == name:
			b.WriteString(text[copied:t.start] + " " + with + " ")
			copied = t.end
		}
	}
}

// appendJSONValue writes a plain value as JSON; ok is false for others, and for none.
func appendJSONValue(dst []byte, v mcp.Value) (out []byte, ok bool) {
	switch v.Kind {
	case mcp.KindInt:
		return strconv.AppendInt(dst, v.Int, 10), true
	case mcp.KindBool:
		return strconv.AppendBool(dst, v.Bool()), true
	case mcp.KindFloat:
		return strconv.AppendFloat(dst, v.Float, floatFormat(v.Float), -1, 64), true
	case mcp.KindText:
		return mcp.AppendText(dst, v.Text), !slices.Contains(v.Text, 0) // alone it is refused
	}
	return dst, false
}

// beginEach makes the passengers ready for the rows of a statement.
func (q *pgQuery) beginEach(all []*passenger) {
	for _, p := range all {
		p.rows = beginRows(nil, q.each.rows, q.each.bytes)
	}
}

// row gives a row to the passenger that it is for.
func (x *Execution) row(st *pgStmt, values [][]byte) {
	at, err := strconv.Atoi(string(values[0]))
	if err != nil || at < 1 || at > len(x.passengers) {
		return
	}
	r := &x.passengers[at-1].rows
	if !r.truncated && r.beginRow() {
		appendPgRow(r, st.each, values[1:])
	}
}
