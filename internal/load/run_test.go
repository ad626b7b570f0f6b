package load

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
)

func TestRunIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	h := newHistogram()
	for i := range 1000 {
		record(h, time.Duration(i+1)*time.Millisecond)
	}
	record(h, time.Hour)
	l := latencyOf(h, true)
	run := &Run{Format: Format, Phases: []Phase{{Name: "p", Latency: l, Counts: Counts{Done: 1001, Errors: map[string]int64{"tool": 2}}}}}
	file := filepath.Join(t.TempDir(), "run.json")
	if err := run.Write(file); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRun(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.Phases[0].Latency != l || got.Phases[0].Failed() != 2 {
		t.Errorf("read %+v", got.Phases[0])
	}
	if l.Max < 600 || l.Max > 600.6 || l.P50 < 0.5 || l.P50 > 0.502 {
		t.Errorf("latency %+v", l)
	}
	both, err := Merge(l, l, Latency{})
	if err != nil || both.Count != 2002 || both.P99 != l.P99 {
		t.Errorf("merged %+v, %v", both, err)
	}
}

// The schema that is published is that of the types. MILLRACE_UPDATE=1 writes it anew.
func TestPublishedSchema(t *testing.T) {
	t.Parallel()
	s, err := jsonschema.For[Run](nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Schema, s.Title = "https://json-schema.org/draft/2020-12/schema", "A run of millrace load, format 1"
	want, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	file := filepath.Join("..", "..", "docs", "load-run.schema.json")
	if os.Getenv("MILLRACE_UPDATE") != "" {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != string(want) {
		t.Errorf("%s is not the schema of a Run (%v): MILLRACE_UPDATE=1 go test ./internal/load -run %s writes it", file, err, t.Name())
	}
}

func TestRunsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{`:            "is not the JSON",
		`[]`:           "is not the JSON",
		`{}`:           "has the format 0",
		`{"format":1}`: "has no phase",
	} {
		file := filepath.Join(t.TempDir(), "run.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRun(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	for _, text := range []string{"x", "HISTFAAAA", "AAAA", strings.Repeat("HIST", 50)} {
		l := Latency{Count: 1, Histogram: text}
		if _, err := l.Decode(); err == nil || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("histogram %q: %v", text, err)
		}
	}
}

func TestHeat(t *testing.T) {
	t.Parallel()
	for i := range HeatSteps {
		edge := time.Duration(HeatEdge(i) * 1e9)
		if got := heatStep(edge - edge/100); got != i {
			t.Errorf("just below edge %d: number %d", i, got)
		}
		if got := heatStep(edge + edge/100); got != i+1 {
			t.Errorf("just above edge %d: number %d", i, got)
		}
	}
	if heatStep(0) != 0 || heatStep(time.Hour) != HeatSteps {
		t.Error("the first and the last number are open")
	}
}
