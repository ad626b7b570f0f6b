package sqldb

import (
	"context"
	"errors"
	"log/slog"
	"millrace/internal/conf"
	"runtime"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"
)

// sqliteSource is one SQLite file: many connections that only read, one that writes.
type sqliteSource struct {
	name    string
	cfg     Config
	readers *pool[*sqliteConn]
	writer  *pool[*sqliteConn]
	swept   sweeper

	mu      sync.Mutex     // guards what follows
	numbers map[string]int // of the statements, by SQL text: one text is prepared once on each connection
	down    bool           // the last attempt to open failed: logged once

	log *slog.Logger
	// opened, where set by a test, gets every new connection.
	opened func(conn *sqlite.Conn, mode Mode) error
}

func newSQLite(name string, cfg Config, log *slog.Logger) *sqliteSource {
	s := &sqliteSource{name: name, cfg: cfg, numbers: map[string]int{}, log: log}
	s.readers = newPool(name, "reader", cfg.Pool, func(context.Context, time.Time) (*sqliteConn, error) { return s.open(ReadOnly) })
	one := PoolConfig{Size: 1, Wait: cfg.Pool.Wait}
	s.writer = newPool(name, "writer", one, func(context.Context, time.Time) (*sqliteConn, error) { return s.open(ReadWrite) })
	return s
}

func (s *sqliteSource) open(mode Mode) (*sqliteConn, error) {
	cache := coldCache
	if mode == ReadWrite || s.readers.stats().Open < 2*runtime.GOMAXPROCS(0) {
		cache = hotCache
	}
	c, err := openSQLite(s.cfg.SQLite.Path, mode, cache)
	if err == nil && s.opened != nil {
		if err = s.opened(c.conn, mode); err != nil {
			c.close()
		}
	}
	s.mu.Lock()
	was := s.down
	s.down = err != nil
	s.mu.Unlock()
	switch {
	case err != nil && !was:
		s.log.Error("database is not available", "source", s.name, "err", err)
	case err == nil && was:
		s.log.Info("database is available again", "source", s.name)
	}
	if err != nil {
		return nil, unavailable(s.name, err)
	}
	return c, nil
}

// Compile implements Source. Statements of one text share their prepared statements, so that a reload adds none; those
// that no tool uses any more stay prepared until the source is closed.
func (s *sqliteSource) Compile(spec Spec) (Query, error) {
	switch {
	case spec.Snapshot:
		return newSQLiteSnapshot(s, &spec)
	case len(spec.Parts) > 0:
		return newParts(&spec, dialectSQLite, s.cfg.Parallel, s.Compile)
	}
	return compiled(s.compileOne(spec))
}

func (s *sqliteSource) compileOne(spec Spec) (*sqliteQuery, error) {
	st, faults := parse(spec.Text, dialectSQLite, spec.Params, spec.Mode)
	if len(spec.Hints) > 0 {
		faults = append(faults, conf.Fault{Path: "hints", Message: "are settings of PostgreSQL's planner", Fix: "write INDEXED BY and the index's name behind the table in the statement"})
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	q := &sqliteQuery{source: s, spec: spec, statement: st}
	q.span, q.limit = queryTimeout(s.cfg.QueryTimeout.Std(), spec.Timeout)
	s.mu.Lock()
	defer s.mu.Unlock()
	number, ok := s.numbers[st.sql]
	if !ok {
		number = len(s.numbers)
		s.numbers[st.sql] = number
	}
	q.number = number
	return q, nil
}

// Ping implements Source.
func (s *sqliteSource) Ping(ctx context.Context) error {
	s.readers.keep()
	c, err := s.readers.get(ctx, time.Now().Add(s.cfg.QueryTimeout.Std()))
	if err != nil {
		return err
	}
	_, err = c.pragma("schema_version")
	s.readers.put(c, err != nil && !errors.Is(err, context.Canceled))
	if err != nil {
		return unavailable(s.name, err)
	}
	return nil
}

// Stats implements Source: the readers, then the writer.
func (s *sqliteSource) Stats() []PoolStats { return []PoolStats{s.readers.stats(), s.writer.stats()} }

// Close implements Source.
func (s *sqliteSource) Close() error {
	s.writer.close()
	s.readers.close()
	return nil
}
