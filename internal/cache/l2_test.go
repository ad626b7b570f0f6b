package cache

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/polltest"
	"millrace/internal/redis"
	"millrace/internal/redistest"
)

// startedRedis is the Redis of this test binary, nil while no test has needed it.
var startedRedis atomic.Pointer[redistest.Server]

var redisServer = sync.OnceValues(func() (*redistest.Server, error) {
	s, err := redistest.New()
	startedRedis.Store(s)
	return s, err
})

// node is one process of several that share a Redis, and perhaps a database.
type node struct {
	*Cache
	n1, n2, n3 *counts
	client     *redis.Client
}

// deployment is what nodes share.
type deployment struct {
	addr   string
	prefix string
	secret []byte
	place  *place
	more   func(*redis.Config)
}

var deployments atomic.Int64

// newDeployment gives one of its own on the Redis of all tests.
func newDeployment(t *testing.T) *deployment {
	t.Helper()
	s, err := redisServer()
	if err != nil {
		t.Fatal(err)
	}
	return &deployment{addr: s.Addr(), prefix: fmt.Sprintf("t%d", deployments.Add(1))}
}

// start starts a node and waits until it holds its lease.
func (d *deployment) start(t testing.TB, change ...func(*Config)) *node {
	t.Helper()
	n := d.launch(t, change...)
	n.await(t)
	return n
}

