package telemetry

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// both runs f on one goroutine and on one for each processor.
func both(b *testing.B, f func()) {
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				f()
			}
		})
	})
}

func BenchmarkOperationObserve(b *testing.B) {
	o := NewMetrics(prometheus.NewRegistry()).Operation("tools/call", "x", "2026-07-28")
	both(b, func() { o.Observe(1, "hit", 300*time.Microsecond) })
}

// BenchmarkClientLibraryObserve is what Histogram was measured against.
func BenchmarkClientLibraryObserve(b *testing.B) {
	edges := make([]float64, len(bounds))
	for i, d := range bounds {
		edges[i] = d.Seconds()
	}
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x", Buckets: edges})
	both(b, func() { h.Observe(0.0003) })
}

func BenchmarkCounterAdd(b *testing.B) {
	c := new(Counter)
	both(b, func() { c.Add(1) })
}

func BenchmarkError(b *testing.B) {
	o := NewMetrics(prometheus.NewRegistry()).Operation("tools/call", "x", "2026-07-28")
	both(b, func() { o.Error("timeout") })
}

func BenchmarkScrape(b *testing.B) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	for tool := range 200 {
		for _, revision := range []string{"2025-11-25", "2026-07-28"} {
			o := m.Operation("tools/call", fmt.Sprint("tool", tool), revision)
			o.Observe(1, "hit", time.Millisecond)
			o.Observe(2, "miss", time.Millisecond)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
