package load

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func f(v float64) *float64 { return &v }

// What a phase cost is the difference of what only grows, between its ends.
func TestCost(t *testing.T) {
	t.Parallel()
	var readings []reading
	for i := range 11 {
		s := float64(i)
		readings = append(readings, reading{
			Sample: Sample{At: s, CPU: f(100 + s*0.5), Resident: f(1000 + s), Hits: f(s * 90), Misses: f(s * 10)},
			// 100 statements a second: 90 within 1 ms, 8 more within 10 ms, 2 beyond.
			queries: map[float64]uint64{0.001: uint64(90 * i), 0.01: uint64(98 * i), math.Inf(1): uint64(100 * i)},
		})
	}
	p := &Phase{Start: 2.5, Seconds: 4, Counts: Counts{Done: 190, Errors: map[string]int64{"tool": 10}}}
	c := cost(p, readings, 2)
	for name, pair := range map[string][2]float64{"cpu": {*c.CPU, 0.25}, "cpu a request": {*c.CPURequest, 0.01}, "resident": {*c.MaxResident, 1007},
		"hit rate": {*c.HitRate, 0.9}, "database p95": {*c.DatabaseP95, 0.001 + 0.009*5/8}} {
		if math.Abs(pair[0]-pair[1]) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, pair[0], pair[1])
		}
	}
	// The cost of a phase in pieces is that of its pieces: what is between them is another's.
	readings[7].CPU, readings[8].CPU, readings[9].CPU, readings[10].CPU = f(113.5), f(114), f(124), f(134)
	spikes := &Phase{Start: 1, Seconds: 3, Pieces: [][2]float64{{1, 2}, {8, 10}}, Counts: Counts{Done: 205}}
	if c := cost(spikes, readings, 2); math.Abs(*c.CPU-20.5/3/2) > 1e-9 || math.Abs(*c.CPURequest-0.1) > 1e-9 || *c.MaxResident != 1010 || *c.HitRate != 0.9 {
		t.Errorf("in pieces: CPU %v, a request %v, resident %v, hit rate %v", *c.CPU, *c.CPURequest, *c.MaxResident, *c.HitRate)
	}
	if spikes.within(5, 1) || !spikes.within(3, 1) || !spikes.within(8, 0) {
		t.Error("what is between two pieces is not within")
	}
	// A process that was started anew in between, or is not looked at, has no cost.
	readings[5].CPU = f(0)
	if c := cost(p, readings[:6], 2); c.CPU != nil {
		t.Errorf("across a restart: CPU %v", *c.CPU)
	}
	if c := cost(p, nil, 2); *c != (Cost{}) {
		t.Errorf("without looks: %+v", c)
	}
	if c := cost(p, readings, 0); c.CPU != nil {
		t.Errorf("with an unknown number of cores: CPU %v", *c.CPU)
	}
}

