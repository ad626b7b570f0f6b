package sqldb

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/conf"
)

// poolConn is a connection of no database, which counts how many are open and being opened.
type poolConn struct {
	place
	*poolOpener
}

func (c *poolConn) stop()  {}
func (c *poolConn) late()  {}
func (c *poolConn) renew() {}
func (c *poolConn) close() {
	c.mu.Lock()
	c.open--
	c.mu.Unlock()
}

type poolOpener struct {
	takes time.Duration
	fail  error

	mu                         sync.Mutex // guards what follows
	opening, mostOpening, open int
}

func (o *poolOpener) new(context.Context, time.Time) (*poolConn, error) {
	o.mu.Lock()
	o.opening++
	o.mostOpening = max(o.mostOpening, o.opening)
	o.mu.Unlock()
	time.Sleep(o.takes)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.opening--
	if o.fail != nil {
		return nil, o.fail
	}
	o.open++
	return &poolConn{poolOpener: o}, nil
}

func poolOf(o *poolOpener, size, overflow int, wait time.Duration) *pool[*poolConn] {
	return newPool("test", "primary", PoolConfig{Size: size, Overflow: overflow, Wait: conf.Duration(wait)}, o.new)
}

// Many callers at once are served by the first connections before one for each of them is open.
func TestPoolOpensFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &poolOpener{takes: 20 * time.Millisecond}
		p := poolOf(o, 50, 10, 5*time.Second)
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				c, err := p.get(t.Context(), time.Now().Add(5*time.Second))
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Millisecond)
				p.put(c, false)
			})
		}
		wg.Wait()
		if o.mostOpening != mostOpening || o.open > 4*mostOpening {
			t.Errorf("up to %d were opened at a time and %d are open; want %d and not many more", o.mostOpening, o.open, mostOpening)
		}
		p.close()
		if o.open != 0 {
			t.Errorf("%d are open after close", o.open)
		}
	})
}

// All that there is room for are opened when the callers keep what they get.
func TestPoolOpensAllThatAreNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &poolOpener{takes: 20 * time.Millisecond}
		p := poolOf(o, 10, 5, time.Second)
		kept := make(chan *poolConn, 16)
		overloaded := make(chan error, 16)
		start := time.Now()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				c, err := p.get(t.Context(), time.Now().Add(5*time.Second))
				if err != nil {
					overloaded <- err
					return
				}
				kept <- c
			})
		}
		wg.Wait()
		if len(kept) != 15 || len(overloaded) != 1 || time.Since(start) != time.Second {
			t.Fatalf("%d have a connection and %d none after %v, want 15, 1 and 1s", len(kept), len(overloaded), time.Since(start))
		}
		toolError(t, <-overloaded, kindOverloaded)
		for range 15 {
			p.put(<-kept, false)
		}
		p.close()
	})
}

// The line is bounded in number: whoever comes when it is full hears so at once.
func TestPoolRefusesWhenTheLineIsFull(t *testing.T) {
	for _, c := range []struct{ size, overflow, most int }{{1, 0, leastWaiters}, {60, 10, 70 * waitersEach}} {
		synctest.Test(t, func(t *testing.T) {
			p := poolOf(&poolOpener{}, c.size, c.overflow, time.Second)
			var kept []*poolConn
			for range c.size + c.overflow {
				conn, err := p.get(t.Context(), time.Now().Add(time.Minute))
				if err != nil {
					t.Fatal(err)
				}
				kept = append(kept, conn)
			}
			var wg sync.WaitGroup
			for range c.most {
				wg.Go(func() {
					_, err := p.get(t.Context(), time.Now().Add(time.Minute))
					toolError(t, err, kindOverloaded, "no connection became free")
				})
			}
			synctest.Wait()
			start := time.Now()
			_, err := p.get(t.Context(), time.Now().Add(time.Minute))
			toolError(t, err, kindOverloaded, "wait for a connection already")
			if time.Since(start) != 0 || p.stats().Waiting != c.most {
				t.Errorf("refused after %v with %d in line, want at once and %d", time.Since(start), p.stats().Waiting, c.most)
			}
			wg.Wait()
			for _, conn := range kept {
				p.put(conn, false)
			}
			p.close()
		})
	}
}

// Where no connection can be opened, those in line hear it at once; where the next one can, they get it.
func TestPoolTellsThatNoneCanBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		o := &poolOpener{takes: 20 * time.Millisecond, fail: down}
		p := poolOf(o, 50, 10, 5*time.Second)
		start := time.Now()
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if _, err := p.get(t.Context(), time.Now().Add(5*time.Second)); !errors.Is(err, down) {
					t.Errorf("gave %v", err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took != o.takes {
			t.Errorf("all of them knew after %v, want %v", took, o.takes)
		}
		o.fail = nil
		c, err := p.get(t.Context(), time.Now().Add(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		p.put(c, false)
		p.close()
	})
}

// Whoever leaves the line takes nothing along: what was granted at that very moment goes on to the next.
func TestPoolLeavingGivesTheGrantOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := errors.New("left")
		o := &poolOpener{}
		p := poolOf(o, 1, 0, time.Second)
		line := func() (first, second *waiter[*poolConn]) {
			first, second = &waiter[*poolConn]{grant: make(chan grant[*poolConn], 1)}, &waiter[*poolConn]{grant: make(chan grant[*poolConn], 1)}
			p.waiters = append(p.waiters, first, second)
			return first, second
		}
		first, second := line()
		p.wakeOne()
		if g := p.leave(first, left); g.err != left || len(second.grant) != 1 || p.opening != 1 {
			t.Fatalf("%v, %d granted to the second, %d being opened; want the right to open to pass on", g.err, len(second.grant), p.opening)
		}
		c, err := p.openOne(lease{ctx: t.Context(), deadline: time.Now().Add(time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		first, second = line()
		p.put(c, false)
		if g := p.leave(first, left); g.err != left || len(second.grant) != 1 || (<-second.grant).conn != c {
			t.Fatalf("%v: the connection did not pass on", g.err)
		}
		p.put(c, false)
		p.close()
	})
}

func TestPoolLineLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &poolOpener{takes: time.Millisecond}
		p := poolOf(o, 2, 0, time.Second)
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%7)*time.Millisecond)
				defer cancel()
				c, err := p.get(ctx, time.Now().Add(5*time.Second))
				if err != nil {
					return
				}
				time.Sleep(time.Millisecond)
				p.put(c, i%5 == 0) // now and then it is broken
			})
		}
		wg.Wait()
		if s := p.stats(); s.Busy != 0 || s.Waiting != 0 || p.opening != 0 {
			t.Errorf("%+v, %d being opened", s, p.opening)
		}
		p.close()
		if o.open != 0 {
			t.Errorf("%d are open after close", o.open)
		}
	})
}
