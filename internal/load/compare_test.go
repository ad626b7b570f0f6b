package load

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// synthetic makes runs whose figures are known. Its noise is an autoregression of order 1: neighbouring blocks are alike.
type synthetic struct {
	seed     uint64
	phi      float64 // how much
	noise    float64 // standard deviation of a block's figure, as a share
	slower   float64 // factor on the latencies of one operation
	fewer    float64 // factor on the throughput of that operation
	failing  float64 // share of its requests that fail
	dearer   float64 // factor on processor time
	blocks   int
	outliers bool // one block in ten has a pause in it
}

func (s synthetic) run() *Run {
	one := func(v float64) float64 {
		if v == 0 {
			return 1
		}
		return v
	}
	r := rand.New(rand.NewPCG(s.seed, 77))
	series := func() func() float64 {
		v := r.NormFloat64()
		return func() float64 {
			v = s.phi*v + math.Sqrt(1-s.phi*s.phi)*r.NormFloat64()
			return math.Exp(s.noise * v)
		}
	}
	run := &Run{Format: Format, Scenario: "s", Server: &Server{CPUs: 2}}
	at, cpu, requests := 0.0, 0.0, int64(0)
	for _, name := range []string{"ramp", "sustain"} {
		p := Phase{Name: name, Kind: name, Measured: true, Start: at, Seconds: float64(s.blocks)}
		for i, op := range []string{"get", "search", "list"} {
			slower, fewer, failing := 1.0, 1.0, 0.0
			if i == 1 {
				slower, fewer, failing = one(s.slower), one(s.fewer), s.failing
			}
			o := Operation{Name: op}
			rate, mean, p50, p95, p99 := series(), series(), series(), series(), series()
			for b := range s.blocks {
				load := 1.0
				if name == "ramp" {
					load = (float64(b) + 1) / float64(s.blocks)
				}
				pause := 1.0
				if s.outliers && r.IntN(10) == 0 {
					pause = 5
				}
				k := 1e-3 * slower * (1 + load)
				n := int64(5000 * load * fewer * rate())
				failed := int64(0)
				for range n / 100 {
					if r.Float64() < 100*failing {
						failed++
					}
				}
				o.Blocks = append(o.Blocks, Block{Seconds: 1, Done: n - failed, Failed: failed, Mean: k * mean(), P50: k * 0.9 * p50(), P95: 3 * k * p95(), P99: 8 * k * pause * p99()})
				o.Done += n - failed
				if failed > 0 {
					o.Errors = map[string]int64{"tool": failed + o.Failed()}
				}
			}
			o.Throughput = float64(o.Done) / p.Seconds
			o.Latency = Latency{Count: o.Done, Mean: 2e-3 * slower, P50: 2e-3 * slower, P95: 6e-3 * slower, P99: 16e-3 * slower}
			p.Operations = append(p.Operations, o)
		}
		each := 1e-4 * one(s.dearer)
		work := series()
		for b := range s.blocks + 1 {
			c := cpu
			run.Server.Samples = append(run.Server.Samples, Sample{At: at + float64(b), CPU: &c, Requests: requests})
			cpu += 10000 * each * work()
			requests += 10000
		}
		p.Server = &Cost{CPURequest: &each}
		at += p.Seconds
		run.Phases = append(run.Phases, p)
	}
	return run
}

// regressions counts how many of 100 reports find one.
func regressions(t *testing.T, threshold float64, old, new synthetic) (n int) {
	t.Helper()
	for i := range uint64(100) {
		old.seed, new.seed = 2*i, 2*i+1
		c, err := Compare(old.run(), new.run(), threshold)
		if err != nil {
			t.Fatal(err)
		}
		if c.Regressed() {
			n++
		}
	}
	return n
}

