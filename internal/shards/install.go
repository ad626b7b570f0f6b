package shards

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"millrace/internal/sqldb"
)

// objects makes what a server needs beside the tables.
func objects(schema string) []string {
	function := func(head, body string) string {
		return fmt.Sprintf("CREATE OR REPLACE FUNCTION %s LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, %s, pg_temp AS $millrace$\n%s\n$millrace$", head, schema, body)
	}
	return []string{
		`CREATE TABLE IF NOT EXISTS ` + sqldb.ShardEpoch + ` (one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch bigint NOT NULL)`,
		`INSERT INTO ` + sqldb.ShardEpoch + ` (epoch) VALUES (` + clock + `) ON CONFLICT DO NOTHING`,
		fmt.Sprintf(`CREATE TABLE IF NOT EXISTS `+sqldb.ShardTable+` (shard integer PRIMARY KEY CHECK (shard BETWEEN 0 AND %d),
			state text NOT NULL CHECK (state IN ('here', 'leaving', 'arriving', 'arrived')))`, sqldb.ShardCount-1),
		`CREATE TABLE IF NOT EXISTS millrace_shard_changes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, shard integer NOT NULL, tab text NOT NULL, pk text[] NOT NULL)`,
		`CREATE OR REPLACE FUNCTION millrace_shard_of(key text) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
			$millrace$ SELECT (pg_catalog.get_byte(pg_catalog.sha256(pg_catalog.convert_to($1, 'UTF8')), 0) & 3) * 256
				+ pg_catalog.get_byte(pg_catalog.sha256(pg_catalog.convert_to($1, 'UTF8')), 1) $millrace$`,
		// A statement of a function sees what was committed before it began: the epoch is read behind the lock.
		function(sqldb.ShardEntered+`(which integer, expected bigint) RETURNS void`, fmt.Sprintf(`BEGIN
	PERFORM pg_advisory_xact_lock_shared(%d, which);
	IF (SELECT epoch FROM `+sqldb.ShardEpoch+`) IS DISTINCT FROM expected THEN
		RAISE EXCEPTION 'shards have come or gone' USING ERRCODE = '`+sqldb.StateMoved+`';
	END IF;
	PERFORM set_config('millrace.shard', which::text, true);
END`, lockClass)),
		function(`millrace_shard_row(which integer, entered text, tab text, pk text[]) RETURNS void`, fmt.Sprintf(`DECLARE
	there text;
BEGIN
	IF entered <> '' THEN
		IF which <> entered::integer THEN
			RAISE EXCEPTION 'table %%: a row of shard %%, and the key is of shard %%', tab, which, entered USING ERRCODE = '`+sqldb.StateOtherShard+`';
		END IF;
	ELSE
		IF current_setting('transaction_isolation') <> 'read committed' THEN
			RAISE EXCEPTION 'table %%: its shards move, and rows are written in READ COMMITTED transactions only', tab USING ERRCODE = '`+sqldb.StateOtherShard+`';
		END IF;
		PERFORM pg_advisory_xact_lock_shared(%d, which);
	END IF;
	SELECT state INTO there FROM `+sqldb.ShardTable+` WHERE shard = which AND state IN ('here', 'leaving');
	IF there IS NULL THEN
		RAISE EXCEPTION 'table %%: a row of shard %%, which is on another server', tab, which USING ERRCODE = '`+sqldb.StateOtherShard+`';
	ELSIF there = 'leaving' THEN
		INSERT INTO millrace_shard_changes (shard, tab, pk) VALUES (which, tab, pk);
	END IF;
END`, lockClass)),
		function(`millrace_shard_truncate() RETURNS trigger`, `BEGIN
	IF EXISTS (SELECT FROM `+sqldb.ShardTable+` WHERE state = 'leaving') THEN
		RAISE EXCEPTION 'a shard of table % is being moved: truncate it when that is over', TG_TABLE_NAME USING ERRCODE = '`+sqldb.StateOtherShard+`';
	END IF;
	RETURN NULL;
END`),
		// Only the triggers, which run as their owner, and the source's own user are to call these.
		`REVOKE ALL ON FUNCTION ` + sqldb.ShardEntered + `(integer, bigint), millrace_shard_row(integer, text, text, text[]) FROM PUBLIC`,
	}
}

// clock is what an epoch is at least: one that was given once, on a server that was lost since, does not come again for another state.
const clock = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