func (d *deployment) launch(t testing.TB, change ...func(*Config)) *node {
	t.Helper()
	cfg := DefaultConfig()
	for _, f := range change {
		f(&cfg)
	}
	to := redis.DefaultConfig()
	to.Nodes, to.Prefix = []string{d.addr}, d.prefix
	if d.more != nil {
		d.more(&to)
	}
	n := &node{n1: &counts{}, n2: &counts{}, n3: &counts{}}
	var err error
	if n.client, err = redis.Open(to, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.client.Close)
	deps := Deps{Tags: NewTags(), L1: n.n1, L2: n.n2, L3: n.n3, Redis: n.client, Secret: d.secret, Log: slog.New(slog.DiscardHandler)}
	if d.place != nil {
		deps.Database = &Database{d.place.dialect, d.place.source.Compile}
	}
	if n.Cache, err = New(cfg, deps); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	n.l1.chance = func() float64 { return 0 }
	n.l2.budget = time.Second // tests run beside each other
	if d.place != nil {
		n.l3.wait = 10 * time.Second
		if err := n.l3.begin(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (n *node) await(t testing.TB) {
	t.Helper()
	polltest.Until(t, "a lease", func() bool { return n.l2.open() })
}

// fills does something, and tells whether the node then writes an entry into the level: one that loses its lease meanwhile, for want of a
// processor, does not.
func (n *node) fills(does func()) bool {
	told := make(chan Event, 100)
	n.n2.told.Store(&told)
	defer n.n2.told.Store(nil)
	does()
	over := time.NewTimer(time.Second)
	defer over.Stop()
	for {
		select {
		case e := <-told:
			if e == Filled {
				return true
			}
		case <-over.C:
			return false
		}
	}
}

// tries is how often a test tries again where a node may have lost its lease.
const tries = 20

// keeps reads a row until its entry is in the shared level.
func (n *node) keeps(t testing.TB, read mcp.Handler, id int64) {
	t.Helper()
	for range tries {
		n.await(t)
		if n.invalidate(tagOf(reading(id).Args)) != nil {
			continue
		}
		if n.fills(func() {
			if _, err := n.Middleware(read)(t.Context(), reading(id)); err != nil {
				t.Fatal(err)
			}
		}) {
			return
		}
	}
	t.Fatal("no entry in Redis")
}

func TestL2IsShared(t *testing.T) {
	t.Parallel()
	for name, secret := range map[string][]byte{"plain": nil, "encrypted": []byte(strings.Repeat("k", 32))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDeployment(t)
			d.secret = secret
			a, b := d.start(t), d.start(t)
			db := &table{rows: map[int64]int64{1: 10, 2: 20}}
			hints := &mcp.Hints{TTL: time.Minute, Scope: mcp.ScopeTenant}
			read := func(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
				r, err := db.read(ctx, c)
				r.Meta, r.Hints = []byte(`"a":"\"\\é"`), hints
				return r, err
			}
			a.keeps(t, read, 1)
			level(t, b.Middleware(read), reading(1), mcp.CacheHit, 2, "10")
			level(t, b.Middleware(read), reading(1), mcp.CacheHit, 1, "10")
			r, err := b.Middleware(read)(t.Context(), reading(1))
			if err != nil || string(r.Meta) != `"a":"\"\\é"` || *r.Hints != *hints || r.Rows != mcp.RowsOne || db.runs.Load() != 1 {
				t.Errorf("%+v, %v after %d runs", r, err, db.runs.Load())
			}
			if b.n2.of(Hit) != 1 || a.n2.of(Miss) != 1 || b.n2.looks.Load() != 1 {
				t.Errorf("%d hits, %d misses", b.n2.of(Hit), a.n2.of(Miss))
			}
			// A changed tool shares nothing with the old one, nor does one caller with another.
			changed, private := reading(1), reading(1)
			changed.Version[0]++
			private.Policy.Scope = mcp.ScopePrivate
			level(t, b.Middleware(read), changed, mcp.CacheMiss, 0, "10")
			level(t, b.Middleware(read), private, mcp.CacheMiss, 0, "10")
		})
	}
}

// Who reads after a write has answered reads it, on every node.
func TestAWriteIsReadOnEveryNode(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	nodes := []*node{d.start(t), d.start(t), d.start(t)}
	db := &table{rows: map[int64]int64{1: 0}}
	for _, n := range nodes {
		if _, err := n.Middleware(db.read)(t.Context(), reading(1)); err != nil {
			t.Fatal(err)
		}
	}
	for v := int64(1); v <= 100; v++ {
		writer := nodes[v%3]
		do(t, writer.Cache, writing(1, v%2 == 0), db.write(1, v))
		for i, n := range nodes {
			r, err := n.Middleware(db.read)(t.Context(), reading(1))
			if err != nil || string(r.Fields) != fmt.Sprint(v) {
				t.Fatalf("node %d reads %s after %d was written, %v", i, r.Fields, v, err)
			}
		}
	}
	hits := int64(0)
	for _, n := range nodes {
		hits += n.n2.of(Hit) + n.n1.of(Hit)
	}
	if hits < 100 {
		t.Errorf("%d hits: the levels were not used", hits)
	}
}

// What a write returned is what all nodes read, without asking the database.
func TestAWriteIsPutForEveryNode(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	a, b := d.start(t), d.start(t)
	db := &table{rows: map[int64]int64{1: 10}}
	b.keeps(t, db.read, 1)
	shared := false
	for v := int64(11); v < 11+tries && !shared; v++ {
		a.await(t)
		kept := a.fills(func() { do(t, a.Cache, writing(1, true), db.write(1, v)) })
		r, err := b.Middleware(db.read)(t.Context(), reading(1))
		if err != nil || string(r.Fields) != fmt.Sprint(v) {
			t.Errorf("%q after %d was written, %v", r.Fields, v, err)
		}
		if shared = kept && r.Cache.Level == 2; shared {
			level(t, a.Middleware(db.read), reading(1), mcp.CacheHit, 1, fmt.Sprint(v))
		}
	}
	if !shared {
		t.Error("what was written was never found in Redis")
	}
	before := a.n1.of(Put)
	// Not so where another node writes at the same time: which was the last is not known.
	do(t, a.Cache, writing(1, true), func(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
		do(t, b.Cache, writing(1, true), db.write(1, 99))
		return mcp.Result{Fields: []byte("98"), Rows: mcp.RowsOne}, nil
	})
	r, err := a.Middleware(db.read)(t.Context(), reading(1))
	if err != nil || string(r.Fields) != "99" {
		t.Errorf("%q, %v", r.Fields, err)
	}
	if before == 0 || a.n1.of(Put) != before || b.n1.of(Put) != 0 {
		t.Errorf("%d puts, then %d and %d, want some and no more", before, a.n1.of(Put), b.n1.of(Put))
	}
}

// A node that dies in the middle of a write leaves nothing anywhere that was read before the write was done.
func TestL2AfterADeathInTheMiddleOfAWrite(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	a, b := d.start(t), d.start(t)
	db := &table{rows: map[int64]int64{1: 10}}
	level(t, b.Middleware(db.read), reading(1), mcp.CacheMiss, 0, "10")
	do(t, a.Cache, writing(1, false), func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
		polltest.Until(t, "read past the cache", func() bool { // b is told and not waited for
			r, err := b.Middleware(db.read)(t.Context(), reading(1))
			if err != nil || string(r.Fields) != "10" {
				t.Errorf("%s %q, %v", r.Cache.Status, r.Fields, err)
			}
			return r.Cache.Status != mcp.CacheHit
		})
		out, err := db.write(1, 11)(ctx, call)
		// Here it dies: what b read meanwhile must not be there.
		level(t, b.Middleware(db.read), reading(1), mcp.CacheMiss, 0, "11")
		level(t, d.start(t).Middleware(db.read), reading(1), mcp.CacheMiss, 0, "11")
		return out, err
	})
	level(t, b.Middleware(db.read), reading(1), mcp.CacheMiss, 0, "11")
	level(t, b.Middleware(db.read), reading(1), mcp.CacheHit, 1, "11")
}

