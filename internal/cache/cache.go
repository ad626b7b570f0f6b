// Package cache answers calls from results that are already there, and lets concurrent identical calls share one run.
//
// What a write changes is void before the write begins and again when it has ended, see Tags: nothing that was read before
// is served to who comes after.
//
// It is the stop behind catalog's resolution and authorization and before any work. It stores only what is provably
// safe: results of calls whose policy allows it, under the key that mcp.Call.Key alone makes; never
// an error but that something does not exist, never a question to the user, never the retry of a call that asked one.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/redis"
)

// Event is something that the cache did.
type Event uint8

// The events. The first five are what it did for a call of a cacheable target: one for each, but that a call whose work failed and
// which got a stale result instead is counted as both.
const (
	Hit       Event = iota
	Miss            // the call was first to ask, and its work was done
	Coalesced       // the call waited for the work of another
	Stale           // a result was served beyond its time
	Bypass          // the call cannot be keyed safely, or is a second round with the user
	Filled          // a result was stored
	Discarded       // a result was not stored: what it rests on changed meanwhile
	Refreshed       // a result was fetched before or behind its end, with nobody waiting for it
	Put             // a write's own result was stored for the read that would have found it
	Changed         // a write changed what results rest on
	Purged          // an operator made results void
	HeardOf         // changes that others made were heard of
	Evicted         // an entry left before its time, for want of room
	Warmed          // an entry was loaded before anybody asked
	Dropped         // an entry was not written to a level whose queue is full
	Failed          // a level could not do what it was asked to
	EventCount
)

// String gives the event's name in metrics.
func (e Event) String() string {
	return [EventCount]string{"hit", "miss", "coalesced", "stale", "bypass", "fill", "discard", "refresh", "put", "change", "purge", "event", "eviction", "warm", "drop", "failure"}[e]
}

// Counters counts what a level does. It is safe for concurrent use.
type Counters interface {
	Count(Event)
	// Looked is told how long a look into a level beyond the process took, Aged how old a stale result was.
	Looked(time.Duration)
	Aged(time.Duration)
}

// Deps is what a cache stands on.
type Deps struct {
	Tags       *Tags // the process's
	L1, L2, L3 Counters
	// Redis is where the second level is; nil for none. Secret encrypts what it holds, nil for no encryption.
	Redis  *redis.Client
	Secret []byte
	// Database is where the third level is; nil for none.
	Database *Database
	Log      *slog.Logger
}

// Cache is the stop of the request path. Make it with New.
type Cache struct {
	cfg     Config
	l1      *L1
	l2      *L2 // nil for none
	l3      *L3 // nil for none
	tags    *Tags
	flights flights
	count   Counters
	log     *slog.Logger

	closing sync.Once
	stop    chan struct{}
	work    sync.WaitGroup
}

// New makes a cache of cfg, which has been validated.
func New(cfg Config, deps Deps) (*Cache, error) {
	c := &Cache{cfg: cfg, tags: deps.Tags, count: deps.L1, log: deps.Log, flights: flights{tags: deps.Tags, running: map[string]*flight{}}, stop: make(chan struct{})}
	var err error
	if c.l1, err = newL1(cfg.L1, deps.Tags, c.gone); err != nil {
		return nil, err
	}
	if deps.Redis != nil {
		if c.l2, err = newL2(cfg.L2, deps.Redis, deps.Secret, deps.Tags, deps.L2, deps.Log); err != nil {
			c.l1.Close()
			return nil, err
		}
	}
	if deps.Database != nil {
		if c.l3, err = newL3(cfg.L3, cfg.Invalidation.Every.Std(), *deps.Database, deps.Tags, deps.L3, deps.Log); err != nil {
			c.l1.Close()
			if c.l2 != nil {
				c.l2.close()
			}
			return nil, err
		}
	}
	return c, nil
}

// gone is told of each entry that left L1 for want of room.
func (c *Cache) gone(e *Entry) {
	c.count.Count(Evicted)
	c.tell(e)
}

