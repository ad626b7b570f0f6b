package telemetry

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func expect(t *testing.T, reg prometheus.Gatherer, want string, names ...string) {
	t.Helper()
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

func TestOperation(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	o := m.Operation("tools/call", "get_city", "2025-11-25")
	if m.Operation("tools/call", "get_city", "2025-11-25") != o {
		t.Error("a second look-up gave another operation")
	}
	// Edges belong to the bucket below them; what is above the last one is in +Inf alone.
	for _, d := range []time.Duration{-time.Second, 50 * time.Microsecond, 100 * time.Millisecond, 100*time.Millisecond + 1,
		200 * time.Millisecond, 200*time.Millisecond + 1, time.Minute} {
		o.Observe(2, "miss", d)
	}
	m.Operation("tools/call", "get_city", "2026-07-28").Error("timeout")
	o.Error("timeout")
	o.Error("sql")
	expect(t, reg, `
# HELP mcp_server_operation_duration_seconds Time from a request's arrival to its answer.
# TYPE mcp_server_operation_duration_seconds histogram
`+buckets("mcp_server_operation_duration_seconds", `cache="miss",method="tools/call",revision="2025-11-25",tool="get_city"`,
		2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 5, 6, 6, 6, 6, 6, 6, 7)+
		`mcp_server_operation_duration_seconds_sum{cache="miss",method="tools/call",revision="2025-11-25",tool="get_city"} 60.600050002
mcp_server_operation_duration_seconds_count{cache="miss",method="tools/call",revision="2025-11-25",tool="get_city"} 7
# HELP mcp_server_errors_total Requests that ended in an error, by kind.
# TYPE mcp_server_errors_total counter
mcp_server_errors_total{kind="sql",method="tools/call",tool="get_city"} 1
mcp_server_errors_total{kind="timeout",method="tools/call",tool="get_city"} 2
`, "mcp_server_operation_duration_seconds", "mcp_server_errors_total")
}

// buckets writes the bucket lines of a scrape.
func buckets(name, labels string, counts ...int) string {
	les := []string{"5e-05", "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.2",
		"0.5", "1", "2.5", "5", "10", "30", "+Inf"}
	var b strings.Builder
	for i, le := range les {
		b.WriteString(name + "_bucket{" + labels + `,le="` + le + `"} ` + string(rune('0'+counts[i])) + "\n")
	}
	return b.String()
}

func TestDropForgetsEverySeriesOfATool(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	for _, tool := range []string{"kept", "gone"} {
		for _, method := range []string{"tools/call", "tools/list"} {
			o := m.Operation(method, tool, "2025-11-25")
			o.Observe(1, "hit", time.Millisecond)
			o.Error("timeout")
		}
	}
	late := m.Operation("tools/call", "gone", "2025-11-25")
	m.Drop("gone", "never there")
	late.Observe(2, "miss", time.Millisecond)
	late.Error("sql")
	for name, want := range map[string]int{"mcp_server_operation_duration_seconds": 2, "mcp_server_errors_total": 2} {
		n, err := testutil.GatherAndCount(reg, name)
		if err != nil || n != want {
			t.Errorf("%s: %d series, %v; want %d", name, n, err, want)
		}
	}
	if len(m.targets) != 2 {
		t.Errorf("%d targets are still held", len(m.targets))
	}
}

func TestGauges(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	m.InFlight.Add(3)
	m.InFlight.Add(-1)
	m.SetSessions(func() int { return 7 })
	m.CacheRequests("l1", "hit").Add(5)
	m.CacheLooks("l2").Observe(time.Minute)
	m.CacheStale("l1").Observe(time.Minute)
	m.SetCacheLevel("l1", func() (int64, int64) { return 10, 2048 })
	m.SetCacheLevel("l2", func() (int64, int64) { return 1, 1 })
	m.SetCacheLevel("l2", nil)
	m.SetSource("shop", func() []Pool {
		return []Pool{{Role: "primary", Busy: 1, Idle: 2, Waiting: 3, WaitCount: 4, Wait: time.Second, Server: &Server{Key: "replicas[1]", Primary: true, Serves: true}},
			{Role: "replica", Busy: 1, WaitCount: 1, Wait: time.Second, Server: &Server{Key: "primary", Lag: -1}}, {Role: "replica", Busy: 4, Server: &Server{Key: "replicas[0]", Serves: true, Lag: 20 * time.Millisecond}}}
	})
	m.SetSource("gone", func() []Pool { return []Pool{{Role: "primary"}} })
	m.Query("gone", "primary").Observe(time.Millisecond)
	m.SetSource("gone", nil)
	m.SetConfig("old", map[string]float64{"listen.header_timeout": 10})
	m.SetConfig("abc", map[string]float64{"limits.max_in_flight": 10000})
	expect(t, reg, `
# HELP mcp_server_in_flight Requests being worked on.
# TYPE mcp_server_in_flight gauge
mcp_server_in_flight 2
# HELP mcp_server_sessions Open sessions of legacy clients.
# TYPE mcp_server_sessions gauge
mcp_server_sessions 7
# HELP millrace_cache_requests_total Look-ups in a level of the cache, by result.
# TYPE millrace_cache_requests_total counter
millrace_cache_requests_total{level="l1",result="hit"} 5
# HELP millrace_cache_entries Entries in a level of the cache.
# TYPE millrace_cache_entries gauge
millrace_cache_entries{level="l1"} 10
# HELP millrace_cache_bytes Bytes held by a level of the cache.
# TYPE millrace_cache_bytes gauge
millrace_cache_bytes{level="l1"} 2048
# HELP millrace_db_connections Connections of a pool by state (busy, idle), and callers waiting for one (waiting).
# TYPE millrace_db_connections gauge
millrace_db_connections{role="primary",source="shop",state="busy"} 1
millrace_db_connections{role="primary",source="shop",state="idle"} 2
millrace_db_connections{role="primary",source="shop",state="waiting"} 3
millrace_db_connections{role="replica",source="shop",state="busy"} 5
millrace_db_connections{role="replica",source="shop",state="idle"} 0
millrace_db_connections{role="replica",source="shop",state="waiting"} 0
# HELP millrace_db_replica_lag_seconds How far a replica is behind the primary, at most.
# TYPE millrace_db_replica_lag_seconds gauge
millrace_db_replica_lag_seconds{server="replicas[0]",source="shop"} 0.02
# HELP millrace_db_serving Whether a server of a source with replicas takes what one in its present role takes.
# TYPE millrace_db_serving gauge
millrace_db_serving{role="primary",server="replicas[1]",source="shop"} 1
millrace_db_serving{role="replica",server="primary",source="shop"} 0
millrace_db_serving{role="replica",server="replicas[0]",source="shop"} 1
# HELP millrace_db_wait_seconds Time that callers waited for a connection, and how often they did.
# TYPE millrace_db_wait_seconds summary
millrace_db_wait_seconds_sum{source="shop"} 2
millrace_db_wait_seconds_count{source="shop"} 5
# HELP millrace_config_info The hash of the configuration in force; always 1.
# TYPE millrace_config_info gauge
millrace_config_info{hash="abc"} 1
# HELP millrace_config_value The effective value of a configured number: seconds, bytes or a count.
# TYPE millrace_config_value gauge
millrace_config_value{key="limits.max_in_flight"} 10000
`, "mcp_server_in_flight", "mcp_server_sessions", "millrace_cache_requests_total", "millrace_cache_entries",
		"millrace_cache_bytes", "millrace_db_connections", "millrace_db_replica_lag_seconds", "millrace_db_serving", "millrace_db_wait_seconds", "millrace_db_query_duration_seconds",
		"millrace_config_info", "millrace_config_value")
}

// Two servers in one process have a registry each; both carry Go's and the process's figures.
func TestTwoServersInOneProcess(t *testing.T) {
	for range 2 {
		reg := prometheus.NewRegistry()
		NewMetrics(reg)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, f := range families {
			names[f.GetName()] = true
		}
		if !names["go_goroutines"] {
			t.Errorf("no go_goroutines in %v", slices.Sorted(maps.Keys(names)))
		}
	}
}

func TestNothingIsLostBetweenGoroutines(t *testing.T) {
	const workers, each = 8, 2000
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	o := m.Operation("tools/call", "x", "2026-07-28")
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				m.InFlight.Add(1)
				o.Observe(uint8(i%3), []string{"none", "hit", "miss"}[i%3], time.Duration(i)*time.Microsecond)
				o.Error("timeout")
				m.InFlight.Add(-1)
				if w == 0 && i%500 == 0 {
					if _, err := reg.Gather(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var count uint64
	var sum, failed float64
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			switch f.GetName() {
			case "mcp_server_operation_duration_seconds":
				count += metric.GetHistogram().GetSampleCount()
				sum += metric.GetHistogram().GetSampleSum()
			case "mcp_server_errors_total":
				failed += metric.GetCounter().GetValue()
			}
		}
	}
	wantSum := (workers * each * (each - 1) / 2 * time.Microsecond).Seconds()
	if count != workers*each || failed != workers*each || sum < wantSum*0.999999 || sum > wantSum*1.000001 || m.InFlight.Value() != 0 {
		t.Errorf("counted %d operations of %g s, %g errors, %d in flight; want %d of %g s and none in flight",
			count, sum, failed, m.InFlight.Value(), workers*each, wantSum)
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry())
	o := m.Operation("tools/call", "x", "2026-07-28")
	o.Error("timeout")
	hits := m.CacheRequests("l1", "hit")
	if n := testing.AllocsPerRun(1000, func() {
		m.InFlight.Add(1)
		hits.Add(1)
		o.Observe(1, "hit", time.Millisecond)
		o.Error("timeout")
		m.InFlight.Add(-1)
	}); n != 0 {
		t.Errorf("%v allocations for one request, want none", n)
	}
}
