package sqldb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/polltest"
)

// batched compiles a statement whose calls differ in its first parameter. sizes gets that of each batch.
func batched(t *testing.T, s Source, spec Spec, sizes func(int), change ...func(*Batch)) Query {
	t.Helper()
	spec.Batch = &Batch{BatchingConfig: BatchingConfig{MaxSize: 100, MaxWait: conf.Duration(time.Minute), Parallelism: 1}, Observe: sizes}
	for _, f := range change {
		f(spec.Batch)
	}
	if spec.MaxRows == 0 {
		spec.MaxRows, spec.MaxBytes = 100, 1<<20
	}
	return compile(t, s, spec)
}

// hold takes the places of the lane of a run, until free is called.
func hold(q Query, x *Execution) (free func()) {
	b := q.(*pgQuery).batch
	l := &lane{key: b.laneOf(x), running: b.cfg.Parallelism}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lanes[l.key] = l
	return func() {
		for range b.cfg.Parallelism {
			b.returned(l)
		}
	}
}

func (b *batcher) queued() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lanes {
		n += len(l.waiting)
	}
	return n
}

const things = `CREATE TABLE things (id int PRIMARY KEY, tenant text NOT NULL, name text NOT NULL, raw bytea, u uuid, code char(9));
	INSERT INTO things SELECT i, CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END, 'thing ' || i, decode(lpad(to_hex(i), 8, '0'), 'hex'), CAST(lpad(i::text, 32, '0') AS uuid), 'ABC' || i FROM generate_series(1, 500) AS i`

// What a batch gives each call is what the call alone gets: rows, none, many, in their order, cut, of every type of key.
func TestBatchesGiveWhatEachAloneGets(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, things, func(c *Config) { c.QueryTimeout = conf.Duration(time.Minute) })
	whole, words := []Param{{Name: "id", Type: "integer"}}, []Param{{Name: "id", Type: "string"}}
	for what, c := range map[string]struct {
		text   string
		params []Param
		args   func(i int) []mcp.Value
		rows   int
	}{
		"a row by its key":     {"SELECT * FROM things WHERE id = :id -- a comment", whole, func(i int) []mcp.Value { return ints(int64(400 + 5*i)) }, 10},
		"a number":             {"SELECT id FROM things WHERE id = :id;", []Param{{Name: "id", Type: "number"}}, func(i int) []mcp.Value { return []mcp.Value{{Kind: mcp.KindFloat, Float: float64(i)}} }, 10},
		"texts":                {"SELECT id, name FROM things WHERE name = :id OR name = 'thing 1' ORDER BY id DESC", words, func(i int) []mcp.Value { return []mcp.Value{text([]string{"thing 7", "NULL", `"\{,`, ""}[i%4])} }, 10},
		"other types":          {"SELECT id, raw FROM things WHERE u = :id", words, func(i int) []mcp.Value { return []mcp.Value{text(fmt.Sprintf("%032d", i))} }, 10},
		"padded texts":         {"SELECT id, code FROM things WHERE code = :id", words, func(i int) []mcp.Value { return []mcp.Value{text(fmt.Sprint("ABC", i))} }, 10},
		"names of expressions": {"SELECT CAST(:id AS int), count(*) FROM things WHERE id < CAST(:id AS int)", whole, func(i int) []mcp.Value { return ints(int64(i)) }, 10},
		"other arguments of no type": {"SELECT id, jsonb_build_object('k', :b) AS o FROM things WHERE id = :id", append(append([]Param{}, whole...), Param{Name: "b", Type: "string"}),
			func(i int) []mcp.Value { return append(ints(int64(i)), text("x")) }, 10},
		"many in their order":  {"SELECT id FROM things WHERE id % 10 = :id % 10 AND id > :id ORDER BY name LIMIT 7", whole, func(i int) []mcp.Value { return ints(int64(i)) }, 5},
		"sums, and none":       {"WITH few AS (SELECT * FROM things WHERE id <= :id) SELECT count(*) AS n, sum(id) AS sum FROM few HAVING count(*) <> 3", whole, func(i int) []mcp.Value { return ints(int64(i)) }, 10},
		"a limit":              {"SELECT id FROM things ORDER BY id LIMIT :id", whole, func(i int) []mcp.Value { return ints(int64(i % 13)) }, 10},
		"twice in a statement": {"SELECT CAST(:id AS int) AS asked, (SELECT name FROM things WHERE id = CAST(:id AS int)) AS name", whole, func(i int) []mcp.Value { return ints(int64(i)) }, 10},
	} {
		var sizes sync.Map
		q := batched(t, s, Spec{Text: c.text, Params: c.params, MaxRows: c.rows, MaxBytes: 1 << 20}, func(n int) { sizes.Store(n, true) })
		if _, err := q.Describe(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		alone := compile(t, s, Spec{Text: c.text, Params: c.params, MaxRows: c.rows, MaxBytes: 1 << 20})
		free := hold(q, &Execution{Args: c.args(0)})
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				got, gotOutcome, err := q.Run(context.Background(), []byte("<"), &Execution{Args: c.args(i)})
				if err != nil {
					t.Errorf("%s: %v", what, err)
					return
				}
				want, wantOutcome, err := alone.Run(context.Background(), []byte("<"), &Execution{Args: c.args(i)})
				if err != nil || string(got) != string(want) || gotOutcome != wantOutcome {
					t.Errorf("%s, %d: %s, %+v; alone %s, %+v, %v", what, i, got, gotOutcome, want, wantOutcome, err)
				}
			})
		}
		polltest.Until(t, "all wait", func() bool { return q.(*pgQuery).batch.queued() == 40 })
		free()
		wg.Wait()
		if _, ok := sizes.Load(40); !ok {
			t.Errorf("%s: no batch of all", what)
		}
		if n := len(q.(*pgQuery).batch.lanes); n != 0 {
			t.Errorf("%s: %d lanes are left", what, n)
		}
	}
}

