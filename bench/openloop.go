package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// openRate is the open loop's requests per second.
const openRate = 10_000

// openResult is what millrace load measured. Latencies are in microseconds, from the moment each request was due: waiting
// for a late sender or a free connection counts.
type openResult struct {
	Requests int
	Wrong    int
	Errors   string // how many of each kind
	Invalid  string // why the figures do not count; "" where they do
	Rate     float64
	P50      float64
	P95      float64
	P99      float64
	Max      float64
}

// openScenario asks for a tool at the open loop's rate. text must be in every answer.
func openScenario(e era, tool string, k keys, text string, d time.Duration) ([]byte, error) {
	kind := "sequence"
	if k.mode == randomKeys {
		kind = "uniform"
	}
	version := legacyVersion
	if e == modern {
		version = modernVersion
	}
	// JSON is YAML.
	return json.Marshal(map[string]any{
		"version":   1,
		"revisions": map[string]int{version: 1},
		"operations": []any{map[string]any{"tool": tool, "arguments": map[string]any{"id": map[string]any{kind: []int{k.first, k.first + k.count - 1}}},
			"expect": map[string]any{"contains": text}}},
		"phases": []any{map[string]any{"name": "open", "rate": openRate, "duration": d.String()}},
	})
}

// runOpen puts a server under the open loop.
func (r *run) runOpen(ctx context.Context, addr string, scenario []byte) (openResult, error) {
	file := filepath.Join(r.m.dir, "open.yaml")
	if err := os.WriteFile(file, scenario, 0o600); err != nil {
		return openResult{}, err
	}
	run, err := r.load(ctx, addr, loadOptions{}, "--scenario", file)
	if err != nil {
		return openResult{}, err
	}
	return run.result(), nil
}

func (run *loadRun) result() openResult {
	p := &run.Phases[0]
	const micro = 1e6
	res := openResult{Requests: p.Done, Invalid: strings.Join(run.Invalid, "; "), Rate: p.Throughput, P50: p.Latency.P50 * micro, P95: p.Latency.P95 * micro,
		P99: p.Latency.P99 * micro, Max: p.Latency.Max * micro}
	var kinds []string
	for kind, n := range p.Errors {
		res.Wrong += n
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, n))
	}
	slices.Sort(kinds)
	res.Requests += res.Wrong
	res.Errors = strings.Join(kinds, ", ")
	return res
}
