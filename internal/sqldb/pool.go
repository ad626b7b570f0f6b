package sqldb

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
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

// mostOpening is how many connections may be opened at a time. When many calls come at once, the first connections serve
// them before as many more as there are calls would have been opened.
const mostOpening = 4

// The line of those that wait is bounded: waitersEach for each connection that there may be, and leastWaiters at least.
// Further back nobody would be served in time, and each costs memory and a look at the line.
const (
	waitersEach  = 16
	leastWaiters = 1024
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
	minIdle  int
	life     time.Duration // of a connection; 0 for ever
	wait     time.Duration
	open     func(ctx context.Context, deadline time.Time) (C, error)
	check    func(C) error // where set, tells whether an idle connection lives
	beside   func()        // where set, called at each look; it goes on while a connection is in use or being opened

	stop    chan struct{} // closed by close
	wg      sync.WaitGroup
	keeping sync.Once

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
	// late tells that one use lasts for longer than rideLimit looks, should anybody care. It is called as stop is.
	late()
	// renew makes the connection fit for use after a stop. When it returns, the stop can strike no more.
	renew()
	close()
}

// place is a connection's standing in its pool. Its fields are guarded by the pool's mu.
type place struct {
	slot  int
	until time.Time // when its life is over; zero for never
	run   lease
	cause stopCause
}

func (p *place) state() *place { return p }

// over tells whether a connection has served for as long as it may.
func (p *place) over(now time.Time) bool { return !p.until.IsZero() && now.After(p.until) }

// lease is what one use of a connection is bound by.
type lease struct {
	ctx      context.Context // nil while the connection is idle
	deadline time.Time
	shared   bool // instead of these, it may last for rideLimit looks
	looks    int
}

type waiter[C pooled] struct {
	run   lease
	grant chan grant[C] // of one
}

// grant is what a waiter gets: a connection, an error, or, with neither, the right to open a connection, which counts as
// being opened already.
type grant[C pooled] struct {
	conn C
	err  error
}

func newPool[C pooled](source, role string, cfg PoolConfig, open func(context.Context, time.Time) (C, error)) *pool[C] {
	most := cfg.Size + cfg.Overflow
	return &pool[C]{
		source: source, role: role, size: cfg.Size, overflow: cfg.Overflow, minIdle: cfg.MinIdle, life: cfg.Lifetime.Std(), wait: cfg.Wait.Std(), open: open,
		slots: make([]C, most), free: make([]uint64, (most+63)/64),
		stop: make(chan struct{}), empty: make(chan struct{}),
	}
}

// get gives a connection that is interrupted when ctx is done or the deadline passes. put must follow.
func (p *pool[C]) get(ctx context.Context, deadline time.Time) (C, error) {
	run := lease{ctx: ctx, deadline: deadline}
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

// spare gives a connection that is idle; ok is false where there is none, and one is opened then, if there may be more, for who comes next: the
// caller has one, and waits for nothing.
func (p *pool[C]) spare(ctx context.Context, deadline time.Time) (c C, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed || len(p.waiters) > 0:
	case p.idle > 0:
		c, ok = p.takeIdle(), true
		c.state().run = lease{ctx: ctx, deadline: deadline}
		p.watch()
	case p.mayOpen():
		p.opening++
		p.watch()
		p.wg.Go(func() { _ = p.openIdle() }) // who needs one tries again, and tells
	}
	return c, ok
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
	if p.life > 0 {
		c.state().until = time.Now().Add(p.life - time.Duration(rand.Float64()*lifeJitter*float64(p.life)))
	}
	p.slots[i] = c
	p.all = append(p.all, c)
}

// remove forgets connections that have been closed. p.mu is locked.
func (p *pool[C]) remove(c C) {
	var none C
	p.slots[c.state().slot] = none
	p.all = slices.DeleteFunc(p.all, func(o C) bool { return o == c })
}

// mayOpen tells whether there is room for one more connection, and not so many are being opened that one more would only
// slow those down. p.mu is locked.
func (p *pool[C]) mayOpen() bool {
	return len(p.all)+p.opening < p.size+p.overflow && p.opening < mostOpening
}

