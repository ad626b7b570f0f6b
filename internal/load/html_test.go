package load

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// A samplePhase is what sampleRun makes one phase of: a rate that goes from one to another, and what an answer takes.
type samplePhase struct {
	name, kind string
	seconds    int
	from, to   float64 // requests a second
	median     float64 // seconds
	stall      int     // seconds for which nothing is answered, in the middle
	errors     map[string]float64
}

func samplePhases() []samplePhase {
	return []samplePhase{
		{name: "warm-up", kind: "warm-up", seconds: 10, from: 50, to: 50, median: .004},
		{name: "ramp to 400", kind: "ramp", seconds: 30, from: 50, to: 400, median: .0025},
		{name: "sustain 400", kind: "sustain", seconds: 60, from: 400, to: 400, median: .003},
		{name: "burst", kind: "burst", seconds: 12, from: 900, to: 900, median: .012, stall: 3,
			errors: map[string]float64{"http 503": .03, "timeout": .01, "rpc -32603": .004}},
		{name: "sustain again", kind: "sustain", seconds: 40, from: 400, to: 400, median: .0028, errors: map[string]float64{"tool": .002}},
		{name: "cool-down", kind: "cool-down", seconds: 8, from: 400, to: 0, median: .0025},
	}
}

// sampleRun is what a run of the phases could have measured, in intervals of each so many seconds.
func sampleRun(seed uint64, phases []samplePhase, each float64) *Run {
	rng := rand.New(rand.NewPCG(seed, 1))
	r := &Run{Format: Format, Version: "0.4.0", Scenario: "agents at work", Seed: seed,
		Target: Target{Address: "https://mcp.example.com:8443/mcp?toolset=cities", Transport: "http/2", Revisions: []string{"2026-07-28", "2025-11-25"},
			Name: "cities", Version: "2.1.0"},
		Machine: Machine{OS: "linux", Arch: "amd64", CPUs: 8}, Started: time.Date(2026, 9, 1, 14, 5, 6, 0, time.UTC),
		Server: &Server{Source: "pid 4242", CPUs: 4}}
	for _, p := range phases {
		r.Seconds += float64(p.seconds)
	}
	heats := make([]*hdr.Histogram, int(r.Seconds/each))
	for i := range heats {
		heats[i] = hdr.New(1, longest.Microseconds(), 2)
		r.Intervals = append(r.Intervals, Interval{Start: float64(i) * each, Seconds: each, Heat: make([]int64, HeatSteps+1)})
	}
	start := 0.0
	lateness := newHistogram()
	for _, p := range phases {
		all := newHistogram()
		out := Phase{Name: p.name, Kind: p.kind, Start: start, Seconds: float64(p.seconds), Measured: p.kind != "warm-up" && p.kind != "cool-down"}
		out.Errors = map[string]int64{}
		ops := []Operation{{Name: "city by name", Method: "tools/call"}, {Name: "list", Method: "tools/list"}}
		ops[0].Errors, ops[1].Errors = map[string]int64{}, map[string]int64{}
		hists := []*hdr.Histogram{newHistogram(), newHistogram()}
		middle := start + float64(p.seconds)/2
		for at := start; at < start+float64(p.seconds); {
			share := (at - start) / float64(p.seconds)
			at += rng.ExpFloat64() / max(p.from+(p.to-p.from)*share, 1)
			took := p.median * math.Exp(.45*rng.NormFloat64())
			if rng.IntN(50) == 0 {
				took *= 12 // a miss of the cache
			}
			if stalled := middle + float64(p.stall) - at; at > middle && stalled > 0 {
				took += stalled
			}
			out.Offered++
			due := min(int(at/each), len(heats)-1)
			came := min(int((at+took)/each), len(heats)-1)
			r.Intervals[due].Offered++
			kind := ""
			for _, k := range []string{"http 503", "rpc -32603", "timeout", "tool"} {
				if rng.Float64() < p.errors[k] {
					kind = k
				}
			}
			k := rng.IntN(4) / 3
			ops[k].Offered++
			if kind != "" {
				out.Errors[kind]++
				ops[k].Errors[kind]++
				r.Intervals[came].Failed++
				continue
			}
			d := time.Duration(took * 1e9)
			out.Done++
			ops[k].Done++
			record(all, d)
			record(hists[k], d)
			record(lateness, time.Duration(rng.ExpFloat64()*40e3))
			r.Intervals[came].Done++
			r.Intervals[came].Heat[heatStep(d)]++
			_ = heats[came].RecordValue(min(max(1, d.Microseconds()), longest.Microseconds()))
		}
		out.Throughput, out.Latency = float64(out.Done)/out.Seconds, latencyOf(all, true)
		for k := range ops {
			ops[k].Throughput, ops[k].Latency = float64(ops[k].Done)/out.Seconds, latencyOf(hists[k], true)
		}
		out.Operations = ops
		out.Server = &Cost{CPU: ptr(out.Throughput / 1600), CPURequest: ptr(.0025), MaxResident: ptr(180e6 + 2e5*out.Throughput), HitRate: ptr(.9), DatabaseP95: ptr(.0018)}
		r.Phases = append(r.Phases, out)
		start += float64(p.seconds)
	}
	var done int64
	cpu := 3.5
	for i, h := range heats {
		if h.TotalCount() > 0 {
			l := latencyOf(h, false)
			r.Intervals[i].P50, r.Intervals[i].P95, r.Intervals[i].P99, r.Intervals[i].Max = l.P50, l.P95, l.P99, l.Max
		}
		done += r.Intervals[i].Done
		cpu += float64(r.Intervals[i].Done) * .0024
		at := float64(i+1) * each
		r.Server.Samples = append(r.Server.Samples, Sample{At: at, CPU: &cpu, Requests: done, Resident: ptr(160e6 + 9e7*at/r.Seconds + 3e6*rng.Float64()),
			Heap: ptr(60e6 + 25e6*math.Abs(math.Sin(at/4))), Goroutines: ptr(40 + math.Round(float64(r.Intervals[i].Offered)/each/8)),
			OpenFiles: ptr(30 + math.Round(20*at/r.Seconds)), Hits: ptr(float64(done) * .9 * (1 - math.Exp(-at/8))), Misses: ptr(float64(done) * .1)})
		r.Server.Samples[i].CPU = ptr(cpu)
	}
	r.Generator = Generator{CPU: 21.4, CPURequest: .00037, MaxMemory: 96 << 20, MaxInFlight: 412, Lateness: latencyOf(lateness, true), LateLimit: .001, Blocked: 37}
	r.RoundTrip = Latency{Count: 1600, Mean: .0005, P50: .00042, P99: .0021, Max: .031}
	return r
}

