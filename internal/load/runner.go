package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"millrace/internal/client"
)

// Options is what a run needs beside its scenario.
type Options struct {
	Endpoint Endpoint
	Scenario *Scenario
	Watch    Watch
	// Look, where set, is told each second how the run goes. It is not called at the same time twice.
	Look func(Status)
	// Note, where set, gets what the user should know: what was left out, and why.
	Note func(string)

	clock func() (clock, error) // nil for the machine's
}

// Status is how a run goes.
type Status struct {
	Elapsed, Total time.Duration // Total is an estimate for a stress phase
	Phase          string
	InFlight       int
	Offered        int64
	Done           int64
	Failed         int64
	Errors         map[string]int64
	Latency        Latency    // of the phase
	Recent         []Interval // the latest, at most sixty
}

const (
	probeEvery  = 100 * time.Millisecond
	sampleEvery = time.Second
	lateShare   = 0.001 // of requests that may be late in a valid run
)

// Execute makes a run. What stands in the way of its beginning is an error; once it goes, whatever the server does is a
// figure of it. When ctx ends the run ends early, with the figures until then.
func Execute(ctx context.Context, opts Options) (*Run, error) {
	s, e := opts.Scenario, &opts.Endpoint
	if err := e.check(ctx); err != nil {
		return nil, err
	}
	note := opts.Note
	if note == nil {
		note = func(string) {}
	}
	sessions, err := openSessions(ctx, e, s)
	if err != nil {
		return nil, err
	}
	closeAll := func() {
		for _, s := range sessions {
			s.close()
		}
	}
	operations, notes, err := prepare(ctx, s, sessions[0].get())
	if err != nil {
		closeAll()
		return nil, err
	}
	for _, n := range notes {
		note(n)
	}
	r := &runner{Options: opts, watch: newSampler(opts.Watch)}
	defer r.watch.close()
	if opts.Watch != (Watch{}) {
		if _, err := r.watch.read(ctx); err != nil {
			closeAll()
			return nil, metricsFix(err)
		}
	}
	run := &Run{Format: Format, Version: e.Version, Scenario: s.Name, Plan: s.hash(), Seed: s.Seed, Started: time.Now().UTC(),
		Machine: Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU()},
		Target:  Target{Address: e.address(), Transport: transport(e, s, sessions[0].get())}}
	seen := map[string]bool{}
	for _, slot := range sessions {
		if rev := slot.get().Revision().String(); !seen[rev] {
			seen[rev] = true
			run.Target.Revisions = append(run.Target.Revisions, rev)
		}
	}
	run.Target.Name, run.Target.Version = identify(ctx, sessions)
	warm(ctx, s, sessions)
	if r.engine, err = newEngine(ctx, &opts, operations, sessions, r.expected()); err != nil {
		closeAll()
		return nil, err
	}
	cpu := ownCPU()
	r.phases(ctx)
	run.Knee = r.knee
	run.Interrupted = ctx.Err() != nil
	run.Generator.CPU = ownCPU() - cpu
	run.Generator.MaxMemory = ownMaxMemory()
	_, run.Generator.MaxInFlight = r.engine.schedule.busy()
	r.engine.rec.finish(run, r.end)
	r.conclude(run)
	return run, nil
}

// warmConnections is how many connections are open when a run begins. A rate that begins at once would otherwise begin with a
// crowd of them, since each takes longer to open than to use.
const warmConnections = 256

// most is how many requests of a scenario can be in flight at a time.
func (s *Scenario) most() int {
	users := 0
	for i := range s.Phases {
		if s.Phases[i].Users == 0 {
			return s.MaxInFlight
		}
		users = max(users, s.Phases[i].Users)
	}
	return users
}

// warm opens connections. What goes wrong will be seen in the run.
func warm(ctx context.Context, s *Scenario, sessions []*slot) {
	if !s.KeepAlive {
		return
	}
	var wg sync.WaitGroup
	for i := range min(warmConnections, s.most()) {
		session := sessions[i%len(sessions)].get()
		wg.Go(func() {
			var a client.Answer
			_ = session.Call(ctx, &client.Call{Method: pingMethod(session.Revision())}, &a)
		})
	}
	wg.Wait()
}

// runner is a run while it goes on.
type runner struct {
	Options
	engine *engine
	watch  *sampler
	knee   *Knee
	end    time.Duration

	mu       sync.Mutex // guards what follows
	phase    int
	readings []reading
	blind    error // why the server's process could not be looked at, the last time that it could not
}

// expected is how long the run takes, about.
func (r *runner) expected() (d time.Duration) {
	for _, p := range r.Scenario.Phases {
		if p.Kind == "stress" {
			d += time.Duration(math.Log2(p.Rate/p.From)+6) * p.Duration.Std()
		} else {
			d += p.Duration.Std()
		}
	}
	return d
}

