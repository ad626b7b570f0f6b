package sqldb

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"sync"
	"time"
)

// watchEvery is how often the connections in use are looked at: how late a deadline or a cancel may be noticed. At 10 ms
// the watch costs less than a thousandth of one processor.
const watchEvery = 10 * time.Millisecond

// watchIdle is for how many looks the watch goes on without a connection in use before it ends; reapEvery is how many
// looks lie between two reaps.
const (
	watchIdle = 100
	reapEvery = 100
)

// commitGrace is how long a rollback or commit may take after the statement's own time is over.
const commitGrace = 10 * time.Second

var errClosed = errors.New("the source is closed")

// stopCause says why a statement was interrupted.
type stopCause uint8

const (
	stopNone stopCause = iota
	stopCancel
	stopTimeout
)

// pool hands out a source's connections of one role, always the idle one that was opened first: few connections then
// carry the whole load, and in SQLite these have the larger page caches (see hotCache). Callers that find none wait in
// line.
//
// A timer or goroutine for each call would cost as much as the statement itself, so one goroutine looks at all the
// connections in use every watchEvery, and lives only while there are any.
type pool[C pooled] struct {
	source   string
	role     string
	size     int
	overflow int
	wait     time.Duration
	open     func(ctx context.Context, deadline time.Time) (C, error)

	stop chan struct{} // closed by close
	wg   sync.WaitGroup

	mu       sync.Mutex // guards what follows, and the place of every connection
	all      []C
	slots    []C      // by place.slot; nil where none is open
	free     []uint64 // one bit for each slot: its connection is idle
	idle     int      // of the bits that are set
	least    int      // of idle since the last reap
	opening  int
	waiters  []*waiter[C]
	watching bool
	closed   bool
	empty    chan struct{} // closed when closed and nothing is open

	waitCount int64
	waitTime  time.Duration
}

// pooled is a connection as the pool sees it. It embeds a place.
type pooled interface {
	comparable
	state() *place
	// stop makes what runs on the connection end soon. It is called at most once in each use, by another goroutine than
	// the user's, and must not block.
	stop()
	// renew makes the connection fit for use after a stop. When it returns, the stop can strike no more.
	renew()
	close()
}

// place is a connection's standing in its pool. Its fields are guarded by the pool's mu.
type place struct {
	slot  int
	run   lease
	cause stopCause
}

func (p *place) state() *place { return p }

// lease is what one use of a connection is bound by.
type lease struct {
	ctx      context.Context // nil while the connection is idle
	deadline time.Time
}

type waiter[C pooled] struct {
	run  lease
	conn chan C // gets a connection, or the zero C: there is room to open one, or the pool is closed
}

func newPool[C pooled](source, role string, cfg PoolConfig, open func(context.Context, time.Time) (C, error)) *pool[C] {
	most := cfg.Size + cfg.Overflow
	return &pool[C]{
		source: source, role: role, size: cfg.Size, overflow: cfg.Overflow, wait: cfg.Wait.Std(), open: open,
		slots: make([]C, most), free: make([]uint64, (most+63)/64),
		stop: make(chan struct{}), empty: make(chan struct{}),
	}
}

// get gives a connection that is interrupted when ctx is done or the deadline passes. put must follow.
func (p *pool[C]) get(ctx context.Context, deadline time.Time) (C, error) {
	run := lease{ctx, deadline}
	p.mu.Lock()
	if p.idle > 0 && !p.closed {
		c := p.takeIdle()
		c.state().run = run
		p.watch()
		p.mu.Unlock()
		return c, nil
	}
	return p.getSlow(run)
}

// takeIdle takes the idle connection with the lowest slot. p.mu is locked.
func (p *pool[C]) takeIdle() C {
	for i, word := range p.free {
		if word != 0 {
			bit := bits.TrailingZeros64(word)
			p.free[i] &^= 1 << bit
			p.idle--
			p.least = min(p.least, p.idle)
			return p.slots[i*64+bit]
		}
	}
	panic("sqldb: an idle connection is not marked free")
}

