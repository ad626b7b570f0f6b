package sqldb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/pgtest"
)

func oneConnection(c *Config) { c.Pool.Size, c.Pool.Overflow = 1, 0 }

// What one call does to its session does not reach the next one, be it rolled back or committed.
func TestPostgresSessionsDoNotLeak(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE SEQUENCE runs; CREATE TABLE n (i int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO n VALUES (1);
CREATE FUNCTION sql(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; RETURN $1; END $$;
DROP ROLE IF EXISTS a_guest; CREATE ROLE a_guest`, oneConnection) // a role is the server's, and this may run again
	const look = `SELECT current_setting('search_path') AS path, current_setting('timezone') AS zone, current_setting('datestyle') AS dates,
current_user AS who, to_regclass('pg_temp.tt') AS tt,
(SELECT count(*) FROM pg_cursors WHERE is_holdable) AS cursors, (SELECT count(*) FROM pg_listening_channels()) AS listens,
(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks`
	before, _, err := pgRun(t, s, ReadOnly, look)
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string) {
		t.Helper()
		if after, _, err := pgRun(t, s, ReadOnly, look); after != before || err != nil {
			t.Errorf("after %s: %s, %v; before: %s", what, after, err, before)
		}
		if got, _, err := pgRun(t, s, ReadOnly, "SELECT lastval() AS v"); err == nil {
			t.Errorf("after %s: lastval gives %s", what, got)
		}
	}
	for _, mode := range []Mode{ReadOnly, ReadWrite} {
		for _, text := range []string{
			"SELECT set_config('search_path', 'pg_catalog', false)", "SELECT set_config('timezone', 'Asia/Tokyo', false) AS a, set_config('datestyle', 'German', false) AS b",
			"SELECT set_config('role', 'a_guest', false)", "SELECT pg_advisory_lock(1)::text",
		} {
			if _, _, err := pgRun(t, s, mode, text); err != nil {
				t.Errorf("%s: %v", text, err)
			}
			same(text)
		}
	}
	if _, _, err := pgRun(t, s, ReadWrite, "CREATE TEMPORARY TABLE tt (i int)"); err != nil {
		t.Error(err)
	}
	same("a temporary table")
	if _, _, err := pgRun(t, s, ReadWrite, "SELECT pg_advisory_lock(1), 1 / 0"); err == nil {
		t.Error("1 / 0 went through")
	}
	same("a lock in a write that failed")
	q := pgCompile(t, s, ReadWrite, "SELECT pg_advisory_lock(1)::text", 0)
	if _, o, err := q.Run(t.Context(), nil, &Execution{Confirm: func(int64) bool { return false }}); err != nil || !o.RolledBack {
		t.Errorf("%+v, %v", o, err)
	}
	same("a lock in a write that was not confirmed")
	// What a function did, which the text does not show: kept by a write, and left by one that failed, at last or in its COMMIT.
	for _, what := range []string{"SELECT pg_advisory_lock(1)", "SELECT nextval('runs')", "DECLARE h CURSOR WITH HOLD FOR SELECT 1", "LISTEN everything"} {
		does := "sql($f$" + what + "$f$)"
		if _, _, err := pgRun(t, s, ReadWrite, "SELECT "+does); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		same(what + " in a function")
		if _, _, err := pgRun(t, s, ReadWrite, "SELECT "+does+", 1 / (random() * 0)::int"); err == nil {
			t.Error("1 / 0 went through")
		}
		same(what + " in a write that failed")
		if _, _, err := pgRun(t, s, ReadWrite, "INSERT INTO n SELECT 1 WHERE "+does+" <> ''"); err == nil || !strings.Contains(err.Error(), "duplicate key") {
			t.Errorf("the deferred constraint gave %v", err)
		}
		same(what + " in a write whose commit failed")
	}
	if st := s.Stats()[0]; st.Open != 1 {
		t.Errorf("not one connection: %+v", st)
	}
}

// A backend that dies during the statement leaves nothing, and the statement is not sent again: a sequence, which no
// rollback turns back, counts how often it ran. One that dies during the COMMIT leaves a doubt, and the error says so.
func TestPostgresConnectionLostInWrite(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE TABLE n (i int); CREATE SEQUENCE runs;
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE TABLE doubt (i int); CREATE CONSTRAINT TRIGGER t AFTER INSERT ON doubt DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()`)
	var te *mcp.ToolError
	_, _, err := pgRun(t, s, ReadWrite, "WITH x AS (INSERT INTO n VALUES (1) RETURNING nextval('runs') AS r) SELECT r, pg_terminate_backend(pg_backend_pid()) FROM x")
	if !errors.As(err, &te) || te.Kind != kindUnavailable || te.Meta != nil {
		t.Errorf("%v", err)
	}
	te = nil
	_, _, err = pgRun(t, s, ReadWrite, "INSERT INTO doubt VALUES (1)")
	if !errors.As(err, &te) || te.Kind != kindUnavailable || string(te.Meta) != `"millrace/write":"unknown"` || !errors.Is(err, mcp.ErrUnknownFate) {
		t.Errorf("%v", err)
	}
	got, _, err := pgRun(t, s, ReadOnly, "SELECT (SELECT count(*) FROM n) AS n, (SELECT count(*) FROM doubt) AS doubt, (SELECT last_value FROM runs) AS runs")
	if got != `{"rows":[{"n":0,"doubt":0,"runs":1}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

// A prepared statement that somebody deallocated is noticed by whoever runs it next: it runs on another connection.
func TestPostgresDeallocatedStatement(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE TABLE n (i int);
CREATE FUNCTION run(v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE v; RETURN v; END $$`, oneConnection)
	for _, c := range []struct {
		mode       Mode
		text, want string
	}{{ReadOnly, "SELECT 7 AS v", `{"rows":[{"v":7}]}`}, {ReadWrite, "INSERT INTO n VALUES (1)", `{"rows_affected":1}`}} {
		q := pgCompile(t, s, c.mode, c.text, 0)
		for range 2 {
			if out, _, err := q.Run(t.Context(), nil, &Execution{}); string(out) != c.want || err != nil {
				t.Errorf("%s: %s, %v", c.text, out, err)
			}
			name := fmt.Sprintf("DEALLOCATE millrace_q%d", q.(*pgQuery).number)
			if _, _, err := pgRun(t, s, ReadOnly, "SELECT run(:a) AS v", text(name)); err != nil {
				t.Error(err)
			}
			first := s.pool.all[0]
			if out, _, err := q.Run(t.Context(), nil, &Execution{}); string(out) != c.want || err != nil {
				t.Errorf("%s, deallocated: %s, %v", c.text, out, err)
			}
			if s.pool.all[0] == first {
				t.Errorf("%s: the connection stayed", c.text)
			}
		}
	}
}

// A write finds out that its connection died while it was idle before it sends anything, so it need not fail.
func TestPostgresWriteOnDeadConnection(t *testing.T) {
	t.Parallel()
	s, name := postgres(t, `CREATE TABLE n (i int)`)
	if _, _, err := pgRun(t, s, ReadOnly, "SELECT 1 AS x"); err != nil {
		t.Fatal(err)
	}
	server, _ := pgtest.Shared()
	if err := server.Exec("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name+"'"); err != nil {
		t.Fatal(err)
	}
	c := s.pool.all[0]
	//lint:ignore SA1019 as the code under test does
	for c.conn.CheckConn() == nil { // waits a millisecond for bad news
	}
	c.looked = time.Time{} // connections used within a second are not looked at
	if got, _, err := pgRun(t, s, ReadWrite, "INSERT INTO n VALUES (1)"); got != `{"rows_affected":1}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestPostgresArgumentForms(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "")
	float := func(f float64) mcp.Value { return mcp.Value{Kind: mcp.KindFloat, Float: f} }
	for _, c := range []struct {
		expr string
		arg  mcp.Value
		want string
	}{
		{":a::int4", float(2000000), "2000000"}, {":a::int4", float(-2000000), "-2000000"}, {":a::float8", float(1e300), "1e+300"}, {":a::float8", float(-5e-324), "-5e-324"},
		{":a::numeric", float(0.1), `"0.1"`}, {":a::int8", mcp.Value{Kind: mcp.KindInt, Int: math.MinInt64}, `"-9223372036854775808"`},
		{":a::text", mcp.Value{Kind: mcp.KindText}, `""`}, {":a::text", mcp.Value{}, "null"},
		{":a IS NULL", mcp.Value{Kind: mcp.KindText, Text: []byte("x")}, "false"}, {":a IS NULL", mcp.Value{}, "true"},
		{"(ARRAY[5,6,7])[:a]", mcp.Value{Kind: mcp.KindInt, Int: 2}, "6"}, {"(ARRAY[5,6,7])[2: :a]", mcp.Value{Kind: mcp.KindInt, Int: 3}, "[6,7]"},
		{"'-0'::float8 + length(:a)", mcp.Value{Kind: mcp.KindText}, "0"}, {"-0.0::float8 * length(:a::text)", mcp.Value{Kind: mcp.KindText, Text: []byte("x")}, "0"},
	} {
		got, _, err := pgRun(t, s, ReadOnly, "SELECT "+c.expr+" AS v", c.arg)
		if want := `{"rows":[{"v":` + c.want + `}]}`; got != want || err != nil {
			t.Errorf("%s %+v: %s, %v; want %s", c.expr, c.arg, got, err, want)
		}
	}
}

// An idle connection keeps no argument alive.
func TestPostgresArgumentsAreLetGo(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "", oneConnection)
	large := mcp.Value{Kind: mcp.KindText, Text: []byte(strings.Repeat("x", 256<<10))}
	for _, end := range []string{"x", "0", "\x00"} { // well, with an error of the server, and with one of ours
		_, _, err := pgRun(t, s, ReadOnly, "SELECT length(:a::text) AS v WHERE 1 / length(replace(:b::text, '0', '')) = 1", large, text(end))
		if (err == nil) != (end == "x") {
			t.Errorf("%q: %v", end, err)
		}
		c := s.pool.all[0]
		if cap(c.buf) > keepBound || c.bind.Parameters != nil {
			t.Errorf("%q: %d bytes in the buffer, %d parameters in the message", end, cap(c.buf), len(c.bind.Parameters))
		}
		for i, v := range c.values[:cap(c.values)] {
			if v != nil {
				t.Errorf("%q: argument %d of %d bytes is kept", end, i, len(v))
			}
		}
	}
}

// A result's bounds hold at the server: what nobody will see is not made, and the connection stays.
func TestPostgresBoundsAtTheServer(t *testing.T) {
	t.Parallel()
	patient := func(c *Config) { c.QueryTimeout = conf.Duration(time.Minute) } // so much text takes a busy machine long
	s, _ := postgres(t, "", oneConnection, patient)
	backend, _, err := pgRun(t, s, ReadOnly, "SELECT pg_backend_pid() AS pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text, want string
		rows       int
	}{
		{"SELECT generate_series(1, 2000000000) AS i", `{"rows":[{"i":1},{"i":2}],"truncated":true}`, 2},
		{"SELECT generate_series(1, 2) AS i", `{"rows":[{"i":1},{"i":2}]}`, 2},
		{"SELECT FROM generate_series(1, 2)", `{"rows":[{},{}]}`, 10},
	} {
		q, err := s.Compile(Spec{Name: "tool", Text: c.text, MaxRows: c.rows})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			out, _, err := q.Run(context.Background(), nil, &Execution{})
			if string(out) != c.want || err != nil {
				t.Errorf("%s: %.200s, %v", c.text, out, err)
			}
		}
	}
	if now, _, err := pgRun(t, s, ReadOnly, "SELECT pg_backend_pid() AS pid"); now != backend || err != nil {
		t.Errorf("another connection: %s, %v; before %s", now, err, backend)
	}
	_, _, err = pgRun(t, s, ReadOnly, "SELECT repeat('x', 70000000) AS x")
	if err == nil || !strings.Contains(err.Error(), "larger than 64 MiB") {
		t.Error(err)
	}
}
