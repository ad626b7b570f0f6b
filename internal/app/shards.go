package app

import (
	"context"
	"fmt"
	"strings"

	"millrace/internal/shards"
	"millrace/internal/sqldb"
)

func installShards(ctx context.Context, source string, cfg sqldb.Config, remove bool) (done string, err error) {
	var tables []string
	for _, t := range cfg.Shards.Tables {
		tables = append(tables, t.Table)
	}
	err = withShards(ctx, cfg, func(s *shards.Servers) error {
		if remove {
			done = fmt.Sprintf("the servers of source %s have no map of shards any more; the rows are where they were", source)
			return s.Remove(ctx)
		}
		done = fmt.Sprintf("the servers of source %s know which shards of %s they have", source, strings.Join(tables, ", "))
		return s.Install(ctx)
	})
	return done, err
}

// withShards calls f with connections to the servers of a sharded source.
func withShards(ctx context.Context, cfg sqldb.Config, f func(*shards.Servers) error) error {
	s, err := shards.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	return f(s)
}

// openShards reads a configuration file and connects to the servers of one of its sources.
func openShards(ctx context.Context, file, source string, f func(*shards.Servers) error) error {
	loaded, db, err := openSource(file, source)
	if err != nil {
		return err
	}
	_ = db.Close() // it has connected to nothing
	cfg := loaded.Sources[source]
	if cfg.Shards == nil {
		return fmt.Errorf("%s: source %q has no shards:; it is one database", file, source)
	}
	return withShards(ctx, cfg, f)
}

// PlanShards tells how the shards of a source are spread, and which moves would spread them evenly over all servers but those of without.
func PlanShards(ctx context.Context, file, source string, without []string) (p *shards.Plan, err error) {
	err = openShards(ctx, file, source, func(s *shards.Servers) (err error) {
		p, err = s.Plan(ctx, without)
		return err
	})
	return p, err
}

// MoveShards takes shards, written as shards.Parse reads them, to a server.
func MoveShards(ctx context.Context, file, source, which, to string) (done []shards.Moved, err error) {
	numbers, err := shards.Parse(which)
	if err != nil {
		return nil, err
	}
	err = openShards(ctx, file, source, func(s *shards.Servers) (err error) {
		done, err = s.Move(ctx, numbers, to, nil)
		return err
	})
	return done, err
}
