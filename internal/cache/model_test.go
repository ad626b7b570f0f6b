package cache

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/internal/mcp"
)

// The same operations answer alike with the cache and without.
func TestModel(t *testing.T) {
	t.Parallel()
	people := []*mcp.Principal{mcp.Anonymous, mcp.NewPrincipal("a", "x", nil), mcp.NewPrincipal("a", "y", nil), mcp.NewPrincipal("b", "x", []string{"s"})}
	rapid.Check(t, func(rt *rapid.T) {
		cfg := DefaultConfig()
		cfg.L1.Size = 4
		c, err := New(cfg, Deps{Tags: NewTags(), L1: &counts{}})
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

// oneStored gives a cache with one entry, and the call that finds it.
func oneStored(t testing.TB) (*Cache, *mcp.Call) {
	t.Helper()
	c, _ := newCache(t)
	var runs atomic.Int64
	one := call(mcp.Anonymous, mcp.ScopePublic, 1)
	if _, err := c.Middleware(echo(&runs))(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	return c, one
}

func TestReadyAllocatesNothing(t *testing.T) {
	c, one := oneStored(t)
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
	b.Run("serial", func(b *testing.B) {
		c, one := oneStored(b)
		now := time.Now()
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := c.Ready(one, now); !ok {
				b.Fatal("no hit")
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		c, _ := oneStored(b)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			one, now := call(mcp.Anonymous, mcp.ScopePublic, 1), time.Now()
			for pb.Next() {
				if _, ok := c.Ready(one, now); !ok {
					b.Error("no hit")
				}
			}
		})
	})
}
