package sqldb

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/pgtest"
)

// postgres gives a source on a database of the test's own, made by sql.
func postgres(t testing.TB, sql string, change ...func(*Config)) (*postgresSource, string) {
	t.Helper()
	s, name := pgtest.NewDatabase(t, sql)
	cfg := DefaultConfig()
	cfg.Postgres = &PostgresConfig{Primary: conf.Secret(s.URL(name))}
	for _, f := range change {
		f(&cfg)
	}
	src, err := New("pg", cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src.(*postgresSource), name
}

// sharedURL gives the URL of a database that postgres has made.
func sharedURL(database string) string {
	s, _ := pgtest.Shared()
	return s.URL(database)
}

func pgRun(t testing.TB, s Source, mode Mode, text string, args ...mcp.Value) (string, Outcome, error) {
	t.Helper()
	q := pgCompile(t, s, mode, text, len(args))
	out, outcome, err := q.Run(context.Background(), nil, &Execution{Args: args})
	return string(out), outcome, err
}

func pgCompile(t testing.TB, s Source, mode Mode, text string, params int) Query {
	t.Helper()
	spec := Spec{Name: "tool", Text: text, Mode: mode, MaxRows: 1000, MaxBytes: 1 << 20}
	for _, name := range []string{"a", "b", "c"}[:params] {
		spec.Params = append(spec.Params, Param{Name: name, Type: "string"})
	}
	q, err := s.Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func jsonv(s string) mcp.Value { return mcp.Value{Kind: mcp.KindJSON, Text: []byte(s)} }

func TestPostgresTypes(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE DOMAIN small AS int CHECK (VALUE < 10)`)
	for _, c := range []struct{ sql, want string }{
		{"NULL::int", `null`},
		{"1::int2", `1`}, {"-7::int4", `-7`}, {"9007199254740992::int8", `9007199254740992`}, {"9007199254740993::int8", `"9007199254740993"`},
		{"12.30::numeric", `"12.30"`}, {"'NaN'::numeric", `"NaN"`},
		{"1.5::float8", `1.5`}, {"'NaN'::float8", `null`}, {"'-Infinity'::float4", `null`}, {"1e300::float8", `1e+300`},
		{"true", `true`}, {"false", `false`},
		{"'2026-01-02'::date", `"2026-01-02"`}, {"'03:04:05.6'::time", `"03:04:05.6"`},
		{"'2026-01-02 03:04:05.6'::timestamp", `"2026-01-02T03:04:05.6"`},
		{"'2026-01-02 03:04:05+02'::timestamptz", `"2026-01-02T01:04:05Z"`}, {"'infinity'::timestamptz", `"infinity"`},
		{`'\x00ff'::bytea`, `"AP8="`}, {`'{"a":[1, 2]}'::json`, `{"a":[1,2]}`}, {`'{"b": null}'::jsonb`, `{"b":null}`},
		{"'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid", `"6ba7b810-9dad-11d1-80b4-00c04fd430c8"`},
		{"'so so'::mood", `"so so"`}, {"3::small", `3`}, {`E'a"\n'::text`, `"a\"\n"`},
		{"ARRAY[1,NULL,3]", `[1,null,3]`}, {`ARRAY['a b','c"d','NULL','{}']`, `["a b","c\"d","NULL","{}"]`},
		{"ARRAY[[1,2],[3,4]]", `[[1,2],[3,4]]`}, {"'{}'::int[]", `[]`}, {"ARRAY['sad'::mood,'so so']", `["sad","so so"]`},
		{"ARRAY[true,false]", `[true,false]`}, {"ARRAY[1.5::float8]", `[1.5]`}, {"'[0:1]={5,6}'::int[]", `[5,6]`},
		{`ARRAY['\x00ff'::bytea]`, `["AP8="]`}, {"ARRAY[9007199254740993]", `["9007199254740993"]`},
		{`ARRAY['{"a": 1}'::jsonb]`, `[{"a":1}]`}, {"ARRAY['2026-01-02 03:04:05+02'::timestamptz]", `["2026-01-02T01:04:05Z"]`},
		{"ARRAY['08:00:2b:01:02:03'::macaddr, NULL]", `["08:00:2b:01:02:03",null]`}, {"ARRAY['$1.50'::money]", `["$1.50"]`},
		{"ARRAY['(1,1),(0,0)'::box, '(2,2),(1,1)']", `["(1,1),(0,0)","(2,2),(1,1)"]`}, {"ARRAY[int4range(1, 5)]", `["[1,5)"]`},
		{"'(1,2)'::point", `"(1,2)"`}, {"'1 2'::int2vector", `"1 2"`}, {"'08:00:2b:01:02:03'::macaddr", `"08:00:2b:01:02:03"`},
		{"'1 day 02:00'::interval", `"1 day 02:00:00"`},
	} {
		got, _, err := pgRun(t, s, ReadOnly, "SELECT "+c.sql+" AS v")
		if want := `{"rows":[{"v":` + c.want + `}]}`; err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", c.sql, got, err, want)
		}
	}
}

func TestPostgresParameters(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "")
	for _, c := range []struct {
		sql  string
		args []mcp.Value
		want string
	}{
		{"SELECT :a::int8 AS v", []mcp.Value{integer(9223372036854775807)}, `"9223372036854775807"`},
		{"SELECT :a::text AS v", []mcp.Value{text("'; DROP TABLE x; --")}, `"'; DROP TABLE x; --"`},
		{"SELECT :a::date + :b::int AS v", []mcp.Value{text("2026-01-02"), integer(1)}, `"2026-01-03"`},
		{"SELECT :a::int[] AS v", []mcp.Value{jsonv(`[1,null,3]`)}, `[1,null,3]`},
		{"SELECT :a::text[] AS v", []mcp.Value{jsonv(`["a,b","c\"d",null]`)}, `["a,b","c\"d",null]`},
		{"SELECT :a::macaddr[] AS v", []mcp.Value{jsonv(`["08:00:2b:01:02:03",null]`)}, `["08:00:2b:01:02:03",null]`},
		{"SELECT :a::jsonb AS v", []mcp.Value{jsonv(`{"x":[1]}`)}, `{"x":[1]}`},
		{"SELECT :a::bool AS v", []mcp.Value{{Kind: mcp.KindBool, Int: 1}}, `true`},
		{"SELECT :a::float8 AS v", []mcp.Value{{Kind: mcp.KindFloat, Float: 0.1}}, `0.1`},
		{"SELECT :a::text AS v", []mcp.Value{{}}, `null`},
		{"SELECT 7 AS v LIMIT:a", []mcp.Value{integer(1)}, `7`},
	} {
		got, _, err := pgRun(t, s, ReadOnly, c.sql, c.args...)
		if want := `{"rows":[{"v":` + c.want + `}]}`; err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", c.sql, got, err, want)
		}
	}
	if _, _, err := pgRun(t, s, ReadOnly, "SELECT :a::text AS v", text("a\x00b")); err == nil || !strings.Contains(err.Error(), "zero character") {
		t.Errorf("a zero character gave %v", err)
	}
}

// A read-only tool cannot write, whatever its statement does, and what it does to its session ends with it.
func TestPostgresReadOnly(t *testing.T) {
	t.Parallel()
	s, name := postgres(t, `CREATE TABLE log (n int); CREATE SEQUENCE seq;
		CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (1); RETURN 1; END $$;
		CREATE FUNCTION unlocks() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
			PERFORM set_config('transaction_read_only', 'off', false);
			PERFORM set_config('default_transaction_read_only', 'off', false);
			INSERT INTO log VALUES (2); RETURN 2; END $$`, func(c *Config) { c.Pool.Size, c.Pool.Overflow = 1, 0 })
	for _, sql := range []string{
		"SELECT writes() AS v", "SELECT unlocks() AS v", "SELECT nextval('seq') AS v",
		"SELECT set_config('transaction_read_only', 'off', false) AS a, writes() AS b",
		"SELECT set_config('transaction_read_only', 'off', true) AS a, writes() AS b",
	} {
		if _, _, err := pgRun(t, s, ReadOnly, sql); err == nil {
			t.Errorf("%s wrote", sql)
		}
	}
	if _, _, err := pgRun(t, s, ReadOnly, "SELECT set_config('search_path', 'nowhere', false) AS v"); err != nil {
		t.Fatal(err)
	}
	if got, _, err := pgRun(t, s, ReadOnly, "SELECT count(*) AS n, current_setting('search_path') AS p FROM log"); err != nil ||
		got != `{"rows":[{"n":0,"p":"\"$user\", public"}]}` {
		t.Errorf("%s: got %s, %v", name, got, err)
	}
}

func TestPostgresWrites(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `CREATE TABLE notes (id int PRIMARY KEY, body text)`)
	if got, o, err := pgRun(t, s, ReadWrite, "INSERT INTO notes VALUES (:a, :b) RETURNING *", integer(1), text("x")); err != nil ||
		got != `{"rows":[{"id":1,"body":"x"}]}` || o.Affected != 1 {
		t.Errorf("insert: %s, %+v, %v", got, o, err)
	}
	if got, _, err := pgRun(t, s, ReadWrite, "UPDATE notes SET body = :a", text("y")); err != nil || got != `{"rows_affected":1}` {
		t.Errorf("update: %s, %v", got, err)
	}
	if _, _, err := pgRun(t, s, ReadWrite, "INSERT INTO notes VALUES (:a, 'z')", integer(1)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a duplicate key gave %v", err)
	}
	q := pgCompile(t, s, ReadWrite, "DELETE FROM notes", 0)
	asked := int64(-1)
	_, o, err := q.Run(context.Background(), nil, &Execution{Confirm: func(n int64) bool { asked = n; return false }})
	if err != nil || !o.RolledBack || asked != 1 {
		t.Errorf("a refused delete: %+v, asked %d, %v", o, asked, err)
	}
	if got, _, err := pgRun(t, s, ReadOnly, "SELECT count(*) AS n FROM notes"); got != `{"rows":[{"n":1}]}` {
		t.Errorf("after it: %s, %v", got, err)
	}
}

func TestPostgresBounds(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "")
	q, err := s.Compile(Spec{Name: "tool", Text: "SELECT n FROM generate_series(1, 10) AS g(n)", MaxRows: 3})
	if err != nil {
		t.Fatal(err)
	}
	out, o, err := q.Run(context.Background(), nil, &Execution{})
	if err != nil || string(out) != `{"rows":[{"n":1},{"n":2},{"n":3}],"truncated":true}` || !o.Truncated {
		t.Errorf("got %s, %+v, %v", out, o, err)
	}
	// 100 MB of rows: what is past the bound is not read, and the next statement finds a good connection.
	q, err = s.Compile(Spec{Name: "tool", Text: "SELECT repeat('x', 1000) AS v FROM generate_series(1, 100000)", MaxBytes: 5000})
	if err != nil {
		t.Fatal(err)
	}
	if out, o, err = q.Run(context.Background(), nil, &Execution{}); err != nil || len(out) > 5100 || !o.Truncated {
		t.Errorf("got %d bytes, %+v, %v", len(out), o, err)
	}
	if got, _, err := pgRun(t, s, ReadOnly, "SELECT 1 AS v"); err != nil || got != `{"rows":[{"v":1}]}` {
		t.Errorf("after it: %s, %v", got, err)
	}
}

// A statement that is stopped, by its time limit or by the caller, stops in the server too.
func TestPostgresStops(t *testing.T) {
	t.Parallel()
	s, name := postgres(t, "")
	running := func() string {
		got, _, err := pgRun(t, s, ReadOnly, "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = :a AND state = 'active' AND query LIKE '%pg_sleep(%' AND pid <> pg_backend_pid()", text(name))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	const none, one = `{"rows":[{"n":0}]}`, `{"rows":[{"n":1}]}`
	await := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); running() != want; {
			if time.Now().After(deadline) {
				t.Fatalf("pg_stat_activity has %s, want %s", running(), want)
			}
		}
	}
	await(none) // and a connection is open: the time limit below is for the statement
	q := pgCompile(t, s, ReadOnly, "SELECT pg_sleep(60)::text AS v", 0)
	_, _, err := q.Run(context.Background(), nil, &Execution{Deadline: time.Now().Add(50 * time.Millisecond)})
	var tool *mcp.ToolError
	if !errors.As(err, &tool) || tool.Kind != kindTimeout {
		t.Errorf("the time limit gave %v", err)
	}
	await(none)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, _, err := q.Run(ctx, nil, &Execution{})
		done <- err
	}()
	await(one)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancel gave %v", err)
	}
	await(none)
}

func TestPostgresSurvivesChangedTables(t *testing.T) {
	t.Parallel()
	s, name := postgres(t, `CREATE TABLE t (a int); INSERT INTO t VALUES (1)`)
	q := pgCompile(t, s, ReadOnly, "SELECT * FROM t", 0)
	for _, want := range []string{`{"rows":[{"a":1}]}`, `{"rows":[{"a":1,"b":null}]}`} {
		out, _, err := q.Run(context.Background(), nil, &Execution{})
		if err != nil || string(out) != want {
			t.Errorf("got %s, %v; want %s", out, err, want)
		}
		srv, _ := pgtest.Shared()
		if err := srv.Exec(name, "ALTER TABLE t ADD COLUMN IF NOT EXISTS b text"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPostgresOverload(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "", func(c *Config) {
		c.Pool.Size, c.Pool.Overflow, c.Pool.Wait = 1, 0, conf.Duration(20*time.Millisecond)
	})
	c, err := s.pool.get(context.Background(), time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = pgRun(t, s, ReadOnly, "SELECT 1 AS v")
	var tool *mcp.ToolError
	if !errors.As(err, &tool) || tool.Kind != kindOverloaded {
		t.Errorf("a full pool gave %v", err)
	}
	s.pool.put(c, false)
}

// Describe tells of each statement that the database rejects what is wrong with it, and the connection stays.
func TestPostgresDescribeRejects(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "CREATE TABLE n (i int)", oneConnection)
	for _, c := range []struct{ text, want string }{
		{"SELECT 1 AS v, 2 AS v", `two columns are called "v"; give one of them another name with AS`},
		{"SELECT * FROM nowhere", `relation "nowhere" does not exist`}, {"SELECT j FROM n", `column "j" does not exist`},
		{"SELECT i || true FROM n", "operator does not exist"}, {"SELECT i FRM n", "syntax error"}, {"INSERT INTO n VALUES (now())", "is of type"},
	} {
		mode := ReadOnly
		if strings.HasPrefix(c.text, "INSERT") {
			mode = ReadWrite
		}
		q := pgCompile(t, s, mode, c.text, 0)
		for range 2 {
			columns, err := q.Describe(context.Background())
			if toolError(t, err, kindSQL, "tool: ", c.want); columns != nil {
				t.Errorf("%s: %v", c.text, columns)
			}
		}
	}
	if st := s.Stats()[0]; st.WaitCount != 0 || st.Open != 1 {
		t.Errorf("%+v", st)
	}
}

// Secrets stay out of errors; a server that is not there fails what needs it, and is found again when it comes.
func TestPostgresGoesAndComes(t *testing.T) {
	t.Parallel()
	own, err := pgtest.New()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Stop()
	cfg := DefaultConfig()
	cfg.Postgres = &PostgresConfig{Primary: conf.Secret(own.URL("postgres"))}
	s, err := New("pg", cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ok := func(when string) {
		t.Helper()
		if got, _, err := pgRun(t, s, ReadOnly, "SELECT 1 AS v"); err != nil || got != `{"rows":[{"v":1}]}` {
			t.Errorf("%s: %s, %v", when, got, err)
		}
	}
	ok("at first")
	own.Kill()
	_, _, err = pgRun(t, s, ReadOnly, "SELECT 1 AS v")
	var tool *mcp.ToolError
	if !errors.As(err, &tool) || tool.Kind != kindUnavailable {
		t.Errorf("a server that is gone gave %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "secret-of-the-test") {
		t.Errorf("the error holds the password: %v", err)
	}
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	ok("after its return")
	own.Kill()
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	ok("after a restart between two calls")
}

func BenchmarkPostgresPointSelect(b *testing.B) {
	s, _ := postgres(b, `CREATE TABLE items (id int PRIMARY KEY, name text); INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 1000) AS g(n)`)
	q := pgCompile(b, s, ReadOnly, "SELECT * FROM items WHERE id = :a", 1)
	x := &Execution{Args: []mcp.Value{integer(7)}}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, _, err = q.Run(context.Background(), buf[:0], x); err != nil {
			b.Fatal(err)
		}
	}
}
