package cache

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"millrace/internal/mcp"
)

// historyFor is how long TestHistories looks for a history that no single copy of the rows could have given: `make soak`
// looks for ten minutes.
var historyFor = flag.Duration("cache.histories", time.Second, "how long TestHistories looks")

// bug is a mistake that is planted on purpose, to see that histories show it.
type bug int

const (
	noBug        bug = iota
	untagged         // a read does not say what it rests on
	onlyBefore       // a write makes void what it changes before it, and not after it
	alwaysBelief     // a write's result is taken for the row whoever else wrote meanwhile
	bugCount
)

// operation is a read or a write of one row.
type operation struct {
	write bool
	id    int64
	value int64 // of a write
}

// model is what a database without a cache does: rows of one number each.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := map[int64][]porcupine.Operation{}
		for _, o := range history {
			id := o.Input.(operation).id
			parts[id] = append(parts[id], o)
		}
		var out [][]porcupine.Operation
		for _, p := range parts {
			out = append(out, p)
		}
		return out
	},
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		if o := input.(operation); o.write {
			return true, o.value
		}
		return output.(int64) == state.(int64), state
	},
	DescribeOperation: func(input, output any) string {
		if o := input.(operation); o.write {
			return fmt.Sprintf("write %d: %d", o.id, o.value)
		}
		return fmt.Sprintf("read %d: %d", input.(operation).id, output)
	},
}

// history lets some callers read and write a few rows through a cache, each step taking some time by chance, and gives what
// they saw.
func history(t *testing.T, seed uint64, planted bug) (out []porcupine.Operation) {
	synctest.Test(t, func(t *testing.T) {
		const callers, operations, rows = 6, 20, 2
		n := &counts{}
		cfg := DefaultConfig()
		cfg.L1.Size = 1 + int(seed%3) // some histories with evictions
		c, err := New(cfg, Deps{Tags: NewTags(), L1: n})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var mu sync.Mutex // guards chance and db
		chance := rand.New(rand.NewPCG(seed, 11))
		db := [rows]int64{}
		pause := func() {
			mu.Lock()
			d := time.Duration(chance.IntN(4))
			mu.Unlock()
			time.Sleep(d * time.Microsecond)
		}
		read := c.Middleware(func(_ context.Context, call *mcp.Call) (mcp.Result, error) {
			pause()
			mu.Lock()
			v := db[call.Args[0].Int]
			mu.Unlock()
			pause()
			return mcp.Result{Fields: strconv.AppendInt(nil, v, 10), Rows: mcp.RowsOne}, nil
		})
		reading := func(id int64) *mcp.Call {
			return reading(id, func(p *mcp.Policy) {
				if planted == untagged {
					p.Tags = nil
				}
			})
		}
		write := func(id, v int64, through bool) {
			work := func(context.Context, *mcp.Call) (mcp.Result, error) {
				pause()
				mu.Lock()
				db[id] = v
				mu.Unlock()
				pause()
				return mcp.Result{Fields: strconv.AppendInt(nil, v, 10), Rows: mcp.RowsOne}, nil
			}
			call := writing(id, through)
			if planted == onlyBefore {
				c.tags.Invalidate(tagOf(call.Args)...)
				call.Policy.Changes = nil
			}
			born := time.Now()
			r, err := c.Middleware(work)(context.Background(), call)
			if err != nil {
				t.Error(err)
			}
			if planted == alwaysBelief {
				of := reading(id)
				e := entryOf(of, r, born)
				e.stamps = c.tags.stamps(tagsOf(of))
				c.l1.put(e, e.Born)
			}
		}
		var clock, value atomic.Int64
		var wg sync.WaitGroup
		for caller := range callers {
			r := rand.New(rand.NewPCG(seed, uint64(caller)))
			wg.Go(func() {
				for range operations {
					id := r.Int64N(rows)
					o := porcupine.Operation{ClientId: caller, Input: operation{id: id}, Call: clock.Add(1)}
					switch k := r.IntN(100); {
					case k < 60:
						answer, err := read(context.Background(), reading(id))
						v, parse := strconv.ParseInt(string(answer.Fields), 10, 64)
						if err != nil || parse != nil {
							t.Error(err, parse)
						}
						o.Output = v
					case k < 95:
						v := value.Add(1)
						o.Input = operation{write: true, id: id, value: v}
						write(id, v, k%2 == 0)
					default:
						c.Purge(tagOf([]mcp.Value{{Kind: mcp.KindInt, Int: id}}), nil)
						continue
					}
					o.Return = clock.Add(1)
					mu.Lock()
					out = append(out, o)
					mu.Unlock()
					time.Sleep(time.Duration(r.IntN(3)) * time.Microsecond)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
	})
	return out
}

// With the stale modes off, callers of one node see what a single copy of the rows could have shown them.
func TestHistories(t *testing.T) {
	t.Parallel()
	first := rand.Uint64()
	seed, until := first, time.Now().Add(*historyFor)
	for ; time.Now().Before(until); seed++ {
		if h := history(t, seed, noBug); !porcupine.CheckOperations(model, h) {
			t.Fatalf("seed %d gives a history that no database gives: %s", seed, describeHistory(h))
		}
	}
	t.Logf("seeds %d to %d: every history is one that a database gives", first, seed-1)
}

// The histories show each mistake that is planted.
func TestHistoriesShowMistakes(t *testing.T) {
	t.Parallel()
	for planted := noBug + 1; planted < bugCount; planted++ {
		seed := uint64(0)
		for porcupine.CheckOperations(model, history(t, seed, planted)) {
			if seed++; seed == 2000 {
				t.Errorf("mistake %d is not found in %d histories", planted, seed)
				break
			}
		}
		t.Logf("mistake %d shows at seed %d", planted, seed)
	}
}

func describeHistory(h []porcupine.Operation) (out string) {
	for _, o := range h {
		out += fmt.Sprintf("\n%4d to %4d, caller %d: %s", o.Call, o.Return, o.ClientId, model.DescribeOperation(o.Input, o.Output))
	}
	return out
}