// Close ends what runs in the background, and writes what waits for the third level. The cache goes on answering from the
// first, for those that still hold it. It is not for a goroutine of the cache's own work, for which it waits.
func (c *Cache) Close() {
	c.closing.Do(func() {
		close(c.stop)
		c.work.Wait()
		c.l1.Close()
		if c.l2 != nil {
			c.l2.close()
		}
		if c.l3 != nil {
			c.l3.close(func() {
				for _, e := range c.l1.entries.All() {
					c.tell(e)
				}
			})
		}
	})
}

// Size gives the entries and the bytes that L1 holds.
func (c *Cache) Size() (entries, bytes int64) { return c.l1.Size() }

// DatabaseSize gives the entries and the bytes of the third level; nil where there is none.
func (c *Cache) DatabaseSize() func() (entries, bytes int64) {
	if c.l3 == nil {
		return nil
	}
	return c.l3.Size
}

// Ready gives the stored result of a call where one is at hand that needs no thought: no waiting, no work. It is the way of
// a hit; all else goes through Middleware.
func (c *Cache) Ready(call *mcp.Call, now time.Time) (mcp.Result, bool) {
	if !call.Policy.Cacheable || call.Answer != nil || call.NoStore {
		return mcp.Result{}, false
	}
	e := c.l1.get(call.Key(), now)
	if e == nil || e.Err != nil || now.Sub(e.Born) >= e.life-e.early || !c.knows(call, now) {
		return mcp.Result{}, false
	}
	return c.serve(e, now, Hit), true
}

// knows tells whether nothing that a call's result rests on can have been changed by another process, before now, without
// this one having heard of it. Where it can, neither L1 nor a flight under way answers the call.
func (c *Cache) knows(call *mcp.Call, now time.Time) bool {
	return c.l2 == nil || !call.Policy.Mutable || c.l2.member.Holds(now)
}

// confirmed tells whether an entry of L1 is fresh and, as the database of L3 has it, nothing has changed that it rests on.
func (c *Cache) confirmed(ctx context.Context, e *Entry, now time.Time) bool {
	return c.l3 != nil && e.settled && now.Sub(e.Born) < e.life && c.l3.confirm(ctx, e.stamps) && c.tags.current(e.stamps)
}

// serve gives an entry's result.
func (c *Cache) serve(e *Entry, now time.Time, how Event) mcp.Result {
	c.count.Count(how)
	e.hits.Add(1)
	r := e.Result
	r.Cache = mcp.CacheInfo{Status: mcp.CacheHit, Level: 1, Age: max(0, now.Sub(e.Born))}
	if how == Stale {
		r.Cache.Status = mcp.CacheStale
		c.count.Aged(r.Cache.Age)
	}
	return r
}

// Middleware answers from the cache or lets next do the work, once for all identical calls that wait at the same time.
func (c *Cache) Middleware(next mcp.Handler) mcp.Handler {
	return func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
		switch {
		case call.Policy.Changes != nil:
			return c.change(ctx, call, next)
		case !call.Policy.Cacheable:
			return next(ctx, call)
		case call.Answer != nil || call.NoStore:
			c.count.Count(Bypass)
			r, err := next(ctx, call)
			r.Cache = mcp.CacheInfo{Status: mcp.CacheBypass}
			return r, err
		}
		return c.read(ctx, call, next)
	}
}

