package load

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"millrace/internal/conf"
)

// gateFigure is a figure that a gate can limit.
type gateFigure struct {
	name  string
	unit  figureUnit
	of    gateScope
	value func(gateSource) (float64, error) // an error says why it is missing; so does NaN
}

// gateScope is the least that a figure can be told of.
type gateScope int

const (
	ofRun gateScope = iota
	ofPhase
	ofOperation
)

// gateSource is what a figure is taken from.
type gateSource struct {
	run       *Run
	phases    []*Phase
	operation string // "" for all
	slopes    []Leak
	whole     bool // the phases are all that are measured
}

// gateFigures are in the order in which the documentation lists them.
var gateFigures = func() []gateFigure {
	all := []gateFigure{
		{"throughput", unitRate, ofOperation, gateSource.throughput},
		{"error_rate", unitShare, ofOperation, func(s gateSource) (float64, error) {
			var sum Counts
			failed := int64(0)
			for _, c := range s.counts() {
				sum.Done += c.Done
				failed += c.Failed()
			}
			return float64(failed) / float64(sum.Done+failed), nil
		}},
	}
	for _, d := range []struct {
		name string
		of   gateScope
		from func(gateSource) (Latency, error)
	}{
		{"latency", ofOperation, gateSource.latency},
		{"round_trip", ofRun, func(s gateSource) (Latency, error) { return s.run.RoundTrip, nil }},
		{"lateness", ofRun, func(s gateSource) (Latency, error) { return s.run.Generator.Lateness, nil }},
	} {
		for _, q := range []struct {
			name string
			of   func(*Latency) float64
		}{
			{"mean", func(l *Latency) float64 { return l.Mean }}, {"p50", func(l *Latency) float64 { return l.P50 }},
			{"p90", func(l *Latency) float64 { return l.P90 }}, {"p95", func(l *Latency) float64 { return l.P95 }},
			{"p99", func(l *Latency) float64 { return l.P99 }}, {"p999", func(l *Latency) float64 { return l.P999 }},
			{"max", func(l *Latency) float64 { return l.Max }},
		} {
			all = append(all, gateFigure{d.name + "." + q.name, unitSeconds, d.of, func(s gateSource) (float64, error) {
				l, err := d.from(s)
				if err == nil && l.Count == 0 {
					err = errors.New("nothing was measured")
				}
				return q.of(&l), err
			}})
		}
	}
	slope := func(name string) func(gateSource) (float64, error) {
		return func(s gateSource) (float64, error) {
			for _, l := range s.slopes {
				if l.Figure == name {
					return l.Request.High, nil
				}
			}
			return 0, fmt.Errorf("the %s of the server's process was read too seldom: give the run the server's --metrics, and more time", name)
		}
	}
	return append(all,
		gateFigure{"cache_hit_rate", unitShare, ofPhase, gateSource.hitRate},
		gateFigure{"database.p95", unitSeconds, ofPhase, gateSource.databaseP95},
		gateFigure{"cpu", unitShare, ofPhase, func(s gateSource) (float64, error) {
			return s.average(func(c *Cost) *float64 { return c.CPU }, func(p *Phase) float64 { return p.Seconds })
		}},
		gateFigure{"cpu_per_request", unitSeconds, ofPhase, func(s gateSource) (float64, error) {
			return s.average(func(c *Cost) *float64 { return c.CPURequest }, func(p *Phase) float64 { return float64(p.Done + p.Failed()) })
		}},
		gateFigure{"memory", unitBytes, ofPhase, func(s gateSource) (float64, error) {
			return s.greatest(func(c *Cost) *float64 { return c.MaxResident })
		}},
		gateFigure{"heap_slope", unitBytes, ofRun, slope("heap")},
		gateFigure{"resident_slope", unitBytes, ofRun, slope("resident memory")},
		gateFigure{"goroutine_slope", unitCount, ofRun, slope("goroutines")},
		gateFigure{"file_slope", unitCount, ofRun, slope("open files")},
		gateFigure{"knee", unitRate, ofRun, func(s gateSource) (float64, error) {
			if s.run.Knee == nil {
				return 0, errors.New("only a stress run looks for it")
			}
			return s.run.Knee.Rate, nil
		}},
	)
}()

func figureNamed(name string) *gateFigure {
	for i := range gateFigures {
		if gateFigures[i].name == name {
			return &gateFigures[i]
		}
	}
	return nil
}

