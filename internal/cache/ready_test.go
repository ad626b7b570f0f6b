package cache

import (
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/mcp"
)

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
