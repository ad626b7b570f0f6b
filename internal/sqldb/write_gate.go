package sqldb

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// writeGate lets so many writes of a source run at a time. The others wait before they take a connection, which reads need: many writes at
// once wait for each other's locks in the database anyhow.
type writeGate struct {
	source  string
	slots   chan struct{}
	wait    time.Duration
	waiting atomic.Int64
}

func newWriteGate(source string, cfg Config) *writeGate {
	return &writeGate{source: source, slots: make(chan struct{}, cfg.Writes), wait: cfg.Pool.Wait.Std()}
}

// enter waits for its turn, but no longer than the pool's wait, the deadline or ctx. leave must follow.
func (g *writeGate) enter(ctx context.Context, deadline time.Time) error {
	select {
	case g.slots <- struct{}{}:
		return nil
	default:
	}
	defer g.waiting.Add(-1)
	if n := g.waiting.Add(1); n > int64(max(leastWaiters, waitersEach*cap(g.slots))) {
		return overloaded(g.source, fmt.Sprintf("%d writes wait for their turn already; nothing was changed", n-1))
	}
	most := min(g.wait, time.Until(deadline))
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return overloaded(g.source, fmt.Sprintf("%d writes run already (write_concurrency), and none ended within %s; nothing was changed", cap(g.slots), max(most, 0).Round(time.Millisecond)))
	}
}

func (g *writeGate) leave() { <-g.slots }