// read answers a cacheable call.
func (c *Cache) read(ctx context.Context, call *mcp.Call, next mcp.Handler) (mcp.Result, error) {
	now := time.Now()
	e := c.l1.get(call.Key(), now)
	known := c.knows(call, now)
	if e != nil && !known && !c.confirmed(ctx, e, now) {
		e = nil // not even where the work fails; and it is no reason not to look into the other levels
	}
	if e != nil {
		switch left := e.life - now.Sub(e.Born); {
		case left > 0:
			// XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, 2015): the nearer the end and
			// the dearer the work, the likelier one of the callers starts it, while all of them are served.
			if left < e.early && -math.Log(1-c.l1.chance())*float64(e.Cost) >= float64(left) {
				c.refresh(call, e, next)
			}
			return c.serve(e, now, Hit), e.Err
		case -left < e.StaleRevalidate:
			c.refresh(call, e, next)
			return c.serve(e, now, Stale), e.Err
		}
	}
	f, first := c.flights.join(call.Key(), known)
	status := mcp.CacheCoalesced
	if first {
		status = mcp.CacheMiss
		c.count.Count(Miss)
		go c.fly(f, call.Detach(), e, next) // owned by the flight: it ends within the policy's timeout
	} else {
		c.count.Count(Coalesced)
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		// A database that is slow or overloaded shows itself here: the caller's time is over before the flight's.
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && c.mayServe(e) {
			return c.serve(e, time.Now(), Stale), e.Err
		}
		return mcp.Result{}, context.Cause(ctx)
	}
	if now = time.Now(); isOutage(f.err) && c.mayServe(e) {
		return c.serve(e, now, Stale), e.Err
	}
	r := f.result
	r.Cache = mcp.CacheInfo{Status: status}
	if f.level > 0 {
		r.Cache = mcp.CacheInfo{Status: mcp.CacheHit, Level: f.level, Age: max(0, now.Sub(f.born))}
	}
	return r, f.err
}

// mayServe tells whether an entry may be served where the work for a new one failed.
func (c *Cache) mayServe(e *Entry) bool {
	return e != nil && time.Since(e.Born) < e.life+e.StaleError && c.tags.current(e.stamps)
}

// tagsOf gives all tags of a call's result: those of its policy, its target, and the one that all have. What other processes can
// change unheard has one more.
func (c *Cache) tagsOf(call *mcp.Call) []string {
	tags := []string{everything, targetTag(call.Kept())}
	if call.Policy.Tags != nil {
		tags = append(tags, call.Policy.Tags(call.Args)...)
	}
	if call.Policy.Mutable && c.l2 != nil {
		tags = append(tags, sharedName)
	}
	return tags
}

// refresh fetches what takes the place of an entry, with nobody waiting for it.
func (c *Cache) refresh(call *mcp.Call, e *Entry, next mcp.Handler) {
	if f, first := c.flights.join(call.Key(), true); first {
		c.count.Count(Refreshed)
		go c.fly(f, call.Detach(), e, next) // owned by the flight
	}
}

// isOutage tells whether an error is the database's state and not the answer to this call.
func isOutage(err error) bool {
	var tool *mcp.ToolError
	if errors.As(err, &tool) {
		return tool.Kind == "timeout" || tool.Kind == "overloaded" || tool.Kind == "unavailable"
	}
	return errors.Is(err, context.DeadlineExceeded)
}

// errNoAnswer is what waiters get where the handler neither returned nor panicked: it ended its goroutine.
var errNoAnswer = errors.New("the work ended without an answer")

// fly does the work of a flight. It has a context of its own: the first caller may leave, the others still wait. seen is the
// entry that its caller found: where there is a fresh one in its place by now, another flight has brought it.
func (c *Cache) fly(f *flight, call *mcp.Call, seen *Entry, next mcp.Handler) {
	f.err = errNoAnswer
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("panic in %s: %v", call.Target, p)
		}
		c.flights.leave(f)
	}()
	tags := c.tagsOf(call)
	c.flights.begin(f, tags)
	ctx, cancel := context.WithTimeout(context.Background(), call.Policy.Timeout)
	defer cancel()
	call.Deadline, _ = ctx.Deadline()
	born := time.Now() // before the work: the result is at least as new as this
	if e := c.l1.get(call.Key(), born); e != nil && e != seen && born.Sub(e.Born) < e.life && c.knows(call, born) {
		f.result, f.err, f.level, f.born = e.Result, e.Err, 1, e.Born
		return
	}
	there, flew, found := c.ask(ctx, f, call, tags, seen)
	if found != nil {
		f.result, f.err, f.level, f.born = found.Result, nil, found.level, found.Born
		return
	}
	kept := false
	if flew {
		defer func() {
			if !kept {
				c.l2.land(f.key)
			}
		}()
	}
	// Looking may have told of changes, and the work has not begun.
	c.flights.restamp(f, tags)
	busy := c.tags.busy(f.stamps) || there != nil && there.writing
	born = time.Now()
	r, err := next(ctx, call)
	f.result, f.err = r, err
	missing := isMissing(err)
	if err != nil && !missing || r.IsError || r.Input != nil {
		return
	}
	e := entryOf(call, r, born, time.Since(born))
	if e.stamps = f.stamps; missing || r.Rows == mcp.RowsNone {
		e.TTL = min(e.TTL, call.Policy.Negative)
	}
	if missing {
		e.Err = err
	}
	if there != nil && there.writing {
		c.count.Count(Discarded) // by another process, which may end before it says that its write has
		return
	}
	if c.keep(e, e.Born, Filled) && !busy {
		c.keepLonger(e, there, flew)
		kept = true
	}
}

