package cache

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/zeebo/xxh3"
)

// L1 is the level in this process. It is looked up by a 128-bit hash, seeded anew in each process so that nobody can
// prepare collisions, and an entry serves only if its whole key is equal.
type L1 struct {
	entries *otter.Cache[xxh3.Uint128, *Entry]
	seed    uint64
	ttl     time.Duration
}

// NewL1 makes an empty level.
func NewL1(cfg L1Config) (*L1, error) {
	l := &L1{seed: rand.Uint64(), ttl: cfg.TTL.Std()}
	// An entry weighs its bytes, but at least an equal share of them: so both bounds hold with otter's one.
	least := uint64(cfg.MaxBytes) / uint64(cfg.Size)
	entries, err := otter.New(&otter.Options[xxh3.Uint128, *Entry]{
		MaximumWeight: uint64(cfg.MaxBytes),
		Weigher: func(_ xxh3.Uint128, e *Entry) uint32 {
			return uint32(min(max(uint64(e.Bytes()), least), math.MaxUint32))
		},
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[xxh3.Uint128, *Entry]) time.Duration {
			return max(1, time.Until(e.Value.Born.Add(l.life(e.Value)))) // as fresh has it
		}),
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

// life is how long e may be served, from its birth.
func (l *L1) life(e *Entry) time.Duration { return min(e.TTL, l.ttl) }

// fresh tells whether e may be served at now.
func (l *L1) fresh(e *Entry, now time.Time) bool { return now.Sub(e.Born) < l.life(e) }

// Get gives the fresh entry of a key.
func (l *L1) Get(_ context.Context, key []byte, now time.Time) (*Entry, bool) {
	e, ok := l.entries.GetIfPresent(xxh3.Hash128Seed(key, l.seed))
	if !ok || e.Key != string(key) || !l.fresh(e, now) {
		return nil, false
	}
	return e, true
}

// Fill stores what load gives. otter throws away a load that an invalidation of its key overtook.
func (l *L1) Fill(ctx context.Context, key []byte, load func(context.Context) (*Entry, error)) (*Entry, error) {
	hash := xxh3.Hash128Seed(key, l.seed)
	loaded := false
	loader := otter.LoaderFunc[xxh3.Uint128, *Entry](func(ctx context.Context, _ xxh3.Uint128) (*Entry, error) {
		loaded = true
		return load(ctx)
	})
	e, err := l.entries.Get(ctx, hash, loader)
	switch {
	case err != nil && !loaded && ctx.Err() == nil:
		return load(ctx) // the failure is that of another call at this hash, for which otter made this one wait
	case err != nil:
		return nil, err
	case e.Key != string(key):
		return load(ctx) // another call's entry sits at this hash: it stays, this one is not stored
	case !loaded && !l.fresh(e, time.Now()):
		// It expired between the look-up that missed it and this one.
		l.entries.Invalidate(hash)
		return load(ctx)
	}
	return e, nil
}
