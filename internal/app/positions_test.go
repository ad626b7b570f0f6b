package app

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"millrace/internal/redis"
	"millrace/internal/redistest"
	"millrace/internal/sqldb"
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

func (k *knowing) is(text string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprint(k.heard) == text && k.missed > 0
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
	until := func(what string, is func() bool) {
		t.Helper()
		for over := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
			if time.Now().After(over) {
				t.Fatal("not within 20 s: " + what)
			}
		}
	}
	a, own := open("shop")
	b, theirs := open("shop", "other source")
	until("both hold leases", func() bool { return a.of("shop").Sure() && b.of("shop").Sure() })
	key := sqldb.PositionKey{1, 2}
	for n := range uint64(50) {
		a.of("other source").Tell(key, n)
		k := theirs["other source"]
		k.mu.Lock()
		got := len(k.heard) == int(n)+1 && k.heard[n] == fmt.Sprintf("0102 %d", n)
		k.mu.Unlock()
		if !got && b.of("shop").Sure() { // else it lost its lease for want of a processor, and reads from the primary
			t.Fatalf("position %d was told, and not heard", n)
		}
	}
	if !theirs["shop"].is("[]") || !own["shop"].is("[]") {
		t.Error("another source heard it, or the one who told")
	}
	s.Kill()
	until("neither is sure", func() bool { return !a.of("shop").Sure() && !b.of("shop").Sure() })
	a.of("shop").Tell(key, 7)
	a.of("shop").Tell(key, 5)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	until("what was owed is told", func() bool { return theirs["shop"].is("[ff00 7]") })
}
