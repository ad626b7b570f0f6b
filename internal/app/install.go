package app

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"millrace/internal/config"
	"millrace/internal/sqldb"
)

// openSource reads a configuration file and makes one of its sources, which the caller closes.
func openSource(file, source string) (*config.Loaded, sqldb.Source, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	loaded, faults := config.Load(file, data, os.LookupEnv)
	if len(faults) > 0 {
		return nil, nil, faults.Sorted()
	}
	cfg, ok := loaded.Sources[source]
	if !ok {
		return nil, nil, fmt.Errorf("%s: there is no source %q; there are %v", file, source, slices.Sorted(maps.Keys(loaded.Sources)))
	}
	db, err := sqldb.New(source, cfg, slog.New(slog.DiscardHandler))
	return loaded, db, err
}

// installTime bounds the making of a table, which may have to wait for locks. A source with shards takes as long as its indexes do.
const installTime = time.Minute

// Install makes in a source what the file needs there, or takes it away: the table of idempotency keys of its tools, or, on the servers of a
// source with shards, the map of those. It says what it has done.
func Install(ctx context.Context, file, source string, remove bool) (done string, err error) {
	loaded, db, err := openSource(file, source)
	if err != nil {
		return "", err
	}
	defer db.Close()
	if cfg := loaded.Sources[source]; cfg.Shards != nil {
		return installShards(ctx, source, cfg, remove)
	}
	ctx, cancel := context.WithTimeout(ctx, installTime)
	defer cancel()
	if remove {
		return fmt.Sprintf("no idempotency keys are left in source %s", source), sqldb.RemoveOnce(ctx, db)
	}
	var tools []string
	for i := range loaded.Tools {
		if t := &loaded.Tools[i]; t.Source == source && t.Idempotency != nil {
			tools = append(tools, t.Name)
		}
	}
	if len(tools) == 0 {
		return "", fmt.Errorf("%s: no tool of source %q has idempotency:, and nothing else is to be installed", file, source)
	}
	return fmt.Sprintf("source %s keeps the idempotency keys of %s", source, strings.Join(tools, ", ")), sqldb.InstallOnce(ctx, db)
}
