package load

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// View shows how a run goes, on a terminal or in plain lines. Make one with NewView.
type View struct {
	w        io.Writer
	terminal bool
	width    int
	lines    int // of the last picture
	last     time.Duration
}

// plainEvery is how often a line is written where nothing can be drawn over.
const plainEvery = 5 * time.Second

// NewView makes a view that draws over itself on a terminal of so many columns, and writes a line from time to time
// elsewhere.
func NewView(w io.Writer, terminal bool, width int) *View {
	return &View{w: w, terminal: terminal, width: max(40, width), last: -plainEvery}
}

// Look shows a status.
func (v *View) Look(s Status) {
	rate := 0.0
	if n := len(s.Recent); n > 0 {
		rate = float64(s.Recent[n-1].Done) / s.Recent[n-1].Seconds
	}
	if !v.terminal {
		if s.Elapsed-v.last < plainEvery {
			return
		}
		v.last = s.Elapsed
		fmt.Fprintf(v.w, "%4.0fs  %-12s %8.0f/s  p50 %s  p95 %s  p99 %s  in flight %d  errors %d%s\n", s.Elapsed.Seconds(), s.Phase, rate,
			Time(s.Latency.P50), Time(s.Latency.P95), Time(s.Latency.P99), s.InFlight, s.Failed, kinds(s.Errors))
		return
	}
	var b strings.Builder
	if v.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", v.lines)
	}
	share := 0.0
	if s.Total > 0 {
		share = min(1, float64(s.Elapsed)/float64(s.Total))
	}
	bar := min(40, v.width-30)
	full := int(share * float64(bar))
	lines := []string{
		fmt.Sprintf("%s%s %3.0f %%  %s of %s", strings.Repeat("█", full), strings.Repeat("░", bar-full), 100*share, s.Elapsed.Round(time.Second), s.Total.Round(time.Second)),
		fmt.Sprintf("%-12s %8.0f/s   in flight %d   errors %d%s", s.Phase, rate, s.InFlight, s.Failed, kinds(s.Errors)),
		fmt.Sprintf("latency      p50 %s   p95 %s   p99 %s   max %s", Time(s.Latency.P50), Time(s.Latency.P95), Time(s.Latency.P99), Time(s.Latency.Max)),
		"requests/s   " + sparkline(s.Recent, v.width-14, func(i *Interval) float64 { return float64(i.Done) / max(i.Seconds, 0.001) }),
		"p99          " + sparkline(s.Recent, v.width-14, func(i *Interval) float64 { return i.P99 }),
	}
	for _, l := range lines {
		b.WriteString(cut(l, v.width-1) + "\n")
	}
	v.lines = len(lines)
	_, _ = io.WriteString(v.w, b.String()) // a terminal that is gone is no reason to end the run
}

