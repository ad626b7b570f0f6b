// Package load measures an MCP server as agents use it: it makes requests, in every revision, at a rate or with a number
// of users, checks the answers, and tells latency from the moment a request was due. It compares runs, holds them against
// limits and reports them.
//
// It is the other end of the wire: nothing in the server's request path knows it. It works against any MCP server.
package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Format is the version of a Run's JSON. A field may be added without a new one; none changes its meaning.
const Format = 1

// Run is what one run measured. Its JSON is what --out writes. Times are in seconds, unless they say otherwise.
type Run struct {
	Format   int    `json:"format"`
	Version  string `json:"version"` // of millrace
	Scenario string `json:"scenario"`
	// Plan tells scenarios apart that have one name: a hash of all that one says.
	Plan string `json:"plan"`
	Seed uint64 `json:"seed"`

	Target  Target    `json:"target"`
	Machine Machine   `json:"machine"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	// Interrupted says that the run was ended before its time: what it holds is what there was until then.
	Interrupted bool `json:"interrupted,omitempty"`
	// Invalid is why the figures say nothing of the server; empty for a valid run.
	Invalid []string `json:"invalid,omitempty"`

	Generator Generator `json:"generator"`
	// RoundTrip is the latency of the cheapest request that the revision has, sent ten times a second beside the load.
	RoundTrip Latency `json:"round_trip"`
	Phases    []Phase `json:"phases"`
	// Intervals cover the run from its start without gaps. They are equally long; the last may be shorter.
	Intervals []Interval `json:"intervals"`
	// Server is nil where nothing could be read of the server's process.
	Server *Server `json:"server,omitempty"`
	Knee   *Knee   `json:"knee,omitempty"`
}

// Target is the server that was measured.
type Target struct {
	Address   string   `json:"address"`   // its URL, or the command that was started
	Transport string   `json:"transport"` // http/1.1, http/2, http+sse, stdio
	Revisions []string `json:"revisions"`
	Name      string   `json:"name,omitempty"` // as it calls itself
	Version   string   `json:"version,omitempty"`
}

// Machine is where the generator ran.
type Machine struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPUs int    `json:"cpus"` // that the generator could use
}

// Generator is what the generator did and cost.
type Generator struct {
	CPU        float64 `json:"cpu_seconds"`
	CPURequest float64 `json:"cpu_per_request"`
	MaxMemory  int64   `json:"max_resident_bytes"`
	// Growth is how much resident memory the generator gains in an hour of this load, in bytes, from the sustained phases without
	// their first fifth. Nil where the run is too short to tell.
	Growth      *Slope `json:"resident_growth_per_hour,omitempty"`
	MaxInFlight int    `json:"max_in_flight"` // the most requests at a time
	// Lateness is how long after they were due requests were sent, where a connection was free.
	Lateness Latency `json:"lateness"`
	// Late is how many requests the generator sent more than LateLimit after they were due.
	Late      int64   `json:"late"`
	LateLimit float64 `json:"late_limit"`
	// Blocked is how many requests had to wait because as many as may be were in flight. Their wait is in their latency.
	Blocked int64 `json:"blocked"`
}

// Counts is what became of requests.
type Counts struct {
	Offered int64 `json:"offered"` // that were due
	Done    int64 `json:"done"`    // answered, and rightly
	// Errors counts the others by kind: connection, timeout, protocol, "http 503", "rpc -32603", tool, wrong answer, unsent.
	Errors map[string]int64 `json:"errors,omitempty"`
}

// Failed is the number of errors of every kind.
func (c *Counts) Failed() (n int64) {
	for _, e := range c.Errors {
		n += e
	}
	return n
}

// ErrorRate is the share of requests that failed, 0 to 1; NaN where there was none.
func (c *Counts) ErrorRate() float64 {
	failed := c.Failed()
	return float64(failed) / float64(c.Done+failed)
}

// Phase is one part of a scenario.
type Phase struct {
	Name  string  `json:"name"`
	Kind  string  `json:"kind"`  // warm-up, ramp, sustain, burst, step, cool-down
	Start float64 `json:"start"` // since the run's
	// Seconds is how long requests were due in it. Their answers may have come later.
	Seconds float64 `json:"seconds"`
	// Pieces are where requests were due, from and to since the run's start, where that is not from Start on without a gap.
	Pieces [][2]float64 `json:"pieces,omitempty"`
	// Measured is false for warm-up and cool-down, which no figure of the whole run counts.
	Measured bool `json:"measured"`
	Counts
	Throughput float64     `json:"throughput"` // right answers a second
	Latency    Latency     `json:"latency"`    // of all its operations
	Operations []Operation `json:"operations"`
	// Server is what the phase cost the server; nil where nothing could be read of its process.
	Server *Cost `json:"server,omitempty"`
}

// Operation is one kind of request in one phase.
type Operation struct {
	Name   string `json:"name"`
	Method string `json:"method"`
	Counts
	Throughput float64 `json:"throughput"`
	Latency    Latency `json:"latency"` // of right answers
	// Blocks cut the phase into pieces of equal length, in order: what comparisons draw their confidence from.
	Blocks []Block `json:"blocks,omitempty"`
}

// Latency is a distribution of times. The histogram is HdrHistogram's V2 encoding, of microseconds.
type Latency struct {
	Count     int64   `json:"count"`
	Mean      float64 `json:"mean"`
	Min       float64 `json:"min"`
	P50       float64 `json:"p50"`
	P90       float64 `json:"p90"`
	P95       float64 `json:"p95"`
	P99       float64 `json:"p99"`
	P999      float64 `json:"p999"`
	Max       float64 `json:"max"`
	Histogram string  `json:"histogram,omitempty"`
}

// Block is a short piece of a phase.
type Block struct {
	Seconds float64 `json:"seconds"`
	Done    int64   `json:"done"`
	Failed  int64   `json:"failed,omitempty"`
	Mean    float64 `json:"mean"` // latency
	P50     float64 `json:"p50"`
	P95     float64 `json:"p95"`
	P99     float64 `json:"p99"`
}

// Interval is a short piece of the run, of all operations.
type Interval struct {
	Start   float64 `json:"start"`
	Seconds float64 `json:"seconds"`
	Offered int64   `json:"offered"` // requests that were due in it
	Done    int64   `json:"done"`    // right answers that came in it
	Failed  int64   `json:"failed,omitempty"`
	P50     float64 `json:"p50"` // of the answers that came in it
	P95     float64 `json:"p95"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
	// Resident is the memory that the generator had resident at its end, in bytes; 0 for unknown.
	Resident int64 `json:"generator_resident_bytes,omitempty"`
	// Heat counts those answers by latency: the first number is below HeatEdge(0), number i from HeatEdge(i-1) on, and the
	// last is open. Zeros at the end are left out.
	Heat []int64 `json:"heat,omitempty"`
}

