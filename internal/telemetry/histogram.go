package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// bounds are the upper edges of the buckets: from a hit in the cache to the longest time-out that is usual, with edges at
// the promised 0.1 and 0.2 seconds so that the promise can be read off without interpolation.
var bounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// Histogram counts durations in fixed buckets. Its methods are safe for concurrent use; the zero value is empty.
//
// It is our own because the client library's keeps its sum as a floating-point number in a compare-and-swap loop, besides
// two counters: 10 ns on one processor, but 75 ns with two of them observing. Here an observation is two atomic additions
// on whole nanoseconds: 5 ns, and 14 ns with two processors. One part for each processor was tried as well: finding the
// processor's part costs more (20 ns) than the contention that it saves, and eight times the memory.
//
// The number of observations is the sum of the buckets. A scrape that runs beside an observation may see it in its bucket
// and not yet in the sum; the next scrape has both.
type Histogram struct {
	sum     atomic.Int64 // nanoseconds
	buckets [len(bounds) + 1]atomic.Uint64
	_       [(64 - (len(bounds)+2)*8%64) % 64]byte // so that two series never share a cache line
}

// Observe counts one duration; a negative one, which a clock that was set back can give, counts as zero.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 0)
	// A plain loop: most of what is observed belongs to the first few buckets.
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

// metric gives what has been counted so far, in the form of a scrape.
func (h *Histogram) metric(desc *prometheus.Desc, labels ...string) prometheus.Metric {
	sum := time.Duration(h.sum.Load())
	var count uint64
	buckets := make(map[float64]uint64, len(bounds))
	for i, b := range bounds {
		count += h.buckets[i].Load()
		buckets[b.Seconds()] = count
	}
	count += h.buckets[len(bounds)].Load()
	return prometheus.MustNewConstHistogram(desc, count, sum.Seconds(), buckets, labels...)
}
