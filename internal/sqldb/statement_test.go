package sqldb

import (
	"strings"
	"testing"
)

var statementParams = []Param{{Name: "id", Type: "integer"}, {Name: "name", Type: "string"}}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name    string
		dialect dialect
		text    string
		want    string
	}{
		{"sqlite", dialectSQLite, "SELECT :id, :name", "SELECT ?1, ?2"},
		{"postgres", dialectPostgres, "SELECT :id, :name", "SELECT $1, $2"},
		{"order of first use", dialectPostgres, "SELECT :name, :id, :name", "SELECT $1, $2, $1"},
		{"a trailing semicolon", dialectSQLite, "SELECT :id, :name ; -- done", "SELECT ?1, ?2"},
		{"strings", dialectSQLite, `SELECT ':id', "a:id", 'it''s :id', :id, :name`, `SELECT ':id', "a:id", 'it''s :id', ?1, ?2`},
		{"sqlite's identifiers", dialectSQLite, "SELECT [a:id], `b:id`, :id, :name", "SELECT [a:id], `b:id`, ?1, ?2"},
		{"comments", dialectPostgres, "SELECT /* :x /* :y */ :z */ :id -- :w\n, :name", "SELECT /* :x /* :y */ :z */ $1 -- :w\n, $2"},
		{"sqlite's comments do not nest", dialectSQLite, "SELECT /* /* */ :id, :name", "SELECT /* /* */ ?1, ?2"},
		{"casts", dialectPostgres, "SELECT :id::text, :name::date", "SELECT $1::text, $2::date"},
		{"dollar quotes", dialectPostgres, "SELECT $$:id$$, $t$ :x $$ $t$, :id, :name", "SELECT $$:id$$, $t$ :x $$ $t$, $1, $2"},
		{"escape strings", dialectPostgres, `SELECT E'\':id', :id, :name`, `SELECT E'\':id', $1, $2`},
		{"backslash in a plain string", dialectPostgres, `SELECT '\', :id, :name`, `SELECT '\', $1, $2`},
		{"a slice's bounds", dialectPostgres, "SELECT a[1:2], a[x:y], a[:id], a[1: :name], ARRAY[:id, :name]", "SELECT a[1:2], a[x:y], a[$1], a[1: $2], ARRAY[$1, $2]"},
		{"named arguments", dialectPostgres, "SELECT f(a := :id, b => :name)", "SELECT f(a := $1, b => $2)"},
		{"operators of jsonb", dialectPostgres, "SELECT :id::jsonb ? 'x', a ?| ARRAY[:name], a ?& b", "SELECT $1::jsonb ? 'x', a ?| ARRAY[$2], a ?& b"},
		{"directly behind a word", dialectPostgres, "SELECT x FROM t WHERE:id>0 OR:id:name LIMIT:id", "SELECT x FROM t WHERE $1>0 OR $1 $2 LIMIT $1"},
		{"directly behind a quote", dialectPostgres, "SELECT $$x$$:id, :name", "SELECT $$x$$ $1, $2"},
		{"no blanks", dialectSQLite, "SELECT(:id)||:name||'x'", "SELECT(?1)||?2||'x'"},
	} {
		st, faults := parse(c.text, c.dialect, statementParams, ReadOnly)
		if err := faults.Err(); err != nil || st.sql != c.want || len(st.binds) != 2 {
			t.Errorf("%s: %q, %v; want %q", c.name, st.sql, err, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	both := []dialect{dialectSQLite, dialectPostgres}
	pg, lite := both[1:], both[:1]
	for _, c := range []struct {
		text, want string
		dialects   []dialect
		mode       Mode
	}{
		{"", "is empty", both, ReadOnly},
		{" -- nothing\n;", "is empty", both, ReadOnly},
		{"SELECT 1; SELECT 2", "line 1, column 11 of the statement: a second statement begins; keep one statement", both, ReadOnly},
		{"SELECT\n  :nmae", `line 2, column 3 of the statement: there is no parameter "nmae"; did you mean :name?`, both, ReadOnly},
		{"SELECT :entirely", `there is no parameter "entirely"; add it to parameters`, both, ReadOnly},
		{"SELECT ä, 'ß', ?", "column 16 of the statement: ? is a positional placeholder; name the parameter", both, ReadOnly},
		{"SELECT * FROM t WHERE a = ? AND b = ?", "positional placeholder", lite, ReadOnly},
		{"SELECT $1", "$1 is a positional placeholder", both, ReadOnly},
		{"SELECT $name", "$name is not a parameter here; write :name, and add name to parameters", both, ReadOnly},
		{"SELECT @name", "write :name", lite, ReadOnly},
		{"SELECT 'open", "never closed", both, ReadOnly},
		{"SELECT /* open", "never closed", both, ReadOnly},
		{"SELECT $x$ open", "never closed", pg, ReadOnly},
		{"SELECT (1", "never closed", both, ReadOnly},
		{"SELECT 1)", "closes nothing", both, ReadOnly},
		{"SELECT 1\x00", "zero byte", both, ReadOnly},
		{"SELECT '\xff'", "UTF-8", both, ReadOnly},
		{"INSERT INTO t VALUES (1)", "INSERT is not allowed in a read-only tool", both, ReadOnly},
		{"update t SET a = 1", "UPDATE is not allowed", both, ReadOnly},
		{"REPLACE INTO t VALUES (1)", "REPLACE is not allowed", lite, ReadOnly},
		{"MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE", "MERGE is not allowed", pg, ReadOnly},
		{"WITH x AS (SELECT 1) DELETE FROM t", "DELETE is not allowed", both, ReadOnly},
		{"WITH x AS NOT MATERIALIZED (DELETE FROM t RETURNING *) SELECT * FROM x", "DELETE is not allowed", pg, ReadOnly},
		{"CREATE TABLE t (i int)", "CREATE is not allowed", both, ReadOnly},
		{"DROP TABLE t", "DROP is not allowed", both, ReadOnly},
		{"TRUNCATE t", "TRUNCATE is not allowed", pg, ReadOnly},
		{"COPY t TO STDOUT", "COPY is not allowed", pg, ReadOnly},
		{"CALL p()", "CALL is not allowed", pg, ReadOnly},
		{"DO $$ BEGIN END $$", "DO is not allowed", pg, ReadOnly},
		{"SET a = 1", "SET is not allowed", pg, ReadOnly},
		{"LOCK TABLE t", "LOCK is not allowed", pg, ReadOnly},
		{"EXPLAIN ANALYZE DELETE FROM t", "DELETE is not allowed", pg, ReadOnly},
		{"SELECT * FROM t FOR UPDATE", "locks rows", pg, ReadOnly},
		{"SELECT * FROM t FOR NO KEY UPDATE", "locks rows", pg, ReadOnly},
		{"SELECT a INTO b FROM t", "makes a table", pg, ReadOnly},
		{"VACUUM", "VACUUM is not allowed", both, ReadOnly},
		{"ATTACH 'x' AS y", "ATTACH is not allowed", lite, ReadOnly},
		{"PRAGMA journal_mode = off", "may change something", lite, ReadOnly},
		{"PRAGMA user_version(5)", "may change something", lite, ReadOnly},
		{"PRAGMA main.journal_mode", "may change something", lite, ReadOnly},
		{"BEGIN", "BEGIN has no place", both, ReadWrite},
		{"commit", "COMMIT has no place", both, ReadWrite},
		{"ROLLBACK TO x", "ROLLBACK has no place", both, ReadWrite},
		{"SAVEPOINT x", "SAVEPOINT has no place", both, ReadWrite},
		{"ATTACH 'x' AS y", "ATTACH has no place", lite, ReadWrite},
		{"PRAGMA user_version = 5", "PRAGMA has no place", lite, ReadWrite},
		{"VACUUM INTO 'x'", "VACUUM has no place", both, ReadWrite},
		{"SET search_path = x", "SET has no place", pg, ReadWrite},
	} {
		for _, d := range c.dialects {
			st, faults := parse(c.text, d, []Param{{Name: "name", Type: "string"}}, c.mode)
			if err := faults.Err(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q (dialect %d): %q, %v; want %q", c.text, d, st.sql, err, c.want)
			}
		}
	}
	_, faults := parse("SELECT :id", dialectSQLite, statementParams, ReadOnly)
	if len(faults) != 1 || faults[0].Path != "parameters[1]" || !strings.Contains(faults[0].Error(), `does not use "name"`) {
		t.Errorf("%v", faults)
	}
}

func TestParseVerbs(t *testing.T) {
	for _, c := range []struct {
		text   string
		mode   Mode
		verb   string
		writes bool
	}{
		{"SELECT 1", ReadOnly, "SELECT", false}, {"(SELECT 1) UNION SELECT 2", ReadOnly, "SELECT", false}, {"VALUES (1)", ReadOnly, "VALUES", false},
		{"WITH x AS (SELECT 1) SELECT * FROM x", ReadOnly, "SELECT", false},
		{`SELECT "delete", replace(a, 'x', 'y') FROM t`, ReadOnly, "SELECT", false},
		{"WITH x AS (SELECT 1) SELECT replace(a, 'x', 'y') FROM x", ReadOnly, "SELECT", false},
		{"SELECT substring(a FROM 1 FOR 2) FROM t", ReadOnly, "SELECT", false},
		{"SELECT 1", ReadWrite, "SELECT", false}, {"UPDATE t SET a = 1", ReadWrite, "UPDATE", true},
		{"WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", ReadWrite, "INSERT", true},
		{"INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 1", ReadWrite, "INSERT", true},
		{"CREATE TABLE t (i)", ReadWrite, "CREATE", true},
	} {
		for _, d := range []dialect{dialectSQLite, dialectPostgres} {
			st, faults := parse(c.text, d, nil, c.mode)
			if err := faults.Err(); err != nil || st.verb != c.verb || st.writes != c.writes {
				t.Errorf("%q (dialect %d): %s, writes %v, %v", c.text, d, st.verb, st.writes, err)
			}
		}
	}
}