func kinds(errors map[string]int64) string {
	if len(errors) == 0 {
		return ""
	}
	c := Counts{Errors: errors}
	var parts []string
	for _, k := range c.ErrorKinds() {
		parts = append(parts, fmt.Sprintf("%s %d", k, errors[k]))
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func cut(line string, width int) string {
	if r := []rune(line); len(r) > width {
		return string(r[:width])
	}
	return line
}

func sparkline(all []Interval, width int, f func(*Interval) float64) string {
	const steps = "▁▂▃▄▅▆▇█"
	all = all[max(0, len(all)-max(1, width)):]
	top := 0.0
	for i := range all {
		top = max(top, f(&all[i]))
	}
	var b strings.Builder
	for i := range all {
		n := 0
		if top > 0 {
			n = min(7, int(f(&all[i])/top*8))
		}
		b.WriteString(string([]rune(steps)[n]))
	}
	return b.String()
}

// Time writes seconds with a unit that suits them, in seven columns.
func Time(seconds float64) string {
	switch {
	case seconds == 0:
		return "     –"
	case seconds < 1e-3:
		return fmt.Sprintf("%4.0fµs", seconds*1e6)
	case seconds < 1:
		return fmt.Sprintf("%4.1fms", seconds*1e3)
	}
	return fmt.Sprintf("%5.2fs", seconds)
}

// WriteSummary writes what a run measured, for a person.
func (r *Run) WriteSummary(w io.Writer) {
	name := strings.TrimSpace(r.Target.Name + " " + r.Target.Version)
	if name != "" {
		name = " (" + name + ")"
	}
	fmt.Fprintf(w, "\n%s%s over %s, %s\nscenario %s, %.1f s", r.Target.Address, name, r.Target.Transport, strings.Join(r.Target.Revisions, " and "), r.Scenario, r.Seconds)
	if r.Interrupted {
		fmt.Fprint(w, ", interrupted")
	}
	fmt.Fprintf(w, "\n\n%-34s %10s %10s %7s %7s %7s %7s %7s %8s\n", "phase, operation", "requests", "answers/s", "p50", "p95", "p99", "p99.9", "max", "errors")
	row := func(name string, c *Counts, throughput float64, l *Latency) {
		fmt.Fprintf(w, "%-34s %10d %10.1f %7s %7s %7s %7s %7s %7.3f%%\n", cut(name, 34), c.Done+c.Failed(), throughput,
			Time(l.P50), Time(l.P95), Time(l.P99), Time(l.P999), Time(l.Max), share(c))
	}
	for i := range r.Phases {
		p := &r.Phases[i]
		row(p.Name, &p.Counts, p.Throughput, &p.Latency)
		if len(p.Operations) > 1 {
			for j := range p.Operations {
				o := &p.Operations[j]
				row("  "+o.Name, &o.Counts, o.Throughput, &o.Latency)
			}
		}
		if c := p.Server; c != nil {
			fmt.Fprintf(w, "  server:%s\n", c)
		}
		for _, k := range p.ErrorKinds() {
			fmt.Fprintf(w, "  %s: %d\n", k, p.Errors[k])
		}
	}
	g := &r.Generator
	fmt.Fprintf(w, "\nround trip  p50 %s  p95 %s  p99 %s\n", Time(r.RoundTrip.P50), Time(r.RoundTrip.P95), Time(r.RoundTrip.P99))
	fmt.Fprintf(w, "generator   %s of processor a request, %d MiB at most, at most %d in flight; sent p50 %s, p99 %s after due; %d late, %d waited for others\n",
		strings.TrimSpace(Time(g.CPURequest)), g.MaxMemory>>20, g.MaxInFlight, strings.TrimSpace(Time(g.Lateness.P50)), strings.TrimSpace(Time(g.Lateness.P99)), g.Late, g.Blocked)
	if s := g.Growth; s != nil {
		fmt.Fprintf(w, "            its memory: %s an hour (%s to %s)\n", unitBytes.format(s.Value), unitBytes.format(s.Low), unitBytes.format(s.High))
	}
	if k := r.Knee; k != nil {
		fmt.Fprintf(w, "knee        %.0f requests/s hold every limit", k.Rate)
		if k.Broken != "" {
			fmt.Fprintf(w, "; %.0f/s do not: %s", k.At, k.Broken)
		}
		fmt.Fprintln(w)
	}
	for _, reason := range r.Invalid {
		fmt.Fprintf(w, "INVALID     %s\n", reason)
	}
}

func share(c *Counts) float64 {
	if c.Done+c.Failed() == 0 {
		return 0
	}
	return 100 * c.ErrorRate()
}

// String lists what was read.
func (c *Cost) String() string {
	var parts []string
	add := func(format string, v *float64, scale float64) {
		if v != nil {
			parts = append(parts, fmt.Sprintf(format, *v*scale))
		}
	}
	add(" CPU %.0f %% of what it may use", c.CPU, 100)
	add(" %.1f µs of processor a request", c.CPURequest, 1e6)
	add(" %.0f MiB resident", c.MaxResident, 1.0/(1<<20))
	add(" %.1f %% cache hits", c.HitRate, 100)
	add(" database p95 %.2f ms", c.DatabaseP95, 1e3)
	if len(parts) == 0 {
		return " nothing could be read"
	}
	return strings.Join(slices.Compact(parts), ",")
}