func ptr(v float64) *float64 { return &v }

// stressRun climbs by steps until the limit breaks.
func stressRun() *Run {
	var phases []samplePhase
	for i := range 12 {
		rate := float64(100 * (i + 1))
		phases = append(phases, samplePhase{name: fmt.Sprintf("%.0f/s", rate), kind: "step", seconds: 5, from: rate, to: rate, median: .002 / max(.04, 1-rate/1250)})
	}
	r := sampleRun(7, phases, .5)
	r.Scenario = "stress"
	r.Knee = &Knee{Rate: 900, At: 1000, Broken: "p99 of all operations above 50 ms"}
	return r
}

var sampleVerdicts = []Line{
	{Name: "p95 of all operations", Value: "14.2 ms", Limit: "at most 20 ms", Passed: true},
	{Name: "error rate", Value: "0.78 %", Limit: "at most 0.5 %"},
}

const hostile = `</title></style></script><script>alert("x")</script><img src=x onerror='alert(1)'> javascript:alert(1) {{.}} ]]> ` + "\u202e\x00"

func hostileRun() *Run {
	r := sampleRun(3, samplePhases()[:2], 1)
	r.Version, r.Scenario, r.Invalid = hostile, hostile, []string{hostile}
	r.Target = Target{Address: hostile, Transport: hostile, Revisions: []string{hostile}, Name: hostile, Version: hostile}
	r.Machine = Machine{OS: hostile, Arch: hostile}
	r.Server.Source = hostile
	r.Knee = &Knee{Rate: 1, At: 2, Broken: hostile}
	for i := range r.Phases {
		p := &r.Phases[i]
		p.Name, p.Kind, p.Errors = hostile, hostile, map[string]int64{hostile: 1}
		for k := range p.Operations {
			p.Operations[k].Name, p.Operations[k].Method = hostile, hostile
		}
	}
	return r
}

