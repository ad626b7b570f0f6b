package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/internal/load"
)

// recorded writes a run of 30 blocks in which latency is so many times 10 ms, and gives its file.
func recorded(t *testing.T, seed uint64, slower float64, change func(*load.Run)) string {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	p50 := 0.01 * slower
	o := load.Operation{Name: "get", Counts: load.Counts{Done: 30000}, Throughput: 1000, Latency: load.Latency{Count: 30000, Mean: p50, P50: p50, P95: 2 * p50, P99: 3 * p50}}
	for range 30 {
		k := p50 * (1 + 0.01*r.NormFloat64())
		o.Blocks = append(o.Blocks, load.Block{Seconds: 1, Done: 1000, Mean: k, P50: k, P95: 2 * k, P99: 3 * k})
	}
	run := &load.Run{Format: load.Format, Scenario: "s", Phases: []load.Phase{{Name: "p", Kind: "sustain", Measured: true, Seconds: 30,
		Counts: o.Counts, Latency: o.Latency, Throughput: 1000, Operations: []load.Operation{o}}}}
	if change != nil {
		change(run)
	}
	file := filepath.Join(t.TempDir(), "run.json")
	if err := run.Write(file); err != nil {
		t.Fatal(err)
	}
	return file
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	old, same, slow := recorded(t, 1, 1, nil), recorded(t, 2, 1, nil), recorded(t, 3, 1.2, nil)
	broken := recorded(t, 4, 1, func(r *load.Run) { r.Invalid = []string{"the generator was late"} })
	for _, c := range []struct {
		files, want string
		threshold   float64
		rounds      bool
	}{
		{files: old + " " + same, threshold: 5}, {files: slow + " " + old, threshold: 5},
		{files: old + " " + slow, threshold: 5, want: "the new run is worse"}, {files: old + " " + slow, threshold: 25},
		{files: old + " " + broken, threshold: 5, want: "the generator was late"}, {files: old + " " + old + ".not", want: "no such file"},
		{files: old, want: "OLD NEW"}, {files: old + " " + old + " " + slow, want: "OLD NEW"}, {files: old, rounds: true, want: "OLD NEW"},
		{files: strings.Repeat(old+" "+slow+" ", 3), threshold: 5, rounds: true, want: "the new run is worse"},
		{files: strings.Repeat(old+" "+same+" ", 3), threshold: 5, rounds: true}, {files: strings.Repeat(old+" "+same+" ", 2), rounds: true, want: "at least 3"},
	} {
		wantError(t, (&compareCmd{Sides: strings.Fields(c.files), Rounds: c.rounds, Threshold: c.threshold}).Run(), c.want)
	}
	if c, err := parse("compare", "a", "b"); err != nil || c.Compare.Threshold != 5 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gates := func(text string) string {
		file := filepath.Join(dir, "gates.yaml")
		if err := os.WriteFile(file, []byte("version: 1\ngates:\n  - "+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	run := recorded(t, 1, 1, nil)
	junit, markdown := filepath.Join(dir, "out.xml"), filepath.Join(dir, "out.md")
	for text, want := range map[string]string{
		"{figure: latency.p95, max: 20ms}": "", "{figure: latency.p95, max: 19ms}": "does not pass", "{figure: knee, min: 1}": "does not pass",
		"{figure: latency.p96, max: 1s}": "gates.yaml:3:14: gates[0].figure:", "{figure: cpu, max: 1, phase: q}": "gates.yaml:3:34: gates[0].phase:",
	} {
		wantError(t, (&gateCmd{Gates: gates(text), File: run, JUnit: junit, Markdown: markdown}).Run(), want)
	}
	wantError(t, (&gateCmd{Gates: "promise", File: run}).Run(), "does not pass")
	wantError(t, (&gateCmd{Gates: "promise", File: run + ".not"}).Run(), "no such file")
	wantError(t, (&gateCmd{Gates: gates("{figure: throughput, min: 1}"), File: run, JUnit: filepath.Join(dir, "no", "x.xml")}).Run(), "no such file")
	for file, want := range map[string]string{junit: "<testsuites>", markdown: "|---|"} {
		data, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s: %s, %v", file, data, err)
		}
	}
	if c, err := parse("gate", "soak", "r.json", "--junit=j", "--markdown=m"); err != nil || c.Gate.File != "r.json" || c.Gate.JUnit != "j" {
		t.Errorf("%+v, %v", c, err)
	}
}
