package load

import (
	"maps"
	"sync"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// recorder takes what became of each request. Times are since the run's start. Its methods are safe for concurrent use.
type recorder struct {
	operations []*operation
	length     time.Duration // of an interval
	lateLimit  time.Duration
	resident   func() int64 // of this process, in bytes; 0 for unknown

	mu       sync.Mutex // guards what follows
	phases   []*phaseRecord
	interval intervalRecord
	done     []Interval
	offered  map[int]int64 // by interval: of those that are not in done yet
	lateness *hdr.Histogram
	blocked  int64
	trip     *hdr.Histogram
	answered int64 // right answers, in all
}

// phaseRecord is a phase while it is being measured.
type phaseRecord struct {
	Phase
	block      time.Duration // length of a block
	blocks     int
	all        *hdr.Histogram // of all operations
	end        time.Duration  // of what was due so far
	sent, late int64          // requests that waited for no other, and of them the late ones
	operations []operationRecord
}

type operationRecord struct {
	Counts
	all     *hdr.Histogram
	current *hdr.Histogram // of the block
	failed  int64          // of the block
	index   int            // of the block, by the phase's start
	blocks  []Block
}

type intervalRecord struct {
	index int
	Interval
	all *hdr.Histogram
}

// How many pieces a run and a phase are cut into.
const (
	mostIntervals = 600
	mostBlocks    = 60
	leastBlock    = 250 * time.Millisecond
)

// newRecorder makes a recorder for a run that is expected to take as long.
func newRecorder(operations []*operation, expected, lateLimit time.Duration) *recorder {
	length := max(time.Second, (expected / mostIntervals).Round(time.Second))
	r := &recorder{operations: operations, length: length, lateLimit: lateLimit, resident: ownResident, lateness: newHistogram(), trip: newHistogram(), offered: map[int]int64{}}
	r.interval.all = newHistogram()
	r.interval.Heat = make([]int64, HeatSteps+1)
	return r
}

// begin adds a phase, and gives its number.
func (r *recorder) begin(name, kind string, start, length time.Duration) int {
	blocks := max(1, min(mostBlocks, length/leastBlock)) // equally long
	p := &phaseRecord{all: newHistogram(), block: max(1, length/blocks), blocks: int(blocks), operations: make([]operationRecord, len(r.operations))}
	p.Name, p.Kind, p.Start = name, kind, start.Seconds()
	p.Measured = kind != "warm-up" && kind != "cool-down"
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phases = append(r.phases, p)
	return len(r.phases) - 1
}

// extend says that requests are due in a phase from one moment to another, beside those before.
func (r *recorder) extend(phase int, from, to time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.phases[phase]
	p.Seconds += (to - from).Seconds()
	if n := len(p.Pieces); n > 0 && p.end == from {
		p.Pieces[n-1][1] = to.Seconds()
	} else {
		p.Pieces = append(p.Pieces, [2]float64{from.Seconds(), to.Seconds()})
	}
	p.end = to
}

// shorten says that the latest requests of a phase were due earlier than was said.
func (r *recorder) shorten(phase int, to time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.phases[phase]
	p.Seconds -= (p.end - to).Seconds()
	if n := len(p.Pieces); n > 0 {
		p.Pieces[n-1][1] = to.Seconds()
	}
	p.end = to
}

func (r *recorder) offer(due time.Duration) {
	if i := int(due / r.length); i >= r.interval.index {
		r.offered[i]++
	} else {
		r.done[i].Offered++
	}
}

// record takes the request of operation o, which was sent and which ended when it is said to. kind is "" for a right
// answer, otherwise the kind of error.
func (r *recorder) record(t turn, operation int, sent, now time.Duration, kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offer(t.due)
	p := r.phases[t.phase]
	if t.blocked {
		r.blocked++
	} else {
		record(r.lateness, sent-t.due)
		p.sent++
		if sent-t.due > r.lateLimit {
			p.late++
		}
	}
	latency := now - t.due
	o := &p.operations[operation]
	if o.all == nil {
		o.all, o.current = newHistogram(), newHistogram()
	}
	o.Offered++
	for r.interval.index < int(now/r.length) {
		r.closeInterval(r.length)
	}
	// A block is closed by the first answer that comes after it; what comes after the phase's end belongs to its last.
	for o.index < min(p.blocks-1, int((now-time.Duration(p.Start*1e9))/p.block)) {
		o.close(p.block)
	}
	if kind != "" {
		if o.Errors == nil {
			o.Errors = map[string]int64{}
		}
		o.Errors[kind]++
		o.failed++
		r.interval.Failed++
		return
	}
	r.answered++
	o.Done++
	record(o.all, latency)
	record(p.all, latency)
	record(o.current, latency)
	r.interval.Done++
	record(r.interval.all, latency)
	r.interval.Heat[heatStep(latency)]++
}

// close ends the block, also one without an answer: each has its place.
func (o *operationRecord) close(length time.Duration) {
	l := latencyOf(o.current, false)
	o.blocks = append(o.blocks, Block{Seconds: length.Seconds(), Done: l.Count, Failed: o.failed, Mean: l.Mean, P50: l.P50, P95: l.P95, P99: l.P99})
	o.current.Reset()
	o.failed = 0
	o.index++
}

// closeInterval ends the interval, which has lasted so long.
func (r *recorder) closeInterval(length time.Duration) {
	i := &r.interval
	l := latencyOf(i.all, false)
	out := i.Interval
	out.Start, out.Seconds = (time.Duration(i.index) * r.length).Seconds(), length.Seconds()
	out.Offered = r.offered[i.index]
	delete(r.offered, i.index)
	out.P50, out.P95, out.P99, out.Max = l.P50, l.P95, l.P99, l.Max
	out.Resident = r.resident()
	last := len(i.Heat)
	for last > 0 && i.Heat[last-1] == 0 {
		last--
	}
	out.Heat = append([]int64(nil), i.Heat[:last]...)
	r.done = append(r.done, out)
	clear(i.Heat)
	i.all.Reset()
	i.Interval = Interval{Heat: i.Heat}
	i.index++
}

// unsent counts requests of a phase that were due and never sent.
func (r *recorder) unsent(phase int, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := &r.phases[phase].operations[0] // which it would have been is not known
	if o.all == nil {
		o.all, o.current = newHistogram(), newHistogram()
	}
	if o.Errors == nil {
		o.Errors = map[string]int64{}
	}
	o.Offered += n
	o.Errors[kindUnsent] += n
	r.blocked += n
}

// roundTrip takes the latency of a probe.
func (r *recorder) roundTrip(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	record(r.trip, d)
}

// count is how many right answers there were so far.
func (r *recorder) count() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answered
}

