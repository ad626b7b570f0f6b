package sqldb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/pgtest"
)

// call is one read of a shared trip, and what came of it.
type call struct {
	q       Query
	args    []mcp.Value
	ctx     context.Context
	out     string
	err     error
	notices []string
	hear    func()        // at each notice
	done    chan struct{} // closed at its end
}

// together runs calls in one round trip, led by the first: they wait until all are there, as they would for trips under
// way.
func together(t *testing.T, s *postgresSource, calls ...*call) {
	t.Helper()
	for _, c := range calls { // each statement is known to the connection, and to be quick
		q := c.q.(*pgQuery)
		if q.took.get() == 0 {
			x := &Execution{}
			for range q.spec.Params {
				x.Args = append(x.Args, text("1"))
			}
			if _, _, err := q.alone(t.Context(), nil, x, &bounds{deadline: time.Now().Add(time.Minute)}); err != nil {
				t.Fatal(err)
			}
		}
		q.took.ns.Store(1)
		q.aloneUntil.Store(0)
	}
	own := occupy(s)
	s.trips.mu.Lock()
	s.trips.wait = 1 << 30 // nobody leaves before all are there
	s.trips.mu.Unlock()
	var wg sync.WaitGroup
	for i, c := range calls {
		wg.Go(func() {
			x := &Execution{Args: c.args, Notice: func(_, message string) {
				c.notices = append(c.notices, message)
				if c.hear != nil {
					c.hear()
				}
			}}
			if c.ctx == nil {
				c.ctx = context.Background()
			}
			out, _, err := c.q.Run(c.ctx, []byte("before:"), x)
			c.out, c.err = string(out), err
			if c.done != nil {
				close(c.done)
			}
		})
		for s.trips.queue() != i+1 {
			runtime.Gosched()
		}
	}
	s.trips.returned(own)
	wg.Wait()
	s.trips.mu.Lock()
	defer s.trips.mu.Unlock()
	busy := 0
	for i := range s.trips.slots {
		if s.trips.slots[i].number != 0 {
			busy++
		}
	}
	if busy != s.trips.most-1 || len(s.trips.waiting) != 0 {
		t.Errorf("%d trips are under way and %d reads wait when all have returned, want %d and 0", busy, len(s.trips.waiting), s.trips.most-1)
	}
	clear(s.trips.slots[:])
}

// occupy fills every slot with a trip that no look ends, and gives the ticket of one.
func occupy(s *postgresSource) (own ticket) {
	s.trips.mu.Lock()
	defer s.trips.mu.Unlock()
	for i := range s.trips.most {
		own = s.trips.begin(i)
		s.trips.slots[i].looks = -1 << 30
	}
	return own
}

func (c *call) wants(t *testing.T, rows string) {
	t.Helper()
	if want := `before:{"rows":[` + rows + `]}`; c.out != want || c.err != nil {
		t.Errorf("%v gave %s, %v; want %s", c.args, c.out, c.err, want)
	}
}

// backends counts the connections of a database; a shared trip takes one.
func backends(t *testing.T, s *postgresSource) int { return s.Stats()[0].Open }

