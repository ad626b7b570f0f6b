package app

import (
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/conf"
	"millrace/internal/polltest"
	"millrace/internal/redis"
	"millrace/internal/redistest"
	"millrace/internal/sqldb"
	"millrace/internal/telemetry"
)

// knowing is a source of another server, which notes what it hears.
type knowing struct {
	sqldb.Replicated
	mu     sync.Mutex // guards what follows
	heard  []string
	missed int
}

func (k *knowing) Heard(key sqldb.PositionKey, lsn uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.heard = append(k.heard, fmt.Sprintf("%x %d", key[:2], lsn))
}

func (k *knowing) Missed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.missed++
}

// heardOnly tells whether a source has heard of one position, perhaps more than once, and of no other; "" for of none.
func (k *knowing) heardOnly(text string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.heard {
		if h != text {
			return false
		}
	}
	return (len(k.heard) > 0) == (text != "") && k.missed > 0
}

// What a write tells has been heard on every server when it answers; what could not be told is told to everybody as soon as it can be.
func TestPositionsReachOtherServers(t *testing.T) {
	t.Parallel()
	s, err := redistest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	cfg := redis.DefaultConfig()
	cfg.Nodes = []string{s.Addr()}
	open := func(names ...string) (*positionBus, map[string]*knowing) {
		sources := map[string]*knowing{}
		for _, name := range names {
			sources[name] = &knowing{}
		}
		b, err := newPositionBus(cfg, func(name string) (out []sqldb.Replicated) {
			for n, k := range sources {
				if name == "" || name == n {
					out = append(out, k)
				}
			}
			return out
		}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.close)
		return b, sources
	}
	a, own := open("shop")
	before := clients(t, s)
	b, theirs := open("shop", "other source")
	ofB := clients(t, s)
	maps.DeleteFunc(ofB, func(id string, _ bool) bool { return before[id] })
	polltest.Until(t, "both hold leases", func() bool { return a.of("shop").Sure() && b.of("shop").Sure() })
	key := sqldb.PositionKey{1, 2}
	for n := range uint64(50) {
		if n%10 == 9 { // its connection breaks, which says nothing of the other's
			for id := range clients(t, s) {
				if !ofB[id] {
					_, _ = s.Command("CLIENT KILL ID " + id) // or it is the one that asked, and has gone
				}
			}
		}
		a.of("other source").Tell(key, n)
		sure := b.of("shop").Sure() // else it lost its lease for want of a processor, and reads from the primary
		k := theirs["other source"]
		k.mu.Lock()
		got := len(k.heard) > 0 && k.heard[len(k.heard)-1] == fmt.Sprintf("0102 %d", n) // perhaps twice
		k.mu.Unlock()
		if !got && sure {
			t.Fatalf("position %d was told, and not heard", n)
		}
	}
	if !theirs["shop"].heardOnly("") || !own["shop"].heardOnly("") {
		t.Error("another source heard it, or the one who told")
	}
	s.Kill()
	polltest.Until(t, "neither is sure", func() bool { return !a.of("shop").Sure() && !b.of("shop").Sure() })
	a.of("shop").Tell(key, 7)
	a.of("shop").Tell(key, 5)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	polltest.Until(t, "what was owed is told, and both hold leases", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.owed) == 0 && a.of("shop").Sure() && b.of("shop").Sure()
	})
	a.mu.Lock()
	if !a.failing.IsZero() {
		t.Error("what was owed has been told, and the next outage would count from this one")
	}
	a.mu.Unlock()
	// Where the other was not back yet when it was told, it knows that it may have missed something.
	k := theirs["shop"]
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.missed < 2 && (len(k.heard) == 0 || k.heard[len(k.heard)-1] != "ff00 7") {
		t.Errorf("it is sure, and has heard %q and missed %d", k.heard, k.missed)
	}
}

// While a reload takes place two sources of a name may serve: what is written by one is read by the other. One that comes back has missed what was
// written by the one between.
func TestPositionsOverReloads(t *testing.T) {
	t.Parallel()
	all := sources{log: slog.New(slog.DiscardHandler), metrics: telemetry.NewMetrics(prometheus.NewRegistry()), latest: map[string]*source{}}
	open := func(primary string) *source {
		cfg := sqldb.DefaultConfig() // nobody connects before the first call
		cfg.Postgres = &sqldb.PostgresConfig{Primary: conf.Secret("postgres://me@127.0.0.1:1/" + primary), Replicas: []conf.Secret{"postgres://me@127.0.0.1:2/r"}}
		s, err := all.acquire("shop", cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { all.release(s) })
		return s
	}
	old := open("a")
	was := &knowing{Replicated: old.db.(sqldb.Replicated)}
	old.db = was
	if open("a"); was.missed != 0 {
		t.Error("one that stays has missed something")
	}
	next := open("b")
	is := &knowing{Replicated: next.db.(sqldb.Replicated)}
	next.db = is
	ownPositions{all.replicated, "shop"}.Tell(sqldb.PositionKey{1, 2}, 7)
	if fmt.Sprint(was.heard, is.heard) != "[0102 7] [0102 7]" {
		t.Error(was.heard, is.heard)
	}
	if open("a"); was.missed != 1 || is.missed != 0 {
		t.Error("it has come back, and has missed nothing")
	}
	if open("a"); was.missed != 1 {
		t.Error("one that stays has missed something")
	}
}

// clients gives the numbers of a server's connections.
func clients(t *testing.T, s *redistest.Server) map[string]bool {
	t.Helper()
	text, err := s.Command("CLIENT LIST")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for line := range strings.Lines(text) {
		if id, ok := strings.CutPrefix(strings.Fields(line)[0], "id="); ok {
			out[id] = true
		}
	}
	return out
}
