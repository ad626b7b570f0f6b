package app

import (
	"cmp"
	"slices"
	"sync"

	"millrace/internal/admin"
)

type state string

const (
	stateStarting state = "starting"
	stateReady    state = "ready"
	stateDraining state = "draining"
)

// readiness is what probes are told. A source that is down is told, and changes nothing: what does not need it is
// served.
type readiness struct {
	degraded func() []string // set before the first Ready

	mu  sync.Mutex // guards now
	now state
}

func (r *readiness) set(s state) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = s
}

// Ready implements admin.Readiness. What is wrong with a source is in the log: probes are no place for details.
func (r *readiness) Ready() admin.Status {
	r.mu.Lock()
	now := r.now
	r.mu.Unlock()
	status := admin.Status{Ready: now == stateReady, Degraded: r.degraded()}
	if !status.Ready {
		status.Reason = string(cmp.Or(now, stateStarting))
	}
	return status
}

// degraded names the current sources that do not answer: one that a reload has taken away is no concern any more.
func (a *App) degraded() (down []string) {
	g := a.current.Load()
	if g == nil {
		return nil
	}
	for _, s := range g.sources {
		if s.down.Load() {
			down = append(down, "source "+s.name)
		}
	}
	slices.Sort(down)
	return down
}