// hugeRun has more of everything than a report can show, and figures that no run can have.
func hugeRun() *Run {
	r := sampleRun(5, samplePhases(), .05)
	long := strings.Repeat(`long "<`, 200)
	for i := range r.Phases {
		r.Phases[i].Errors = map[string]int64{}
		for k := range 200 {
			r.Phases[i].Errors[fmt.Sprint("rpc ", -k, long)] = int64(k)
		}
		for k := range 100 {
			r.Phases[i].Operations = append(r.Phases[i].Operations, Operation{Name: fmt.Sprint(k, long), Method: long})
		}
	}
	for len(r.Phases) < 1000 {
		p := r.Phases[len(r.Phases)%6]
		p.Name += long
		r.Phases = append(r.Phases, p)
	}
	for range 1000 {
		r.Invalid = append(r.Invalid, long)
	}
	r.Phases[0].Start, r.Phases[1].Seconds, r.Phases[2].Seconds = -1e300, 1e308, -5
	r.Phases[3].Throughput = math.MaxFloat64
	r.Server.Samples[5].CPU, r.Server.Samples[6].Resident, r.Server.CPUs = ptr(math.MaxFloat64), ptr(math.MaxFloat64), 1e-300
	r.Intervals[9].Seconds, r.Intervals[10].P99, r.Intervals[11].Heat = 0, 1e300, make([]int64, 500)
	return r
}

func sampleRuns() map[string]*Run {
	one := sampleRun(2, samplePhases()[2:3], 1)
	one.Server, one.Phases[0].Server, one.Interrupted = nil, nil, true
	none := &Run{Format: Format, Scenario: "nothing came", Seconds: 5, Phases: []Phase{{Name: "sustain", Kind: "sustain", Measured: true, Seconds: 5}},
		Intervals: make([]Interval, 5), Server: &Server{Samples: make([]Sample, 3)}, Knee: &Knee{}}
	return map[string]*Run{"sample": sampleRun(1, samplePhases(), .5), "stress": stressRun(), "hostile": hostileRun(), "huge": hugeRun(),
		"one": one, "none": none, "zero": {}}
}

// TestReports writes a report of each sample run, to the folder MILLRACE_REPORTS if that is set: the browser test of e2e
// opens them.
func TestReports(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("MILLRACE_REPORTS")
	if dir == "" {
		dir = t.TempDir()
	}
	for name, r := range sampleRuns() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			verdicts := sampleVerdicts
			if name == "huge" {
				long := strings.Repeat(`"`, 1000)
				verdicts = slices.Repeat([]Line{{long, long, long, true}}, 1000)
			}
			if err := r.WriteHTML(&b, verdicts); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name+".html"), b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			if b.Len() > 2_000_000 {
				t.Errorf("%d bytes", b.Len())
			}
			t.Logf("%d bytes", b.Len())
			for _, fault := range reportFaults(b.String(), r.Target.Address) {
				t.Error(fault)
			}
		})
	}
}

var (
	scriptPattern   = regexp.MustCompile(`(?s)<script>.*?</script>|<style>.*?</style>`)
	numberPattern   = regexp.MustCompile(`NaN|[+-]Inf\b|%!|<nil>|0x[0-9a-f]{6}`)
	resourcePattern = regexp.MustCompile(`(?i)url\(|@import|https?://`)
)

