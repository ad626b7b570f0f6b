package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
	"sort"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/procfs"
)

// Watch says where the figures of the server's process come from; the zero value is nowhere.
type Watch struct {
	Metrics string // the URL of its Prometheus metrics
	PID     int    // the process, on this machine
}

// reading is one look at the server's process.
type reading struct {
	Sample
	cpus    float64            // that it may use; 0 for unknown
	queries map[float64]uint64 // statements of its databases by the upper bound of their time: cumulative
}

// sampler looks at the server's process from time to time.
type sampler struct {
	Watch
	client *http.Client
}

// mostMetrics bounds what is read of a server's metrics.
const mostMetrics = 16 << 20

func newSampler(w Watch) *sampler {
	return &sampler{Watch: w, client: &http.Client{Timeout: 5 * time.Second}}
}

func (s *sampler) source() string {
	if s.PID != 0 {
		return fmt.Sprintf("pid %d", s.PID)
	}
	return s.Metrics
}

func (s *sampler) close() { s.client.CloseIdleConnections() }

// read looks once. What one source does not have the other may.
func (s *sampler) read(ctx context.Context) (out reading, err error) {
	if s.Metrics != "" {
		if err := s.scrape(ctx, &out); err != nil {
			return out, fmt.Errorf("read the server's metrics: %w", err)
		}
	}
	if s.PID != 0 {
		if err := s.process(&out); err != nil {
			return out, fmt.Errorf("read the server's process %d: %w", s.PID, err)
		}
	}
	return out, nil
}

func (s *sampler) scrape(ctx context.Context, out *reading) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Metrics, nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered with HTTP status %d", s.Metrics, resp.StatusCode)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(io.LimitReader(resp.Body, mostMetrics))
	if err != nil {
		return fmt.Errorf("%s is no page of Prometheus metrics: %w", s.Metrics, err)
	}
	get := func(name string) *float64 { return sum(families[name], nil) }
	out.CPU, out.Resident, out.OpenFiles = get("process_cpu_seconds_total"), get("process_resident_memory_bytes"), get("process_open_fds")
	out.Heap, out.Goroutines = get("go_gc_heap_live_bytes"), get("go_goroutines")
	if n := get("go_sched_gomaxprocs_threads"); n != nil {
		out.cpus = *n
	}
	if cache := families["millrace_cache_requests_total"]; cache != nil {
		out.Hits = sum(cache, map[string]bool{"hit": true, "coalesced": true, "stale": true})
		out.Misses = misses(cache)
	}
	for _, m := range families["millrace_db_query_duration_seconds"].GetMetric() {
		if out.queries == nil {
			out.queries = map[float64]uint64{}
		}
		for _, b := range m.GetHistogram().GetBucket() {
			if math.IsInf(b.GetUpperBound(), 1) {
				continue // some write it, and it is the count of all
			}
			out.queries[b.GetUpperBound()] += b.GetCumulativeCount()
		}
		out.queries[math.Inf(1)] += m.GetHistogram().GetSampleCount()
	}
	return nil
}

// misses counts the calls that no level of a cache answered: a level asks the next one where it misses itself, so that they are
// those of the last.
func misses(f *dto.MetricFamily) *float64 {
	var least *float64
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() != "result" || l.GetValue() != "miss" {
				continue
			}
			if v := m.GetCounter().GetValue() + m.GetUntyped().GetValue(); least == nil || v < *least {
				least = &v
			}
		}
	}
	return least
}

// sum adds the series of a family up: all, or those whose label result is one of some.
func sum(f *dto.MetricFamily, results map[string]bool) *float64 {
	if f == nil {
		return nil
	}
	total := 0.0
	for _, m := range f.GetMetric() {
		if results != nil {
			wanted := false
			for _, l := range m.GetLabel() {
				wanted = wanted || l.GetName() == "result" && results[l.GetValue()]
			}
			if !wanted {
				continue
			}
		}
		total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
	}
	return &total
}

// process reads Linux's /proc.
func (s *sampler) process(out *reading) error {
	if runtime.GOOS != "linux" {
		return errors.New("a process is looked at on Linux only: give the URL of its metrics instead")
	}
	p, err := procfs.NewProc(s.PID)
	if err != nil {
		return err
	}
	stat, err := p.Stat()
	if err != nil {
		return err
	}
	cpu, resident := stat.CPUTime(), float64(stat.ResidentMemory())
	out.CPU, out.Resident = &cpu, &resident
	if n, err := p.FileDescriptorsLen(); err == nil {
		files := float64(n)
		out.OpenFiles = &files
	}
	if status, err := p.NewStatus(); err == nil && out.cpus == 0 {
		out.cpus = float64(len(status.CpusAllowedList))
	}
	return nil
}

