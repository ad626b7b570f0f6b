package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
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

// loadRun is what of the JSON of millrace load matters here.
type loadRun struct {
	Invalid []string `json:"invalid"`
	Phases  []struct {
		Done    int            `json:"done"`
		Errors  map[string]int `json:"errors"`
		Rate    float64        `json:"throughput"`
		Latency struct {
			P50 float64 `json:"p50"`
			P95 float64 `json:"p95"`
			P99 float64 `json:"p99"`
			Max float64 `json:"max"`
		} `json:"latency"`
	} `json:"phases"`
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
	var res openResult
	file, out := filepath.Join(r.m.dir, "open.yaml"), filepath.Join(r.m.dir, "open.json")
	if err := os.WriteFile(file, scenario, 0o600); err != nil {
		return res, err
	}
	if err := os.Remove(out); err != nil && !os.IsNotExist(err) {
		return res, err
	}
	name, args := r.m.load([]string{r.millrace, "load", "http://" + addr + "/mcp", "--scenario", file, "--out", out})
	cmd := exec.CommandContext(ctx, name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.Env = environment("") // it sees to its own collector
	failed := cmd.Run()       // also where the run is not valid, which its JSON says too
	data, err := os.ReadFile(out)
	if err != nil {
		return res, fmt.Errorf("open loop: %w: %s", failed, clip(errs.Bytes()))
	}
	var run loadRun
	if err := json.Unmarshal(data, &run); err != nil || len(run.Phases) != 1 {
		return res, fmt.Errorf("open loop: %d phases, %w", len(run.Phases), err)
	}
	return run.result(), nil
}

func (run *loadRun) result() openResult {
	p := &run.Phases[0]
	const micro = 1e6
	res := openResult{Requests: p.Done, Invalid: strings.Join(run.Invalid, "; "), Rate: p.Rate, P50: p.Latency.P50 * micro, P95: p.Latency.P95 * micro,
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
