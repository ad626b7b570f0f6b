package cache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type counts struct{ hits, misses, coalesced, bypassed atomic.Int64 }

func (c *counts) Hit()       { c.hits.Add(1) }
func (c *counts) Miss()      { c.misses.Add(1) }
func (c *counts) Coalesced() { c.coalesced.Add(1) }
func (c *counts) Bypass()    { c.bypassed.Add(1) }

func newCache(t testing.TB, change ...func(*Config)) (*Cache, *counts) {
	t.Helper()
	cfg := DefaultConfig()
	for _, f := range change {
		f(&cfg)
	}
	n := &counts{}
	c, err := New(cfg, n)
	if err != nil {
		t.Fatal(err)
	}
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
	if r.Cache.Level != 1 || r.Cache.Age < 0 || runs.Load() != 1 || n.hits.Load() != 1 || n.misses.Load() != 1 {
		t.Errorf("%+v after %d runs, %d hits", r.Cache, runs.Load(), n.hits.Load())
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
		mcp.NewPrincipal("acme", "ann", []string{"read", "write"}), mcp.NewPrincipal("other", "ann", []string{"read"}),
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
		if n.misses.Load() != 2 || n.hits.Load() != 0 {
			t.Errorf("%s: %d misses, %d hits", name, n.misses.Load(), n.hits.Load())
		}
	}
	c, n := newCache(t)
	var runs atomic.Int64
	h := c.Middleware(echo(&runs))
	retry, huge, plain := call(mcp.Anonymous, mcp.ScopePublic, 1), call(mcp.Anonymous, mcp.ScopePublic, 1), call(mcp.Anonymous, mcp.ScopePublic, 1)
	retry.Answer, huge.NoStore, plain.Policy = &mcp.Answer{}, true, &mcp.Policy{Timeout: time.Minute}
	for range 2 {
		status(t, h, retry, mcp.CacheBypass)
		status(t, h, huge, mcp.CacheBypass)
		status(t, h, plain, mcp.CacheNone)
	}
	if runs.Load() != 6 || n.bypassed.Load() != 4 {
		t.Errorf("%d runs, %d bypassed", runs.Load(), n.bypassed.Load())
	}
}

func TestOneRunForAllWhoWait(t *testing.T) {
	t.Parallel()
	c, n := newCache(t)
	var runs atomic.Int64
	gate := make(chan struct{})
	h := c.Middleware(func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
		runs.Add(1)
		<-gate
		return answer("x"), ctx.Err()
	})
	// The first caller leaves at once; that stops nothing.
	first, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := h(first, call(mcp.Anonymous, mcp.ScopePublic, 1))
		left <- err
	}()
	for n.misses.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the first caller got %v", err)
	}
	var wg sync.WaitGroup
	const callers = 1000
	for range callers {
		wg.Go(func() {
			if r, err := h(t.Context(), call(mcp.Anonymous, mcp.ScopePublic, 1)); err != nil || string(r.Fields) != "x" {
				t.Errorf("got %s, %v", r.Fields, err)
			}
		})
	}
	for n.coalesced.Load() < callers {
		time.Sleep(time.Millisecond)
	}
	close(gate)
	wg.Wait()
	if runs.Load() != 1 {
		t.Errorf("%d runs", runs.Load())
	}
}

// A flight's call outlives the request that brought it: nothing of it may point into the request's buffer.
func TestAFlightKeepsItsOwnArguments(t *testing.T) {
	t.Parallel()
	c, n := newCache(t)
	gate := make(chan struct{})
	h := c.Middleware(func(_ context.Context, call *mcp.Call) (mcp.Result, error) {
		<-gate
		return answer(string(call.Args[0].Text)), nil
	})
	buffer := []byte("good")
	one := call(mcp.Anonymous, mcp.ScopePublic, 0)
	one.Args[0] = mcp.Value{Kind: mcp.KindText, Text: buffer}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h(ctx, one); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	copy(buffer, "evil") // the buffer serves the next request
	two := call(mcp.Anonymous, mcp.ScopePublic, 0)
	two.Args[0] = mcp.Value{Kind: mcp.KindText, Text: []byte("good")}
	done := make(chan mcp.Result, 1)
	go func() {
		r, _ := h(t.Context(), two)
		done <- r
	}()
	for n.coalesced.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(gate)
	if r := <-done; string(r.Fields) != "good" {
		t.Errorf("got %s", r.Fields)
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
		if e, ok := cache.l1.Get(t.Context(), one.Key(), born); ok {
			born = e.Born
		}
		if _, ok := cache.Ready(one, born.Add(c.age)); ok != c.fresh {
			t.Errorf("level %s, tool %s, age %s: fresh is %t", c.level, c.tool, c.age, ok)
		}
	}
}