func TestScrape(t *testing.T) {
	t.Parallel()
	page := `# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 12.5
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 4096
# TYPE go_gc_heap_live_bytes gauge
go_gc_heap_live_bytes 77
# TYPE go_sched_gomaxprocs_threads gauge
go_sched_gomaxprocs_threads 3
# TYPE millrace_cache_requests_total counter
millrace_cache_requests_total{level="l1",result="hit"} 5
millrace_cache_requests_total{level="l1",result="coalesced"} 2
millrace_cache_requests_total{level="l1",result="miss"} 4
millrace_cache_requests_total{level="l1",result="bypass"} 100
# TYPE millrace_db_query_duration_seconds histogram
millrace_db_query_duration_seconds_bucket{source="a",le="0.1"} 6
millrace_db_query_duration_seconds_bucket{source="a",le="+Inf"} 7
millrace_db_query_duration_seconds_sum{source="a"} 1
millrace_db_query_duration_seconds_count{source="a"} 7
millrace_db_query_duration_seconds_bucket{source="b",le="0.1"} 1
millrace_db_query_duration_seconds_bucket{source="b",le="+Inf"} 1
millrace_db_query_duration_seconds_sum{source="b"} 1
millrace_db_query_duration_seconds_count{source="b"} 1
`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			io.WriteString(w, page)
		case "/html":
			io.WriteString(w, "<html>")
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(srv.Close)
	s := newSampler(Watch{Metrics: srv.URL + "/metrics", PID: os.Getpid()})
	defer s.close()
	if runtime.GOOS != "linux" {
		s.PID = 0
	}
	r, err := s.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if *r.Heap != 77 || r.cpus != 3 || *r.Hits != 7 || *r.Misses != 4 || r.Goroutines != nil || r.queries[0.1] != 7 || r.queries[math.Inf(1)] != 8 {
		t.Errorf("read %+v, %v hits, %v misses", r, *r.Hits, *r.Misses)
	}
	if runtime.GOOS == "linux" && (*r.CPU == 12.5 || *r.Resident < 1<<20 || *r.OpenFiles < 3) {
		t.Errorf("of this process: CPU %v, resident %v, files %v", *r.CPU, *r.Resident, *r.OpenFiles)
	}
	for path, want := range map[string]string{"/html": "is no page of Prometheus metrics", "/x": "HTTP status 401"} {
		bad := newSampler(Watch{Metrics: srv.URL + path})
		if _, err := bad.read(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		bad.close()
	}
}

func TestView(t *testing.T) {
	t.Parallel()
	status := Status{Elapsed: 6e9, Total: 60e9, Phase: "steady", Offered: 100, Done: 90, Failed: 10, Errors: map[string]int64{"tool": 10},
		Latency: Latency{P50: 0.001, P95: 0.02, P99: 3}, Recent: []Interval{{Seconds: 1, Done: 40}, {Seconds: 1, Done: 80}}}
	var plain, terminal strings.Builder
	v := NewView(&plain, false, 80)
	for range 5 { // a line each five seconds
		v.Look(status)
		status.Elapsed += time.Second
	}
	if got := plain.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "steady") || !strings.Contains(got, "80/s") || !strings.Contains(got, "errors 10 (tool 10)") {
		t.Errorf("plain lines: %q", got)
	}
	v = NewView(&terminal, true, 50)
	v.Look(status)
	v.Look(status)
	lines := strings.Split(terminal.String(), "\n")
	if !strings.Contains(terminal.String(), "\x1b[5A") || !strings.Contains(terminal.String(), "▅█") {
		t.Errorf("terminal: %q", terminal.String())
	}
	for _, l := range lines {
		if n := len([]rune(strings.TrimPrefix(l, "\x1b[5A\x1b[J"))); n > 49 {
			t.Errorf("a line of %d columns: %q", n, l)
		}
	}
}

// A summary has a row for each phase, and says what is wrong with the run.
func TestSummary(t *testing.T) {
	t.Parallel()
	run := &Run{Target: Target{Address: "http://a/mcp", Name: "n", Version: "1", Transport: "http/1.1", Revisions: []string{"2026-07-28"}},
		Scenario: "s", Invalid: []string{"too late"}, Knee: &Knee{Rate: 100, At: 110, Broken: "p99"},
		Phases: []Phase{{Name: "steady", Counts: Counts{Done: 99, Errors: map[string]int64{"http 503": 1}}, Throughput: 9.9, Latency: Latency{Count: 99, P50: 0.0015},
			Server: &Cost{CPU: f(0.5)}, Operations: []Operation{{Name: "get"}, {Name: "put"}}}, {Name: "idle"}}}
	var b strings.Builder
	run.WriteSummary(&b)
	for _, want := range []string{"http://a/mcp (n 1) over http/1.1, 2026-07-28", "steady", "  get", "  put", "9.9", "1.5ms", "1.000%", "http 503: 1", "CPU 50 %",
		"knee        100 requests/s hold every limit; 110/s do not: p99", "INVALID     too late"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "NaN") {
		t.Error(fmt.Sprint("NaN in ", b.String()))
	}
}
