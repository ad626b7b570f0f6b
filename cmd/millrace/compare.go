package main

import (
	"errors"
	"fmt"
	"os"

	"millrace/internal/load"
)

type compareCmd struct {
	Files     []string `arg:"" help:"The runs' JSON: OLD NEW; with --rounds OLD NEW OLD NEW …, in the order in which they were made." placeholder:"RUN"`
	Rounds    bool     `help:"Compare interleaved rounds, at least three: the run-to-run noise counts too."`
	Threshold float64  `help:"The least change that counts, in percent; 5 unless said otherwise." default:"5" placeholder:"PERCENT"`
}

func (c *compareCmd) Run() error {
	if !c.Rounds && len(c.Files) != 2 {
		return fmt.Errorf("%d files were given: name two, OLD NEW, or say --rounds", len(c.Files))
	}
	if len(c.Files)%2 != 0 {
		return fmt.Errorf("%d files make no rounds: each is OLD NEW", len(c.Files))
	}
	var sides [2][]*load.Run
	for i, file := range c.Files {
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
	if err := comparison.Write(os.Stdout); err != nil {
		return err
	}
	if comparison.Regressed() {
		return errors.New("the new run is worse than the old one")
	}
	return nil
}
