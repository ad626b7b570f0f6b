package telemetry

import (
	"maps"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// collector turns Metrics into a scrape. It is a type of its own so that Metrics keeps a small face.
type collector struct {
	m *Metrics

	duration, errors, inFlight, sessions *prometheus.Desc
	cacheRequests, cacheEvents           *prometheus.Desc
	cacheEntries, cacheBytes             *prometheus.Desc
	cacheLooks, cacheStale               *prometheus.Desc
	queryDuration, connections, waited   *prometheus.Desc
	serving, lag                         *prometheus.Desc
	configInfo, configValue              *prometheus.Desc
}

func (m *Metrics) collector() *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &collector{
		m: m,
		duration: desc("mcp_server_operation_duration_seconds",
			"Time from a request's arrival to its answer.", "method", "tool", "revision", "cache"),
		errors: desc("mcp_server_errors_total",
			"Requests that ended in an error, by kind.", "method", "tool", "kind"),
		inFlight: desc("mcp_server_in_flight", "Requests being worked on."),
		sessions: desc("mcp_server_sessions", "Open sessions of legacy clients."),
		cacheRequests: desc("millrace_cache_requests_total",
			"Look-ups in a level of the cache, by result.", "level", "result"),
		cacheEvents: desc("millrace_cache_events_total",
			"What a level of the cache did beside answering: results stored (fill), thrown away since what they rest on changed meanwhile (discard), fetched early (refresh), taken from a write (put), removed for want of room (eviction), loaded before the start (warm), not written since too many wait (drop), statements of its database that failed (failure); writes (change), operators (purge) and what others wrote (event) that made results void.",
			"level", "event"),
		cacheEntries: desc("millrace_cache_entries", "Entries in a level of the cache.", "level"),
		cacheBytes:   desc("millrace_cache_bytes", "Bytes held by a level of the cache.", "level"),
		cacheLooks:   desc("millrace_cache_lookup_duration_seconds", "Time that looks into a level of the cache beyond the process took.", "level"),
		cacheStale:   desc("millrace_cache_stale_age_seconds", "Ages of results that were served beyond their time.", "level"),
		queryDuration: desc("millrace_db_query_duration_seconds",
			"Time that statements took, without waiting for a connection.", "source", "role"),
		connections: desc("millrace_db_connections",
			"Connections of a pool by state (busy, idle), and callers waiting for one (waiting).", "source", "role", "state"),
		waited: desc("millrace_db_wait_seconds",
			"Time that callers waited for a connection, and how often they did.", "source"),
		serving: desc("millrace_db_serving",
			"Whether a server of a source with replicas takes what one in its present role takes.", "source", "server", "role"),
		lag: desc("millrace_db_replica_lag_seconds",
			"How far a replica is behind the primary, at most.", "source", "server"),
		configInfo:  desc("millrace_config_info", "The hash of the configuration in force; always 1.", "hash"),
		configValue: desc("millrace_config_value", "The effective value of a configured number: seconds, bytes or a count.", "key"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.duration, c.errors, c.inFlight, c.sessions, c.cacheRequests, c.cacheEvents, c.cacheEntries, c.cacheBytes, c.cacheLooks, c.cacheStale,
		c.queryDuration, c.connections, c.waited, c.serving, c.lag, c.configInfo, c.configValue,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It copies what it needs under the lock and does the rest outside, so that a
// slow reader of the channel, or a slow function, never holds up a reload.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	m := c.m
	type operation struct {
		*target
		*Operation
	}
	var operations []operation
	m.mu.Lock()
	targets := make([]*target, 0, len(m.targets))
	for _, t := range m.targets {
		targets = append(targets, t)
		for _, o := range t.operations {
			operations = append(operations, operation{t, o})
		}
	}
	queries, caches, events := maps.Clone(m.queries), maps.Clone(m.caches), maps.Clone(m.events)
	looks, stale := maps.Clone(m.looks), maps.Clone(m.stale)
	levels, pools, sessions := maps.Clone(m.levels), maps.Clone(m.pools), m.sessions
	hash, values := m.hash, m.values
	m.mu.Unlock()

	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}

	for _, o := range operations {
		for i := range o.children {
			if child := o.children[i].Load(); child != nil {
				ch <- child.metric(c.duration, o.method, o.tool, o.revision, child.cache)
			}
		}
	}
	for _, t := range targets {
		for kind, n := range t.errors.Range {
			counter(c.errors, n.(*Counter).Value(), t.method, t.tool, kind.(string))
		}
	}
	gauge(c.inFlight, float64(m.InFlight.Value()))
	if sessions != nil {
		gauge(c.sessions, float64(sessions()))
	}
	for key, n := range caches {
		counter(c.cacheRequests, n.Value(), key.level, key.result)
	}
	for key, n := range events {
		counter(c.cacheEvents, n.Value(), key.level, key.result)
	}
	for level, size := range levels {
		entries, bytes := size()
		gauge(c.cacheEntries, float64(entries), level)
		gauge(c.cacheBytes, float64(bytes), level)
	}
	for level, h := range looks {
		ch <- h.metric(c.cacheLooks, level)
	}
	for level, h := range stale {
		ch <- h.metric(c.cacheStale, level)
	}
	for key, h := range queries {
		ch <- h.metric(c.queryDuration, key.source, key.role)
	}
	for source, figures := range pools {
		var waits int64
		var wait time.Duration
		roles := map[string]Pool{}
		for _, p := range figures() {
			sum := roles[p.Role]
			sum.Busy, sum.Idle, sum.Waiting = sum.Busy+p.Busy, sum.Idle+p.Idle, sum.Waiting+p.Waiting
			roles[p.Role] = sum
			waits, wait = waits+p.WaitCount, wait+p.Wait
			if s := p.Server; s != nil {
				c.server(gauge, source, s)
			}
		}
		for role, p := range roles {
			gauge(c.connections, float64(p.Busy), source, role, "busy")
			gauge(c.connections, float64(p.Idle), source, role, "idle")
			gauge(c.connections, float64(p.Waiting), source, role, "waiting")
		}
		// A summary without quantiles: what pools tell is a sum and a count, and that is all a rate or a mean needs.
		ch <- prometheus.MustNewConstSummary(c.waited, uint64(waits), wait.Seconds(), nil, source)
	}
	if hash != "" {
		gauge(c.configInfo, 1, hash)
	}
	for key, v := range values {
		gauge(c.configValue, v, key)
	}
}

// server gives the figures of one of a source's servers.
func (c *collector) server(gauge func(*prometheus.Desc, float64, ...string), source string, s *Server) {
	role, serves := "replica", 0.0
	if s.Primary {
		role = "primary"
	}
	if s.Serves {
		serves = 1
	}
	gauge(c.serving, serves, source, s.Key, role)
	if !s.Primary && s.Lag >= 0 {
		gauge(c.lag, s.Lag.Seconds(), source, s.Key)
	}
}
