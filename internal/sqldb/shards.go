package sqldb

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgtype"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// ShardCount is how many logical shards the rows of a sharded source are in. A shard is on one server, and moves as a whole.
const ShardCount = 1024

// maxShardServers bounds the servers of a source: a statement without a shard key runs on all of them.
const maxShardServers = 64

// mostScattered is on how many servers one statement runs at a time.
const mostScattered = 4

// ShardsConfig is `shards:` of a source: tables whose rows are spread over servers by a key.
type ShardsConfig struct {
	Key     string                    `yaml:"key" required:"true" enum:"integer,text,uuid" desc:"The type of the columns that rows are spread by: integer for smallint, integer and bigint, text for text and varchar."`
	Tables  []ShardedTable            `yaml:"tables" required:"true" desc:"The tables that are spread, those that others refer to first. They are alike on every server."`
	Servers map[string]PostgresConfig `yaml:"servers" required:"true" desc:"The servers by name. Which has which of the 1024 shards is written on them: 'millrace install SOURCE' begins it, 'millrace shards' shows and changes it."`
}

// ShardedTable is one table that is spread.
type ShardedTable struct {
	Table string `yaml:"table" required:"true" desc:"Its name, with a primary key, in the schema that comes first in the search path."`
	Key   string `yaml:"key" required:"true" desc:"The column, NOT NULL, that says in which shard a row is: rows of one key are on one server, of all tables."`
}

var (
	shardServerName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)
	shardIdentifier = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
)

func (c *ShardsConfig) validate() (fs conf.Faults) {
	add := func(path, message, fix string) {
		fs = append(fs, conf.Fault{Path: path, Message: message, Fix: fix})
	}
	if !slices.Contains([]string{"integer", "text", "uuid"}, c.Key) {
		add("shards.key", fmt.Sprintf("%q is no type of a shard key", c.Key), "write integer, text or uuid")
	}
	if len(c.Servers) == 0 || len(c.Servers) > maxShardServers {
		add("shards.servers", fmt.Sprintf("are %d", len(c.Servers)), fmt.Sprintf("name 1 to %d servers", maxShardServers))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Servers)) {
		at := conf.Key("shards.servers", name)
		if !shardServerName.MatchString(name) {
			add(at, fmt.Sprintf("%q is no name of a server", name), "use small letters, digits, '_' and '-', at most 32")
		}
		own := Config{Postgres: new(c.Servers[name])}
		for _, f := range own.validatePostgres() {
			f.Path = at + f.Path[len("postgres"):]
			fs = append(fs, f)
		}
	}
	if len(c.Tables) == 0 {
		add("shards.tables", "are missing", "name the tables that are spread, each with its key column")
	}
	for i, t := range c.Tables {
		at := conf.Index("shards.tables", i)
		if !shardIdentifier.MatchString(t.Table) {
			add(at+".table", fmt.Sprintf("%q is no name of a table", t.Table), "use small letters, digits and '_', and no schema: it is the first of the search path")
		}
		if !shardIdentifier.MatchString(t.Key) {
			add(at+".key", fmt.Sprintf("%q is no name of a column", t.Key), "name the column as the table has it")
		}
		if slices.ContainsFunc(c.Tables[:i], func(o ShardedTable) bool { return o.Table == t.Table }) {
			add(at+".table", fmt.Sprintf("%q is there twice", t.Table), "remove one of them")
		}
	}
	return fs
}

// ShardOf gives the shard of a key, as the database writes it as text. Function millrace_shard_of does the same in the database.
func ShardOf(key string) int {
	sum := sha256.Sum256([]byte(key))
	return int(binary.BigEndian.Uint16(sum[:])) % ShardCount
}

// sharded is a source whose tables are spread over servers. Which shard is where is known from the servers themselves, and kept; every
// statement has the server check, in its own transaction, that nothing has come or gone since, so what is kept may be old and
// never wrong. A statement for one key runs on the server of that key's shard, any other read on all, mostScattered at a time.
//
// Reads run on the primaries: a replica may still have a shard that has gone.
type sharded struct {
	name    string
	cfg     Config
	servers []shardServer // by number, in the order of their names
	known   atomic.Pointer[shardMap]
	looks   chan struct{} // holds something while nobody looks
}

type shardServer struct {
	Source
	name string
	look Query // what is there
}

func newSharded(name string, cfg Config, log *slog.Logger) (Source, error) {
	s := &sharded{name: name, cfg: cfg, looks: make(chan struct{}, 1)}
	s.looks <- struct{}{}
	tables, _ := s.tables()
	// A name is safe: validate.
	text := fmt.Sprintf(`SELECT epoch, ARRAY(SELECT shard FROM %s WHERE state IN ('here', 'leaving') ORDER BY shard) AS shards,
		ARRAY(SELECT t FROM unnest(ARRAY['%s']) t WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = pg_catalog.to_regclass(t) AND g.tgname = '%s')) AS open FROM %s`,
		ShardTable, strings.Join(tables, "', '"), ShardTrigger, ShardEpoch)
	for _, server := range slices.Sorted(maps.Keys(cfg.Shards.Servers)) {
		own, err := New(name+"/"+server, cfg.Server(server), log)
		if err == nil {
			o := shardServer{Source: own, name: server}
			o.look, err = own.Compile(Spec{Name: "shards", Own: true, Text: text})
			s.servers = append(s.servers, o)
		}
		if err != nil {
			_ = s.Close() // never fails
			return nil, err
		}
	}
	return s, nil
}

