package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"millrace/internal/mcp"
)

// onLevels runs f on two nodes of each number of levels that several can share: L1 of one node alone, then with L2, with L3 in a
// database of each kind, and with all of them.
func onLevels(t *testing.T, f func(t *testing.T, nodes []*Cache)) {
	t.Parallel()
	for _, name := range []string{"one", "two", "three in sqlite", "three in postgres", "one and three"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			small := func(c *Config) { c.L1.Size = 5 } // so that the other levels are asked
			if name == "one" {
				c, _ := newCache(t)
				f(t, []*Cache{c})
				return
			}
			if name == "one and three" {
				f(t, []*Cache{start(t, places(t)["sqlite"], small).Cache})
				return
			}
			d := newDeployment(t)
			if kind, ok := strings.CutPrefix(name, "three in "); ok {
				d.place = places(t)[kind]
			}
			a, b := d.start(t, small), d.start(t, small)
			f(t, []*Cache{a.Cache, b.Cache})
			if hits := a.n2.of(Hit) + b.n2.of(Hit); hits == 0 {
				t.Error("nothing was found in the level that nodes share")
			}
			if d.place != nil && a.n3.of(Filled)+b.n3.of(Filled) == 0 {
				t.Error("nothing was kept in the database")
			}
		})
	}
}

// world is what calls read and write: one number for each row, which each caller sees in a way of its own.
type world struct {
	mu   sync.Mutex // guards rows
	rows map[int64]int64
}

// of gives what a call reads. It is the truth about a call's result, made without its key.
func (w *world) of(c *mcp.Call) string {
	w.mu.Lock()
	v := w.rows[c.Args[0].Int]
	w.mu.Unlock()
	who := ""
	p := c.Caller.Principal
	switch c.Policy.Scope {
	case mcp.ScopePrivate:
		who = fmt.Sprintf("%q %q %q", p.Tenant, p.Subject, p.Scopes)
	case mcp.ScopeTenant:
		who = fmt.Sprintf("%q %q", p.Tenant, p.Scopes)
	}
	return fmt.Sprintf("%s reads %d of %d by %s", who, v, c.Args[0].Int, c.Target)
}

// brokenRow is among a hundred rows the one that cannot be read, and is never written.
const brokenRow = 7

func (w *world) read(_ context.Context, c *mcp.Call) (mcp.Result, error) {
	if c.Args[0].Int%100 == brokenRow {
		return mcp.Result{}, errors.New("broken")
	}
	return mcp.Result{Fields: []byte(w.of(c)), Rows: mcp.RowsOne}, nil
}

func (w *world) write(id, v int64) mcp.Handler {
	return func(context.Context, *mcp.Call) (mcp.Result, error) {
		w.mu.Lock()
		w.rows[id] = v
		w.mu.Unlock()
		return mcp.Result{Fields: []byte(w.of(reading(id))), Rows: mcp.RowsOne}, nil
	}
}

// people differ in each of what makes a caller, and in no more than that.
var people = []*mcp.Principal{mcp.Anonymous, mcp.NewPrincipal("a", "x", nil), mcp.NewPrincipal("a", "y", nil), mcp.NewPrincipal("b", "x", nil),
	mcp.NewPrincipal("a", "x", []string{"s"}), mcp.NewPrincipal("", "ax", nil), mcp.NewPrincipal("ax", "", nil)}

var scopes = []mcp.Scope{mcp.ScopePrivate, mcp.ScopeTenant, mcp.ScopePublic}

// asking makes a call of one of two tools.
func asking(p *mcp.Principal, scope mcp.Scope, tool string, id int64) *mcp.Call {
	c := reading(id)
	c.Caller.Principal, c.Policy.Scope, c.Target = p, scope, tool
	return c
}

// TestModelOfLevels: one thing after the other, by any caller on any node, answers as it would without a cache.
func TestModelOfLevels(t *testing.T) {
	var bases atomic.Int64
	onLevels(t, func(t *testing.T, nodes []*Cache) {
		w := &world{rows: map[int64]int64{}}
		rapid.Check(t, func(rt *rapid.T) {
			base := bases.Add(100)
			for range rapid.IntRange(1, 40).Draw(rt, "operations") {
				c := nodes[rapid.IntRange(0, len(nodes)-1).Draw(rt, "node")]
				id := base + rapid.Int64Range(0, 6).Draw(rt, "id")
				switch rapid.SampledFrom([]string{"read", "read", "read", "read", "write", "put", "purge", "purge tool", "purge all"}).Draw(rt, "operation") {
				case "read":
					if rapid.IntRange(0, 9).Draw(rt, "broken") == 0 {
						id = base + brokenRow
					}
					call := asking(rapid.SampledFrom(people).Draw(rt, "caller"), rapid.SampledFrom(scopes).Draw(rt, "scope"), rapid.SampledFrom([]string{"t", "u"}).Draw(rt, "tool"), id)
					want := w.of(call)
					got, err := c.Middleware(w.read)(context.Background(), call)
					if bad := id%100 == brokenRow; bad != (err != nil) || !bad && string(got.Fields) != want {
						rt.Fatalf("%q, %v; want %q", got.Fields, err, want)
					}
				case "write":
					do(t, c, writing(id, false), w.write(id, rapid.Int64().Draw(rt, "value")))
				case "put":
					do(t, c, writing(id, true), w.write(id, rapid.Int64().Draw(rt, "value")))
				case "purge":
					_ = c.Purge(tagOf(reading(id).Args), nil) // an error is of a level that is slow beside other tests, and told later
				case "purge tool":
					_ = c.Purge(nil, []string{"t"})
				case "purge all":
					_ = c.PurgeAll()
				}
			}
		})
	})
}

// TestAcrossTenants: many callers at the same time, of many tenants, at every scope, get what is theirs.
func TestAcrossTenants(t *testing.T) {
	onLevels(t, func(t *testing.T, nodes []*Cache) {
		w := &world{rows: map[int64]int64{}}
		seed := rand.Uint64()
		var wg sync.WaitGroup
		for caller := range 8 {
			r := rand.New(rand.NewPCG(seed, uint64(caller)))
			wg.Go(func() {
				for range 400 {
					call := asking(people[r.IntN(len(people))], scopes[r.IntN(len(scopes))], []string{"t", "u"}[r.IntN(2)], r.Int64N(4))
					want := w.of(call)
					got, err := nodes[r.IntN(len(nodes))].Middleware(w.read)(context.Background(), call)
					if err != nil || string(got.Fields) != want || len(got.Fields) != len(want) {
						t.Errorf("seed %d: %q, %v; want %q", seed, got.Fields, err, want)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}