// reportFaults gives what is wrong with a report.
func reportFaults(page, address string) (faults []string) {
	if n := len(scriptPattern.FindAllString(page, -1)); n != 2 {
		faults = append(faults, fmt.Sprintf("%d scripts and styles, want one of each", n))
	}
	if m := resourcePattern.FindString(strings.ReplaceAll(page, address, "")); m != "" && address != "" {
		faults = append(faults, fmt.Sprintf("holds %q", m))
	}
	text := scriptPattern.ReplaceAllString(page, "")
	if m := numberPattern.FindString(text); m != "" {
		i := strings.Index(text, m)
		faults = append(faults, fmt.Sprintf("holds %q: %q", m, text[max(0, i-80):min(len(text), i+20)]))
	}
	ids, refs, open := map[string]int{}, []string{}, 0
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return append(faults, "not well-formed: "+err.Error())
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		open++
		for _, a := range e.Attr {
			switch name := a.Name.Local; {
			case name == "id":
				ids[a.Value]++
			case strings.HasPrefix(name, "aria-labelledby"):
				refs = append(refs, strings.Fields(a.Value)...)
			case strings.HasPrefix(name, "on"), slices.Contains([]string{"style", "src", "href", "srcset", "action", "data", "poster"}, name):
				faults = append(faults, fmt.Sprintf("<%s %s=%q>", e.Name.Local, name, a.Value))
			}
		}
		if e.Name.Local == "script" || e.Name.Local == "img" || e.Name.Local == "foreignObject" || e.Name.Local == "a" {
			faults = append(faults, "has a <"+e.Name.Local+">")
		}
	}
	for id, n := range maps.All(ids) {
		if n > 1 {
			faults = append(faults, fmt.Sprintf("id %q stands %d times", id, n))
		}
	}
	for _, ref := range refs {
		if ids[ref] == 0 {
			faults = append(faults, "no element has the id "+ref)
		}
	}
	if open < 50 {
		faults = append(faults, fmt.Sprintf("only %d elements", open))
	}
	return faults
}

// What reportFaults finds nothing of must be what it can find.
func TestReportFaults(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := sampleRun(1, samplePhases()[:2], 1).WriteHTML(&b, nil); err != nil {
		t.Fatal(err)
	}
	for add, want := range map[string]string{
		"<p>":                                 "not well-formed",
		"<p>NaN</p>":                          "NaN",
		"<p>+Inf s</p>":                       "+Inf",
		`<script src="x.js"></script>`:        "src",
		"<script>x</script>":                  "3 scripts",
		`<img src="x.png" />`:                 "<img>",
		`<p onclick="x"></p>`:                 "onclick",
		`<p style="color: red"></p>`:          "style",
		"<style>@import x</style>":            "@import",
		"<p>see https://example.org</p>":      "https://",
		`<p id="figures"></p>`:                "stands 2 times",
		`<p aria-labelledby="nowhere"></p>`:   "no element has the id",
		"<p>%!s(int=3)</p>":                   "%!",
		`<rect fill="url(#gradient)"></rect>`: "url(",
	} {
		page := strings.Replace(b.String(), "</main>", add+"</main>", 1)
		if faults := strings.Join(reportFaults(page, "https://mcp.example.com:8443/mcp?toolset=cities"), "; "); !strings.Contains(faults, want) {
			t.Errorf("with %s: %q, want %q", add, faults, want)
		}
	}
}