// ask looks for a call's result in the levels beyond the process. It gives what the second one says of the call's tags, nil where it
// says nothing, whether the flight's lease is the caller's now, and the entry, nil where the work is to be done. What is found
// is kept in the levels above.
func (c *Cache) ask(ctx context.Context, f *flight, call *mcp.Call, tags []string, seen *Entry) (there *sight, flew bool, found *Entry) {
	before, now := f.stamps, time.Now()
	over := seen == nil || now.Sub(seen.Born) >= seen.life
	var older time.Time
	if !over {
		older = seen.Born
	}
	second := func(e *Entry) *Entry {
		c.l2.count.Count(Hit)
		e.level, e.stamps = 2, before
		if !there.writing {
			c.keep(e, now, Filled)
		}
		return e
	}
	if c.l2 != nil {
		if found, there = c.l2.look(ctx, f.key, tags); found != nil && found.Born.After(older) {
			return there, false, second(found)
		}
		c.l2.count.Count(Miss)
	}
	if c.l3 != nil && over {
		if found = c.l3.find(ctx, call.Key(), tags, before, there); found != nil {
			c.l3.count.Count(Hit)
			found.level = 3
			if there == nil || !there.writing {
				c.keep(found, now, Filled)
				if c.l2 != nil {
					c.l2.keep(found, there, false)
				}
			}
			return there, false, found
		}
		c.l3.count.Count(Miss)
	}
	if there == nil {
		return nil, false, nil
	}
	e, s, flew := c.l2.fly(ctx, f.key, tags, older)
	if s != nil {
		there = s
	}
	if e != nil {
		return there, false, second(e)
	}
	return there, flew, nil
}

// keepLonger stores an entry in the levels beyond the process, in the second one under what that said before the work. What was
// read while a write was under way is not: the process may end before it says that the write has ended.
func (c *Cache) keepLonger(e *Entry, there *sight, flew bool) {
	e.under = there
	if c.l2 != nil {
		c.l2.keep(e, there, flew)
	}
	if c.l3 != nil && e.life > 0 {
		c.l3.keep(e)
	}
}

// isMissing tells whether an error says that there is nothing: an answer like any other.
func isMissing(err error) bool {
	protocol, ok := mcp.AsError(err)
	return ok && protocol.Code == mcp.CodeResourceNotFound
}

// entryOf makes the entry of a result.
func entryOf(call *mcp.Call, r mcp.Result, born time.Time, cost time.Duration) *Entry {
	p := call.Policy
	return &Entry{Result: r, Key: string(call.Key()), Target: call.Kept(), Args: call.KeyArgs(), Born: born, TTL: p.TTL, Cost: cost,
		StaleRevalidate: p.StaleRevalidate, StaleError: p.StaleError}
}

// keep stores an entry in L1. It tells whether what the entry rests on is still as it was.
func (c *Cache) keep(e *Entry, since time.Time, as Event) (current bool) {
	e.settled = !c.tags.busy(e.stamps)
	stored, current := c.l1.put(e, since)
	switch {
	case stored:
		c.count.Count(as)
	case !current:
		c.count.Count(Discarded)
	}
	return current
}

