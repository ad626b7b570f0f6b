package load

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// htmlPiece is what is drawn in one column: one interval, or several that follow each other.
type htmlPiece struct {
	start, seconds        float64
	offered, done, failed int64
	p50, p95, p99, max    float64 // NaN where no answer came
	heat                  [HeatSteps + 1]int64
}

// htmlTimeline is the run cut into columns.
type htmlTimeline struct {
	run    *Run
	total  float64 // where the time axis ends
	merged int     // intervals in one piece
	pieces []htmlPiece
	middle []float64 // of each piece
}

// newHTMLTimeline merges intervals until no more than htmlMaxPieces are left. Counts add up. Percentiles cannot: a piece
// has the greatest of each.
func newHTMLTimeline(r *Run) *htmlTimeline {
	t := &htmlTimeline{run: r, total: r.Seconds, merged: max(1, (len(r.Intervals)+htmlMaxPieces-1)/htmlMaxPieces)}
	for group := range slices.Chunk(r.Intervals, t.merged) {
		p := htmlPiece{start: group[0].Start, p50: math.NaN(), p95: math.NaN(), p99: math.NaN(), max: math.NaN()}
		for _, i := range group {
			p.seconds += max(0, i.Seconds)
			p.offered += i.Offered
			p.done += i.Done
			p.failed += i.Failed
			for k := range min(len(i.Heat), len(p.heat)) {
				p.heat[k] += i.Heat[k]
			}
			if i.Max > 0 {
				for _, to := range []struct {
					to *float64
					v  float64
				}{{&p.p50, i.P50}, {&p.p95, i.P95}, {&p.p99, i.P99}, {&p.max, i.Max}} {
					if !(*to.to >= to.v) {
						*to.to = to.v
					}
				}
			}
		}
		t.pieces = append(t.pieces, p)
		t.middle = append(t.middle, p.start+p.seconds/2)
		t.total = max(t.total, p.start+p.seconds)
	}
	if r.Server != nil && len(r.Server.Samples) > 0 {
		t.total = max(t.total, r.Server.Samples[len(r.Server.Samples)-1].At)
	}
	if !(t.total > 0) {
		t.total = 1
	}
	t.total = min(t.total, 1e9)
	return t
}

func (t *htmlTimeline) values(of func(*htmlPiece) float64) []float64 {
	out := make([]float64, len(t.pieces))
	for i := range t.pieces {
		out[i] = of(&t.pieces[i])
	}
	return out
}

// rows makes the table of a chart over time. Cells are the columns' texts.
func (t *htmlTimeline) rows(cells func(*htmlPiece) []string) []htmlRow {
	x := htmlAxis{hi: t.total}
	rows := make([]htmlRow, len(t.pieces))
	for i := range t.pieces {
		rows[i] = htmlRow{At: htmlPercent(x.at(t.middle[i])), Cells: append([]string{htmlSeconds(t.pieces[i].start)}, cells(&t.pieces[i])...)}
	}
	return rows
}

func (t *htmlTimeline) note() string {
	if t.merged == 1 {
		return ""
	}
	return fmt.Sprintf("One column stands for %d intervals of the run; its percentiles are the greatest among them.", t.merged)
}

func (t *htmlTimeline) latency() *htmlChart {
	c := &htmlChart{ID: "latency-time", Title: "Latency over time", Height: 300,
		About: "Answers by the moment they came and by how long they took since their request was due; the blue says how many. " + t.note()}
	lo, hi := HeatSteps+1, 0
	for i := range t.pieces {
		for k, n := range t.pieces[i].heat {
			if n > 0 {
				lo, hi = min(lo, k), max(hi, k+1)
			}
		}
	}
	p50 := t.values(func(p *htmlPiece) float64 { return p.p50 })
	p95 := t.values(func(p *htmlPiece) float64 { return p.p95 })
	p99 := t.values(func(p *htmlPiece) float64 { return p.p99 })
	if hi == 0 {
		for _, v := range slices.Concat(p50, p99) { // without heat the lines say how far it goes
			if v > 0 && !math.IsInf(v, 0) {
				step := min(max(0, 1+int(math.Floor(math.Log10(v/1e-5)*8))), HeatSteps)
				lo, hi = min(lo, step), max(hi, step+1)
			}
		}
	}
	if hi == 0 {
		c.Empty = "No answer came."
		return c
	}
	lo, hi = max(0, lo-1), min(hi+1, HeatSteps+1)
	x := c.clock(t.run, t.total, 900)
	y := c.times(HeatEdge(lo-1), HeatEdge(hi-1))
	c.heat(t.pieces, x, lo, hi)
	c.line("p50", "p50", t.middle, p50, x, y)
	c.line("p95", "p95", t.middle, p95, x, y)
	c.line("p99", "p99", t.middle, p99, x, y)
	c.Desc = htmlRange("p50", p50, htmlSeconds) + htmlRange("p95", p95, htmlSeconds) + htmlRange("p99", p99, htmlSeconds)
	c.Table = htmlTable{Head: []string{"From", "Answers", "p50", "p95", "p99", "Longest"}, Rows: t.rows(func(p *htmlPiece) []string {
		return []string{htmlInt(p.done), htmlSeconds(p.p50), htmlSeconds(p.p95), htmlSeconds(p.p99), htmlSeconds(p.max)}
	})}
	return c
}

