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
	"testing/synctest"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/polltest"
)

// parts gives a Spec of several statements, by name and text in turn.
func parts(snapshot bool, params []Param, texts ...string) Spec {
	spec := Spec{Name: "tool", Mode: ReadOnly, Params: params, Snapshot: snapshot, MaxRows: 100, MaxBytes: 1 << 20}
	for i := 0; i < len(texts); i += 2 {
		spec.Parts = append(spec.Parts, Part{texts[i], texts[i+1]})
	}
	return spec
}

// eachParts runs a test on both engines, each without and with a snapshot.
func eachParts(t *testing.T, tables string, f func(t *testing.T, s Source, snapshot bool)) {
	t.Parallel()
	for _, snapshot := range []bool{false, true} {
		t.Run(fmt.Sprintf("sqlite/%t", snapshot), func(t *testing.T) { f(t, newTestSQLite(t, newFile(t, tables), nil), snapshot) })
		t.Run(fmt.Sprintf("postgres/%t", snapshot), func(t *testing.T) {
			s, _ := postgres(t, tables)
			f(t, s, snapshot)
		})
	}
}

func TestParts(t *testing.T) {
	eachParts(t, "CREATE TABLE n (id int, v text); INSERT INTO n VALUES (1, 'one'), (2, 'two'), (3, 'three')", func(t *testing.T, s Source, snapshot bool) {
		id := []Param{{Name: "id", Type: "integer"}, {Name: "v", Type: "string"}}
		spec := parts(snapshot, id, "one", "SELECT v FROM n WHERE id = :id", "none", "SELECT v FROM n WHERE v = :v AND id > :id", "many", "SELECT id FROM n ORDER BY id")
		spec.MaxRows = 2
		q := compile(t, s, spec)
		var told []string
		x := &Execution{Args: []mcp.Value{integer(2), text("one")}, Notice: func(_, message string) { told = append(told, message) }}
		out, outcome, err := q.Run(t.Context(), []byte("before "), x)
		const want = `before {"one":{"rows":[{"v":"two"}]},"none":{"rows":[]},"many":{"rows":[{"id":1},{"id":2}],"truncated":true}}`
		if err != nil || string(out) != want || outcome.Rows != 3 || !outcome.Truncated {
			t.Errorf("%s, %+v, %v", out, outcome, err)
		}
		columns, err := q.Describe(t.Context())
		if err != nil || len(columns) != 3 || columns[0].Name != "one" || len(columns[2].Part) != 1 || columns[2].Part[0].Name != "id" {
			t.Errorf("described as %+v, %v", columns, err)
		}
		if _, _, err := q.Run(t.Context(), nil, &Execution{}); err == nil {
			t.Error("runs without arguments")
		}

		failing := compile(t, s, parts(snapshot, id[:1], "good", "SELECT v FROM n WHERE id = :id", "bad", "SELECT abs(v) AS v FROM n WHERE id = :id AND missing", "other", "SELECT 1 AS one"))
		_, _, err = failing.Run(t.Context(), nil, &Execution{Args: []mcp.Value{integer(2)}})
		toolError(t, err, "sql", "tool.bad: ")
		if out, _, err := q.Run(t.Context(), []byte("before "), x); err != nil || string(out) != want {
			t.Errorf("after a failure %s, %v", out, err)
		}
		for _, p := range s.Stats() {
			if p.Busy > 0 {
				t.Errorf("%d connections of the %s were not given back", p.Busy, p.Role)
			}
		}
	})
}

func TestPartsAreChecked(t *testing.T) {
	eachParts(t, "", func(t *testing.T, s Source, snapshot bool) {
		params := []Param{{Name: "id", Type: "integer"}, {Name: "v", Type: "string"}}
		_, err := s.Compile(parts(snapshot, params, "a", "SELECT :id", "b", "SELECT :idd", "c", "DELETE FROM n"))
		for _, want := range []string{`statements.b: line 1, column 8 of the statement: there is no parameter "idd"`, "statements.c: line 1, column 1 of the statement: DELETE is not allowed"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %s", err, want)
			}
		}
		if _, err := s.Compile(parts(snapshot, params, "a", "SELECT :id", "b", "SELECT 1")); err == nil || !strings.Contains(err.Error(), `parameters[1]: no statement uses "v"`) {
			t.Error(err)
		}
		spec := parts(snapshot, nil, "a", "SELECT 1", "b", "SELECT 2")
		spec.Mode = ReadWrite
		if _, err := s.Compile(spec); err == nil || !strings.Contains(err.Error(), "go with read-only tools only") {
			t.Error(err)
		}
	})
}

