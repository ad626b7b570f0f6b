// Package app wires the server together, replaces what it serves when the file changes, and takes it down in order.
package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/admin"
	"millrace/internal/cache"
	"millrace/internal/catalog"
	"millrace/internal/conf"
	"millrace/internal/config"
	"millrace/internal/demo"
	"millrace/internal/front"
	"millrace/internal/hub"
	"millrace/internal/identity"
	"millrace/internal/mcp"
	"millrace/internal/redis"
	"millrace/internal/session"
	"millrace/internal/telemetry"
)

// Options is what the command line says.
type Options struct {
	File     string // "" serves the demo
	DataDir  string // where the demo's database is made
	Listen   string // overrides listen.address
	Admin    string // overrides admin.address
	Insecure bool   // allows a public listener without keys
	Stdio    bool   // serves In and Out too, and ends with In
	Version  string
	Log      *slog.Logger
	In       io.Reader
	Out      io.Writer
}

// App is a running server. Make it with New, then Run it.
type App struct {
	opts    Options
	log     *slog.Logger
	env     func(string) (string, bool)
	metrics *telemetry.Metrics
	tags    *cache.Tags // of the process: what a reload brings must know what was changed before it
	sources sources
	hub     *hub.Hub
	bus     *positionBus // nil while no source has replicas, or there is no Redis
	core    *front.Core
	health  readiness
	started config.Config // what cannot change without a restart

	mcpListener   net.Listener
	mcpServer     *http.Server
	adminServers  []*http.Server
	adminListener []net.Listener

	current  atomic.Pointer[generation]
	watch    *watcher   // nil for the demo
	keysFile string     // the auth.keys_file that was read last; load alone uses it
	reloadMu sync.Mutex // one reload at a time
	refused  bool       // the last one; reloadMu guards it
	work     sync.WaitGroup
	ctx      context.Context // of background work
	cancel   context.CancelFunc
	stops    []func() // in the order they were registered; run in reverse
}

// demoName is what messages call the demo's configuration.
const demoName = "demo.yaml"

// New builds the server: everything that can fail at start fails here.
func New(ctx context.Context, opts Options) (*App, error) {
	a := &App{opts: opts, log: opts.Log, env: os.LookupEnv, hub: hub.New(), tags: cache.NewTags()}
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	ok := false
	defer func() {
		if !ok {
			a.stop()
		}
	}()
	a.onStop(func() { a.cancel(); a.work.Wait() })

	registry := prometheus.NewRegistry()
	a.metrics = telemetry.NewMetrics(registry)
	a.health.degraded = a.degraded
	a.sources = sources{log: a.log, metrics: a.metrics, latest: map[string]*source{}}

	if opts.File == "" {
		path, err := demo.Prepare(ctx, opts.DataDir)
		if err != nil {
			return nil, err
		}
		a.env = func(name string) (string, bool) {
			if name == "MILLRACE_DEMO_DB" {
				return path, true
			}
			return os.LookupEnv(name)
		}
	}
	if opts.File != "" {
		var err error
		if a.watch, err = newWatcher(a.log); err != nil {
			return nil, err
		}
		a.onStop(func() { a.watch.w.Close() })
	}
	loaded, err := a.load()
	if err != nil {
		return nil, err
	}
	a.started = loaded.Config
	a.onStop(func() { // after the last write
		if a.bus != nil {
			a.bus.close()
		}
	})
	keys, err := keyring(loaded)
	if err != nil {
		return nil, err
	}
	g, err := a.build(loaded, keys)
	if err != nil {
		return nil, err
	}
	a.onStop(func() {
		a.reloadMu.Lock() // a reload that is under way ends first, and none begins after it
		defer a.reloadMu.Unlock()
		a.cancel()
		a.current.Load().Release()
	})
	a.current.Store(g)
	a.adopt(g, nil)
	if g.keys.Open() && !front.IsLoopback(loaded.Listen.Address) && !opts.Insecure && !opts.Stdio {
		return nil, fmt.Errorf("listen.address is %s, which others can reach, and no API key is configured: "+
			"add auth.keys, listen on 127.0.0.1, or say --insecure to serve everybody", loaded.Listen.Address)
	}

	store := session.NewMemory(loaded.Sessions)
	a.onStop(store.Close)
	a.metrics.SetSessions(store.Len)
	key, err := stateKey(loaded)
	if err != nil {
		return nil, err
	}
	a.core = front.NewCore(front.Deps{
		Service:  func() front.Service { return a.current.Load() },
		Sessions: store, Hub: a.hub, InFlight: &a.metrics.InFlight, StateKey: key, Version: opts.Version, Log: a.log,
		Meter: func(m mcp.Method) mcp.Meter { return newMeter(a.metrics, m, "") },
	})
	a.onStop(a.core.Close)
	if opts.Stdio {
		ok = true
		return a, nil
	}

	handler := front.NewHTTP(loaded.Listen, a.core, func(authorization string) (*mcp.Principal, bool) {
		return a.current.Load().keys.Find(authorization)
	})
	if a.mcpListener, err = front.Listen(loaded.Listen, a.log); err != nil {
		return nil, listenFault(loaded, "listen.address", "--listen", opts.Listen, loaded.Listen.Address, err)
	}
	a.onStop(func() { a.mcpListener.Close() })
	a.mcpServer = front.NewHTTPServer(loaded.Listen, handler, a.log)
	if err := a.openAdmin(loaded, registry); err != nil {
		return nil, err
	}
	ok = true
	return a, nil
}

