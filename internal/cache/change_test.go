package cache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// table is a database of one number for each id.
type table struct {
	mu   sync.Mutex
	rows map[int64]int64
	runs atomic.Int64 // of reads
	down atomic.Bool
}

func (d *table) read(_ context.Context, c *mcp.Call) (mcp.Result, error) {
	d.runs.Add(1)
	if d.down.Load() {
		return mcp.Result{}, &mcp.ToolError{Kind: "unavailable", Message: "down"}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.rows[c.Args[0].Int]
	if !ok {
		return mcp.Result{Fields: []byte("none"), Rows: mcp.RowsNone}, nil
	}
	return mcp.Result{Fields: strconv.AppendInt(nil, v, 10), Rows: mcp.RowsOne}, nil
}

func (d *table) write(id, v int64) mcp.Handler {
	return func(context.Context, *mcp.Call) (mcp.Result, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.rows == nil {
			d.rows = map[int64]int64{}
		}
		d.rows[id] = v
		return mcp.Result{Fields: strconv.AppendInt(nil, v, 10), Rows: mcp.RowsOne}, nil
	}
}

func tagOf(args []mcp.Value) []string { return []string{fmt.Sprintf("row:%d", args[0].Int)} }

// reading makes a call that reads the row of an id.
func reading(id int64, change ...func(*mcp.Policy)) *mcp.Call {
	c := call(mcp.Anonymous, mcp.ScopePublic, id)
	c.Policy.Tags, c.Policy.Mutable, c.Policy.Negative = tagOf, true, time.Minute
	for _, f := range change {
		f(c.Policy)
	}
	return c
}

// writing makes a call that changes the row of an id; through says whether its result is the row.
func writing(id int64, through bool) *mcp.Call {
	p := &mcp.Policy{Timeout: time.Minute, Changes: &mcp.Changes{Tags: tagOf}}
	if through {
		p.Changes.Put = func(*mcp.Call) *mcp.Call { return reading(id) }
	}
	return &mcp.Call{Caller: mcp.Caller{Principal: mcp.Anonymous}, Target: "w", Args: []mcp.Value{{Kind: mcp.KindInt, Int: id}}, Policy: p}
}

func want(t *testing.T, h mcp.Handler, c *mcp.Call, status mcp.CacheStatus, text string) {
	t.Helper()
	r, err := h(t.Context(), c)
	if err != nil || r.Cache.Status != status || string(r.Fields) != text {
		t.Errorf("%s %q, %v; want %s %q", r.Cache.Status, r.Fields, err, status, text)
	}
}

func do(t *testing.T, c *Cache, call *mcp.Call, h mcp.Handler) {
	t.Helper()
	if _, err := c.Middleware(h)(t.Context(), call); err != nil {
		t.Error(err)
	}
}

func TestAWriteMakesItsTagsVoid(t *testing.T) {
	t.Parallel()
	c, n := newCache(t)
	db := &table{rows: map[int64]int64{1: 10, 2: 20}}
	h := c.Middleware(db.read)
	for _, status := range []mcp.CacheStatus{mcp.CacheMiss, mcp.CacheHit} {
		want(t, h, reading(1), status, "10")
		want(t, h, reading(2), status, "20")
	}
	do(t, c, writing(1, false), db.write(1, 11))
	want(t, h, reading(1), mcp.CacheMiss, "11")
	want(t, h, reading(1), mcp.CacheHit, "11")
	want(t, h, reading(2), mcp.CacheHit, "20")
	if n.of(Changed) != 1 || n.of(Put) != 0 || n.of(Filled) != 3 || n.of(Discarded) != 0 {
		t.Errorf("%d changes, %d puts, %d fills, %d discards", n.of(Changed), n.of(Put), n.of(Filled), n.of(Discarded))
	}
}

// A write that fails, or ends in no way at all, may have changed something.
func TestAWriteThatFailsMakesItsTagsVoid(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func() (mcp.Result, error){
		"error": func() (mcp.Result, error) { return mcp.Result{}, errors.New("no") },
		"panic": func() (mcp.Result, error) { panic("bug") },
	} {
		c, _ := newCache(t)
		db := &table{rows: map[int64]int64{1: 10}}
		h := c.Middleware(db.read)
		write := c.Middleware(func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
			want(t, h, reading(1), mcp.CacheMiss, "10") // while it is under way
			if _, err := db.write(1, 11)(ctx, call); err != nil {
				t.Error(err)
			}
			return end()
		})
		want(t, h, reading(1), mcp.CacheMiss, "10")
		func() {
			defer func() { _ = recover() }()
			_, _ = write(t.Context(), writing(1, true))
		}()
		if r, err := h(t.Context(), reading(1)); err != nil || r.Cache.Status != mcp.CacheMiss || string(r.Fields) != "11" {
			t.Errorf("%s: %s %q, %v", name, r.Cache.Status, r.Fields, err)
		}
	}
}

