package main

import (
	"fmt"

	"millrace/internal/app"
)

type installCmd struct {
	sourceFlags
	Remove bool `help:"Take it away: all keys that are remembered, or the map of shards."`
}

func (c *installCmd) Run() error {
	ctx, stop := untilSignal()
	defer stop()
	done, err := app.Install(ctx, c.Config, c.Source, c.Remove)
	if err == nil {
		fmt.Println("done: " + done)
	}
	return err
}