func TestTripServesEachItsOwn(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE TABLE n AS SELECT i, 'name ' || i AS name FROM generate_series(1, 100) i`)
	byID := pgCompile(t, s, ReadOnly, "SELECT name FROM n WHERE i = :a::int", 1)
	above := pgCompile(t, s, ReadOnly, "SELECT i FROM n WHERE i > :a::int - 2 AND i < :b::int + 2 ORDER BY i", 2)
	var calls []*call
	for i := range mostRiders {
		if i%3 == 2 {
			calls = append(calls, &call{q: above, args: []mcp.Value{text(fmt.Sprint(i + 10)), text(fmt.Sprint(i + 10))}})
		} else {
			calls = append(calls, &call{q: byID, args: []mcp.Value{text(fmt.Sprint(i + 10))}})
		}
	}
	together(t, s, calls...)
	for i, c := range calls {
		if n := i + 10; i%3 == 2 {
			c.wants(t, fmt.Sprintf(`{"i":%d},{"i":%d},{"i":%d}`, n-1, n, n+1))
		} else {
			c.wants(t, fmt.Sprintf(`{"name":"name %d"}`, n))
		}
	}
	if n := backends(t, s); n != 1 {
		t.Errorf("%d connections were opened, want 1", n)
	}
}

// One that fails fails alone and with its own error, wherever it rides.
func TestTripFailsOneByOne(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "")
	q := pgCompile(t, s, ReadOnly, "SELECT 10 / :a::int AS v", 1)
	for bad := range 3 {
		calls := []*call{{q: q, args: []mcp.Value{text("1")}}, {q: q, args: []mcp.Value{text("2")}}, {q: q, args: []mcp.Value{text("5")}}}
		calls[bad].args = []mcp.Value{text("0")}
		together(t, s, calls...)
		for i, c := range calls {
			if i == bad {
				toolError(t, c.err, kindSQL, "division by zero")
				if c.out != "before:" {
					t.Errorf("the one that failed left %s", c.out)
				}
			} else {
				c.wants(t, fmt.Sprintf(`{"v":%d}`, []int{10, 5, 2}[i]))
			}
		}
	}
}

// A read cannot write in company either, nor leave anything for the one behind it.
func TestTripKeepsReadsApart(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE TABLE n (i int);
CREATE FUNCTION sneak(v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF v = 'write' THEN INSERT INTO n VALUES (1); END IF; RETURN v; END $$`)
	leave := pgCompile(t, s, ReadOnly, "SELECT set_config('app.tenant', :a, false) AS v", 1)
	write := pgCompile(t, s, ReadOnly, "SELECT set_config('transaction_read_only', 'off', false) IS NULL AND sneak(:a) = '' AS v", 1)
	look := pgCompile(t, s, ReadOnly, "SELECT coalesce(current_setting('app.tenant', true), '') || :a AS v", 1)
	calls := []*call{{q: leave, args: []mcp.Value{text("acme")}}, {q: look, args: []mcp.Value{text("!")}},
		{q: write, args: []mcp.Value{text("write")}}, {q: look, args: []mcp.Value{text("?")}}}
	write.(*pgQuery).took.ns.Store(1) // it cannot be warmed up
	together(t, s, calls...)
	calls[0].wants(t, `{"v":"acme"}`)
	calls[1].wants(t, `{"v":"!"}`)
	toolError(t, calls[2].err, kindSQL)
	calls[3].wants(t, `{"v":"?"}`)
	if got, _, err := pgRun(t, s, ReadOnly, "SELECT count(*) AS n FROM n"); got != `{"rows":[{"n":0}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestTripTellsNoticesToTheirCaller(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE FUNCTION say(v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'heard %', v; RETURN v; END $$`)
	q := pgCompile(t, s, ReadOnly, "SELECT say(:a) AS v", 1)
	calls := []*call{{q: q, args: []mcp.Value{text("a")}}, {q: q, args: []mcp.Value{text("b")}}, {q: q, args: []mcp.Value{text("c")}, done: make(chan struct{})}}
	calls[0].hear = func() { <-calls[2].done } // a caller that is slow to listen holds nobody up
	calls[1].hear = calls[0].hear
	together(t, s, calls...)
	for i, c := range calls {
		c.wants(t, fmt.Sprintf(`{"v":"%c"}`, 'a'+i))
		if want := fmt.Sprintf("heard %c", 'a'+i); strings.Join(c.notices, "|") != want {
			t.Errorf("caller %d heard %q, want %q", i, c.notices, want)
		}
	}
	r := rider{}
	for range 1000 {
		r.note("NOTICE", strings.Repeat("x", 1000))
	}
	if r.dropped == 0 || len(r.notices)+r.dropped != 1000 || len(r.notices)*1000 > rideNotices {
		t.Errorf("of 1000 notices of 1000 bytes %d are kept, %d dropped", len(r.notices), r.dropped)
	}
}

