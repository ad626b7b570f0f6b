package load

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// DefaultThreshold is the least change that counts: 5 %.
const DefaultThreshold = 0.05

// Comparison is what differs between an old and a new run, or between several of each.
type Comparison struct {
	Threshold float64
	Rounds    int // 0 where two single runs were compared
	Changes   []Change
	// Unmatched names the phases and operations that are not on both sides.
	Unmatched []string
	// Notes says what else differs between the runs.
	Notes []string
}

// Change is one figure on both sides.
type Change struct {
	Phase, Operation string // Operation is "" for a figure of the whole phase
	Figure           string
	// Old and New are the figure over the whole phase; of rounds, over all of them.
	Old, New float64
	// Ratio is new to old: of the blocks' figures (or the rounds') in pairs, in the middle. Low and High are its 95 %
	// confidence interval, by itself. NaN where there is none.
	Ratio, Low, High float64
	// P is the probability of so large a change where there is none, adjusted by the number of Changes (Holm). NaN where the
	// change could not be judged: Note says why.
	P       float64
	Samples int // pairs of blocks or rounds
	Outcome Outcome
	Note    string

	unit figureUnit
}

// Outcome is what a Change comes to.
type Outcome string

// The outcomes of a Change: Worse and Better are larger than the threshold and significant. Of what is neither, Unclear says
// that the interval reaches beyond the threshold: a longer run could find it worse or better.
const (
	Same     Outcome = "same"
	Unclear  Outcome = "unclear"
	Better   Outcome = "better"
	Worse    Outcome = "WORSE"
	Unjudged Outcome = "not judged"
)

// level is how often one report may find a change where there is none.
const level = 0.05

// resolution is the least error of a ratio: latencies have three digits that count.
const resolution = 0.0005

// Compare compares two runs of one scenario. The samples are the blocks of each operation, in pairs by their place in the
// phase: what a phase does by its nature, such as a ramp or a burst, is in both. They do not know what differs from
// one run to the next for reasons of its own (the machine's other work, where memory came to lie): where that is as large as
// the threshold, only CompareRounds tells.
func Compare(old, new *Run, threshold float64) (*Comparison, error) {
	c, pairs, err := compare([]*Run{old}, []*Run{new}, threshold)
	if err != nil {
		return nil, err
	}
	for _, p := range pairs {
		if p.operation == "" {
			c.add(p, figureCPU, p.cpu())
			continue
		}
		for _, f := range comparedFigures {
			c.add(p, f, p.blocks(f))
		}
	}
	return c, c.finish(1)
}

// leastRounds is the least number of rounds: with two, one number would tell how large the noise is.
const leastRounds = 3

// CompareRounds compares rounds, of which each is an old and a new run, made by turns on one machine. Each gives one value
// of a figure, paired by their index.
func CompareRounds(old, new []*Run, threshold float64) (*Comparison, error) {
	return compareRounds(old, new, threshold, 1)
}

// compareRounds is CompareRounds for one of so many looks at rounds that grow in number.
func compareRounds(old, new []*Run, threshold float64, looks int) (*Comparison, error) {
	if len(old) != len(new) || len(old) < leastRounds {
		return nil, fmt.Errorf("%d old and %d new runs make no rounds: give at least %d of each, by turns", len(old), len(new), leastRounds)
	}
	c, pairs, err := compare(old, new, threshold)
	if err != nil {
		return nil, err
	}
	c.Rounds = len(old)
	for _, p := range pairs {
		if p.operation == "" {
			c.add(p, figureCPU, p.rounds(figureCPU))
			continue
		}
		for _, f := range comparedFigures {
			c.add(p, f, p.rounds(f))
		}
	}
	return c, c.finish(looks)
}

// compare refuses what cannot be compared, and finds the phases and operations that all runs have.
func compare(old, new []*Run, threshold float64) (*Comparison, []pairing, error) {
	if !(threshold >= 0) || math.IsInf(threshold, 0) {
		return nil, nil, fmt.Errorf("a threshold of %g means nothing: give a share of 0 or more, such as %g", threshold, DefaultThreshold)
	}
	all := append(slices.Clone(old), new...)
	c := &Comparison{Threshold: threshold}
	for i, r := range all {
		name := nameOfRun(i, len(old))
		switch {
		case len(r.Invalid) > 0:
			return nil, nil, fmt.Errorf("%s is not valid (%s): its figures say nothing of the server; make it again", name, strings.Join(r.Invalid, "; "))
		case r.Scenario != all[0].Scenario:
			return nil, nil, fmt.Errorf("%s is of the scenario %q and %s of %q: only runs of one scenario can be compared", nameOfRun(0, len(old)), all[0].Scenario, name, r.Scenario)
		case r.Plan != all[0].Plan:
			return nil, nil, fmt.Errorf("%s and %s are of scenarios called %q that ask for different things, such as another rate or duration: only runs of one scenario can be compared",
				nameOfRun(0, len(old)), name, r.Scenario)
		case r.Interrupted:
			c.Notes = append(c.Notes, name+" was ended before its time")
		}
		c.Notes = append(c.Notes, differences(all[0], r, name)...)
		// Each round may ask for other things, as long as it asks both sides for the same.
		if i >= len(old) && r.Seed != old[i-len(old)].Seed {
			c.Notes = append(c.Notes, fmt.Sprintf("%s has another seed than its counterpart: %d, not %d", name, r.Seed, old[i-len(old)].Seed))
		}
	}
	pairs := c.match(all, len(old))
	if len(pairs) == 0 {
		return nil, nil, errors.New("the runs have no measured phase in common: compare runs of one scenario")
	}
	return c, pairs, nil
}