// Whom a database owes the answer to a commit, it may still commit.
func TestUnknownFateIsMadeVoidAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCache(t)
		db := &table{rows: map[int64]int64{1: 10}}
		h := c.Middleware(db.read)
		lost := &mcp.ToolError{Kind: "unavailable", Cause: mcp.ErrUnknownFate}
		if _, err := c.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) { return mcp.Result{}, lost })(t.Context(), writing(1, true)); !errors.Is(err, lost) {
			t.Error(err)
		}
		want(t, h, reading(1), mcp.CacheMiss, "10")
		db.rows[1] = 11
		want(t, h, reading(1), mcp.CacheHit, "10")
		time.Sleep(time.Minute + time.Nanosecond)
		want(t, h, reading(1), mcp.CacheMiss, "11")
		if _, err := c.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) { return mcp.Result{}, lost })(t.Context(), writing(1, true)); !errors.Is(err, lost) {
			t.Error(err)
		}
		c.Close() // leaves no timer behind
	})
}

// A fill that a write overtook is thrown away, and who comes after the write does not wait for it.
func TestAWriteOvertakesAFill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, n := newCache(t)
		db := &table{rows: map[int64]int64{1: 10}}
		gate := make(chan struct{})
		var late atomic.Bool
		late.Store(true)
		h := c.Middleware(func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
			r, err := db.read(ctx, call)
			if late.Swap(false) {
				<-gate
			}
			return r, err
		})
		var wg sync.WaitGroup
		wg.Go(func() { want(t, h, reading(1), mcp.CacheMiss, "10") })
		synctest.Wait()
		wg.Go(func() { want(t, h, reading(1), mcp.CacheCoalesced, "10") })
		synctest.Wait()
		do(t, c, writing(1, false), db.write(1, 11))
		wg.Go(func() { want(t, h, reading(1), mcp.CacheMiss, "11") }) // once the flight before is over
		synctest.Wait()
		wg.Go(func() { want(t, h, reading(1), mcp.CacheCoalesced, "11") })
		synctest.Wait()
		close(gate)
		wg.Wait()
		want(t, h, reading(1), mcp.CacheHit, "11")
		if n.of(Discarded) != 1 || n.of(Filled) != 1 || len(c.flights.running) != 0 {
			t.Errorf("%d discarded, %d filled, %d flights", n.of(Discarded), n.of(Filled), len(c.flights.running))
		}
	})
}

func TestWriteThrough(t *testing.T) {
	t.Parallel()
	c, n := newCache(t)
	db := &table{rows: map[int64]int64{1: 10}}
	h := c.Middleware(db.read)
	want(t, h, reading(1), mcp.CacheMiss, "10")
	do(t, c, writing(1, true), db.write(1, 11))
	want(t, h, reading(1), mcp.CacheHit, "11")
	// Two writes at a time: which was the last is not known, so neither is believed.
	do(t, c, writing(1, true), func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
		r, err := db.write(1, 12)(ctx, call)
		do(t, c, writing(1, true), db.write(1, 13))
		return r, err
	})
	want(t, h, reading(1), mcp.CacheMiss, "13")
	for name, r := range map[string]mcp.Result{"question": {Input: &mcp.InputRequired{}, Rows: mcp.RowsOne}, "failure": {IsError: true, Rows: mcp.RowsOne},
		"no row": {Rows: mcp.RowsNone}, "many rows": {Rows: mcp.RowsMany}, "unknown": {}} {
		puts := n.of(Put)
		do(t, c, writing(1, true), func(context.Context, *mcp.Call) (mcp.Result, error) { return r, nil })
		if n.of(Put) != puts {
			t.Errorf("%s was put", name)
		}
	}
	want(t, h, reading(1), mcp.CacheMiss, "13")
	if n.of(Put) != 1 {
		t.Errorf("%d puts", n.of(Put))
	}
}

