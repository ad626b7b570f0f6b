package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"millrace/internal/app"
)

type shardsCmd struct {
	Plan shardsPlanCmd `cmd:"" help:"Tell how the shards of a source are spread, and which moves would spread them evenly."`
	Move shardsMoveCmd `cmd:"" help:"Take shards to another server, while both serve."`
}

type shardsPlanCmd struct {
	sourceFlags
	Without []string `help:"Leave no shards on the server of this name; may be given several times."`
	JSON    bool     `help:"Print JSON."`
}

func (c *shardsPlanCmd) Run() error {
	ctx, stop := untilSignal()
	defer stop()
	p, err := app.PlanShards(ctx, c.Config, c.Source, c.Without)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(p)
	}
	fmt.Print(p.Text("millrace shards move "+c.Source, "--config "+c.Config))
	return nil
}

type shardsMoveCmd struct {
	sourceFlags
	Shards string `arg:"" help:"Which: numbers and ranges, such as 0-99,512."`
	To     string `arg:"" help:"The server that they go to."`
}

func (c *shardsMoveCmd) Run() error {
	ctx, stop := untilSignal()
	defer stop()
	done, err := app.MoveShards(ctx, c.Config, c.Source, c.Shards, c.To)
	for _, m := range done {
		fmt.Printf("moved %d shards from %s to %s: %d rows, and %d changes made meanwhile; writes of them waited %s\n",
			len(m.Shards), m.From, m.To, m.Rows, m.Changes, m.Paused.Round(time.Millisecond))
		if m.Lagging {
			fmt.Printf("a replica of %s did not know of it within 5 s: should it be promoted without that, it would have the shards too; 'millrace shards plan' tells\n", m.From)
		}
	}
	if err == nil && len(done) == 0 {
		fmt.Printf("nothing to do: the shards are on %s\n", c.To)
	}
	return err
}
