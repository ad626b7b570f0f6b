package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// connections is the number of keep-alive connections of every closed loop.
const connections = 64

// openRate is the open loop's requests per second.
const openRate = 10_000

// scenario is a file for millrace load that asks for what a work asks for, in one phase.
func (w work) scenario(phase map[string]any) ([]byte, error) {
	version := legacyVersion
	if w.era == modern {
		version = modernVersion
	}
	text, _, _ := strings.Cut(w.text, keyMark)
	expect := map[string]any{"contains": text}
	if w.kind == kindFloor {
		expect = map[string]any{"error": floorError}
	}
	phase["name"] = "load"
	// JSON is YAML.
	return json.Marshal(map[string]any{
		"version":    1,
		"revisions":  map[string]int{version: 1},
		"sessions":   1,
		"operations": []any{map[string]any{"tool": w.tool, "arguments": w.values(), "expect": expect}},
		"phases":     []any{phase},
	})
}

// closed and open are the phases of the two loops.
func closed(d time.Duration) map[string]any {
	return map[string]any{"users": connections, "duration": d.String()}
}
func open(d time.Duration) map[string]any {
	return map[string]any{"rate": openRate, "duration": d.String()}
}

// values are the arguments of a work's calls in the form of scenarios.
func (w work) values() map[string]any {
	k := w.keys
	if w.args == idArgument {
		kind := "sequence"
		if k.mode == randomKeys {
			kind = "uniform"
		}
		return map[string]any{"id": map[string]any{kind: []int{k.first, k.first + k.count - 1}}}
	}
	var texts map[string]string // each with a key in it
	if err := json.Unmarshal([]byte(strings.ReplaceAll(w.args, keyMark, strconv.Itoa(k.first))), &texts); err != nil {
		panic(err) // written in this program
	}
	out := map[string]any{}
	for name, text := range texts {
		var all []string
		for key := k.first; key < k.first+k.count; key++ {
			all = append(all, strings.Replace(text, strconv.Itoa(k.first), strconv.Itoa(key), 1))
		}
		out[name] = map[string]any{"choice": all}
	}
	return out
}

// loadResult is what millrace load measured of one phase. Latencies are in microseconds, in an open loop from the moment each
// request was due: waiting for a late sender or a free connection counts.
type loadResult struct {
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

func (run *loadRun) result() loadResult {
	p := &run.Phases[0]
	const micro = 1e6
	res := loadResult{Requests: p.Done, Invalid: strings.Join(run.Invalid, "; "), Rate: p.Throughput, P50: p.Latency.P50 * micro, P95: p.Latency.P95 * micro,
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

// put puts a work's server under one phase.
func (r *run) put(ctx context.Context, l *live, phase map[string]any) (loadResult, error) {
	scenario, err := l.scenario(phase)
	if err != nil {
		return loadResult{}, err
	}
	file := filepath.Join(r.m.dir, "work.yaml")
	if err := os.WriteFile(file, scenario, 0o600); err != nil {
		return loadResult{}, err
	}
	args := []string{"--scenario", file}
	if l.kind == kindKeyed {
		args = append(args, "--key", apiKey)
	}
	run, err := r.load(ctx, l.req.addr, loadOptions{}, args...)
	if err != nil {
		return loadResult{}, err
	}
	return run.result(), nil
}