// add gives a new connection the lowest slot without one. p.mu is locked.
func (p *pool[C]) add(c C) {
	var none C
	i := slices.Index(p.slots, none)
	c.state().slot = i
	p.slots[i] = c
	p.all = append(p.all, c)
}

// remove forgets connections that have been closed. p.mu is locked.
func (p *pool[C]) remove(c C) {
	var none C
	p.slots[c.state().slot] = none
	p.all = slices.DeleteFunc(p.all, func(o C) bool { return o == c })
}

// getSlow opens a connection or waits for one. p.mu is locked, and unlocked on return.
func (p *pool[C]) getSlow(run lease) (C, error) {
	var none C
	started := time.Time{}
	for {
		if p.closed {
			p.mu.Unlock()
			return none, unavailable(p.source, errClosed)
		}
		if len(p.all)+p.opening < p.size+p.overflow {
			p.opening++
			p.mu.Unlock()
			return p.openOne(run)
		}
		w := &waiter[C]{run: run, conn: make(chan C, 1)}
		p.waiters = append(p.waiters, w)
		p.waitCount++
		p.mu.Unlock()

		if started.IsZero() {
			started = time.Now()
		}
		most := min(p.wait, run.deadline.Sub(started))
		timer := time.NewTimer(most - time.Since(started))
		var c C
		var err error
		select {
		case c = <-w.conn:
		case <-run.ctx.Done():
			err = run.ctx.Err()
		case <-timer.C:
			err = overloaded(p.source, most)
		}
		timer.Stop()
		p.mu.Lock()
		p.waitTime += time.Since(started)
		if err != nil {
			if i := slices.Index(p.waiters, w); i >= 0 {
				p.waiters = slices.Delete(p.waiters, i, i+1)
				p.mu.Unlock()
			} else {
				p.mu.Unlock()
				if c = <-w.conn; c != none { // handed over at the same moment
					p.put(c, false)
				} else {
					p.pass()
				}
			}
			return none, err
		}
		if c != none {
			p.mu.Unlock()
			return c, nil
		}
	}
}

func (p *pool[C]) openOne(run lease) (C, error) {
	c, err := p.open(run.ctx, run.deadline)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opening--
	if err != nil {
		p.wakeOne()
		p.emptied()
		return c, err
	}
	p.add(c)
	c.state().run = run
	p.watch()
	return c, nil
}

// put takes a connection back; a broken one is closed.
func (p *pool[C]) put(c C, broken bool) {
	p.mu.Lock()
	c.state().run = lease{}
	if c.state().cause != stopNone && !broken {
		p.mu.Unlock()
		c.renew()
		p.mu.Lock()
		c.state().cause = stopNone
	}
	if len(p.waiters) > 0 && !broken {
		w := p.waiters[0]
		p.waiters = slices.Delete(p.waiters, 0, 1)
		c.state().run = w.run
		w.conn <- c
		p.mu.Unlock()
		return
	}
	if !broken && !p.closed {
		p.free[c.state().slot/64] |= 1 << (c.state().slot % 64)
		p.idle++
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	c.close()
	p.mu.Lock()
	p.remove(c)
	p.wakeOne()
	p.emptied()
	p.mu.Unlock()
}

// pass gives on to the next in line the room that the caller was offered and does not use.
func (p *pool[C]) pass() {
	p.mu.Lock()
	p.wakeOne()
	p.mu.Unlock()
}

// wakeOne lets the first in line try to open a connection. p.mu is locked.
func (p *pool[C]) wakeOne() {
	if len(p.waiters) > 0 {
		w := p.waiters[0]
		p.waiters = slices.Delete(p.waiters, 0, 1)
		var none C
		w.conn <- none
	}
}

// extend gives a connection in use a new time that no cancel cuts short: a commit or rollback is not to be interrupted. It
// tells why the statement had been stopped, if it had.
func (p *pool[C]) extend(c C) stopCause {
	p.mu.Lock()
	c.state().run = lease{context.Background(), time.Now().Add(commitGrace)}
	cause := c.state().cause
	p.mu.Unlock()
	if cause != stopNone {
		c.renew()
		p.mu.Lock()
		c.state().cause = stopNone
		p.mu.Unlock()
	}
	return cause
}

// stopped tells why a connection in use was interrupted.
func (p *pool[C]) stopped(c C) stopCause {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.state().cause
}

// watch makes sure that the connections in use are looked at. p.mu is locked.
func (p *pool[C]) watch() {
	if !p.watching {
		p.watching = true
		p.wg.Go(p.watchLoop)
	}
}

func (p *pool[C]) watchLoop() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for quiet, looks := 0, 1; ; looks++ {
		select {
		case <-ticker.C:
		case <-p.stop:
			// close waits for what still runs, so the watch goes on until nothing does.
			<-ticker.C
			quiet = watchIdle
		}
		if looks%reapEvery == 0 {
			p.reap()
		}
		p.mu.Lock()
		busy := p.look(time.Now())
		if busy {
			quiet = 0
		} else if quiet++; quiet > watchIdle {
			p.watching = false
			p.least = p.idle
			p.mu.Unlock()
			p.reap()
			return
		}
		p.mu.Unlock()
	}
}