// Callers of several nodes that ask for the same at the same time cost one query. It is tried again where a node lost its lease
// meanwhile, for want of a processor: then it does not wait for another.
func TestOneFlightForAllNodes(t *testing.T) { // alone: it is about time
	d := newDeployment(t)
	nodes := []*node{d.start(t), d.start(t), d.start(t)}
	for _, n := range nodes {
		n.l2.flight = time.Minute
	}
	const callers = 1500
	for id := int64(1); ; id++ {
		before := int64(0)
		for _, n := range nodes {
			n.await(t)
			before += n.n1.of(Coalesced) + n.n1.of(Miss)
		}
		var runs atomic.Int64
		arrived := make(chan struct{})
		read := func(context.Context, *mcp.Call) (mcp.Result, error) {
			runs.Add(1)
			<-arrived
			return mcp.Result{Fields: []byte("10"), Rows: mcp.RowsOne}, nil
		}
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				r, err := nodes[i%3].Middleware(read)(context.Background(), reading(id))
				if err != nil || string(r.Fields) != "10" {
					t.Errorf("%q, %v", r.Fields, err)
				}
			})
		}
		polltest.Until(t, "callers", func() bool {
			n := -before
			for _, node := range nodes {
				n += node.n1.of(Coalesced) + node.n1.of(Miss)
			}
			return n == callers
		})
		close(arrived)
		wg.Wait()
		if n := runs.Load(); n == 1 {
			return
		} else if id == 5 {
			t.Fatalf("%d queries for %d callers", n, callers)
		}
	}
}

// A purge reaches what other nodes hold.
func TestAPurgeReachesEveryNode(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	a, b := d.start(t), d.start(t)
	db := &table{rows: map[int64]int64{1: 10, 2: 20}}
	h := b.Middleware(db.read)
	warm := func() {
		for id := int64(1); id <= 2; id++ {
			if _, err := h(t.Context(), reading(id)); err != nil {
				t.Fatal(err)
			}
		}
	}
	warm()
	level(t, h, reading(1), mcp.CacheHit, 1, "10")
	if err := a.Purge([]string{"row:1"}, nil); err != nil {
		t.Error(err)
	}
	level(t, h, reading(1), mcp.CacheMiss, 0, "10")
	level(t, h, reading(2), mcp.CacheHit, 1, "20")
	if err := a.Purge(nil, []string{"t"}); err != nil {
		t.Error(err)
	}
	level(t, h, reading(2), mcp.CacheMiss, 0, "20")
	warm()
	if err := a.PurgeAll(); err != nil {
		t.Error(err)
	}
	level(t, h, reading(1), mcp.CacheMiss, 0, "10")
}

