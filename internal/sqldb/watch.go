package sqldb

import (
	"context"
	"errors"
	"fmt"
	"millrace/internal/mcp"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"zombiezen.com/go/sqlite/sqlitex"
)

// lookEvery is how often SQLite is asked whether its file has changed: it tells nobody.
const lookEvery = 50 * time.Millisecond

// aliveEvery is how long PostgreSQL may be silent before it is asked whether it is there.
const aliveEvery = 5 * time.Second

// Dialect implements Source.
func (s *sqliteSource) Dialect() Dialect { return SQLite }

// Dialect implements Source.
func (s *postgresSource) Dialect() Dialect { return PostgreSQL }

// Sharded implements Source.
func (s *sqliteSource) Sharded() bool { return false }

// Sharded implements Source.
func (s *postgresSource) Sharded() bool { return false }

// Widest implements Source.
func (s *sqliteSource) Widest() mcp.Scope { return mcp.ScopePublic }

// Widest implements Source.
func (s *postgresSource) Widest() mcp.Scope { return widest(s.cfg.Settings) }

// Watch implements Source.
func (s *sqliteSource) Watch(ctx context.Context, _ string, woke func()) error {
	c, err := openSQLite(s.cfg.SQLite.Path, ReadOnly, coldCache)
	if err != nil {
		return unavailable(s.name, err)
	}
	defer c.close()
	c.own = true
	c.conn.SetInterrupt(ctx.Done())
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for last := ""; ; {
		version, err := c.pragma("data_version")
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return unavailable(s.name, err)
		}
		if version != last {
			last = version
			woke()
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Script implements Source.
func (s *sqliteSource) Script(ctx context.Context, statements []string) (err error) {
	c, err := openSQLite(s.cfg.SQLite.Path, ReadWrite, coldCache)
	if err != nil {
		return unavailable(s.name, err)
	}
	defer c.close()
	c.own = true
	c.conn.SetInterrupt(ctx.Done())
	end, err := sqlitex.ImmediateTransaction(c.conn)
	if err != nil {
		return err
	}
	defer end(&err)
	for _, text := range statements {
		if err := sqlitex.ExecuteTransient(c.conn, text, nil); err != nil {
			return err
		}
	}
	return nil
}

// connect opens a connection beside the pool.
func (s *postgresSource) connect(ctx context.Context) (*pgconn.PgConn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, s.config.Copy())
	if err != nil {
		return nil, unavailable(s.name, connectFailure(err))
	}
	return conn, nil
}

func goodbye(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	_ = conn.Close(ctx)
}

// Watch implements Source. channel is an identifier.
func (s *postgresSource) Watch(ctx context.Context, channel string, woke func()) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer goodbye(conn)
	within := func(statement string) error {
		limited, cancel := context.WithTimeout(ctx, connectLimit)
		defer cancel()
		_, err := conn.Exec(limited, statement).ReadAll()
		return err
	}
	if err := within("LISTEN " + channel); err != nil {
		return unavailable(s.name, err)
	}
	woke()
	for {
		limited, cancel := context.WithTimeout(ctx, aliveEvery)
		err := conn.WaitForNotification(limited)
		silent := limited.Err() != nil
		cancel()
		switch {
		case err == nil:
			woke()
		case ctx.Err() != nil:
			return ctx.Err()
		case silent && !conn.IsClosed():
			if err := within("SELECT 1"); err != nil {
				return unavailable(s.name, err)
			}
			woke() // a notification that came with the answer is not told
		default:
			return unavailable(s.name, errors.New("the connection broke"))
		}
	}
}

// Script implements Source.
func (s *postgresSource) Script(ctx context.Context, statements []string) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer goodbye(conn)
	for _, text := range append(append([]string{"BEGIN"}, statements...), "COMMIT") {
		if _, err := conn.Exec(ctx, text).ReadAll(); err != nil {
			var server *pgconn.PgError
			if errors.As(err, &server) {
				return fmt.Errorf("%s (SQLSTATE %s)", server.Message, server.Code)
			}
			return unavailable(s.name, connectFailure(err))
		}
	}
	return nil
}
