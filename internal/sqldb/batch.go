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

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// BatchingConfig is `batching:`.
type BatchingConfig struct {
	MaxSize     int           `yaml:"max_size" desc:"Calls of a tool with batch: that one statement serves at most."`
	MaxWait     conf.Duration `yaml:"max_wait" desc:"How long a call waits for others at most. It waits only while parallelism statements like its own are under way."`
	Parallelism int           `yaml:"parallelism" desc:"Statements like a call's own that may be under way before it waits for company."`
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

// batcher joins runs of one statement. A run leaves at once, by itself, while fewer than Parallelism statements of its lane are under way:
// with one caller nothing is different. Else it waits, and leaves with all that wait when one of those returns, in one statement: a join of their
// keys with the tool's own statement, whose rows are told apart by the number of the key.
type batcher struct {
	q   *pgQuery
	cfg Batch

	making sync.Mutex              // is held while the statement for many is made
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
	timer   *time.Timer // for the first of those that wait
}

// passenger is a run that waits. Its caller may leave before its statement returns, so nothing of it is the caller's.
type passenger struct {
	key      []byte // of the batch, as JSON
	after    uint64
	deadline time.Time
	leads    bool // it has been told to lead; batcher.mu guards it
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
	if !ok || x.Progress != nil || x.Notice != nil || b.unfit.Load() != nil {
		return b.q.single(ctx, dst, x, limits)
	}
	key := b.laneOf(x)
	b.mu.Lock()
	l := b.lanes[key]
	if l == nil {
		l = &lane{key: key}
		b.lanes[key] = l
	}
	if l.running < b.cfg.Parallelism {
		l.running++
		b.mu.Unlock()
		defer b.returned(l)
		b.observe(1)
		return b.q.single(ctx, dst, x, limits)
	}
	p := &passenger{key: value, after: x.after, deadline: limits.deadline, wake: make(chan wake, 1)}
	if l.waiting = append(l.waiting, p); len(l.waiting) == 1 {
		// It must leave while there is time for the statement.
		patience := min(b.cfg.MaxWait.Std(), time.Until(p.deadline)/2)
		l.timer = time.AfterFunc(patience, func() { b.late(l) })
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
		w = b.lead(l, p, x)
	}
	if w == wakeAlone {
		return b.q.single(ctx, dst, x, limits)
	}
	return append(dst, p.rows.end()...), Outcome{Rows: p.rows.n, Truncated: p.rows.truncated}, nil
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
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	return p.leads
}

// returned ends a statement of a lane: the place is that of those who wait, or free.
func (b *batcher) returned(l *lane) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.depart(l) {
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
	if b.depart(l) {
		l.running++
	}
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
	l.timer.Stop()
	if len(l.waiting) > 0 {
		l.timer = time.AfterFunc(b.cfg.MaxWait.Std()/2, func() { b.late(l) })
	}
	leader.wake <- wakeLead
	return true
}

// lead runs the statement for a passenger and its company, and wakes those. It says what the leader itself is to do.
func (b *batcher) lead(l *lane, p *passenger, x *Execution) wake {
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
		if other.deadline.After(many.Deadline) {
			many.Deadline = other.deadline
		}
	}
	keys = append(keys, ']')
	for i, v := range x.Args {
		if i == b.cfg.By {
			v = mcp.Value{Kind: mcp.KindJSON, Text: keys}
		}
		many.Args = append(many.Args, v)
	}
	ctx, cancel := context.WithDeadline(context.Background(), many.Deadline)
	defer cancel()
	q, err := b.statement(ctx, many.Deadline)
	if err == nil {
		limits := runBounds(q.span, q.limit, &many)
		if _, _, err = q.alone(ctx, nil, &many, &limits); err == nil {
			w = wakeDone
		}
	}
	return w // what failed is told to each whose own run fails
}

// statement gives the statement for many. Where there can be none, the error says why, and it is not tried again.
func (b *batcher) statement(ctx context.Context, deadline time.Time) (*pgQuery, error) {
	if q := b.many.Load(); q != nil {
		return q, nil
	}
	b.making.Lock()
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
	q, err := b.make(ctx, c)
	if err != nil && !c.isBroken() && ctx.Err() == nil {
		why := fmt.Errorf("calls of %s cannot be batched: %w", b.q.spec.Name, err)
		b.unfit.Store(&why)
		b.q.source.log.Warn("calls of a tool with batch: run one by one", "tool", b.q.spec.Name, "error", why)
		return nil, why
	}
	if err == nil {
		b.many.Store(q)
	}
	return q, err
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
		return nil, errors.New("its key is an array in the database")
	}
	r := c.conn.ExecParams(ctx, "SELECT pg_catalog.format_type($1::oid, NULL)", [][]byte{strconv.AppendUint(nil, uint64(oid), 10)}, nil, nil, nil).Read()
	if r.Err != nil || len(r.Rows) != 1 {
		return nil, errors.Join(r.Err, errOtherAnswer)
	}
	name := b.q.spec.Params[b.cfg.By].Name
	limit := ""
	if b.q.spec.MaxRows > 0 {
		limit = " LIMIT " + strconv.Itoa(b.q.spec.MaxRows+1)
	}
	spec := b.q.spec
	spec.Text = fmt.Sprintf("SELECT millrace_k.millrace_at, millrace_t.* FROM unnest(CAST(:%s AS %s[])) WITH ORDINALITY AS millrace_k(millrace_key, millrace_at) "+
		"CROSS JOIN LATERAL (SELECT * FROM (\n%s\n) AS millrace_s%s) AS millrace_t", name, r.Rows[0][0], replaceParam(spec.Text, name, "millrace_k.millrace_key"), limit)
	spec.MaxRows, spec.MaxBytes, spec.Batch, spec.Params = 0, 0, nil, slices.Clone(spec.Params)
	spec.Params[b.cfg.By].Type = "array"
	compiled, err := b.q.source.Compile(spec)
	if err != nil {
		return nil, err
	}
	q := compiled.(*pgQuery)
	q.forMany, q.each = true, bounding{b.q.spec.MaxRows, b.q.spec.MaxBytes}
	_, err = c.stmt(ctx, q)
	return q, err
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
		return mcp.AppendText(dst, v.Text), true
	}
	return dst, false
}

// begin makes the passengers ready for the rows of a statement.
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
