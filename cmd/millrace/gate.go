package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"millrace/internal/load"
)

type gateCmd struct {
	Gates    string `arg:"" help:"The file of the gates, or promise or soak."`
	File     string `arg:"" help:"The run's JSON." name:"run"`
	JUnit    string `name:"junit" help:"Write JUnit's XML here too." placeholder:"FILE"`
	HTML     string `name:"html" help:"Write the run's report with these verdicts here." placeholder:"FILE"`
	Markdown string `help:"Write a Markdown table here too." placeholder:"FILE"`
}

func (c *gateCmd) Run() error {
	gates, err := load.LoadGates(c.Gates)
	if err != nil {
		return err
	}
	run, err := load.ReadRun(c.File)
	if err != nil {
		return err
	}
	verdict, err := gates.Hold(run)
	if err != nil {
		return err
	}
	err = verdict.Write(os.Stdout)
	if c.JUnit != "" {
		err = errors.Join(err, writeFile(c.JUnit, verdict.WriteJUnit))
	}
	if c.HTML != "" {
		err = errors.Join(err, writeFile(c.HTML, func(w io.Writer) error { return run.WriteHTML(w, verdict.Lines()) }))
	}
	if c.Markdown != "" {
		err = errors.Join(err, writeFile(c.Markdown, verdict.WriteMarkdown))
	}
	if err != nil {
		return err
	}
	if !verdict.Passed() {
		return fmt.Errorf("%s does not pass the gates %s", c.File, c.Gates)
	}
	return nil
}

// writeFile makes a file of what write gives.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
