package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// Database is where L3 keeps its entries: one of the configuration's sources.
type Database struct {
	Dialect Dialect
	Compile func(sqldb.Spec) (sqldb.Query, error)
}

// L3 is the level in a database. It survives the process. Entries are found by the SHA-256 of their key and written behind
// the answer, many at a time; what does not fit into the queue is not kept. The versions of tags are in the database too: a
// write raises them there before it begins, and again when it has ended, so that a process that dies in between leaves
// nothing behind that was read before.
//
// Where the database does not answer, calls go on without it. A version that could not be raised there closes the level
// until it is.
type L3 struct {
	cfg   L3Config
	tags  *Tags
	log   *slog.Logger
	count Counters
	wait  time.Duration // for a look

	create                                                               []sqldb.Query
	get, put, raise, hits, versions, hottest, halve, expired, cold, size sqldb.Query

	queue  chan *Entry
	queued atomic.Int64 // bytes in it

	worth circuitbreaker.CircuitBreaker[any] // looking at all

	hitMu sync.Mutex       // guards asked
	asked map[string]int64 // hits by the hash of a key, that are to be written

	confirming confirming

	entries, bytes atomic.Int64

	open    atomic.Bool   // the tables are there, the versions known, and none is owed
	failed  atomic.Bool   // the last statement did; told once
	paying  chan struct{} // holds something while somebody pays, or opens the level: whose turn it is
	isSetUp bool          // the tables have been there, and their versions were learned; of whose turn it is

	mu    sync.Mutex        // guards owed and known, and that open is set only while nothing is owed
	owed  map[uint32]uint64 // versions that the database does not know yet
	known []uint64          // versions that it does

	stop chan struct{}
	done sync.WaitGroup
}

// Bounds of L3.
const (
	l3Queue  = 1000            // entries that wait to be written
	l3Waits  = 64 << 20        // of them, in bytes
	l3Batch  = 100             // of them in one statement
	l3Bytes  = 4 << 20         // of them, in bytes
	l3Entry  = 1 << 20         // the largest entry
	l3Time   = 2 * time.Second // for a statement behind the answers
	l3Get    = 250 * time.Millisecond
	l3Linger = 50 * time.Millisecond // how long an entry may wait for others
	l3Sweep  = 1000                  // expired entries that one statement removes
)

// errOwed says that the database of the level does not know yet what was made void.
var errOwed = errors.New("the database of cache.l3 does not answer; it is told as soon as it does, and not read until then")

func newL3(cfg L3Config, every time.Duration, db Database, tags *Tags, count Counters, log *slog.Logger) (*L3, error) {
	l := &L3{cfg: cfg, tags: tags, log: log, count: count, wait: l3Get, queue: make(chan *Entry, l3Queue), asked: map[string]int64{}, owed: map[uint32]uint64{},
		known: make([]uint64, stripes), worth: newBreaker(nil), paying: make(chan struct{}, 1), stop: make(chan struct{})}
	s := statements[db.Dialect]
	text := func(names ...string) (out []sqldb.Param) {
		for _, n := range names {
			kind := "string"
			if n == "now" || n == "most" {
				kind = "integer"
			}
			out = append(out, sqldb.Param{Name: n, Type: kind})
		}
		return out
	}
	var fault error
	compile := func(sql string, mode sqldb.Mode, params ...string) sqldb.Query {
		q, err := db.Compile(sqldb.Spec{Name: "cache.l3", Text: sql, Params: text(params...), Mode: mode, MaxBytes: 256 << 20, Timeout: 30 * time.Second, Own: true})
		if err != nil {
			fault = errors.Join(fault, fmt.Errorf("the statements of cache.l3: %w", err))
		}
		return q
	}
	l.create = []sqldb.Query{compile(createEntries, sqldb.ReadWrite), compile(createIndex, sqldb.ReadWrite), compile(createTags, sqldb.ReadWrite)}
	l.get = compile(s.get, sqldb.ReadOnly, "stripes", "key", "now")
	l.put = compile(s.put, sqldb.ReadWrite, "entries")
	l.raise = compile(s.raise, sqldb.ReadWrite, "marks")
	l.hits = compile(s.count, sqldb.ReadWrite, "hits")
	l.versions = compile(selectVersions, sqldb.ReadOnly)
	l.hottest = compile(selectHottest, sqldb.ReadOnly, "now", "most")
	l.halve = compile(halveHits, sqldb.ReadWrite)
	l.expired = compile(deleteExpired, sqldb.ReadWrite, "now", "most")
	l.cold = compile(deleteCold, sqldb.ReadWrite, "most")
	l.size = compile(selectSize, sqldb.ReadOnly)
	if fault != nil {
		return nil, fault
	}
	l.done.Go(l.write)
	l.done.Go(func() { l.tend(every) })
	return l, nil
}

