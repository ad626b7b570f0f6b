package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"time"

	"millrace/internal/advise"
	"millrace/internal/app"
)

type adviseCmd struct {
	adminFlags
	File       string        `arg:"" help:"The configuration file."`
	SQL        bool          `help:"Print the SQL alone."`
	JSON       bool          `help:"Print JSON."`
	Live       bool          `help:"Ask a running server (--admin) what its tools have cost: the costliest findings come first."`
	Statements int           `help:"How many of the costliest statements of pg_stat_statements that are not in the file are looked at too." default:"20"`
	Tenant     string        `help:"Whose rows are looked at, where db_settings have $tenant."`
	Subject    string        `help:"The same for $subject."`
	MaxCopy    int64         `help:"The largest SQLite file that is copied, in MiB." default:"1024"`
	Timeout    time.Duration `help:"How long all of it may take." default:"10m"`
}

func (c *adviseCmd) Run() error {
	if c.SQL && c.JSON {
		return errors.New("say --sql or --json, not both")
	}
	ctx, stop := untilSignal()
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var metrics []byte
	if c.Live {
		var err error
		if metrics, err = c.ask(ctx, http.MethodGet, "/metrics", nil); err != nil {
			return err
		}
	}
	r, err := app.Advise(ctx, c.File, metrics, advise.Options{MaxCopy: c.MaxCopy << 20, Statements: c.Statements, Tenant: c.Tenant, Subject: c.Subject})
	switch {
	case err != nil:
		return err
	case c.SQL:
		err = r.WriteSQL(os.Stdout)
	case c.JSON:
		e := json.NewEncoder(os.Stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	default:
		err = r.WriteText(os.Stdout)
	}
	if err == nil && r.Looked == 0 {
		return errors.New("no statement could be looked at")
	}
	return err
}
