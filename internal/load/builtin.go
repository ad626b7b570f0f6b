package load

import (
	"time"

	"millrace/internal/conf"
)

// builtInNames are the scenarios that need no file.
var builtInNames = []string{"ramp", "soak", "burst", "stress", "mixed"}

// builtIn gives a scenario by its name. All find out by themselves what the server offers.
func builtIn(name string) (*Scenario, bool) {
	s := DefaultScenario()
	s.Name = name
	const second, minute = conf.Duration(time.Second), conf.Duration(time.Minute)
	warm := PhaseConfig{Name: "warm-up", Kind: "warm-up", Duration: 5 * second, Rate: 500}
	cool := PhaseConfig{Name: "cool-down", Kind: "cool-down", Duration: 5 * second, Rate: 100}
	switch name {
	case "ramp":
		s.Phases = []PhaseConfig{warm, {Name: "ramp", Kind: "ramp", Duration: minute, Rate: 10_000},
			{Name: "sustain", Kind: "sustain", Duration: 30 * second, Rate: 10_000}, cool}
	case "soak":
		s.Phases = []PhaseConfig{warm, {Name: "soak", Kind: "sustain", Duration: 60 * minute, Rate: 2000}}
	case "burst":
		s.Phases = []PhaseConfig{warm, {Name: "burst", Kind: "burst", Duration: 2 * minute, Rate: 1000,
			Burst: Burst{Factor: 5, For: 5 * second, Every: 30 * second}}, cool}
	case "stress":
		s.Phases = []PhaseConfig{warm, {Name: "stress", Kind: "stress", Duration: 10 * second, From: 500, Rate: 50_000}}
	case "mixed":
		s.Phases = []PhaseConfig{warm, {Name: "mixed", Kind: "sustain", Duration: minute, Rate: 2000}, cool}
		s.mixed = true
	default:
		return nil, false
	}
	return &s, true
}

// Simple is the scenario of a command line without one: a rate, or users.
func Simple(rate float64, users int, d time.Duration) *Scenario {
	s := DefaultScenario()
	s.Name = "simple"
	s.Phases = []PhaseConfig{{Name: "sustain", Kind: "sustain", Duration: conf.Duration(d), Rate: rate, Users: users}}
	return &s
}
