package load

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// Scenario says what is asked of a server, how often and for how long.
type Scenario struct {
	Name  string `yaml:"-"`
	mixed bool   // without operations: 70 % reads, 20 % calls, 10 % subscriptions

	Version int    `yaml:"version" desc:"The version of this file's form: 1."`
	Seed    uint64 `yaml:"seed" desc:"Where the random numbers begin: the same seed asks for the same things in the same order."`
	// Revisions maps a revision to its share; empty finds out what the server speaks.
	Revisions   map[string]float64 `yaml:"revisions" desc:"Revisions of the protocol by weight, such as {2026-07-28: 1}. Without it the server is asked."`
	Sessions    int                `yaml:"sessions" desc:"How many sessions are open at a time."`
	HTTP2       bool               `yaml:"http2" desc:"Speak HTTP/2."`
	KeepAlive   bool               `yaml:"keep_alive" desc:"Use a connection for many requests; false opens one for each."`
	MaxInFlight int                `yaml:"max_in_flight" desc:"The most requests at a time. More wait, and their wait counts as latency."`
	Timeout     conf.Duration      `yaml:"timeout" desc:"How long one request may take from when it is sent."`
	LateLimit   conf.Duration      `yaml:"late_limit" desc:"A request that is sent later than this after it was due counts as late; a run with more than 0.1 % of them is invalid."`
	MaxAnswer   conf.Size          `yaml:"max_answer" desc:"The largest answer that is read."`
	Operations  []OperationConfig  `yaml:"operations" desc:"What is asked for, by weight. Without any, read-only tools are called with arguments made from their schemas."`
	Phases      []PhaseConfig      `yaml:"phases" desc:"What happens, one after the other."`
	Limits      Limits             `yaml:"limits" desc:"What a stress phase must not break."`
}

// Limits is what a step of a stress phase must hold.
type Limits struct {
	P95    conf.Duration `yaml:"p95" desc:"The 95th percentile of latency."`
	P99    conf.Duration `yaml:"p99" desc:"The 99th percentile of latency."`
	Errors float64       `yaml:"errors" desc:"The share of requests that may fail, 0 to 1."`
}

// OperationConfig is one kind of request. Exactly one of what it can be is set.
type OperationConfig struct {
	Name   string  `yaml:"name" desc:"What reports call it; without one it is made from what is asked for."`
	Weight float64 `yaml:"weight" desc:"How often it is chosen, beside the others' weights."`

	Tool      string `yaml:"tool" desc:"Call this tool."`
	Resource  string `yaml:"resource" desc:"Read this URI; {name} stands for an argument."`
	Prompt    string `yaml:"prompt" desc:"Get this prompt."`
	List      string `yaml:"list" enum:"tools,resources,templates,prompts" desc:"List these."`
	Complete  string `yaml:"complete" desc:"Complete an argument of this prompt, or of this resource template: PROMPT/ARGUMENT or URI#ARGUMENT; its beginning is the argument value."`
	Subscribe string `yaml:"subscribe" desc:"Subscribe to this URI and hold that; {name} stands for an argument."`
	Ping      bool   `yaml:"ping" desc:"Send the cheapest request that the revision has."`

	Arguments   map[string]any `yaml:"arguments" desc:"Values, or what makes them: {uniform: [LOW, HIGH]}, {zipf: [LOW, HIGH], exponent: E}, {sequence: [LOW, HIGH]}, {choice: [A, B]}, {pattern: REGEXP}, {file: PATH} with one value a line."`
	Hold        conf.Duration  `yaml:"hold" desc:"How long a subscription lasts."`
	CancelAfter conf.Duration  `yaml:"cancel_after" desc:"Cancel the request this long after it was sent. One that is answered before counts as done."`
	Expect      Expect         `yaml:"expect" desc:"What every answer must be, beside what the protocol and the tool's output schema say."`
}

// SetDefaults implements conf.Defaulter.
func (o *OperationConfig) SetDefaults() { o.Weight, o.Hold = 1, conf.Duration(10*time.Second) }

// Expect is what answers are held against.
type Expect struct {
	Contains string `yaml:"contains" desc:"The result's JSON holds this text."`
	Error    string `yaml:"error" desc:"The answer is this error: tool, or rpc CODE. Then it counts as done."`
}

