package cache

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/redistest"
	"millrace/internal/sqldb"
)

// nodesFor is how long TestHistoriesOfNodes goes on.
var nodesFor = flag.Duration("cache.nodes", time.Second, "how long TestHistoriesOfNodes looks")

// deafness is the mistake of a node that acknowledges what it is told and does nothing.
const deafness = bugCount

type deaf struct{ *L2 }

func (deaf) Announced(string) {}
func (deaf) Missed()          {}

// link is a node's way to Redis, which can be cut and held up.
type link struct {
	to       string
	listener net.Listener
	held     atomic.Pointer[chan struct{}] // until when nothing passes; nil for now
	drop     atomic.Bool                   // what was held is lost
	passed   chan struct{}                 // holds something when something has passed
	mu       sync.Mutex                    // guards conns
	conns    map[net.Conn]bool
	work     sync.WaitGroup
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{to: to, listener: l, conns: map[net.Conn]bool{}, passed: make(chan struct{}, 1)}
	k.work.Go(k.accept)
	t.Cleanup(func() {
		k.listener.Close()
		k.release()
		k.cut()
		k.work.Wait()
	})
	return k
}

func (k *link) accept() {
	for {
		in, err := k.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", k.to)
		if err != nil {
			in.Close()
			continue
		}
		k.mu.Lock()
		k.conns[in], k.conns[out] = true, true
		k.mu.Unlock()
		k.work.Go(func() { k.pass(out, in) })
		k.work.Go(func() { k.pass(in, out) })
	}
}