// kept gives a cache that has read row 1 of db, and the call that read it, in a bubble of synctest: its clock is the test's.
func kept(t *testing.T, change func(*mcp.Policy)) (c *Cache, n *counts, db *table, read func() *mcp.Call) {
	t.Helper()
	c, n = newCache(t)
	db = &table{rows: map[int64]int64{1: 10}}
	read = func() *mcp.Call { return reading(1, change) }
	want(t, c.Middleware(db.read), read(), mcp.CacheMiss, "10")
	return c, n, db, read
}

func forAMinute(p *mcp.Policy) { p.TTL, p.StaleError = 10*time.Second, time.Minute }

func TestStaleWhileRevalidate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, n, db, read := kept(t, func(p *mcp.Policy) { p.TTL, p.StaleRevalidate = 10*time.Second, 5*time.Second })
		h := c.Middleware(db.read)
		time.Sleep(11 * time.Second)
		db.rows[1] = 11 // as time does, with no write to tell
		if r, err := h(t.Context(), read()); err != nil || r.Cache.Status != mcp.CacheStale || r.Cache.Age != 11*time.Second || string(r.Fields) != "10" {
			t.Errorf("%+v %s %v", r.Cache, r.Fields, err)
		}
		synctest.Wait()
		want(t, h, read(), mcp.CacheHit, "11")
		time.Sleep(15 * time.Second)
		want(t, h, read(), mcp.CacheMiss, "11")
		if n.of(Stale) != 1 || n.of(Refreshed) != 1 {
			t.Errorf("%d stale, %d refreshed", n.of(Stale), n.of(Refreshed))
		}
		// What a write has made void is not served, however stale is allowed to be.
		time.Sleep(11 * time.Second)
		do(t, c, writing(1, false), db.write(1, 12))
		want(t, h, read(), mcp.CacheMiss, "12")
	})
}

func TestStaleIfError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, n, db, read := kept(t, forAMinute)
		h := c.Middleware(db.read)
		time.Sleep(20 * time.Second)
		db.down.Store(true)
		want(t, h, read(), mcp.CacheStale, "10")
		broken := c.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) {
			return mcp.Result{}, &mcp.ToolError{Kind: "sql", Message: "no such table"}
		})
		if _, err := broken(t.Context(), read()); err == nil {
			t.Error("a mistake in the statement is no outage")
		}
		db.down.Store(false)
		want(t, h, read(), mcp.CacheMiss, "10")
		time.Sleep(20 * time.Second)
		db.down.Store(true)
		if err := c.Purge([]string{"row:1"}, nil); err != nil {
			t.Error(err)
		}
		if r, err := h(t.Context(), read()); err == nil {
			t.Errorf("void, and served: %s", r.Fields)
		}
		if n.of(Stale) != 1 {
			t.Errorf("%d stale", n.of(Stale))
		}
	})
}

func TestWhatFindsNothingIsFreshForLess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCache(t)
		db := &table{}
		missing := &mcp.Error{Code: mcp.CodeResourceNotFound, Message: "resource not found"}
		var asked atomic.Int64
		gone := c.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) { asked.Add(1); return mcp.Result{}, missing })
		h := c.Middleware(db.read)
		short := func(p *mcp.Policy) { p.Negative = 5 * time.Second }
		none := func(p *mcp.Policy) { p.Negative = 0 }
		want(t, h, reading(1, short), mcp.CacheMiss, "none")
		for range 3 {
			if _, err := gone(t.Context(), reading(2, short)); !errors.Is(err, missing) {
				t.Error(err)
			}
			if _, ok := c.Ready(reading(2, short), time.Now()); ok {
				t.Error("what does not exist has no result")
			}
		}
		if asked.Load() != 1 {
			t.Errorf("asked %d times for what is not there", asked.Load())
		}
		time.Sleep(5*time.Second - 1)
		want(t, h, reading(1, short), mcp.CacheHit, "none")
		do(t, c, writing(1, false), db.write(1, 10))
		want(t, h, reading(1, short), mcp.CacheMiss, "10")
		time.Sleep(6 * time.Second)
		want(t, h, reading(1, short), mcp.CacheHit, "10")
		if _, err := gone(t.Context(), reading(2, short)); !errors.Is(err, missing) || asked.Load() != 2 {
			t.Errorf("%v, asked %d times", err, asked.Load())
		}
		for range 2 {
			want(t, h, reading(3, none), mcp.CacheMiss, "none")
		}
	})
}