// short is a name of what belongs to a table, within the length of a name.
func short(prefix, table string) string {
	sum := sha256.Sum256([]byte(table))
	return prefix + table[:min(len(table), 30)] + "_" + hex.EncodeToString(sum[:4])
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// triggers makes those of a table.
func (t *table) triggers(schema string) []string {
	row := quote(short("millrace_row_", t.plain))
	pk := func(of string) string {
		var out []string
		for _, i := range t.primary {
			out = append(out, of+"."+t.columns[i]+"::text")
		}
		return "ARRAY[" + strings.Join(out, ", ") + "]"
	}
	call := func(of string) string {
		return fmt.Sprintf("PERFORM millrace_shard_row(millrace_shard_of(%s.%s::text), entered, %s, %s);", of, t.key, literal(t.plain), pk(of))
	}
	settings := ""
	for _, i := range t.primary {
		if !slices.Contains([]string{"smallint", "integer", "bigint", "text", "uuid"}, t.types[i]) { // else the writer's settings say how it is written
			settings = "SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET extra_float_digits = 3 "
		}
	}
	return []string{
		fmt.Sprintf(`CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, %s, pg_temp %sAS $millrace$
DECLARE
	entered text := current_setting('millrace.shard', true);
BEGIN
	IF current_setting('millrace.moving', true) = 'yes' THEN
		RETURN NULL;
	END IF;
	IF TG_OP <> 'INSERT' THEN
		%s
	END IF;
	IF TG_OP <> 'DELETE' THEN
		%s
	END IF;
	RETURN NULL;
END
$millrace$`, row, schema, settings, call("OLD"), call("NEW")),
		"DROP TRIGGER IF EXISTS " + sqldb.ShardTrigger + " ON " + t.name,
		"CREATE TRIGGER " + sqldb.ShardTrigger + " AFTER INSERT OR UPDATE OR DELETE ON " + t.name + " FOR EACH ROW EXECUTE FUNCTION " + row + "()",
		"DROP TRIGGER IF EXISTS millrace_shard_truncate ON " + t.name,
		"CREATE TRIGGER millrace_shard_truncate BEFORE TRUNCATE ON " + t.name + " FOR EACH STATEMENT EXECUTE FUNCTION millrace_shard_truncate()",
	}
}

// Install makes on every server what the map of shards needs, and begins the map where there is none: evenly where the tables are empty,
// else on the server that has rows. One that was interrupted goes on where it was.
func (s *Servers) Install(ctx context.Context) error {
	if err := s.look(ctx); err != nil {
		return err
	}
	for _, o := range s.all {
		if err := o.tx(ctx, append([]string{"SET LOCAL lock_timeout = '5s'"}, objects(o.schema)...)...); err != nil {
			return err
		}
		for _, t := range o.tables {
			if err := o.index(ctx, t); err != nil {
				return err
			}
		}
	}
	given, err := s.divide(ctx)
	if err != nil {
		return err
	}
	for _, o := range s.all {
		if err := o.begin(ctx, given[o.name]); err != nil {
			return err
		}
	}
	return nil
}

// index makes the index by which a move finds the rows of a shard, without keeping writers out.
func (o *server) index(ctx context.Context, t *table) error {
	name := quote(short("millrace_shard_", t.plain))
	r := query(ctx, o.conn, `SELECT (SELECT relkind = 'p' FROM pg_class WHERE oid = $1::regclass), (SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass($2))`, t.name, name)
	if r.err != nil {
		return fmt.Errorf("server %s: %w", o.name, r.err)
	}
	concurrently := " CONCURRENTLY"
	if r.rows[0][0] == "t" {
		concurrently = "" // of a partitioned table there is no other
	}
	if r.rows[0][1] == "t" && concurrently != "" { // left by an attempt that was interrupted
		if err := o.exec(ctx, "DROP INDEX CONCURRENTLY "+name); err != nil {
			return err
		}
	}
	return o.exec(ctx, "CREATE INDEX"+concurrently+" IF NOT EXISTS "+name+" ON "+t.name+" (millrace_shard_of("+t.key+"::text))")
}

// divide says which shards that no server has each server gets.
func (s *Servers) divide(ctx context.Context) (map[string][]int, error) {
	st, err := s.status(ctx)
	if err != nil {
		return nil, err
	}
	var full []*server
	begun := false
	for _, o := range s.all {
		begun = begun || len(st[o.name]) > 0
		for _, t := range o.tables {
			r := query(ctx, o.conn, "SELECT EXISTS (SELECT FROM "+t.name+")")
			if r.err != nil {
				return nil, fmt.Errorf("server %s: %w", o.name, r.err)
			}
			if r.rows[0][0] == "t" {
				full = append(full, o)
				break
			}
		}
	}
	to := s.all
	switch {
	case begun: // as it was divided then
	case len(full) > 1:
		return nil, fmt.Errorf("servers %s and %s have rows, and no map says which belong there: put the rows of all on one, run this, and move shards from there", full[0].name, full[1].name)
	case len(full) == 1:
		to = full
	}
	given := map[string][]int{}
	for i, o := range to {
		if len(st[o.name]) > 0 {
			continue
		}
		if begun && slices.Contains(full, o) {
			return nil, fmt.Errorf("server %s has rows, and no shards: they are of other servers' shards, or this was interrupted before it came there; take the rows away, and run it again", o.name)
		}
		for shard := i * sqldb.ShardCount / len(to); shard < (i+1)*sqldb.ShardCount/len(to); shard++ {
			nobody := true
			for _, other := range st {
				nobody = nobody && other[shard] == ""
			}
			if nobody {
				given[o.name] = append(given[o.name], shard)
			}
		}
	}
	var nowhere []int
	for shard := range sqldb.ShardCount {
		somebody := false
		for _, o := range s.all {
			somebody = somebody || st[o.name][shard] != "" || slices.Contains(given[o.name], shard)
		}
		if !somebody {
			nowhere = append(nowhere, shard)
		}
	}
	if len(nowhere) > 0 {
		return nil, fmt.Errorf("no server has shards %s, and none is without shards that could be given them: has one been restored from a backup, or been left out of the file?", ranges(nowhere))
	}
	return given, nil
}

// begin makes the triggers, and with them gives the server its first shards: from then on no row comes in that is of another.
func (o *server) begin(ctx context.Context, given []int) error {
	var statements []string
	for _, t := range o.tables {
		statements = append(statements, t.triggers(o.schema)...)
	}
	statements = append([]string{"SET LOCAL lock_timeout = '5s'"}, statements...)
	if len(given) > 0 {
		statements = append(statements, "INSERT INTO "+sqldb.ShardTable+" (shard, state) SELECT n, 'here' FROM unnest("+list(given)+") n", raise)
		if len(given) < sqldb.ShardCount { // the triggers keep writers out by now
			for _, t := range o.tables {
				statements = append(statements, "DO $millrace$ BEGIN IF EXISTS (SELECT FROM "+t.name+") THEN RAISE EXCEPTION 'table % has rows since this began: run it again', "+literal(t.plain)+"; END IF; END $millrace$")
			}
		}
	}
	return o.tx(ctx, statements...)
}

// raise is in every transaction that changes what is on a server.
const raise = "UPDATE " + sqldb.ShardEpoch + " SET epoch = greatest(epoch + 1, " + clock + ")"

// Remove takes away what Install has made. The rows stay where they are; those of a move that was interrupted are brought there first.
func (s *Servers) Remove(ctx context.Context) error {
	if err := s.reserve(ctx); err != nil {
		return err
	}
	if err := s.look(ctx); err == nil { // else the tables are gone, and with them their rows
		if _, err := s.status(ctx); err == nil {
			if err := s.recover(ctx); err != nil {
				return err
			}
		}
	}
	var all error
	for _, o := range s.all {
		statements := []string{"SET LOCAL lock_timeout = '5s'"}
		for _, t := range s.cfg.Tables {
			name := quote(t.Table)
			r := query(ctx, o.conn, "SELECT to_regclass($1) IS NOT NULL", name)
			if r.err == nil && r.rows[0][0] == "t" {
				statements = append(statements, "DROP TRIGGER IF EXISTS "+sqldb.ShardTrigger+" ON "+name, "DROP TRIGGER IF EXISTS millrace_shard_truncate ON "+name)
			}
			statements = append(statements, "DROP FUNCTION IF EXISTS "+quote(short("millrace_row_", t.Table))+"()",
				"DROP INDEX IF EXISTS "+quote(short("millrace_shard_", t.Table)))
		}
		// What a move has filled stays where that could not be brought to an end: it may be all that there is.
		statements = append(statements, "DROP FUNCTION IF EXISTS millrace_shard_truncate()", "DROP FUNCTION IF EXISTS millrace_shard_row(integer, text, text, text[])",
			"DROP FUNCTION IF EXISTS "+sqldb.ShardEntered+"(integer, bigint)", "DROP FUNCTION IF EXISTS millrace_shard_of(text)",
			"DROP TABLE IF EXISTS millrace_shard_changes", "DROP TABLE IF EXISTS "+sqldb.ShardTable, "DROP TABLE IF EXISTS "+sqldb.ShardEpoch)
		all = errors.Join(all, o.tx(ctx, statements...))
	}
	return all
}
