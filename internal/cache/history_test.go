package cache

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"millrace/internal/mcp"
	"millrace/internal/sqldb"
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

// rowCount is how many rows a history is about.
const rowCount = 2

// rows is what a history's calls read and write, each step taking some time by chance: in memory, or with keepIn in a database.
type rows struct {
	mu     sync.Mutex // guards what follows
	chance *rand.Rand
	v      [rowCount]int64
	out    []porcupine.Operation

	get func(id int64) (int64, error)
	set func(id, v int64) error

	pause        func(d int) // takes 0 to d of whatever time is there
	clock, value atomic.Int64
}

func newRows(seed uint64, pause func(int)) *rows {
	d := &rows{chance: rand.New(rand.NewPCG(seed, 11)), pause: pause}
	d.get = func(id int64) (int64, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.v[id], nil
	}
	d.set = func(id, v int64) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.v[id] = v
		return nil
	}
	return d
}

// keepIn moves the rows into a database.
func (d *rows) keepIn(t *testing.T, p *place) {
	p.exec(t, "CREATE TABLE history (id bigint PRIMARY KEY, v bigint NOT NULL)")
	for id := range rowCount {
		p.exec(t, fmt.Sprintf("INSERT INTO history VALUES (%d, 0)", id))
	}
	id, v := sqldb.Param{Name: "id", Type: "integer"}, sqldb.Param{Name: "v", Type: "integer"}
	compile := func(text string, mode sqldb.Mode, params ...sqldb.Param) sqldb.Query {
		q, err := p.source.Compile(sqldb.Spec{Name: "history", Text: text, Params: params, Mode: mode, Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	run := func(q sqldb.Query, args ...int64) (int64, error) {
		x := sqldb.Execution{Deadline: time.Now().Add(time.Minute)}
		for _, a := range args {
			x.Args = append(x.Args, mcp.Value{Kind: mcp.KindInt, Int: a})
		}
		out, _, err := q.Run(context.Background(), nil, &x)
		if err != nil {
			return 0, err
		}
		var got struct{ Rows []struct{ V int64 } }
		if err := json.Unmarshal(out, &got); err != nil || len(got.Rows) != 1 {
			return 0, fmt.Errorf("%s: %v", out, err)
		}
		return got.Rows[0].V, nil
	}
	get, set := compile("SELECT v FROM history WHERE id = :id", sqldb.ReadOnly, id), compile("UPDATE history SET v = :v WHERE id = :id RETURNING v", sqldb.ReadWrite, id, v)
	d.get = func(id int64) (int64, error) { return run(get, id) }
	d.set = func(id, v int64) error {
		_, err := run(set, id, v)
		return err
	}
}

func (d *rows) wait(most int) {
	d.mu.Lock()
	n := d.chance.IntN(most)
	d.mu.Unlock()
	d.pause(n)
}

func result(v int64) mcp.Result {
	return mcp.Result{Fields: strconv.AppendInt(nil, v, 10), Rows: mcp.RowsOne}
}

func (d *rows) read(_ context.Context, call *mcp.Call) (mcp.Result, error) {
	d.wait(4)
	v, err := d.get(call.Args[0].Int)
	d.wait(4)
	return result(v), err
}

func (d *rows) write(id, v int64) mcp.Handler {
	return func(context.Context, *mcp.Call) (mcp.Result, error) {
		d.wait(4)
		err := d.set(id, v)
		d.wait(4)
		return result(v), err
	}
}

// call lets callers read and write through a cache, and notes what they saw.
func (d *rows) call(t *testing.T, c *Cache, seed uint64, callers, operations int, planted bug) {
	read := c.Middleware(d.read)
	reading := func(id int64) *mcp.Call {
		return reading(id, func(p *mcp.Policy) {
			if planted == untagged {
				p.Tags = nil
			}
		})
	}
	write := func(id, v int64, through bool) {
		call := writing(id, through)
		if planted == onlyBefore {
			_ = c.invalidate(tagOf(call.Args))
			call.Policy.Changes = nil
		}
		born := time.Now()
		r, err := c.Middleware(d.write(id, v))(context.Background(), call)
		if err != nil {
			t.Error(err)
		}
		if planted == alwaysBelief {
			of := reading(id)
			e := entryOf(of, r, born, 0)
			e.stamps = c.tags.stamps(c.tagsOf(of))
			c.l1.put(e, e.Born)
		}
	}
	var wg sync.WaitGroup
	for caller := range callers {
		r := rand.New(rand.NewPCG(seed, uint64(caller)))
		wg.Go(func() {
			for range operations {
				id := r.Int64N(rowCount)
				o := porcupine.Operation{ClientId: caller, Input: operation{id: id}, Call: d.clock.Add(1)}
				switch k := r.IntN(100); {
				case k < 60:
					answer, err := read(context.Background(), reading(id))
					v, parse := strconv.ParseInt(string(answer.Fields), 10, 64)
					if err != nil || parse != nil {
						t.Error(err, parse)
					}
					o.Output = v
				case k < 95:
					v := d.value.Add(1)
					o.Input = operation{write: true, id: id, value: v}
					write(id, v, k%2 == 0)
				default:
					if err := c.Purge(tagOf([]mcp.Value{{Kind: mcp.KindInt, Int: id}}), nil); err != nil && !errors.Is(err, errOwed) { // beside other tests a database may be slow
						t.Error(err)
					}
					continue
				}
				o.Return = d.clock.Add(1)
				d.mu.Lock()
				d.out = append(d.out, o)
				d.mu.Unlock()
				d.pause(r.IntN(3))
			}
		})
	}
	wg.Wait()
}

// history lets some callers read and write a few rows through a cache, in a time of its own, and gives what they saw.
func history(t *testing.T, seed uint64, planted bug) (out []porcupine.Operation) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.L1.Size = 1 + int(seed%3) // some histories with evictions
		c, err := New(cfg, Deps{Tags: NewTags(), L1: &counts{}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		d := newRows(seed, func(n int) { time.Sleep(time.Duration(n) * time.Microsecond) })
		d.call(t, c, seed, 6, 20, planted)
		synctest.Wait()
		out = d.out
	})
	return out
}

// With a level in a database the same holds, and from one process to the next.
func TestHistoriesOverRestarts(t *testing.T) {
	onEach(t, func(t *testing.T, p *place) {
		seed := rand.Uint64()
		d := newRows(seed, func(n int) {
			for range n * n {
				runtime.Gosched()
			}
		})
		for process := range uint64(8) {
			c := start(t, p, func(c *Config) { c.L1.Size = 1 + int(process%2) })
			d.call(t, c.Cache, seed+process, 4, 10, noBug)
			c.Close()
			if c.l3.owes() {
				t.Logf("%d statements failed, and the database was never told of what is void: the next process cannot know", c.n3.of(Failed))
				break
			}
		}
		if !porcupine.CheckOperations(model, d.out) {
			t.Fatalf("seed %d gives a history that no database gives: %s", seed, describeHistory(d.out))
		}
	})
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
