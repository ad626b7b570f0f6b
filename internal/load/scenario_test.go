package load

import (
	"strings"
	"testing"
	"time"
)

// Every mistake in a scenario's file is told with its line and what to write instead.
func TestScenarioFaults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"phases: [{duration: 1s, rate: 1}]":                                                                                 "version: this file's form is not known; write version: 1",
		"version: 1":                                                                                                        "phases: is missing; add one",
		"version: 1\nphases:\n  - {duration: 1s}":                                                                           "f:3:5: phases[0]: needs either a rate or users",
		"version: 1\nphases:\n  - {duration: 1s, rate: 1, users: 2}":                                                        "f:3:5: phases[0]: needs either a rate or users",
		"version: 1\nphases:\n  - {rate: 1}":                                                                                "phases[0].duration: is missing",
		"version: 1\nphases:\n  - {rate: 1, duration: 10}":                                                                  "f:3:25: phases[0].duration",
		"version: 1\nphases:\n  - {rate: 2000000, duration: 1s}":                                                            "phases[0].rate: goes from 0 to 2e+06",
		"version: 1\nphases:\n  - {kind: burst, rate: 1, duration: 1s}":                                                     "phases[0].burst: does not say what a spike is",
		"version: 1\nphases:\n  - {kind: stress, rate: 1, duration: 1s}":                                                    "phases[0].from: is not the lower",
		"version: 1\nphases:\n  - {kind: ramp, users: 1, duration: 1s}":                                                     "phases[0].kind: a ramp has no users",
		"version: 1\nphases:\n  - {kind: sprint, rate: 1, duration: 1s}":                                                    "f:3:12: phases[0].kind",
		"version: 1\nphases:\n  - {rate: 1, duration: 1s, think: 1s}":                                                       "phases[0].think: only users think",
		"version: 1\nphases: [{rate: 1, duration: 200h}]":                                                                   "phases: last longer than a week",
		"version: 1\nphase: []":                                                                                             "f:2:1: phase",
		"version: 1\nrevisions: {2020-01-01: 1}\nphases: [{rate: 1, duration: 1s}]":                                         "f:2:25: revisions.2020-01-01: no revision is called so; write one of 2024-11-05",
		"version: 1\noperations: [{tool: a, prompt: b}]\nphases: [{rate: 1, duration: 1s}]":                                 "f:2:14: operations[0]: asks for several things: prompt, tool",
		"version: 1\noperations: [{weight: 2}]\nphases: [{rate: 1, duration: 1s}]":                                          "operations[0]: says not what to ask for",
		"version: 1\noperations: [{tool: a}, {tool: a}]\nphases: [{rate: 1, duration: 1s}]":                                 `operations[1]: another operation is called "a" too`,
		"version: 1\noperations: [{tool: a, weight: -1}]\nphases: [{rate: 1, duration: 1s}]":                                "operations[0].weight: is -1",
		"version: 1\noperations: [{complete: a}]\nphases: [{rate: 1, duration: 1s}]":                                        "operations[0].complete: names no argument",
		"version: 1\noperations: [{tool: a, expect: {error: x}}]\nphases: [{rate: 1, duration: 1s}]":                        "operations[0].expect.error",
		"version: 1\noperations:\n  - tool: a\n    arguments:\n      id: {zipf: [1, 2]}\nphases: [{rate: 1, duration: 1s}]": "f:5:7: operations[0].arguments.id: zipf has no exponent",
		"version: 1\nlimits: {errors: 2}\nphases: [{rate: 1, duration: 1s}]":                                                "limits.errors: is 2",
		"version: 1\nmax_in_flight: 0\nphases: [{rate: 1, duration: 1s}]":                                                   "f:2:16: max_in_flight: is 0; write a number from 1",
	} {
		_, err := ParseScenario("f", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngave %v\nwant %q", text, err, want)
		}
	}
	if _, err := ReadScenario("sook"); err == nil || !strings.Contains(err.Error(), "built in are ramp, soak, burst, stress, mixed") {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestBuiltIn(t *testing.T) {
	t.Parallel()
	for _, name := range builtInNames {
		s, err := ReadScenario(name)
		if err != nil {
			t.Fatal(err)
		}
		s.Scale(20*time.Second, 100)
		if faults := s.Validate(); len(faults) > 0 {
			t.Errorf("%s: %v", name, faults)
		}
		total, top := time.Duration(0), 0.0
		for _, p := range s.Phases {
			if p.Kind != "stress" {
				total += p.Duration.Std()
			}
			top = max(top, p.Rate, p.Rate*p.Burst.Factor)
		}
		if d := total - 20*time.Second; d < -time.Millisecond || d > time.Millisecond || top < 99.9 || top > 100.1 {
			t.Errorf("%s lasts %s at up to %.1f/s, want 20s and 100/s", name, total, top)
		}
	}
}
