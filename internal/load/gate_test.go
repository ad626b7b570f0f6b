package load

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func metered(v float64) *float64 { return &v }

// latencies is a distribution of n times around a middle.
func latencies(n int, middle time.Duration) Latency {
	h := newHistogram()
	for i := range n {
		record(h, middle/2+middle*time.Duration(i)/time.Duration(n))
	}
	return latencyOf(h, true)
}

// gatedRun has two measured phases, of 10,000/s and 20,000/s, with round figures.
func gatedRun() *Run {
	fast, slow := latencies(1000, 10*time.Millisecond), latencies(3000, 40*time.Millisecond)
	return &Run{Format: Format, Scenario: "s", RoundTrip: latencies(100, time.Millisecond), Generator: Generator{Lateness: latencies(100, 2*time.Millisecond)},
		Knee: &Knee{Rate: 12000},
		Phases: []Phase{
			{Name: "warm-up", Kind: "warm-up", Seconds: 5, Counts: Counts{Done: 5, Errors: map[string]int64{"tool": 5}}, Latency: latencies(10, time.Second)},
			{Name: "steady", Kind: "sustain", Measured: true, Seconds: 10, Counts: Counts{Done: 99900, Errors: map[string]int64{"tool": 100}}, Latency: fast,
				Operations: []Operation{{Name: "get_city", Counts: Counts{Done: 60000}, Latency: fast}, {Name: "search", Counts: Counts{Done: 39900, Errors: map[string]int64{"tool": 100}}}},
				Server:     &Cost{CPU: metered(0.6), CPURequest: metered(100e-6), MaxResident: metered(1 << 30), HitRate: metered(0.9), DatabaseP95: metered(0.02)}},
			{Name: "peak", Kind: "burst", Measured: true, Start: 10, Seconds: 30, Counts: Counts{Done: 600000}, Latency: slow,
				Operations: []Operation{{Name: "get_city", Counts: Counts{Done: 300000}, Latency: slow}},
				Server:     &Cost{CPU: metered(0.8), CPURequest: metered(50e-6), MaxResident: metered(3 << 30), HitRate: metered(1), DatabaseP95: metered(0.03)}},
		},
		Server: &Server{Samples: []Sample{{At: 0, Hits: metered(0), Misses: metered(0)}, {At: 10, Hits: metered(900), Misses: metered(100)}, {At: 40, Hits: metered(9900), Misses: metered(100)}}},
	}
}

// gate holds a run against gates that are written here.
func gate(t *testing.T, run *Run, lines string) (*Verdict, error) {
	t.Helper()
	g, err := parseGates("g.yaml", []byte("version: 1\ngates:\n"+lines))
	if err != nil {
		return nil, err
	}
	return g.Hold(run)
}

