package cache

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/mcp"
)

// gated is a handler that counts its runs and ends when its gate is closed, with end's answer.
type gated struct {
	runs atomic.Int64
	gate chan struct{}
	end  mcp.Handler
}

func (g *gated) handle(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
	g.runs.Add(1)
	<-g.gate
	return g.end(ctx, c)
}

func newGated(end mcp.Handler) *gated { return &gated{gate: make(chan struct{}), end: end} }

func text(context.Context, *mcp.Call) (mcp.Result, error) { return answer("x"), nil }

func TestOneRunForAllWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, n := newCache(t)
		work := newGated(func(ctx context.Context, _ *mcp.Call) (mcp.Result, error) { return answer("x"), ctx.Err() })
		h := c.Middleware(work.handle)
		// The first caller leaves at once; that stops nothing.
		first, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := h(first, call(mcp.Anonymous, mcp.ScopePublic, 1))
			left <- err
		}()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the first caller got %v", err)
		}
		var wg sync.WaitGroup
		const callers = 1000
		for range callers {
			wg.Go(func() { status(t, h, call(mcp.Anonymous, mcp.ScopePublic, 1), mcp.CacheCoalesced) })
		}
		synctest.Wait()
		close(work.gate)
		wg.Wait()
		if work.runs.Load() != 1 || n.of(Miss) != 1 || n.of(Coalesced) != callers {
			t.Errorf("%d runs, %d misses, %d coalesced", work.runs.Load(), n.of(Miss), n.of(Coalesced))
		}
		status(t, h, call(mcp.Anonymous, mcp.ScopePublic, 1), mcp.CacheHit)
	})
}

// Callers who race freely, with nothing to hold them together, share one run as well.
func TestOneRunForAStampede(t *testing.T) {
	t.Parallel()
	c, n := newCache(t)
	var runs atomic.Int64
	h := c.Middleware(echo(&runs))
	var wg sync.WaitGroup
	start := make(chan struct{})
	const callers = 1000
	for range callers {
		wg.Go(func() {
			<-start
			if r, err := h(t.Context(), call(mcp.Anonymous, mcp.ScopePublic, 1)); err != nil || string(r.Fields) != "/anonymous/[]/1" {
				t.Errorf("got %s, %v", r.Fields, err)
			}
		})
	}
	close(start)
	wg.Wait()
	if all := n.of(Hit) + n.of(Miss) + n.of(Coalesced); runs.Load() != 1 || all != callers {
		t.Errorf("%d runs, %d of %d callers counted", runs.Load(), all, callers)
	}
}

// A flight is shared as a stored result is: at the scope of its key and no wider.
func TestFlightsOfIdentitiesAreKeptApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCache(t)
		var runs atomic.Int64
		work := newGated(echo(&runs))
		h := c.Middleware(work.handle)
		var wg sync.WaitGroup
		for _, p := range []*mcp.Principal{mcp.NewPrincipal("a", "ann", nil), mcp.NewPrincipal("b", "ann", nil), mcp.NewPrincipal("a", "bob", nil)} {
			for range 2 {
				wg.Go(func() {
					r, err := h(t.Context(), call(p, mcp.ScopePrivate, 1))
					if want := p.Tenant + "/" + p.Subject + "/[]/1"; err != nil || string(r.Fields) != want {
						t.Errorf("%s got %s, %v", want, r.Fields, err)
					}
				})
			}
		}
		synctest.Wait()
		close(work.gate)
		wg.Wait()
		if runs.Load() != 3 {
			t.Errorf("%d runs for 3 callers", runs.Load())
		}
	})
}

// However a flight ends, all who wait hear of it, and the next caller starts anew.
func TestFailuresReachAllAndFreeTheFlight(t *testing.T) {
	t.Parallel()
	failure := errors.New("no")
	for name, c := range map[string]struct {
		end  mcp.Handler
		want string
	}{
		"error": {func(context.Context, *mcp.Call) (mcp.Result, error) { return mcp.Result{}, failure }, "no"},
		"panic": {func(context.Context, *mcp.Call) (mcp.Result, error) { panic("bug") }, "bug"},
		"exit":  {func(context.Context, *mcp.Call) (mcp.Result, error) { runtime.Goexit(); return mcp.Result{}, nil }, "without an answer"},
		"late": {func(ctx context.Context, _ *mcp.Call) (mcp.Result, error) {
			<-ctx.Done() // the policy's timeout
			return mcp.Result{}, ctx.Err()
		}, context.DeadlineExceeded.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cache, n := newCache(t)
				work := newGated(c.end)
				h := cache.Middleware(work.handle)
				for round := range int64(2) {
					var wg sync.WaitGroup
					for range 3 {
						wg.Go(func() {
							r, err := h(t.Context(), call(mcp.Anonymous, mcp.ScopePublic, 1))
							if err == nil || !strings.Contains(err.Error(), c.want) {
								t.Errorf("got %s, %v", r.Fields, err)
							}
						})
					}
					synctest.Wait()
					if round == 0 {
						close(work.gate)
					}
					wg.Wait()
				}
				if n.of(Hit) != 0 || len(cache.flights.running) != 0 {
					t.Errorf("%d hits, %d flights are left", n.of(Hit), len(cache.flights.running))
				}
				if r := work.runs.Load(); r < 2 || name == "late" && r != 2 {
					t.Errorf("%d runs", r)
				}
			})
		})
	}
}

func TestACancelledWaiterReturnsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCache(t)
		work := newGated(text)
		h := c.Middleware(work.handle)
		var wg sync.WaitGroup
		wg.Go(func() { status(t, h, call(mcp.Anonymous, mcp.ScopePublic, 1), mcp.CacheMiss) })
		synctest.Wait()
		start := time.Now()
		cause := errors.New("the caller's own reason")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		_, err := h(ctx, call(mcp.Anonymous, mcp.ScopePublic, 1))
		if since := time.Since(start); !errors.Is(err, cause) || since != time.Second {
			t.Errorf("after %s: %v", since, err)
		}
		close(work.gate)
		wg.Wait()
		if work.runs.Load() != 1 {
			t.Errorf("%d runs", work.runs.Load())
		}
	})
}

// A flight's call outlives the request that brought it: nothing of it may point into the request's buffer.
func TestAFlightKeepsItsOwnArguments(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, n := newCache(t)
		work := newGated(func(_ context.Context, call *mcp.Call) (mcp.Result, error) {
			return answer(string(call.Args[0].Text)), nil
		})
		h := c.Middleware(work.handle)
		buffer := []byte("good")
		one := call(mcp.Anonymous, mcp.ScopePublic, 0)
		one.Args[0] = mcp.Value{Kind: mcp.KindText, Text: buffer}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h(ctx, one); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		copy(buffer, "evil") // the buffer serves the next request
		one.Reset()
		two := call(mcp.Anonymous, mcp.ScopePublic, 0)
		two.Args[0] = mcp.Value{Kind: mcp.KindText, Text: []byte("good")}
		done := make(chan mcp.Result, 1)
		go func() {
			r, _ := h(t.Context(), two)
			done <- r
		}()
		synctest.Wait()
		close(work.gate)
		if r := <-done; string(r.Fields) != "good" || n.of(Coalesced) != 1 {
			t.Errorf("got %s, %d coalesced", r.Fields, n.of(Coalesced))
		}
	})
}