// close writes what waits, within a bounded time, and then the hits that tell tells.
func (l *L3) close(tell func()) {
	close(l.stop)
	l.done.Wait()
	tell() // not before: hits of what is not there yet would be lost
	l.countHits()
	if l.owes() && l.changed(nil) != nil {
		ctx, cancel := context.WithTimeout(context.Background(), l3Time)
		defer cancel()
		if err := l.begin(ctx); err != nil {
			l.log.Error("cache.l3 could not be told of what was made void, and holds it for the next process until its ttl: remove the rows of millrace_cache", "error", err)
		}
	}
}

// Size gives the entries and bytes of the level as they were when it was last looked after.
func (l *L3) Size() (entries, bytes int64) { return l.entries.Load(), l.bytes.Load() }

// run runs one of the statements with texts and numbers as arguments, and gives the rows' JSON.
func (l *L3) run(ctx context.Context, q sqldb.Query, d time.Duration, args ...any) ([]byte, error) {
	x := sqldb.Execution{Deadline: time.Now().Add(d), Primary: true}
	for _, a := range args {
		switch a := a.(type) {
		case string:
			x.Args = append(x.Args, mcp.Value{Kind: mcp.KindText, Text: []byte(a)})
		case int64:
			x.Args = append(x.Args, mcp.Value{Kind: mcp.KindInt, Int: a})
		}
	}
	ctx, cancel := context.WithDeadline(ctx, x.Deadline)
	defer cancel()
	out, _, err := q.Run(ctx, nil, &x)
	if was := l.failed.Swap(err != nil); was != (err != nil) {
		if err != nil {
			l.log.Warn("the database of cache.l3 fails: results come from the other levels and the tools until it answers again", "error", err)
		} else {
			l.log.Info("the database of cache.l3 answers again")
		}
	}
	if err != nil {
		l.count.Count(Failed)
	}
	return out, err
}

// lock waits for the turn to pay, but no longer than ctx.
func (l *L3) lock(ctx context.Context) error {
	select {
	case l.paying <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *L3) unlock() { <-l.paying }

// begin makes the tables, learns the versions that were left, and tells the database of those that it does not know. It is done
// when it is done once, and after each payment that failed.
func (l *L3) begin(ctx context.Context) error {
	if err := l.lock(ctx); err != nil {
		return err
	}
	defer l.unlock()
	if l.open.Load() {
		return nil
	}
	if err := l.setUp(ctx); err != nil {
		return err
	}
	return l.reopen(ctx)
}

// setUp makes the tables and learns the versions in them. Whoever calls it has the turn.
func (l *L3) setUp(ctx context.Context) error {
	for _, q := range l.create {
		if _, err := l.run(ctx, q, l3Time); err != nil {
			return err
		}
	}
	out, err := l.run(ctx, l.versions, l3Time)
	if err != nil {
		return err
	}
	if err := l.adopt(out); err != nil {
		return err
	}
	l.reconcile()
	l.isSetUp = true
	return nil
}

// reopen pays all that is owed, and opens the level. Whoever calls it has the turn.
func (l *L3) reopen(ctx context.Context) error {
	for {
		if err := l.pay(ctx); err != nil {
			return err
		}
		l.mu.Lock()
		paid := len(l.owed) == 0
		if paid {
			l.open.Store(true)
		}
		l.mu.Unlock()
		if paid {
			return nil
		}
	}
}

// reconcile owes the database every version of this process that it does not know: one raised before the level was there, or by a
// cache that is closed by now.
func (l *L3) reconcile() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.known {
		if v := l.tags.stripes[s].version.Load(); v > l.known[s] {
			l.owed[uint32(s)] = max(l.owed[uint32(s)], v)
		}
	}
}

