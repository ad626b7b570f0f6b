package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeebo/xxh3"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

type counts struct {
	n           [EventCount]atomic.Int64
	looks, aged atomic.Int64
	told        atomic.Pointer[chan Event] // hears of each event for which it has room; nil for nobody
}

func (c *counts) Count(e Event) {
	c.n[e].Add(1)
	if told := c.told.Load(); told != nil {
		select {
		case *told <- e:
		default:
		}
	}
}

func (c *counts) Looked(time.Duration) { c.looks.Add(1) }
func (c *counts) Aged(time.Duration)   { c.aged.Add(1) }
func (c *counts) of(e Event) int64     { return c.n[e].Load() }

// newCache makes a cache without chance: entries live as long as they may, and none is fetched early.
func newCache(t testing.TB, change ...func(*Config)) (*Cache, *counts) {
	t.Helper()
	cfg := DefaultConfig()
	for _, f := range change {
		f(&cfg)
	}
	n := &counts{}
	c, err := New(cfg, Deps{Tags: NewTags(), L1: n})
	if err != nil {
		t.Fatal(err)
	}
	c.l1.chance = func() float64 { return 0 }
	t.Cleanup(c.Close)
	return c, n
}

// call makes one of tool "t" with one integer argument.
func call(p *mcp.Principal, scope mcp.Scope, arg int64) *mcp.Call {
	return &mcp.Call{Caller: mcp.Caller{Principal: p}, Target: "t", Args: []mcp.Value{{Kind: mcp.KindInt, Int: arg}},
		Policy: &mcp.Policy{Cacheable: true, Scope: scope, TTL: time.Hour, Timeout: time.Minute}}
}

func answer(text string) mcp.Result { return mcp.Result{Fields: []byte(text)} }

// echo answers with the caller and the argument, and counts its runs.
func echo(runs *atomic.Int64) mcp.Handler {
	return func(_ context.Context, c *mcp.Call) (mcp.Result, error) {
		runs.Add(1)
		return answer(fmt.Sprintf("%s/%s/%v/%d", c.Caller.Tenant, c.Caller.Subject, c.Caller.Scopes, c.Args[0].Int)), nil
	}
}

func status(t *testing.T, h mcp.Handler, c *mcp.Call, want mcp.CacheStatus) mcp.Result {
	t.Helper()
	r, err := h(t.Context(), c)
	if err != nil || r.Cache.Status != want {
		t.Errorf("status %s, %v; want %s", r.Cache.Status, err, want)
	}
	return r
}

func TestHit(t *testing.T) {
	t.Parallel()
	c, n := newCache(t)
	var runs atomic.Int64
	h := c.Middleware(echo(&runs))
	status(t, h, call(mcp.Anonymous, mcp.ScopePublic, 1), mcp.CacheMiss)
	r := status(t, h, call(mcp.Anonymous, mcp.ScopePublic, 1), mcp.CacheHit)
	if r.Cache.Level != 1 || r.Cache.Age < 0 || runs.Load() != 1 || n.of(Hit) != 1 || n.of(Miss) != 1 {
		t.Errorf("%+v after %d runs, %d hits", r.Cache, runs.Load(), n.of(Hit))
	}
	status(t, h, call(mcp.Anonymous, mcp.ScopePublic, 2), mcp.CacheMiss)
	if r, ok := c.Ready(call(mcp.Anonymous, mcp.ScopePublic, 2), time.Now()); !ok || string(r.Fields) != "/anonymous/[]/2" {
		t.Errorf("not at hand: %s", r.Fields)
	}
}