// A hash that two keys share serves neither with the other's result.
func TestCollision(t *testing.T) {
	t.Parallel()
	c, _ := newCache(t)
	var runs atomic.Int64
	h := c.Middleware(echo(&runs))
	one := call(mcp.Anonymous, mcp.ScopePublic, 1)
	c.l1.entries.Set(xxh3.Hash128Seed(one.Key(), c.l1.seed), &Entry{Result: answer("another's"), Key: "another", Born: time.Now(), TTL: time.Hour})
	for range 2 {
		if r := status(t, h, one, mcp.CacheMiss); string(r.Fields) != "/anonymous/[]/1" {
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
	if _, bytes := c.Size(); bytes > 1<<20 {
		t.Errorf("%d bytes", bytes)
	}
}

// The same operations answer alike with the cache and without.
func TestModel(t *testing.T) {
	t.Parallel()
	people := []*mcp.Principal{mcp.Anonymous, mcp.NewPrincipal("a", "x", nil), mcp.NewPrincipal("a", "y", nil), mcp.NewPrincipal("b", "x", []string{"s"})}
	rapid.Check(t, func(rt *rapid.T) {
		cfg := DefaultConfig()
		cfg.L1.Size = 4
		c, err := New(cfg, &counts{})
		if err != nil {
			rt.Fatal(err)
		}
		defer c.Close()
		direct := func(_ context.Context, c *mcp.Call) (mcp.Result, error) {
			who := string(c.Caller.ScopeKey(c.Policy.Scope))
			if c.Args[0].Int == 3 {
				return mcp.Result{}, errors.New("three")
			}
			return answer(strconv.Quote(who) + strconv.FormatInt(c.Args[0].Int, 10)), nil
		}
		cached := c.Middleware(direct)
		for range rapid.IntRange(1, 60).Draw(rt, "operations") {
			p := rapid.SampledFrom(people).Draw(rt, "caller")
			scope := rapid.SampledFrom([]mcp.Scope{mcp.ScopePrivate, mcp.ScopeTenant, mcp.ScopePublic}).Draw(rt, "scope")
			arg := rapid.Int64Range(0, 6).Draw(rt, "argument")
			want, wantErr := direct(context.Background(), call(p, scope, arg))
			got, err := cached(context.Background(), call(p, scope, arg))
			if string(got.Fields) != string(want.Fields) || (err == nil) != (wantErr == nil) {
				rt.Fatalf("got %s, %v; want %s, %v", got.Fields, err, want.Fields, wantErr)
			}
		}
	})
}

func TestReadyAllocatesNothing(t *testing.T) {
	c, _ := newCache(t)
	var runs atomic.Int64
	one := call(mcp.Anonymous, mcp.ScopePublic, 1)
	status(t, c.Middleware(echo(&runs)), one, mcp.CacheMiss)
	now := time.Now()
	if n := testing.AllocsPerRun(1000, func() {
		if _, ok := c.Ready(one, now); !ok {
			t.Fatal("no hit")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkReady(b *testing.B) {
	c, _ := newCache(b)
	var runs atomic.Int64
	if _, err := c.Middleware(echo(&runs))(b.Context(), call(mcp.Anonymous, mcp.ScopePublic, 1)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		one, now := call(mcp.Anonymous, mcp.ScopePublic, 1), time.Now()
		for pb.Next() {
			if _, ok := c.Ready(one, now); !ok {
				b.Error("no hit")
			}
		}
	})
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	c := Config{L1: L1Config{Size: 0, TTL: 0, MaxBytes: -1}}
	if faults := c.Validate(); len(faults) != 3 {
		t.Errorf("got %v", faults)
	}
	c = DefaultConfig()
	if faults := c.Validate(); len(faults) != 0 {
		t.Errorf("the defaults have %v", faults)
	}
}