// A slow one is stopped soon and runs on alone; the others have their answers long before it.
func TestTripStopsForASlowOne(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE FUNCTION slow(v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF v = 'slow' THEN PERFORM pg_sleep(60); END IF; RETURN v; END $$`)
	q := pgCompile(t, s, ReadOnly, "SELECT slow(:a) AS v", 1)
	ctx, cancel := context.WithCancel(t.Context())
	calls := []*call{{q: q, args: []mcp.Value{text("a")}}, {q: q, args: []mcp.Value{text("slow")}, ctx: ctx}, {q: q, args: []mcp.Value{text("c")}}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		together(t, s, calls...)
	}()
	// The slow one runs alone once the trip has been stopped; only then it is cancelled.
	server, _ := pgtest.Shared()
	deadline := time.Now().Add(20 * time.Second)
	for q.(*pgQuery).aloneUntil.Load() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the trip was not stopped")
		}
		if err := server.Exec("postgres", "SELECT pg_sleep(0.01)"); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
	calls[0].wants(t, `{"v":"a"}`)
	calls[2].wants(t, `{"v":"c"}`)
	if !errors.Is(calls[1].err, context.Canceled) {
		t.Errorf("the cancelled one gave %s, %v", calls[1].out, calls[1].err)
	}
	if q.(*pgQuery).shares(&Execution{}) {
		t.Error("the slow statement goes on sharing")
	}
}

// The connection dies, with the leader's statement or with another's: reads have their answers all the same.
func TestTripSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE TABLE deaths (n int); INSERT INTO deaths VALUES (0);
CREATE FUNCTION die(v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF v = 'die' AND current_setting('application_name') <> 'spared' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN v; END $$`)
	q := pgCompile(t, s, ReadOnly, "SELECT die(:a) AS v", 1)
	for victim := range 3 {
		calls := []*call{{q: q, args: []mcp.Value{text("a")}}, {q: q, args: []mcp.Value{text("b")}}, {q: q, args: []mcp.Value{text("c")}}}
		calls[victim].args = []mcp.Value{text("die")}
		together(t, s, calls...)
		for i, c := range calls {
			if i == victim {
				toolError(t, c.err, kindUnavailable) // it dies alone, and again on its second try
			} else {
				c.wants(t, fmt.Sprintf(`{"v":"%c"}`, 'a'+i))
			}
		}
	}
}