// PhaseConfig is one part of a scenario: requests at a rate (open loop), or users that wait for their answers (closed loop).
type PhaseConfig struct {
	Name     string        `yaml:"name" desc:"What reports call it; without one it is its kind."`
	Kind     string        `yaml:"kind" enum:"warm-up,ramp,sustain,burst,stress,cool-down" desc:"What it is for. Warm-up and cool-down are not measured."`
	Duration conf.Duration `yaml:"duration" desc:"How long it lasts; of a stress phase, how long each step does."`
	Rate     float64       `yaml:"rate" desc:"Requests a second; of a ramp at its end, of a stress phase the greatest that is tried."`
	From     float64       `yaml:"from" desc:"Of a ramp: requests a second at its beginning; of a stress phase the first that is tried."`
	Users    int           `yaml:"users" desc:"Instead of a rate: so many users, each of whom waits for the answer before the next request."`
	Think    conf.Duration `yaml:"think" desc:"How long a user waits between an answer and the next request."`
	Burst    Burst         `yaml:"burst" desc:"Of a burst phase: its spikes."`
}

// SetDefaults implements conf.Defaulter.
func (p *PhaseConfig) SetDefaults() { p.Kind = "sustain" }

// Burst is how spikes stand out of a phase's rate.
type Burst struct {
	Factor float64       `yaml:"factor" desc:"The rate in a spike is so many times the phase's."`
	For    conf.Duration `yaml:"for" desc:"How long a spike lasts."`
	Every  conf.Duration `yaml:"every" desc:"From the beginning of one to that of the next."`
}

// DefaultScenario has every default, and neither operations nor phases.
func DefaultScenario() Scenario {
	return Scenario{Version: 1, Seed: 1, Sessions: 50, KeepAlive: true, MaxInFlight: 1000, Timeout: conf.Duration(10 * time.Second),
		LateLimit: conf.Duration(10 * time.Millisecond), MaxAnswer: 4 << 20,
		Limits: Limits{P95: conf.Duration(100 * time.Millisecond), P99: conf.Duration(200 * time.Millisecond), Errors: 0.001}}
}

// Bounds of a scenario: what is beyond them is a slip of the pen.
const (
	mostRate       = 1e6
	mostInFlight   = 20_000
	longestRun     = 7 * 24 * time.Hour
	mostOperations = 1000
)

