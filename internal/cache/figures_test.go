package cache

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"

	"millrace/internal/mcp"
	"millrace/internal/polltest"
	"millrace/internal/redistest"
	"millrace/internal/sqldb"
)

// BenchmarkL2Look looks into Redis for one entry: from one caller at a time, each of which waits for its own round trip, and from
// 64 at the same time, which share them.
func BenchmarkL2Look(b *testing.B) {
	s, err := redistest.New()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Stop()
	n := (&deployment{addr: s.Addr(), prefix: "b"}).start(b)
	db := &table{rows: map[int64]int64{1: 10}}
	call := reading(1)
	n.keeps(b, db.read, 1)
	key, tags := string(call.Key()), n.tagsOf(call)
	for _, callers := range []int{1, 64} {
		name := "alone"
		if callers > 1 {
			name = "together"
		}
		b.Run(name, func(b *testing.B) {
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if e, _ := n.l2.look(context.Background(), key, tags); e == nil {
							b.Error("nothing is there")
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "looks/s")
		})
	}
}

var (
	zipfRequests = flag.Int("cache.zipf", 0, "how many requests TestZipf makes; 0 leaves it out")
	zipfWrites   = flag.Int("cache.zipfwrites", 0, "of a hundred of them, how many are writes")
)

// zipf draws ranks from 0 to n-1 with probabilities that fall as 1/(rank+1): the distribution's sum is inverted by a table.
type zipf struct {
	sums []float64
	rand *rand.Rand
}

func newZipf(n int, seed uint64) *zipf {
	z := &zipf{sums: make([]float64, n), rand: rand.New(rand.NewPCG(seed, 7))}
	total := 0.0
	for i := range z.sums {
		total += 1 / float64(i+1)
		z.sums[i] = total
	}
	return z
}