func figureNames() (out []string) {
	for i := range gateFigures {
		out = append(out, gateFigures[i].name)
	}
	return out
}

// counts gives what became of the requests, phase by phase.
func (s gateSource) counts() (out []*Counts) {
	for _, p := range s.phases {
		if s.operation == "" {
			out = append(out, &p.Counts)
			continue
		}
		for i := range p.Operations {
			if p.Operations[i].Name == s.operation {
				out = append(out, &p.Operations[i].Counts)
			}
		}
	}
	return out
}

// throughput is that of the phases that are to keep one up: a ramp is on its way to it.
func (s gateSource) throughput() (float64, error) {
	kept := slices.DeleteFunc(slices.Clone(s.phases), func(p *Phase) bool { return p.Kind == "ramp" })
	if s.whole && len(kept) > 0 {
		s.phases = kept
	}
	done, seconds := int64(0), 0.0
	for _, c := range s.counts() {
		done += c.Done
	}
	for _, p := range s.phases {
		seconds += p.Seconds
	}
	if seconds == 0 {
		return 0, errors.New("nothing was measured")
	}
	return float64(done) / seconds, nil
}

func (s gateSource) latency() (Latency, error) {
	var all []Latency
	for _, p := range s.phases {
		if s.operation == "" {
			all = append(all, p.Latency)
			continue
		}
		for i := range p.Operations {
			if p.Operations[i].Name == s.operation {
				all = append(all, p.Operations[i].Latency)
			}
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return Merge(all...)
}

// costs gives one figure of each phase. Where a phase has none there is none of the whole.
func (s gateSource) costs(figure func(*Cost) *float64) ([]float64, error) {
	var out []float64
	for _, p := range s.phases {
		if p.Server == nil || figure(p.Server) == nil {
			return nil, fmt.Errorf("nothing of it was read in phase %q: give the run the server's --metrics", p.Name)
		}
		out = append(out, *figure(p.Server))
	}
	if len(out) == 0 {
		return nil, errors.New("nothing was measured")
	}
	return out, nil
}

func (s gateSource) greatest(figure func(*Cost) *float64) (float64, error) {
	most := math.Inf(-1)
	values, err := s.costs(figure)
	for _, v := range values {
		most = max(most, v)
	}
	return most, err
}

// average weighs each phase.
func (s gateSource) average(figure func(*Cost) *float64, weight func(*Phase) float64) (float64, error) {
	values, err := s.costs(figure)
	var sum, weights float64
	for i, v := range values {
		w := weight(s.phases[i])
		sum, weights = sum+v*w, weights+w
	}
	return sum / weights, err
}

// databaseP95 of several phases is that of the slowest: no percentile of the whole is greater, and theirs cannot be averaged.
func (s gateSource) databaseP95() (float64, error) {
	return s.greatest(func(c *Cost) *float64 { return c.DatabaseP95 })
}

// hitRate of several phases is counted anew: their look-ups are not known, only their rates.
func (s gateSource) hitRate() (float64, error) {
	figure := func(c *Cost) *float64 { return c.HitRate }
	if _, err := s.costs(figure); err != nil || len(s.phases) == 1 {
		return s.average(figure, func(*Phase) float64 { return 1 })
	}
	if s.run.Server == nil {
		return 0, errors.New("the run has nothing of the server's process")
	}
	var hits, all float64
	for _, p := range s.phases {
		for _, piece := range p.pieces() {
			var first, last *Sample
			for i := range s.run.Server.Samples {
				at := &s.run.Server.Samples[i]
				if at.Hits == nil || at.Misses == nil || at.At > piece[1]+1 {
					continue
				}
				if first == nil || at.At <= piece[0] {
					first = at
				}
				last = at
			}
			if last == nil || *last.Hits < *first.Hits || *last.Misses < *first.Misses {
				return 0, fmt.Errorf("the cache's counters could not be read in phase %q, or began anew", p.Name)
			}
			h := *last.Hits - *first.Hits
			hits, all = hits+h, all+h+*last.Misses-*first.Misses
		}
	}
	return hits / all, nil
}

// nearestFix says what a wrong name was to be.
func nearestFix(got string, known []string, what string) string {
	known = unique(known)
	best := conf.Nearest(got, known)
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %q?", best)
	case len(known) == 0:
		return "there are no " + what
	}
	return "the " + what + " are " + strings.Join(known, ", ")
}

// unique is words without those that stand further ahead, in their order.
func unique(words []string) (out []string) {
	for _, w := range words {
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}
