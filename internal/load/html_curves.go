package load

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// htmlMaxCurves is how many distributions one chart shows: as many as there are colours with dashes.
const htmlMaxCurves = 8

// htmlPercentiles draws the distribution of each phase: for a share of the requests, how long they took at the most. The
// width is divided by nines, so that 99 %, 99.9 % and 99.99 % are equally far from each other.
func htmlPercentiles(r *Run) (*htmlChart, error) {
	c := &htmlChart{ID: "percentiles", Title: "Percentiles by phase", Height: 260, About: "How long a share of the answers took at the most."}
	phases := slices.DeleteFunc(r.Measured(), func(p *Phase) bool { return p.Latency.Count == 0 })
	if len(phases) == 0 {
		for i := range r.Phases {
			if r.Phases[i].Latency.Count > 0 {
				phases = append(phases, &r.Phases[i])
			}
		}
	}
	if len(phases) == 0 {
		c.Empty = "No answer came."
		return c, nil
	}
	if n := len(phases); n > htmlMaxCurves {
		drawn := make([]*Phase, htmlMaxCurves)
		for i := range drawn {
			drawn[i] = phases[i*(n-1)/(htmlMaxCurves-1)]
		}
		phases = drawn
		c.About += fmt.Sprintf(" %d of %d phases are drawn.", htmlMaxCurves, n)
	}
	lo, hi, most := math.Inf(1), 0.0, int64(0)
	for _, p := range phases {
		most = max(most, p.Latency.Count)
	}
	nines := max(2, min(math.Ceil(math.Log10(float64(most))), 6))
	const points = 20 // to each nine
	xs := make([]float64, int(nines)*points+1)
	for i := range xs {
		xs[i] = float64(i) / points
	}
	lines := make([][]float64, len(phases))
	for i, p := range phases {
		h, err := p.Latency.Decode()
		if err != nil {
			return nil, fmt.Errorf("phase %q: %w", htmlClip(p.Name), err)
		}
		lines[i] = make([]float64, len(xs))
		for k, x := range xs {
			if k > 0 && math.Pow(10, xs[k-1])*0.999 > float64(p.Latency.Count) {
				lines[i][k] = math.NaN() // so rare that none was among so few
				continue
			}
			lines[i][k] = max(float64(h.ValueAtQuantile(100*(1-math.Pow(10, -x))))/1e6, 1e-6)
			lo, hi = min(lo, lines[i][k]), max(hi, lines[i][k])
		}
	}
	x, y := htmlAxis{hi: nines}, c.times(lo*0.9, hi*1.1)
	for i := 0.0; i <= nines; i++ {
		t := htmlTick{At: htmlPercent(x.at(i)), Text: htmlQuantile(i), Anchor: "middle"}
		switch i {
		case 0:
			t.Anchor = "start"
		case nines:
			t.Anchor = "end"
		case nines - 1:
			t.Wide = nines > 4
		}
		c.X = append(c.X, t)
	}
	c.Table.Head = []string{"Share"}
	for i, p := range phases {
		c.line("s"+strconv.Itoa(i), htmlClip(p.Name), xs, lines[i], x, y)
		c.Table.Head = append(c.Table.Head, htmlBrief(p.Name))
		c.Desc += fmt.Sprintf("%s: half below %s, 99 %% below %s, all below %s. ", htmlClip(p.Name), htmlSeconds(p.Latency.P50), htmlSeconds(p.Latency.P99), htmlSeconds(p.Latency.Max))
	}
	for k := 0; k < len(xs); k += points / 4 {
		row := htmlRow{At: htmlPercent(x.at(xs[k])), Cells: []string{htmlQuantile(xs[k])}}
		for i := range lines {
			row.Cells = append(row.Cells, htmlSeconds(lines[i][k]))
		}
		c.Table.Rows = append(c.Table.Rows, row)
	}
	return c, nil
}

