package sqldb

import (
	"fmt"
	"log/slog"
	"time"

	"millrace/internal/conf"
)

// Config is one entry of `sources:`. Exactly one engine is set.
type Config struct {
	SQLite       *SQLiteConfig     `yaml:"sqlite" desc:"A SQLite database file. Excludes postgres."`
	Postgres     *PostgresConfig   `yaml:"postgres" desc:"A PostgreSQL database. Excludes sqlite."`
	Shards       *ShardsConfig     `yaml:"shards" desc:"Tables spread over several PostgreSQL servers. Excludes sqlite and postgres."`
	Pool         PoolConfig        `yaml:"pool" desc:"Connections to the database."`
	Writes       int               `yaml:"write_concurrency" desc:"How many writes run at a time; others wait before they take a connection from reads. SQLite has one writer."`
	Parallel     int               `yaml:"parallel_queries" desc:"How many statements of one call run at a time, of a tool that has several."`
	MaxLag       conf.Duration     `yaml:"max_lag" desc:"How far behind the primary a replica may be to take reads."`
	Settings     map[string]string `yaml:"db_settings" desc:"Settings of PostgreSQL for each statement's transaction, such as app.tenant: $tenant for row-level security. $tenant and $subject stand for the caller's. What is read with $tenant is cached for one tenant at most, with $subject for one caller."`
	QueryTimeout conf.Duration     `yaml:"query_timeout" desc:"How long one statement may take, waiting for a connection included. A tool's own timeout can only be shorter."`
}

// SQLiteConfig says which file a source reads.
type SQLiteConfig struct {
	Path string `yaml:"path" required:"true" desc:"The database file. It must exist: it is never created."`
}

// PostgresConfig says which server a source talks to.
type PostgresConfig struct {
	Primary  conf.Secret   `yaml:"primary" required:"true" desc:"The connection URL of the primary, such as postgres://user:password@host/database. Take it from a variable."`
	Replicas []conf.Secret `yaml:"replicas" desc:"Connection URLs of replicas by streaming replication. Read-only tools run on one that has replayed what their caller has last written."`
}

// PoolConfig bounds a source's connections. A SQLite source has one more, for writes.
type PoolConfig struct {
	Size     int           `yaml:"size" desc:"Connections that stay open when idle."`
	Overflow int           `yaml:"overflow" desc:"Connections beyond size that may open under load; they close when idle."`
	Wait     conf.Duration `yaml:"wait" desc:"How long a statement waits for a free connection before it fails as overloaded."`
	MinIdle  int           `yaml:"min_idle" desc:"Connections that are kept open and idle for what comes, within size. They are opened at the start."`
	Lifetime conf.Duration `yaml:"max_lifetime" desc:"How long a connection is used, less up to a tenth by chance; 0s for ever."`
}

// The largest pool that is accepted. A larger number is a mistake: the database would spend its time on switching.
const maxPool = 10_000

// The bounds of max_lag: less cannot be measured, and so long the primary's positions are remembered.
const (
	shortestLag = time.Second
	longestLag  = time.Hour
)

// shortestLife is the least lifetime of connections that is accepted.
const shortestLife = 10 * time.Second

// DefaultConfig gives a source's defaults. It has no engine.
func DefaultConfig() Config {
	return Config{
		Pool:         PoolConfig{Size: 50, Overflow: 10, Wait: conf.Duration(5 * time.Second), Lifetime: conf.Duration(time.Hour)},
		Writes:       10,
		Parallel:     4,
		MaxLag:       conf.Duration(10 * time.Second),
		QueryTimeout: conf.Duration(5 * time.Second),
	}
}

// SetDefaults makes Config a conf.Defaulter: the elements of `sources:` start from DefaultConfig.
func (c *Config) SetDefaults() { *c = DefaultConfig() }

