package cache

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/zeebo/xxh3"

	"millrace/internal/mcp"
)

// Entry is a stored result. But for its counter it is immutable.
type Entry struct {
	Result mcp.Result
	Err    error         // instead of Result: what was asked for does not exist
	Key    string        // all of it: a hash that collides must not serve one call's result to another
	Target string        // of the call
	Args   int           // where in Key the arguments begin
	Born   time.Time     // before the work
	TTL    time.Duration // the entry is fresh until Born+TTL at most, at whatever level
	Cost   time.Duration // what the work took

	// How long beyond its life it may be served while a new one is fetched, and where that fails.
	StaleRevalidate, StaleError time.Duration

	stamps  []stamp
	settled bool          // its versions are those that the third level knows, or older
	level   uint8         // that it was found in; 0 for the work
	under   *sight        // what the second level said of its tags before the work; nil for nothing
	life    time.Duration // how long it is fresh here, from its birth
	early   time.Duration // how long before the end of that a refresh may begin
	hits    atomic.Int64
	told    atomic.Int64 // of the hits, those that have been counted elsewhere
}

// Bytes is about what the entry takes in memory.
func (e *Entry) Bytes() int {
	return len(e.Result.Fields) + len(e.Result.Meta) + len(e.Key) + 16*len(e.stamps) + e.Result.Packed.Bytes() + 480
}

// jitter is the greatest share of its life that an entry loses by chance, so that what came together does not go together.
const jitter = 0.1

// earlyCosts is how many times its cost before an entry's end its refresh may begin: XFetch draws an exponential number of
// costs, and a greater one comes once in 20,000 draws.
const earlyCosts = 10

// L1 is the level in this process. It is looked up by a 128-bit hash, seeded anew in each process so that nobody can
// prepare collisions, and an entry serves only if its whole key is equal and its tags have not changed.
type L1 struct {
	entries *otter.Cache[xxh3.Uint128, *Entry]
	tags    *Tags
	seed    uint64
	ttl     time.Duration
	chance  func() float64 // from 0 up to 1
}

// newL1 makes an empty level. evicted is told of each entry that had to leave before its time.
func newL1(cfg L1Config, tags *Tags, evicted func(*Entry)) (*L1, error) {
	l := &L1{tags: tags, seed: rand.Uint64(), ttl: cfg.TTL.Std(), chance: rand.Float64}
	// An entry weighs its bytes, but at least an equal share of them: so both bounds hold with otter's one.
	least := uint64(cfg.MaxBytes) / uint64(cfg.Size)
	entries, err := otter.New(&otter.Options[xxh3.Uint128, *Entry]{
		MaximumWeight: uint64(cfg.MaxBytes),
		Weigher: func(_ xxh3.Uint128, e *Entry) uint32 {
			return uint32(min(max(uint64(e.Bytes()), least), math.MaxUint32))
		},
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[xxh3.Uint128, *Entry]) time.Duration {
			return max(1, time.Until(e.Value.Born.Add(e.Value.last())))
		}),
		OnDeletion: func(e otter.DeletionEvent[xxh3.Uint128, *Entry]) {
			if e.Cause == otter.CauseOverflow {
				evicted(e.Value)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make the L1 cache: %w", err)
	}
	l.entries = entries
	return l, nil
}

// Close ends otter's periodic clean-up.
func (l *L1) Close() { l.entries.StopAllGoroutines() }

// Size gives the entries and their weight in bytes; both may lag a moment behind.
func (l *L1) Size() (entries, bytes int64) {
	return int64(l.entries.EstimatedSize()), int64(l.entries.WeightedSize())
}

// last is how old the entry may be when it is served for the last time.
func (e *Entry) last() time.Duration {
	if stale := max(e.StaleRevalidate, e.StaleError); e.life < math.MaxInt64-stale {
		return e.life + stale
	}
	return e.life
}

// get gives the entry of a key, fresh or stale; nil where there is none, or where what it rests on has changed.
func (l *L1) get(key []byte, now time.Time) *Entry {
	e, ok := l.entries.GetIfPresent(xxh3.Hash128Seed(key, l.seed))
	if !ok || e.Key != string(key) || !l.tags.current(e.stamps) || now.Sub(e.Born) >= e.last() {
		return nil
	}
	return e
}

// packAbove is the size of results whose compressed form is worth keeping.
const packAbove = 4 << 10

// pack lets the compressed form of an entry's result be kept with it; it counts from when it is there.
func (l *L1) pack(e *Entry) {
	if len(e.Result.Fields) > packAbove && e.Result.Packed == nil {
		e.Result.Packed = &mcp.Packed{Grew: func() {
			l.entries.Compute(xxh3.Hash128Seed([]byte(e.Key), l.seed), func(old *Entry, found bool) (*Entry, otter.ComputeOp) {
				if !found || old != e {
					return nil, otter.CancelOp
				}
				return e, otter.WriteOp // it is weighed anew
			})
		}}
	}
}

// put stores e, unless what it rests on has changed since it was stamped, a later one is there, or its time is over. The
// level's ttl counts from since: the entry's birth, or when it came from another level.
func (l *L1) put(e *Entry, since time.Time) (stored, current bool) {
	life := max(0, min(e.TTL, l.ttl))
	if age := since.Sub(e.Born); age > 0 && l.ttl < e.TTL-age {
		life = age + l.ttl
	} else if age > 0 {
		life = e.TTL
	}
	l.pack(e)
	e.life = life - time.Duration(jitter*l.chance()*float64(life))
	e.early = min(earlyCosts*e.Cost, e.life/2)
	if e.life <= 0 || time.Since(e.Born) >= e.last() {
		return false, true
	}
	l.entries.Compute(xxh3.Hash128Seed([]byte(e.Key), l.seed), func(old *Entry, found bool) (*Entry, otter.ComputeOp) {
		current = l.tags.current(e.stamps)
		stored = current
		if found && old.Key == e.Key {
			if old.Born.After(e.Born) && l.tags.current(old.stamps) {
				stored = false
			}
			e.hits.Store(old.hits.Load())
			e.told.Store(old.told.Load())
		}
		if !stored {
			return nil, otter.CancelOp
		}
		return e, otter.WriteOp
	})
	return stored, current
}
