package app

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/admin"
	"millrace/internal/cache"
	"millrace/internal/catalog"
	"millrace/internal/conf"
	"millrace/internal/config"
	"millrace/internal/identity"
	"millrace/internal/mcp"
	"millrace/internal/outbox"
	"millrace/internal/redis"
	"millrace/internal/sqldb"
	"millrace/internal/telemetry"
)

// generation is all that one version of the file brings: it is immutable, and a reload puts another in its place. What
// it stands on (pools, the cache) is shared with the generations before and after it where its configuration is equal.
type generation struct {
	*catalog.Catalog
	cache   *cache.Cache
	handler mcp.Handler
	keys    *identity.Keyring
	loaded  *config.Loaded
	sources []*source
	l3      *source       // where the cache's third level is; nil for none
	redis   *redis.Client // of the cache's second level; nil for none
	secret  []byte        // that encrypts what is there; nil for no encryption
	isNew   bool          // the cache is not that of the generation before
	targets []string      // names with metrics of their own
	// What the databases said when it was built: that they accept every statement, and which ones they refuse.
	described bool
	refused   conf.Faults

	followers []*outbox.Follower // of its sources' events
	caughtUp  []<-chan struct{}  // closed once each has told what there was
	following sync.WaitGroup
	unfollow  func() // ends that

	// users is one for being current, and one for each request at work. At zero it is retired, for good.
	users  atomic.Int64
	retire func(*generation)
}

// Ready gives the stored answer of a call.
func (g *generation) Ready(c *mcp.Call, now time.Time) (mcp.Result, bool) {
	return g.cache.Ready(c, now)
}

// Handle does the work of a call.
func (g *generation) Handle(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
	return g.handler(ctx, c)
}