// phases runs the phases, with what goes on beside them.
func (r *runner) phases(ctx context.Context) {
	e := r.engine
	beside, stop := context.WithCancel(e.ctx)
	var wg sync.WaitGroup
	if r.Watch != (Watch{}) {
		r.sample(beside)
		wg.Go(func() { every(beside, sampleEvery, func() { r.sample(beside) }) })
	}
	r.end = e.now()
	wg.Go(func() { every(beside, probeEvery, r.probe) })
	if r.Look != nil {
		wg.Go(func() { every(beside, time.Second, r.tell) })
	}
	for i := range r.Scenario.Phases {
		if e.ctx.Err() == nil {
			r.run(&r.Scenario.Phases[i])
		}
	}
	r.settle(r.Scenario.Timeout.Std() + time.Second)
	r.end = e.now()
	stop()
	e.close()
	wg.Wait()
	if r.Watch != (Watch{}) && ctx.Err() == nil {
		r.sample(ctx)
	}
	if r.Look != nil {
		r.tell()
	}
}

// every calls f each d until ctx ends.
func every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}

// run runs one phase.
func (r *runner) run(p *PhaseConfig) {
	e := r.engine
	start, length := e.now(), p.Duration.Std()
	// Phases follow each other without a gap, but for what the last one left undone: that must not make requests late.
	start = max(r.end, start-r.Scenario.LateLimit.Std()/4)
	switch {
	case p.Kind == "stress":
		r.stress(p)
	case p.Kind == "burst":
		base, spikes := r.begin(p.Name, "sustain", start, length), r.begin(p.Name+" spikes", "burst", start, length)
		for at, end := start, start+length; at < end && e.ctx.Err() == nil; {
			calm := min(p.Burst.Every.Std()-p.Burst.For.Std(), end-at)
			r.open(segment{phase: base, start: at, length: calm, from: p.Rate, to: p.Rate})
			if at += calm; at < end {
				spike := min(p.Burst.For.Std(), end-at)
				r.open(segment{phase: spikes, start: at, length: spike, from: p.Rate * p.Burst.Factor, to: p.Rate * p.Burst.Factor})
				at += spike
			}
		}
	case p.Users > 0:
		seg := segment{phase: r.begin(p.Name, p.Kind, start, length), start: start, length: length, users: p.Users, think: p.Think.Std()}
		e.rec.extend(seg.phase, start, start+length)
		e.users(seg)
		r.ended(seg)
	default:
		from := p.Rate
		if p.Kind == "ramp" {
			from = p.From
		}
		r.open(segment{phase: r.begin(p.Name, p.Kind, start, length), start: start, length: length, from: from, to: p.Rate})
	}
}

func (r *runner) begin(name, kind string, start, length time.Duration) int {
	phase := r.engine.rec.begin(name, kind, start, length)
	r.mu.Lock()
	r.phase = phase
	r.mu.Unlock()
	return phase
}

// open makes the requests of a segment of an open loop.
func (r *runner) open(seg segment) {
	r.mu.Lock()
	r.phase = seg.phase
	r.mu.Unlock()
	e := r.engine
	e.rec.extend(seg.phase, seg.start, seg.start+seg.length)
	e.schedule.add(seg)
	// What waits for others is sent late rather than not at all; but not for ever.
	e.pace(seg.start + seg.length + r.Scenario.Timeout.Std())
	r.giveUp()
	if rest := seg.start + seg.length - e.now(); rest > 0 {
		e.sleep(rest)
	}
	r.ended(seg)
}

// giveUp counts as unsent what was due and has not been sent.
func (r *runner) giveUp() {
	now := r.engine.now()
	if r.engine.ctx.Err() != nil {
		now = 0 // the run's end cut them off
	}
	for phase, n := range r.engine.schedule.drop(now) {
		r.engine.rec.unsent(phase, n)
	}
}

// ended notes the end of a segment, which the end of the run may have cut off.
func (r *runner) ended(seg segment) {
	r.end = seg.start + seg.length
	if now := r.engine.now(); r.engine.ctx.Err() != nil && now < r.end {
		r.engine.rec.shorten(seg.phase, max(now, seg.start))
		r.end = now
	}
}

// settle waits until nothing is in flight, but not longer than d.
func (r *runner) settle(d time.Duration) {
	e := r.engine
	for until := e.now() + d; e.now() < until; {
		if n, _ := e.schedule.busy(); n == 0 || !e.sleep(time.Millisecond) {
			return
		}
	}
}

// tell says how the run goes.
func (r *runner) tell() {
	e := r.engine
	r.mu.Lock()
	phase := r.phase
	r.mu.Unlock()
	p := e.rec.look(phase)
	n, _ := e.schedule.busy()
	r.Look(Status{Elapsed: e.now(), Total: r.expected(), Phase: p.phase, InFlight: n, Offered: p.offered, Done: p.done, Failed: p.failed,
		Errors: p.errors, Latency: p.total, Recent: p.recent})
}

// probe measures the round trip.
func (r *runner) probe() {
	e := r.engine
	session := e.sessions[0].get()
	var a client.Answer
	start := time.Now()
	if session.Call(e.calls, &client.Call{Method: pingMethod(session.Revision())}, &a) == nil && a.Error == nil {
		e.rec.roundTrip(a.Received.Sub(start))
	}
}