func (z *zipf) draw() int64 {
	want := z.rand.Float64() * z.sums[len(z.sums)-1]
	low, high := 0, len(z.sums)-1
	for low < high {
		if mid := (low + high) / 2; z.sums[mid] < want {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return int64(low)
}

// TestZipf asks for a million keys by Zipf(1.0): L1 has room for a hundredth of them, Redis for a tenth, SQLite for all. The
// second half is counted.
func TestZipf(t *testing.T) {
	n := *zipfRequests
	if n == 0 {
		t.Skip("it takes minutes: -cache.zipf 20000000, or make bench ARGS='cache zipf'")
	}
	const keys, workers = 1_000_000, 64
	s, err := redistest.New("--maxmemory-policy", "volatile-lfu")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	file := filepath.Join(t.TempDir(), "cache.db")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := openPlace(t, "zipf", SQLite, func(c *sqldb.Config) { c.SQLite = &sqldb.SQLiteConfig{Path: file} })
	shared := &deployment{addr: s.Addr(), prefix: "z", place: p}
	c := shared.start(t, func(c *Config) {
		c.L1.Size, c.L1.TTL = keys/100, 1e6*c.L1.TTL
		c.L2.TTL, c.L3.TTL = c.L1.TTL, c.L1.TTL
		c.L3.MaxBytes = 4 << 30
		c.Invalidation.Every = 1e6 * c.Invalidation.Every
	})
	// A tenth of the keys, as entries of this trace and versions of 65,536 tags take it.
	bound := boundOf(t, s, c)
	if _, err := s.Command("CONFIG SET maxmemory " + strconv.Itoa(bound)); err != nil {
		t.Fatal(err)
	}
	otterAlone := otter.Must(&otter.Options[int64, bool]{MaximumSize: keys / 100})
	var otterHits, misses, counted atomic.Int64
	read := c.Middleware(func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
		misses.Add(1)
		return zipfWork(ctx, call)
	})
	policy := *reading(0).Policy
	policy.TTL = math.MaxInt64 / 4
	write := c.Middleware(func(context.Context, *mcp.Call) (mcp.Result, error) { return mcp.Result{}, nil })
	half := func(count int, seed uint64) (before, after [4]int64) {
		figures := func() [4]int64 {
			return [4]int64{c.n1.of(Hit), c.n2.of(Hit), c.n3.of(Hit), misses.Load()}
		}
		before = figures()
		ids := make(chan []int64, workers)
		var wg sync.WaitGroup
		for w := range workers {
			chance := rand.New(rand.NewPCG(seed, uint64(w)))
			wg.Go(func() {
				for batch := range ids {
					for _, id := range batch {
						if chance.IntN(100) < *zipfWrites {
							if _, err := write(context.Background(), writing(id, false)); err != nil {
								t.Error(err)
							}
							continue
						}
						call := reading(id)
						call.Policy = &policy
						if r, ok := c.Ready(call, time.Now()); ok && len(r.Fields) > 0 {
							continue
						}
						if _, err := read(context.Background(), call); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		z := newZipf(keys, seed)
		for made := 0; made < count; made += 1000 {
			batch := make([]int64, 1000)
			for i := range batch {
				batch[i] = z.draw()
				if _, ok := otterAlone.GetIfPresent(batch[i]); ok {
					otterHits.Add(1)
				} else {
					otterAlone.Set(batch[i], true)
				}
			}
			ids <- batch
		}
		close(ids)
		wg.Wait()
		counted.Store(int64(count))
		return before, figures()
	}
	half(n/2, 1)
	otterHits.Store(0)
	before, after := half(n/2, 2)
	l1, l2, l3, missed := after[0]-before[0], after[1]-before[1], after[2]-before[2], after[3]-before[3]
	all := float64(counted.Load()) * float64(100-*zipfWrites) / 100
	percent := func(v int64) float64 { return 100 * float64(v) / all }
	keysThere, _ := s.Command("DBSIZE")
	fmt.Printf("combined: %.2f %%\nL1 alone: %.2f %%\notter alone: %.2f %%\nhits of L1: %.2f %%\nhits of L2: %.2f %%\nhits of L3: %.2f %%\nRedis holds %s keys; %d dropped, %d failures\n",
		100-percent(missed), percent(l1), 100*float64(otterHits.Load())/float64(counted.Load()), percent(l1), percent(l2), percent(l3), keysThere,
		c.n2.of(Dropped)+c.n3.of(Dropped), c.n2.of(Failed)+c.n3.of(Failed))
}

// boundOf gives the memory of a Redis that holds entries of a tenth of the trace's keys beside all versions.
func boundOf(t *testing.T, s *redistest.Server, c *node) int {
	t.Helper()
	used := func() int {
		info, err := s.Command("INFO memory")
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscanf(info[len("# Memory\r\n"):], "used_memory:%d", &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	conn, err := c.client.Conn()
	if err != nil {
		t.Fatal(err)
	}
	versions := []string{c.l2.member.RunKey()}
	for stripe := range uint32(stripes) {
		versions = append(versions, c.l2.versionKey(stripe))
	}
	for i := 1; i < len(versions); i += 1000 {
		if err := beginVersions.Exec(t.Context(), conn, append(versions[:1:1], versions[i:min(i+1000, len(versions))]...), nil).Error(); err != nil {
			t.Fatal(err)
		}
	}
	const sample = 2000
	before := used()
	for id := range int64(sample) {
		call := reading(10_000_000 + id)
		call.Policy.TTL = math.MaxInt64 / 4
		if _, err := c.Middleware(zipfWork)(t.Context(), call); err != nil {
			t.Fatal(err)
		}
	}
	polltest.Until(t, "all fills", func() bool { return c.n2.of(Filled) == sample })
	return before + 100_000*(used()-before)/sample
}

func zipfWork(context.Context, *mcp.Call) (mcp.Result, error) {
	return mcp.Result{Fields: []byte(strings.Repeat("0123456789", 10)), Rows: mcp.RowsOne}, nil
}
