package load

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A Line is one limit that the run was held against, in words.
type Line struct {
	Name, Value, Limit string
	Passed             bool
}

//go:embed report.html report.css report.js
var htmlFiles embed.FS

// WriteHTML writes the run as one HTML file that needs nothing else: no network, no other file. Verdicts may be nil. What
// was measured is hostile to the page: texts are escaped, cut and bounded in number, and the page's policy lets no script,
// style or address in but its own. The file stays below 2 MB, however long the run was.
func (r *Run) WriteHTML(w io.Writer, verdicts []Line) error {
	page, err := newHTMLPage(r, verdicts)
	if err != nil {
		return fmt.Errorf("report of the run: %w", err)
	}
	t, err := template.New("report.html").ParseFS(htmlFiles, "report.html")
	if err != nil {
		return err
	}
	return t.Execute(w, page)
}

// htmlPage is what the template needs.
type htmlPage struct {
	Policy, Style, Script template.HTML // ours, not the run's

	Interrupted bool
	Title       string
	Invalid     []string
	Facts       []htmlFact
	Verdicts    []Line
	Failed      int // verdicts
	Tiles       []htmlFact
	Knee        string
	KneeChart   *htmlChart
	Latency     *htmlChart
	Throughput  *htmlChart
	Phases      htmlTable
	Percentiles *htmlChart
	Operations  htmlTable
	Errors      *htmlChart
	Kinds       htmlTable
	Server      []*htmlChart
	Cost        htmlTable
	Generator   htmlTable
}

// htmlFact is a name and its value; Note is what a reader should know beside it.
type htmlFact struct{ Name, Value, Note string }

