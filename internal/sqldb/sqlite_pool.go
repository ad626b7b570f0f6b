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

// watchIdle is for how many looks the watch goes on without a connection in use before it ends.
const watchIdle = 100

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

// sqlitePool hands out connections, always the idle one that was opened first: few connections then carry the whole load,
// and these have the larger page caches (see hotCache). Callers that find none wait in line.
//
// A timer or goroutine for each call would cost as much as the statement itself, so one goroutine looks at all the
// connections in use every watchEvery, and lives only while there are any.
type sqlitePool struct {
	source   string
	role     string
	size     int
	overflow int
	wait     time.Duration
	open     func() (*sqliteConn, error)

	stop chan struct{} // closed by close
	wg   sync.WaitGroup

	mu       sync.Mutex // guards what follows, and run and cause of every connection
	all      []*sqliteConn
	slots    []*sqliteConn // by sqliteConn.slot; nil where none is open
	free     []uint64      // one bit for each slot: its connection is idle
	idle     int           // of the bits that are set
	opening  int
	waiters  []*sqliteWaiter
	watching bool
	closed   bool
	empty    chan struct{} // closed when closed and nothing is open

	waitCount int64
	waitTime  time.Duration
}

// sqliteRun is what one use of a connection is bound by.
type sqliteRun struct {
	ctx      context.Context // nil while the connection is idle
	deadline time.Time
}

type sqliteWaiter struct {
	run  sqliteRun
	conn chan *sqliteConn // gets a connection, or nil: there is room to open one, or the pool is closed
}

func newSQLitePool(source, role string, cfg PoolConfig, open func() (*sqliteConn, error)) *sqlitePool {
	most := cfg.Size + cfg.Overflow
	return &sqlitePool{
		source: source, role: role, size: cfg.Size, overflow: cfg.Overflow, wait: cfg.Wait.Std(), open: open,
		slots: make([]*sqliteConn, most), free: make([]uint64, (most+63)/64),
		stop: make(chan struct{}), empty: make(chan struct{}),
	}
}

// get gives a connection that is interrupted when ctx is done or the deadline passes. put must follow.
func (p *sqlitePool) get(ctx context.Context, deadline time.Time) (*sqliteConn, error) {
	run := sqliteRun{ctx, deadline}
	p.mu.Lock()
	if p.idle > 0 && !p.closed {
		c := p.takeIdle()
		c.run = run
		p.watch()
		p.mu.Unlock()
		return c, nil
	}
	return p.getSlow(run)
}

// takeIdle takes the idle connection with the lowest slot. p.mu is locked.
func (p *sqlitePool) takeIdle() *sqliteConn {
	for i, word := range p.free {
		if word != 0 {
			bit := bits.TrailingZeros64(word)
			p.free[i] &^= 1 << bit
			p.idle--
			return p.slots[i*64+bit]
		}
	}
	panic("sqldb: an idle connection is not marked free")
}

// add gives a new connection the lowest slot without one. p.mu is locked.
func (p *sqlitePool) add(c *sqliteConn) {
	c.slot = slices.Index(p.slots, nil)
	p.slots[c.slot] = c
	p.all = append(p.all, c)
}

// remove forgets connections that have been closed. p.mu is locked.
func (p *sqlitePool) remove(c *sqliteConn) {
	p.slots[c.slot] = nil
	p.all = slices.DeleteFunc(p.all, func(o *sqliteConn) bool { return o == c })
}

// getSlow opens a connection or waits for one. p.mu is locked, and unlocked on return.
func (p *sqlitePool) getSlow(run sqliteRun) (*sqliteConn, error) {
	started := time.Time{}
	for {
		if p.closed {
			p.mu.Unlock()
			return nil, unavailable(p.source, errClosed)
		}
		if len(p.all)+p.opening < p.size+p.overflow {
			p.opening++
			p.mu.Unlock()
			return p.openOne(run)
		}
		w := &sqliteWaiter{run: run, conn: make(chan *sqliteConn, 1)}
		p.waiters = append(p.waiters, w)
		p.waitCount++
		p.mu.Unlock()

		if started.IsZero() {
			started = time.Now()
		}
		most := min(p.wait, run.deadline.Sub(started))
		timer := time.NewTimer(most - time.Since(started))
		var c *sqliteConn
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
				if c = <-w.conn; c != nil { // handed over at the same moment
					p.put(c, false)
				} else {
					p.pass()
				}
			}
			return nil, err
		}
		if c != nil {
			p.mu.Unlock()
			return c, nil
		}
	}
}