// waiting is a Query that runs until it is let go.
type waiting struct {
	running *atomic.Int64
	most    *atomic.Int64
	free    chan struct{}
	fails   error
}

func (w waiting) Run(ctx context.Context, dst []byte, _ *Execution) ([]byte, Outcome, error) {
	n := w.running.Add(1)
	defer w.running.Add(-1)
	for old := w.most.Load(); n > old && !w.most.CompareAndSwap(old, n); old = w.most.Load() {
	}
	if w.fails != nil {
		return dst, Outcome{}, w.fails
	}
	select {
	case <-w.free:
		return append(dst, "{}"...), Outcome{Rows: 1}, nil
	case <-ctx.Done():
		return dst, Outcome{}, ctx.Err()
	}
}

func (w waiting) Describe(context.Context) ([]Column, error) { return nil, nil }

func TestPartsRunSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := waiting{running: new(atomic.Int64), most: new(atomic.Int64), free: make(chan struct{})}
		q := &partsQuery{names: strings.Split("abcdef", ""), most: 4, parts: slices.Repeat([]Query{w}, 6)}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if out, outcome, err := q.Run(context.Background(), nil, &Execution{}); err != nil || outcome.Rows != 6 || string(out) != `{"a":{},"b":{},"c":{},"d":{},"e":{},"f":{}}` {
				t.Errorf("%s, %+v, %v", out, outcome, err)
			}
		}()
		synctest.Wait()
		if n := w.running.Load(); n != 4 {
			t.Errorf("%d run at a time", n)
		}
		for range 6 {
			w.free <- struct{}{}
		}
		<-ended
		if n := w.most.Load(); n != 4 {
			t.Errorf("%d ran at a time", n)
		}

		// One that fails ends the others, and none begins after it.
		fails := w
		fails.fails = errors.New("it failed")
		q.parts = []Query{w, fails, w, w, w, w}
		if _, _, err := q.Run(context.Background(), nil, &Execution{}); err != fails.fails {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		q.parts = slices.Repeat([]Query{w}, 6)
		if _, _, err := q.Run(ctx, nil, &Execution{}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// Two tables always hold the same number. Only a snapshot sees that from several statements; calls on a pool that is smaller than their
// number do not wait for each other in a circle.
func TestSnapshot(t *testing.T) {
	const tables = "CREATE TABLE a (v int); CREATE TABLE b (v int); INSERT INTO a VALUES (0); INSERT INTO b VALUES (0)"
	small := func(c *Config) { c.Pool.Size, c.Pool.Overflow, c.Parallel = 4, 0, 3 }
	test := func(t *testing.T, s Source, add func()) {
		names := []string{"a", "SELECT v FROM a", "b", "SELECT v FROM b", "c", "SELECT v FROM a", "d", "SELECT v FROM b", "e", "SELECT v FROM a"}
		alike := func(q Query) bool {
			out, _, err := q.Run(t.Context(), nil, &Execution{})
			if err != nil {
				t.Error(err)
				return true
			}
			values := strings.Split(string(out), `"v":`)
			if len(values) != 6 {
				t.Errorf("%s", out)
				return true
			}
			for i := range values {
				values[i], _, _ = strings.Cut(values[i], "}")
			}
			return len(slices.Compact(values[1:])) == 1
		}
		at, loose := compile(t, s, parts(true, nil, names...)), compile(t, s, parts(false, nil, names...))
		ctx, stop := context.WithCancel(t.Context())
		var writing, reading sync.WaitGroup
		writing.Go(func() {
			for ctx.Err() == nil {
				add()
			}
		})
		for range 8 {
			reading.Go(func() {
				for range 100 {
					if !alike(at) {
						t.Error("two statements of a snapshot saw different states")
						return
					}
				}
			})
		}
		reading.Wait()
		differed := false
		for range 100_000 {
			if differed = !alike(loose); differed {
				break
			}
		}
		if !differed {
			t.Error("without a snapshot all statements saw the same: this test proves nothing")
		}
		stop()
		writing.Wait()
	}
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		s, _ := postgres(t, tables, small)
		w := compile(t, s, Spec{Text: "WITH x AS (UPDATE a SET v = v + 1) UPDATE b SET v = v + 1", Mode: ReadWrite})
		test(t, s, func() {
			if _, _, err := w.Run(t.Context(), nil, &Execution{}); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		// One write changes both: by a trigger.
		s := newTestSQLite(t, newFile(t, tables+"; CREATE TRIGGER both AFTER UPDATE ON a BEGIN UPDATE b SET v = new.v; END"), small)
		w := compile(t, s, Spec{Text: "UPDATE a SET v = v + 1", Mode: ReadWrite})
		test(t, s, func() {
			if _, _, err := w.Run(t.Context(), nil, &Execution{}); err != nil {
				t.Error(err)
			}
		})
	})
}

// The caller's settings hold in each part, on whichever connection it runs, and for it alone; a plan that the tables have outgrown is made
// anew unseen; a call that is stopped leaves nothing behind.
func TestPostgresSnapshot(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "CREATE TABLE n (v int); INSERT INTO n VALUES (1)", func(c *Config) {
		c.Pool.Size, c.Pool.Overflow, c.Parallel = 3, 0, 2
		c.Settings = map[string]string{"app.tenant": ofTenant}
	})
	const seen = "SELECT current_setting('app.tenant') AS t"
	q := compile(t, s, parts(true, nil, "a", seen, "b", seen, "c", seen, "d", seen))
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			tenant := fmt.Sprint("tenant", n)
			one := fmt.Sprintf(`{"rows":[{"t":%q}]}`, tenant)
			want := fmt.Sprintf(`{"a":%[1]s,"b":%[1]s,"c":%[1]s,"d":%[1]s}`, one)
			for range 20 {
				out, _, err := q.Run(t.Context(), nil, &Execution{Caller: &mcp.Caller{Principal: mcp.NewPrincipal(tenant, "somebody", nil)}})
				if err != nil || string(out) != want {
					t.Errorf("%s, %v; want %s", out, err, want)
					return
				}
			}
		})
	}
	wg.Wait()

	all := compile(t, s, parts(true, nil, "a", "SELECT * FROM n", "b", "SELECT * FROM n ORDER BY v"))
	for _, change := range []string{"", "ALTER TABLE n ADD w text DEFAULT 'new'", "ALTER TABLE n ALTER v TYPE text"} {
		if change != "" {
			if err := s.Script(t.Context(), []string{change}); err != nil {
				t.Fatal(err)
			}
		}
		for range 6 {
			if out, _, err := all.Run(t.Context(), nil, &Execution{}); err != nil || strings.Contains(change, "ADD") && !strings.Contains(string(out), "new") {
				t.Fatalf("after %q: %s, %v", change, out, err)
			}
		}
	}

	slow := compile(t, s, parts(true, nil, "a", "SELECT CAST(pg_sleep(60) AS text) AS s", "b", "SELECT CAST(pg_sleep(60) AS text) AS s"))
	_, _, err := slow.Run(t.Context(), nil, &Execution{Deadline: time.Now().Add(200 * time.Millisecond)})
	toolError(t, err, "timeout", "was stopped")
	polltest.Until(t, "two connections are idle", func() bool {
		_, _, err := all.Run(t.Context(), nil, &Execution{}) // which has one more opened
		return err == nil && s.Stats()[0].Idle >= 2
	})
	bad := compile(t, s, parts(true, nil, "a", "SELECT CAST(pg_sleep(60) AS text) AS s", "b", "SELECT 1 / (SELECT count(*) - 1 FROM n) AS x"))
	_, _, err = bad.Run(t.Context(), nil, &Execution{})
	toolError(t, err, "sql", "tool.b: ", "division by zero")
	if n := s.Stats()[0]; n.Busy > 0 {
		t.Errorf("%+v", n)
	}
}