func (t *htmlTimeline) throughput() *htmlChart {
	c := &htmlChart{ID: "throughput-time", Title: "Throughput over time", Height: 180,
		About: "Requests that were due, and right answers that came, a second."}
	offered := t.values(func(p *htmlPiece) float64 { return htmlOver(float64(p.offered), p.seconds) })
	done := t.values(func(p *htmlPiece) float64 { return htmlOver(float64(p.done), p.seconds) })
	if htmlHighest(offered, done) == 0 {
		c.Empty = "No request was due."
		return c
	}
	x := c.clock(t.run, t.total, 900)
	y := c.linear(htmlHighest(offered, done), 1, htmlShort)
	c.line("s1", "offered", t.middle, offered, x, y)
	c.line("s0", "achieved", t.middle, done, x, y)
	c.Desc = htmlRange("Offered", offered, htmlRate) + htmlRange("Achieved", done, htmlRate)
	c.Table = htmlTable{Head: []string{"From", "Offered", "Achieved"}, Rows: t.rows(func(p *htmlPiece) []string {
		return []string{htmlRate(htmlOver(float64(p.offered), p.seconds)), htmlRate(htmlOver(float64(p.done), p.seconds))}
	})}
	return c
}

// htmlKinds gives the kinds of errors of the whole run, the most frequent first, and how often each was.
func htmlKinds(r *Run) ([]string, map[string]int64) {
	sums := map[string]int64{}
	for i := range r.Phases {
		for k, n := range r.Phases[i].Errors {
			sums[k] += n
		}
	}
	kinds := make([]string, 0, len(sums))
	for k := range sums {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b string) int { return cmp.Or(cmp.Compare(sums[b], sums[a]), cmp.Compare(a, b)) })
	return kinds, sums
}

// htmlErrorKinds is how many kinds of errors have a colour of their own.
const htmlErrorKinds = 5

func (t *htmlTimeline) errors() *htmlChart {
	c := &htmlChart{ID: "errors-time", Title: "Errors over time", Height: 180,
		About: "The line is what failed in each moment. What is filled is each phase's mean, by kind."}
	kinds, _ := htmlKinds(t.run)
	failed := t.values(func(p *htmlPiece) float64 { return htmlOver(float64(p.failed), p.seconds) })
	top := htmlHighest(failed)
	for i := range t.run.Phases {
		p := &t.run.Phases[i]
		top = htmlHighest([]float64{top, htmlOver(float64(p.Failed()), p.Seconds)})
	}
	if top == 0 {
		c.Empty = "No request failed."
		return c
	}
	x := c.clock(t.run, t.total, 900)
	y := c.linear(top, 1, htmlShort)
	named := kinds[:min(len(kinds), htmlErrorKinds)]
	areas := make([]htmlShape, len(named)+1)
	for k := range areas {
		areas[k] = htmlShape{Class: "f" + strconv.Itoa(k), Name: "other kinds"}
		if k < len(named) {
			areas[k].Name = htmlClip(named[k])
		}
	}
	for i := range min(len(t.run.Phases), htmlMaxBands) {
		p := &t.run.Phases[i]
		for _, piece := range p.pieces()[:min(len(p.pieces()), htmlMaxBands)] {
			left, right := int(x.at(piece[0])*htmlWide), int(x.at(piece[1])*htmlWide)
			under, rest := 0.0, p.Failed()
			for k := range areas {
				n := rest // of other kinds, in the end
				if k < len(named) {
					n = p.Errors[named[k]]
					rest -= n
				}
				over := under + htmlOver(float64(n), p.Seconds)
				if n > 0 && over > under && right > left {
					areas[k].D += fmt.Sprintf("M%d %dH%dV%dH%dz", left, int((1-y.at(under))*float64(c.Tall())), right, int((1-y.at(over))*float64(c.Tall())), left)
					under = over
				}
			}
		}
	}
	c.Areas = slices.DeleteFunc(areas, func(s htmlShape) bool { return s.D == "" })
	c.line("ink", "all errors", t.middle, failed, x, y)
	c.Desc = htmlRange("Failed", failed, htmlRate)
	c.Table = htmlTable{Head: []string{"From", "Failed", "A second"}, Rows: t.rows(func(p *htmlPiece) []string {
		return []string{htmlInt(p.failed), htmlRate(htmlOver(float64(p.failed), p.seconds))}
	})}
	return c
}