// htmlQuantile writes the share that has so many nines, with as many digits as tell it from 100 %.
func htmlQuantile(nines float64) string {
	return htmlTrim(strconv.FormatFloat(100*(1-math.Pow(10, -nines)), 'f', int(nines)+1, 64) + " %")
}

func htmlKneeText(k *Knee) string {
	switch {
	case k.Rate > 0 && k.Broken == "":
		return "Every limit held up to " + htmlRate(k.Rate) + ", the greatest rate that was tried."
	case k.Rate > 0:
		return fmt.Sprintf("Every limit held up to %s. At %s this broke: %s.", htmlRate(k.Rate), htmlRate(k.At), htmlClip(k.Broken))
	case k.Broken != "":
		return fmt.Sprintf("No rate held every limit. At %s, the least, this broke: %s.", htmlRate(k.At), htmlClip(k.Broken))
	}
	return "No rate held every limit."
}

// htmlKneeChart draws latency over the offered rate of the steps; nil where there are fewer than two.
func htmlKneeChart(r *Run) *htmlChart {
	type step struct {
		p    *Phase
		rate float64
	}
	var steps []step
	for i := range r.Phases {
		p := &r.Phases[i]
		if rate := htmlOver(float64(p.Offered), p.Seconds); p.Kind == "step" && rate > 0 {
			steps = append(steps, step{p, rate})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		if a.rate < b.rate {
			return -1
		}
		return 1
	})
	steps = htmlBounded(steps)
	if len(steps) < 2 {
		return nil
	}
	c := &htmlChart{ID: "knee-chart", Title: "Latency by offered rate", Height: 220, About: "Each step of the run, by the rate that it asked for."}
	xs, lo, hi := make([]float64, len(steps)), math.Inf(1), 0.0
	lines := [3][]float64{}
	for i, s := range steps {
		xs[i] = s.rate
		l := &s.p.Latency
		for k, v := range []float64{l.P50, l.P95, l.P99} {
			if l.Count == 0 {
				v = math.NaN()
			} else {
				lo, hi = min(lo, max(v, 1e-6)), max(hi, v)
			}
			lines[k] = append(lines[k], v)
		}
	}
	if hi == 0 {
		return nil
	}
	// A round axis of rates: that of a chart on its side.
	var side htmlChart
	x, y := side.linear(max(xs[len(xs)-1], r.Knee.At, r.Knee.Rate), 1, htmlShort), c.times(lo*0.8, hi*1.2)
	for i, t := range side.Y {
		tick := htmlTick{At: htmlPercent(float64(i) / float64(len(side.Y)-1)), Text: t.Text, Anchor: "middle"}
		switch i {
		case 0:
			tick.Anchor = "start"
		case len(side.Y) - 1:
			tick.Text, tick.Anchor = tick.Text+" /s", "end"
		}
		c.X = append(c.X, tick)
	}
	for k, name := range []string{"p50", "p95", "p99"} {
		c.line("s"+strconv.Itoa(k), name, xs, lines[k], x, y)
	}
	if r.Knee.Rate > 0 {
		m := htmlTick{At: htmlPercent(x.at(r.Knee.Rate)), Text: "held " + htmlRate(r.Knee.Rate), Anchor: "start"}
		if x.at(r.Knee.Rate) > 0.7 {
			m.Anchor = "end"
		}
		c.Marks = append(c.Marks, m)
	}
	c.Desc = htmlKneeText(r.Knee)
	c.Table.Head = []string{"Offered", "Step", "Achieved", "p50", "p95", "p99", "Errors"}
	for i, s := range steps {
		c.Table.Rows = append(c.Table.Rows, htmlRow{At: htmlPercent(x.at(s.rate)), Bad: s.p.Failed() > 0, Cells: []string{htmlRate(s.rate), htmlBrief(s.p.Name),
			htmlRate(s.p.Throughput), htmlSeconds(lines[0][i]), htmlSeconds(lines[1][i]), htmlSeconds(lines[2][i]), htmlShare(s.p.ErrorRate())}})
	}
	return c
}
