package cache

import (
	"context"
	"time"

	"millrace/internal/mcp"
)

// warmLimit is how long the load before readiness may take.
const warmLimit = 5 * time.Second

// Load takes the entries that were asked for most out of the third level into the first. It is for the start, before the
// server is ready, and gives up after a few seconds: then the rest comes when it is asked for.
func (c *Cache) Load(ctx context.Context, recall Recall) {
	if c.l3 == nil || c.cfg.Warmup.InitialLoad == 0 {
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, warmLimit)
	defer cancel()
	heard := c.tags.heard()
	entries, err := c.l3.load(ctx, heard, c.cfg.Warmup.InitialLoad)
	if err != nil {
		c.log.Warn("the cache starts cold: what cache.l3 holds could not be read", "error", err)
		return
	}
	now, loaded := time.Now(), 0
	for _, e := range entries {
		if call := e.call(recall); call != nil { // else its tool has changed, and nobody asks for it any more
			if call.Policy.Mutable && c.l2 != nil {
				e.stamps = append(e.stamps, stamp{stripe: sharedTag, remote: heard[sharedTag], version: 0})
			}
			if c.keep(e, now, Warmed) {
				loaded++
			}
		}
	}
	c.log.Info("the cache was loaded", "entries", loaded, "seconds", time.Since(began).Seconds())
}

// Recall gives the call that a stored result answers, ready to be made again by anybody; nil for one that is not made any
// more.
type Recall func(target string, version [16]byte, args []mcp.Value) *mcp.Call

// Tend counts what is asked for and, as often as the configuration says, fetches results anew that many ask for and that
// are about to expire: those that are everybody's, since whose the others are is not for the cache to say. It returns at
// once, and goes on until the cache is closed.
func (c *Cache) Tend(recall Recall, next mcp.Handler) {
	every := c.cfg.Warmup.Interval.Std()
	if every == 0 {
		return
	}
	c.work.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				c.tend(every, recall, next)
			case <-c.stop:
				return
			}
		}
	})
}

// mostRefreshes bounds what one round fetches.
const mostRefreshes = 1000

func (c *Cache) tend(every time.Duration, recall Recall, next mcp.Handler) {
	now, fetched := time.Now(), 0
	leads := c.l2 == nil || c.l2.lead(every)
	for _, e := range c.l1.entries.All() {
		select {
		case <-c.stop:
			return
		default:
		}
		asked := c.tell(e)
		left := e.life - now.Sub(e.Born)
		if !leads || asked < int64(c.cfg.Warmup.PriorityThreshold) || left > every || left <= 0 || e.Err != nil || fetched == mostRefreshes || !c.tags.current(e.stamps) {
			continue
		}
		call := e.again(recall)
		if call == nil {
			continue
		}
		fetched++
		// One after the other: callers come first, and there is an interval's time.
		if f, first := c.flights.join(call.Key(), true); first {
			c.count.Count(Refreshed)
			c.fly(f, call, e, next)
		}
	}
}

// tell counts an entry's hits since the last time, here and in the third level.
func (c *Cache) tell(e *Entry) (asked int64) {
	hits := e.hits.Load()
	asked = hits - e.told.Swap(hits)
	if c.l3 != nil && asked > 0 {
		c.l3.hit(e.Key, asked)
	}
	return asked
}

// call gives the call that the entry answers, without its caller; nil for one that is not made any more.
func (e *Entry) call(recall Recall) *mcp.Call {
	key := []byte(e.Key)
	values, ok := mcp.ParseValues(key[e.Args:])
	if !ok || e.Args < 16 {
		return nil
	}
	return recall(e.Target, [16]byte(key[e.Args-16:e.Args]), values)
}

// again gives the call that brings the entry's result anew; nil for one that only its caller can make.
func (e *Entry) again(recall Recall) *mcp.Call {
	call := e.call(recall)
	if call == nil || call.Policy.Scope != mcp.ScopePublic {
		return nil
	}
	call.Caller = mcp.Caller{Principal: mcp.Anonymous}
	if string(call.Key()) != e.Key {
		return nil
	}
	return call
}