func (a *App) onStop(f func()) { a.stops = append(a.stops, f) }

func (a *App) stop() {
	for i := len(a.stops) - 1; i >= 0; i-- {
		a.stops[i]()
	}
	a.stops = nil
}

func (a *App) openAdmin(loaded *config.Loaded, registry *prometheus.Registry) error {
	open := func(key, flag, given, address string, h http.Handler) error {
		if address == "" {
			return nil
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return listenFault(loaded, key, flag, given, address, err)
		}
		a.onStop(func() { l.Close() })
		a.adminListener = append(a.adminListener, l)
		a.adminServers = append(a.adminServers, admin.NewServer(h, a.log))
		return nil
	}
	if faults := adminToken(loaded); len(faults) > 0 {
		a.log.Error("the admin token cannot be used", "error", faults)
	}
	if err := open("admin.address", "--admin", a.opts.Admin, loaded.Admin.Address, admin.NewHandler(loaded.Admin, &a.health, a.held, registry, a.log)); err != nil {
		return err
	}
	return open("probes.address", "", "", loaded.Probes.Address, admin.NewProbesHandler(&a.health, registry, a.log))
}

// load reads the file, with the command line's overrides.
func (a *App) load() (*config.Loaded, error) {
	name, data := demoName, demo.YAML
	if a.opts.File != "" {
		a.watch.follow(a.opts.File, a.keysFile)
		var err error
		if data, err = os.ReadFile(a.opts.File); err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		name = a.opts.File
	}
	loaded, faults := config.Load(name, data, a.env)
	if len(faults) > 0 {
		return nil, faults
	}
	// Watched from here on, whether or not the configuration is taken: mending this file may be what it waits for.
	a.keysFile = loaded.Auth.KeysFile
	a.watch.follow(a.opts.File, a.keysFile)
	// What a flag says in place of the file is held against the same rules: an admin listener for all needs a token.
	if a.opts.Listen != "" {
		loaded.Listen.Address = a.opts.Listen
		if faults := loaded.Listen.Validate(); len(faults) > 0 {
			return nil, fmt.Errorf("--listen %s: %w", a.opts.Listen, faults)
		}
	}
	if a.opts.Admin != "" {
		loaded.Admin.Address = a.opts.Admin
		if faults := loaded.Admin.Validate(); len(faults) > 0 {
			return nil, fmt.Errorf("--admin %s: %w", a.opts.Admin, faults)
		}
	}
	if faults := loaded.Apart(); len(faults) > 0 {
		return nil, faults
	}
	return loaded, nil
}

// build makes a generation of a loaded file; it is not current yet, and nobody outside hears of it.
func (a *App) build(loaded *config.Loaded, keys *identity.Keyring) (*generation, error) {
	g := &generation{loaded: loaded, keys: keys, retire: a.retire}
	g.users.Store(1)
	if err := a.fill(g, loaded); err != nil {
		for _, s := range g.sources {
			a.sources.release(s)
		}
		a.forget(g.targets)
		return nil, err
	}
	// What the databases say at once goes into the lists from the start; the rest follows when they can be reached.
	ctx, cancel := context.WithTimeout(a.ctx, time.Second)
	defer cancel()
	g.described, g.refused = g.Describe(ctx)
	return g, nil
}

// adopt shows g, which has just become current in the place of another or none, in the metrics, and looks after its sources.
func (a *App) adopt(g, before *generation) {
	if g.isNew {
		recall := func(target string, version [16]byte, args []mcp.Value) *mcp.Call {
			return a.recall(g.cache, target, version, args)
		}
		g.cache.Load(a.ctx, recall)
		g.cache.Tend(recall, invoke)
	}
	a.metrics.SetCacheLevel("l1", g.cache.Size)
	a.metrics.SetCacheLevel("l3", g.cache.DatabaseSize())
	a.metrics.SetConfig(g.loaded.Hash, g.loaded.Numbers())
	a.tellRefused(g, g.refused)
	a.work.Go(func() { a.watchSources(g) })
	a.follow(g, before)
}

// forget takes the metrics of targets away that the current generation has not.
func (a *App) forget(targets []string) {
	current := a.current.Load()
	for _, name := range targets {
		if current == nil || !slices.Contains(current.targets, name) {
			a.metrics.Drop(name)
		}
	}
}