// HeatSteps is the number of edges between the latencies of an Interval's Heat.
const HeatSteps = 56

// HeatEdge is edge i in seconds: eight to a decade, from 10 µs.
func HeatEdge(i int) float64 { return 1e-5 * math.Pow(10, float64(i)/8) }

// Server is what was read of the server's process over the run.
type Server struct {
	Source  string   `json:"source"` // the metrics' URL, or "pid N"
	CPUs    float64  `json:"cpus"`   // that it may use
	Samples []Sample `json:"samples"`
}

// Sample is the server's process at one moment. What could not be read is nil.
type Sample struct {
	At         float64  `json:"at"`
	CPU        *float64 `json:"cpu_seconds,omitempty"` // since the process began
	Resident   *float64 `json:"resident_bytes,omitempty"`
	Heap       *float64 `json:"heap_bytes,omitempty"` // live after the last collection
	Goroutines *float64 `json:"goroutines,omitempty"`
	OpenFiles  *float64 `json:"open_files,omitempty"`
	Hits       *float64 `json:"cache_hits,omitempty"` // since the process began
	Misses     *float64 `json:"cache_misses,omitempty"`
	Requests   int64    `json:"requests"` // that the generator had answers for until then
	// Connections is how many the generator itself had open.
	Connections int `json:"connections"`
}

// Cost is what a phase cost the server. What could not be read is nil.
type Cost struct {
	CPU         *float64 `json:"cpu_share,omitempty"` // of the cores that it may use, 0 to 1
	CPURequest  *float64 `json:"cpu_per_request,omitempty"`
	MaxResident *float64 `json:"max_resident_bytes,omitempty"`
	HitRate     *float64 `json:"cache_hit_rate,omitempty"`
	DatabaseP95 *float64 `json:"database_p95,omitempty"`
}

// Knee is what a stress run found: the greatest rate that held every limit, and what broke above it.
type Knee struct {
	Rate   float64 `json:"rate"`             // 0 where no rate held
	Broken string  `json:"broken,omitempty"` // the limit that broke, in words; "" where none did up to the greatest rate
	At     float64 `json:"at,omitempty"`     // the least rate at which it broke
}

// maxRun bounds what ReadRun reads.
const maxRun = 256 << 20

// ReadRun reads the JSON of a Run.
func ReadRun(file string) (*Run, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRun+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxRun {
		return nil, fmt.Errorf("%s is larger than %d MiB: that is no run of millrace load", file, maxRun>>20)
	}
	var r Run
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s is not the JSON that millrace load --out writes: %w", file, err)
	}
	if r.Format != Format {
		return nil, fmt.Errorf("%s has the format %d, and this version of millrace reads %d: make the run again", file, r.Format, Format)
	}
	if len(r.Phases) == 0 {
		return nil, fmt.Errorf("%s: %w", file, errors.New("the run has no phase"))
	}
	return &r, nil
}

// Write writes the run's JSON to a file, whole or not at all.
func (r *Run) Write(file string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".run-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // is gone by that name if all went well
	if _, err = f.Write(append(data, '\n')); err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(f.Name(), file)
}

// Measured gives the phases that figures of the whole run count.
func (r *Run) Measured() []*Phase {
	var out []*Phase
	for i := range r.Phases {
		if r.Phases[i].Measured {
			out = append(out, &r.Phases[i])
		}
	}
	return out
}

// pieces gives the times at which requests of the phase were due, from and to.
func (p *Phase) pieces() [][2]float64 {
	if len(p.Pieces) > 0 {
		return p.Pieces
	}
	return [][2]float64{{p.Start, p.Start + p.Seconds}}
}

// within tells whether requests of the phase were due at a moment, or up to so many seconds before.
func (p *Phase) within(at, after float64) bool {
	for _, piece := range p.pieces() {
		if at >= piece[0] && at <= piece[1]+after {
			return true
		}
	}
	return false
}

// ErrorKinds gives the kinds of errors in a fixed order.
func (c *Counts) ErrorKinds() []string {
	kinds := make([]string, 0, len(c.Errors))
	for k := range c.Errors {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	return kinds
}
