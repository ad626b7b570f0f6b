package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"millrace/internal/load"
)

type compareCmd struct {
	Sides     []string `arg:"" help:"The runs' JSON: OLD NEW; with --rounds OLD NEW OLD NEW …, in the order in which they were made; with --ab the commands that start the old and the new server." placeholder:"RUN"`
	Rounds    bool     `help:"Compare interleaved rounds, at least three: the run-to-run noise counts too."`
	Threshold float64  `help:"The least change that counts, in percent; 5 unless said otherwise." default:"5" placeholder:"PERCENT"`

	AB abFlag `embed:"" prefix:""`
}

// abFlag is the comparison of two servers that are started by turns.
type abFlag struct {
	AB       bool          `name:"ab" help:"Start two servers by turns, put each under the same load as often as it takes, and compare them."`
	URL      string        `name:"url" help:"With --ab: where both servers listen." placeholder:"URL"`
	Metrics  string        `help:"With --ab: the URL of the servers' Prometheus metrics." placeholder:"URL"`
	Scenario string        `help:"With --ab: a scenario's file or name; without one, --rate or --users." short:"s" placeholder:"NAME|FILE"`
	Rate     float64       `help:"With --ab: requests a second." short:"r"`
	Users    int           `help:"With --ab: users that wait for their answers." short:"u"`
	Duration time.Duration `help:"With --ab: how long each run takes; 20s without a scenario." short:"d"`
	Most     int           `name:"most-rounds" help:"With --ab: the most rounds that are made." default:"16"`
	Tool     string        `help:"With --ab: call this tool instead of what is found."`
	Args     string        `name:"arguments" help:"With --ab: the tool's arguments as JSON." default:"{}" placeholder:"JSON"`
	Keep     string        `help:"With --ab: write each run's JSON into this directory." type:"existingdir" placeholder:"DIR"`
}

func (c *compareCmd) Run() error {
	if c.AB.AB {
		return c.turns()
	}
	if !c.Rounds && len(c.Sides) != 2 {
		return fmt.Errorf("%d files were given: name two, OLD NEW, or say --rounds", len(c.Sides))
	}
	if len(c.Sides)%2 != 0 {
		return fmt.Errorf("%d files make no rounds: each is OLD NEW", len(c.Sides))
	}
	var sides [2][]*load.Run
	for i, file := range c.Sides {
		run, err := load.ReadRun(file)
		if err != nil {
			return err
		}
		sides[i%2] = append(sides[i%2], run)
	}
	var comparison *load.Comparison
	var err error
	if c.Rounds {
		comparison, err = load.CompareRounds(sides[0], sides[1], c.Threshold/100)
	} else {
		comparison, err = load.Compare(sides[0][0], sides[1][0], c.Threshold/100)
	}
	if err != nil {
		return err
	}
	return verdict(comparison)
}

// turns compares two servers that it starts by turns.
func (c *compareCmd) turns() error {
	f := &c.AB
	if len(c.Sides) != 2 || c.Rounds {
		return errors.New("with --ab give two commands, which start the old and the new server: --ab 'CMD A' 'CMD B'")
	}
	if f.Duration == 0 && f.Scenario == "" {
		f.Duration = 20 * time.Second
	}
	l := loadCmd{URL: f.URL, Scenario: f.Scenario, Rate: f.Rate, Users: f.Users, Duration: f.Duration, Tool: f.Tool, Arguments: f.Args}
	scenario, err := l.scenario()
	if err != nil {
		return err
	}
	endpoint, err := l.endpoint()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	note := func(text string) { fmt.Fprintln(os.Stderr, "note:", text) }
	ab := load.AB{Commands: [2]string(c.Sides), Threshold: c.Threshold / 100, Rounds: f.Most, Output: os.Stderr, Keep: f.Keep,
		Options: load.Options{Endpoint: endpoint, Scenario: scenario, Watch: load.Watch{Metrics: f.Metrics}, Note: note}}
	comparison, err := ab.Run(ctx)
	if err != nil {
		return err
	}
	return verdict(comparison)
}

// verdict prints a comparison; a regression is an error.
func verdict(comparison *load.Comparison) error {
	if err := comparison.Write(os.Stdout); err != nil {
		return err
	}
	if comparison.Regressed() {
		return errors.New("the new run is worse than the old one")
	}
	return nil
}