// Server gives the configuration of one of the servers of a sharded source.
func (c Config) Server(name string) Config {
	server := c.Shards.Servers[name]
	c.Postgres, c.Shards = &server, nil
	return c
}

// Compile implements Source, on each of the servers.
func (s *sharded) Compile(spec Spec) (Query, error) {
	var fs conf.Faults
	add := func(path, message, fix string) {
		fs = append(fs, conf.Fault{Path: path, Message: message, Fix: fix})
	}
	if spec.Once {
		add("idempotency", "keys are kept beside the rows that a write changes, and those of a sharded source move between servers", "remove it")
	}
	if spec.Batch != nil {
		add("batch", "goes with one server: keys of one batch would be on several", "remove it")
	}
	if spec.Snapshot {
		add("snapshot", "goes with one server", "remove it")
	}
	if spec.Shard == nil && spec.Mode == ReadWrite {
		add("shard", "is missing: the write would be of all servers, and no transaction spans them", "add shard: {by: PARAMETER}, the key of the rows that are written")
	}
	if spec.Shard == nil && len(spec.Parts) > 0 {
		add("shard", "is missing: several statements go with one shard", "add shard: {by: PARAMETER}")
	}
	own := spec
	own.Shard, own.guarded = nil, true
	var of *gathering
	switch {
	case len(fs) > 0:
	case spec.Shard != nil:
		if want, p := s.parameterType(), spec.Params[*spec.Shard]; p.Type != want {
			add("shard.by", fmt.Sprintf("parameter %q is of type %s, and the source's keys are of type %s", p.Name, p.Type, s.cfg.Shards.Key), "make it "+want)
		}
	default:
		if _, faults := parse(spec.Text, dialectPostgres, spec.Params, spec.Mode); len(faults) > 0 {
			return nil, faults.Err()
		}
		var faults conf.Faults
		tables, keys := s.tables()
		of, faults = parseGather(spec.Text, spec.Params, tables, keys)
		fs = append(fs, faults...)
	}
	if err := fs.Err(); err != nil {
		return nil, err
	}
	on := make([]Query, len(s.servers))
	for i := range s.servers {
		var err error
		if on[i], err = s.servers[i].Compile(own); err != nil {
			return nil, err
		}
	}
	base := shardedQuery{source: s, spec: spec, on: on}
	base.span, base.limit = queryTimeout(s.cfg.QueryTimeout.Std(), spec.Timeout)
	if spec.Shard != nil {
		return &keyedQuery{base}, nil
	}
	return &scatteredQuery{shardedQuery: base, gathering: of}, nil
}

// tables gives the names of the tables that are spread, with their keys.
func (s *sharded) tables() (names, keys []string) {
	for _, t := range s.cfg.Shards.Tables {
		names, keys = append(names, t.Table), append(keys, t.Key)
	}
	return names, keys
}

func (s *sharded) parameterType() string {
	if s.cfg.Shards.Key == "integer" {
		return "integer"
	}
	return "string"
}

// key gives an argument as the database writes it.
func (s *sharded) key(tool string, p *Param, v *mcp.Value) (string, error) {
	switch {
	case v.Kind == mcp.KindInt:
		return strconv.FormatInt(v.Int, 10), nil
	case v.Kind != mcp.KindText:
		return "", sqlFailure(tool, fmt.Sprintf("argument %q is the shard key, and must be given", p.Name), nil)
	case s.cfg.Shards.Key == "uuid":
		var id pgtype.UUID
		if err := id.Scan(string(v.Text)); err != nil {
			return "", sqlFailure(tool, fmt.Sprintf("argument %q is the shard key, and no UUID", p.Name), nil)
		}
		return id.String(), nil
	}
	return string(v.Text), nil
}

// Ping implements Source: of all servers.
func (s *sharded) Ping(ctx context.Context) error {
	return sideBySide(ctx, len(s.servers), mostScattered, func(ctx context.Context, next func() (int, bool)) error {
		for i, ok := next(); ok; i, ok = next() {
			if err := s.servers[i].Ping(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// errSharded is of what goes with one database.
var errSharded = errors.New("the source is spread over servers (shards): name one of those as a source of its own")

// Watch implements Source.
func (s *sharded) Watch(context.Context, string, func()) error { return errSharded }

// Script implements Source.
func (s *sharded) Script(context.Context, []string) error { return errSharded }

// Dialect implements Source.
func (s *sharded) Dialect() Dialect { return PostgreSQL }

// Sharded implements Source.
func (s *sharded) Sharded() bool { return true }

// Widest implements Source.
func (s *sharded) Widest() mcp.Scope { return widest(s.cfg.Settings) }

// Stats implements Source: the servers' in their order.
func (s *sharded) Stats() (out []PoolStats) {
	for i := range s.servers {
		for _, p := range s.servers[i].Stats() {
			p.Role = s.servers[i].name + "." + p.Role
			if p.Server != nil {
				own := *p.Server
				own.Key = conf.Key("shards.servers", s.servers[i].name) + "." + own.Key
				p.Server = &own
			}
			out = append(out, p)
		}
	}
	return out
}

// Close implements Source.
func (s *sharded) Close() error {
	for i := range s.servers {
		_ = s.servers[i].Close() // never fails
	}
	return nil
}
