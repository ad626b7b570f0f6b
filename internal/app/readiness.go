package app

import (
	"cmp"
	"maps"
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
	mu    sync.Mutex // guards what follows
	now   state
	downs map[string]bool
}

func (r *readiness) set(s state) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = s
}

// source notes whether a source answers. What is wrong with it is in the log: probes are no place for details.
func (r *readiness) source(name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.downs == nil {
		r.downs = map[string]bool{}
	}
	if err != nil {
		r.downs[name] = true
	} else {
		delete(r.downs, name)
	}
}

// Ready implements admin.Readiness.
func (r *readiness) Ready() admin.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := admin.Status{Ready: r.now == stateReady}
	if !status.Ready {
		status.Reason = string(cmp.Or(r.now, stateStarting))
	}
	for _, name := range slices.Sorted(maps.Keys(r.downs)) {
		status.Degraded = append(status.Degraded, "source "+name)
	}
	return status
}
