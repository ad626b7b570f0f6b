// Package cache answers calls from results that are already there, and lets concurrent identical calls share one run.
//
// It is the stop behind catalog's resolution and authorization and before any work. It stores only what is provably
// safe: results of calls whose policy allows it, under the key that mcp.Call.Key alone makes, never an error, never a
// question to the user, never the retry of a call that asked one.
package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// Config is `cache:`.
type Config struct {
	L1 L1Config `yaml:"l1" desc:"The level in this process."`
}

// L1Config bounds the level in this process, by entries and by bytes; both hold.
type L1Config struct {
	Size     int           `yaml:"size" desc:"The most entries."`
	TTL      conf.Duration `yaml:"ttl" desc:"How long an entry may stay at most, and how long one is fresh where its tool gives no ttl."`
	MaxBytes conf.Size     `yaml:"max_bytes" desc:"The most bytes of results."`
}

// DefaultConfig gives 1000 entries, 60 s and 64 MiB.
func DefaultConfig() Config {
	return Config{L1: L1Config{Size: 1000, TTL: conf.Duration(time.Minute), MaxBytes: 64 << 20}}
}

// Validate gives every fault, with paths relative to `cache:`.
func (c *Config) Validate() conf.Faults {
	var faults conf.Faults
	if c.L1.Size < 1 || c.L1.Size > 1e9 {
		faults = append(faults, conf.Fault{Path: "l1.size", Message: fmt.Sprintf("is %d", c.L1.Size), Fix: "give 1 to 1000000000"})
	}
	if c.L1.TTL <= 0 {
		faults = append(faults, conf.Fault{Path: "l1.ttl", Message: "must be longer than nothing", Fix: "write 60s, or leave cache: out of the tools"})
	}
	if int64(c.L1.MaxBytes) < int64(c.L1.Size) {
		faults = append(faults, conf.Fault{Path: "l1.max_bytes", Message: "is less than a byte an entry", Fix: "raise it, or lower l1.size"})
	}
	return faults
}

// Entry is a stored result. It is immutable.
type Entry struct {
	Result mcp.Result
	Key    string // all of it: a hash that collides must not serve one call's result to another
	Born   time.Time
	TTL    time.Duration // of the tool: the entry is fresh until Born+TTL, at whatever level
}

// Bytes is about what the entry takes in memory.
func (e *Entry) Bytes() int { return len(e.Result.Fields) + len(e.Result.Meta) + len(e.Key) + 256 }

// Level is one place where results are kept. Its methods are safe for concurrent use.
type Level interface {
	// Get gives the fresh entry of a key.
	Get(ctx context.Context, key []byte, now time.Time) (*Entry, bool)
	// Fill stores what load gives, unless load fails or the key was invalidated while it ran, and gives it.
	Fill(ctx context.Context, key []byte, load func(context.Context) (*Entry, error)) (*Entry, error)
}

// Counters counts the calls of cacheable targets by what the cache did for them.
type Counters interface {
	Hit()
	Miss()
	Coalesced()
	Bypass()
}

// Cache is the stop of the request path. Make it with New.
type Cache struct {
	l1      *L1
	flights flights
	count   Counters
}

// New makes a cache of cfg, which has been validated.
func New(cfg Config, count Counters) (*Cache, error) {
	l1, err := NewL1(cfg.L1)
	if err != nil {
		return nil, err
	}
	return &Cache{l1: l1, count: count, flights: flights{running: map[string]*flight{}}}, nil
}

// Close ends what runs in the background. The cache goes on answering, for those that still hold it.
func (c *Cache) Close() { c.l1.Close() }

// Size gives the entries and the bytes that L1 holds.
func (c *Cache) Size() (entries, bytes int64) { return c.l1.Size() }

// Ready gives the stored result of a call where one is at hand: no waiting, no work. It is the way of a hit; all else
// goes through Middleware.
func (c *Cache) Ready(call *mcp.Call, now time.Time) (mcp.Result, bool) {
	if !call.Policy.Cacheable || call.Answer != nil || call.NoStore {
		return mcp.Result{}, false
	}
	e, ok := c.l1.Get(context.Background(), call.Key(), now)
	if !ok {
		return mcp.Result{}, false
	}
	c.count.Hit()
	r := e.Result
	r.Cache = mcp.CacheInfo{Status: mcp.CacheHit, Level: 1, Age: max(0, now.Sub(e.Born))}
	return r, true
}

// Middleware answers from the cache or lets next do the work, once for all identical calls that wait at the same time.
func (c *Cache) Middleware(next mcp.Handler) mcp.Handler {
	return func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
		if !call.Policy.Cacheable {
			return next(ctx, call)
		}
		if call.Answer != nil || call.NoStore {
			c.count.Bypass()
			r, err := next(ctx, call)
			r.Cache = mcp.CacheInfo{Status: mcp.CacheBypass}
			return r, err
		}
		if r, ok := c.Ready(call, time.Now()); ok {
			return r, nil
		}
		f, first := c.flights.join(call.Key())
		status := mcp.CacheCoalesced
		if first {
			status = mcp.CacheMiss
			c.count.Miss()
			work := call.Detach()
			go c.fly(f, work, next) // owned by the flight: it ends within the policy's timeout
		} else {
			c.count.Coalesced()
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return mcp.Result{}, context.Cause(ctx)
		}
		r := f.result
		r.Cache = mcp.CacheInfo{Status: status}
		return r, f.err
	}
}

// notStored carries a result past Level.Fill that must not be kept.
type notStored struct{ result mcp.Result }

func (*notStored) Error() string { return "not stored" }

// errNoAnswer is what waiters get where the handler neither returned nor panicked: it ended its goroutine.
var errNoAnswer = errors.New("the work ended without an answer")

// fly does the work of a flight. It has a context of its own: the first caller may leave, the others still wait.
func (c *Cache) fly(f *flight, call *mcp.Call, next mcp.Handler) {
	ctx, cancel := context.WithTimeout(context.Background(), call.Policy.Timeout)
	defer cancel()
	call.Deadline, _ = ctx.Deadline()
	f.err = errNoAnswer
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("panic in %s: %v", call.Target, p)
		}
		c.flights.leave(f)
	}()
	e, err := c.l1.Fill(ctx, call.Key(), func(ctx context.Context) (*Entry, error) {
		born := time.Now() // before the work: the result is at least as new as this
		r, err := next(ctx, call)
		if err != nil {
			return nil, err
		}
		if r.IsError || r.Input != nil {
			return nil, &notStored{r}
		}
		return &Entry{Result: r, Key: string(call.Key()), Born: born, TTL: call.Policy.TTL}, nil
	})
	switch kept := (*notStored)(nil); {
	case err == nil:
		f.result, f.err = e.Result, nil
	case errors.As(err, &kept):
		f.result, f.err = kept.result, nil
	default:
		f.err = err
	}
}