// Validate gives every fault, with paths relative to the source.
func (c *Config) Validate() conf.Faults {
	var fs conf.Faults
	add := func(path, message, fix string) {
		fs = append(fs, conf.Fault{Path: path, Message: message, Fix: fix})
	}
	switch {
	case c.SQLite == nil && c.Postgres == nil && c.Shards == nil:
		add("", "no database is named", "add sqlite: {path: FILE} or postgres: {primary: URL}")
	case c.SQLite != nil && c.Postgres != nil:
		add("postgres", "a source is one database, and this one has sqlite too", "remove one of the two, or make them two sources")
	case c.Shards != nil && (c.SQLite != nil || c.Postgres != nil):
		add("shards", "has its own servers, and this source names another database beside them", "remove one of the two, or make them two sources")
	}
	if c.SQLite != nil && c.SQLite.Path == "" {
		add("sqlite.path", "is empty", "give the database file's path")
	}
	if c.SQLite != nil && (c.SQLite.Path == ":memory:") {
		add("sqlite.path", "is a database in memory, and every connection would have one of its own", "give the path of a file")
	}
	if c.Postgres != nil {
		fs = append(fs, c.validatePostgres()...)
	}
	if c.Shards != nil {
		fs = append(fs, c.Shards.validate()...)
	}
	fs = append(fs, validateSettings(c.Settings)...)
	if c.SQLite != nil && len(c.Settings) > 0 {
		add("db_settings", "are PostgreSQL's: SQLite has none", "remove them; a statement gets what it needs in its parameters")
	}
	if c.MaxLag.Std() < shortestLag || c.MaxLag.Std() > longestLag {
		add("max_lag", fmt.Sprintf("is %s", c.MaxLag.Std()), fmt.Sprintf("give %s to %s", shortestLag, longestLag))
	}
	if c.Pool.Size < 1 || c.Pool.Size > maxPool {
		add("pool.size", fmt.Sprintf("is %d", c.Pool.Size), fmt.Sprintf("give 1 to %d", maxPool))
	}
	if c.Pool.Overflow < 0 || c.Pool.Overflow > maxPool {
		add("pool.overflow", fmt.Sprintf("is %d", c.Pool.Overflow), fmt.Sprintf("give 0 to %d", maxPool))
	}
	if c.Pool.MinIdle < 0 || c.Pool.MinIdle > c.Pool.Size {
		add("pool.min_idle", fmt.Sprintf("is %d", c.Pool.MinIdle), fmt.Sprintf("give 0 to pool.size, which is %d", c.Pool.Size))
	}
	if c.Pool.Lifetime < 0 || c.Pool.Lifetime > 0 && c.Pool.Lifetime.Std() < shortestLife {
		add("pool.max_lifetime", fmt.Sprintf("is %s: connections would be opened all the time", c.Pool.Lifetime.Std()), fmt.Sprintf("give %s or more, or 0s for ever", shortestLife))
	}
	if c.Writes < 1 || c.Writes > maxPool {
		add("write_concurrency", fmt.Sprintf("is %d", c.Writes), fmt.Sprintf("give 1 to %d", maxPool))
	}
	if c.Parallel < 1 || c.Parallel > maxPool {
		add("parallel_queries", fmt.Sprintf("is %d", c.Parallel), fmt.Sprintf("give 1 to %d", maxPool))
	}
	if c.Pool.Wait <= 0 {
		add("pool.wait", "is zero", "give a duration such as 5s")
	}
	if c.QueryTimeout <= 0 {
		add("query_timeout", "is zero, and a statement must end some day", "give a duration such as 5s")
	}
	return fs
}

// validatePostgres gives the faults of postgres.
func (c *Config) validatePostgres() (fs conf.Faults) {
	if c.Postgres.Primary == "" {
		fs = append(fs, conf.Fault{Path: "postgres.primary", Message: "is empty", Fix: "give the connection URL, such as ${DATABASE_URL}"})
	} else if _, err := parsePostgresURL(c.Postgres.Primary); err != nil {
		fs = append(fs, conf.Fault{Path: "postgres.primary", Message: "is not a connection URL", Fix: "write postgres://user:password@host:5432/database"})
	}
	return append(fs, c.validateReplicas()...)
}

// New makes the source that cfg describes. It opens no connection and never waits for the network. The name stands in
// errors and logs. cfg must be free of faults.
func New(name string, cfg Config, log *slog.Logger) (Source, error) {
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("source %q: %w", name, err)
	}
	switch {
	case cfg.SQLite != nil:
		return newSQLite(name, cfg, log), nil
	case cfg.Shards != nil:
		return newSharded(name, cfg, log)
	}
	return newReplicated(name, cfg, log)
}