func nameOfRun(i, old int) string {
	side, round := "the old run", i+1
	if i >= old {
		side, round = "the new run", i-old+1
	}
	if old == 1 {
		return side
	}
	return fmt.Sprintf("%s of round %d", side, round)
}

// differences says what beside the server differs between two runs.
func differences(a, b *Run, name string) (out []string) {
	for _, d := range []struct {
		what     string
		old, new any
	}{
		{"machine", a.Machine, b.Machine}, {"transport", a.Target.Transport, b.Target.Transport},
		{"revisions", a.Target.Revisions, b.Target.Revisions},
	} {
		if o, n := fmt.Sprint(d.old), fmt.Sprint(d.new); o != n {
			out = append(out, fmt.Sprintf("%s has another %s than the first: %s, not %s", name, d.what, n, o))
		}
	}
	return out
}

// finish judges the changes as one family; each look at what grows meanwhile has a share of the level.
func (c *Comparison) finish(looks int) error {
	var family []*Change
	var p []float64
	for i := range c.Changes {
		if ch := &c.Changes[i]; !math.IsNaN(ch.P) {
			family, p = append(family, ch), append(p, min(1, ch.P*float64(looks)))
		}
	}
	if len(family) == 0 {
		why := "there is none"
		most := -1
		for _, ch := range c.Changes {
			if ch.Samples >= most {
				why, most = ch.Note, ch.Samples
			}
		}
		return fmt.Errorf("no figure can be judged (%s): make longer runs", why)
	}
	for i, adjusted := range holm(p) {
		ch := family[i]
		ch.P = adjusted
		ch.Outcome = ch.judge(c.Threshold)
	}
	return nil
}

func (ch *Change) judge(threshold float64) Outcome {
	change := math.Abs(math.Log(ch.Ratio))
	worse := ch.Ratio > 1
	if math.IsNaN(ch.Ratio) { // errors where there were none, or the other way round
		change, worse = math.Inf(1), ch.New > ch.Old
	}
	if ch.Figure == figureThroughput.name {
		worse = !worse
	}
	switch {
	case ch.P >= level || change <= math.Log1p(threshold):
		if math.IsNaN(ch.Ratio) || ch.High > 1+threshold || ch.Low < 1/(1+threshold) {
			return Unclear
		}
		return Same
	case worse:
		return Worse
	}
	return Better
}

// Regressed tells whether a figure got worse.
func (c *Comparison) Regressed() bool { return c.count(Worse) > 0 }

func (c *Comparison) count(o Outcome) (n int) {
	for i := range c.Changes {
		if c.Changes[i].Outcome == o {
			n++
		}
	}
	return n
}

// Write writes the comparison as text.
func (c *Comparison) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "phase\toperation\tfigure\told\tnew\tchange\t95 % interval\tp\toutcome")
	for i := range c.Changes {
		ch := &c.Changes[i]
		change, interval, p, outcome := "-", "-", "-", string(ch.Outcome)
		if !math.IsNaN(ch.Ratio) {
			change = percentChange(ch.Ratio)
		}
		if !math.IsNaN(ch.Low) {
			interval = percentChange(ch.Low) + " to " + percentChange(ch.High)
		}
		if !math.IsNaN(ch.P) {
			p = fmt.Sprintf("%.3f", ch.P)
		}
		if ch.Note != "" {
			outcome += ": " + ch.Note
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", ch.Phase, ch.Operation, ch.Figure, ch.unit.format(ch.Old), ch.unit.format(ch.New), change, interval, p, outcome)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	for _, line := range append(slices.Clone(c.Unmatched), c.Notes...) {
		fmt.Fprintf(&b, "note: %s\n", line)
	}
	fmt.Fprintf(&b, "%d worse, %d better, %d same, %d unclear, %d not judged: what counts is a change of more than %s with p < %g over all figures together",
		c.count(Worse), c.count(Better), c.count(Same), c.count(Unclear), c.count(Unjudged), unitShare.format(c.Threshold), level)
	if c.Rounds > 0 {
		fmt.Fprintf(&b, ", in %d rounds", c.Rounds)
	}
	_, err := io.WriteString(w, b.String()+"\n")
	return err
}

func percentChange(ratio float64) string { return fmt.Sprintf("%+.1f %%", 100*(ratio-1)) }
