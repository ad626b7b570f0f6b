package load

import (
	"errors"
	"fmt"
	"math"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Histograms hold microseconds up to ten minutes, to three significant digits. A longer time counts as ten minutes.
const (
	longest      = 10 * time.Minute
	significance = 3
)

func newHistogram() *hdr.Histogram { return hdr.New(1, longest.Microseconds(), significance) }

func record(h *hdr.Histogram, d time.Duration) {
	_ = h.RecordValue(max(0, min((d+500*time.Nanosecond).Microseconds(), longest.Microseconds()))) // in range by that
}

// latencyOf reads a histogram. The encoding is in it when encode says so.
func latencyOf(h *hdr.Histogram, encode bool) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e6 }
	l := Latency{Count: h.TotalCount(), Mean: h.Mean() / 1e6, Min: float64(h.Min()) / 1e6, P50: at(50), P90: at(90), P95: at(95),
		P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1e6}
	if encode {
		b, err := h.Encode(hdr.V2CompressedEncodingCookieBase)
		if err != nil {
			panic(err) // it writes to memory
		}
		l.Histogram = string(b)
	}
	return l
}

// Decode gives the whole histogram, of microseconds; an empty one for a Latency of no requests.
func (l *Latency) Decode() (h *hdr.Histogram, err error) {
	if l.Histogram == "" {
		if l.Count != 0 {
			return nil, errors.New("the run has a latency without its histogram")
		}
		return newHistogram(), nil
	}
	// The decoder trusts what it reads.
	defer func() {
		if p := recover(); p != nil {
			h, err = nil, fmt.Errorf("the run has a histogram that cannot be read: %v", p)
		}
	}()
	h, err = hdr.Decode([]byte(l.Histogram))
	if err != nil {
		return nil, fmt.Errorf("the run has a histogram that cannot be read: %w", err)
	}
	if h.TotalCount() != l.Count {
		return nil, fmt.Errorf("the run has a histogram of %d requests where it counts %d", h.TotalCount(), l.Count)
	}
	return h, nil
}

// Merge adds histograms up: percentiles are never averaged.
func Merge(all ...Latency) (Latency, error) {
	sum := newHistogram()
	for i := range all {
		h, err := all[i].Decode()
		if err != nil {
			return Latency{}, err
		}
		if dropped := sum.Merge(h); dropped > 0 {
			return Latency{}, fmt.Errorf("the run has a histogram with %d times above %s", dropped, longest)
		}
	}
	return latencyOf(sum, true), nil
}

// heatStep is the number of the Heat that a latency counts in.
func heatStep(d time.Duration) int {
	us := float64(d.Nanoseconds()) / 1e3
	if us < 10 {
		return 0
	}
	return min(1+int(math.Log10(us/10)*8+1e-9), HeatSteps)
}