func TestGates(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"{figure: throughput, min: 17000}":                      "PASS 17498/s", // 699,900 in 40 s
		"{figure: throughput, min: 17500}":                      "FAIL 17498/s",
		"{figure: throughput, min: 1e4, phase: steady}":         "FAIL 9990/s",
		"{figure: throughput, min: 9000, operation: get_city}":  "PASS 9000/s",
		"{figure: error_rate, max: 0.1%}":                       "PASS 0.01429 %",
		"{figure: error_rate, max: 0.001, phase: steady}":       "PASS 0.1 %",
		"{figure: error_rate, max: 0.2%, operation: search}":    "FAIL 0.25 %",
		"{figure: error_rate, max: 60%, phase: warm-up}":        "PASS 50 %",
		"{figure: latency.max, max: 100ms}":                     "PASS 60 ms",
		"{figure: latency.p50, max: 10ms, phase: steady}":       "PASS 9.991 ms",
		"{figure: latency.p50, max: 20ms, operation: get_city}": "FAIL 33.34 ms", // merged, not averaged
		"{figure: latency.p99, max: 1s, operation: search}":     "MISSING - nothing was measured",
		"{figure: round_trip.p95, max: 1ms}":                    "FAIL 1.44 ms",
		"{figure: lateness.p99, max: 10ms}":                     "PASS 2.961 ms",
		"{figure: cpu, max: 70%}":                               "FAIL 75 %", // by time
		"{figure: cpu, max: 0.7, phase: steady}":                "PASS 60 %",
		"{figure: cpu_per_request, max: 60us}":                  "PASS 57.14 µs", // by requests
		"{figure: memory, max: 2GiB}":                           "FAIL 3 GiB",
		"{figure: cache_hit_rate, min: 99%}":                    "PASS 99 %", // 9,900 of 10,000
		"{figure: cache_hit_rate, min: 95%, phase: steady}":     "FAIL 90 %",
		"{figure: database.p95, max: 25ms}":                     "FAIL 30 ms",
		"{figure: knee, min: 10000, max: 12000}":                "PASS 12000/s",
		"{figure: heap_slope, max: 100B}":                       "MISSING - the heap of the server's process was read too seldom",
		"{figure: cpu, max: 70%, phase: warm-up}":               "MISSING - nothing of it was read in phase \"warm-up\"",
		"{figure: latency.max, max: 60.0004ms, min: 0s}":        "PASS 60 ms",
		"{figure: error_rate, max: 0.01428%}":                   "FAIL 0.01429 %",
		"{figure: throughput, max: 17497}":                      "FAIL 17498/s",
	} {
		v, err := gate(t, gatedRun(), "  - "+line+"\n")
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		r := v.Results[1]
		if got := fmt.Sprintf("%s %s %s", r.Outcome, r.Value, r.Reason); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
		if v.Passed() != (r.Outcome == Pass) {
			t.Errorf("%s: passed is %t", line, v.Passed())
		}
	}
}

func TestRunsThatAreNoRunsFail(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Run){
		"too late": func(r *Run) { r.Invalid = []string{"too late"} }, "before its time": func(r *Run) { r.Interrupted = true },
	} {
		r := gatedRun()
		change(r)
		v, err := gate(t, r, "  - {figure: knee, min: 1}\n")
		if err != nil || v.Passed() || v.Results[0].Outcome != Fail || !strings.Contains(v.Results[0].Reason, want) {
			t.Errorf("%s: %+v, %v", want, v, err)
		}
	}
	if (&Verdict{}).Passed() {
		t.Error("no gates hold")
	}
}

// TestEveryFigureCanBeMissing: a run without anything passes no gate in silence.
func TestEveryFigureCanBeMissing(t *testing.T) {
	t.Parallel()
	for i := range gateFigures {
		f := &gateFigures[i]
		unit := map[figureUnit]string{unitCount: "1", unitRate: "1", unitShare: "100%", unitSeconds: "1h", unitBytes: "1TiB"}[f.unit]
		v, err := gate(t, &Run{Phases: []Phase{{Name: "p", Measured: true}}}, "  - {figure: "+f.name+", min: 0"+strings.TrimLeft(unit, "01")+", max: "+unit+"}\n")
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
		} else if v.Passed() || v.Results[1].Outcome != Missing {
			t.Errorf("%s: %+v", f.name, v.Results[1])
		}
		if v, err = gate(t, &Run{}, "  - {figure: "+f.name+", max: "+unit+"}\n"); err == nil && v.Passed() {
			t.Errorf("%s of a run without phases: %+v", f.name, v.Results[1])
		}
	}
}