// A report says what was measured: figures worked out by hand, each on its own.
func TestReportSays(t *testing.T) {
	t.Parallel()
	h := newHistogram()
	for i := range 1000 {
		record(h, time.Duration(i+1)*100*time.Microsecond)
	}
	l := latencyOf(h, true)
	r := &Run{Format: Format, Scenario: "by hand", Seconds: 20, Invalid: []string{"the generator was late"}, Interrupted: true,
		Phases: []Phase{
			{Name: "before", Kind: "warm-up", Seconds: 10, Counts: Counts{Offered: 9000, Done: 9000}, Latency: l},
			{Name: "measured", Kind: "sustain", Start: 10, Seconds: 10, Measured: true, Latency: l, Throughput: 100,
				Counts: Counts{Offered: 1250, Done: 1000, Errors: map[string]int64{"http 503": 200, "a & b": 50}},
				Server: &Cost{CPU: ptr(.625), MaxResident: ptr(256 << 20), HitRate: ptr(.5), DatabaseP95: ptr(.0125)}}},
		Generator: Generator{Late: 1234, LateLimit: .001, Blocked: 77}}
	for i := range 1000 {
		r.Intervals = append(r.Intervals, Interval{Start: float64(i) / 50, Seconds: .02, Offered: 2, Done: 1, P50: .01, P95: .02, P99: .03 + float64(i)/1e5, Max: .05, Heat: []int64{0, 1}})
	}
	var b bytes.Buffer
	if err := r.WriteHTML(&b, []Line{{Name: "p99", Value: "99 ms", Limit: "at most 1 s", Passed: true}}); err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`<[^>]*>`).ReplaceAllString(scriptPattern.ReplaceAllString(b.String(), ""), " ")
	text = strings.Join(strings.Fields(text), " ")
	for _, want := range []string{
		"✗ Not valid", "the generator was late", "! Interrupted", "✓ Every limit held", "Duration 20.0 s",
		"Throughput 100/s 1,000 right answers of 1,250 requests", "p50 50.0 ms", "p95 95.0 ms", "p99 99.0 ms longest 100 ms", "Error rate 20 % 250 failed",
		"Server CPU 62.5 %", "Server memory 256 MiB", "before warm-up * 10.0 s 9,000", "measured sustain 10.0 s 1,250 1,000 100/s 20 %",
		"http 503 200 200", "a &amp; b 50 50", "measured 62.5 % – 256 MiB 50 % 12.5 ms", "Late requests 1,234", "Blocked requests 77",
		"One column stands for 5 intervals of the run", "0 s 5 10.0 ms 20.0 ms 30.0 ms 50.0 ms", "0 s 100/s 50/s", "half below 50.0 ms, 99 % below 99.0 ms, all below 100 ms",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	for _, bad := range []string{"AAAA", ""} {
		r.Phases[1].Latency.Histogram = bad
		if err := r.WriteHTML(io.Discard, nil); err == nil || !strings.HasPrefix(err.Error(), "report of the run: ") {
			t.Errorf("histogram %q: %v", bad, err)
		}
	}
}

func TestReportUnits(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"0 s": htmlSeconds(0), "1.00 µs": htmlSeconds(1e-6), "999 µs": htmlSeconds(.999e-3), "1.00 ms": htmlSeconds(.9999e-3), "12.3 ms": htmlSeconds(.01234),
		"1.00 s": htmlSeconds(.9996), "119 s": htmlSeconds(119), "2 min 0 s": htmlSeconds(119.99 + .01), "3 min 20 s": htmlSeconds(199.7), "2 h 5 min": htmlSeconds(7500),
		"-5.00 s": htmlSeconds(-5), "0 B": htmlBytes(0), "1,023 B": htmlBytes(1023), "1 KiB": htmlBytes(1024), "1.5 GiB": htmlBytes(1.5 * (1 << 30)),
		"12,345/s": htmlRate(12345.2), "0.0123/s": htmlRate(.0123), "100 %": htmlShare(1), "0.001 %": htmlShare(1e-5), "-1,234": htmlInt(-1234), "1,000,007": htmlInt(1000007),
		"15 k": htmlShort(15000), "2.5 M": htmlShort(2.5e6), "99.99 %": htmlQuantile(4), "50 %": htmlQuantile(math.Log10(2)), "0 %": htmlQuantile(0),
		"a�b": htmlClip("a\u202eb"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e300} {
		for _, got := range []string{htmlSeconds(v), htmlRate(v), htmlBytes(v), htmlCount(v), htmlShort(v)} {
			if got != htmlNothing {
				t.Errorf("%g is written %q", v, got)
			}
		}
	}
	if got := htmlClip(strings.Repeat("ä", 1000)); len([]rune(got)) != htmlMaxText || !strings.HasSuffix(got, "…") {
		t.Errorf("clipped to %q", got)
	}
}
