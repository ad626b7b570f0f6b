package app

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"millrace/internal/catalog"
	"millrace/internal/conf"
	"millrace/internal/config"
	"millrace/internal/identity"
	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// Check gives every fault of a configuration file. It connects to databases only when asked to.
func Check(ctx context.Context, file string, connect bool) (conf.Faults, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	loaded, faults := config.Load(file, data, os.LookupEnv)
	deps := catalog.Deps{Sources: map[string]catalog.Source{}, TTL: loaded.Cache.L1.TTL,
		Meter: func(mcp.Method, string) mcp.Meter { return nil }}
	for _, name := range slices.Sorted(maps.Keys(loaded.Sources)) {
		cfg := loaded.Sources[name]
		deps.Sources[name] = catalog.Source{} // where it has faults they are told, and its tools are still checked
		if len(cfg.Validate()) > 0 {
			continue
		}
		db, err := sqldb.New(name, cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			faults = append(faults, loaded.Locate(conf.Faults{{Path: conf.Key("sources", name), Message: err.Error(), Fix: "mend the source"}})...)
			continue
		}
		defer db.Close()
		deps.Sources[name] = catalog.Source{Source: db}
		if connect {
			limited, cancel := context.WithTimeout(ctx, 5*time.Second)
			if err := db.Ping(limited); err != nil {
				faults = append(faults, loaded.Locate(conf.Faults{{Path: conf.Key("sources", name), Message: err.Error(),
					Fix: "see that the database is up and the address right"}})...)
			}
			cancel()
		}
	}
	if _, err := identity.New(loaded.Auth); err != nil && len(loaded.Auth.Validate()) == 0 {
		faults = append(faults, loaded.Locate(conf.Faults{{Path: "auth.keys_file", Message: err.Error(), Fix: "mend the file"}})...)
	}
	c, more := catalog.New(catalog.Definitions{Tools: loaded.Tools, Resources: loaded.Resources, Prompts: loaded.Prompts,
		Toolsets: loaded.Toolsets}, deps)
	faults = append(faults, loaded.Locate(more)...)
	if c != nil && connect && len(faults) == 0 {
		limited, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		faults = append(faults, loaded.Locate(c.Check(limited))...)
	}
	return faults.Sorted(), nil
}
