package sqldb

import (
	"context"
	"time"
)

// keepEvery is how often idle connections are looked after; healthEvery looks lie between two in which each is asked whether it lives.
const (
	keepEvery   = 5 * time.Second
	healthEvery = 6
)

// lifeJitter is the greatest share of its life that a connection loses by chance, so that those that were opened together are not closed
// together.
const lifeJitter = 0.1

// keep looks after the idle connections from now on, until the pool is closed, where its configuration asks for that. Until somebody uses the
// source nothing is opened: a configuration that is only checked has one too.
func (p *pool[C]) keep() {
	p.keeping.Do(func() {
		if p.minIdle > 0 || p.life > 0 || p.check != nil {
			p.wg.Go(p.keepLoop)
		}
	})
}

func (p *pool[C]) keepLoop() {
	t := time.NewTicker(keepEvery)
	defer t.Stop()
	for looks := 0; ; looks++ {
		p.retire(time.Now())
		if looks%healthEvery == healthEvery-1 {
			p.checkIdle()
		}
		p.fill()
		select {
		case <-t.C:
		case <-p.stop:
			return
		}
	}
}

// retire closes the idle connections whose life is over. Those in use are closed when they are put back.
func (p *pool[C]) retire(now time.Time) {
	p.mu.Lock()
	var old []C
	for _, c := range p.all {
		if p.isIdle(c) && c.state().over(now) {
			p.take(c)
			old = append(old, c)
		}
	}
	p.mu.Unlock()
	p.closeIdle(old)
}

// isIdle tells whether nobody has a connection. p.mu is locked.
func (p *pool[C]) isIdle(c C) bool {
	slot := c.state().slot
	return p.free[slot/64]&(1<<(slot%64)) != 0
}

// take takes a connection that is idle. p.mu is locked.
func (p *pool[C]) take(c C) {
	slot := c.state().slot
	p.free[slot/64] &^= 1 << (slot % 64)
	p.idle--
	p.least = min(p.least, p.idle)
}

// checkIdle asks each idle connection whether it lives. When one has died, so have perhaps the others: those are asked too.
func (p *pool[C]) checkIdle() {
	if p.check == nil {
		return
	}
	p.mu.Lock()
	asked := append([]C(nil), p.all...)
	p.mu.Unlock()
	for _, c := range asked {
		p.mu.Lock()
		if p.closed || p.slots[c.state().slot] != c || !p.isIdle(c) { // it has been used meanwhile, or closed
			p.mu.Unlock()
			continue
		}
		p.take(c)
		c.state().run = lease{ctx: context.Background(), deadline: time.Now().Add(closeLimit)}
		p.watch()
		p.mu.Unlock()
		err := p.check(c)
		p.put(c, err != nil || p.stopped(c) != stopNone)
	}
}

// fill opens connections until as many are idle as are to be, one after the other, or until one cannot be opened.
func (p *pool[C]) fill() {
	for {
		p.mu.Lock()
		if p.closed || p.idle >= p.minIdle || len(p.all)+p.opening >= p.size || p.opening >= mostOpening {
			p.mu.Unlock()
			return
		}
		p.opening++
		p.mu.Unlock()
		if p.openIdle() != nil {
			return
		}
	}
}

// openIdle opens a connection for whoever comes next. It counts as being opened already.
func (p *pool[C]) openIdle() error {
	c, err := p.openOne(lease{ctx: context.Background(), deadline: time.Now().Add(connectLimit)})
	if err == nil {
		p.put(c, false)
	}
	return err
}