// adopt learns versions from rows of stripe and version.
func (l *L3) adopt(out []byte) error {
	var got struct {
		Rows []struct{ Stripe, Version json.Number }
	} // which takes integers beyond 2^53 too, that come as texts
	if err := json.Unmarshal(out, &got); err != nil {
		return fmt.Errorf("read the versions of cache.l3: %w", err)
	}
	for _, r := range got.Rows {
		if err := l.learn(r.Stripe.String(), r.Version.String()); err != nil {
			return err
		}
	}
	return nil
}

func (l *L3) learn(stripe, version string) error {
	s, err := strconv.ParseUint(stripe, 10, 32)
	v, err2 := strconv.ParseUint(version, 10, 63)
	if err = errors.Join(err, err2); err == nil && s >= stripes {
		err = fmt.Errorf("there are %d", stripes)
	}
	if err != nil {
		return fmt.Errorf("cache.l3 holds the version %q of the tag %q: %w", clipText(version), clipText(stripe), err)
	}
	l.mu.Lock()
	l.known[s] = max(l.known[s], v)
	l.mu.Unlock()
	l.tags.learn(uint32(s), v)
	return nil
}

func clipText(s string) string { return s[:min(len(s), 40)] }

// pay raises the versions that the database is owed. Whoever calls it has the turn.
func (l *L3) pay(ctx context.Context) error {
	l.mu.Lock()
	marks := make([][2]uint64, 0, len(l.owed))
	for s, v := range l.owed {
		marks = append(marks, [2]uint64{uint64(s), v})
	}
	l.mu.Unlock()
	if len(marks) == 0 {
		return nil
	}
	slices.SortFunc(marks, func(a, b [2]uint64) int { return int(a[0]) - int(b[0]) }) // two nodes lock rows in one order
	text, err := json.Marshal(marks)
	if err != nil {
		return err
	}
	out, err := l.run(ctx, l.raise, l3Time, string(text))
	if err != nil {
		return err
	}
	l.mu.Lock()
	for _, m := range marks {
		if l.owed[uint32(m[0])] <= m[1] {
			delete(l.owed, uint32(m[0]))
		}
	}
	l.mu.Unlock()
	return l.adopt(out)
}

// settle pays what is owed, and opens the level where it is closed. Whoever calls it has the turn.
func (l *L3) settle(ctx context.Context) error {
	if l.open.Load() {
		return l.pay(ctx)
	}
	if !l.isSetUp {
		if err := l.setUp(ctx); err != nil {
			return err
		}
	}
	return l.reopen(ctx)
}

// changed raises versions in the database. It waits for that, but no longer than a statement should take; what is not raised by
// then is owed, and until it is paid the level is closed. Writes that come together pay together.
//
// Also where the level is closed it is tried, for as long as a look may take: another process that cannot hear this one may have nothing to
// go by but what the database says.
func (l *L3) changed(marks []stamp) error {
	l.mu.Lock()
	for _, m := range marks {
		l.owed[m.stripe] = max(l.owed[m.stripe], m.version)
	}
	l.mu.Unlock()
	most := l3Time
	if !l.open.Load() {
		most = l.wait
	}
	ctx, cancel := context.WithTimeout(context.Background(), most)
	paid := make(chan bool, 1)
	go func() { // ends with its statement, which the database may drag out beyond its time
		defer cancel()
		if l.lock(ctx) != nil {
			paid <- false
			return
		}
		defer l.unlock()
		paid <- l.settle(ctx) == nil
	}()
	select {
	case ok := <-paid:
		if ok {
			return nil
		}
	case <-ctx.Done():
	}
	l.open.Store(false)
	return errOwed
}

// look learns the versions of stripes, and gives the text of the entry of a key, nil for none. ok is false where the database does not say.
func (l *L3) look(ctx context.Context, asked []uint32, key string, now time.Time) (text *string, ok bool) {
	if !l.open.Load() || !l.worth.TryAcquirePermit() {
		return nil, false
	}
	list := make([]string, len(asked))
	for i, s := range asked {
		list[i] = strconv.FormatUint(uint64(s), 10)
	}
	began := time.Now()
	out, err := l.run(ctx, l.get, l.wait, "["+strings.Join(list, ",")+"]", key, now.UnixMilli())
	l.count.Looked(time.Since(began))
	if err != nil {
		l.worth.RecordFailure()
		return nil, false
	}
	l.worth.RecordSuccess()
	var got struct {
		Rows []struct{ Entry, Versions *string }
	}
	if json.Unmarshal(out, &got) != nil || len(got.Rows) != 1 {
		return nil, false
	}
	if versions := got.Rows[0].Versions; versions != nil {
		for pair := range strings.SplitSeq(*versions, ",") {
			if s, version, _ := strings.Cut(pair, ":"); l.learn(s, version) != nil {
				return nil, false
			}
		}
	}
	return got.Rows[0].Entry, true
}

