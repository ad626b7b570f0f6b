package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// command prepares a tool that a job runs to its end. One that is cut off is asked to end, since it may have servers to stop.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 60 * time.Second
	return cmd
}

// loadRun is what of the JSON of millrace load matters here. Times are in seconds.
type loadRun struct {
	Invalid []string `json:"invalid"`
	Phases  []struct {
		Name       string         `json:"name"`
		Kind       string         `json:"kind"`
		Measured   bool           `json:"measured"`
		Done       int            `json:"done"`
		Errors     map[string]int `json:"errors"`
		Throughput float64        `json:"throughput"`
		Latency    struct {
			Count int64   `json:"count"`
			P50   float64 `json:"p50"`
			P95   float64 `json:"p95"`
			P99   float64 `json:"p99"`
			P999  float64 `json:"p999"`
			Max   float64 `json:"max"`
		} `json:"latency"`
		Server *struct {
			CPU        *float64 `json:"cpu_share"`
			CPURequest *float64 `json:"cpu_per_request"`
			Resident   *float64 `json:"max_resident_bytes"`
		} `json:"server"`
	} `json:"phases"`
	Knee *struct {
		Rate   float64 `json:"rate"`
		At     float64 `json:"at"`
		Broken string  `json:"broken"`
	} `json:"knee"`
	Generator struct {
		Memory float64 `json:"max_resident_bytes"`
		Growth *struct {
			Value float64 `json:"value"`
			Low   float64 `json:"low"`
			High  float64 `json:"high"`
		} `json:"resident_growth_per_hour"`
		Lateness struct {
			P50 float64 `json:"p50"`
			P99 float64 `json:"p99"`
		} `json:"lateness"`
	} `json:"generator"`

	file string
	cpu  float64 // seconds that the process took, its start and end included
}

// loadOptions are the parts of a run of millrace load that jobs differ in.
type loadOptions struct {
	out      string    // the file of its JSON; empty for one in the run's folder
	progress io.Writer // what it says while it goes on; nil keeps that for an error
}

// load runs millrace load against the server at addr, pinned to the load's core. A run that is not valid is no error: its
// JSON says so.
func (r *run) load(ctx context.Context, addr string, o loadOptions, args ...string) (*loadRun, error) {
	if o.out == "" {
		r.loads++
		o.out = filepath.Join(r.m.dir, fmt.Sprintf("run-%d.json", r.loads))
	}
	if err := os.Remove(o.out); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	name, args := r.m.load(append([]string{r.millrace, "load", "http://" + addr + "/mcp", "--out", o.out}, args...))
	cmd := command(ctx, name, args...)
	var errs bytes.Buffer
	if cmd.Stderr = o.progress; o.progress == nil {
		cmd.Stderr = &errs
	}
	cmd.Env = environment("") // it sees to its own collector
	failed := cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	data, err := os.ReadFile(o.out)
	if err != nil {
		return nil, fmt.Errorf("millrace load %s: %w: %s", strings.Join(args, " "), failed, clip(errs.Bytes()))
	}
	out := &loadRun{file: o.out, cpu: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, err
	}
	if len(out.Phases) == 0 {
		return nil, fmt.Errorf("millrace load %s: the run has no phase", strings.Join(args, " "))
	}
	return out, nil
}

// newRun makes what every job stands on: the machine, and the binary under test, which is built unless there is one; "none"
// is for jobs without it. stop ends what was started.
func newRun(ctx context.Context, pin, millrace string) (r *run, stop func(), err error) {
	m, err := newMachine(pin)
	if err != nil {
		return nil, nil, err
	}
	stop = func() {
		m.stop()
		os.RemoveAll(m.dir)
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	r = &run{m: m, sqlite: filepath.Join(m.dir, "bench.db"), servers: map[string]*process{}, sessions: map[string]string{}, sizes: map[string]int{},
		progress: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	switch millrace {
	case "none":
	case "":
		r.millrace, err = buildMillrace(ctx, m)
	default:
		r.millrace, err = filepath.Abs(millrace)
	}
	if err != nil {
		return nil, nil, err
	}
	return r, stop, makeSQLite(r.sqlite)
}
