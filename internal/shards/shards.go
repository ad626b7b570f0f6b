// Package shards keeps the map of a sharded source, which is on its servers: it makes what the servers need for it, tells how shards are
// spread, and moves them between servers while both serve.
//
// A shard is on the server whose millrace_shards says "here" or "leaving". Whoever writes a row holds a shared lock of its shard until the
// transaction ends, and a move takes that lock alone before it changes where the shard is: package sqldb has the statements that Millrace
// sends before its own, and triggers do the same for the writes of others.
package shards

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/conf"
	"millrace/internal/sqldb"
)

// lockClass is that of the advisory locks of shards; a move takes number moveLock of the next class, so that there is one at a time.
const (
	lockClass = 1835626610
	moveLock  = 0
)

// The states of a shard on a server. Only the first two are of the server that has it.
const (
	here     = "here"
	leaving  = "leaving"  // a move copies it: changes are written down
	arriving = "arriving" // a move fills it
	arrived  = "arrived"  // all of it is there, and it is here as soon as it has left where it was
)

// Servers are connections to the servers of a sharded source, each to the one of its hosts that takes writes.
type Servers struct {
	cfg sqldb.ShardsConfig
	all []*server // in the order of their names
}

// server is one server, with its tables once they are known.
type server struct {
	name   string
	urls   []conf.Secret
	conn   *pgconn.PgConn
	others int      // hosts that the file names beside the one that takes writes
	schema string   // quoted, where everything is
	role   bool     // it may turn triggers off
	tables []*table // as the configuration has them

	spread   []sqldb.ShardedTable
	keyType  string
	reserved bool // nobody else moves shards here
}

// table is one table that is spread.
type table struct {
	name    string // quoted, as are those of columns
	plain   string
	key     string
	columns []string // those that are stored
	types   []string
	primary []int // columns, by number
}

// Open connects to every server. Close must be called.
func Open(ctx context.Context, cfg sqldb.Config) (*Servers, error) {
	if cfg.Shards == nil {
		return nil, errors.New("the source has no shards:; it is one database")
	}
	s := &Servers{cfg: *cfg.Shards}
	for _, name := range slices.Sorted(maps.Keys(cfg.Shards.Servers)) {
		own := cfg.Shards.Servers[name]
		o := &server{name: name, urls: append([]conf.Secret{own.Primary}, own.Replicas...), spread: cfg.Shards.Tables, keyType: cfg.Shards.Key}
		if err := o.connect(ctx); err != nil {
			s.Close()
			return nil, fmt.Errorf("server %s: %w", name, err)
		}
		s.all = append(s.all, o)
	}
	return s, nil
}

// Close ends the connections, and with them what a move has locked.
func (s *Servers) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, o := range s.all {
		_ = o.conn.Close(ctx)
	}
}

func (s *Servers) named(name string) (*server, error) {
	i := slices.IndexFunc(s.all, func(o *server) bool { return o.name == name })
	if i < 0 {
		return nil, fmt.Errorf("the source has no server %q; it has %s", name, strings.Join(slices.Sorted(maps.Keys(s.cfg.Servers)), ", "))
	}
	return s.all[i], nil
}

// sessionSettings are those that a move rests on, whatever those of its user are: values are written as they are read, nothing is lost in a crash that
// was said to be done, nothing ends a long copy, and what row-level security would hide is an error.
var sessionSettings = map[string]string{
	"application_name": "millrace shards", "client_min_messages": "warning", "client_encoding": "UTF8", "DateStyle": "ISO, YMD", "IntervalStyle": "postgres",
	"extra_float_digits": "3", "standard_conforming_strings": "on", "synchronous_commit": "on", "statement_timeout": "0", "lock_timeout": "0",
	"idle_in_transaction_session_timeout": "0", "row_security": "off",
	// A host that is gone without a word must not keep its locks for hours.
	"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3", "tcp_user_timeout": "30000",
}

// otherTimeouts turns off those that later versions have.
const otherTimeouts = `SELECT count(set_config(name, '0', false)) FROM pg_settings WHERE name IN ('transaction_timeout', 'idle_session_timeout')`

