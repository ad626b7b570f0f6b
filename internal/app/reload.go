package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"millrace/internal/conf"
	"millrace/internal/config"
	"millrace/internal/mcp"
)

// Reload reads the file again, since somebody asked for it: the log says what came of it, also where nothing did. A
// faulty file is refused and logged, and what was served goes on being served.
func (a *App) Reload() { a.refresh(slog.LevelInfo) }

// refresh is Reload, with the level at which a configuration that is the same as before is told of.
func (a *App) refresh(unchanged slog.Level) {
	if a.opts.File == "" {
		return
	}
	a.reloadMu.Lock()
	defer a.reloadMu.Unlock()
	if a.ctx.Err() != nil {
		return // it stops
	}
	changed, err := a.reload()
	switch {
	case err != nil:
		a.log.Error("the configuration was not reloaded; the old one goes on serving", "file", a.opts.File, "error", err)
	case changed:
		a.log.Info("the configuration was reloaded", "file", a.opts.File, "hash", a.current.Load().loaded.Hash)
	case a.refused: // who mended the file by taking the change back wants to know
		a.log.Info("configuration unchanged", "file", a.opts.File)
	default:
		a.log.Log(a.ctx, unchanged, "configuration unchanged", "file", a.opts.File)
	}
	a.refused = err != nil
}

func (a *App) reload() (changed bool, err error) {
	loaded, err := a.load()
	if err != nil {
		return false, err
	}
	keys, err := keyring(loaded)
	if err != nil {
		return false, err
	}
	old := a.current.Load()
	if loaded.Hash == old.loaded.Hash && config.HashOf(loaded.Config) == config.HashOf(old.loaded.Config) && keys.Hash() == old.keys.Hash() {
		return false, nil
	}
	for _, fixed := range []struct {
		key      string
		now, new any
	}{
		{"listen", a.started.Listen, loaded.Listen}, {"admin", a.started.Admin, loaded.Admin}, {"probes", a.started.Probes, loaded.Probes},
		{"sessions", a.started.Sessions, loaded.Sessions}, {"redis", a.started.Redis, loaded.Redis}, {"cache.l2", a.started.Cache.L2, loaded.Cache.L2},
		{"auth.state_key_file", a.started.Auth.StateKeyFile, loaded.Auth.StateKeyFile},
	} {
		if config.HashOf(fixed.now) != config.HashOf(fixed.new) {
			return false, fmt.Errorf("%s has changed, which needs a restart", fixed.key)
		}
	}
	g, err := a.build(loaded, keys)
	if err != nil {
		return false, err
	}
	if g.keys.Open() && !old.keys.Open() && !a.opts.Insecure {
		g.Release()
		a.forget(g.targets)
		return false, errors.New("it has no API keys any more, which would let everybody in; restart with --insecure if that is meant")
	}
	before := old.Signatures()
	a.current.Store(g)
	a.adopt(g, old)
	old.Release()
	a.forget(old.targets)
	a.announce(before, g)
	return true, nil
}

// announce tells clients which lists have changed.
func (a *App) announce(before [3]string, g *generation) {
	var events []mcp.Event
	for i, kind := range []mcp.EventKind{mcp.ToolsChanged, mcp.PromptsChanged, mcp.ResourcesChanged} {
		if before[i] != g.Signatures()[i] {
			events = append(events, mcp.Event{Kind: kind})
		}
	}
	a.hub.Publish(events...)
}

// How often the sources are asked whether they answer, and how long one may take.
const (
	pingEvery = 5 * time.Second
	pingLimit = 2 * time.Second
)

// watchSources looks after the sources of a generation while it is current: whether they answer, and what the columns
// of its statements are where that could not be found out yet.
func (a *App) watchSources(g *generation) {
	complete := g.described
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		if a.ctx.Err() != nil || !g.Acquire() {
			return
		}
		var wg sync.WaitGroup
		for _, s := range g.sources {
			wg.Go(func() { a.ping(s) })
		}
		wg.Wait()
		if !complete {
			before := g.Signatures()
			ctx, cancel := context.WithTimeout(a.ctx, pingLimit)
			var refused conf.Faults
			complete, refused = g.Describe(ctx)
			cancel()
			a.tellRefused(g, refused)
			if a.current.Load() == g {
				a.announce(before, g)
			}
		}
		g.Release()
		select {
		case <-t.C:
		case <-a.ctx.Done():
			return
		}
	}
}

// tellRefused logs the statements of g that their databases do not take: all else is served.
func (a *App) tellRefused(g *generation, refused conf.Faults) {
	for _, f := range g.loaded.Locate(refused) {
		a.log.Error("a database refuses a statement: what needs it fails until one of the two is mended", "error", f.Error())
	}
}

func (a *App) ping(s *source) {
	ctx, cancel := context.WithTimeout(a.ctx, pingLimit)
	defer cancel()
	err := s.db.Ping(ctx)
	if a.ctx.Err() != nil {
		return
	}
	was := s.down.Swap(err != nil)
	switch {
	case err == nil && was:
		a.log.Info("a source answers again", "source", s.name)
	case err != nil && !was:
		a.log.Warn("a source does not answer: its tools fail until it does", "source", s.name, "error", err)
	}
}