// htmlGauges are the server's samples, merged to columns: the greatest of each gauge, and what counters did since the last.
type htmlGauges struct {
	at, cpu, resident, heap, goroutines, files, hits []float64
}

func newHTMLGauges(s *Server) *htmlGauges {
	g := &htmlGauges{}
	highest := func(group []Sample, of func(*Sample) *float64) float64 {
		top := math.NaN()
		for i := range group {
			if v := of(&group[i]); v != nil && !(top >= *v) {
				top = *v
			}
		}
		return top
	}
	diff := func(from, to *float64) float64 {
		if from == nil || to == nil || *to < *from { // another process has begun
			return math.NaN()
		}
		return *to - *from
	}
	var before *Sample
	for group := range slices.Chunk(s.Samples, max(1, (len(s.Samples)+htmlMaxPieces-1)/htmlMaxPieces)) {
		last := &group[len(group)-1]
		cpu, hits := math.NaN(), math.NaN()
		if before != nil {
			cpu = htmlOver(diff(before.CPU, last.CPU), last.At-before.At)
			if s.CPUs > 0 {
				cpu /= s.CPUs
			}
			hit := diff(before.Hits, last.Hits)
			hits = htmlOver(hit, hit+diff(before.Misses, last.Misses))
		}
		g.at = append(g.at, last.At)
		g.cpu = append(g.cpu, cpu)
		g.hits = append(g.hits, hits)
		g.resident = append(g.resident, highest(group, func(s *Sample) *float64 { return s.Resident }))
		g.heap = append(g.heap, highest(group, func(s *Sample) *float64 { return s.Heap }))
		g.goroutines = append(g.goroutines, highest(group, func(s *Sample) *float64 { return s.Goroutines }))
		g.files = append(g.files, highest(group, func(s *Sample) *float64 { return s.OpenFiles }))
		before = last
	}
	return g
}

// htmlSeries is one line of a chart of the server.
type htmlSeries struct {
	class, name string
	values      []float64
}

// server gives the charts of the server's process: those of which anything could be read.
func (t *htmlTimeline) server() []*htmlChart {
	if t.run.Server == nil {
		return nil
	}
	g := newHTMLGauges(t.run.Server)
	cpu, about := htmlShare, "Of the "+htmlCount(t.run.Server.CPUs)+" cores that it may use."
	if !(t.run.Server.CPUs > 0) {
		cpu, about = htmlCount, "Cores."
	}
	var out []*htmlChart
	for _, s := range []struct {
		id, title, about string
		text             func(float64) string
		base             float64 // of round numbers, 0 for that of bytes
		lines            []htmlSeries
	}{
		{"cpu", "CPU", about, cpu, .01, []htmlSeries{{"s0", "CPU", g.cpu}}},
		{"memory", "Memory", "Resident, and the live heap after the last collection.", htmlBytes, 0,
			[]htmlSeries{{"s0", "resident", g.resident}, {"s1", "live heap", g.heap}}},
		{"goroutines", "Goroutines", "", htmlShort, 1, []htmlSeries{{"s0", "goroutines", g.goroutines}}},
		{"files", "Open files", "", htmlShort, 1, []htmlSeries{{"s0", "open files", g.files}}},
		{"hits", "Cache hit rate", "Of the look-ups since the sample before.", htmlShare, .01, []htmlSeries{{"s0", "hit rate", g.hits}}},
	} {
		c := &htmlChart{ID: "server-" + s.id, Title: s.title, About: s.about, Height: 140}
		top := 0.0
		for _, l := range s.lines {
			top = max(top, htmlHighest(l.values))
		}
		if s.id == "hits" {
			top = 1
		}
		if s.base == 0 {
			s.base, _ = htmlByteBase(top)
		}
		x := c.clock(t.run, t.total, 380)
		y := c.linear(top, s.base, s.text)
		c.Table.Head = []string{"At"}
		rows := make([]htmlRow, len(g.at))
		for i, at := range g.at {
			rows[i] = htmlRow{At: htmlPercent(x.at(at)), Cells: []string{htmlSeconds(at)}}
		}
		for _, l := range s.lines {
			drawn := len(c.Lines)
			c.line(l.class, l.name, g.at, l.values, x, y)
			if len(c.Lines) == drawn {
				continue
			}
			c.Desc += htmlRange(l.name, l.values, s.text)
			c.Table.Head = append(c.Table.Head, l.name)
			for i, v := range l.values {
				rows[i].Cells = append(rows[i].Cells, s.text(v))
			}
		}
		c.Table.Rows = rows
		if len(c.Lines) > 0 {
			out = append(out, c)
		}
	}
	return out
}
