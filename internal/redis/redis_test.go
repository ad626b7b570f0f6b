package redis

import (
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines is a log.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Versions have no time to live: a server that may evict them is told of, once, and one that may not is not.
func TestEvictionIsToldOf(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]int{"allkeys-lfu": 1, "allkeys-random": 1, "volatile-lfu": 0, "noeviction": 0} {
		var log lines
		cfg := DefaultConfig()
		cfg.Nodes = []string{newServer(t, "--maxmemory", "100mb", "--maxmemory-policy", policy).Addr()}
		c, err := Open(cfg, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-c.Ready():
		default:
			t.Error("it is open, and has reached no server")
		}
		c.work.Wait() // it has looked then
		c.Close()
		if n := strings.Count(log.String(), "set maxmemory-policy to volatile-lfu"); n != want {
			t.Errorf("%s: told %d times: %s", policy, n, log.String())
		}
	}
}

// A server that takes connections and says nothing holds nobody up for long.
func TestAServerThatSaysNothing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := DefaultConfig()
	cfg.Nodes = []string{l.Addr().String()}
	began := time.Now()
	c, err := openWithin(cfg, slog.New(slog.DiscardHandler), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if took := time.Since(began); took >= dialTime { // when the library gives up
		t.Errorf("it was waited for for %v", took)
	}
	if _, err := c.Conn(); err != ErrAway {
		t.Errorf("it has a connection, %v", err)
	}
}