// TestHitRateWithoutSamples: the rates of several phases are not averaged where the look-ups are not known.
func TestHitRateWithoutSamples(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Run){"nil": func(r *Run) { r.Server = nil }, "none": func(r *Run) { r.Server.Samples = nil },
		"anew": func(r *Run) { r.Server.Samples[2].Hits = metered(5) }} {
		run := gatedRun()
		change(run)
		v, err := gate(t, run, "  - {figure: cache_hit_rate, min: 1%}\n")
		if err != nil || v.Results[1].Outcome != Missing {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

func TestMistakesInGates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"gates: [{figure: knee, min: 1}]": `g.yaml:1:1: version: must be 1; write version: 1`,
		"version: 1":                      `gates: there is none`,
		"version: 1\ngates: []":           `g.yaml:2:1: gates: there is none`,
		"version: 1\ngates:\n- {figure: latency.p59, max: 1s}":                                `g.yaml:3:12: gates[0].figure: "latency.p59" is no figure; did you mean "latency.p50"?`,
		"version: 1\ngates:\n- {figure: Error-Rate, max: 1%}":                                 `did you mean "error_rate"?`,
		"version: 1\ngates:\n- {max: 1%}":                                                     `"" is no figure; the figures are throughput, error_rate`,
		"version: 1\ngates:\n- {figure: knee}":                                                `g.yaml:3:3: gates[0]: has no limit; write min, max or both`,
		"version: 1\ngates:\n- {figure: knee, min: }":                                         `has no limit`,
		"version: 1\ngates:\n- figure: knee\n  min: 2\n  max: 1":                              `g.yaml:4:8: gates[0].min: is greater than max`,
		"version: 1\ngates:\n- figure: latency.p95\n  max: 100":                               `g.yaml:4:8: gates[0].max: duration has no unit; write 100s`,
		"version: 1\ngates:\n- {figure: memory, max: 2G}":                                     `write 2GB`,
		"version: 1\ngates:\n- {figure: memory, max: 2}":                                      `size has no unit`,
		"version: 1\ngates:\n- {figure: error_rate, max: 1}":                                  ``,
		"version: 1\ngates:\n- {figure: error_rate, max: 5}":                                  `5 is more than the whole`,
		"version: 1\ngates:\n- {figure: error_rate, max: 150%}":                               `150% is more than the whole`,
		"version: 1\ngates:\n- {figure: error_rate, max: -1%}":                                `is negative`,
		"version: 1\ngates:\n- {figure: error_rate, max: few}":                                `"few" is no number; write a share`,
		"version: 1\ngates:\n- {figure: knee, min: 5%}":                                       `"5%" is no number; write a number without a unit`,
		"version: 1\ngates:\n- {figure: knee, min: -5}":                                       `is negative`,
		"version: 1\ngates:\n- {figure: knee, min: [5]}":                                      `must be a single value`,
		"version: 1\ngates:\n- {figure: knee, min: true}":                                     `must be a single value`,
		"version: 1\ngates:\n- {figure: knee, min: 1, phase: p}":                              `knee is a figure of the whole run; remove the key`,
		"version: 1\ngates:\n- {figure: cpu, max: 1%, operation: get}":                        `cpu is no figure of a single operation`,
		"version: 1\ngates:\n- {figure: knee, most: 1}":                                       `gates[0].most: is not a known key`,
		"version: 1\ngates:\n- {figure: knee, min: 1":                                         `not valid YAML`,
		"version: 1\ngates:\n- {figure: cpu, max: 1%, phase: Steady_}":                        `the run has no phase "Steady_"; did you mean "steady"?`,
		"version: 1\ngates:\n- {figure: error_rate, max: 1%, operation: x}":                   `the operations are get_city, search`,
		"version: 1\ngates:\n- {figure: cpu, max: 1%, phase: x}":                              `the phases are warm-up, steady, peak`,
		"version: 1\ngates:\n- figure: latency.p95\n  max: 1s\n  operation: get_cty":          `g.yaml:5:14: gates[0].operation: the run has no operation "get_cty" there; did you mean "get_city"?`,
		"version: 1\ngates:\n- {figure: error_rate, max: 1%, phase: peak, operation: search}": `the run has no operation "search" there; the operations are get_city`,
	} {
		g, err := parseGates("g.yaml", []byte(text))
		if err == nil {
			_, err = g.Hold(gatedRun())
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %q", text, err, want)
		}
	}
}