// connect finds the server that takes writes. Where two say so nobody here knows which is right.
func (o *server) connect(ctx context.Context) error {
	failed := errors.New("none of its hosts takes writes")
	var found *pgconn.PgConn // o.conn stays what it is until there is another
	others := -1
	for _, url := range o.urls {
		config, err := pgconn.ParseConfig(url.Reveal())
		if err != nil {
			return errors.New("its address is no connection URL") // what ParseConfig says may hold the password
		}
		maps.Copy(config.RuntimeParams, sessionSettings)
		hosts := map[string]bool{fmt.Sprint(config.Host, config.Port): true}
		for _, f := range config.Fallbacks {
			hosts[fmt.Sprint(f.Host, f.Port)] = true
		}
		if others += len(hosts); len(hosts) > 1 {
			config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
		}
		dialing, cancel := context.WithTimeout(ctx, 5*time.Second)
		conn, err := pgconn.ConnectConfig(dialing, config)
		cancel()
		if err != nil {
			var refused *pgconn.PgError
			if failed = errors.New("it cannot be reached"); errors.As(err, &refused) {
				failed = fmt.Errorf("it refuses the connection (SQLSTATE %s)", refused.Code)
			}
			continue
		}
		r := query(ctx, conn, "SELECT pg_is_in_recovery()")
		if r.err != nil || r.rows[0][0] == "t" {
			if _ = conn.Close(ctx); r.err != nil {
				failed = r.err
			}
			continue
		}
		if found != nil {
			_ = conn.Close(ctx)
			_ = found.Close(ctx)
			return errors.New("two of its hosts take writes: leave one of them out of the file, or stop it")
		}
		found = conn
	}
	if found == nil {
		return failed
	}
	r := query(ctx, found, `SELECT quote_ident(current_schema()), current_setting('is_superuser') = 'on'`)
	if r.err == nil {
		r.err = query(ctx, found, otherTimeouts).err
	}
	if r.err != nil {
		_ = found.Close(ctx)
		return r.err
	}
	o.conn, o.others, o.schema, o.role = found, others, r.rows[0][0], r.rows[0][1] == "t"
	return nil
}

// answer is what a statement gave, as text; NULL is "".
type answer struct {
	rows     [][]string
	affected int64
	err      error
}

// query runs one statement with parameters.
func query(ctx context.Context, conn *pgconn.PgConn, sql string, args ...string) (a answer) {
	values := make([][]byte, len(args))
	for i, v := range args {
		values[i] = []byte(v)
	}
	r := conn.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	a.err = r.Err
	a.affected = r.CommandTag.RowsAffected()
	for _, row := range r.Rows {
		text := make([]string, len(row))
		for i, v := range row {
			text[i] = string(v)
		}
		a.rows = append(a.rows, text)
	}
	return a
}

// exec runs statements without parameters, one after the other, until one fails.
func (o *server) exec(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if err := o.conn.Exec(ctx, sql).Close(); err != nil {
			return fmt.Errorf("server %s: %w", o.name, err)
		}
	}
	return nil
}

// tx runs statements in one transaction.
func (o *server) tx(ctx context.Context, statements ...string) error {
	if o.conn.IsClosed() { // as the other end of a copy that broke
		err := o.connect(ctx)
		if err == nil && o.reserved {
			err = o.reserveAgain(ctx)
		}
		if err != nil {
			return fmt.Errorf("server %s: %w", o.name, err)
		}
	}
	if o.conn.TxStatus() != 'I' {
		if err := o.exec(ctx, "ROLLBACK"); err != nil {
			return err
		}
	}
	err := o.exec(ctx, append(append([]string{"BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE"}, statements...), "COMMIT")...)
	if err != nil && !o.conn.IsClosed() && o.conn.TxStatus() != 'I' {
		_ = o.exec(context.WithoutCancel(ctx), "ROLLBACK")
	}
	return err
}