func newHTMLPage(r *Run, verdicts []Line) (*htmlPage, error) {
	css, err := htmlFiles.ReadFile("report.css")
	if err != nil {
		return nil, err
	}
	js, err := htmlFiles.ReadFile("report.js")
	if err != nil {
		return nil, err
	}
	hash := func(b []byte) string {
		sum := sha256.Sum256(b)
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	p := &htmlPage{
		Policy: template.HTML(`<meta http-equiv="Content-Security-Policy" content="default-src 'none'; base-uri 'none'; form-action 'none'; style-src ` +
			hash(css) + `; script-src ` + hash(js) + `" />`),
		Style:       template.HTML("<style>" + string(css) + "</style>"),
		Script:      template.HTML("<script>" + string(js) + "</script>"),
		Interrupted: r.Interrupted,
		Title:       htmlClip(r.Scenario),
		Facts:       htmlFacts(r),
	}
	for _, why := range htmlBounded(r.Invalid) {
		p.Invalid = append(p.Invalid, htmlClip(why))
	}
	for _, l := range htmlBounded(verdicts) {
		p.Verdicts = append(p.Verdicts, Line{htmlClip(l.Name), htmlClip(l.Value), htmlClip(l.Limit), l.Passed})
		if !l.Passed {
			p.Failed++
		}
	}
	if p.Tiles, err = htmlTiles(r); err != nil {
		return nil, err
	}
	if p.Percentiles, err = htmlPercentiles(r); err != nil {
		return nil, err
	}
	if r.Knee != nil {
		p.Knee, p.KneeChart = htmlKneeText(r.Knee), htmlKneeChart(r)
	}
	t := newHTMLTimeline(r)
	p.Latency, p.Throughput, p.Errors, p.Server = t.latency(), t.throughput(), t.errors(), t.server()
	p.Phases, p.Operations, p.Kinds, p.Cost, p.Generator = htmlPhases(r), htmlOperations(r), htmlKindTable(r), htmlCosts(r), htmlGenerator(r)
	return p, nil
}

func htmlBounded[T any](all []T) []T { return all[:min(len(all), htmlMaxRows)] }

func htmlFacts(r *Run) []htmlFact {
	revisions := make([]string, 0, len(r.Target.Revisions))
	for _, v := range r.Target.Revisions[:min(len(r.Target.Revisions), 20)] {
		revisions = append(revisions, htmlClip(v))
	}
	facts := []htmlFact{
		{Name: "Target", Value: htmlClip(r.Target.Address)},
		{Name: "Server", Value: htmlClip(strings.TrimSpace(r.Target.Name + " " + r.Target.Version))},
		{Name: "Transport", Value: htmlClip(r.Target.Transport)},
		{Name: "Revisions", Value: strings.Join(revisions, ", ")},
		{Name: "Duration", Value: htmlSeconds(r.Seconds)},
		{Name: "Generator", Value: htmlClip(strings.TrimSpace("millrace " + r.Version))},
	}
	if m := r.Machine; m != (Machine{}) {
		facts[len(facts)-1].Note = fmt.Sprintf("on %s/%s, %d CPUs, seed %d", htmlClip(m.OS), htmlClip(m.Arch), m.CPUs, r.Seed)
	}
	if !r.Started.IsZero() {
		facts = slices.Insert(facts, 4, htmlFact{Name: "Started", Value: r.Started.UTC().Format("2006-01-02 15:04:05 UTC")})
	}
	return slices.DeleteFunc(facts, func(f htmlFact) bool { return f.Value == "" })
}

// htmlTiles gives the main figures, of the phases that count.
func htmlTiles(r *Run) ([]htmlFact, error) {
	var c Counts
	c.Errors = map[string]int64{}
	var seconds, cpu, cpuSeconds float64
	memory := math.NaN()
	var all []Latency
	for _, p := range r.Measured() {
		c.Offered += p.Offered
		c.Done += p.Done
		c.Errors[""] += p.Failed()
		seconds += p.Seconds
		all = append(all, p.Latency)
		if p.Server == nil {
			continue
		}
		if v := p.Server.CPU; v != nil {
			cpu += *v * p.Seconds
			cpuSeconds += p.Seconds
		}
		if v := p.Server.MaxResident; v != nil && !(memory >= *v) {
			memory = *v
		}
	}
	l, err := Merge(all...)
	if err != nil {
		return nil, err
	}
	at := func(v float64) string {
		if l.Count == 0 {
			return htmlNothing
		}
		return htmlSeconds(v)
	}
	tiles := []htmlFact{
		{"Throughput", htmlRate(htmlOver(float64(c.Done), seconds)), htmlInt(c.Done) + " right answers of " + htmlInt(c.Offered) + " requests"},
		{"p50", at(l.P50), "half of the answers came sooner"},
		{"p95", at(l.P95), ""},
		{"p99", at(l.P99), "longest " + at(l.Max)},
		{"Error rate", htmlShare(c.ErrorRate()), htmlInt(c.Failed()) + " failed"},
		{"Server CPU", htmlShare(htmlOver(cpu, cpuSeconds)), "of the cores that it may use"},
		{"Server memory", htmlBytes(memory), "the most resident"},
	}
	for i := range tiles {
		if tiles[i].Value == htmlNothing {
			tiles[i].Note = "not measured"
		}
	}
	return tiles, nil
}

// htmlLatencies are the cells of a distribution.
func htmlLatencies(l *Latency) []string {
	vs := []float64{l.P50, l.P90, l.P95, l.P99, l.P999, l.Max}
	cells := make([]string, len(vs))
	for i, v := range vs {
		cells[i] = htmlNothing
		if l.Count > 0 {
			cells[i] = htmlSeconds(v)
		}
	}
	return cells
}

// add adds a row as long as there is room for it.
func (t *htmlTable) add(bad bool, cells ...string) {
	if len(t.Rows) == htmlMaxRows {
		t.Note = fmt.Sprintf("Only the first %d rows are here.", htmlMaxRows)
		return
	}
	t.Rows = append(t.Rows, htmlRow{Bad: bad, Cells: cells})
}

func htmlPhases(r *Run) htmlTable {
	t := htmlTable{Head: []string{"Phase", "Kind", "Duration", "Offered", "Right answers", "Throughput", "Errors", "p50", "p90", "p95", "p99", "p99.9", "Longest"}}
	star := ""
	for i := range r.Phases {
		p := &r.Phases[i]
		kind := htmlBrief(p.Kind)
		if !p.Measured {
			kind, star = kind+" *", " * Counts in no figure of the whole run."
		}
		t.add(p.Failed() > 0, append([]string{htmlClip(p.Name), kind, htmlSeconds(p.Seconds),
			htmlInt(p.Offered), htmlInt(p.Done), htmlRate(p.Throughput), htmlShare(p.ErrorRate())}, htmlLatencies(&p.Latency)...)...)
	}
	t.Note += star
	return t
}

func htmlOperations(r *Run) htmlTable {
	t := htmlTable{Head: []string{"Operation", "Method", "Phase", "Right answers", "Throughput", "Errors", "p50", "p90", "p95", "p99", "p99.9", "Longest"}}
	for i := range r.Phases {
		for k := range r.Phases[i].Operations {
			o := &r.Phases[i].Operations[k]
			t.add(o.Failed() > 0, append([]string{htmlClip(o.Name), htmlBrief(o.Method), htmlBrief(r.Phases[i].Name),
				htmlInt(o.Done), htmlRate(o.Throughput), htmlShare(o.ErrorRate())}, htmlLatencies(&o.Latency)...)...)
		}
	}
	return t
}

// htmlKindTable has a row for each kind of error and a column for each phase that had any.
func htmlKindTable(r *Run) htmlTable {
	kinds, sums := htmlKinds(r)
	if len(kinds) == 0 {
		return htmlTable{}
	}
	t := htmlTable{Head: []string{"Kind", "All phases"}}
	var phases []*Phase
	more := false
	for i := range r.Phases {
		if r.Phases[i].Failed() == 0 {
			continue
		}
		if more = len(phases) == htmlMaxBands; more {
			break
		}
		phases = append(phases, &r.Phases[i])
		t.Head = append(t.Head, htmlBrief(r.Phases[i].Name))
	}
	for _, k := range kinds[:min(len(kinds), htmlMaxKinds)] {
		row := htmlRow{Cells: []string{htmlClip(k), htmlInt(sums[k])}}
		for _, p := range phases {
			row.Cells = append(row.Cells, htmlInt(p.Errors[k]))
		}
		t.Rows = append(t.Rows, row)
	}
	if n := len(kinds) - htmlMaxKinds; n > 0 {
		t.Note = strconv.Itoa(n) + " rarer kinds are left out here. "
	}
	if more {
		t.Note += "Later phases are left out here."
	}
	return t
}

func htmlCosts(r *Run) htmlTable {
	t := htmlTable{Head: []string{"Phase", "CPU", "CPU for a request", "Most resident", "Cache hit rate", "Database p95"}}
	value := func(v *float64, text func(float64) string) string {
		if v == nil {
			return htmlNothing
		}
		return text(*v)
	}
	for i := range r.Phases {
		if c := r.Phases[i].Server; c != nil {
			t.add(false, htmlClip(r.Phases[i].Name), value(c.CPU, htmlShare), value(c.CPURequest, htmlSeconds),
				value(c.MaxResident, htmlBytes), value(c.HitRate, htmlShare), value(c.DatabaseP95, htmlSeconds))
		}
	}
	return t
}

func htmlGenerator(r *Run) htmlTable {
	g := &r.Generator
	late := func(l *Latency) string {
		if l.Count == 0 {
			return htmlNothing
		}
		return fmt.Sprintf("p50 %s, p99 %s, longest %s", htmlSeconds(l.P50), htmlSeconds(l.P99), htmlSeconds(l.Max))
	}
	row := func(name, value, what string) htmlRow { return htmlRow{Cells: []string{name, value, what}} }
	t := htmlTable{Head: []string{"Figure", "Value", "What it says"}, Rows: []htmlRow{
		row("Lateness", late(&g.Lateness), "how long after they were due requests were sent, where a connection was free"),
		row("Late requests", htmlInt(g.Late), "sent more than "+htmlSeconds(g.LateLimit)+" after they were due, for which the generator is to blame"),
		row("Blocked requests", htmlInt(g.Blocked), "waited since as many as may be were in flight; their wait is in their latency"),
		row("Most in flight", htmlInt(int64(g.MaxInFlight)), "requests at a time"),
		row("Round trip", late(&r.RoundTrip), "the cheapest request of the revision, sent ten times a second beside the load"),
		row("CPU", htmlSeconds(g.CPU), htmlSeconds(g.CPURequest)+" for a request"),
		row("Memory", htmlBytes(float64(g.MaxMemory)), "the most that the generator had resident"),
	}}
	if s := g.Growth; s != nil {
		t.Rows = append(t.Rows, row("Memory growth", unitBytes.format(s.Value)+" an hour", "with its 95 % interval: "+unitBytes.format(s.Low)+" to "+unitBytes.format(s.High)))
	}
	t.Rows[1].Bad = g.Late > 0
	return t
}