// A statement that deallocates the connection's prepared statements takes the connection along; the others of its trip
// have their answers, and who comes next finds a good one.
func TestTripWithDeallocatedStatements(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE FUNCTION run(v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF v <> '' THEN EXECUTE v; END IF; RETURN v; END $$`)
	q := pgCompile(t, s, ReadOnly, "SELECT run(:a) AS v", 1)
	q.(*pgQuery).took.ns.Store(1) // warming it up would deallocate too
	for victim := range 3 {
		if _, _, err := pgRun(t, s, ReadOnly, "SELECT run(:a) AS v", text("")); err != nil { // prepares it
			t.Fatal(err)
		}
		calls := []*call{{q: q, args: []mcp.Value{text("")}}, {q: q, args: []mcp.Value{text("")}}, {q: q, args: []mcp.Value{text("")}}}
		calls[victim].args = []mcp.Value{text("DEALLOCATE ALL")}
		together(t, s, calls...)
		for i, c := range calls {
			if i == victim {
				toolError(t, c.err, kindSQL, "does not exist")
			} else {
				c.wants(t, `{"v":""}`)
			}
		}
		for _, c := range s.pool.all {
			if c.conn.TxStatus() != 'I' || c.run(controlPing) != nil {
				t.Errorf("victim %d: a connection in state %c without its statements is in the pool", victim, c.conn.TxStatus())
			}
		}
	}
}

func TestTripWithChangedTables(t *testing.T) {
	t.Parallel()
	s, name := postgres(t, `CREATE TABLE t (a int); INSERT INTO t VALUES (1)`)
	server, _ := pgtest.Shared()
	star := pgCompile(t, s, ReadOnly, "SELECT *, :a AS v FROM t", 1)
	other := pgCompile(t, s, ReadOnly, "SELECT :a AS v", 1)
	for i, want := range []string{`{"a":1,"v":"x"}`, `{"a":1,"b":null,"v":"x"}`, `{"a":1,"b":null,"c":null,"v":"x"}`} {
		if i > 0 {
			if err := server.Exec(name, fmt.Sprintf("ALTER TABLE t ADD COLUMN %c text", 'a'+i)); err != nil {
				t.Fatal(err)
			}
		}
		calls := []*call{{q: other, args: []mcp.Value{text("y")}}, {q: star, args: []mcp.Value{text("x")}}, {q: star, args: []mcp.Value{text("x")}}, {q: other, args: []mcp.Value{text("z")}}}
		together(t, s, calls...)
		calls[0].wants(t, `{"v":"y"}`)
		calls[1].wants(t, want)
		calls[2].wants(t, want)
		calls[3].wants(t, `{"v":"z"}`)
	}
}

// Who waits for too long goes alone; so does everybody when there is no connection to lead on.
func TestTripIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "")
	q := pgCompile(t, s, ReadOnly, "SELECT :a AS v", 1)
	if _, _, err := q.Run(t.Context(), nil, &Execution{Args: []mcp.Value{text("1")}}); err != nil {
		t.Fatal(err)
	}
	occupy(s)
	done := make(chan error, 1)
	go func() {
		out, _, err := q.Run(context.Background(), nil, &Execution{Args: []mcp.Value{text("2")}})
		if err == nil && string(out) != `{"rows":[{"v":"2"}]}` {
			err = errors.New(string(out))
		}
		done <- err
	}()
	for s.trips.queue() != 1 && len(done) == 0 { // the pool's own watch may look too
		runtime.Gosched()
	}
	for range rideWait + 1 {
		s.trips.look()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := s.Stats()[0].Waiting; got != 0 {
		t.Errorf("%d wait", got)
	}
}

// Random reads at the same time, sharing and alone, answer alike.
func TestTripModel(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE TABLE n AS SELECT i, 'name ' || i AS name FROM generate_series(1, 1000) i; CREATE INDEX ON n (i)`)
	byID := pgCompile(t, s, ReadOnly, "SELECT name FROM n WHERE i = :a::int", 1)
	fails := pgCompile(t, s, ReadOnly, "SELECT 100 / (:a::int % 50) AS v", 1)
	many := pgCompile(t, s, ReadOnly, "SELECT i FROM n WHERE i <= :a::int % 7 ORDER BY i", 1)
	write := pgCompile(t, s, ReadWrite, "UPDATE n SET name = name WHERE i = :a::int", 1)
	var wg sync.WaitGroup
	for worker := range 48 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 100 {
				n := 1 + random.IntN(1000)
				q, want := byID, fmt.Sprintf(`{"rows":[{"name":"name %d"}]}`, n)
				switch random.IntN(20) {
				case 0:
					q, want = fails, ""
					if n%50 != 0 {
						want = fmt.Sprintf(`{"rows":[{"v":%d}]}`, 100/(n%50))
					}
				case 1, 2, 3:
					q = many
					var rows []string
					for i := range n % 7 {
						rows = append(rows, fmt.Sprintf(`{"i":%d}`, i+1))
					}
					want = `{"rows":[` + strings.Join(rows, ",") + `]}`
				case 4:
					q, want = write, `{"rows_affected":1}`
				}
				out, _, err := q.Run(context.Background(), nil, &Execution{Args: []mcp.Value{text(fmt.Sprint(n))}})
				if want == "" && err == nil || want != "" && (err != nil || string(out) != want) {
					t.Errorf("%d gave %s, %v; want %s", n, out, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A read that is out for long loses its slot, so that quick ones do not wait for it.
func TestTripSlotIsTakenAway(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "")
	quick := pgCompile(t, s, ReadOnly, "SELECT :a AS v", 1)
	run := func() {
		if _, _, err := quick.Run(t.Context(), nil, &Execution{Args: []mcp.Value{text("1")}}); err != nil {
			t.Error(err)
		}
	}
	run()
	own := occupy(s)
	s.trips.mu.Lock()
	s.trips.wait = 1 << 30
	s.trips.slots[own.slot].looks = 0
	s.trips.mu.Unlock()
	done := make(chan struct{}, 1)
	go func() {
		run()
		done <- struct{}{}
	}()
	for s.trips.queue() != 1 && len(done) == 0 { // the pool's own watch may look too
		runtime.Gosched()
	}
	for range rideLimit + 1 {
		s.trips.look()
	}
	<-done
	s.trips.returned(own) // late: the slot is another's or free by now
	s.trips.mu.Lock()
	defer s.trips.mu.Unlock()
	if s.trips.slots[own.slot].number == own.number {
		t.Error("the slot is still the slow one's")
	}
}

// Who holds a trip up travels alone for a while, and nobody else: not who leads it, not who merely waits for a connection.
func TestTripTellsWhoIsSlow(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE FUNCTION slow(v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF v = 'slow' THEN PERFORM pg_sleep(60); END IF; RETURN v; END $$`,
		oneConnection)
	s.trips.most = mostTrips // as if the pool were larger
	first, last := pgCompile(t, s, ReadOnly, "SELECT 'first' AS v, :a AS w", 1), pgCompile(t, s, ReadOnly, "SELECT 'last' AS v, :a AS w", 1)
	slow := pgCompile(t, s, ReadOnly, "SELECT slow(:a) AS v", 1)
	marked := func(what string, want ...Query) {
		t.Helper()
		for i, q := range []Query{first, slow, last} {
			if got := q.(*pgQuery).aloneUntil.Load() != 0; got != slices.Contains(want, q) {
				t.Errorf("%s: statement %d travels alone: %v", what, i, got)
			}
			q.(*pgQuery).aloneUntil.Store(0)
		}
	}
	untilMarked := func(run func(context.Context)) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			run(ctx)
		}()
		for slow.(*pgQuery).aloneUntil.Load() == 0 {
			select {
			case <-done: // its time-out ended it, unmarked
				return
			default:
				runtime.Gosched()
			}
		}
		cancel()
		<-done
	}
	calls := []*call{{q: first, args: []mcp.Value{text("1")}}, {q: slow, args: []mcp.Value{text("slow")}}, {q: last, args: []mcp.Value{text("2")}}}
	for _, c := range calls {
		if _, _, err := c.q.Run(t.Context(), nil, &Execution{Args: []mcp.Value{text("")}}); err != nil {
			t.Fatal(err)
		}
	}
	for try := 1; ; try++ {
		untilMarked(func(ctx context.Context) {
			calls[1].ctx = ctx
			together(t, s, calls...)
		})
		calls[0].wants(t, `{"v":"first","w":"1"}`)
		calls[2].wants(t, `{"v":"last","w":"2"}`)
		if try == 5 || first.(*pgQuery).aloneUntil.Load() == 0 { // beside other tests the server may not even have begun with the first
			break
		}
		for _, q := range []Query{first, slow, last} {
			q.(*pgQuery).aloneUntil.Store(0)
		}
	}
	marked("in a trip", slow)

	c, err := s.pool.get(t.Context(), time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := first.Run(t.Context(), nil, &Execution{Args: []mcp.Value{text("1")}})
		done <- err
	}()
	for s.pool.stats().Waiting == 0 {
		runtime.Gosched()
	}
	for range rideLimit + 1 {
		s.trips.look()
	}
	marked("waiting for a connection")
	s.pool.put(c, false)
	if err := <-done; err != nil {
		t.Error(err)
	}

	untilMarked(func(ctx context.Context) {
		_, _, _ = slow.Run(ctx, nil, &Execution{Args: []mcp.Value{text("slow")}})
	})
	marked("alone on its connection", slow)
}

// A statement that was not measured yet runs alone, and is measured by a run that timed out too.
func TestTripTakesWhatWasMeasured(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "")
	q := pgCompile(t, s, ReadOnly, "SELECT pg_sleep(:a::float8)::text AS v", 1).(*pgQuery)
	x := &Execution{Args: []mcp.Value{text("0")}}
	if q.shares(x) {
		t.Error("it shares before it was measured")
	}
	if _, err := q.Describe(t.Context()); err != nil { // a connection is open and has it prepared: the deadline is for the run
		t.Fatal(err)
	}
	_, _, err := q.Run(t.Context(), nil, &Execution{Args: []mcp.Value{text("60")}, Deadline: time.Now().Add(100 * time.Millisecond)})
	toolError(t, err, kindTimeout)
	if got := q.took.get(); got < 10*time.Millisecond || q.shares(x) {
		t.Errorf("a run that timed out counts as %v", got)
	}
	q.aloneUntil.Store(0) // that run was late as well
	if _, _, err = q.Run(t.Context(), nil, x); err != nil || !q.shares(x) {
		t.Errorf("it does not share when a run of %v was measured, %v", q.took.get(), err)
	}
}

// A result that is cut far beyond its bounds costs its own connection and no other.
func TestTripWithACutResult(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "")
	spec := Spec{Name: "many", Text: "SELECT repeat('x', 1000) AS v FROM generate_series(1, :a::int)", MaxRows: 10000, MaxBytes: 5000, Params: []Param{{Name: "a", Type: "string"}}}
	many, err := s.Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	one := pgCompile(t, s, ReadOnly, "SELECT :a AS v", 1)
	calls := []*call{{q: one, args: []mcp.Value{text("1")}}, {q: many, args: []mcp.Value{text("5000")}}, {q: one, args: []mcp.Value{text("2")}}}
	together(t, s, calls...)
	calls[0].wants(t, `{"v":"1"}`)
	calls[2].wants(t, `{"v":"2"}`)
	if !strings.HasSuffix(calls[1].out, `],"truncated":true}`) || calls[1].err != nil {
		t.Errorf("%.50s, %v", calls[1].out, calls[1].err)
	}
	if many.(*pgQuery).aloneUntil.Load() == 0 {
		t.Error("the large one may share at once again")
	}
}