// find gives the fresh entry of a key; nil where there is none. tags are the call's, and stamps are theirs from before. there is
// what the second level says of them, nil for nothing: a server that could tell that one of a change may not have been able to tell this one.
func (l *L3) find(ctx context.Context, key []byte, tags []string, stamps []stamp, there *sight) *Entry {
	asked := make([]uint32, 0, len(tags))
	for _, t := range tags {
		if s := l.tags.stripe(t); s < stripes {
			asked = append(asked, s)
		}
	}
	now := time.Now()
	text, ok := l.look(ctx, asked, l3Key(key), now)
	if !ok || text == nil {
		return nil
	}
	e := l.read(*text, now)
	if e == nil || e.Key != string(key) || there != nil && e.under != nil && e.under.run == there.run && !there.has(e.under.versions) {
		return nil
	}
	own := e.stamps
	e.stamps = slices.Clone(stamps)
	for _, m := range own {
		i := slices.IndexFunc(stamps, func(s stamp) bool { return s.stripe == m.stripe })
		if i < 0 {
			return nil
		}
		e.stamps[i].version = m.version
	}
	return e
}

// read takes an entry out of its text; nil where it is none, or of no use any more.
func (l *L3) read(text string, now time.Time) *Entry {
	var s stored
	if json.Unmarshal([]byte(text), &s) != nil || s.Args < 0 || s.Args > len(s.Key) || len(s.Stamps) == 0 {
		return nil
	}
	for _, m := range s.Stamps {
		if m[0] >= stripes {
			return nil
		}
	}
	e := s.entry()
	if age := now.Sub(e.Born); age < 0 || age >= min(e.TTL, l.cfg.TTL.Std()) || !l.tags.latest(e.stamps) {
		return nil
	}
	return e
}

// keep queues an entry to be written.
func (l *L3) keep(e *Entry) {
	n := int64(e.Bytes())
	if e.Err != nil || n > l3Entry {
		return
	}
	if l.queued.Add(n) > l3Waits {
		l.queued.Add(-n)
		l.count.Count(Dropped)
		return
	}
	select {
	case l.queue <- e:
	default:
		l.queued.Add(-n)
		l.count.Count(Dropped)
	}
}

// hit notes that an entry was asked for.
func (l *L3) hit(key string, n int64) {
	hash := l3Key([]byte(key))
	l.hitMu.Lock()
	defer l.hitMu.Unlock()
	if _, ok := l.asked[hash]; ok || len(l.asked) < 10*l3Queue {
		l.asked[hash] += n
	}
}

// write takes entries from the queue into the database until the level is closed.
func (l *L3) write() {
	for {
		select {
		case e := <-l.queue:
			l.writeBatch(l.gather(e))
		case <-l.stop:
			for until := time.Now().Add(l3Time); time.Now().Before(until); {
				select {
				case e := <-l.queue:
					l.writeBatch(l.gather(e))
				default:
					return
				}
			}
			return
		}
	}
}

// gather adds to an entry those that come soon after it.
func (l *L3) gather(first *Entry) []*Entry {
	batch, bytes := []*Entry{first}, first.Bytes()
	wait := time.NewTimer(l3Linger)
	defer wait.Stop()
	for len(batch) < l3Batch && bytes < l3Bytes {
		select {
		case e := <-l.queue:
			batch, bytes = append(batch, e), bytes+e.Bytes()
		case <-wait.C:
			return batch
		case <-l.stop:
			return batch
		}
	}
	return batch
}