// reap closes overflow connections of which none was needed since the last reap. Closing each as soon as it is idle
// would, under a load of just above size, open and close one with every other call.
func (p *pool[C]) reap() {
	p.mu.Lock()
	var idle []C
	for n := min(p.least, len(p.all)-p.size); n > 0 && p.idle > 0; n-- {
		idle = append(idle, p.takeLastIdle())
	}
	p.least = p.idle
	p.mu.Unlock()
	p.closeIdle(idle)
}

// takeLastIdle takes the idle connection with the highest slot. p.mu is locked, and one is idle.
func (p *pool[C]) takeLastIdle() C {
	for i := len(p.free) - 1; i >= 0; i-- {
		if word := p.free[i]; word != 0 {
			bit := 63 - bits.LeadingZeros64(word)
			p.free[i] &^= 1 << bit
			p.idle--
			return p.slots[i*64+bit]
		}
	}
	panic("sqldb: an idle connection is not marked free")
}

// closeIdle closes connections that have been taken out of the idle ones. p.mu is not locked.
func (p *pool[C]) closeIdle(idle []C) {
	for _, c := range idle {
		c.close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range idle {
		p.remove(c)
		p.wakeOne()
	}
	p.emptied()
}

// look interrupts what has run out of time or is no longer wanted. p.mu is locked.
func (p *pool[C]) look(now time.Time) (busy bool) {
	for _, c := range p.all {
		if c.state().run.ctx == nil {
			continue
		}
		busy = true
		if c.state().cause != stopNone {
			continue
		}
		switch {
		case c.state().run.ctx.Err() != nil:
			c.state().cause = stopCancel
		case now.After(c.state().run.deadline):
			c.state().cause = stopTimeout
		default:
			continue
		}
		c.stop()
	}
	return busy
}

// flush closes the connections that are idle: when one has died, so have the others that were open then.
func (p *pool[C]) flush() {
	p.mu.Lock()
	var idle []C
	for p.idle > 0 {
		idle = append(idle, p.takeIdle())
	}
	p.mu.Unlock()
	p.closeIdle(idle)
}

// emptied ends close's waiting when it can. p.mu is locked.
func (p *pool[C]) emptied() {
	if p.closed && len(p.all) == 0 && p.opening == 0 {
		select {
		case <-p.empty:
		default:
			close(p.empty)
		}
	}
}

// close refuses whoever comes or waits, waits for the connections in use and closes all.
func (p *pool[C]) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.empty
		return
	}
	p.closed = true
	close(p.stop)
	var idle []C
	for p.idle > 0 {
		idle = append(idle, p.takeIdle())
	}
	for len(p.waiters) > 0 {
		p.wakeOne()
	}
	p.mu.Unlock()
	p.closeIdle(idle)
	<-p.empty
	p.wg.Wait()
}

func (p *pool[C]) stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return PoolStats{
		Role: p.role, Open: len(p.all), Busy: len(p.all) - p.idle, Idle: p.idle, Waiting: len(p.waiters),
		Size: p.size, Overflow: p.overflow, WaitCount: p.waitCount, WaitDuration: p.waitTime,
	}
}