// What goes wrong in a part leaves no connection with something still to be read, is not repeated without end, and waits for nobody's
// connection; what a part does to settings ends with it.
func TestSnapshotsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "", func(c *Config) { c.Pool.Size, c.Pool.Overflow = 1, 0 })
	rows := compile(t, s, parts(true, nil, "a", "SELECT n FROM generate_series(1, 100000) AS n", "b", "SELECT 1 AS x"))
	rows.(*pgSnapshot).parts[0].spec.MaxRows, rows.(*pgSnapshot).parts[0].fetch = 0, 0
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		_, _, _ = rows.Run(t.Context(), nil, &Execution{Progress: func(int64) { panic("in the middle") }})
	}()
	for range 3 {
		if got, _, err := pgRun(t, s, ReadOnly, "SELECT 42 AS x"); err != nil || got != `{"rows":[{"x":42}]}` {
			t.Errorf("%s, %v", got, err)
		}
	}
	q := compile(t, s, parts(true, nil, "a", "SELECT set_config('app.tenant', 'evil', true) AS t", "b", "SELECT COALESCE(NULLIF(current_setting('app.tenant', true), ''), 'nobody') AS t"))
	if out, _, err := q.Run(t.Context(), nil, &Execution{}); err != nil || string(out) != `{"a":{"rows":[{"t":"evil"}]},"b":{"rows":[{"t":"nobody"}]}}` {
		t.Errorf("%s, %v", out, err)
	}

	many, _ := postgres(t, "CREATE SEQUENCE opened", func(c *Config) { c.Pool.Size, c.Pool.Overflow = 8, 0 })
	var texts []string
	for _, name := range strings.Split("abcdefgh", "") {
		texts = append(texts, name, "SELECT CAST(pg_terminate_backend(pg_backend_pid()) AS text) AS x")
	}
	opened := atomic.Int64{}
	open := many.pool.open
	many.pool.open = func(ctx context.Context, deadline time.Time) (*pgConn, error) {
		opened.Add(1)
		return open(ctx, deadline)
	}
	_, _, err := compile(t, many, parts(true, nil, texts...)).Run(t.Context(), nil, &Execution{})
	toolError(t, err, "unavailable")
	if n := opened.Load(); n > 20 {
		t.Errorf("%d connections were opened for one call", n)
	}
}