// progress is what a run looks like while it goes on.
type progress struct {
	phase         string
	offered, done int64
	failed        int64
	errors        map[string]int64
	recent        []Interval // the latest closed intervals
	total         Latency    // of the phase
}

// look gives the state of a phase.
func (r *recorder) look(phase int) progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := progress{errors: map[string]int64{}}
	for _, p := range r.phases {
		for i := range p.operations {
			o := &p.operations[i]
			out.offered += o.Offered
			out.done += o.Done
			out.failed += o.Failed()
			for k, n := range o.Errors {
				out.errors[k] += n
			}
		}
	}
	if phase < len(r.phases) {
		p := r.phases[phase]
		out.phase, out.total = p.Name, latencyOf(p.all, false)
	}
	out.recent = append(out.recent, r.done[max(0, len(r.done)-60):]...)
	return out
}

// step is what a phase has come to so far, and how many of its requests were sent in time for all they waited for: what a
// stress run decides by.
func (r *recorder) step(phase int) (c Counts, l Latency, sent, late int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent, late = r.phases[phase].sent, r.phases[phase].late
	for i := range r.phases[phase].operations {
		c.add(&r.phases[phase].operations[i].Counts)
	}
	return c, latencyOf(r.phases[phase].all, false), sent, late
}

func (c *Counts) add(d *Counts) {
	c.Offered += d.Offered
	c.Done += d.Done
	if c.Errors == nil && len(d.Errors) > 0 {
		c.Errors = map[string]int64{}
	}
	for k, n := range d.Errors {
		c.Errors[k] += n
	}
}

// finish writes what was measured into run. end is how long the run took.
func (r *recorder) finish(run *Run, end time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run.Seconds = end.Seconds()
	for r.interval.index < int(end/r.length) {
		r.closeInterval(r.length)
	}
	if rest := end - time.Duration(r.interval.index)*r.length; rest > 0 {
		r.closeInterval(rest)
	}
	run.Intervals = r.done
	run.RoundTrip = latencyOf(r.trip, true)
	run.Generator.Lateness = latencyOf(r.lateness, true)
	run.Generator.Blocked, run.Generator.LateLimit = r.blocked, r.lateLimit.Seconds()
	for _, p := range r.phases {
		run.Generator.Late += p.late
		if p.Seconds == 0 {
			continue
		}
		for i := range p.operations {
			o := &p.operations[i]
			if o.all == nil {
				continue
			}
			for o.index < max(1, min(p.blocks, int((p.end-time.Duration(p.Start*1e9))/p.block))) { // the rest, which may be a part of one
				o.close(p.block)
			}
			if o.current.TotalCount() > 0 || o.failed > 0 {
				o.close(p.block)
			}
			p.add(&o.Counts)
			p.Operations = append(p.Operations, Operation{Name: r.operations[i].Name, Method: r.operations[i].method,
				Counts: Counts{Offered: o.Offered, Done: o.Done, Errors: maps.Clone(o.Errors)}, Throughput: float64(o.Done) / p.Seconds,
				Latency: latencyOf(o.all, true), Blocks: o.blocks})
		}
		if len(p.Pieces) == 1 && p.Pieces[0][0] == p.Start {
			p.Pieces = nil // as Start and Seconds say
		}
		p.Latency = latencyOf(p.all, true)
		p.Throughput = float64(p.Done) / p.Seconds
		run.Phases = append(run.Phases, p.Phase)
	}
}