// getSlow opens a connection or waits for one. p.mu is locked, and unlocked on return.
func (p *pool[C]) getSlow(run lease) (C, error) {
	var none C
	switch {
	case p.closed:
		p.mu.Unlock()
		return none, unavailable(p.source, errClosed)
	case p.mayOpen():
		p.opening++
		p.watch()
		p.keep()
		p.mu.Unlock()
		return p.openOne(run)
	case len(p.waiters) >= max(leastWaiters, waitersEach*(p.size+p.overflow)):
		n := len(p.waiters)
		p.mu.Unlock()
		return none, overloaded(p.source, fmt.Sprintf("%d statements wait for a connection already", n))
	}
	w := &waiter[C]{run: run, grant: make(chan grant[C], 1)}
	p.waiters = append(p.waiters, w)
	p.waitCount++
	p.mu.Unlock()

	started := time.Now()
	most := min(p.wait, run.deadline.Sub(started))
	timer := time.NewTimer(most)
	defer timer.Stop()
	var g grant[C]
	select {
	case g = <-w.grant:
	case <-run.ctx.Done():
		g = p.leave(w, run.ctx.Err())
	case <-timer.C:
		g = p.leave(w, overloaded(p.source, fmt.Sprintf("no connection became free within %s", most.Round(time.Millisecond))))
	}
	p.mu.Lock()
	p.waitTime += time.Since(started)
	p.mu.Unlock()
	if g.conn == none && g.err == nil {
		return p.openOne(run)
	}
	return g.conn, g.err
}

// leave takes a waiter out of the line. What it was granted at the same moment goes to the next.
func (p *pool[C]) leave(w *waiter[C], err error) grant[C] {
	var none C
	p.mu.Lock()
	i := slices.Index(p.waiters, w)
	if i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
		p.mu.Unlock()
		return grant[C]{err: err}
	}
	p.mu.Unlock()
	switch g := <-w.grant; {
	case g.conn != none:
		p.put(g.conn, false)
	case g.err == nil:
		p.mu.Lock()
		p.opening--
		p.wakeOne()
		p.emptied()
		p.mu.Unlock()
	}
	return grant[C]{err: err}
}

func (p *pool[C]) openOne(run lease) (C, error) {
	c, err := p.open(run.ctx, run.deadline)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opening--
	if err != nil {
		if len(p.all) == 0 && time.Now().Before(run.deadline) { // else its own time was too short, which says nothing
			p.refuse(err) // those in line would hear the same, one after the other
		}
		p.wakeOne()
		p.emptied()
		return c, err
	}
	p.add(c)
	c.state().run = run
	p.watch()
	p.wakeOne()
	return c, nil
}

// put takes a connection back; a broken one is closed.
func (p *pool[C]) put(c C, broken bool) {
	broken = broken || c.state().over(time.Now())
	p.mu.Lock()
	c.state().run = lease{}
	if c.state().cause != stopNone && !broken {
		p.mu.Unlock()
		c.renew()
		p.mu.Lock()
		c.state().cause = stopNone
	}
	if len(p.waiters) > 0 && !broken {
		w := p.first()
		c.state().run = w.run
		w.grant <- grant[C]{conn: c}
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

// first takes the first waiter out of the line. p.mu is locked.
func (p *pool[C]) first() *waiter[C] {
	w := p.waiters[0]
	p.waiters = slices.Delete(p.waiters, 0, 1)
	return w
}

// wakeOne lets the first in line open a connection, if one may be opened. p.mu is locked.
func (p *pool[C]) wakeOne() {
	if len(p.waiters) > 0 && !p.closed && p.mayOpen() {
		p.opening++
		p.first().grant <- grant[C]{}
	}
}

// refuse turns away all that wait. p.mu is locked.
func (p *pool[C]) refuse(err error) {
	for len(p.waiters) > 0 {
		p.first().grant <- grant[C]{err: err}
	}
}

// extend gives a connection in use a new time that no cancel cuts short: a commit or rollback is not to be interrupted. It
// tells why the statement had been stopped, if it had.
func (p *pool[C]) extend(c C) stopCause {
	p.mu.Lock()
	c.state().run = lease{ctx: context.Background(), deadline: time.Now().Add(commitGrace)}
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

// share lets a connection in use go on beyond its caller's time: others have their work on it too.
func (p *pool[C]) share(c C) {
	p.mu.Lock()
	c.state().run = lease{ctx: context.Background(), shared: true}
	p.mu.Unlock()
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
		if p.beside != nil {
			p.beside()
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
	busy = p.opening > 0
	for _, c := range p.all {
		if c.state().run.ctx == nil {
			continue
		}
		busy = true
		if c.state().cause != stopNone {
			continue
		}
		run := &c.state().run
		if run.looks++; run.looks == rideLimit+1 && !run.shared {
			c.late()
		}
		switch {
		case run.shared:
			if run.looks <= rideLimit {
				continue
			}
			c.state().cause = stopTimeout
		case run.ctx.Err() != nil:
			c.state().cause = stopCancel
		case now.After(run.deadline):
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
	p.refuse(unavailable(p.source, errClosed))
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