// A call that has a connection does not wait for others that cannot be opened.
func TestSnapshotsWaitForNoConnection(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "")
	q := compile(t, s, parts(true, nil, "a", "SELECT 1 AS x", "b", "SELECT 2 AS x"))
	if _, _, err := pgRun(t, s, ReadOnly, "SELECT 1 AS x"); err != nil {
		t.Fatal(err)
	}
	free := make(chan struct{})
	defer close(free)
	s.pool.open = func(context.Context, time.Time) (*pgConn, error) {
		<-free
		return nil, errClosed
	}
	if out, _, err := q.Run(t.Context(), nil, &Execution{Deadline: time.Now().Add(time.Minute)}); err != nil || string(out) != `{"a":{"rows":[{"x":1}]},"b":{"rows":[{"x":2}]}}` {
		t.Errorf("%s, %v", out, err)
	}
}

// A snapshot on a replica holds what its reader has written.
func TestSnapshotsReadOwnWrites(t *testing.T) {
	s := newReplication(t, nil, nil).open(t)
	rows := compileRows(t, s)
	q := compile(t, s, parts(true, []Param{{Name: "id", Type: "integer"}}, "a", "SELECT v FROM n WHERE id = :id", "b", "SELECT v FROM n WHERE id = :id"))
	me := person("me")
	for v := range int64(20) {
		if err := rows.set(me, 1, v); err != nil {
			t.Fatal(err)
		}
		polltest.Until(t, "a read on a replica", func() bool {
			out, outcome, err := q.Run(t.Context(), nil, &Execution{Args: ints(1), Caller: me})
			if want := fmt.Sprintf(`{"a":{"rows":[{"v":%[1]d}]},"b":{"rows":[{"v":%[1]d}]}}`, v); err != nil || string(out) != want {
				t.Fatalf("wrote %d and reads %s on %d, %v", v, out, outcome.Replica, err)
			}
			return outcome.Replica > 0
		})
	}

	// A replica that must be asked is asked in a transaction of its own, and serves at once.
	server := q.(*routedQuery).on[1].(*pgSnapshot)
	c, err := server.source.pool.get(t.Context(), time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	c.replayed = 0
	exported, err := server.begin(c, &Execution{after: 1}, "")
	if err != nil || exported == "" || c.replayed == 0 {
		t.Errorf("%q, %v", exported, err)
	}
	if _, err := server.begin(c, &Execution{after: unknownPosition}, ""); err != errBehind {
		t.Errorf("a replica that is behind: %v", err)
	}
	server.end(c)
}