// Nobody ever gets what was made for somebody else: the gate of every release.
func TestIdentitiesAreKeptApart(t *testing.T) {
	t.Parallel()
	people := []*mcp.Principal{mcp.Anonymous, mcp.NewPrincipal("acme", "ann", []string{"read"}), mcp.NewPrincipal("acme", "bob", []string{"read"}),
		mcp.NewPrincipal("acme", "ann", []string{"read", "write"}), mcp.NewPrincipal("other", "ann", []string{"read"}), mcp.NewPrincipal("acme", "ann", []string{"write"}),
		mcp.NewPrincipal("acmeann", "", []string{"read"}), mcp.NewPrincipal("", "acmeann", []string{"read"})}
	shares := func(s mcp.Scope, a, b *mcp.Principal) bool {
		tenants := a.Tenant == b.Tenant && fmt.Sprint(a.Scopes) == fmt.Sprint(b.Scopes)
		return s == mcp.ScopePublic || tenants && (s == mcp.ScopeTenant || a.Subject == b.Subject)
	}
	for _, scope := range []mcp.Scope{mcp.ScopePrivate, mcp.ScopeTenant, mcp.ScopePublic} {
		for i, a := range people {
			for j, b := range people {
				c, _ := newCache(t)
				var runs atomic.Int64
				h := c.Middleware(echo(&runs))
				status(t, h, call(a, scope, 7), mcp.CacheMiss)
				want := mcp.CacheMiss
				if shares(scope, a, b) {
					want = mcp.CacheHit
				}
				if r, err := h(t.Context(), call(b, scope, 7)); err != nil || r.Cache.Status != want {
					t.Errorf("%s: %d after %d: %s, want %s", scope, j, i, r.Cache.Status, want)
				}
			}
		}
	}
}

func TestWhatIsNotStored(t *testing.T) {
	t.Parallel()
	failure := errors.New("no")
	for name, h := range map[string]mcp.Handler{
		"error":   func(context.Context, *mcp.Call) (mcp.Result, error) { return mcp.Result{}, failure },
		"isError": func(context.Context, *mcp.Call) (mcp.Result, error) { return mcp.Result{IsError: true}, nil },
		"question": func(context.Context, *mcp.Call) (mcp.Result, error) {
			return mcp.Result{Input: &mcp.InputRequired{}}, nil
		},
		"panic": func(context.Context, *mcp.Call) (mcp.Result, error) { panic("bug") },
	} {
		c, n := newCache(t)
		served := c.Middleware(h)
		for range 2 {
			_, err := served(t.Context(), call(mcp.Anonymous, mcp.ScopePublic, 1))
			if (name == "error") != errors.Is(err, failure) || (name == "panic") != (err != nil && strings.Contains(err.Error(), "bug")) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n.of(Miss) != 2 || n.of(Hit) != 0 {
			t.Errorf("%s: %d misses, %d hits", name, n.of(Miss), n.of(Hit))
		}
	}
	c, n := newCache(t)
	var runs atomic.Int64
	h := c.Middleware(echo(&runs))
	retry, huge, plain := call(mcp.Anonymous, mcp.ScopePublic, 1), call(mcp.Anonymous, mcp.ScopePublic, 1), call(mcp.Anonymous, mcp.ScopePublic, 1)
	retry.Answer, huge.NoStore, plain.Policy = &mcp.Answer{}, true, &mcp.Policy{Scope: mcp.ScopePublic, TTL: time.Hour, Timeout: time.Minute}
	status(t, h, call(mcp.Anonymous, mcp.ScopePublic, 1), mcp.CacheMiss) // there is an entry, and still:
	runs.Store(0)
	for range 2 {
		for _, never := range []*mcp.Call{retry, huge, plain} {
			if r, ok := c.Ready(never, time.Now()); ok {
				t.Errorf("at hand: %s", r.Fields)
			}
		}
		status(t, h, retry, mcp.CacheBypass)
		status(t, h, huge, mcp.CacheBypass)
		status(t, h, plain, mcp.CacheNone)
	}
	if runs.Load() != 6 || n.of(Bypass) != 4 {
		t.Errorf("%d runs, %d bypassed", runs.Load(), n.of(Bypass))
	}
}

func TestFreshness(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		level, tool, age time.Duration
		fresh            bool
	}{
		{time.Minute, time.Second, 900 * time.Millisecond, true}, {time.Minute, time.Second, time.Second, false},
		{time.Second, time.Minute, 900 * time.Millisecond, true}, {time.Second, time.Minute, time.Second, false},
	} {
		cache, _ := newCache(t, func(cfg *Config) { cfg.L1.TTL = conf.Duration(c.level) })
		one := call(mcp.Anonymous, mcp.ScopePublic, 1)
		one.Policy.TTL = c.tool
		status(t, cache.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) { return answer("x"), nil }), one, mcp.CacheMiss)
		born := time.Now()
		if e := cache.l1.get(one.Key(), born); e != nil {
			born = e.Born
		}
		if _, ok := cache.Ready(one, born.Add(c.age)); ok != c.fresh {
			t.Errorf("level %s, tool %s, age %s: fresh is %t", c.level, c.tool, c.age, ok)
		}
	}
}

