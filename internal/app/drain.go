package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/config"
)

const (
	leastDrain = 30 * time.Second
	// sendTime is what an answer has beyond its target's own time-out to reach the client.
	sendTime = 5 * time.Second
	// unfinishedTime is how long requests that have not arrived whole may take once nothing else is in flight.
	unfinishedTime = 5 * time.Second
)

// errUnfinished ends a shutdown that only waits for requests which never arrived whole.
var errUnfinished = errors.New("only unfinished requests are left")

// drain takes the server out of service: not ready any more, streams ended, requests in flight finished.
func (a *App) drain() error {
	a.log.Info("stopping: requests in flight are finished first")
	a.health.set(stateDraining)
	a.core.Drain()
	limit := drainLimit(a.current.Load().loaded)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	defer time.AfterFunc(limit, func() { cancel(context.DeadlineExceeded) }).Stop()
	a.work.Go(func() { a.cutUnfinished(ctx, cancel) })
	err := a.mcpServer.Shutdown(ctx)
	if err != nil {
		a.mcpServer.Close()
		switch context.Cause(ctx) {
		case errUnfinished:
			a.log.Warn("connections were cut whose requests had not arrived whole", "waited", unfinishedTime)
			err = nil
		case context.DeadlineExceeded:
			err = fmt.Errorf("requests were still in flight after %s, and were cut", limit)
		}
	}
	for _, s := range a.adminServers {
		s.Close()
	}
	return err
}

// drainLimit is how long the requests in flight may take when the server stops: as long as the slowest target may.
func drainLimit(l *config.Loaded) time.Duration {
	limit := leastDrain
	for _, t := range l.Tools {
		limit = max(limit, t.Timeout.Std()+sendTime)
	}
	for _, r := range l.Resources {
		limit = max(limit, r.Timeout.Std()+sendTime)
	}
	return limit
}

// cutUnfinished cancels ctx when no message has been at work for unfinishedTime. What holds a connection then is a
// request whose rest does not come: a client that is slow, gone or hostile must not decide when a server stops.
func (a *App) cutUnfinished(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(unfinishedTime / 50)
	defer tick.Stop()
	for idle := time.Now(); ; {
		select {
		case now := <-tick.C:
			if a.metrics.InFlight.Value() > 0 {
				idle = now
			} else if now.Sub(idle) >= unfinishedTime {
				cancel(errUnfinished)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
