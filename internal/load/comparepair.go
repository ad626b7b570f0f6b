package load

import (
	"fmt"
	"math"
)

// comparedFigure is one that is compared.
type comparedFigure struct {
	name string
	unit figureUnit
	// of is the figure of a whole operation or phase; NaN where it has none.
	of func(*Phase, *Operation) float64
	// block is the figure of a block; nil for what is a ratio of counts.
	block func(*Block) float64
}

var (
	figureThroughput = comparedFigure{name: "throughput", unit: unitRate, of: func(_ *Phase, o *Operation) float64 { return o.Throughput }}
	figureErrors     = comparedFigure{name: "error_rate", unit: unitShare, of: func(_ *Phase, o *Operation) float64 { return o.ErrorRate() }}
	figureCPU        = comparedFigure{name: "cpu_per_request", unit: unitSeconds, of: func(p *Phase, _ *Operation) float64 {
		if p.Server == nil || p.Server.CPURequest == nil {
			return math.NaN()
		}
		return *p.Server.CPURequest
	}}

	// comparedFigures are those of an operation.
	comparedFigures = []comparedFigure{
		figureThroughput,
		comparedLatency("latency.mean", func(l *Latency) float64 { return l.Mean }, func(b *Block) float64 { return b.Mean }),
		comparedLatency("latency.p50", func(l *Latency) float64 { return l.P50 }, func(b *Block) float64 { return b.P50 }),
		comparedLatency("latency.p95", func(l *Latency) float64 { return l.P95 }, func(b *Block) float64 { return b.P95 }),
		comparedLatency("latency.p99", func(l *Latency) float64 { return l.P99 }, func(b *Block) float64 { return b.P99 }),
		figureErrors,
	}
)

func comparedLatency(name string, of func(*Latency) float64, block func(*Block) float64) comparedFigure {
	return comparedFigure{name: name, unit: unitSeconds, block: block, of: func(_ *Phase, o *Operation) float64 {
		if o.Latency.Count == 0 {
			return math.NaN()
		}
		return of(&o.Latency)
	}}
}

// pairing is a phase, or an operation of one, on both sides: one of each for two runs, several for rounds.
type pairing struct {
	phase, operation string
	old, new         []part
}

type part struct {
	run       *Run
	phase     *Phase
	operation *Operation // nil for the phase itself
}

// match finds what all runs have, and names what only some have. Of several phases of one name the first is matched with
// the first.
func (c *Comparison) match(all []*Run, old int) []pairing {
	type key struct{ phase, operation string }
	var order []key
	parts := map[key][]part{} // by run
	put := func(run int, k key, p part) {
		if parts[k] == nil {
			parts[k] = make([]part, len(all))
			order = append(order, k)
		}
		parts[k][run] = p
	}
	for i, r := range all {
		seen := map[string]int{}
		for _, p := range r.Measured() {
			name := p.Name
			if seen[name]++; seen[name] > 1 {
				name = fmt.Sprintf("%s (%d)", name, seen[name])
			}
			put(i, key{name, ""}, part{r, p, nil})
			for j := range p.Operations {
				put(i, key{name, p.Operations[j].Name}, part{r, p, &p.Operations[j]})
			}
		}
	}
	var out []pairing
	for _, k := range order {
		missing, has := -1, -1
		for i, p := range parts[k] {
			if p.phase == nil && missing < 0 {
				missing = i
			} else if p.phase != nil && has < 0 {
				has = i
			}
		}
		if missing < 0 {
			out = append(out, pairing{k.phase, k.operation, parts[k][:old], parts[k][old:]})
			continue
		}
		what := fmt.Sprintf("phase %q", k.phase)
		if k.operation != "" {
			if parts[key{k.phase, ""}][missing].phase == nil {
				continue // the phase is named
			}
			what += fmt.Sprintf(", operation %q", k.operation)
		}
		c.Unmatched = append(c.Unmatched, fmt.Sprintf("%s: %s has it, %s does not", what, nameOfRun(has, old), nameOfRun(missing, old)))
	}
	return out
}

