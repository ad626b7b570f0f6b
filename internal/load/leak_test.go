package load

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// served makes a run of n seconds at 1000 requests a second whose heap grows by so many bytes a request below a saw-tooth.
func served(seed uint64, n int, heap, goroutines, files float64) *Run {
	r := rand.New(rand.NewPCG(seed, 5))
	run := &Run{Format: Format, Scenario: "soak", Server: &Server{}, Phases: []Phase{
		{Name: "warm-up", Kind: "warm-up", Seconds: 10},
		{Name: "soak", Kind: "sustain", Start: 10, Seconds: float64(n), Measured: true}}}
	tooth, noise, requests := r.Float64(), 0.0, 0.0
	for i := range n + 10 {
		// A warm-up that fills caches and starts workers is none of it.
		warm := math.Min(1, float64(i)/15)
		if tooth += 0.07 + 0.02*r.Float64(); tooth > 1 {
			tooth = 0
		}
		noise = 0.6*noise + r.NormFloat64()
		h := 40e6*warm + 8e6*tooth + 0.5e6*noise + heap*requests
		g := math.Round(50*warm + 10*r.Float64() + goroutines*requests)
		f := math.Round(20*warm + 3*r.Float64() + files*requests)
		res := 2 * h
		run.Server.Samples = append(run.Server.Samples, Sample{At: float64(i), Heap: &h, Resident: &res, Goroutines: &g, OpenFiles: &f, Requests: int64(requests)})
		requests += 900 + 200*r.Float64()
	}
	return run
}

func TestLeaks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                    string
		n                       int
		heap, goroutines, files float64
		want                    string
	}{
		{"flat", 300, 0, 0, 0, ""}, {"flat and short", 60, 0, 0, 0, ""}, {"flat and long", 5000, 0, 0, 0, ""},
		{"below the floor", 5000, 20, 1e-5, 1e-5, ""},
		{"1 KB a request", 300, 1000, 0, 0, "heap,resident memory"},
		{"1 goroutine in 1000 requests", 300, 0, 1e-3, 0, "goroutines"},
		{"1 file in 1000 requests", 300, 0, 0, 1e-3, "open files"},
	} {
		wrong := 0
		for seed := range uint64(50) {
			var got []string
			for _, l := range Leaks(served(seed, c.n, c.heap, c.goroutines, c.files)) {
				got = append(got, l.Figure)
				if want := map[string]float64{"heap": c.heap, "goroutines": c.goroutines, "open files": c.files}[l.Figure]; want > 0 && math.Abs(l.Request.Value/want-1) > 0.4 {
					t.Errorf("%s: %s", c.name, l)
				}
			}
			if strings.Join(got, ",") != c.want {
				wrong++
			}
		}
		if wrong > 2 {
			t.Errorf("%s: %d of 50 runs do not give %q", c.name, wrong, c.want)
		}
	}
}

// TestIntervalOfSlopes: the true slope is in about 95 of 100 intervals, of each figure.
func TestIntervalOfSlopes(t *testing.T) {
	t.Parallel()
	outside := map[string]int{}
	for seed := range uint64(200) {
		for _, l := range growth(served(seed, 200, 500, 2e-3, 2e-3)) {
			want := map[string]float64{"heap": 500, "resident memory": 1000, "goroutines": 2e-3, "open files": 2e-3}[l.Figure]
			if want < l.Request.Low || want > l.Request.High {
				outside[l.Figure]++
			}
			if l.Hour.Value < want*3.4e6 || l.Hour.Value > want*3.8e6 {
				if l.Figure == "goroutines" {
					t.Errorf("%s", l)
				}
			}
		}
	}
	for figure, n := range outside {
		if n > 20 {
			t.Errorf("%s: the true slope is outside %d of 200 intervals", figure, n)
		}
	}
}

// TestHigherRatesAreNoLeak: what a second phase takes for its higher rate is not growth.
func TestHigherRatesAreNoLeak(t *testing.T) {
	t.Parallel()
	run := served(1, 120, 0, 0, 0)
	run.Phases[1].Seconds = 60
	run.Phases = append(run.Phases, Phase{Name: "more", Kind: "sustain", Start: 70, Seconds: 60, Measured: true},
		Phase{Name: "ramp", Kind: "ramp", Start: 10, Seconds: 120, Measured: true})
	for i := range run.Server.Samples {
		if run.Server.Samples[i].At >= 70 {
			*run.Server.Samples[i].Goroutines += 500
		}
	}
	if l := Leaks(run); len(l) > 0 {
		t.Errorf("%v", l)
	}
	run.Server.Samples = run.Server.Samples[:20]
	if g := growth(run); len(g) > 0 {
		t.Errorf("too few samples give %v", g)
	}
	if g := growth(&Run{}); g != nil {
		t.Errorf("no samples give %v", g)
	}
}

// What goes with the generator's own connections is no leak, and does not hide one.
func TestConnectionsAreNoLeak(t *testing.T) {
	t.Parallel()
	for leak, want := range map[float64]int{0: 0, 0.001: 1} {
		r := rand.New(rand.NewPCG(7, 7))
		run := &Run{Phases: []Phase{{Name: "s", Kind: "sustain", Measured: true, Seconds: 120}}, Server: &Server{}}
		connections := 20
		for i := range 121 {
			if i == 50 || i == 80 { // stalls, after which more are open
				connections += 150
			}
			n := 10 + 2*float64(connections) + leak*float64(i*1000) + r.NormFloat64()
			run.Server.Samples = append(run.Server.Samples, Sample{At: float64(i), Goroutines: &n, Requests: int64(i * 1000), Connections: connections})
		}
		if got := Leaks(run); len(got) != want {
			t.Errorf("with %v goroutines a request: %v", leak, got)
		}
	}
}

// The generator's own growth comes from the steady part of a run, and is not told of one that is too short.
func TestOwnGrowth(t *testing.T) {
	t.Parallel()
	made := func(seconds int, hour float64) *Run {
		r := rand.New(rand.NewPCG(7, uint64(seconds)))
		run := &Run{Phases: []Phase{{Kind: "warm-up", Seconds: 10}, {Kind: "sustain", Measured: true, Start: 10, Seconds: float64(seconds)}}}
		for i := range seconds + 10 {
			start := 30e6 * math.Min(1, float64(i)/20)
			run.Intervals = append(run.Intervals, Interval{Start: float64(i), Seconds: 1, Resident: int64(start + hour*float64(i)/3600 + 1e6*r.NormFloat64())})
		}
		return run
	}
	for _, hour := range []float64{0, 500e6} {
		s := ownGrowth(made(600, hour))
		if s == nil || s.Low > hour || s.High < hour || s.High-s.Low > 10e6 {
			t.Errorf("%.0f bytes an hour: %+v", hour, s)
		}
	}
	if s := ownGrowth(made(5, 0)); s != nil {
		t.Errorf("five seconds: %+v", s)
	}
	unknown := made(600, 0)
	for i := range unknown.Intervals {
		unknown.Intervals[i].Resident = 0
	}
	if s := ownGrowth(unknown); s != nil {
		t.Errorf("nothing known: %+v", s)
	}
}
