package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"millrace/internal/app"
)

type eventsCmd struct {
	Install eventsInstallCmd `cmd:"" help:"Write the outbox and its triggers, for the tables that events: of the configuration names."`
	Remove  eventsRemoveCmd  `cmd:"" help:"Take them away."`
}

// sourceFlags name a database that something is made in.
type sourceFlags struct {
	Source string `arg:"" help:"One of sources of the configuration. Its user must be allowed to create what is made: tables, and for events functions and triggers."`
	Config string `help:"The configuration file." short:"c" required:"" placeholder:"FILE"`
}

// installTime bounds the work on the database, which may have to wait for locks of the tables.
const installTime = time.Minute

type eventsInstallCmd struct{ sourceFlags }

func (c *eventsInstallCmd) Run() error {
	ctx, stop := untilSignal()
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, installTime)
	defer cancel()
	tables, err := app.InstallEvents(ctx, c.Config, c.Source, false)
	if err != nil {
		return err
	}
	fmt.Printf("done: source %s tells of changes of %s\n", c.Source, strings.Join(tables, ", "))
	return nil
}

type eventsRemoveCmd struct{ sourceFlags }

func (c *eventsRemoveCmd) Run() error {
	ctx, stop := untilSignal()
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, installTime)
	defer cancel()
	if _, err := app.InstallEvents(ctx, c.Config, c.Source, true); err != nil {
		return err
	}
	fmt.Printf("done: nothing of millrace's events is left in source %s\n", c.Source)
	return nil
}