// look reads what the tables are like, and refuses those that cannot be spread.
func (s *Servers) look(ctx context.Context) error {
	for _, o := range s.all {
		o.tables = nil
		for _, t := range s.cfg.Tables {
			found, err := o.table(ctx, t, s.cfg.Key)
			if err != nil {
				return fmt.Errorf("server %s: table %s: %w", o.name, t.Table, err)
			}
			o.tables = append(o.tables, found)
		}
		if err := o.references(ctx, s.cfg.Tables); err != nil {
			return fmt.Errorf("server %s: %w", o.name, err)
		}
	}
	for _, o := range s.all[1:] {
		for i, t := range o.tables {
			if !t.like(s.all[0].tables[i]) {
				return fmt.Errorf("table %s is not alike on servers %s and %s: it needs the same columns, types and primary key, in one order", t.plain, s.all[0].name, o.name)
			}
		}
	}
	return nil
}

// like tells whether rows of one table fit into another.
func (t *table) like(o *table) bool {
	return t.key == o.key && slices.Equal(t.columns, o.columns) && slices.Equal(t.types, o.types) && slices.Equal(t.primary, o.primary)
}

// guarded tells whether the tables have the triggers by which a move hears of changes.
func (o *server) guarded(ctx context.Context) error {
	for _, t := range o.tables {
		r := query(ctx, o.conn, "SELECT count(*) FROM pg_trigger WHERE tgrelid = $1::regclass AND tgname IN ($2, 'millrace_shard_truncate') AND tgenabled IN ('O', 'A')", t.name, sqldb.ShardTrigger)
		if r.err != nil {
			return fmt.Errorf("server %s: %w", o.name, r.err)
		}
		if r.rows[0][0] != "2" {
			return fmt.Errorf("server %s: table %s has not the triggers by which a move hears of changes, or they are disabled; run 'millrace install SOURCE'", o.name, t.plain)
		}
	}
	return nil
}

// keyTypes are those of key columns, by shards.key.
var keyTypes = map[string][]string{"integer": {"smallint", "integer", "bigint"}, "text": {"text", "character varying"}, "uuid": {"uuid"}}

func (o *server) table(ctx context.Context, t sqldb.ShardedTable, keyType string) (*table, error) {
	out := &table{plain: t.Table}
	r := query(ctx, o.conn, `SELECT a.attname, quote_ident(a.attname), format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, NULL), a.attnotnull::text,
			coalesce((SELECT array_position(i.indkey::int2[], a.attnum) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), -1), quote_ident(c.relname), c.relkind,
			coalesce((SELECT NOT collisdeterministic FROM pg_collation l WHERE l.oid = a.attcollation), false)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
		WHERE c.relname = $1 ORDER BY a.attnum`, t.Table)
	if r.err != nil {
		return nil, r.err
	}
	if len(r.rows) == 0 || !slices.Contains([]string{"r", "p"}, r.rows[0][7]) {
		return nil, errors.New("it is not there; make it first: the tables are yours")
	}
	place := map[int]int{}
	for i, row := range r.rows {
		out.name = row[6]
		if row[0] == t.Key {
			out.key = row[1]
			if !slices.Contains(keyTypes[keyType], row[3]) {
				return nil, fmt.Errorf("column %s is of type %s, and shards.key says %s", t.Key, row[3], keyType)
			}
			if row[8] == "t" {
				return nil, fmt.Errorf("column %s has a collation under which different texts are equal, and they would be in different shards", t.Key)
			}
			if row[4] != "true" {
				return nil, fmt.Errorf("column %s may be NULL, and such a row would be in no shard; make it NOT NULL", t.Key)
			}
		}
		out.columns, out.types = append(out.columns, row[1]), append(out.types, row[2])
		if n, err := strconv.Atoi(row[5]); err == nil && n >= 0 { // an int2vector counts from 0
			place[n] = i
		}
	}
	for _, n := range slices.Sorted(maps.Keys(place)) {
		out.primary = append(out.primary, place[n])
	}
	switch {
	case out.key == "":
		return nil, fmt.Errorf("it has no column %s", t.Key)
	case len(out.primary) == 0:
		return nil, errors.New("it has no primary key, by which a move tells its rows apart")
	}
	return out, nil
}

