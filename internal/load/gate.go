package load

import (
	"embed"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/conf"
)

// Gates are limits that a run's figures must hold. LoadGates makes them.
type Gates struct {
	Name    string `yaml:"-"` // of the shipped ones, or the file's
	Version int    `yaml:"version" desc:"The version of this file's form: 1."`
	Gates   []Gate `yaml:"gates" desc:"The limits, all of which must hold."`

	doc *conf.Document
}

// Gate is the limit of one figure.
type Gate struct {
	Figure    string `yaml:"figure" desc:"What is limited, such as latency.p95."`
	Phase     string `yaml:"phase" desc:"In this phase; without it over all measured phases."`
	Operation string `yaml:"operation" desc:"Of this operation; without it of all."`
	Min       any    `yaml:"min" desc:"The least value that holds, with the figure's unit."`
	Max       any    `yaml:"max" desc:"The greatest value that holds, with the figure's unit."`

	low, high float64 // NaN without a limit
	figure    *gateFigure
}

//go:embed gates/*.yaml
var shippedGates embed.FS

// shippedNames are the gates that need no file.
var shippedNames = []string{"promise", "soak"}

// LoadGates reads a file of gates, or gives the shipped ones of that name. Mistakes in the file are conf.Faults.
func LoadGates(nameOrFile string) (*Gates, error) {
	if slices.Contains(shippedNames, nameOrFile) {
		file := "gates/" + nameOrFile + ".yaml"
		data, err := shippedGates.ReadFile(file)
		if err != nil {
			return nil, err
		}
		g, err := parseGates(file, data)
		if g != nil {
			g.Name = nameOrFile
		}
		return g, err
	}
	data, err := os.ReadFile(nameOrFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %q, and shipped gates are called %s: name one of them", nameOrFile, strings.Join(shippedNames, " and "))
	}
	if err != nil {
		return nil, fmt.Errorf("read the gates: %w", err)
	}
	return parseGates(nameOrFile, data)
}