// A cluster keeps entries on all of its servers, and versions on one.
func TestL2InACluster(t *testing.T) {
	t.Parallel()
	servers, err := redistest.NewCluster(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		defer s.Stop()
	}
	d := &deployment{addr: servers[0].Addr(), prefix: "c"}
	a, b := d.start(t), d.start(t)
	db := &table{rows: map[int64]int64{}}
	hits := 0
	for id := range int64(20) {
		db.rows[id] = 10 * id
	}
	for id := range int64(20) {
		a.keeps(t, db.read, id)
		r, err := b.Middleware(db.read)(t.Context(), reading(id))
		if err != nil || string(r.Fields) != fmt.Sprint(10*id) {
			t.Errorf("row %d is %s, %v", id, r.Fields, err)
		}
		if r.Cache.Level == 2 {
			hits++
		}
		do(t, b.Cache, writing(id, false), db.write(id, id))
		if r, err := a.Middleware(db.read)(t.Context(), reading(id)); err != nil || string(r.Fields) != fmt.Sprint(id) {
			t.Errorf("row %d is %s after %d was written, %v", id, r.Fields, id, err)
		}
	}
	if hits < 10 { // one that loses its lease meanwhile, for want of a processor, does not look there
		t.Errorf("%d of 20 were found in Redis", hits)
	}
	for _, s := range servers {
		if keys, err := s.Command("DBSIZE"); err != nil || keys == ":0" {
			t.Errorf("a server of the cluster has %s keys, %v", keys, err)
		}
	}
	if n := a.n2.of(Failed) + b.n2.of(Failed); n > 10 { // some for want of a processor, but not each
		t.Errorf("%d failures", n)
	}
}

