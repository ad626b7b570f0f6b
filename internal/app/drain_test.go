package app

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"millrace/internal/catalog"
	"millrace/internal/conf"
	"millrace/internal/config"
)

// TestDrainFinishesWhatRuns: a server that stops is not ready any more, and finishes the call in flight.
func TestDrainFinishesWhatRuns(t *testing.T) {
	t.Parallel()
	slow := "  - {name: slow, source: db, description: Slow., statement: \"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 40000) SELECT count(*) AS v FROM c\", annotations: {readOnlyHint: true}, timeout: 60s}\n"
	r := start(t, one+slow)
	answer, ended := make(chan string, 1), make(chan error, 1)
	go func() { answer <- r.call("slow") }()
	r.await("call at work", func() bool { return r.App.metrics.InFlight.Value() > 0 || len(answer) > 0 })
	go func() { ended <- r.end() }()
	r.await("drain", func() bool { return r.health.Ready().Reason == string(stateDraining) })
	if r.health.Ready().Ready {
		t.Error("ready while draining")
	}
	if got := <-answer; !strings.Contains(got, `"v":40000`) {
		t.Errorf("the call in flight got %s", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := http.Get(r.url); err == nil {
		t.Error("the listener is still open")
	}
	if r.current.Load().Acquire() || len(r.sources.open) > 0 {
		t.Error("a source was left open")
	}
}

// TestDrainCutsUnfinished: a request that never arrives whole holds the end up for five seconds, and is no failure.
func TestDrainCutsUnfinished(t *testing.T) {
	t.Parallel()
	r := start(t, one)
	conn, err := net.Dial("tcp", r.mcpListener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The server asks for the body once it reads it: the request is known to have begun.
	io.WriteString(conn, "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
	if _, err := io.ReadFull(conn, make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < unfinishedTime || took > leastDrain/2 {
		t.Errorf("the end took %s", took)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection gave %d bytes, %v", n, err)
	}
}

func TestDrainLimit(t *testing.T) {
	t.Parallel()
	l := &config.Loaded{}
	if got := drainLimit(l); got != 30*time.Second {
		t.Errorf("no target: %s", got)
	}
	l.Tools = []catalog.Tool{{Timeout: conf.Duration(2 * time.Minute)}}
	if got := drainLimit(l); got != 2*time.Minute+sendTime {
		t.Errorf("a tool of 2m: %s", got)
	}
}
