package load

import (
	"fmt"
	"math"
)

// Leak is how a figure of the server's process grew while it served.
type Leak struct {
	Figure  string // heap, resident memory, goroutines, open files
	Request Slope  // growth per request
	Hour    Slope  // growth per hour
	Floor   float64
	unit    figureUnit
}

// Slope is a growth with its 95 % confidence interval.
type Slope struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// String says the growth in words.
func (l Leak) String() string {
	return fmt.Sprintf("%s: %s a request (%s to %s), %s an hour", l.Figure, l.unit.format(l.Request.Value),
		l.unit.format(l.Request.Low), l.unit.format(l.Request.High), l.unit.format(l.Hour.Value))
}

// Floors of a leak: growth per request that is more than the noise of a sound server.
const (
	leakBytes = 100        // of the heap or of resident memory
	leakCount = 1.0 / 10e3 // goroutines or files
)

// What is left out of a phase before its slope is taken, and how many points are made of it at most.
const (
	leakWarmUp = 0.2 // of its time
	leakPoints = 600
)

// Leaks gives the figures that grow with the requests: where even the lower bound of the slope is above the figure's floor.
// What fills up once, such as a cache, looks like a leak until it is full: the run has to be longer than that.
//
// The figures are those of the sustained phases, or where there is none of all measured phases, each without its first
// fifth. Phases have intercepts of their own: what a higher rate takes is no leak. Nor is what goes with the number of
// connections that the generator itself has open.
func Leaks(run *Run) []Leak {
	var out []Leak
	for _, l := range growth(run) {
		if l.Request.Low > l.Floor {
			out = append(out, l)
		}
	}
	return out
}

// growth gives every figure's slope, whether it is a leak or not. Figures that cannot be told are left out.
func growth(run *Run) []Leak {
	if run.Server == nil {
		return nil
	}
	var out []Leak
	for _, f := range []struct {
		name  string
		of    func(*Sample) *float64
		floor float64
		unit  figureUnit
	}{
		{"heap", func(s *Sample) *float64 { return s.Heap }, leakBytes, unitBytes},
		{"resident memory", func(s *Sample) *float64 { return s.Resident }, leakBytes, unitBytes},
		{"goroutines", func(s *Sample) *float64 { return s.Goroutines }, leakCount, unitCount},
		{"open files", func(s *Sample) *float64 { return s.OpenFiles }, leakCount, unitCount},
	} {
		requests, ok := slopeOver(run, f.of, func(s *Sample) float64 { return float64(s.Requests) })
		hours, okHours := slopeOver(run, f.of, func(s *Sample) float64 { return s.At / 3600 })
		if ok && okHours {
			out = append(out, Leak{Figure: f.name, Request: requests, Hour: hours, Floor: f.floor, unit: f.unit})
		}
	}
	return out
}

func slopeOver(run *Run, figure func(*Sample) *float64, over func(*Sample) float64) (Slope, bool) {
	segments := segmentsOf(run, func(within func(at float64) bool) (s segmentXY) {
		for i := range run.Server.Samples {
			at := &run.Server.Samples[i]
			if v := figure(at); within(at.At) && v != nil && !math.IsNaN(*v) {
				s.x, s.y, s.z = append(s.x, over(at)), append(s.y, *v), append(s.z, float64(at.Connections))
			}
		}
		return s
	})
	withoutZ(segments)
	return slope(segments)
}

// ownGrowth is the generator's own growth in bytes an hour; nil where it cannot be told.
func ownGrowth(run *Run) *Slope {
	s, ok := slope(segmentsOf(run, func(within func(at float64) bool) (s segmentXY) {
		for i := range run.Intervals {
			v := &run.Intervals[i]
			if end := v.Start + v.Seconds; v.Resident > 0 && within(end) {
				s.x, s.y = append(s.x, end/3600), append(s.y, float64(v.Resident))
			}
		}
		return s
	}))
	if !ok {
		return nil
	}
	return &s
}

// segmentsOf takes points out of each steady phase without its warm-up; points gives those within.
func segmentsOf(run *Run, points func(within func(at float64) bool) segmentXY) (out []segmentXY) {
	for _, p := range steady(run) {
		s := points(func(at float64) bool { return at >= p.Start+leakWarmUp*p.Seconds && p.within(at, 0) })
		if len(s.x) > 1 {
			out = append(out, s.merged(leakPoints))
		}
	}
	return out
}

func slope(segments []segmentXY) (Slope, bool) {
	e, ok := slopeOf(segments)
	if !ok {
		return Slope{}, false
	}
	low, high := e.interval()
	return Slope{e.value, low, high}, true
}

// steady gives the phases in which a sound server does not grow.
func steady(run *Run) []*Phase {
	all := run.Measured()
	var out []*Phase
	for _, p := range all {
		if p.Kind == "sustain" {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return all
	}
	return out
}