// ReadScenario reads a scenario's file, or gives a built-in one of that name.
func ReadScenario(nameOrFile string) (*Scenario, error) {
	if s, ok := builtIn(nameOrFile); ok {
		return s, nil
	}
	data, err := os.ReadFile(nameOrFile)
	if errors.Is(err, os.ErrNotExist) && !strings.ContainsAny(nameOrFile, "./") {
		return nil, fmt.Errorf("no scenario is called %q; built in are %s, anything else is a file", nameOrFile, strings.Join(builtInNames, ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("read the scenario: %w", err)
	}
	return ParseScenario(nameOrFile, data)
}

// ParseScenario reads the YAML of a scenario; its faults are conf.Faults.
func ParseScenario(file string, data []byte) (*Scenario, error) {
	s := DefaultScenario()
	s.Name, s.Version = file, 0
	doc, faults := conf.Parse(file, data, os.LookupEnv)
	if doc == nil || len(faults) > 0 {
		return nil, faults
	}
	if faults = doc.Decode(&s); len(faults) == 0 {
		faults = doc.Locate(s.Validate())
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return &s, nil
}

// Validate gives every fault, each with its path.
func (s *Scenario) Validate() conf.Faults {
	var faults conf.Faults
	add := func(path, message, fix string) {
		faults = append(faults, conf.Fault{Path: path, Message: message, Fix: fix})
	}
	between := func(path string, n, low, high float64) {
		if !(n >= low && n <= high) {
			add(path, fmt.Sprintf("is %v", n), fmt.Sprintf("write a number from %v to %v", low, high))
		}
	}
	if s.Version != 1 {
		add("version", "this file's form is not known", "write version: 1")
	}
	for name, w := range s.Revisions {
		path := conf.Key("revisions", name)
		if _, ok := mcp.ParseRevision(name); !ok {
			add(path, "no revision is called so", "write one of "+strings.Join(revisionNames(), ", "))
		}
		between(path, w, 0.001, 1e6)
	}
	between("sessions", float64(s.Sessions), 1, mostInFlight)
	between("max_in_flight", float64(s.MaxInFlight), 1, mostInFlight)
	between("timeout", s.Timeout.Std().Seconds(), 0.001, longest.Seconds())
	between("late_limit", s.LateLimit.Std().Seconds(), 0.0001, 10)
	between("max_answer", float64(s.MaxAnswer), 1<<10, 1<<30)
	between("limits.errors", s.Limits.Errors, 0, 1)
	if len(s.Operations) > mostOperations {
		add("operations", fmt.Sprintf("has %d entries", len(s.Operations)), fmt.Sprintf("keep it to %d", mostOperations))
		return faults
	}
	names := map[string]bool{}
	for i := range s.Operations {
		path := conf.Index("operations", i)
		o := &s.Operations[i]
		faults = append(faults, o.validate(path)...)
		if o.Name == "" {
			o.Name = o.describe()
		}
		if names[o.Name] {
			add(path, fmt.Sprintf("another operation is called %q too", o.Name), "give it a name of its own")
		}
		names[o.Name] = true
	}
	if len(s.Phases) == 0 {
		add("phases", "is missing", "add one, such as {duration: 30s, rate: 100}")
	}
	total := time.Duration(0)
	for i := range s.Phases {
		p := &s.Phases[i]
		p.Name = cmp.Or(p.Name, p.Kind)
		faults = append(faults, p.validate(conf.Index("phases", i))...)
		total += min(p.Duration.Std(), longestRun+1) // so that the sum stays in range
		if total > longestRun {
			add("phases", "last longer than a week", "make them shorter")
			break
		}
	}
	return faults
}

func revisionNames() (names []string) {
	for r := mcp.RevisionNone + 1; r <= mcp.Modern; r++ {
		names = append(names, r.String())
	}
	return names
}

func (o *OperationConfig) kinds() map[string]bool {
	return map[string]bool{"tool": o.Tool != "", "resource": o.Resource != "", "prompt": o.Prompt != "", "list": o.List != "",
		"complete": o.Complete != "", "subscribe": o.Subscribe != "", "ping": o.Ping}
}

// describe names the operation by what it asks for.
func (o *OperationConfig) describe() string {
	for _, pair := range [][2]string{{"", o.Tool}, {"read ", o.Resource}, {"prompt ", o.Prompt}, {"list ", o.List}, {"complete ", o.Complete}, {"subscribe ", o.Subscribe}} {
		if pair[1] != "" {
			return pair[0] + pair[1]
		}
	}
	return "ping"
}

func (o *OperationConfig) validate(path string) (faults conf.Faults) {
	add := func(key, message, fix string) {
		faults = append(faults, conf.Fault{Path: conf.Key(path, key), Message: message, Fix: fix})
	}
	set := o.kinds()
	maps.DeleteFunc(set, func(_ string, v bool) bool { return !v })
	if len(set) != 1 {
		message := "says not what to ask for"
		if len(set) > 1 {
			message = "asks for several things: " + strings.Join(slices.Sorted(maps.Keys(set)), ", ")
		}
		faults = append(faults, conf.Fault{Path: path, Message: message, Fix: "set one of tool, resource, prompt, list, complete, subscribe, ping"})
	}
	if !(o.Weight > 0 && o.Weight <= 1e6) {
		add("weight", fmt.Sprintf("is %v", o.Weight), "write a number above 0")
	}
	if o.Hold.Std() <= 0 || o.Hold.Std() > longest {
		add("hold", "is "+o.Hold.String(), "write a duration up to "+longest.String())
	}
	if o.CancelAfter < 0 || o.CancelAfter.Std() > longest {
		add("cancel_after", "is "+o.CancelAfter.String(), "write a duration up to "+longest.String())
	}
	if o.Complete != "" && !strings.ContainsAny(o.Complete, "/#") {
		add("complete", "names no argument", "write PROMPT/ARGUMENT or URI-TEMPLATE#ARGUMENT")
	}
	if e := o.Expect.Error; e != "" && e != "tool" && !strings.HasPrefix(e, "rpc -") {
		add("expect.error", fmt.Sprintf("is %q", e), "write tool, or rpc and the code, such as rpc -32602")
	}
	for name, v := range o.Arguments {
		if _, err := newValue(v); err != nil {
			add(conf.Key("arguments", name), err.Error(), "write a value, {uniform: [1, 100]}, {zipf: [1, 100], exponent: 1.1}, {sequence: [1, 100]}, {choice: [a, b]}, {pattern: REGEXP} or {file: PATH}")
		}
	}
	return faults
}

func (p *PhaseConfig) validate(path string) (faults conf.Faults) {
	add := func(key, message, fix string) {
		faults = append(faults, conf.Fault{Path: conf.Key(path, key), Message: message, Fix: fix})
	}
	if p.Duration <= 0 {
		add("duration", "is missing", "write how long it lasts, such as 30s")
	}
	open, closed := p.Rate != 0 || p.From != 0, p.Users != 0
	switch {
	case open == closed:
		faults = append(faults, conf.Fault{Path: path, Message: "needs either a rate or users", Fix: "write rate: 100, or users: 10"})
	case closed && (p.Users < 0 || p.Users > mostInFlight):
		add("users", fmt.Sprintf("is %d", p.Users), fmt.Sprintf("write a number from 1 to %d", mostInFlight))
	case open && !(p.Rate >= 0 && p.Rate <= mostRate && p.From >= 0 && p.From <= mostRate):
		add("rate", fmt.Sprintf("goes from %v to %v", p.From, p.Rate), fmt.Sprintf("write numbers from 0 to %.0f", mostRate))
	case closed && (p.Kind == "ramp" || p.Kind == "burst" || p.Kind == "stress"):
		add("kind", "a "+p.Kind+" has no users", "write a rate")
	case p.From != 0 && p.Kind != "ramp" && p.Kind != "stress":
		add("from", "only a ramp and a stress phase have it", "set kind: ramp")
	case p.Kind == "stress" && !(p.From > 0 && p.From < p.Rate):
		add("from", "is not the lower of the rates to try", "write the first rate to try, below rate")
	}
	if p.Think < 0 || p.Think != 0 && !closed {
		add("think", "only users think", "remove it, or set users")
	}
	b := p.Burst
	if p.Kind == "burst" && !(b.Factor > 0 && b.Factor*p.Rate <= mostRate && b.For > 0 && b.Every > b.For) {
		add("burst", "does not say what a spike is", "write burst: {factor: 5, for: 5s, every: 30s}")
	}
	if p.Kind != "burst" && b != (Burst{}) {
		add("burst", "only a burst phase has it", "set kind: burst")
	}
	return faults
}

// hash is the same for scenarios that ask for the same, whatever their seed.
func (s *Scenario) hash() string {
	seedless := *s
	seedless.Name, seedless.Seed = "", 0
	b, err := json.Marshal(seedless)
	if err != nil {
		panic(err) // it was read from YAML
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Scale makes the scenario last d in all, and changes its rates so that the greatest is rate. Zero leaves things as they are.
func (s *Scenario) Scale(d time.Duration, rate float64) {
	total, top := time.Duration(0), 0.0
	for _, p := range s.Phases {
		if p.Kind != "stress" {
			total += p.Duration.Std()
		}
		top = max(top, p.Rate, p.From, p.Rate*p.Burst.Factor)
	}
	for i := range s.Phases {
		p := &s.Phases[i]
		if d > 0 && total > 0 && p.Kind != "stress" {
			f := float64(d) / float64(total)
			p.Duration = conf.Duration(float64(p.Duration) * f)
			if p.Kind == "burst" && p.Duration < p.Burst.Every { // at least one spike
				p.Burst.For = conf.Duration(float64(p.Burst.For) * float64(p.Duration) / float64(p.Burst.Every))
				p.Burst.Every = p.Duration
			}
		}
		if rate > 0 && top > 0 {
			p.Rate, p.From = p.Rate*rate/top, p.From*rate/top
		}
	}
}