// A call that fails, fails alone; so does one whose time is over, and one that leaves takes nobody with it.
func TestBatchesFailAlone(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, things, func(c *Config) { c.QueryTimeout = conf.Duration(time.Minute) })
	q := batched(t, s, Spec{Text: "SELECT name, 100 / (id - 7) AS v FROM things WHERE id = :id", Params: []Param{{Name: "id", Type: "integer"}}}, nil)
	free := hold(q, &Execution{Args: ints(0)})
	var wg sync.WaitGroup
	for i := range int64(20) {
		wg.Go(func() {
			out, _, err := q.Run(context.Background(), nil, &Execution{Args: ints(i + 1)})
			if i+1 == 7 {
				if err == nil || !strings.Contains(err.Error(), "division by zero") {
					t.Errorf("the bad one: %s, %v", out, err)
				}
			} else if err != nil || !strings.Contains(string(out), fmt.Sprintf(`"thing %d"`, i+1)) {
				t.Errorf("%d: %s, %v", i+1, out, err)
			}
		})
	}
	b := q.(*pgQuery).batch
	polltest.Until(t, "all wait", func() bool { return b.queued() == 20 })
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 2)
	go func() {
		_, _, err := q.Run(ctx, nil, &Execution{Args: ints(30)})
		left <- err
	}()
	polltest.Until(t, "it waits too", func() bool { return b.queued() == 21 })
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) || b.queued() != 20 {
		t.Errorf("who left: %v, %d wait", err, b.queued())
	}
	free()
	wg.Wait()
	// Alone again, it goes on being batched.
	if err := b.unfit.Load(); err != nil {
		t.Error(*err)
	}
}