// The same through the whole way, by the clock: otter's own expiry takes part. What is no longer fresh is no longer held.
func TestLife(t *testing.T) {
	t.Parallel()
	const work = time.Second
	for _, c := range []struct{ level, tool, life time.Duration }{
		{time.Minute, 10 * time.Second, 10 * time.Second}, {10 * time.Second, time.Minute, 10 * time.Second},
		{time.Minute, math.MaxInt64, time.Minute}, {math.MaxInt64, math.MaxInt64, time.Hour},
		{time.Minute, work / 2, 0}, {time.Minute, 0, 0}, {time.Minute, -1, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			cache, _ := newCache(t, func(cfg *Config) { cfg.L1.TTL = conf.Duration(c.level) })
			var runs atomic.Int64
			h := cache.Middleware(func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
				time.Sleep(work) // a result is as old as the start of its work
				return echo(&runs)(ctx, call)
			})
			one := call(mcp.Anonymous, mcp.ScopePublic, 1)
			one.Policy.TTL = c.tool
			status(t, h, one, mcp.CacheMiss)
			if c.life > 0 {
				time.Sleep(c.life - work - 1)
				if r := status(t, h, one, mcp.CacheHit); r.Cache.Age != c.life-1 {
					t.Errorf("level %s, tool %s: the age is %s", c.level, c.tool, r.Cache.Age)
				}
				time.Sleep(time.Nanosecond)
			}
			if c.life < time.Hour {
				status(t, h, one, mcp.CacheMiss)
			}
			if c.life > 0 { // what took its place is stored as well
				status(t, h, one, mcp.CacheHit)
			}
			time.Sleep(c.life + 2*time.Second) // otter's wheel turns in steps of about a second
			cache.l1.entries.CleanUp()
			if n, _ := cache.Size(); c.life < time.Hour && n != 0 {
				t.Errorf("level %s, tool %s: %d entries that nobody may have are held", c.level, c.tool, n)
			}
		})
	}
}

// A hash that two keys share serves neither with the other's result.
func TestCollision(t *testing.T) {
	t.Parallel()
	c, _ := newCache(t)
	var runs atomic.Int64
	h := c.Middleware(echo(&runs))
	one := call(mcp.Anonymous, mcp.ScopePublic, 1)
	c.l1.entries.Set(xxh3.Hash128Seed(one.Key(), c.l1.seed), &Entry{Result: answer("another's"), Key: "another", Born: time.Now(), TTL: time.Hour, life: time.Hour})
	for _, want := range []mcp.CacheStatus{mcp.CacheMiss, mcp.CacheHit} {
		if r := status(t, h, one, want); string(r.Fields) != "/anonymous/[]/1" {
			t.Errorf("got %s", r.Fields)
		}
	}
}

