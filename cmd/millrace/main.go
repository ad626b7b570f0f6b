// Command millrace serves SQL tools over the Model Context Protocol.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"millrace/internal/app"
	"millrace/internal/config"
	"millrace/internal/telemetry"
)

// version is set when the binary is built (make build, make release).
var version string

type commands struct {
	Serve   serveCmd   `cmd:"" help:"Serve a configuration, or without one the demo."`
	Call    callCmd    `cmd:"" help:"Call a tool of a running server."`
	Check   checkCmd   `cmd:"" help:"Report every fault of a configuration."`
	Advise  adviseCmd  `cmd:"" help:"Find the indexes that the statements of a configuration lack, and prove it. It creates nothing."`
	Load    loadCmd    `cmd:"" help:"Measure an MCP server under load."`
	Compare compareCmd `cmd:"" help:"Tell what changed between runs of 'millrace load'."`
	Gate    gateCmd    `cmd:"" help:"Hold a run of 'millrace load' against limits."`
	Cache   cacheCmd   `cmd:"" help:"Look into the cache of a running server, or make results void."`
	Events  eventsCmd  `cmd:"" help:"Let a database tell of the changes that others make."`
	Install installCmd `cmd:"" help:"Make in a database what tools with idempotency:, or a source with shards:, need there."`
	Shards  shardsCmd  `cmd:"" help:"Show and change on which server the shards of a source are."`
	Schema  schemaCmd  `cmd:"" help:"Print the JSON Schema of the configuration, for editors."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func main() {
	if version == "" {
		version = "dev"
	}
	var c commands
	k := kong.Parse(&c, kong.Name("millrace"), kong.UsageOnError(),
		kong.Description("SQL statements in, one MCP endpoint out. Run 'millrace serve' to try it."))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "millrace:", err)
		os.Exit(1)
	}
}

// untilSignal gives a context that ends with the first SIGTERM or SIGINT. A second one ends the program at once: the first
// takes the handler away.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

type serveCmd struct {
	Config   string `help:"The configuration file; without it the demo is served." short:"c"`
	Stdio    bool   `help:"Serve one client over standard input and output instead of HTTP."`
	Listen   string `help:"Listen here instead of listen.address." placeholder:"HOST:PORT"`
	Admin    string `help:"Serve health, metrics and profiles here instead of admin.address." placeholder:"HOST:PORT"`
	Data     string `help:"Where the demo's database is kept." type:"path" placeholder:"DIR"`
	Insecure bool   `help:"Listen on a public address without API keys."`
	LogLevel string `help:"The least severe log lines to write." enum:"debug,info,warn,error" default:"info"`
}

func (c *serveCmd) Run() error {
	tuneMemory()
	if c.Data == "" {
		c.Data = app.DefaultDataDir()
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return err
	}
	log := telemetry.NewLogger(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())), level)
	ctx, stop := untilSignal()
	defer stop()
	a, err := app.New(ctx, app.Options{File: c.Config, DataDir: c.Data, Listen: c.Listen, Admin: c.Admin, Insecure: c.Insecure,
		Stdio: c.Stdio, Version: version, Log: log, In: os.Stdin, Out: os.Stdout})
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() { // for the life of the process
		for range hup {
			a.Reload()
		}
	}()
	return a.Run(ctx)
}

type checkCmd struct {
	File    string `arg:"" help:"The configuration file."`
	Connect bool   `help:"Ask the databases about sources and statements too."`
}

func (c *checkCmd) Run() error {
	faults, err := app.Check(context.Background(), c.File, c.Connect)
	if err != nil {
		return err
	}
	for _, f := range faults {
		fmt.Println(f.Error())
	}
	switch len(faults) {
	case 0:
		fmt.Printf("%s: no faults\n", c.File)
		return nil
	case 1:
		return fmt.Errorf("%s has 1 fault", c.File)
	}
	return fmt.Errorf("%s has %d faults", c.File, len(faults))
}

type schemaCmd struct{}

func (schemaCmd) Run() error {
	schema, err := config.Schema()
	if err != nil {
		return err
	}
	_, err = io.WriteString(os.Stdout, string(schema)+"\n")
	return err
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("millrace", version)
	return nil
}