// Calls of other arguments, and of other callers where the database knows them, have no statement in common.
func TestBatchesKeepCallersApart(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, things, func(c *Config) { c.Settings = map[string]string{"app.tenant": ofTenant} })
	id, suffix := Param{Name: "id", Type: "integer"}, Param{Name: "suffix", Type: "string"}
	var most atomic.Int64
	q := batched(t, s, Spec{Text: "SELECT name || :suffix AS name FROM things WHERE id BETWEEN :id AND :id + 1 AND tenant = current_setting('app.tenant')", Params: []Param{id, suffix}},
		func(n int) { most.Store(max(most.Load(), int64(n))) })
	var wg sync.WaitGroup
	for n := range 64 {
		tenant, end := string(rune('a'+n%2)), fmt.Sprint("!", n%3)
		caller := &mcp.Caller{Principal: mcp.NewPrincipal(tenant, fmt.Sprint(n), nil)}
		wg.Go(func() {
			for i := range int64(30) {
				id := 1 + (int64(n)+i)%400
				of := id + id%2
				if tenant == "b" {
					of = id + 1 - id%2
				}
				want := fmt.Sprintf(`{"rows":[{"name":"thing %d%s"}]}`, of, end)
				out, _, err := q.Run(context.Background(), nil, &Execution{Args: append(ints(id), text(end)), Caller: caller})
				if err != nil || string(out) != want {
					t.Errorf("%s, %v; want %s", out, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
	if most.Load() < 2 {
		t.Error("no two calls shared a statement")
	}
}

// A statement has so many calls at most, nobody waits for longer than max_wait, and who is alone does not wait at all.
func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, things, func(c *Config) { c.QueryTimeout = conf.Duration(time.Minute) })
	var mu sync.Mutex
	var sizes []int
	q := batched(t, s, Spec{Text: "SELECT name FROM things WHERE id = :id", Params: []Param{{Name: "id", Type: "integer"}}}, func(n int) {
		mu.Lock()
		defer mu.Unlock()
		sizes = append(sizes, n)
	}, func(b *Batch) { b.MaxSize = 10 })
	for range 5 {
		if _, _, err := q.Run(t.Context(), nil, &Execution{Args: ints(1)}); err != nil {
			t.Fatal(err)
		}
	}
	free := hold(q, &Execution{Args: ints(0)})
	var wg sync.WaitGroup
	many := func() {
		for i := range int64(25) {
			wg.Go(func() {
				if _, _, err := q.Run(context.Background(), nil, &Execution{Args: ints(i)}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	many()
	b := q.(*pgQuery).batch
	polltest.Until(t, "all wait", func() bool { return b.queued() == 25 })
	free()
	wg.Wait()
	if got := fmt.Sprint(sizes); got != "[1 1 1 1 1 10 10 5]" {
		t.Errorf("statements of %s calls", got)
	}
	// One that has little time left does not wait for the patience of those before it.
	free = hold(q, &Execution{Args: ints(0)})
	wg.Go(func() {
		if _, _, err := q.Run(context.Background(), nil, &Execution{Args: ints(1)}); err != nil {
			t.Error(err)
		}
	})
	polltest.Until(t, "the first waits", func() bool { return b.queued() == 1 })
	if _, _, err := q.Run(t.Context(), nil, &Execution{Args: ints(2), Deadline: time.Now().Add(6 * time.Second)}); err != nil {
		t.Error(err)
	}
	wg.Wait()
	free()
	b.cfg.MaxWait = conf.Duration(time.Millisecond)
	free = hold(q, &Execution{Args: ints(0)})
	many()
	wg.Wait() // though the place stays taken
	free()
	polltest.Until(t, "no lane is left", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.lanes) == 0 })
}

// Where keys take long, each has time left to run alone, and calls stay alone for a while.
func TestSlowBatches(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, things, func(c *Config) { c.QueryTimeout = conf.Duration(20 * time.Second) })
	q := batched(t, s, Spec{Text: "SELECT id, pg_sleep(0.15)::text AS slept FROM things WHERE id = :id", Params: []Param{{Name: "id", Type: "integer"}}}, nil)
	free := hold(q, &Execution{Args: ints(0)})
	var wg sync.WaitGroup
	for i := range int64(20) { // three seconds in one statement
		wg.Go(func() {
			if out, _, err := q.Run(context.Background(), nil, &Execution{Args: ints(i + 1), Deadline: time.Now().Add(10 * time.Second)}); err != nil || !strings.Contains(string(out), fmt.Sprintf(`"id":%d,`, i+1)) {
				t.Errorf("%s, %v", out, err)
			}
		})
	}
	b := q.(*pgQuery).batch
	polltest.Until(t, "all wait", func() bool { return b.queued() == 20 })
	free()
	wg.Wait()
	if b.rest.Load() == 0 {
		t.Error("it goes on with batches")
	}
}

// What cannot be joined is told by what asks about the statement, and runs one by one.
func TestBatchesThatCannotBe(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, things)
	q := batched(t, s, Spec{Text: "SELECT id FROM things WHERE id = ANY(:id) ORDER BY id", Params: []Param{{Name: "id", Type: "string"}}}, nil)
	if _, err := q.Describe(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be batched") || !strings.Contains(err.Error(), "remove batch") {
		t.Errorf("%v", err)
	}
	free := hold(q, &Execution{Args: []mcp.Value{text("")}})
	if out, _, err := q.Run(t.Context(), nil, &Execution{Args: []mcp.Value{text("{1,2}")}}); err != nil || string(out) != `{"rows":[{"id":1},{"id":2}]}` {
		t.Errorf("%s, %v", out, err)
	}
	free()
	if q.(*pgQuery).batch.unfit.Load() == nil {
		t.Error("it would be tried again")
	}
	own := batched(t, s, Spec{Text: "SELECT set_config('app.tenant', :id, true) AS v", Params: []Param{{Name: "id", Type: "string"}}}, nil)
	if _, err := own.Describe(t.Context()); err == nil || !strings.Contains(err.Error(), "its session") {
		t.Errorf("what sets its own tenant: %v", err)
	}
}

// Quick statements of a lane are few at a time, whatever there may be: more would only be smaller. Slow ones, and those that were never measured, are as
// many as there may be; so are full ones.
func TestQuickBatchesAreFew(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, things, func(c *Config) { c.QueryTimeout = conf.Duration(time.Minute) })
	s.trips.quickest.ns.Store(1)
	of := func(took time.Duration, parallelism int) Query {
		q := batched(t, s, Spec{Text: "SELECT name FROM things WHERE id = :id", Params: []Param{{Name: "id", Type: "integer"}}}, nil,
			func(b *Batch) { b.Parallelism, b.MaxSize = parallelism, 4 })
		q.(*pgQuery).took.ns.Store(int64(took))
		return q
	}
	for _, c := range []struct {
		took        time.Duration
		parallelism int
		want        int
	}{{0, 16, 16}, {rideCost, 16, mostTrips}, {rideCost, 2, 2}, {rideCost + time.Millisecond, 16, 16}, {rideCost + time.Millisecond, 2, 2}} {
		if got := of(c.took, c.parallelism).(*pgQuery).batch.most(); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	q := of(rideCost, 16)
	b := q.(*pgQuery).batch
	if q.(*pgQuery).stayAlone(time.Hour); b.most() != 16 {
		t.Error("one that was slow of late is quick")
	}
	q.(*pgQuery).aloneUntil.Store(0)
	l := &lane{key: b.laneOf(&Execution{Args: ints(0)}), running: mostTrips}
	b.lanes[l.key] = l
	var calls sync.WaitGroup
	run := func(id int64) {
		calls.Go(func() {
			if out, _, err := q.Run(t.Context(), nil, &Execution{Args: ints(id)}); err != nil || !strings.Contains(string(out), fmt.Sprint("thing ", id)) {
				t.Errorf("%d: %s, %v", id, out, err)
			}
		})
	}
	for id := range int64(3) {
		run(id + 1)
		polltest.Until(t, "it waits", func() bool { return b.queued() == int(id)+1 })
	}
	run(4) // they are as many as go together
	calls.Wait()
	b.mu.Lock()
	if l.running != mostTrips || len(l.waiting) > 0 {
		t.Errorf("%d are under way, %d wait", l.running, len(l.waiting))
	}
	b.mu.Unlock()
	b.rest.Store(0) // where they took long, for want of a processor
	q.(*pgQuery).took.ns.Store(int64(rideCost))
	run(5)
	polltest.Until(t, "it waits", func() bool { return b.queued() == 1 })
	q.(*pgQuery).stayAlone(time.Hour) // now there may be more: nobody overtakes who waits
	run(6)
	calls.Wait()
}

// BenchmarkBatch reads rows by their key for 64 callers: each in a round trip of its own, in shared ones, and in batches.
func BenchmarkBatch(b *testing.B) {
	s, _ := postgres(b, things+"; ANALYZE things")
	spec := Spec{Name: "tool", Text: "SELECT id, tenant, name FROM things WHERE id = :id", Params: []Param{{Name: "id", Type: "integer"}}, Mode: ReadOnly, MaxRows: 100, MaxBytes: 1 << 20}
	many := spec
	many.Batch = &Batch{BatchingConfig: DefaultBatching(), By: 0}
	for _, c := range []struct {
		name  string
		spec  Spec
		alone bool
	}{{"alone", spec, true}, {"shared", spec, false}, {"batched", many, false}} {
		b.Run(c.name, func(b *testing.B) {
			q := compile(b, s, c.spec)
			if c.alone {
				q.(*pgQuery).stayAlone(time.Hour)
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			var callers sync.WaitGroup
			took := make([][]time.Duration, 64) // of each caller
			b.ReportAllocs()
			b.ResetTimer()
			for n := range int64(64) {
				callers.Go(func() {
					x, buf := &Execution{Args: ints(0)}, []byte(nil)
					var own []time.Duration
					defer func() { took[n] = own }()
					for id := n; left.Add(-1) >= 0; id += 64 {
						x.Args[0].Int = id%500 + 1
						began := time.Now()
						out, outcome, err := q.Run(context.Background(), buf[:0], x)
						own = append(own, time.Since(began))
						if err != nil || outcome.Rows != 1 {
							b.Errorf("%s, %v", out, err)
							return
						}
						buf = out
					}
				})
			}
			callers.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			all := slices.Concat(took...)
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)*95/100].Nanoseconds())/1e3, "p95-us")
		})
	}
}