func parseGates(file string, data []byte) (*Gates, error) {
	g := &Gates{Name: file}
	doc, faults := conf.Parse(file, data, os.LookupEnv)
	g.doc = doc
	if len(faults) > 0 {
		return nil, faults
	}
	if faults = doc.Decode(g); len(faults) == 0 {
		faults = doc.Locate(g.validate())
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return g, nil
}

// validate reads the limits by the figures' units.
func (g *Gates) validate() (faults conf.Faults) {
	fault := func(path, message, fix string) {
		faults = append(faults, conf.Fault{Path: path, Message: message, Fix: fix})
	}
	if g.Version != 1 {
		fault("version", "must be 1", "write version: 1")
	}
	if len(g.Gates) == 0 {
		fault("gates", "there is none, so nothing would be held", "write at least one, such as {figure: error_rate, max: 0.1%}")
	}
	for i := range g.Gates {
		x := &g.Gates[i]
		path := conf.Index("gates", i)
		x.low, x.high = math.NaN(), math.NaN()
		if x.figure = figureNamed(x.Figure); x.figure == nil {
			fault(conf.Key(path, "figure"), fmt.Sprintf("%q is no figure", x.Figure), nearestFix(x.Figure, figureNames(), "figures"))
			continue
		}
		if x.Phase != "" && x.figure.of == ofRun {
			fault(conf.Key(path, "phase"), x.Figure+" is a figure of the whole run", "remove the key")
		}
		if x.Operation != "" && x.figure.of != ofOperation {
			fault(conf.Key(path, "operation"), x.Figure+" is no figure of a single operation", "remove the key")
		}
		if x.Min == nil && x.Max == nil {
			fault(path, "has no limit", "write min, max or both")
		}
		for _, limit := range []struct {
			key  string
			from any
			to   *float64
		}{{"min", x.Min, &x.low}, {"max", x.Max, &x.high}} {
			if limit.from == nil {
				continue
			}
			v, problem, fix := x.figure.unit.parse(limit.from)
			if problem != "" {
				fault(conf.Key(path, limit.key), problem, fix)
				continue
			}
			*limit.to = v
		}
		if x.low > x.high {
			fault(conf.Key(path, "min"), "is greater than max", "write a range that a figure can be in")
		}
	}
	return faults
}

// check looks up the phases and operations that the gates name.
func (g *Gates) check(run *Run) error {
	var faults conf.Faults
	for i := range g.Gates {
		x := &g.Gates[i]
		path := conf.Index("gates", i)
		phases := run.Measured()
		if x.Phase != "" {
			if phases = phasesNamed(run, x.Phase); len(phases) == 0 {
				var known []string
				for j := range run.Phases {
					known = append(known, run.Phases[j].Name)
				}
				faults = append(faults, conf.Fault{Path: conf.Key(path, "phase"), Message: fmt.Sprintf("the run has no phase %q", x.Phase), Fix: nearestFix(x.Phase, known, "phases")})
				continue
			}
		}
		if x.Operation == "" {
			continue
		}
		var known []string
		for _, p := range phases {
			for j := range p.Operations {
				known = append(known, p.Operations[j].Name)
			}
		}
		if !slices.Contains(known, x.Operation) {
			faults = append(faults, conf.Fault{Path: conf.Key(path, "operation"), Message: fmt.Sprintf("the run has no operation %q there", x.Operation), Fix: nearestFix(x.Operation, known, "operations")})
		}
	}
	return g.doc.Locate(faults).Err()
}

func phasesNamed(run *Run, name string) (out []*Phase) {
	for i := range run.Phases {
		if run.Phases[i].Name == name {
			out = append(out, &run.Phases[i])
		}
	}
	return out
}

// Verdict is what became of gates.
type Verdict struct {
	Gates    string
	Scenario string
	Results  []GateResult
}

// GateResult is what became of one gate.
type GateResult struct {
	Figure  string // with the phase and the operation
	Limit   string
	Value   string
	Outcome GateOutcome
	Reason  string // of what is missing or not valid
}

// GateOutcome is what a gate comes to.
type GateOutcome string

// The outcomes of a gate. A figure that is missing fails.
const (
	Pass    GateOutcome = "PASS"
	Fail    GateOutcome = "FAIL"
	Missing GateOutcome = "MISSING"
)

// Passed tells whether all gates hold.
func (v *Verdict) Passed() bool { return len(v.Results) > 0 && v.failed() == 0 }

func (v *Verdict) failed() (n int) {
	for i := range v.Results {
		if v.Results[i].Outcome != Pass {
			n++
		}
	}
	return n
}

// Hold holds a run against the gates. That a run is valid and complete is a gate of its own. An error is a phase or an
// operation that the run does not have: conf.Faults.
func (g *Gates) Hold(run *Run) (*Verdict, error) {
	if err := g.check(run); err != nil {
		return nil, err
	}
	v := &Verdict{Gates: g.Name, Scenario: run.Scenario}
	whole := GateResult{Figure: "run", Limit: "valid and complete", Value: "valid and complete", Outcome: Pass}
	reasons := slices.Clone(run.Invalid)
	if run.Interrupted {
		reasons = append(reasons, "it was ended before its time")
	}
	if len(reasons) > 0 {
		whole.Outcome, whole.Value, whole.Reason = Fail, "not", strings.Join(reasons, "; ")
	}
	v.Results = append(v.Results, whole)
	slopes := growth(run)
	for i := range g.Gates {
		v.Results = append(v.Results, g.Gates[i].hold(run, slopes))
	}
	return v, nil
}

func (x *Gate) hold(run *Run, slopes []Leak) GateResult {
	r := GateResult{Figure: x.Figure, Limit: x.limit(), Value: "-"}
	phases := run.Measured()
	if x.Phase != "" {
		r.Figure += ", phase " + x.Phase
		phases = phasesNamed(run, x.Phase)
	}
	if x.Operation != "" {
		r.Figure += ", operation " + x.Operation
	}
	value, err := x.figure.value(gateSource{run: run, phases: phases, operation: x.Operation, slopes: slopes, whole: x.Phase == ""})
	if err == nil && math.IsNaN(value) {
		err = errors.New("the run has no such figure")
	}
	if err != nil {
		r.Outcome, r.Reason = Missing, err.Error()
		return r
	}
	r.Value, r.Outcome = x.figure.unit.format(value), Pass
	if value < x.low || value > x.high {
		r.Outcome = Fail
		if strings.Contains(r.Limit, " "+r.Value) {
			r.Reason = "by less than the digits show"
		}
	}
	return r
}

func (x *Gate) limit() string {
	var parts []string
	if !math.IsNaN(x.low) {
		parts = append(parts, "≥ "+x.figure.unit.format(x.low))
	}
	if !math.IsNaN(x.high) {
		parts = append(parts, "≤ "+x.figure.unit.format(x.high))
	}
	return strings.Join(parts, " and ")
}

// parse reads a limit; what is wrong comes with what to write.
func (u figureUnit) parse(from any) (v float64, problem, fix string) {
	text, isText := from.(string)
	switch n := from.(type) {
	case int64, uint64, float64:
		text = fmt.Sprint(n)
	case string:
	default:
		return 0, "must be a single value", "write a number, with the figure's unit where it has one"
	}
	var err error
	switch u {
	case unitSeconds:
		var d conf.Duration
		err = d.UnmarshalText([]byte(text))
		v = d.Std().Seconds()
	case unitBytes:
		var s conf.Size
		err = s.UnmarshalText([]byte(text))
		v = float64(s)
	default:
		number, percent := text, u == unitShare && strings.HasSuffix(text, "%")
		if percent {
			number = strings.TrimSpace(strings.TrimSuffix(text, "%"))
		}
		parsed, bad := strconv.ParseFloat(number, 64)
		switch {
		case isText && !percent, bad != nil, math.IsNaN(parsed), math.IsInf(parsed, 0):
			fix = "write a number without a unit"
			if u == unitShare {
				fix = "write a share, such as 0.1% or 0.001"
			}
			return 0, fmt.Sprintf("%q is no number", text), fix
		case percent:
			parsed /= 100
		}
		if v = parsed; v < 0 {
			return 0, "is negative", "write 0 or more"
		}
		if u == unitShare && v > 1 {
			return 0, text + " is more than the whole", "write a share of at most 100%, such as " + strings.TrimSuffix(text, "%") + "% for so many in a hundred"
		}
	}
	if err != nil {
		problem, fix, _ = strings.Cut(err.Error(), "; ")
	}
	return v, problem, fix
}
