package shards

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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
		`INSERT INTO ` + sqldb.ShardEpoch + ` (epoch) VALUES (1) ON CONFLICT DO NOTHING`,
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
	}
}

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
	return []string{
		fmt.Sprintf(`CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, %s, pg_temp AS $millrace$
DECLARE
	entered text := current_setting('millrace.shard', true);
BEGIN
	IF current_setting('millrace.moving', true) = 'yes' THEN
		RETURN NULL;
	END IF;
	IF TG_OP <> 'INSERT' THEN
		%s
	END IF;
	IF TG_OP = 'INSERT' THEN
		%s
	ELSIF TG_OP = 'UPDATE' THEN
		IF %s <> %s OR NEW.%s <> OLD.%s THEN
			%s
		END IF;
	END IF;
	RETURN NULL;
END
$millrace$`, row, schema, call("OLD"), call("NEW"), pk("NEW"), pk("OLD"), t.key, t.key, call("NEW")),
		"DROP TRIGGER IF EXISTS millrace_shard_row ON " + t.name,
		"CREATE TRIGGER millrace_shard_row AFTER INSERT OR UPDATE OR DELETE ON " + t.name + " FOR EACH ROW EXECUTE FUNCTION " + row + "()",
		"DROP TRIGGER IF EXISTS millrace_shard_truncate ON " + t.name,
		"CREATE TRIGGER millrace_shard_truncate BEFORE TRUNCATE ON " + t.name + " FOR EACH STATEMENT EXECUTE FUNCTION millrace_shard_truncate()",
	}
}

// Install makes on every server what the map of shards needs, and begins the map where there is none: evenly where the tables are empty,
// else on the server that has rows.
func (s *Servers) Install(ctx context.Context) error {
	if err := s.look(ctx); err != nil {
		return err
	}
	for _, o := range s.all {
		statements := append([]string{"SET LOCAL lock_timeout = '5s'"}, objects(o.schema)...)
		for _, t := range o.tables {
			statements = append(statements, t.triggers(o.schema)...)
		}
		if err := o.tx(ctx, statements...); err != nil {
			return err
		}
		for _, t := range o.tables { // without keeping writers out
			index := "CREATE INDEX CONCURRENTLY IF NOT EXISTS "
			if r := query(ctx, o.conn, "SELECT relkind = 'p' FROM pg_class WHERE oid = $1::regclass", t.name); r.err != nil {
				return r.err
			} else if r.rows[0][0] == "t" {
				index = "CREATE INDEX IF NOT EXISTS " // of a partitioned table there is no other
			}
			if err := o.exec(ctx, index+quote(short("millrace_shard_", t.plain))+" ON "+t.name+" (millrace_shard_of("+t.key+"::text))"); err != nil {
				return err
			}
		}
	}
	return s.begin(ctx)
}

// begin gives every shard a server, unless one has one.
func (s *Servers) begin(ctx context.Context) error {
	st, err := s.status(ctx)
	if err != nil {
		return err
	}
	var full []*server
	for _, o := range s.all {
		if len(st[o.name]) > 0 {
			return nil
		}
		for _, t := range o.tables {
			r := query(ctx, o.conn, "SELECT EXISTS (SELECT FROM "+t.name+")")
			if r.err != nil {
				return r.err
			}
			if r.rows[0][0] == "t" {
				full = append(full, o)
				break
			}
		}
	}
	if len(full) > 1 {
		return fmt.Errorf("servers %s and %s have rows, and no map says which belong there: put the rows of all on one, run this, and move shards from there", full[0].name, full[1].name)
	}
	to := s.all
	if len(full) == 1 {
		to = full
	}
	for i, o := range to {
		err := o.tx(ctx, fmt.Sprintf("INSERT INTO %s (shard, state) SELECT n, 'here' FROM generate_series(%d, %d) n", sqldb.ShardTable, i*sqldb.ShardCount/len(to), (i+1)*sqldb.ShardCount/len(to)-1), raise)
		if err != nil {
			return err
		}
	}
	return nil
}

// raise is in every transaction that changes what is on a server.
const raise = "UPDATE " + sqldb.ShardEpoch + " SET epoch = epoch + 1"

// Remove takes away what Install has made. The rows stay where they are.
func (s *Servers) Remove(ctx context.Context) error {
	var all error
	for _, o := range s.all {
		statements := []string{"SET LOCAL lock_timeout = '5s'"}
		for _, t := range s.cfg.Tables {
			name := quote(t.Table)
			r := query(ctx, o.conn, "SELECT to_regclass($1) IS NOT NULL", name)
			if r.err == nil && r.rows[0][0] == "t" {
				statements = append(statements, "DROP TRIGGER IF EXISTS millrace_shard_row ON "+name, "DROP TRIGGER IF EXISTS millrace_shard_truncate ON "+name)
			}
			statements = append(statements, "DROP FUNCTION IF EXISTS "+quote(short("millrace_row_", t.Table))+"()",
				"DROP INDEX IF EXISTS "+quote(short("millrace_shard_", t.Table)), "DROP TABLE IF EXISTS "+staging(t.Table))
		}
		statements = append(statements, "DROP FUNCTION IF EXISTS millrace_shard_truncate()", "DROP FUNCTION IF EXISTS millrace_shard_row(integer, text, text, text[])",
			"DROP FUNCTION IF EXISTS "+sqldb.ShardEntered+"(integer, bigint)", "DROP FUNCTION IF EXISTS millrace_shard_of(text)",
			"DROP TABLE IF EXISTS millrace_shard_changes", "DROP TABLE IF EXISTS "+sqldb.ShardTable, "DROP TABLE IF EXISTS "+sqldb.ShardEpoch)
		all = errors.Join(all, o.tx(ctx, statements...))
	}
	return all
}