// change does a write, and makes void what it changes.
func (c *Cache) change(ctx context.Context, call *mcp.Call, next mcp.Handler) (mcp.Result, error) {
	changes := call.Policy.Changes
	tags := changes.Tags(call.Args)
	var read *mcp.Call
	var before []stamp
	var there *sight
	if changes.Put != nil {
		if read = changes.Put(call); read != nil {
			of := c.tagsOf(read)
			before = c.tags.stamps(of)
			if c.l2 != nil {
				there = c.l2.see(ctx, of)
			}
		}
	}
	c.count.Count(Changed)
	w := c.tags.begin(tags)
	_ = c.changed(w.marks) // what is owed is paid before the level is read again
	announced := c.announce(w.marks, nil, call.Policy.Timeout)
	ended, alone := false, false
	end := func() *raised {
		ended = true
		alone = w.end()
		_ = c.changed(w.marks)
		w.settle()
		return c.announce(w.marks, announced, 0)
	}
	defer func() {
		if !ended { // it panicked: nobody knows how far it came
			end()
		}
	}()
	born := time.Now()
	r, err := next(ctx, call)
	cost := time.Since(born)
	last := end()
	if errors.Is(err, mcp.ErrUnknownFate) {
		// The database may still commit what it has not answered.
		time.AfterFunc(call.Policy.Timeout, func() { _ = c.invalidate(tags) })
	}
	if c.l2 != nil {
		alone = alone && last.follows(announced)
	}
	if err == nil && alone && read != nil && r.Rows == mcp.RowsOne && !r.IsError && r.Input == nil {
		e := entryOf(read, r, born, cost)
		e.stamps = w.restamp(before)
		if c.keep(e, e.Born, Put) && !c.tags.busy(e.stamps) {
			c.keepLonger(e, there.after(last), false)
		}
	}
	return r, err
}

// announce raises the versions in the level that processes share: before a write, or, where begun is what that gave, after
// it, when it waits until no process serves what is void. It gives nil where that level is not there, or could not be told.
func (c *Cache) announce(marks []stamp, begun *raised, timeout time.Duration) *raised {
	if c.l2 == nil || len(marks) == 0 {
		return nil
	}
	how := noWrite // of what is not known to be counted as under way
	switch {
	case timeout > 0:
		how = writeBegins
	case begun != nil:
		how = writeEnds
	}
	out, err := c.l2.raise(marks, how, 2*timeout)
	if err != nil {
		return nil // it is owed
	}
	return out
}

// changed tells the levels that outlive the process of versions that were raised. The error is of one that could not be told yet.
func (c *Cache) changed(marks []stamp) error {
	if c.l3 == nil {
		return nil
	}
	return c.l3.changed(marks)
}

// invalidate makes void the results of tags, in all levels.
func (c *Cache) invalidate(tags []string) error {
	w := c.tags.begin(tags)
	w.end()
	err := c.changed(w.marks)
	w.settle()
	if c.l2 != nil {
		if _, away := c.l2.raise(w.marks, noWrite, 0); away != nil {
			err = errors.Join(err, errAway)
		}
	}
	return err
}

// Heard makes void the results of tags: others have changed what they rest on. It does not wait for other processes, which hear of it too.
func (c *Cache) Heard(tags []string) {
	c.count.Count(HeardOf)
	w := c.tags.begin(tags)
	w.end()
	_ = c.changed(w.marks) // what is owed is paid before the level is read again
	w.settle()
	if c.l2 != nil {
		_, _ = c.l2.raise(w.marks, writeHeard, 0)
	}
}

// Owes tells whether a level that outlives the process could not be told yet of something that was made void.
func (c *Cache) Owes() bool {
	return c.l2 != nil && c.l2.Owes() || c.l3 != nil && c.l3.owes()
}

// HeardOfAnything makes void every result: others may have changed anything.
func (c *Cache) HeardOfAnything() { c.Heard([]string{everything}) }

// Purge makes void the results of tags, and of targets by name. The error is of a level that could not be told yet: what it
// holds is void for this process and, once it is told, for all.
func (c *Cache) Purge(tags, targets []string) error {
	c.count.Count(Purged)
	all := slices.Clone(tags)
	for _, t := range targets {
		all = append(all, targetTag(t))
	}
	return c.invalidate(all)
}

// PurgeAll makes every result void. The error is as Purge's.
func (c *Cache) PurgeAll() error {
	c.count.Count(Purged)
	return c.invalidate([]string{everything})
}
