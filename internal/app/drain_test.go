package app

import (
	"net/http"
	"strings"
	"testing"
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
