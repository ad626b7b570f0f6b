package sqldb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/pgtest"
	"millrace/internal/polltest"
)

// askedOf gives the rows of a query on a server.
func askedOf(t *testing.T, s *pgtest.Server, sql string) [][][]byte {
	t.Helper()
	c, err := pgconn.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	results, err := c.Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return results[0].Rows
}

// receivedBy gives how far a replica has received its primary's log.
func receivedBy(t *testing.T, s *pgtest.Server) uint64 {
	t.Helper()
	lsn, err := parseLSN(askedOf(t, s, "SELECT pg_last_wal_receive_lsn()")[0][0])
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// alter changes settings of a running server.
func alter(t *testing.T, s *pgtest.Server, settings ...string) {
	t.Helper()
	for _, set := range settings {
		if err := s.Exec("postgres", "ALTER SYSTEM SET "+set); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Exec("postgres", "SELECT pg_reload_conf()"); err != nil {
		t.Fatal(err)
	}
}

// ledger is what callers were told of their writes, each a row of its own.
type ledger struct {
	mu   sync.Mutex // guards what follows
	told map[string]string
}

func (l *ledger) note(row string, err error) (what string) {
	var tool *mcp.ToolError
	switch {
	case err == nil:
		what = "acknowledged"
	case errors.Is(err, mcp.ErrUnknownFate):
		what = "unknown"
	case errors.As(err, &tool):
		what = "failed"
	default:
		what = err.Error()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told[row] = what
	return what
}

// The primary dies under load, and the most advanced replica is promoted: writes go on, reads never stop, no acknowledged write is lost or there
// twice, none that was told as failed is there, and the old primary, when it is back as one by itself, gets nothing.
func TestFailover(t *testing.T) {
	r := newReplication(t, nil, nil, nil)
	if err := r.Primary.Exec("postgres", "CREATE TABLE w (row text NOT NULL)"); err != nil {
		t.Fatal(err)
	}
	alter(t, r.Primary, "synchronous_standby_names = 'ANY 1 (*)'")
	s := r.open(t)
	if err := InstallOnce(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if !t.Failed() {
			return
		}
		for _, o := range s.servers {
			s.mu.Lock()
			o.mu.Lock()
			t.Logf("server %d: %q, %d replayed, lag %s; the primary is %d, of timeline %d from %d", o.number, o.why, o.replayed.Load(), time.Duration(o.lag.Load()), s.lead.Load(), s.timeline, s.fork)
			o.mu.Unlock()
			s.mu.Unlock()
		}
	}()
	q := compileRows(t, s)
	row := Param{Name: "row", Type: "string"}
	compileW := func(text string, mode Mode) Query {
		return compile(t, s, Spec{Text: text, Params: []Param{row}, Mode: mode, Once: mode == ReadWrite, MaxRows: 10})
	}
	insert, count := compileW("INSERT INTO w VALUES (:row)", ReadWrite), compileW("SELECT count(*) AS n FROM w WHERE row = :row", ReadOnly)

	var promoted, back atomic.Int64 // when, in nanoseconds since 1970
	l := &ledger{told: map[string]string{}}
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	var wg sync.WaitGroup
	var reads, own, slowest atomic.Int64
	timed := func(read func() error) error {
		began := time.Now()
		err := read()
		slowest.Store(max(slowest.Load(), int64(time.Since(began))))
		return err
	}
	for n := range 4 {
		wg.Go(func() { // reads what it has no part in
			for !stopped() {
				if err := timed(func() error { _, _, err := q.get(person(fmt.Sprint("reader", n)), 1); return err }); err != nil {
					t.Errorf("a read after %d: %v", reads.Load(), err)
					return
				}
				reads.Add(1)
			}
		})
		wg.Go(func() { // writes, and reads what was acknowledged
			me := person(fmt.Sprint("writer", n))
			for i := 0; !stopped(); i++ {
				x := &Execution{Args: []mcp.Value{text(fmt.Sprintf("%d/%d", n, i))}, Caller: me}
				_, _, err := insert.Run(context.Background(), nil, x)
				if l.note(string(x.Args[0].Text), err) != "acknowledged" {
					continue
				}
				if promoted.Load() != 0 {
					back.CompareAndSwap(0, time.Now().UnixNano())
				}
				var out []byte
				if err := timed(func() error {
					out, _, err = count.Run(context.Background(), nil, &Execution{Args: x.Args, Caller: me})
					return err
				}); err != nil || string(out) != `{"rows":[{"n":1}]}` {
					t.Errorf("what was acknowledged reads as %s, %v", out, err)
					return
				}
				own.Add(1)
			}
		})
		wg.Go(func() { // asks with a key until it is told that it is done
			me := person(fmt.Sprint("keyed", n))
			for i := 0; !stopped(); i++ {
				name := fmt.Sprintf("key %d/%d", n, i)
				x := &Execution{Args: []mcp.Value{text(name)}, Caller: me, Once: once(name, name)}
				for {
					_, _, err := insert.Run(context.Background(), nil, x)
					if l.note(name, err) == "acknowledged" {
						break
					}
				}
			}
		})
	}
	polltest.Until(t, "load", func() bool { return reads.Load() > 500 && own.Load() > 50 })
	r.Primary.Kill()
	best := r.Replicas[0]
	for _, o := range r.Replicas[1:] {
		if receivedBy(t, o) > receivedBy(t, best) {
			best = o
		}
	}
	if err := best.Promote(); err != nil {
		t.Fatal(err)
	}
	promoted.Store(time.Now().UnixNano())
	for _, o := range r.Replicas {
		if o != best {
			alter(t, o, fmt.Sprintf("primary_conninfo = 'host=127.0.0.1 port=%d user=millrace application_name=other'", best.Port))
		}
	}
	alter(t, best, "synchronous_standby_names = 'ANY 1 (*)'")
	polltest.Until(t, "a write is acknowledged", func() bool { return back.Load() != 0 || t.Failed() })
	took := time.Duration(back.Load() - promoted.Load())
	if took > 5*time.Second {
		t.Errorf("writes were back after %s", took)
	}
	before := reads.Load()
	polltest.Until(t, "load again, and replicas of the new primary", func() bool {
		_, on, err := q.get(person("somebody"), 1)
		return err == nil && on > 0 && reads.Load() > before+500 || t.Failed()
	})
	if err := r.Primary.Start(); err != nil { // nobody has fenced it
		t.Fatal(err)
	}
	polltest.Until(t, "the old primary is looked at", func() bool {
		o := s.servers[0]
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.why == "it is a primary by itself"
	})
	before = own.Load()
	polltest.Until(t, "writes beside it", func() bool { return own.Load() > before+20 || t.Failed() })
	close(stop)
	wg.Wait()

	there := map[string]string{}
	for _, r := range askedOf(t, best, "SELECT row, count(*) FROM w GROUP BY row") {
		there[string(r[0])] = string(r[1])
	}
	told := map[string]int{}
	for row, what := range l.told {
		told[what]++
		n := there[row]
		delete(there, row)
		switch {
		case what == "acknowledged" && n != "1", what == "failed" && n != "", what == "unknown" && n != "" && n != "1":
			t.Errorf("row %s was told as %s and is there %q times", row, what, n)
		case what != "acknowledged" && what != "failed" && what != "unknown":
			t.Errorf("row %s was told as %s", row, what)
		}
	}
	if len(there) > 0 {
		t.Errorf("%d rows that nobody was told of", len(there))
	}
	t.Logf("writes were back %s after the promotion: %v; %d reads, and %d of own writes, the slowest took %s", took, told, reads.Load(), own.Load(), time.Duration(slowest.Load()))
}

// A replica that was promoted beside a primary that goes on never takes its place, also not while that is restarted.
func TestPromotedBesideThePrimary(t *testing.T) {
	r := newReplication(t, nil, nil)
	s := r.open(t)
	q := compileRows(t, s)
	if err := r.Replicas[0].Promote(); err != nil {
		t.Fatal(err)
	}
	beside := s.servers[1]
	seen := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !beside.promoted.IsZero() && s.answered.After(beside.promoted)
	}
	polltest.Until(t, "it is a primary by itself", seen)
	r.Primary.Kill()
	polltest.Until(t, "the primary is lost", func() bool { return s.isLost(time.Now()) })
	if err := q.set(person("writer"), 1, 5); !isUnavailable(err) || s.lead.Load() != 0 {
		t.Errorf("a write without the primary: %v, led by %d", err, s.lead.Load())
	}
	if err := r.Primary.Start(); err != nil {
		t.Fatal(err)
	}
	polltest.Until(t, "writes are back", func() bool { return q.set(person("writer"), 1, 6) == nil })
	if s.lead.Load() != 0 {
		t.Errorf("led by %d", s.lead.Load())
	}
}

// A source that begins, or is made anew by a reload, after a failover finds the primary: among replicas, and among the hosts of one URL.
func TestPrimaryIsFound(t *testing.T) {
	r := newReplication(t, nil, nil)
	old := r.open(t)
	if err := compileRows(t, old).set(person("writer"), 1, 5); err != nil {
		t.Fatal(err)
	}
	opened := func(cfg *PostgresConfig) Source {
		c := old.cfg
		c.Postgres = cfg
		s, err := New("shop", c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	first := opened(old.cfg.Postgres).(*replicated) // a reload when nothing has happened changes nothing
	first.Inherit(old)
	if role := first.Stats()[0].Role; role != primaryRole || !first.servers[0].leads.Load() {
		t.Errorf("after a reload the primary is %q", role)
	}
	polltest.Until(t, "it has replayed", func() bool { return old.servers[1].replayed.Load() >= old.after(person("writer")) })
	r.Primary.Kill()
	if err := r.Replicas[0].Promote(); err != nil {
		t.Fatal(err)
	}
	polltest.Until(t, "the running one goes on", func() bool { return compileRows(t, old).set(person("writer"), 1, 6) == nil })
	if s := old.Stats()[0].Server; s.Key != "replicas[0]" || !s.Primary || !s.Serves {
		t.Errorf("the primary is told to be %+v", s)
	}
	heir := opened(old.cfg.Postgres).(*replicated)
	heir.Inherit(old)
	if err := compileRows(t, heir).set(person("writer"), 1, 7); err != nil {
		t.Errorf("after a reload: %v", err)
	}
	alter(t, r.Replicas[1], fmt.Sprintf("primary_conninfo = 'host=127.0.0.1 port=%d user=millrace'", r.Replicas[0].Port))
	fresh := compileRows(t, opened(old.cfg.Postgres))
	polltest.Until(t, "a new one has found it", func() bool { return fresh.set(person("writer"), 1, 8) == nil })
	hosts := fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d,127.0.0.1:%d", r.Primary.Port, r.Replicas[1].Port, r.Replicas[0].Port)
	url := strings.Replace(r.Primary.URL("postgres"), fmt.Sprintf("127.0.0.1:%d", r.Primary.Port), hosts, 1)
	if err := compileRows(t, opened(&PostgresConfig{Primary: conf.Secret(url)})).set(person("writer"), 1, 9); err != nil {
		t.Errorf("with several hosts: %v", err)
	}
	if v, _, err := fresh.get(person("writer"), 1); err != nil || v != 9 {
		t.Errorf("%d, %v", v, err)
	}
}

// Who the primary is follows from what the servers say, and in which order.
func TestWhoIsThePrimary(t *testing.T) {
	t.Parallel()
	const system, fork = "s", 1000
	primary := func(timeline uint64) serverState {
		return serverState{system: system, timeline: timeline, lsn: fork + 100*timeline, inserted: fork + 100*timeline, recovered: fork, pages: true}
	}
	replica := func(timeline, lsn uint64) serverState {
		return serverState{recovering: true, system: system, timeline: timeline, lsn: lsn}
	}
	gone := serverState{}
	foreign := primary(1)
	foreign.system = "another"
	open := func(t *testing.T) *replicated {
		cfg := DefaultConfig()
		cfg.Postgres = &PostgresConfig{Primary: "postgres://h0/d", Replicas: []conf.Secret{"postgres://h1/d", "postgres://h2/d"}}
		s, err := New("shop", cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s.(*replicated)
	}
	type said struct {
		by    int
		state serverState
	}
	hear := func(r *replicated, all []said) {
		for _, e := range all {
			var err error
			if e.state.system == "" {
				err = errors.New("gone")
			}
			e.state.asked = time.Now()
			if o := r.servers[e.by]; r.leader() == o {
				r.ofPrimary(o, e.state, err)
			} else {
				r.ofReplica(o, e.state, err, new(bool))
			}
			if since := r.lostAt.Load(); since != 0 { // each answer takes a while
				r.lostAt.Store(since - int64(lostAfter))
			}
		}
	}
	const started = "replicas of a primary"
	begun := []said{{0, primary(1)}, {1, replica(1, fork)}, {2, replica(1, fork+500)}}
	for name, c := range map[string]struct {
		from   string
		said   []said
		lead   int32
		serves string // of the replicas
	}{
		"nothing happens":                                  {started, nil, 0, "12"},
		"one is promoted when the primary is gone":         {started, []said{{0, gone}, {1, primary(2)}}, 1, ""},
		"the others must not be further":                   {started, []said{{0, gone}, {1, primary(2)}, {1, primary(2)}, {2, replica(1, fork+500)}}, 1, ""},
		"the others follow it":                             {started, []said{{0, gone}, {1, primary(2)}, {1, primary(2)}, {2, replica(2, fork+500)}}, 1, "2"},
		"the others are behind it":                         {started, []said{{0, gone}, {1, primary(2)}, {1, primary(2)}, {2, replica(1, fork)}}, 1, "2"},
		"the new one is gone too":                          {started, []said{{0, gone}, {1, primary(2)}, {1, primary(2)}, {2, replica(2, fork+500)}, {1, gone}, {2, replica(1, fork+500)}}, 1, "2"},
		"and a third takes over":                           {started, []said{{0, gone}, {1, primary(2)}, {1, primary(2)}, {1, gone}, {2, primary(3)}}, 2, ""},
		"the old one is back":                              {started, []said{{0, gone}, {1, primary(2)}, {1, primary(2)}, {0, primary(1)}, {1, gone}, {0, primary(1)}}, 1, ""},
		"one is promoted beside the primary":               {started, []said{{1, primary(2)}, {0, primary(1)}, {0, gone}, {1, primary(2)}}, 0, "2"},
		"and is not heard for a while":                     {started, []said{{1, primary(2)}, {0, primary(1)}, {0, gone}, {1, gone}, {1, primary(2)}}, 0, "2"},
		"and has been there before it was a replica again": {started, []said{{1, primary(2)}, {0, primary(1)}, {1, replica(1, fork)}, {0, gone}, {1, primary(2)}}, 1, ""},
		"a replica of that is none":                        {started, []said{{2, replica(2, fork+500)}}, 0, "1"},
		"another database is no primary":                   {started, []said{{0, gone}, {1, foreign}}, 0, "2"},
		"nobody has answered":                              {"", []said{{0, gone}, {0, gone}, {0, gone}}, 0, ""},
		"only one is there at the start":                   {"", []said{{0, gone}, {0, gone}, {1, primary(2)}}, 1, ""},
		"and the one of the file comes back later":         {"", []said{{0, gone}, {0, gone}, {1, primary(2)}, {1, primary(2)}, {0, primary(3)}}, 0, ""},
		"or is left behind":                                {"", []said{{0, gone}, {0, gone}, {1, primary(2)}, {1, primary(2)}, {0, primary(1)}}, 1, ""},
		"nobody follows it":                                {"", []said{{2, replica(1, fork)}, {0, gone}, {0, gone}, {1, primary(2)}}, 0, ""},
		"somebody follows it":                              {"", []said{{2, replica(2, fork)}, {0, gone}, {0, gone}, {1, primary(2)}}, 1, ""},
		"two databases at the start":                       {"", []said{{2, replica(1, fork)}, {0, gone}, {0, gone}, {1, foreign}}, 0, ""},
	} {
		for _, reload := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, reload %t", name, reload), func(t *testing.T) {
				r := open(t)
				if c.from == started {
					hear(r, begun)
				}
				for i := range c.said {
					if reload {
						next := open(t)
						next.Inherit(r)
						next.lostAt.Store(r.lostAt.Load())
						r = next
					}
					hear(r, c.said[i:i+1])
				}
				if lead := r.lead.Load(); lead != c.lead {
					t.Errorf("led by %d, want %d", lead, c.lead)
				}
				serves := ""
				for _, o := range r.servers {
					o.mu.Lock()
					if o.replayed.Load() > 0 && o.why != leading && (o.why == "" || !o.good.IsZero()) {
						serves += fmt.Sprint(o.number)
					}
					o.mu.Unlock()
					if o.leads.Load() != (o.number == int(c.lead)) {
						t.Errorf("server %d is %s", o.number, o.roleNow())
					}
				}
				if !reload && serves != c.serves {
					t.Errorf("%q serve, want %q", serves, c.serves)
				}
			})
		}
	}
}
