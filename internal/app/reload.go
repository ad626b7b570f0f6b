package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"millrace/internal/config"
	"millrace/internal/mcp"
)

// Reload reads the file again. A faulty one is refused and logged, and what was served goes on being served.
func (a *App) Reload() {
	if a.opts.File == "" {
		return
	}
	a.reloadMu.Lock()
	defer a.reloadMu.Unlock()
	changed, err := a.reload()
	switch {
	case err != nil:
		a.log.Error("the configuration was not reloaded; the old one goes on serving", "file", a.opts.File, "error", err)
	case changed:
		a.log.Info("the configuration was reloaded", "file", a.opts.File, "hash", a.current.Load().loaded.Hash)
	}
}

func (a *App) reload() (changed bool, err error) {
	if a.ctx.Err() != nil {
		return false, nil // it stops
	}
	loaded, err := a.load()
	if err != nil {
		return false, err
	}
	old := a.current.Load()
	if loaded.Hash == old.loaded.Hash && config.HashOf(loaded.Config) == config.HashOf(old.loaded.Config) && loaded.Auth.KeysFile == "" {
		return false, nil
	}
	for _, fixed := range []struct {
		key      string
		now, new any
	}{
		{"listen", a.started.Listen, loaded.Listen}, {"admin", a.started.Admin, loaded.Admin}, {"probes", a.started.Probes, loaded.Probes},
		{"sessions", a.started.Sessions, loaded.Sessions}, {"auth.state_key_file", a.started.Auth.StateKeyFile, loaded.Auth.StateKeyFile},
	} {
		if config.HashOf(fixed.now) != config.HashOf(fixed.new) {
			return false, fmt.Errorf("%s has changed, which needs a restart", fixed.key)
		}
	}
	g, err := a.build(loaded)
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
	a.adopt(g)
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

// settle is how long a file must be quiet before it is read: editors write in several steps.
const settle = 100 * time.Millisecond

// patience is how long a file is waited for that does not become quiet.
const patience = time.Second

// watchFile watches the file's directory, since a ConfigMap's file is a symbolic link that is replaced above it. The
// function that it gives runs until the app stops.
func (a *App) watchFile() (run func(), err error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch the configuration: %w", err)
	}
	if err := w.Add(filepath.Dir(a.opts.File)); err != nil {
		w.Close()
		return nil, fmt.Errorf("watch the configuration: %w", err)
	}
	return func() {
		defer w.Close()
		timer := time.NewTimer(time.Hour)
		timer.Stop()
		var first time.Time // of the changes that no reload has taken yet
		for {
			select {
			case <-a.ctx.Done():
				return
			case event, ok := <-w.Events:
				if !ok {
					return
				}
				// What is written into other files of the directory is no concern: a database there is never quiet.
				if (event.Op&^(fsnotify.Write|fsnotify.Chmod)) == 0 && filepath.Base(event.Name) != filepath.Base(a.opts.File) {
					continue
				}
				if first.IsZero() {
					first = time.Now()
				}
				timer.Reset(max(0, min(settle, patience-time.Since(first))))
			case err, ok := <-w.Errors:
				if !ok {
					return
				}
				a.log.Warn("watching the configuration failed", "error", err)
			case <-timer.C:
				first = time.Time{}
				a.Reload()
			}
		}
	}, nil
}

// How often the sources are asked whether they answer, and how long one may take.
const (
	pingEvery = 5 * time.Second
	pingLimit = 2 * time.Second
)

// watchSources looks after the sources of a generation while it is current: whether they answer, and what the columns
// of its statements are where that could not be found out yet.
func (a *App) watchSources(g *generation) {
	described := g.described
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
		if !described {
			before := g.Signatures()
			ctx, cancel := context.WithTimeout(a.ctx, pingLimit)
			_, described = g.Describe(ctx)
			cancel()
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