// Near its end an entry is fetched early, by one caller, while all are served.
func TestEarlyRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, n := newCache(t)
		db := &table{rows: map[int64]int64{1: 10}}
		h := c.Middleware(func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
			time.Sleep(time.Second) // what it costs
			return db.read(ctx, call)
		})
		read := func() *mcp.Call { return reading(1, func(p *mcp.Policy) { p.TTL = time.Minute }) }
		want(t, h, read(), mcp.CacheMiss, "10")
		var chance atomic.Value
		chance.Store(0.0)
		c.l1.chance = func() float64 { return chance.Load().(float64) }
		time.Sleep(56 * time.Second) // of 60, the work's own among them: 3 costs are left
		chance.Store(0.9)            // draws 2.3 costs
		want(t, h, read(), mcp.CacheHit, "10")
		chance.Store(0.96) // 3.2 costs
		for range 3 {
			want(t, h, read(), mcp.CacheHit, "10")
		}
		if n.of(Refreshed) != 1 {
			t.Errorf("%d refreshes", n.of(Refreshed))
		}
		db.mu.Lock()
		db.rows[1] = 11
		db.mu.Unlock()
		time.Sleep(2 * time.Second)
		chance.Store(0.0)
		want(t, h, read(), mcp.CacheHit, "11")
		time.Sleep(50 * time.Second)
		want(t, h, read(), mcp.CacheHit, "11")
		if db.runs.Load() != 2 || n.of(Miss) != 1 {
			t.Errorf("%d runs, %d misses", db.runs.Load(), n.of(Miss))
		}
	})
}

// A database that is slow is as good as down: the caller whose time is over gets what there is.
func TestStaleWhereTheDatabaseIsSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _, db, read := kept(t, forAMinute)
		slow := make(chan struct{})
		h := c.Middleware(func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
			if db.down.Load() {
				<-slow
			}
			return db.read(context.WithoutCancel(ctx), call)
		})
		time.Sleep(20 * time.Second)
		db.down.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r, err := h(ctx, read()); err != nil || r.Cache.Status != mcp.CacheStale || string(r.Fields) != "10" {
			t.Errorf("%s %q, %v", r.Cache.Status, r.Fields, err)
		}
		left, leave := context.WithCancel(t.Context())
		leave()
		if r, err := h(left, read()); !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %q, %v", r.Fields, err)
		}
		close(slow)
		synctest.Wait()
	})
}

// However many callers find a hot key expired, the database is asked once.
func TestNoStampedeOnAnExpiredKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, stale := range []time.Duration{0, time.Hour} {
			c, _ := newCache(t)
			db := &table{rows: map[int64]int64{1: 10}}
			h := c.Middleware(db.read)
			read := func() *mcp.Call {
				return reading(1, func(p *mcp.Policy) { p.TTL, p.StaleRevalidate = time.Minute, stale })
			}
			want(t, h, read(), mcp.CacheMiss, "10")
			time.Sleep(2 * time.Minute)
			var wg sync.WaitGroup
			for range 10_000 {
				wg.Go(func() {
					if r, err := h(t.Context(), read()); err != nil || string(r.Fields) != "10" {
						t.Errorf("%s, %v", r.Fields, err)
					}
				})
			}
			wg.Wait()
			synctest.Wait()
			if db.runs.Load() != 2 {
				t.Errorf("stale for %s: the database was asked %d times", stale, db.runs.Load()-1)
			}
		}
	})
}

