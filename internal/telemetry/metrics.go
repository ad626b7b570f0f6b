package telemetry

import (
	"maps"
	"regexp"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics is every figure of the server. Its methods are safe for concurrent use.
type Metrics struct {
	// InFlight is the number of requests being worked on: Add(1) when one starts, Add(-1) when it ends.
	InFlight Counter

	mu       sync.Mutex // guards all below and target.operations
	targets  map[targetKey]*target
	queries  map[queryKey]*Histogram
	caches   map[cacheKey]*Counter
	events   map[cacheKey]*Counter // of caches; result is the event
	looks    map[string]*Histogram // into levels of caches
	stale    map[string]*Histogram // ages of stale results, by level
	levels   map[string]func() (entries, bytes int64)
	pools    map[string]func() []Pool
	batches  *prometheus.HistogramVec
	sessions func() int
	hash     string
	values   map[string]float64
}

type (
	targetKey struct{ method, tool string }
	queryKey  struct{ source, role string }
	cacheKey  struct{ level, result string }
)

// Pool is the figures of one pool of database connections at one moment.
type Pool struct {
	Role                string // primary, reader, writer
	Busy, Idle, Waiting int    // connections at work, connections at rest, callers in the queue
	// WaitCount and Wait tell how often a caller had to wait, and how long all of them did, since the start.
	WaitCount int64
	Wait      time.Duration
	Server    *Server // of a source with replicas; nil for none
}

// Server says how one of a source's servers stands.
type Server struct {
	Key     string // where it is in the file
	Primary bool   // else it is a replica
	Serves  bool
	Lag     time.Duration // of a replica; less than zero where that is not known
}

// NewMetrics makes the server's metrics and registers them, and those of Go and of the process, with reg. It panics when
// reg has any of them already: one registry serves one server.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		targets: map[targetKey]*target{},
		queries: map[queryKey]*Histogram{},
		caches:  map[cacheKey]*Counter{},
		events:  map[cacheKey]*Counter{},
		looks:   map[string]*Histogram{},
		stale:   map[string]*Histogram{},
		levels:  map[string]func() (int64, int64){},
		pools:   map[string]func() []Pool{},
		batches: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "millrace_batch_size", Help: "Calls of a tool with batch: that one statement served.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 100}}, []string{"tool"}),
	}
	// Beside the collector's own: what is live after a collection is what tells a leak from garbage.
	live := collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/gc/heap/live:bytes$`)})
	reg.MustRegister(m.collector(), m.batches, collectors.NewGoCollector(live),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// CacheRequests is the counter of one result (hit, miss, stale, …) at one level (l1, l2, l3) of the cache.
func (m *Metrics) CacheRequests(level, result string) *Counter {
	return m.counter(m.caches, cacheKey{level, result})
}

// CacheEvents is the counter of one event (fill, discard, refresh, …) at one level of the cache.
func (m *Metrics) CacheEvents(level, event string) *Counter {
	return m.counter(m.events, cacheKey{level, event})
}

func (m *Metrics) counter(of map[cacheKey]*Counter, key cacheKey) *Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if of[key] == nil {
		of[key] = new(Counter)
	}
	return of[key]
}

// SetCacheLevel says whom to ask, at each scrape, what a level of the cache holds; nil for a level that is gone. The
// function must not block.
func (m *Metrics) SetCacheLevel(level string, size func() (entries, bytes int64)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if size == nil {
		delete(m.levels, level)
		return
	}
	m.levels[level] = size
}

// BatchSizes counts how many calls of a tool each statement served.
func (m *Metrics) BatchSizes(tool string) func(calls int) {
	sizes := m.batches.WithLabelValues(tool)
	return func(calls int) { sizes.Observe(float64(calls)) }
}

// CacheLooks is the histogram of looks into a level beyond the process.
func (m *Metrics) CacheLooks(level string) *Histogram { return m.histogram(m.looks, level) }

// CacheStale is the histogram of the ages of stale results that a level served.
func (m *Metrics) CacheStale(level string) *Histogram { return m.histogram(m.stale, level) }

func (m *Metrics) histogram(of map[string]*Histogram, level string) *Histogram {
	m.mu.Lock()
	defer m.mu.Unlock()
	if of[level] == nil {
		of[level] = new(Histogram)
	}
	return of[level]
}

// Query is the histogram of the statements that ran on one role of a source.
func (m *Metrics) Query(source, role string) *Histogram {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := queryKey{source, role}
	if m.queries[key] == nil {
		m.queries[key] = new(Histogram)
	}
	return m.queries[key]
}

// SetSource says whom to ask, at each scrape, for the pools of a source; those of one role are added up.
// The function must not block.
// With nil the source is gone, and its series with it.
func (m *Metrics) SetSource(source string, pools func() []Pool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pools != nil {
		m.pools[source] = pools
		return
	}
	delete(m.pools, source)
	maps.DeleteFunc(m.queries, func(k queryKey, _ *Histogram) bool { return k.source == source })
}

// SetSessions says whom to ask, at each scrape, for the number of open sessions. The function must not block.
func (m *Metrics) SetSessions(open func() int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions = open
}

// SetConfig shows the configuration in force: the hash of the file, and the effective value of each configured number by
// the path of its key, in seconds, bytes or as a plain count.
func (m *Metrics) SetConfig(hash string, values map[string]float64) {
	values = maps.Clone(values)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hash, m.values = hash, values
}