// references refuses foreign keys that a move would break: those of tables that do not move, and those that do not go by the key, whose rows may
// be of another shard.
func (o *server) references(ctx context.Context, tables []sqldb.ShardedTable) error {
	keys := map[string]string{}
	for _, t := range tables {
		keys[t.Table] = t.Key
	}
	r := query(ctx, o.conn, `SELECT t.relname, f.relname, (SELECT string_agg(a.attname || ' ' || b.attname, ',') FROM unnest(c.conkey, c.confkey) k(a, b)
			JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.a JOIN pg_attribute b ON b.attrelid = f.oid AND b.attnum = k.b)
		FROM pg_constraint c JOIN pg_class f ON f.oid = c.confrelid JOIN pg_class t ON t.oid = c.conrelid
		WHERE c.contype = 'f' AND c.conparentid = 0 AND f.relname = ANY ($1::text[]) AND f.relnamespace = current_schema()::regnamespace`, arrayLiteral(slices.Sorted(maps.Keys(keys))))
	if r.err != nil {
		return r.err
	}
	for _, row := range r.rows {
		child, parent := row[0], row[1]
		key, spread := keys[child]
		switch {
		case !spread:
			return fmt.Errorf("table %s refers to %s, whose rows move: name it in shards.tables too, behind that", child, parent)
		case !slices.Contains(strings.Split(row[2], ","), key+" "+keys[parent]):
			return fmt.Errorf("table %s refers to %s by other columns than the shard keys (%s and %s): rows of one shard could refer to rows of another, which may be elsewhere; add the keys to the foreign key, or remove it", child, parent, key, keys[parent])
		}
	}
	return nil
}

// arrayLiteral writes texts as an array.
func arrayLiteral(texts []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, t := range texts {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		b.WriteString(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(t))
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

// literal writes a text as SQL does, where standard_conforming_strings is on.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// list writes shards as an array.
func list(shards []int) string {
	text := make([]string, len(shards))
	for i, n := range shards {
		text[i] = strconv.Itoa(n)
	}
	return "'{" + strings.Join(text, ",") + "}'::int[]"
}

// of is the condition of a table's rows being in one of the shards.
func (t *table) of(shards []int) string {
	return "millrace_shard_of(" + t.key + "::text) = ANY (" + list(shards) + ")"
}

// status is where the shards are.
type status map[string]map[int]string // state by server and shard

// status reads it.
func (s *Servers) status(ctx context.Context) (status, error) {
	out := status{}
	for _, o := range s.all {
		r := query(ctx, o.conn, "SELECT shard, state FROM "+sqldb.ShardTable)
		var server *pgconn.PgError
		if errors.As(r.err, &server) && server.Code == "42P01" {
			return nil, fmt.Errorf("server %s has no map of shards; run 'millrace install SOURCE'", o.name)
		} else if r.err != nil {
			return nil, fmt.Errorf("server %s: %w", o.name, r.err)
		}
		out[o.name] = map[int]string{}
		for _, row := range r.rows {
			n, err := strconv.Atoi(row[0])
			if err != nil {
				return nil, err
			}
			out[o.name][n] = row[1]
		}
	}
	return out, nil
}

// settled reads it until no shard is on two servers: one that leaves while they are asked, one after the other, seems to be.
func (s *Servers) settled(ctx context.Context) (st status, err error) {
	for range 3 {
		if st, err = s.status(ctx); err != nil {
			return nil, err
		}
		twice := false
		for shard := range sqldb.ShardCount {
			if _, err := st.owner(shard); err != nil {
				twice = true
				break
			}
		}
		if !twice {
			break
		}
	}
	return st, nil
}

// owner gives the server that has a shard; "" for none. Two are an error.
func (st status) owner(shard int) (string, error) {
	owner := ""
	for _, name := range slices.Sorted(maps.Keys(st)) {
		if state := st[name][shard]; state != here && state != leaving {
			continue
		}
		if owner != "" {
			return "", fmt.Errorf("shard %d is on %s and on %s: has one of them been restored from a backup? Move none until you know which is right, then delete the shard's row from millrace_shards, and raise millrace_shard_epoch, on the other", shard, owner, name)
		}
		owner = name
	}
	return owner, nil
}