// An entry that expired between the look-up that missed it and the flight is not what the flight brings.
func TestAFlightBringsNothingStale(t *testing.T) {
	t.Parallel()
	c, _ := newCache(t)
	var runs atomic.Int64
	h := c.Middleware(echo(&runs))
	one := call(mcp.Anonymous, mcp.ScopePublic, 1)
	hash := xxh3.Hash128Seed(one.Key(), c.l1.seed)
	c.l1.entries.Set(hash, &Entry{Result: answer("stale"), Key: string(one.Key()), Born: time.Now().Add(-2 * time.Hour), TTL: time.Hour, life: time.Hour})
	for _, want := range []mcp.CacheStatus{mcp.CacheMiss, mcp.CacheHit} {
		if r := status(t, h, one, want); string(r.Fields) != "/anonymous/[]/1" {
			t.Errorf("got %s", r.Fields)
		}
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	c, _ := newCache(t, func(cfg *Config) { cfg.L1.Size, cfg.L1.MaxBytes = 100, 1<<20 })
	small := c.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) { return answer("x"), nil })
	for i := range int64(1000) {
		status(t, small, call(mcp.Anonymous, mcp.ScopePublic, i), mcp.CacheMiss)
	}
	c.l1.entries.CleanUp()
	if n, _ := c.Size(); n > 100 {
		t.Errorf("%d entries", n)
	}
	large := c.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) { return answer(strings.Repeat("x", 100<<10)), nil })
	for i := range int64(100) {
		status(t, large, call(mcp.Anonymous, mcp.ScopePublic, 10000+i), mcp.CacheMiss)
	}
	c.l1.entries.CleanUp()
	if n, bytes := c.Size(); bytes > 1<<20 || n == 0 {
		t.Errorf("%d entries of %d bytes", n, bytes)
	}
	huge := c.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) { return answer(strings.Repeat("x", 2<<20)), nil })
	for range 2 {
		if r := status(t, huge, call(mcp.Anonymous, mcp.ScopePublic, -1), mcp.CacheMiss); len(r.Fields) != 2<<20 {
			t.Errorf("a result beyond the bound comes with %d bytes", len(r.Fields))
		}
		c.l1.entries.CleanUp()
		if _, bytes := c.Size(); bytes > 1<<20 {
			t.Errorf("%d bytes with a result beyond the bound", bytes)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	c := Config{L1: L1Config{Size: 0, TTL: 0, MaxBytes: -1}}
	if faults := c.Validate(); len(faults) != 8 {
		t.Errorf("got %v", faults)
	}
	c = DefaultConfig()
	if faults := c.Validate(); len(faults) != 0 {
		t.Errorf("the defaults have %v", faults)
	}
}

// L1 takes as much memory as it may, and not much more, whatever the size of its values.
func TestMemory(t *testing.T) {
	const most = 32 << 20
	live := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for _, size := range []int{100, 1000, 10_000, 100_000, 1 << 20} {
		before := live()
		c, _ := newCache(t, func(cfg *Config) { cfg.L1.Size, cfg.L1.MaxBytes = most/100, most })
		h := c.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) {
			return mcp.Result{Fields: make([]byte, size), Rows: mcp.RowsOne}, nil
		})
		for id := range int64(2 * most / (size + 300)) {
			if _, err := h(t.Context(), call(mcp.Anonymous, mcp.ScopePublic, id)); err != nil {
				t.Fatal(err)
			}
		}
		c.l1.entries.CleanUp()
		entries, bytes := c.Size()
		took := live() - before
		t.Logf("values of %d bytes: %d entries, said to have %d bytes, take %.0f", size, entries, bytes, took)
		if took > 1.1*most || bytes > most || took < 0.5*most {
			t.Errorf("values of %d bytes take %.0f %% of the bound, and are said to take %.0f %%", size, 100*took/most, 100*float64(bytes)/most)
		}
		runtime.KeepAlive(c)
		c.Close()
	}
}

// A compressed form that is kept with an entry counts as its bytes.
func TestPackedFormsCount(t *testing.T) {
	t.Parallel()
	c, _ := newCache(t)
	h := c.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) {
		return answer(strings.Repeat("x", 2*packAbove)), nil
	})
	one := call(mcp.Anonymous, mcp.ScopePublic, 1)
	status(t, h, one, mcp.CacheMiss)
	r := status(t, h, one, mcp.CacheHit)
	c.l1.entries.CleanUp()
	_, before := c.Size()
	form := bytes.Repeat([]byte("y"), 200_000) // more than an entry's least share
	for range 2 {
		if got := r.Packed.Form(mcp.PackGzip, func() []byte { return form }); !bytes.Equal(got, form) {
			t.Errorf("a form of %d bytes", len(got))
		}
	}
	c.l1.entries.CleanUp()
	if _, after := c.Size(); after < before+100_000 {
		t.Errorf("%d bytes, and %d with the form", before, after)
	}
	status(t, h, one, mcp.CacheHit)
}