func (p *sqlitePool) openOne(run sqliteRun) (*sqliteConn, error) {
	c, err := p.open()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opening--
	if err != nil {
		p.wakeOne()
		p.emptied()
		return nil, err
	}
	p.add(c)
	c.run = run
	p.watch()
	return c, nil
}

// put takes a connection back; a broken one is closed.
func (p *sqlitePool) put(c *sqliteConn, broken bool) {
	p.mu.Lock()
	c.run = sqliteRun{}
	if c.cause != stopNone && !broken {
		p.mu.Unlock()
		c.renew()
		p.mu.Lock()
		c.cause = stopNone
	}
	if len(p.waiters) > 0 && !broken {
		w := p.waiters[0]
		p.waiters = slices.Delete(p.waiters, 0, 1)
		c.run = w.run
		w.conn <- c
		p.mu.Unlock()
		return
	}
	if !broken && !p.closed && len(p.all) <= p.size {
		p.free[c.slot/64] |= 1 << (c.slot % 64)
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
func (p *sqlitePool) pass() {
	p.mu.Lock()
	p.wakeOne()
	p.mu.Unlock()
}

// wakeOne lets the first in line try to open a connection. p.mu is locked.
func (p *sqlitePool) wakeOne() {
	if len(p.waiters) > 0 {
		w := p.waiters[0]
		p.waiters = slices.Delete(p.waiters, 0, 1)
		w.conn <- nil
	}
}

// extend gives a connection in use a new time that no cancel cuts short: a commit or rollback is not to be interrupted. It
// tells why the statement had been stopped, if it had.
func (p *sqlitePool) extend(c *sqliteConn) stopCause {
	p.mu.Lock()
	c.run = sqliteRun{context.Background(), time.Now().Add(commitGrace)}
	cause := c.cause
	p.mu.Unlock()
	if cause != stopNone {
		c.renew()
		p.mu.Lock()
		c.cause = stopNone
		p.mu.Unlock()
	}
	return cause
}

// stopped tells why a connection in use was interrupted.
func (p *sqlitePool) stopped(c *sqliteConn) stopCause {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.cause
}

// watch makes sure that the connections in use are looked at. p.mu is locked.
func (p *sqlitePool) watch() {
	if !p.watching {
		p.watching = true
		p.wg.Go(p.watchLoop)
	}
}

func (p *sqlitePool) watchLoop() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for quiet := 0; ; {
		select {
		case <-ticker.C:
		case <-p.stop:
			// close waits for what still runs, so the watch goes on until nothing does.
			<-ticker.C
			quiet = watchIdle
		}
		p.mu.Lock()
		busy := p.look(time.Now())
		if busy {
			quiet = 0
		} else if quiet++; quiet > watchIdle {
			p.watching = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// look interrupts what has run out of time or is no longer wanted. p.mu is locked.
func (p *sqlitePool) look(now time.Time) (busy bool) {
	for _, c := range p.all {
		if c.run.ctx == nil {
			continue
		}
		busy = true
		if c.cause != stopNone {
			continue
		}
		switch {
		case c.run.ctx.Err() != nil:
			c.cause = stopCancel
		case now.After(c.run.deadline):
			c.cause = stopTimeout
		default:
			continue
		}
		close(c.interrupt)
	}
	return busy
}

// emptied ends close's waiting when it can. p.mu is locked.
func (p *sqlitePool) emptied() {
	if p.closed && len(p.all) == 0 && p.opening == 0 {
		select {
		case <-p.empty:
		default:
			close(p.empty)
		}
	}
}

// close refuses whoever comes or waits, waits for the connections in use and closes all.
func (p *sqlitePool) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.empty
		return
	}
	p.closed = true
	close(p.stop)
	var idle []*sqliteConn
	for p.idle > 0 {
		idle = append(idle, p.takeIdle())
	}
	for len(p.waiters) > 0 {
		p.wakeOne()
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
	p.mu.Lock()
	for _, c := range idle {
		p.remove(c)
	}
	p.emptied()
	p.mu.Unlock()
	<-p.empty
	p.wg.Wait()
}

func (p *sqlitePool) stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return PoolStats{
		Role: p.role, Open: len(p.all), Busy: len(p.all) - p.idle, Idle: p.idle, Waiting: len(p.waiters),
		Size: p.size, Overflow: p.overflow, WaitCount: p.waitCount, WaitDuration: p.waitTime,
	}
}