// fill makes what a generation consists of.
func (a *App) fill(g *generation, loaded *config.Loaded) (err error) {
	deps := catalog.Deps{Sources: map[string]catalog.Source{}, TTL: loaded.Cache.L1.TTL, Batching: loaded.Batching, Batched: a.metrics.BatchSizes,
		Meter: func(method mcp.Method, name string) mcp.Meter {
			if name != "" {
				g.targets = append(g.targets, name)
			}
			return newMeter(a.metrics, method, name)
		}, Publish: a.hub.Publish}
	for name, cfg := range loaded.Sources {
		s, err := a.sources.acquire(name, cfg)
		if err != nil {
			return fmt.Errorf("source %q: %w", name, err)
		}
		g.sources = append(g.sources, s)
		if err := a.share(s); err != nil {
			return located(loaded, err)
		}
		read, write, replica := roles(cfg)
		deps.Sources[name] = catalog.Source{Hash: s.hash,
			Source: observed{s.db, a.metrics.Query(name, read), a.metrics.Query(name, write), a.metrics.Query(name, replica)}}
	}
	var faults conf.Faults
	g.Catalog, faults = catalog.New(catalog.Definitions{Tools: loaded.Tools, Resources: loaded.Resources,
		Prompts: loaded.Prompts, Toolsets: loaded.Toolsets, Events: loaded.Events}, deps)
	if len(faults) > 0 {
		return loaded.Locate(faults)
	}
	for _, s := range g.sources {
		if s.name == loaded.Cache.L3.Source {
			g.l3 = s
		}
	}
	if g.secret, err = cacheKey(loaded); err != nil {
		return err
	}
	if old := a.current.Load(); old != nil && old.loaded.Cache == loaded.Cache && old.l3 == g.l3 && bytes.Equal(old.secret, g.secret) {
		g.cache, g.redis = old.cache, old.redis
	} else if err := a.newCache(g); err != nil {
		return err
	} else {
		g.isNew = true
	}
	// The stops between resolution and work, outermost first. Admission will stand behind the cache.
	g.handler = invoke
	for _, stop := range []mcp.Middleware{g.cache.Middleware} {
		g.handler = stop(g.handler)
	}
	return nil
}

func invoke(ctx context.Context, c *mcp.Call) (mcp.Result, error) { return c.Invoke(ctx, c) }

// newCache makes the cache of g, and what it stands on.
func (a *App) newCache(g *generation) (err error) {
	deps := cache.Deps{Tags: a.tags, L1: newCacheCounters(a.metrics, "l1"), Log: a.log}
	if len(g.loaded.Redis.Nodes) > 0 {
		if g.redis, err = redis.Open(g.loaded.Redis, a.log); err != nil {
			return located(g.loaded, err)
		}
		deps.L2, deps.Redis, deps.Secret = newCacheCounters(a.metrics, "l2"), g.redis, g.secret
	}
	if l3 := g.l3; l3 != nil {
		deps.L3 = newCacheCounters(a.metrics, "l3")
		deps.Database = &cache.Database{Compile: l3.db.Compile}
		if g.loaded.Sources[l3.name].SQLite == nil {
			deps.Database.Dialect = cache.PostgreSQL
		}
	}
	if g.cache, err = cache.New(g.loaded.Cache, deps); err != nil && g.redis != nil {
		g.redis.Close()
	}
	return err
}

// retire closes what only g used, when its last request has returned.
func (a *App) retire(g *generation) {
	current := a.current.Load()
	last := current == g || current.cache != g.cache
	a.work.Go(func() { // not here: this may be the cache's own work, which Close waits for
		if g.unfollow != nil { // else it was never current
			g.unfollow()
		}
		if last {
			g.cache.Close()
			if g.redis != nil {
				g.redis.Close()
			}
		}
		for _, s := range g.sources {
			a.sources.release(s)
		}
	})
}

// Run serves until ctx ends, then drains. It returns nil after a clean end.
func (a *App) Run(ctx context.Context) error {
	defer a.stop()
	if a.watch != nil {
		a.work.Go(func() { a.watch.run(a.ctx.Done(), func() { a.refresh(slog.LevelDebug) }) })
	}
	a.current.Load().awaitEvents()
	if a.opts.Stdio {
		// Draining first: listeners hear the end of their stream before it goes.
		defer context.AfterFunc(ctx, a.core.Drain)()
		err := a.core.ServeStdio(context.WithoutCancel(ctx), a.opts.In, a.opts.Out, int(a.started.Listen.MaxBody))
		a.core.Drain()
		return err
	}
	failed := make(chan error, 1+len(a.adminServers))
	serve := func(s *http.Server, l net.Listener) {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}
	for i, s := range a.adminServers {
		a.work.Go(func() { serve(s, a.adminListener[i]) })
	}
	a.work.Go(func() { serve(a.mcpServer, a.mcpListener) })
	a.health.set(stateReady)
	a.greet()
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	}
	return errors.Join(err, a.drain())
}

// DefaultDataDir is where the demo's database is made.
func DefaultDataDir() string {
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "millrace")
	}
	return filepath.Join(os.TempDir(), "millrace")
}