func TestShippedGates(t *testing.T) {
	t.Parallel()
	run := served(1, 3000, 0, 0, 0)
	p := &run.Phases[1]
	p.Counts = Counts{Done: 40_000_000}
	p.Latency, run.RoundTrip = latencies(1000, 30*time.Millisecond), latencies(100, time.Millisecond)
	p.Server = &Cost{CPU: metered(0.5), MaxResident: metered(1 << 30), HitRate: metered(0.99), DatabaseP95: metered(0.01)}
	for _, name := range shippedNames {
		g, err := LoadGates(name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := g.Hold(run)
		if err != nil || !v.Passed() || v.Gates != name {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	leaks := served(1, 3000, 1000, 1e-3, 1e-3)
	leaks.Phases[1].Counts = p.Counts
	g, err := LoadGates("soak")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := g.Hold(leaks); err != nil || v.failed() != 3 {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := LoadGates("promises"); err == nil || !strings.Contains(err.Error(), "promise and soak") {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "g.yaml")
	if err := os.WriteFile(file, []byte("version: 1\ngates: [{figure: knee, min: 1}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if g, err := LoadGates(file); err != nil || g.Name != file || len(g.Gates) != 1 {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestVerdictIsWritten(t *testing.T) {
	t.Parallel()
	run := gatedRun()
	run.Scenario = `a|b<c>`
	v, err := gate(t, run, "  - {figure: knee, min: 1}\n  - {figure: memory, max: 1GiB, phase: peak}\n  - {figure: heap_slope, max: 1B}\n")
	if err != nil {
		t.Fatal(err)
	}
	var text, markdown, junit bytes.Buffer
	for _, err := range []error{v.Write(&text), v.WriteMarkdown(&markdown), v.WriteJUnit(&junit)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Join(strings.Fields(text.String()), " ")
	for _, want := range []string{"PASS run valid", "PASS knee 12000/s ≥ 1/s", "FAIL memory, phase peak 3 GiB ≤ 1 GiB", "MISSING heap_slope - ≤ 1 B the heap", "g.yaml: 2 of 4 gates failed"} {
		if !strings.Contains(lines, want) {
			t.Errorf("%q is not in\n%s", want, text.String())
		}
	}
	for _, want := range []string{`(scenario a\|b&lt;c>)`, "\n| FAIL | memory, phase peak | 3 GiB | ≤ 1 GiB |  |\n"} {
		if !strings.Contains(markdown.String(), want) {
			t.Errorf("%q is not in\n%s", want, markdown.String())
		}
	}
	var got struct {
		Suite struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Cases    []struct {
				Name    string `xml:"name,attr"`
				Class   string `xml:"classname,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(junit.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	s := got.Suite
	if s.Tests != 4 || s.Failures != 2 || len(s.Cases) != 4 || s.Cases[1].Failure != nil || s.Cases[3].Failure == nil || s.Cases[1].Class != `millrace.gate.a|b<c>` {
		t.Fatalf("%s", junit.String())
	}
	if s.Cases[2].Name != "memory, phase peak ≤ 1 GiB" || s.Cases[2].Failure.Message != "3 GiB, and the limit is ≤ 1 GiB" {
		t.Errorf("%+v", s.Cases[2])
	}
}

// TestFormats: figures are written for people, without exponents.
func TestFormats(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"1.235 ms": unitSeconds.format(0.00123456), "12.35 s": unitSeconds.format(12.3456), "0.5 µs": unitSeconds.format(5e-7), "0 s": unitSeconds.format(0),
		"2 GiB": unitBytes.format(2 << 30), "100 B": unitBytes.format(100), "-1.5 KiB": unitBytes.format(-1536), "0 B": unitBytes.format(0),
		"0.1 %": unitShare.format(0.001), "1234567/s": unitRate.format(1234567), "0.0001": unitCount.format(1e-4), "-": unitCount.format(notANumber()),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func notANumber() float64 { return (&Counts{}).ErrorRate() }

// A ramp takes nothing from the throughput of what it leads to; alone it has one.
func TestThroughputOfARamp(t *testing.T) {
	t.Parallel()
	run := gatedRun()
	run.Phases = append(run.Phases, Phase{Name: "up", Kind: "ramp", Measured: true, Start: 40, Seconds: 1000, Counts: Counts{Done: 1000}})
	for lines, want := range map[string]GateOutcome{"- {figure: throughput, min: 17000}\n": Pass, "- {figure: throughput, min: 2, phase: up}\n": Fail, "- {figure: throughput, min: 1, phase: up}\n": Pass} {
		v, err := gate(t, run, lines)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Results[len(v.Results)-1].Outcome; got != want {
			t.Errorf("%s: %s, want %s", lines, got, want)
		}
	}
}