// TestEqualRunsGiveNoAlarm holds the reports to their level: without a threshold, significance alone decides.
func TestEqualRunsGiveNoAlarm(t *testing.T) {
	t.Parallel()
	for _, s := range []synthetic{
		{phi: 0, noise: 0.1, blocks: 60}, {phi: 0.5, noise: 0.1, blocks: 60}, {phi: 0.7, noise: 0.1, blocks: 60},
		{phi: 0.5, noise: 0.1, blocks: 24}, {phi: 0.3, noise: 0.2, blocks: 60, outliers: true}, {phi: 0.5, noise: 0.1, blocks: 60, failing: 0.001},
	} {
		if n := regressions(t, 0, s, s); n > 5 {
			t.Errorf("%+v: %d of 100 reports found a regression between equal servers", s, n)
		}
	}
}

func TestTenPercentAreFound(t *testing.T) {
	t.Parallel()
	base := synthetic{phi: 0.5, noise: 0.03, blocks: 60}
	for name, change := range map[string]func(*synthetic){
		"latency":    func(s *synthetic) { s.slower = 1.1 },
		"throughput": func(s *synthetic) { s.fewer = 1 / 1.1 },
		"processor":  func(s *synthetic) { s.dearer = 1.1 },
		"errors":     func(s *synthetic) { s.failing = 0.005 },
	} {
		worse := base
		change(&worse)
		if n := regressions(t, DefaultThreshold, base, worse); n < 95 {
			t.Errorf("%s: %d of 100 reports found it", name, n)
		}
		if n := regressions(t, DefaultThreshold, worse, base); n > 5 {
			t.Errorf("%s the other way round: %d of 100 reports took it for a regression", name, n)
		}
	}
	small := base
	small.slower = 1.02
	if n := regressions(t, DefaultThreshold, base, small); n > 2 {
		t.Errorf("%d of 100 reports found 2 %% where 5 %% count", n)
	}
}

func TestRounds(t *testing.T) {
	t.Parallel()
	// The machine gets slower from round to round, which pairs do not see.
	rounds := func(first uint64, slower float64) (out []*Run) {
		for i := range uint64(6) {
			r := synthetic{seed: first + i, blocks: 1, noise: 0.001, slower: slower}.run()
			noise := rand.New(rand.NewPCG(first+i, 1))
			for j := range r.Phases {
				for k := range r.Phases[j].Operations {
					l := &r.Phases[j].Operations[k].Latency
					drift := 1 + 0.3*float64(i)
					for _, v := range []*float64{&l.Mean, &l.P50, &l.P95, &l.P99} {
						*v *= drift * math.Exp(0.01*noise.NormFloat64())
					}
				}
			}
			out = append(out, r)
		}
		return out
	}
	alarms, found := 0, 0
	for i := range uint64(100) {
		old := rounds(1000*i, 1)
		same, err := CompareRounds(old, rounds(1000*i+500, 1), 0)
		if err != nil {
			t.Fatal(err)
		}
		if same.Regressed() {
			alarms++
		}
		worse, err := CompareRounds(old, rounds(1000*i+700, 1.1), DefaultThreshold)
		if err != nil {
			t.Fatal(err)
		}
		if worse.Regressed() {
			found++
		}
		if worse.Rounds != 6 {
			t.Fatalf("%d rounds", worse.Rounds)
		}
	}
	if alarms > 5 || found < 95 {
		t.Errorf("%d of 100 alarms between equal servers, %d of 100 found", alarms, found)
	}
	if _, err := CompareRounds(rounds(0, 1)[:2], rounds(9, 1)[:2], 0.05); err == nil || !strings.Contains(err.Error(), "at least 3") {
		t.Errorf("two rounds: %v", err)
	}
}