// at gives a figure that only grows at a moment between two looks, as if it grew evenly; nil where there is no look before
// and after it.
func at(samples []Sample, when float64, figure func(*Sample) *float64) *float64 {
	i := sort.Search(len(samples), func(i int) bool { return samples[i].At >= when })
	switch {
	case len(samples) == 0 || i == len(samples) && when > samples[i-1].At+1.5:
		return nil
	case i == len(samples):
		return figure(&samples[i-1])
	case i == 0:
		return figure(&samples[0])
	}
	a, b := &samples[i-1], &samples[i]
	from, to := figure(a), figure(b)
	if from == nil || to == nil || *to < *from { // the process was started anew
		return nil
	}
	v := *from + (*to-*from)*(when-a.At)/(b.At-a.At)
	return &v
}

// cost says what a phase cost the server.
func cost(p *Phase, readings []reading, cpus float64) *Cost {
	samples := make([]Sample, len(readings))
	for i := range readings {
		samples[i] = readings[i].Sample
	}
	grown := func(figure func(*Sample) *float64) *float64 {
		sum := 0.0
		for _, piece := range p.pieces() {
			from, to := at(samples, piece[0], figure), at(samples, piece[1], figure)
			if from == nil || to == nil || *to < *from {
				return nil
			}
			sum += *to - *from
		}
		return &sum
	}
	out := &Cost{}
	if used := grown(func(s *Sample) *float64 { return s.CPU }); used != nil {
		if cpus > 0 {
			share := *used / p.Seconds / cpus
			out.CPU = &share
		}
		if n := p.Done + p.Failed(); n > 0 {
			each := *used / float64(n)
			out.CPURequest = &each
		}
	}
	for i := range samples {
		if m := samples[i].Resident; m != nil && p.within(samples[i].At, 1) && (out.MaxResident == nil || *m > *out.MaxResident) {
			out.MaxResident = m
		}
	}
	hits, misses := grown(func(s *Sample) *float64 { return s.Hits }), grown(func(s *Sample) *float64 { return s.Misses })
	if hits != nil && misses != nil && *hits+*misses > 0 {
		rate := *hits / (*hits + *misses)
		out.HitRate = &rate
	}
	out.DatabaseP95 = databaseP95(p, readings)
	return out
}

// databaseP95 reads the 95th percentile of the statements that ran in a phase from the buckets, as Prometheus does. The
// looks nearest to its ends count.
func databaseP95(p *Phase, readings []reading) *float64 {
	grown := map[float64]float64{}
	for _, piece := range p.pieces() {
		var first, last map[float64]uint64
		for i := range readings {
			if r := &readings[i]; r.queries != nil {
				if r.At <= piece[0] || first == nil {
					first = r.queries
				}
				if r.At <= piece[1]+1 {
					last = r.queries
				}
			}
		}
		for b, n := range last {
			grown[b] += float64(n) - float64(first[b])
		}
	}
	var bounds []float64
	for b := range grown {
		bounds = append(bounds, b)
	}
	sort.Float64s(bounds)
	if len(bounds) < 2 {
		return nil
	}
	total := grown[math.Inf(1)]
	if !(total > 0) {
		return nil
	}
	below, from := 0.0, 0.0
	for _, b := range bounds {
		if n := grown[b]; n >= 0.95*total {
			if math.IsInf(b, 1) {
				return &from
			}
			v := from + (b-from)*(0.95*total-below)/max(n-below, 1)
			return &v
		} else {
			below, from = n, b
		}
	}
	return nil
}

// metricsFix says what to do where no metrics come.
func metricsFix(err error) error {
	if strings.Contains(err.Error(), "connection refused") {
		return fmt.Errorf("%w; is the address that of the server's metrics? Millrace's are at admin.address, http://127.0.0.1:9090/metrics", err)
	}
	return err
}

// ownResident is the memory that this process has resident, in bytes; 0 where that cannot be told.
func ownResident() int64 {
	if runtime.GOOS != "linux" {
		return 0
	}
	p, err := procfs.Self()
	if err != nil {
		return 0
	}
	stat, err := p.Stat()
	if err != nil {
		return 0
	}
	return int64(stat.ResidentMemory())
}
