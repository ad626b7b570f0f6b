package sqldb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/pgtest"
	"millrace/internal/polltest"
)

// replication is a primary with replicas of its own, for tests that do something to them. They run one after the other: each has
// several servers.
type replication struct{ *pgtest.Replication }

// newReplication starts one with a replica for each of options.
func newReplication(t *testing.T, options ...[]string) *replication {
	t.Helper()
	r, err := pgtest.NewReplication("CREATE TABLE n (id bigint PRIMARY KEY, v bigint NOT NULL); INSERT INTO n SELECT i, 0 FROM generate_series(0, 99) AS i", options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return &replication{r}
}

// open opens a source on all of them and waits until each replica is known.
func (r *replication) open(t *testing.T, change ...func(*Config)) *replicated {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Postgres = &PostgresConfig{Primary: conf.Secret(r.Primary.URL("postgres"))}
	for _, url := range r.URLs("postgres") {
		cfg.Postgres.Replicas = append(cfg.Postgres.Replicas, conf.Secret(url))
	}
	for _, f := range change {
		f(&cfg)
	}
	s, err := New("shop", cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	out := s.(*replicated)
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, o := range out.servers[1:] {
		out.awaitServing(t, o, true)
	}
	return out
}

func (r *replicated) awaitServing(t *testing.T, o *replica, want bool) {
	t.Helper()
	defer func() {
		if t.Failed() {
			o.mu.Lock()
			defer o.mu.Unlock()
			t.Logf("replica %d: %q", o.number, o.why)
		}
	}()
	polltest.Until(t, fmt.Sprintf("replica %d serves: %t", o.number, want), func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.since.IsZero() != want
	})
}

func person(name string) *mcp.Caller {
	return &mcp.Caller{Principal: mcp.NewPrincipal("acme", name, nil)}
}

// rowsOf reads and writes a row of the table.
type rowsOf struct{ read, write Query }

func compileRows(t *testing.T, s Source) rowsOf {
	t.Helper()
	id, v := Param{Name: "id", Type: "integer"}, Param{Name: "v", Type: "integer"}
	compile := func(text string, mode Mode, params ...Param) Query {
		q, err := s.Compile(Spec{Name: "tool", Text: text, Params: params, Mode: mode, MaxRows: 10})
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	return rowsOf{compile("SELECT v FROM n WHERE id = :id", ReadOnly, id), compile("UPDATE n SET v = :v WHERE id = :id", ReadWrite, id, v)}
}

func ints(values ...int64) (out []mcp.Value) {
	for _, v := range values {
		out = append(out, mcp.Value{Kind: mcp.KindInt, Int: v})
	}
	return out
}

func (q rowsOf) get(c *mcp.Caller, id int64) (v int64, on int, err error) {
	out, outcome, err := q.read.Run(context.Background(), nil, &Execution{Args: ints(id), Caller: c})
	if err != nil {
		return 0, outcome.Replica, err
	}
	text := strings.TrimSuffix(strings.TrimPrefix(string(out), `{"rows":[{"v":`), `}]}`)
	v, err = strconv.ParseInt(strings.Trim(text, `"`), 10, 64)
	return v, outcome.Replica, err
}

func (q rowsOf) set(c *mcp.Caller, id, v int64) error {
	_, _, err := q.write.Run(context.Background(), nil, &Execution{Args: ints(id, v), Caller: c})
	return err
}

// others are other processes.
type others struct {
	sure atomic.Bool
	told []PositionKey
}

func (o *others) Tell(key PositionKey, _ uint64) { o.told = append(o.told, key) }
func (o *others) Sure() bool                     { return o.sure.Load() }

// Reads are spread over the replicas, writes reach the primary, and what must be new is read there.
func TestReadsRunOnReplicas(t *testing.T) {
	s := newReplication(t, nil, nil, nil).open(t)
	q := compileRows(t, s)
	var on [4]int
	polltest.Until(t, "reads on each replica", func() bool {
		for i := range 100 {
			_, at, err := q.get(person("reader"), int64(i))
			if err != nil {
				t.Fatal(err)
			}
			on[at]++
		}
		return min(on[1], on[2], on[3]) >= 100
	})
	if all := on[1] + on[2] + on[3]; on[0] > all/20 { // at the start each is trusted one after the other
		t.Errorf("%v reads ran on the primary and the replicas", on)
	}
	if err := q.set(person("writer"), 1, 7); err != nil {
		t.Fatal(err)
	}
	if v, _, err := q.get(person("writer"), 1); err != nil || v != 7 {
		t.Errorf("its own write reads as %d, %v", v, err)
	}
	out, outcome, err := q.read.Run(t.Context(), nil, &Execution{Args: ints(1), Primary: true})
	if err != nil || outcome.Replica != 0 || string(out) != `{"rows":[{"v":7}]}` {
		t.Errorf("%s on %d, %v", out, outcome.Replica, err)
	}
	// Other servers are told, and while they cannot be heard nothing is known of who wrote there.
	var o others
	s.Share(&o)
	if _, on, err := q.get(person("reader"), 1); err != nil || on != 0 {
		t.Errorf("on %d, %v, while others are not heard", on, err)
	}
	o.sure.Store(true)
	if _, on, err := q.get(person("reader"), 1); err != nil || on == 0 {
		t.Errorf("on %d, %v, while others are heard", on, err)
	}
	for _, c := range []*mcp.Caller{person("writer"), {Principal: mcp.Anonymous}} {
		if err := q.set(c, 1, 8); err != nil {
			t.Fatal(err)
		}
	}
	if len(o.told) != 1 || o.told[0] != positionKey(person("writer")) {
		t.Errorf("told of %v", o.told)
	}
	if _, _, err := q.write.Run(t.Context(), nil, &Execution{Args: ints(1, 9), Caller: person("writer"), Everybody: true}); err != nil {
		t.Fatal(err)
	}
	if v, _, err := q.get(person("another"), 1); err != nil || v != 9 || len(o.told) != 2 || o.told[1] != Everybody {
		t.Errorf("who was told reads %d, %v; told of %v", v, err, o.told)
	}
	s.Heard(positionKey(person("elsewhere")), unknownPosition)
	if _, on, err := q.get(person("elsewhere"), 1); err != nil || on != 0 {
		t.Errorf("who wrote elsewhere reads on %d, %v", on, err)
	}
	s.Missed()
	polltest.Until(t, "the log is known again", func() bool { _, on, err := q.get(person("reader"), 1); return err == nil && on > 0 })
	// Locks are of one server.
	lock, err := s.Compile(Spec{Name: "tool", Text: "SELECT pg_try_advisory_lock(1) AS v", MaxRows: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, outcome, err := lock.Run(t.Context(), nil, &Execution{}); err != nil || outcome.Replica != 0 {
		t.Errorf("a lock was taken on %d, %v", outcome.Replica, err)
	}
	// A read that no replica can do is done by the primary, and one that is wrong is refused once.
	now, err := s.Compile(Spec{Name: "tool", Text: "SELECT pg_current_wal_lsn() IS NOT NULL AS v", MaxRows: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, outcome, err := now.Run(t.Context(), nil, &Execution{}); err != nil || outcome.Replica != 0 {
		t.Errorf("on %d, %v", outcome.Replica, err)
	}
	roles := ""
	for _, p := range s.Stats() {
		roles += fmt.Sprintf("%s %s %t %t; ", p.Role, p.Server.Key, p.Server.Primary, p.Server.Serves)
	}
	if roles != "primary primary true true; replica1 replicas[0] false true; replica2 replicas[1] false true; replica3 replicas[2] false true; " {
		t.Error(roles)
	}
}

// However far behind the replicas are, nobody reads less than what he wrote; who wrote nothing reads from them.
func TestOwnWritesAreReadThroughReplicas(t *testing.T) {
	behind := []string{"recovery_min_apply_delay=2s"}
	s := newReplication(t, behind, nil).open(t)
	q := compileRows(t, s)
	var wg sync.WaitGroup
	var onReplicas, own atomic.Int64
	until := time.Now().Add(3 * time.Second)
	for n := range int64(4) {
		wg.Go(func() {
			me, other := person(fmt.Sprint("writer", n)), person(fmt.Sprint("reader", n))
			r := rand.New(rand.NewPCG(1, uint64(n)))
			written := int64(0)
			for v := int64(1); time.Now().Before(until); v++ {
				if r.IntN(4) == 0 {
					if err := q.set(me, n, v); err != nil {
						t.Error(err)
						return
					}
					written = v
				}
				got, on, err := q.get(me, n)
				if err != nil || got != written {
					t.Errorf("caller %d wrote %d and reads %d on %d, %v", n, written, got, on, err)
					return
				}
				if on > 0 {
					own.Add(1)
				}
				if _, on, err := q.get(other, n); err != nil {
					t.Error(err)
					return
				} else if on > 0 {
					onReplicas.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if onReplicas.Load() < 100 || own.Load() == 0 {
		t.Errorf("%d reads of others and %d of writers ran on replicas", onReplicas.Load(), own.Load())
	}
}

// A replica that is further behind than max_lag takes no reads, and takes some again when it is not. An idle primary makes nobody late.
func TestReplicasThatLag(t *testing.T) {
	s := newReplication(t, []string{"recovery_min_apply_delay=5s"}).open(t, func(c *Config) { c.MaxLag = conf.Duration(time.Second) })
	q := compileRows(t, s)
	reads := func() int {
		_, on, err := q.get(person("reader"), 1)
		if err != nil {
			t.Fatal(err)
		}
		return on
	}
	polltest.Until(t, "the primary is idle, and its replica takes reads", func() bool { return reads() == 1 })
	if err := q.set(person("writer"), 1, 1); err != nil {
		t.Fatal(err)
	}
	polltest.Until(t, "the replica is too far behind", func() bool {
		far := reads() == 0
		r := s.Stats()[1].Server
		return far && !r.Serves && r.Lag > time.Second
	})
	polltest.Until(t, "the replica has caught up", func() bool { return reads() == 1 })
}

// A replica that hangs or vanishes leaves, without a failed read, and takes reads again some time after it is back.
func TestReplicasThatFail(t *testing.T) {
	r := newReplication(t, nil, nil)
	s := r.open(t, func(c *Config) { c.QueryTimeout = conf.Duration(20 * time.Second) })
	q := compileRows(t, s)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var reads atomic.Int64
	var slowest atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				began := time.Now()
				if _, _, err := q.get(person("reader"), 1); err != nil {
					t.Errorf("after %d reads: %v", reads.Load(), err)
					return
				}
				reads.Add(1)
				slowest.Store(max(slowest.Load(), int64(time.Since(began))))
			}
		})
	}
	serves := func(i int) func() bool {
		return func() bool {
			_, on, err := q.get(person("reader"), 2)
			return err == nil && on == i
		}
	}
	for _, what := range []struct {
		name      string
		away, now func(*pgtest.Server) error
	}{
		{"hangs", (*pgtest.Server).Freeze, (*pgtest.Server).Thaw},
		{"vanishes", func(s *pgtest.Server) error { s.Kill(); return nil }, (*pgtest.Server).Start},
	} {
		if err := what.away(r.Replicas[0]); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		s.awaitServing(t, s.servers[1], false)
		t.Logf("a replica that %s is out after %s", what.name, time.Since(began))
		before := reads.Load()
		polltest.Until(t, "reads go on", func() bool { return reads.Load() > before+50 })
		if err := what.now(r.Replicas[0]); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		polltest.Until(t, "it serves again", serves(1))
		if took := time.Since(began); took < trustAfter/2 { // it answered a little before it was known to be back
			t.Errorf("it was trusted %s after its return", took)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d reads, the slowest took %s", reads.Load(), time.Duration(slowest.Load()))
	if d := time.Duration(slowest.Load()); d > 5*time.Second {
		t.Errorf("a read took %s", d)
	}
}

// Without the primary reads go on, and writes say that it is gone.
func TestReadsWithoutThePrimary(t *testing.T) {
	r := newReplication(t, nil, nil)
	s := r.open(t, func(c *Config) { c.MaxLag = conf.Duration(time.Second) })
	q := compileRows(t, s)
	if err := q.set(person("writer"), 1, 5); err != nil {
		t.Fatal(err)
	}
	polltest.Until(t, "the write is on the replicas", func() bool {
		v, on, err := q.get(person("writer"), 1)
		return err == nil && v == 5 && on > 0
	})
	several := compile(t, s, parts(true, nil, "a", "SELECT v FROM n WHERE id = 1", "b", "SELECT v FROM n WHERE id = 1"))
	r.Primary.Kill()
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); {
		if v, on, err := q.get(person("reader"), 1); err != nil || v != 5 || on == 0 {
			t.Fatalf("%d on %d, %v", v, on, err)
		}
		if out, outcome, err := several.Run(t.Context(), nil, &Execution{Caller: person("reader")}); err != nil || string(out) != `{"a":{"rows":[{"v":5}]},"b":{"rows":[{"v":5}]}}` || outcome.Replica == 0 {
			t.Fatalf("%s on %d, %v", out, outcome.Replica, err)
		}
	}
	s.Heard(positionKey(person("ahead")), unknownPosition) // no replica has what this one must see: it waits for a primary
	_, _, lost := several.Run(t.Context(), nil, &Execution{Caller: person("ahead"), Deadline: time.Now().Add(100 * time.Millisecond)})
	toolError(t, lost, kindUnavailable)
	err := q.set(person("writer"), 1, 6)
	var tool *mcp.ToolError
	if !errors.As(err, &tool) || tool.Kind != kindUnavailable {
		t.Errorf("a write: %v", err)
	}
	if err := r.Primary.Start(); err != nil {
		t.Fatal(err)
	}
	polltest.Until(t, "writes are back", func() bool { return q.set(person("writer"), 1, 7) == nil })
	if v, _, err := q.get(person("writer"), 1); err != nil || v != 7 {
		t.Errorf("%d, %v", v, err)
	}
}

// A server that is no replica of the primary is never read from.
func TestAnotherServerIsNoReplica(t *testing.T) {
	r := newReplication(t, nil)
	other, err := pgtest.Shared()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Replicas[0].Promote(); err != nil { // of the same system, and a primary
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Postgres = &PostgresConfig{Primary: conf.Secret(r.Primary.URL("postgres")), Replicas: []conf.Secret{conf.Secret(other.URL("postgres")), conf.Secret(r.Replicas[0].URL("postgres"))}}
	opened, err := New("shop", cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	s := opened.(*replicated)
	faults := s.CheckReplicas(t.Context())
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"it is no replica of this primary", "it is a primary by itself"} {
		o := s.servers[i+1]
		polltest.Until(t, want, func() bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			return o.why == want
		})
		if faults[i] == nil || faults[i].Error() != want {
			t.Errorf("checked: %v", faults[i])
		}
	}
	if _, on, err := compileRows(t, s).get(person("reader"), 1); err != nil || on != 0 {
		t.Errorf("on %d, %v", on, err)
	}
}

func TestPositions(t *testing.T) {
	t.Parallel()
	p := newPositions()
	key := func(name string) PositionKey { return positionKey(person(name)) }
	is := func(name string, want uint64) {
		t.Helper()
		if got := p.of(key(name)); got != want {
			t.Errorf("%s must read up to %d, want %d", name, got, want)
		}
	}
	// Nothing is known of what was written before, or missed, until it is known where the log is.
	now := time.Now()
	is("a", unknownPosition)
	p.learn(now.Add(-time.Second), 4)
	is("a", unknownPosition)
	now = now.Add(time.Second)
	p.learn(now, 5)
	is("a", 5)
	p.note(key("a"), 10)
	p.note(key("a"), 7)
	p.note(key("b"), unknownPosition)
	is("a", 10)
	is("b", unknownPosition)
	is("c", 5)
	// A write of which the position is not known hides none that is.
	p.note(key("b"), 12)
	is("b", unknownPosition)
	p.learn(now.Add(unknownFor-10*time.Second), 11)
	is("b", unknownPosition)
	now = now.Add(unknownFor + 2*time.Second)
	p.learn(now, 14)
	is("b", 14)
	p.note(key("b"), 13)
	is("b", 14)
	p.note(Everybody, 6)
	is("c", 6)
	p.note(key("late"), unknownPosition)
	for i := range mostPositions {
		p.note(key(strconv.Itoa(i)), uint64(i%50))
	}
	if len(p.by) > mostPositions {
		t.Errorf("%d positions are kept", len(p.by))
	}
	// What was forgotten holds for everybody: first that somebody wrote where nobody knows.
	is("nobody", unknownPosition)
	p.learn(now.Add(unknownFor+time.Minute), 40)
	if got := p.of(key("nobody")); got < 40 || got > 50 {
		t.Errorf("%d", got)
	}
	alice, bob := person("alice"), person("bob")
	admin := &mcp.Caller{Principal: mcp.NewPrincipal("acme", "alice", []string{"admin"}), Session: "x"}
	session, none := &mcp.Caller{Principal: mcp.Anonymous, Session: "x"}, &mcp.Caller{Principal: mcp.Anonymous}
	if positionKey(alice) != positionKey(admin) || positionKey(alice) == positionKey(bob) || positionKey(session) == positionKey(none) {
		t.Error("a position follows the subject; the session only where there is none")
	}
	if positionKey(&mcp.Caller{Principal: mcp.NewPrincipal("ab", "c", nil)}) == positionKey(&mcp.Caller{Principal: mcp.NewPrincipal("a", "bc", nil)}) {
		t.Error("two subjects have one key")
	}
}

func TestParseLSN(t *testing.T) {
	t.Parallel()
	if lsn, err := parseLSN([]byte("16/B374D848")); err != nil || lsn != 0x16B374D848 {
		t.Errorf("%x, %v", lsn, err)
	}
	for _, bad := range []string{"", "16", "x/y", "123456789/1"} {
		if lsn, err := parseLSN([]byte(bad)); err == nil {
			t.Errorf("%q is %x", bad, lsn)
		}
	}
}