// change is the estimate of a figure's change: of the logarithm of the ratio, or where absolute is set of the difference.
type change struct {
	estimate
	samples  int
	absolute bool
	note     string // why there is no estimate
}

// add puts a figure into the comparison.
func (c *Comparison) add(p pairing, f comparedFigure, e change) {
	nan := math.NaN()
	ch := Change{Phase: p.phase, Operation: p.operation, Figure: f.name, Old: p.total(p.old, f), New: p.total(p.new, f),
		Ratio: nan, Low: nan, High: nan, P: nan, Samples: e.samples, Outcome: Unjudged, Note: e.note, unit: f.unit}
	if math.IsNaN(ch.Old) && math.IsNaN(ch.New) {
		return // neither side knows it
	}
	if ch.Old > 0 && ch.New > 0 {
		ch.Ratio = ch.New / ch.Old
	}
	switch {
	case f.name == figureThroughput.name && ch.Old > 0 && ch.New == 0:
		ch.Outcome, ch.Note = Worse, "nothing was answered in the new run"
	case e.note != "":
	case f.name == figureErrors.name && ch.Old == 0 && ch.New == 0:
		ch.Outcome = Same // and no part of the family: there was nothing to find
	default:
		ch.P = e.p()
		if !e.absolute {
			low, high := e.interval()
			ch.Ratio, ch.Low, ch.High = math.Exp(e.value), math.Exp(low), math.Exp(high)
		} else if ch.Ratio > 0 {
			low, high := e.interval()
			ch.Low, ch.High = max(0, 1+low/ch.Old), 1+high/ch.Old
		}
	}
	c.Changes = append(c.Changes, ch)
}

// total is a figure over the whole phase: of rounds in the middle, as their ratio is.
func (p pairing) total(side []part, f comparedFigure) float64 {
	values := make([]float64, len(side))
	for i, s := range side {
		values[i] = f.of(s.phase, s.operation)
	}
	if f.name == figureErrors.name || len(values) == 1 {
		return mean(values)
	}
	for i, v := range values {
		values[i] = math.Log(v)
	}
	return math.Exp(mean(values))
}

// rounds estimates a figure's change from one value a round.
func (p pairing) rounds(f comparedFigure) change {
	d := make([]float64, len(p.old))
	absolute := f.name == figureErrors.name
	for i := range d {
		o, n := f.of(p.old[i].phase, p.old[i].operation), f.of(p.new[i].phase, p.new[i].operation)
		switch {
		case math.IsNaN(o) || math.IsNaN(n):
			return change{note: "not in every run"}
		case absolute:
			d[i] = n - o
		case o <= 0 || n <= 0:
			return change{note: "zero in a run"}
		default:
			d[i] = math.Log(n / o)
		}
	}
	e := change{estimate: meanOf(d), samples: len(d), absolute: absolute}
	if !absolute {
		e.se = max(e.se, resolution)
	}
	return e
}

// blocks estimates a figure's change from the blocks of two runs.
func (p pairing) blocks(f comparedFigure) change {
	old, new := p.old[0].padded(), p.new[0].padded()
	n := min(len(old), len(new))
	old, new = old[:n], new[:n]
	var e change
	switch {
	case f.block != nil:
		var d []float64
		for i := range n {
			if old[i].Done > 0 && new[i].Done > 0 {
				d = append(d, math.Log(positive(f.block(&new[i]))/positive(f.block(&old[i]))))
			}
		}
		e = estimated(d, len(d))
	case f.name == figureThroughput.name:
		e = ratio(counts(old, doneIn), counts(old, secondsOf), counts(new, doneIn), counts(new, secondsOf))
	default:
		e = errorDifference(old, new)
	}
	if e.note == "" && !e.absolute {
		e.se = max(e.se, resolution)
	}
	return e
}

// positive keeps a latency of less than a microsecond from having no logarithm.
func positive(seconds float64) float64 { return max(seconds, 5e-7) }

func doneIn(b *Block) float64    { return float64(b.Done) }
func failedIn(b *Block) float64  { return float64(b.Failed) }
func endedIn(b *Block) float64   { return float64(b.Done + b.Failed) }
func secondsOf(b *Block) float64 { return b.Seconds }

