package load

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// Whatever stands in a scenario's file or in one of gates is refused with faults that say where, or is one that can be run.
func FuzzFiles(f *testing.F) {
	f.Add([]byte("version: 1\noperations: [{tool: t, arguments: {id: {zipf: [1, 9], exponent: 1}}}]\nphases: [{rate: 10, duration: 1s}]\n"))
	f.Add([]byte("version: 1\noperations: [{subscribe: 'a://{x}', arguments: {x: {pattern: '[a-z]{3}'}}, hold: 1s}]\nphases: [{kind: burst, rate: 1, duration: 9s, burst: {factor: 5, for: 1s, every: 3s}}]\n"))
	f.Add([]byte("version: 1\ngates: [{figure: latency.p95, max: 100ms}, {figure: throughput, min: 10000/s, phase: p}]\n"))
	for _, name := range shippedNames {
		data, err := shippedGates.ReadFile("gates/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	run := &Run{Phases: []Phase{{Name: "p", Kind: "sustain", Measured: true, Seconds: 1}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(data, []byte("file")) {
			return // it may name files of this machine
		}
		placed := func(err error) {
			var faults conf.Faults
			if err != nil && (!errors.As(err, &faults) || len(faults) == 0) {
				t.Errorf("no fault says where: %v", err)
			}
		}
		s, err := ParseScenario("s.yaml", data)
		placed(err)
		if err == nil {
			for _, cfg := range s.Operations {
				if o, err := newOperation(cfg); err == nil {
					var q request
					o.build(&q, mcp.Revision20260728, rand.New(rand.NewPCG(1, 2)))
				}
			}
		}
		g, err := parseGates("g.yaml", data)
		placed(err)
		if err == nil {
			_, _ = g.Hold(run)
		}
	})
}