// sample looks at the server's process.
func (r *runner) sample(ctx context.Context) {
	reading, err := r.watch.read(ctx)
	if ctx.Err() != nil {
		return
	}
	reading.At = r.engine.now().Seconds()
	reading.Requests = r.engine.rec.count()
	for _, s := range r.engine.sessions {
		reading.Connections += s.get().Connections()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.blind = err; err == nil {
		r.readings = append(r.readings, reading)
	}
}

// conclude adds what follows from the rest.
func (r *runner) conclude(run *Run) {
	var requests, late, sent int64
	for i := range run.Phases {
		p := &run.Phases[i]
		requests += p.Done + p.Failed()
	}
	for _, p := range r.engine.rec.phases {
		if p.Kind != "step" { // a step that the generator did not keep up with counts as broken, and nothing else
			late, sent = late+p.late, sent+p.sent
		}
	}
	if requests > 0 {
		run.Generator.CPURequest = run.Generator.CPU / float64(requests)
	}
	if requests == 0 {
		run.Invalid = append(run.Invalid, "no request was answered")
	}
	if float64(late) > lateShare*float64(sent) {
		run.Invalid = append(run.Invalid, fmt.Sprintf("the generator sent %d of %d requests (%.2f %%) more than %s late: give it more of the processor, or ask for less",
			late, sent, 100*float64(late)/float64(sent), r.Scenario.LateLimit))
	}
	run.Generator.Growth = ownGrowth(run)
	if len(r.readings) == 0 {
		return
	}
	run.Server = &Server{Source: r.watch.source()}
	for i := range r.readings {
		run.Server.CPUs = max(run.Server.CPUs, r.readings[i].cpus)
		run.Server.Samples = append(run.Server.Samples, r.readings[i].Sample)
	}
	for i := range run.Phases {
		run.Phases[i].Server = cost(&run.Phases[i], r.readings, run.Server.CPUs)
	}
	if r.blind != nil && r.Note != nil && !errors.Is(r.blind, context.Canceled) {
		r.Note(r.blind.Error())
	}
}

// stress finds the greatest rate that holds every limit: it doubles the rate until one breaks, then halves the gap.
func (r *runner) stress(p *PhaseConfig) {
	const near = 1.05 // how near the knee is found
	r.knee = &Knee{}
	low, high := 0.0, math.Inf(1)
	for rate := p.From; r.engine.ctx.Err() == nil; {
		broken := r.step(p, rate)
		if r.engine.ctx.Err() != nil {
			return // a step that was cut off says nothing
		}
		if broken == "" {
			low, r.knee.Rate = rate, rate
		} else {
			high, r.knee.At, r.knee.Broken = rate, rate, broken
		}
		switch {
		case low >= p.Rate || high/low < near || high <= p.From && high < 2:
			return
		case math.IsInf(high, 1):
			rate = min(low*2, p.Rate)
		case low == 0: // not even the first held
			rate = high / 2
		default:
			rate = (low + high) / 2
		}
	}
}

// stepGrace is how long after a step's end its last requests may be sent.
const stepGrace = 100 * time.Millisecond

// step runs one rate and says which limit broke, or "".
func (r *runner) step(p *PhaseConfig, rate float64) string {
	e := r.engine
	start := e.now()
	seg := segment{phase: r.begin(fmt.Sprintf("%.0f/s", rate), "step", start, p.Duration.Std()), start: start, length: p.Duration.Std(), from: rate, to: rate}
	e.rec.extend(seg.phase, seg.start, seg.start+seg.length)
	e.schedule.add(seg)
	e.pace(seg.start + seg.length + stepGrace)
	r.giveUp() // what has not been sent by then never will be
	r.ended(seg)
	r.settle(r.Scenario.Timeout.Std() + time.Second)
	counts, latency, sent, late := e.rec.step(seg.phase)
	limits := &r.Scenario.Limits
	switch rateOfErrors := counts.ErrorRate(); {
	case float64(late) > 10*lateShare*float64(sent):
		return fmt.Sprintf("the generator itself: it sent %d of %d requests late", late, sent)
	case rateOfErrors > limits.Errors && counts.Errors[kindUnsent] > counts.Failed()/2:
		return fmt.Sprintf("throughput: %d of %d requests could not even be sent", counts.Errors[kindUnsent], counts.Offered)
	case rateOfErrors > limits.Errors:
		return fmt.Sprintf("errors: %.2f %%, limit %.2f %%", 100*rateOfErrors, 100*limits.Errors)
	case latency.P95 > limits.P95.Std().Seconds():
		return fmt.Sprintf("p95: %.1f ms, limit %s", 1e3*latency.P95, limits.P95)
	case latency.P99 > limits.P99.Std().Seconds():
		return fmt.Sprintf("p99: %.1f ms, limit %s", 1e3*latency.P99, limits.P99)
	}
	return ""
}