func counts(blocks []Block, of func(*Block) float64) []float64 {
	out := make([]float64, len(blocks))
	for i := range blocks {
		out[i] = of(&blocks[i])
	}
	return out
}

// padded is the operation's blocks with those added at the end that a run leaves out since nothing was answered in them.
func (p part) padded() []Block {
	blocks := p.operation.Blocks
	if len(blocks) == 0 || blocks[0].Seconds <= 0 {
		return nil
	}
	out := append([]Block(nil), blocks...)
	for want := int(p.phase.Seconds/blocks[0].Seconds + 0.5); len(out) < min(want, 10_000); {
		out = append(out, Block{Seconds: blocks[0].Seconds})
	}
	return out
}

// estimated is the mean of a series, where it is long enough.
func estimated(d []float64, samples int) change {
	if len(d) < leastSamples {
		return change{samples: samples, note: fmt.Sprintf("%d pairs of samples, at least %d are needed", len(d), leastSamples)}
	}
	return change{estimate: seriesMean(d), samples: samples}
}

// ratio estimates how the ratio of two sums (requests and seconds, say) changed, by the delta method: single values may be
// zero. All series are equally long.
func ratio(oldTop, oldBottom, newTop, newBottom []float64) change {
	ot, ob, nt, nb := mean(oldTop), mean(oldBottom), mean(newTop), mean(newBottom)
	if len(oldTop) >= leastSamples && !(ot > 0 && ob > 0 && nt > 0 && nb > 0) {
		return change{samples: len(oldTop), note: "zero in a run"}
	}
	d := make([]float64, len(oldTop))
	for i := range d {
		d[i] = newTop[i]/nt - newBottom[i]/nb - oldTop[i]/ot + oldBottom[i]/ob // sums to zero
	}
	e := estimated(d, len(d))
	e.value = math.Log(nt / nb / (ot / ob))
	return e
}

// errorDifference estimates the change of the error rate. Its error is at least that of counts that do not depend on each
// other.
func errorDifference(old, new []Block) change {
	of, ot, nf, nt := counts(old, failedIn), counts(old, endedIn), counts(new, failedIn), counts(new, endedIn)
	rate := func(f, t []float64) float64 { return mean(f) / mean(t) }
	o, n := rate(of, ot), rate(nf, nt)
	d := make([]float64, len(of))
	for i := range d {
		d[i] = (nf[i]-n*nt[i])/mean(nt) - (of[i]-o*ot[i])/mean(ot) // sums to zero
	}
	e := estimated(d, len(d))
	if e.note != "" {
		return e
	}
	if math.IsNaN(o) || math.IsNaN(n) {
		return change{samples: len(d), note: "no request ended"}
	}
	all := float64(len(d))
	pooled := (mean(of) + mean(nf)) / (mean(ot) + mean(nt))
	counted := math.Sqrt(pooled * (1 - pooled) * (1/(all*mean(ot)) + 1/(all*mean(nt))))
	e.value, e.se, e.absolute = n-o, max(e.se, counted), true
	return e
}

// cpu estimates how the processor time per request changed, from what was read of the server's process.
func (p pairing) cpu() change {
	series := func(s part) (cpu, requests []float64) {
		var last *Sample
		for i := range s.run.Server.Samples {
			at := &s.run.Server.Samples[i]
			if at.CPU == nil || !s.phase.within(at.At, 0) {
				last = nil // between two pieces of the phase, it is another phase that costs
				continue
			}
			if last != nil && *at.CPU >= *last.CPU { // otherwise the process was started anew
				cpu, requests = append(cpu, *at.CPU-*last.CPU), append(requests, float64(at.Requests-last.Requests))
			}
			last = at
		}
		return cpu, requests
	}
	if p.old[0].run.Server == nil || p.new[0].run.Server == nil {
		return change{note: "the server's process was not read in both runs"}
	}
	oc, or := series(p.old[0])
	nc, nr := series(p.new[0])
	n := min(len(oc), len(nc))
	return ratio(oc[:n], or[:n], nc[:n], nr[:n])
}
