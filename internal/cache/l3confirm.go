package cache

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// confirming asks the database for the versions of tags, for all calls that wait in one query: what they rest on is in L1, and all
// that is missing is whether another process has changed it. While one query runs, those that come wait for the next, since theirs
// must begin after they did.
type confirming struct {
	mu      sync.Mutex // guards what follows
	next    *round     // that has not begun; nil for none
	running bool
}

// round is a query and who waits for it.
type round struct {
	stripes map[uint32]struct{}
	done    chan struct{} // closed when it has ended
	ok      bool          // the versions are known; set before done
}

// roundStripes are enough for one query: who comes later looks by itself.
const roundStripes = 1000

// confirm learns the versions of stamps from the database. It is false where they are not known.
func (l *L3) confirm(ctx context.Context, stamps []stamp) bool {
	if !l.open.Load() {
		return false
	}
	c := &l.confirming
	c.mu.Lock()
	if c.next == nil {
		c.next = &round{stripes: map[uint32]struct{}{}, done: make(chan struct{})}
	}
	r := c.next
	if len(r.stripes) > roundStripes {
		c.mu.Unlock()
		return false
	}
	for _, s := range stamps {
		if s.stripe < stripes {
			r.stripes[s.stripe] = struct{}{}
		}
	}
	if !c.running {
		c.running = true
		go l.confirmAll() // ends when nobody waits; a query takes no longer than its time
	}
	c.mu.Unlock()
	select {
	case <-r.done:
		return r.ok
	case <-ctx.Done():
		return false
	}
}

func (l *L3) confirmAll() {
	c := &l.confirming
	for {
		c.mu.Lock()
		r := c.next
		c.next, c.running = nil, r != nil
		c.mu.Unlock()
		if r == nil {
			return
		}
		_, r.ok = l.look(context.Background(), slices.Sorted(maps.Keys(r.stripes)), "", time.Now())
		close(r.done)
	}
}
