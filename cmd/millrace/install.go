package main

import (
	"context"
	"fmt"
	"strings"

	"millrace/internal/app"
)

type installCmd struct {
	sourceFlags
	Remove bool `help:"Take it away, with all keys that are remembered."`
}

func (c *installCmd) Run() error {
	ctx, stop := untilSignal()
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, installTime)
	defer cancel()
	tools, err := app.Install(ctx, c.Config, c.Source, c.Remove)
	switch {
	case err != nil:
		return err
	case c.Remove:
		fmt.Printf("done: no idempotency keys are left in source %s\n", c.Source)
	default:
		fmt.Printf("done: source %s keeps the idempotency keys of %s\n", c.Source, strings.Join(tools, ", "))
	}
	return nil
}