// When a Sentinel puts another server in the place of a dead one, nothing is served that the new one may not know to be void.
func TestL2OverAFailover(t *testing.T) {
	t.Parallel()
	master, err := redistest.New()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Stop()
	way := newLink(t, master.Addr())
	_, port, _ := net.SplitHostPort(way.listener.Addr().String())
	replica, err := redistest.New("--replicaof", "127.0.0.1 "+port, "--repl-diskless-sync-delay", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Stop()
	polltest.Until(t, "replica", func() bool {
		info, err := replica.Command("INFO replication")
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
	sentinel, err := redistest.NewSentinel(master)
	if err != nil {
		t.Fatal(err)
	}
	defer sentinel.Stop()
	polltest.Until(t, "Sentinel that knows the replica", func() bool {
		info, err := sentinel.Command("INFO sentinel")
		return err == nil && strings.Contains(info, "slaves=1")
	})
	d := &deployment{addr: sentinel.Addr(), prefix: "s", more: func(c *redis.Config) { c.Sentinel = "main" }}
	a, b := d.start(t), d.start(t)
	db := &table{rows: map[int64]int64{1: 10}}
	a.keeps(t, db.read, 1)
	level(t, b.Middleware(db.read), reading(1), mcp.CacheHit, 2, "10")
	polltest.Until(t, "entry on the replica", func() bool {
		keys, err := replica.Command("KEYS s:e:*")
		return err == nil && keys == "*1"
	})
	// The replica hears nothing of the write that its master takes last.
	way.hold()
	do(t, a.Cache, writing(1, false), db.write(1, 11))
	master.Kill()
	way.drop.Store(true)
	way.release()
	for _, n := range []*node{a, b} {
		if r, err := n.Middleware(db.read)(t.Context(), reading(1)); err != nil || string(r.Fields) != "11" {
			t.Errorf("%s, %v", r.Fields, err)
		}
	}
	polltest.Until(t, "failover", func() bool { return a.l2.open() && b.l2.open() })
	for _, n := range []*node{a, b} {
		if r, err := n.Middleware(db.read)(t.Context(), reading(1)); err != nil || string(r.Fields) != "11" {
			t.Errorf("after the failover: %s, %v", r.Fields, err)
		}
	}
}

// Without Redis what writes can change is served where the database's level knows that it is not void, and all else from L1.
func TestWithoutRedis(t *testing.T) {
	t.Parallel()
	s, err := redistest.New()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	d := &deployment{addr: s.Addr(), prefix: "w", place: places(t)["sqlite"]}
	a, b := d.start(t), d.start(t)
	db := &table{rows: map[int64]int64{1: 10, 2: 20}}
	h := a.Middleware(db.read)
	fixed := reading(1, func(p *mcp.Policy) { p.Mutable = false })
	fixed.Target = "fixed"
	level(t, h, reading(1), mcp.CacheMiss, 0, "10")
	level(t, h, fixed, mcp.CacheMiss, 0, "10")
	polltest.Until(t, "entries in the database", func() bool { return a.n3.of(Filled) == 2 })
	level(t, b.Middleware(db.read), reading(1), mcp.CacheHit, 2, "10")
	level(t, b.Middleware(db.read), reading(2), mcp.CacheMiss, 0, "20")
	polltest.Until(t, "an entry in the database", func() bool { return b.n3.of(Filled) == 1 })
	s.Kill()
	polltest.Until(t, "end of the leases", func() bool { return !a.l2.open() && !b.l2.open() })
	level(t, h, reading(1), mcp.CacheHit, 1, "10")
	level(t, h, reading(2), mcp.CacheHit, 3, "20")
	level(t, h, fixed, mcp.CacheHit, 1, "10")
	level(t, b.Middleware(db.read), reading(1), mcp.CacheHit, 1, "10")
	do(t, a.Cache, writing(1, false), db.write(1, 11))
	level(t, b.Middleware(db.read), reading(1), mcp.CacheMiss, 0, "11")
	level(t, b.Middleware(db.read), reading(2), mcp.CacheHit, 1, "20")
	r, err := h(t.Context(), reading(1))
	if err != nil || string(r.Fields) != "11" {
		t.Errorf("%s, %v", r.Fields, err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	a.await(t)
	if r, err = h(t.Context(), reading(1)); err != nil || string(r.Fields) != "11" {
		t.Errorf("%s, %v", r.Fields, err)
	}
	level(t, h, reading(1), mcp.CacheHit, 1, "11")
}

// Of all nodes one fetches hot results anew in an interval.
func TestOneNodeTends(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	leads := 0
	for range 3 {
		if d.start(t).l2.lead(time.Minute) {
			leads++
		}
	}
	if leads != 1 {
		t.Errorf("%d of 3 lead", leads)
	}
}

// A write whose node cannot tell the database's level, and can tell Redis, is known to who finds the row in the database.
func TestL3IsHeldAgainstRedis(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	d.place = places(t)["sqlite"]
	a, b := d.start(t), d.start(t)
	db := &table{rows: map[int64]int64{}}
	for id := range int64(tries) {
		db.rows[id] = 10
		b.await(t)
		kept := b.n3.of(Filled)
		level(t, b.Middleware(db.read), reading(id), mcp.CacheMiss, 0, "10")
		polltest.Until(t, "an entry in the database", func() bool { return b.n3.of(Filled) > kept })
		a.l3.open.Store(false) // until it is looked after, in a second at most
		do(t, a.Cache, writing(id, false), db.write(id, 11))
		held := b.l2.open()
		r, err := b.Middleware(db.read)(t.Context(), reading(id))
		if held = held && b.l2.open(); held { // else, for want of a processor, it had nobody to ask
			if err != nil || r.Cache.Status != mcp.CacheMiss || string(r.Fields) != "11" {
				t.Errorf("%s %q, %v", r.Cache.Status, r.Fields, err)
			}
			return
		}
	}
	t.Error("the node never held its lease")
}

// Stale modes bring back nothing that another node may have made void.
func TestStaleNeedsTheLeaseToo(t *testing.T) {
	t.Parallel()
	s, err := redistest.New()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	a := (&deployment{addr: s.Addr(), prefix: "n"}).start(t)
	db := &table{rows: map[int64]int64{1: 10}}
	one := reading(1, func(p *mcp.Policy) { p.StaleError = time.Hour })
	level(t, a.Middleware(db.read), one, mcp.CacheMiss, 0, "10")
	s.Kill()
	polltest.Until(t, "end of the lease", func() bool { return !a.l2.open() })
	db.down.Store(true)
	if r, err := a.Middleware(db.read)(t.Context(), reading(1, func(p *mcp.Policy) { p.StaleError = time.Hour })); err == nil {
		t.Errorf("%s %q", r.Cache.Status, r.Fields)
	}
}