func (k *link) pass(to, from net.Conn) {
	defer func() {
		to.Close()
		from.Close()
		k.mu.Lock()
		delete(k.conns, to)
		delete(k.conns, from)
		k.mu.Unlock()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if held := k.held.Load(); held != nil {
			<-*held
		}
		if n > 0 && !k.drop.Load() {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
			select {
			case k.passed <- struct{}{}:
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

// cut breaks all connections.
func (k *link) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		c.Close()
	}
}

// hold lets nothing pass until release.
func (k *link) hold() {
	c := make(chan struct{})
	if !k.held.CompareAndSwap(nil, &c) {
		close(c)
	}
}

func (k *link) release() {
	if held := k.held.Swap(nil); held != nil {
		close(*held)
	}
}

// seenAt is a read or a write of a row with when it was, since the start.
type seenAt struct {
	operation
	node       int
	begin, end time.Duration
	value      int64
	from       mcp.CacheInfo // of a read
}

// outdated gives the first read that is older than what had been written, and acknowledged, some time before it began.
func outdated(history []seenAt, bound time.Duration) string {
	writes, of := map[[2]int64]seenAt{}, map[int64][]seenAt{} // by row and value, and of each row
	for _, o := range history {
		if o.write {
			writes[[2]int64{o.id, o.value}] = o
			of[o.id] = append(of[o.id], o)
		}
	}
	for _, r := range history {
		if r.write {
			continue
		}
		from, known := writes[[2]int64{r.id, r.value}]
		if !known && r.value != 0 || known && from.begin > r.end {
			return fmt.Sprintf("node %d read %d of row %d, which nobody had written", r.node, r.value, r.id)
		}
		for _, w := range of[r.id] {
			if (!known || w.begin > from.end) && w.end+bound < r.begin {
				return fmt.Sprintf("node %d read %d of row %d from %s to %s (%s at level %d, %s old), which node %d wrote from %s to %s, and %d had been written by node %d from %s to %s",
					r.node, r.value, r.id, r.begin, r.end, r.from.Status, r.from.Level, r.from.Age, from.node, from.begin, from.end, w.value, w.node, w.begin, w.end)
			}
		}
	}
	return ""
}

// disturbance is what goes wrong in a history.
type disturbance struct {
	name  string
	bound time.Duration // how long a node may serve what was changed by one that could not tell it
	each  func(r *rand.Rand, s *redistest.Server, links []*link) error
}

var disturbances = []disturbance{
	{"nothing", 0, nil},
	{"delays", 0, func(r *rand.Rand, _ *redistest.Server, links []*link) error {
		k := links[r.IntN(len(links))]
		k.hold()
		time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond) // within a lease
		k.release()
		return nil
	}},
	{"restarts", 0, func(r *rand.Rand, s *redistest.Server, _ []*link) error {
		s.Kill()
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
		return s.Start()
	}},
	{"freezes", 2 * time.Second, func(r *rand.Rand, s *redistest.Server, _ []*link) error {
		if err := s.Freeze(); err != nil {
			return err
		}
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		return s.Thaw()
	}},
	{"cuts", 2 * time.Second, func(r *rand.Rand, _ *redistest.Server, links []*link) error {
		links[r.IntN(len(links))].cut()
		return nil
	}},
	{"partitions", 2 * time.Second, func(r *rand.Rand, _ *redistest.Server, links []*link) error {
		k := links[r.IntN(len(links))]
		k.hold()
		time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
		k.release()
		return nil
	}},
}

// nodesHistory lets callers of three nodes read and write a few rows while something goes wrong, and gives the first thing
// that should not have been. The rows are in a real PostgreSQL, and with every second seed so is the third level.
func nodesHistory(t *testing.T, seed uint64, what disturbance, planted bug, length time.Duration) string {
	s, err := redistest.New()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	d := newRows(seed, func(int) {}) // the database and the network take their own time
	p := openPlace(t, "postgres", PostgreSQL, func(c *sqldb.Config) {
		c.Postgres, c.QueryTimeout = &sqldb.PostgresConfig{Primary: conf.Secret(newDatabase(t))}, conf.Duration(time.Minute)
	})
	d.keepIn(t, p)
	if seed%2 == 0 {
		p = nil
	}
	var links []*link
	var nodes []*node
	for range 3 {
		k := newLink(t, s.Addr())
		links = append(links, k)
		n := (&deployment{addr: k.listener.Addr().String(), prefix: "h", place: p}).start(t, func(c *Config) { c.L1.Size = 1 + int(seed%3) })
		n.l2.budget = l2Budget
		if planted == deafness {
			n.l2.member.Close()
			n.l2.member = n.client.Join("cache", deaf{n.l2})
			n.await(t)
		}
		nodes = append(nodes, n)
	}
	base := time.Now()
	var mu sync.Mutex // guards history
	var history []seenAt
	var wg sync.WaitGroup
	over := func() bool { return time.Since(base) > length }
	for caller := range 6 {
		r := rand.New(rand.NewPCG(seed, uint64(caller)))
		wg.Go(func() {
			for !over() {
				at := r.IntN(len(nodes))
				o := seenAt{operation: operation{id: r.Int64N(rowCount)}, node: at, begin: time.Since(base)}
				if r.IntN(100) < 80 {
					call := reading(o.id, func(p *mcp.Policy) {
						if planted == untagged {
							p.Tags = nil
						}
					})
					answer, err := nodes[at].Middleware(d.read)(context.Background(), call)
					if err != nil {
						t.Error(err)
						return
					}
					o.from = answer.Cache
					if o.value, err = strconv.ParseInt(string(answer.Fields), 10, 64); err != nil {
						t.Error(err)
						return
					}
				} else {
					o.write, o.value = true, d.value.Add(1)
					call := writing(o.id, r.IntN(2) == 0)
					if planted == onlyBefore {
						_ = nodes[at].invalidate(tagOf(call.Args))
						call.Policy.Changes = nil
					}
					if _, err := nodes[at].Middleware(d.write(o.id, o.value))(context.Background(), call); err != nil {
						t.Error(err)
						return
					}
				}
				o.end = time.Since(base)
				mu.Lock()
				history = append(history, o)
				mu.Unlock()
				if _, err := d.get(o.id); err != nil { // hits alone would be too many to look at
					t.Error(err)
					return
				}
			}
		})
	}
	if what.each != nil {
		r := rand.New(rand.NewPCG(seed, 99))
		for !over() {
			if err := what.each(r, s, links); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		}
	}
	wg.Wait()
	if found := outdated(history, what.bound); found != "" {
		for i, n := range nodes {
			found += fmt.Sprintf("; node %d: %d failures of Redis, %d of the database", i, n.n2.of(Failed), n.n3.of(Failed))
		}
		return found
	}
	// When all has come to rest, all agree.
	for _, n := range nodes {
		n.await(t)
	}
	var seen []int64
	for id := range int64(rowCount) {
		for i, n := range nodes {
			answer, err := n.Middleware(d.read)(context.Background(), reading(id, func(p *mcp.Policy) {
				if planted == untagged {
					p.Tags = nil
				}
			}))
			if err != nil {
				t.Fatal(err)
			}
			v, _ := strconv.ParseInt(string(answer.Fields), 10, 64)
			is, err := d.get(id)
			if err != nil {
				t.Fatal(err)
			}
			if seen = append(seen, v); v != is {
				return fmt.Sprintf("at rest node %d reads %d of row %d, which is %d", i, v, id, is)
			}
		}
	}
	slices.Sort(seen)
	hits := int64(0)
	for _, n := range nodes {
		hits += n.n1.of(Hit) + n.n2.of(Hit) + n.n3.of(Hit)
	}
	if hits == 0 && length >= time.Second {
		return "no level was ever hit"
	}
	return ""
}

// Whatever goes wrong between three nodes and Redis, own writes are read, on every node, and at rest all agree.
func TestHistoriesOfNodes(t *testing.T) {
	t.Parallel()
	first := rand.Uint64()
	for _, what := range disturbances {
		t.Run(what.name, func(t *testing.T) {
			t.Parallel()
			seed := first
			for until := time.Now().Add(*nodesFor); ; seed++ {
				length := min(5*time.Second, max(time.Second, time.Until(until)))
				ok := t.Run(fmt.Sprint(seed), func(t *testing.T) { // what it needs is gone before the next one
					if found := nodesHistory(t, seed, what, noBug, length); found != "" {
						t.Error(found)
					}
				})
				if !ok || time.Now().After(until) {
					break
				}
			}
			t.Logf("seeds %d to %d", first, seed)
		})
	}
}

// The histories show each mistake that is planted.
func TestHistoriesOfNodesShowMistakes(t *testing.T) {
	t.Parallel()
	for _, planted := range []bug{untagged, onlyBefore, deafness} {
		t.Run(fmt.Sprint(planted), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(0); ; seed++ {
				if found := nodesHistory(t, seed, disturbances[0], planted, 500*time.Millisecond); found != "" {
					t.Logf("seed %d: %s", seed, found)
					return
				}
				if seed == 20 {
					t.Fatal("is not found")
				}
			}
		})
	}
}
