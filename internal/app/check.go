package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"millrace/internal/catalog"
	"millrace/internal/conf"
	"millrace/internal/config"
	"millrace/internal/mcp"
	"millrace/internal/redis"
	"millrace/internal/sqldb"
)

// Check gives every fault of a configuration file and of the files that it names. It connects to databases only when
// asked to, and then to all of them, whatever else is wrong.
func Check(ctx context.Context, file string, connect bool) (conf.Faults, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	loaded, faults := config.Load(file, data, os.LookupEnv)
	deps := catalog.Deps{Sources: map[string]catalog.Source{}, TTL: loaded.Cache.L1.TTL, Batching: loaded.Batching,
		Meter: func(mcp.Method, string) mcp.Meter { return nil }}
	for _, name := range slices.Sorted(maps.Keys(loaded.Sources)) {
		cfg := loaded.Sources[name]
		deps.Sources[name] = catalog.Source{} // where it has faults they are told, and its tools are still checked
		if len(cfg.Validate()) > 0 {
			continue
		}
		db, err := sqldb.New(name, cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			faults = append(faults, faultAt(loaded, conf.Key("sources", name), err, "mend the source")...)
			continue
		}
		defer db.Close()
		deps.Sources[name] = catalog.Source{Source: db}
	}
	if loaded.Unread("sources") {
		deps.Sources = nil
	}
	faults = append(faults, fileFaults(loaded)...)
	c, more := catalog.New(catalog.Definitions{Tools: loaded.Tools, Resources: loaded.Resources, Prompts: loaded.Prompts,
		Toolsets: loaded.Toolsets, Events: loaded.Events}, deps)
	faults = append(faults, loaded.Locate(more)...)
	if connect {
		down := unreachable(ctx, deps.Sources)
		for name, err := range down {
			faults = append(faults, faultAt(loaded, conf.Key("sources", name), err, "see that the database is up and the address right")...)
		}
		for name, s := range deps.Sources {
			r, ok := s.Source.(sqldb.Replicated)
			if !ok || down[name] != nil {
				continue
			}
			within, cancel := context.WithTimeout(ctx, 5*time.Second)
			for i, err := range r.CheckReplicas(within) {
				if err != nil {
					faults = append(faults, faultAt(loaded, conf.Index(conf.Key("sources", name)+".postgres.replicas", i), err, "see that the replica is up and the address right")...)
				}
			}
			cancel()
		}
		if len(loaded.Redis.Nodes) > 0 && len(loaded.Redis.Validate()) == 0 {
			if err := redisAnswers(ctx, loaded.Redis); err != nil {
				faults = append(faults, faultAt(loaded, "redis.nodes", err, "see that Redis is up, and the addresses and the password right")...)
			}
		}
		limited, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		faults = append(faults, loaded.Locate(c.Check(limited, down))...)
	}
	return faults.Sorted(), nil
}

// redisAnswers waits a little for a server of Redis.
func redisAnswers(ctx context.Context, cfg redis.Config) error {
	over := time.After(3 * time.Second)
	c, err := redis.Open(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil // a file of it, which is told elsewhere
	}
	defer c.Close()
	select {
	case <-c.Ready():
		return nil
	case <-over:
		return errors.New("no server answers as it should within 3 s")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unreachable asks the sources side by side whether they answer, and gives the errors of those that do not.
func unreachable(ctx context.Context, sources map[string]catalog.Source) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	down := map[string]error{}
	var mu sync.Mutex // guards down
	var wg sync.WaitGroup
	for name, s := range sources {
		if s.Source == nil {
			continue
		}
		wg.Go(func() {
			if err := s.Ping(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				down[name] = err
			}
		})
	}
	wg.Wait()
	return down
}