func TestJitter(t *testing.T) {
	t.Parallel()
	c, _ := newCache(t, func(cfg *Config) { cfg.L1.TTL = conf.Duration(time.Minute) })
	for chance, want := range map[float64]time.Duration{0: time.Minute, 0.5: 57 * time.Second, 0.999999: 54 * time.Second} {
		c.l1.chance = func() float64 { return chance }
		e := &Entry{Key: "k", Born: time.Now(), TTL: time.Hour}
		if stored, current := c.l1.put(e, e.Born); !stored || !current || e.life.Round(time.Millisecond) != want {
			t.Errorf("%v: lives %s, want %s", chance, e.life, want)
		}
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	c, n := newCache(t)
	db := &table{rows: map[int64]int64{1: 10, 2: 20}}
	h := c.Middleware(db.read)
	for i, purge := range []func() error{func() error { return c.Purge([]string{"row:1"}, nil) }, func() error { return c.Purge(nil, []string{"t"}) }, c.PurgeAll} {
		for id := range int64(2) {
			_, _ = h(t.Context(), reading(id+1))
			want(t, h, reading(id+1), mcp.CacheHit, strconv.FormatInt(10*(id+1), 10))
		}
		if err := purge(); err != nil {
			t.Error(err)
		}
		want(t, h, reading(1), mcp.CacheMiss, "10")
		second := mcp.CacheMiss
		if i == 0 {
			second = mcp.CacheHit
		}
		want(t, h, reading(2), second, "20")
	}
	if n.of(Purged) != 3 {
		t.Errorf("%d purges", n.of(Purged))
	}
}

func TestTop(t *testing.T) {
	t.Parallel()
	c, _ := newCache(t)
	db := &table{rows: map[int64]int64{1: 10, 2: 20, 3: 30}}
	h := c.Middleware(db.read)
	for id := range int64(4) {
		for range id + 1 {
			_, _ = h(t.Context(), reading(id))
		}
	}
	top := c.Top(2)
	if len(top) != 2 || top[0].Hits != 3 || string(top[0].Arguments) != "[3]" || top[0].Target != "t" || !top[0].Fresh || string(top[1].Arguments) != "[2]" {
		t.Errorf("%+v", top)
	}
	if all := c.Top(1 << 30); len(all) != 3 { // 0 was asked for once: no hit
		t.Errorf("%+v", all)
	}
	if err := c.PurgeAll(); err != nil {
		t.Error(err)
	}
	if top := c.Top(2); len(top) != 0 {
		t.Errorf("void, and shown: %+v", top)
	}
}

// Tags are versions by their hash: what shares one is made void together, and no other.
func TestTags(t *testing.T) {
	t.Parallel()
	tags := NewTags()
	a, b := "a", "b"
	for i := 0; tags.stripe(a) == tags.stripe(b); i++ {
		b = fmt.Sprint("b", i)
	}
	twin := ""
	for i := 0; twin == ""; i++ {
		if s := fmt.Sprint("twin", i); tags.stripe(s) == tags.stripe(a) {
			twin = s
		}
	}
	ofA, ofB := tags.stamps([]string{a}), tags.stamps([]string{b})
	w := tags.begin([]string{a, twin, a})
	if tags.current(ofA) || !tags.current(ofB) || len(w.marks) != 1 {
		t.Error("a write makes void what it names, and nothing else")
	}
	during := tags.stamps([]string{a})
	alone := w.end()
	if busy := tags.busy(during); !busy {
		t.Error("a write that is not settled is not busy")
	}
	w.settle()
	if !alone || tags.busy(during) || tags.current(during) {
		t.Error("what was read during a write is void after it")
	}
	if s := w.restamp(append(during, ofB...)); !tags.current(s) {
		t.Error("what a write returned alone is current")
	}
	first, second := tags.begin([]string{a}), tags.begin([]string{a})
	if second.end() || first.end() {
		t.Error("of two at a time none is alone")
	}
	if v := tags.stamps([]string{a})[0].version; max(first.marks[0].version, second.marks[0].version) != v {
		t.Errorf("version %d, and other levels are told of %d and %d", v, first.marks[0].version, second.marks[0].version)
	}
	tags.learn(tags.stripe(b), 1)
	if tags.current(ofB) {
		t.Error("what is older than what another process says is void")
	}
	tags.learn(tags.stripe(b), 7)
	tags.learn(tags.stripe(b), 3)
	if v := tags.stamps([]string{b})[0].version; v != 7 {
		t.Errorf("version %d, want the greatest that was learned", v)
	}
	// What everything or a whole target rests on shares its version with no row.
	if s := tags.stripe(everything); s < tagStripes || tags.stripe(targetTag("a")) < tagStripes || tags.stripe(targetTag("a")) == s || tags.stripe("row:1") >= tagStripes {
		t.Error("a row can make everything void")
	}
}