func TestWhatCannotBeCompared(t *testing.T) {
	t.Parallel()
	s := synthetic{blocks: 20, noise: 0.01}
	for want, change := range map[string]func(*Run){
		"the new run is not valid (late; lost)":       func(r *Run) { r.Invalid = []string{"late", "lost"} },
		`the old run is of the scenario "s" and`:      func(r *Run) { r.Scenario = "other" },
		`that ask for different things`:               func(r *Run) { r.Plan = "other" },
		"no measured phase in common":                 func(r *Run) { r.Phases[0].Name, r.Phases[1].Name = "x", "y" },
		"0 pairs of samples, at least 12 are needed":  func(r *Run) { r.Server = nil; r.cutBlocks(0) },
		"11 pairs of samples, at least 12 are needed": func(r *Run) { r.Server = nil; r.cutBlocks(11) },
	} {
		r := s.run()
		change(r)
		if _, err := Compare(s.run(), r, 0.05); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := Compare(s.run(), s.run(), -1); err == nil {
		t.Error("a threshold below zero is taken")
	}
}

// cutBlocks leaves n blocks, as a shorter phase has them.
func (r *Run) cutBlocks(n int) {
	for i := range r.Phases {
		r.Phases[i].Seconds = float64(n)
		for j := range r.Phases[i].Operations {
			r.Phases[i].Operations[j].Blocks = r.Phases[i].Operations[j].Blocks[:n]
		}
	}
}

// TestNothingAnswered: what is wholly gone has no ratio, and is worse all the same.
func TestNothingAnswered(t *testing.T) {
	t.Parallel()
	s := synthetic{blocks: 20, noise: 0.01}
	r := s.run()
	o := &r.Phases[1].Operations[0]
	o.Done, o.Throughput, o.Latency, o.Errors = 0, 0, Latency{}, map[string]int64{"connection": 5000}
	for i := range o.Blocks {
		o.Blocks[i] = Block{Seconds: 1, Failed: 250}
	}
	c, err := Compare(s.run(), r, 0.05)
	if err != nil {
		t.Fatal(err)
	}
	worse := ""
	for _, ch := range c.Changes {
		if ch.Outcome == Worse {
			worse += fmt.Sprintln(ch.Phase, ch.Operation, ch.Figure)
		}
	}
	if worse != "sustain get throughput\nsustain get error_rate\n" {
		t.Errorf("worse:\n%s", worse)
	}
}

// TestNoiseIsNotSame: runs that could not have found a change do not say that there is none.
func TestNoiseIsNotSame(t *testing.T) {
	t.Parallel()
	for noise, want := range map[float64]Outcome{0.005: Same, 1: Unclear} {
		c, err := Compare(synthetic{seed: 1, blocks: 60, noise: noise}.run(), synthetic{seed: 2, blocks: 60, noise: noise}.run(), 0.05)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Changes[2]; got.Figure != "latency.mean" || got.Outcome != want {
			t.Errorf("noise %g: %+v, want %s", noise, got, want)
		}
	}
}

func TestComparisonIsWritten(t *testing.T) {
	t.Parallel()
	s := synthetic{blocks: 60, noise: 0.01}
	old := s.run()
	s.seed, s.slower = 1, 1.2
	r := s.run()
	r.Phases[0].Operations[0].Name = "fetch"
	r.Phases = append(r.Phases, Phase{Name: "extra", Measured: true}, Phase{Name: "cool-down"})
	r.Interrupted, r.Machine.CPUs = true, 4
	c, err := Compare(old, r, 0.05)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := c.Write(&b); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"phase operation figure old new change 95 % interval p outcome",
		"sustain search latency.p95 6 ms 7.2 ms +", "0.000 WORSE",
		"ramp search error_rate 0 % 0 % - - - same",
		"sustain cpu_per_request 100 µs 100 µs",
		`note: phase "ramp", operation "get": the old run has it, the new run does not`,
		`note: phase "ramp", operation "fetch": the new run has it, the old run does not`,
		`note: phase "extra": the new run has it, the old run does not`,
		"note: the new run was ended before its time", "note: the new run has another machine",
		"8 worse, 0 better, ", "more than 5 % with p < 0.05",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	if strings.Contains(text, "cool-down") {
		t.Error("a phase that is not measured is named")
	}
}

// TestErrorsAreCounts: numbers of errors that happen to be the same in every block are as uncertain as counts are.
func TestErrorsAreCounts(t *testing.T) {
	t.Parallel()
	blocks := func(failed int64) (out []Block) {
		for range 12 {
			out = append(out, Block{Seconds: 1, Done: 1000 - failed, Failed: failed})
		}
		return out
	}
	for failed, want := range map[int64]float64{4: 0.32, 10: 0.0213} { // t = 12/√84 and 84/√156, with 2 degrees of freedom
		if p := errorDifference(blocks(3), blocks(failed)).p(); math.Abs(p/want-1) > 0.02 {
			t.Errorf("3 and %d errors in each of 12 blocks: p = %g", failed, p)
		}
	}
}

// TestSeriesMean holds the tails: a report of many figures decides there.
func TestSeriesMean(t *testing.T) {
	t.Parallel()
	for phi, most := range map[float64]int{0: 5, 0.5: 5, 0.7: 5, 0.85: 25} {
		r := rand.New(rand.NewPCG(3, 3))
		rare := 0
		for range 5000 {
			v, x := r.NormFloat64(), make([]float64, 60)
			for i := range x {
				x[i], v = v, phi*v+math.Sqrt(1-phi*phi)*r.NormFloat64()
			}
			if seriesMean(x).p() < 0.001 { // 5 are to be expected
				rare++
			}
		}
		if rare > most {
			t.Errorf("φ = %g: %d of 5000 means of nothing have p < 0.001", phi, rare)
		}
	}
}

func TestHolm(t *testing.T) {
	t.Parallel()
	if got := fmt.Sprintf("%.3f", holm([]float64{0.04, 0.01, 0.03, 0.9})); got != "[0.090 0.040 0.090 0.900]" {
		t.Error(got)
	}
}

// TestStudent holds the distribution against tables.
func TestStudent(t *testing.T) {
	t.Parallel()
	for df, want := range map[float64]float64{2: 4.303, 10: 2.228, 60: 2.000} {
		if got := studentQuantile(0.975, df); math.Abs(got-want) > 0.001 {
			t.Errorf("quantile with %g degrees of freedom: %g, want %g", df, got, want)
		}
		if got := studentTail(want, df); math.Abs(got-0.025) > 1e-4 {
			t.Errorf("tail with %g degrees of freedom: %g", df, got)
		}
	}
}

// Errors where there were none have no ratio: what is not significant of them is unclear, not the same.
func TestNewErrorsAreUnclear(t *testing.T) {
	t.Parallel()
	nan := math.NaN()
	for p, want := range map[float64]Outcome{0.39: Unclear, 0.001: Worse} {
		ch := Change{Figure: figureErrors.name, Old: 0, New: 0.05, Ratio: nan, Low: nan, High: nan, P: p}
		if got := ch.judge(0.05); got != want {
			t.Errorf("p %v: %s, want %s", p, got, want)
		}
	}
}

// Rounds may each have a seed of their own; what the two sides of one are asked for must be the same.
func TestSeedsOfRounds(t *testing.T) {
	t.Parallel()
	var old, new []*Run
	for i := range 3 {
		a, b := synthetic{seed: uint64(i), blocks: 1, noise: 0.01}.run(), synthetic{seed: uint64(10 + i), blocks: 1, noise: 0.01}.run()
		a.Seed, b.Seed = uint64(i), uint64(i)
		old, new = append(old, a), append(new, b)
	}
	for _, want := range []string{"", "the new run of round 2 has another seed than its counterpart: 7, not 1"} {
		c, err := CompareRounds(old, new, 0.05)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(c.Notes, "\n"); got != want {
			t.Errorf("notes %q, want %q", got, want)
		}
		new[1].Seed = 7
	}
}