// Acquire keeps the generation until Release; it is false for one that has been retired.
func (g *generation) Acquire() bool {
	for {
		n := g.users.Load()
		if n == 0 {
			return false
		}
		if g.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release ends what Acquire began.
func (g *generation) Release() {
	if g.users.Add(-1) == 0 {
		g.retire(g)
	}
}

// source is an open database, shared by the generations that name it with the same configuration.
type source struct {
	name, hash string
	db         sqldb.Source
	refs       int         // sources.mu guards it
	down       atomic.Bool // it did not answer when it was last asked
}

// sources are the open databases by name and configuration.
type sources struct {
	log     *slog.Logger
	metrics *telemetry.Metrics

	mu     sync.Mutex // guards what follows
	open   []*source
	latest map[string]*source // by name, while it is open
}

// acquire gives the source of a name and configuration, opened if need be.
func (s *sources) acquire(name string, cfg sqldb.Config) (*source, error) {
	hash := config.HashOf(cfg)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.open {
		if o.name == name && o.hash == hash {
			o.refs++
			if r, ok := o.db.(sqldb.Replicated); ok && s.latest[name] != o { // another of its name had its place, and may have written
				r.Missed()
			}
			s.latest[name] = o
			return o, nil
		}
	}
	db, err := sqldb.New(name, cfg, s.log)
	if err != nil {
		return nil, err
	}
	if r, ok := db.(sqldb.Replicated); ok { // what its callers wrote by the one before, and go on to write, they read by this one
		for _, other := range s.open {
			if old, ok := other.db.(sqldb.Replicated); ok && other.name == name {
				r.Inherit(old)
			}
		}
	}
	o := &source{name: name, hash: hash, db: db, refs: 1}
	s.open = append(s.open, o)
	s.latest[name] = o
	s.metrics.SetSource(name, o.pools)
	return o, nil
}

func (s *source) pools() []telemetry.Pool {
	var pools []telemetry.Pool
	for _, p := range s.db.Stats() {
		pool := telemetry.Pool{Role: p.Role, Busy: p.Busy, Idle: p.Idle, Waiting: p.Waiting, WaitCount: p.WaitCount, Wait: p.WaitDuration}
		if o := p.Server; o != nil {
			pool.Server = &telemetry.Server{Key: o.Key, Primary: o.Primary, Serves: o.Serves, Lag: o.Lag}
		}
		pools = append(pools, pool)
	}
	return pools
}

// release closes a source with its last user.
func (s *sources) release(o *source) {
	s.mu.Lock()
	o.refs--
	last := o.refs == 0
	if last {
		s.open = slices.DeleteFunc(s.open, func(other *source) bool { return other == o })
		if s.latest[o.name] == o {
			delete(s.latest, o.name)
		}
		// Another of this name is shown in its place: the newer one, or the older one where the newer was refused.
		if i := slices.IndexFunc(s.open, func(other *source) bool { return other.name == o.name }); i >= 0 {
			s.metrics.SetSource(o.name, s.open[i].pools)
		} else {
			s.metrics.SetSource(o.name, nil)
		}
	}
	s.mu.Unlock()
	if last {
		if err := o.db.Close(); err != nil {
			s.log.Warn("closing a source failed", "source", o.name, "error", err)
		}
	}
}

// observed is a source whose statements are timed.
type observed struct {
	sqldb.Source
	read, write, replica *telemetry.Histogram
}

func (o observed) Compile(spec sqldb.Spec) (sqldb.Query, error) {
	q, err := o.Source.Compile(spec)
	if err != nil {
		return nil, err
	}
	h := o.read
	if spec.Mode == sqldb.ReadWrite {
		h = o.write
	}
	return timed{q, h, o.replica}, nil
}

type timed struct {
	sqldb.Query
	h       *telemetry.Histogram
	replica *telemetry.Histogram // of reads that ran on one
}

func (t timed) Run(ctx context.Context, dst []byte, x *sqldb.Execution) ([]byte, sqldb.Outcome, error) {
	start := time.Now()
	out, outcome, err := t.Query.Run(ctx, dst, x)
	h := t.h
	if outcome.Replica > 0 {
		h = t.replica
	}
	h.Observe(time.Since(start))
	return out, outcome, err
}

// roles names the roles of a source's statements: of reads, of writes, and of reads on replicas.
func roles(cfg sqldb.Config) (read, write, replica string) {
	switch {
	case cfg.SQLite != nil:
		return "reader", "writer", "reader"
	case cfg.Shards != nil:
		return "primary", "primary", "primary"
	case len(cfg.Postgres.Replicas) > 0:
		return "primary", "primary", "replica"
	}
	return "primary", "primary", "primary"
}

// meter counts one target's calls by revision.
type meter [mcp.Modern + 1]*telemetry.Operation

func newMeter(m *telemetry.Metrics, method mcp.Method, target string) mcp.Meter {
	var out meter
	for r := mcp.RevisionNone; r <= mcp.Modern; r++ {
		name := r.String()
		if name == "" {
			name = "none"
		}
		out[r] = m.Operation(method.String(), target, name)
	}
	return &out
}

func (m *meter) Observe(r mcp.Revision, s mcp.CacheStatus, d time.Duration) {
	m[r].Observe(uint8(s), s.String(), d)
}

func (m *meter) Error(r mcp.Revision, kind string) { m[r].Error(kind) }

// cacheCounters are the figures of a level of the cache, counters by event.
type cacheCounters struct {
	events       [cache.EventCount]*telemetry.Counter
	looks, stale *telemetry.Histogram
}

func newCacheCounters(m *telemetry.Metrics, level string) *cacheCounters {
	var out cacheCounters
	for e := range cache.EventCount {
		if e <= cache.Bypass {
			out.events[e] = m.CacheRequests(level, e.String())
		} else {
			out.events[e] = m.CacheEvents(level, e.String())
		}
	}
	if level == "l1" {
		out.stale = m.CacheStale(level)
	} else {
		out.looks = m.CacheLooks(level)
	}
	return &out
}

func (c *cacheCounters) Count(e cache.Event) { c.events[e].Add(1) }

// Looked is of the levels beyond the process, and Aged of that in it.
func (c *cacheCounters) Looked(d time.Duration) { c.looks.Observe(d) }
func (c *cacheCounters) Aged(d time.Duration)   { c.stale.Observe(d) }

// heldCache is the cache of a generation, as operators see it.
type heldCache struct {
	*cache.Cache
	g *generation
}

// Has tells whether the generation serves a target of that name.
func (h heldCache) Has(target string) bool { return slices.Contains(h.g.targets, target) }

// Purge makes void the results of tags, and of targets by name: with those that a tool shares, the others' too.
func (h heldCache) Purge(tags, targets []string) error {
	kept := make([]string, len(targets))
	for i, name := range targets {
		kept[i] = h.g.Kept(name)
	}
	return h.Cache.Purge(tags, kept)
}

func (a *App) held() admin.Cache {
	g := a.current.Load()
	return heldCache{g.cache, g}
}

// recall gives a call of the current generation that its cache makes by itself; nil for a cache that is another's by now.
func (a *App) recall(held *cache.Cache, target string, version [16]byte, args []mcp.Value) *mcp.Call {
	g := a.current.Load()
	if g == nil || g.cache != held {
		return nil
	}
	call := g.Recall(target, version, args)
	if call == nil {
		return nil
	}
	invoke := call.Invoke
	call.Invoke = func(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
		if !g.Acquire() {
			return mcp.Result{}, errRetired
		}
		defer g.Release()
		return invoke(ctx, c)
	}
	return call
}

// errRetired ends a call that a reload has overtaken, with nobody waiting for it.
var errRetired = errors.New("the configuration was replaced")