func (l *L3) writeBatch(batch []*Entry) {
	for _, e := range batch {
		l.queued.Add(-int64(e.Bytes()))
	}
	if !l.open.Load() {
		return
	}
	type row struct {
		Key     string `json:"key"`
		Entry   string `json:"entry"`
		Born    int64  `json:"born"`
		Expires int64  `json:"expires"`
	}
	rows := map[string]row{} // the latest of each key: one statement may write a row once
	for _, e := range batch {
		if !l.tags.current(e.stamps) {
			continue
		}
		text, err := json.Marshal(e.stored())
		if err != nil {
			continue // not UTF-8: no result is
		}
		key := l3Key([]byte(e.Key))
		if r, ok := rows[key]; !ok || r.Born <= e.Born.UnixMilli() {
			life := min(e.TTL, l.cfg.TTL.Std())
			rows[key] = row{key, string(text), e.Born.UnixMilli(), e.Born.Add(life).UnixMilli()}
		}
	}
	if len(rows) == 0 {
		return
	}
	list := make([]row, 0, len(rows))
	for _, r := range rows {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b row) int { return strings.Compare(a.Key, b.Key) })
	text, err := json.Marshal(list)
	if err != nil {
		return
	}
	if _, err := l.run(context.Background(), l.put, l3Time, string(text)); err == nil {
		for range list {
			l.count.Count(Filled)
		}
	}
}

// tend opens the level, again and again where that fails, and from time to time removes what has expired or is too much.
func (l *L3) tend(every time.Duration) {
	const again = time.Second
	ctx := context.Background()
	swept, told, first := time.Time{}, false, true
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-l.stop:
			return
		}
		err := l.begin(ctx)
		if err != nil && !told {
			l.log.Warn("cache.l3 cannot be opened yet", "error", err)
		}
		told = err != nil
		if err == nil && time.Since(swept) >= every {
			l.sweep(ctx)
			if swept = time.Now(); first { // what was hot long ago fades
				first = false
				_, _ = l.run(ctx, l.halve, l3Time) // counts, and no more than that
			}
		}
		t.Reset(min(again, every))
	}
}

// owes tells whether the database does not know a version yet.
func (l *L3) owes() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.owed) > 0
}

// sweep removes what has expired and what is beyond the bound, and looks how much there is.
func (l *L3) sweep(ctx context.Context) {
	l.countHits()
	l.reconcile()
	if l.owes() && l.changed(nil) != nil {
		return // the level is closed until that is paid
	}
	for range 1000 {
		out, err := l.run(ctx, l.expired, l3Time, time.Now().UnixMilli(), int64(l3Sweep))
		var got struct {
			Rows int `json:"rows_affected"`
		}
		if err != nil || json.Unmarshal(out, &got) != nil || got.Rows < l3Sweep {
			break
		}
	}
	out, err := l.run(ctx, l.size, l3Time)
	var got struct {
		Rows []struct{ Entries, Bytes json.Number }
	}
	if err != nil || json.Unmarshal(out, &got) != nil || len(got.Rows) == 0 {
		return
	}
	entries, _ := got.Rows[0].Entries.Int64()
	bytes, _ := got.Rows[0].Bytes.Int64()
	l.entries.Store(entries)
	l.bytes.Store(bytes)
	if most := int64(l.cfg.MaxBytes); bytes > most {
		_, _ = l.run(ctx, l.cold, l3Time, most) // what fails now is done in the next round
	}
}

// countHits writes how often entries were asked for.
func (l *L3) countHits() {
	l.hitMu.Lock()
	asked := l.asked
	l.asked = map[string]int64{}
	l.hitMu.Unlock()
	if len(asked) == 0 || !l.open.Load() {
		return
	}
	list := make([][2]any, 0, len(asked))
	for hash, n := range asked {
		list = append(list, [2]any{hash, n})
	}
	slices.SortFunc(list, func(a, b [2]any) int { return strings.Compare(a[0].(string), b[0].(string)) })
	text, err := json.Marshal(list)
	if err != nil {
		return
	}
	_, _ = l.run(context.Background(), l.hits, l3Time, string(text)) // counts, and no more than that
}

// load gives the n entries that were most asked for and are fresh. heard is what other processes have announced before.
func (l *L3) load(ctx context.Context, heard []uint32, n int) ([]*Entry, error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	now := time.Now()
	out, err := l.run(ctx, l.hottest, warmLimit, now.UnixMilli(), int64(n))
	if err != nil {
		return nil, err
	}
	var got struct{ Rows []struct{ Entry string } }
	if err := json.Unmarshal(out, &got); err != nil {
		return nil, err
	}
	var entries []*Entry
	for _, r := range got.Rows {
		if e := l.read(r.Entry, now); e != nil {
			for i := range e.stamps {
				e.stamps[i].remote = heard[e.stamps[i].stripe]
			}
			entries = append(entries, e)
		}
	}
	return entries, nil
}
