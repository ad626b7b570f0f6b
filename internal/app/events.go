package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"millrace/internal/catalog"
	"millrace/internal/config"
	"millrace/internal/mcp"
	"millrace/internal/outbox"
	"millrace/internal/sqldb"
)

// follow hears of what others change in the sources of a generation, for as long as it serves. It goes on where the one before it is, nil
// for none: how far that is others may have kept too, under the same name, which says nothing of this process.
func (a *App) follow(g, before *generation) {
	ctx, cancel := context.WithCancel(a.ctx)
	g.unfollow = func() {
		cancel()
		g.following.Wait()
	}
	for _, s := range g.sources {
		if tables := outboxTables(g.Catalog, s.name); len(tables) > 0 {
			read := make(chan struct{})
			f := &outbox.Follower{Source: s.db, Name: followerName(g.loaded), Tables: tables, Listener: &heardChanges{a, g, s.name}, Log: a.log.With("source", s.name),
				Read: sync.OnceFunc(func() { close(read) })}
			if before != nil {
				if i := slices.IndexFunc(before.followers, func(o *outbox.Follower) bool { return o.Source == f.Source && o.Name == f.Name }); i >= 0 {
					f.From = before.followers[i].Position()
				}
			}
			g.followers, g.caughtUp = append(g.followers, f), append(g.caughtUp, read)
			g.following.Go(func() { f.Follow(ctx) })
		}
	}
}

// followLimit is how long a start waits until what happened while no server ran has been heard.
const followLimit = 2 * time.Second

// awaitEvents returns when all that the sources have to tell has been heard, or after a while.
func (g *generation) awaitEvents() {
	over := time.After(followLimit)
	for _, read := range g.caughtUp {
		select {
		case <-read:
		case <-over:
			return
		}
	}
}

func outboxTables(c *catalog.Catalog, source string) (out []outbox.Table) {
	for _, t := range c.EventTables(source) {
		out = append(out, outbox.Table{Name: t.Name, Columns: t.Columns})
	}
	return out
}

// followerName tells deployments apart by the levels of the cache that their servers share, and by what events mean to them: how far one
// has heard says what is void there, and of no other.
func followerName(loaded *config.Loaded) string {
	shared := fmt.Sprintf("%q %q %q %q", loaded.Redis.Nodes, loaded.Redis.Prefix, config.HashOf(loaded.Sources[loaded.Cache.L3.Source]), config.HashOf(loaded.Events))
	sum := sha256.Sum256([]byte(shared))
	return "cache-" + hex.EncodeToString(sum[:6])
}

// heardChanges makes void what changes of a source's rows have changed, and then tells those who watch.
type heardChanges struct {
	a      *App
	g      *generation
	source string
}

// Changed implements outbox.Listener.
func (h *heardChanges) Changed(changes []outbox.Change) {
	tags, updates, anything := map[string]bool{}, map[string]bool{}, false
	for _, c := range changes {
		t, u, known := h.g.Catalog.Changed(h.source, c.Table, c.Was, c.Becomes)
		anything = anything || !known
		for _, tag := range t {
			tags[tag] = true
		}
		for _, uri := range u {
			updates[uri] = true
		}
	}
	if anything {
		h.Missed()
	} else if len(tags) > 0 {
		h.g.cache.Heard(slices.Sorted(maps.Keys(tags)))
	}
	var events []mcp.Event
	if len(updates) > 0 {
		h.behindReplicas()
	}
	for _, uri := range slices.Sorted(maps.Keys(updates)) {
		events = append(events, mcp.Event{Kind: mcp.ResourceUpdated, URI: uri})
	}
	h.a.hub.Publish(events...)
}

// behindReplicas keeps who is told of a change from reading what was there before on a replica.
func (h *heardChanges) behindReplicas() {
	for _, s := range h.g.sources {
		if r, ok := s.db.(sqldb.Replicated); ok && s.name == h.source {
			r.CatchUp(h.a.ctx)
		}
	}
}

// Missed implements outbox.Listener.
func (h *heardChanges) Missed() {
	h.a.log.Warn("changes of a source may have been missed: every cached result is void", "source", h.source)
	h.g.cache.HeardOfAnything()
	h.behindReplicas()
	h.a.hub.Publish(mcp.Event{Kind: mcp.ResourcesChanged}, mcp.Event{Kind: mcp.ResourceUpdated})
}

// Settled implements outbox.Listener.
func (h *heardChanges) Settled() bool { return !h.g.cache.Owes() }

// InstallEvents writes the triggers of the tables that a file's events name in a source, or takes all of them away. It gives the names of the tables.
func InstallEvents(ctx context.Context, file, source string, remove bool) ([]string, error) {
	loaded, db, err := openSource(file, source)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if remove {
		return nil, outbox.Remove(ctx, db)
	}
	deps := catalog.Deps{Sources: map[string]catalog.Source{}, TTL: loaded.Cache.L1.TTL, Meter: func(mcp.Method, string) mcp.Meter { return nil }}
	for name := range loaded.Sources {
		deps.Sources[name] = catalog.Source{} // its tools are not asked for here
	}
	c, faults := catalog.New(catalog.Definitions{Tools: loaded.Tools, Resources: loaded.Resources, Prompts: loaded.Prompts, Toolsets: loaded.Toolsets, Events: loaded.Events}, deps)
	if len(faults) > 0 {
		return nil, loaded.Locate(faults).Sorted()
	}
	tables := outboxTables(c, source)
	if len(tables) == 0 {
		return nil, fmt.Errorf("%s: events: names no table of source %q", file, source)
	}
	var names []string
	for _, t := range tables {
		names = append(names, t.Name)
	}
	return names, outbox.Install(ctx, db, tables)
}
