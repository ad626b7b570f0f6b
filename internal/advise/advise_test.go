package advise

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"millrace/internal/conf"
	"millrace/internal/pgtest"
	"millrace/internal/sqldb"
)

// rentalTables are those of a shop that lends films, in a size in which an index matters. NUMBERS(n) stands for the numbers 1 to n.
const rentalTables = `
CREATE TABLE customer (customer_id integer PRIMARY KEY, store_id integer NOT NULL, first_name varchar(45) NOT NULL, last_name varchar(45) NOT NULL, email varchar(80), active boolean NOT NULL);
INSERT INTO customer SELECT i, i % 2 + 1, 'first' || (i % 700), 'last' || (i % 900), 'person' || i || '@example.org', i % 10 > 0 FROM NUMBERS(20000);
CREATE TABLE film (film_id integer PRIMARY KEY, title varchar(255) NOT NULL, language_id integer NOT NULL, rental_rate numeric(4,2) NOT NULL, rating text);
INSERT INTO film SELECT i, 'film ' || ((i * 7919) % 10007) || ' of ' || i, i % 6 + 1, 0.99, 'PG' FROM NUMBERS(10000);
CREATE TABLE actor (actor_id integer PRIMARY KEY, first_name varchar(45) NOT NULL, last_name varchar(45) NOT NULL);
INSERT INTO actor SELECT i, 'first' || i, 'last' || i FROM NUMBERS(2000);
CREATE TABLE film_actor (actor_id integer NOT NULL REFERENCES actor, film_id integer NOT NULL REFERENCES film, PRIMARY KEY (actor_id, film_id));
INSERT INTO film_actor SELECT i % 2000 + 1, (i * 31 + i / 2000) % 10000 + 1 FROM NUMBERS(40000) ON CONFLICT DO NOTHING;
CREATE TABLE inventory (inventory_id integer PRIMARY KEY, film_id integer NOT NULL REFERENCES film, store_id integer NOT NULL);
INSERT INTO inventory SELECT i, i % 10000 + 1, i % 2 + 1 FROM NUMBERS(30000);
CREATE TABLE rental (rental_id integer PRIMARY KEY, rental_date timestamp NOT NULL, inventory_id integer NOT NULL REFERENCES inventory, customer_id integer NOT NULL REFERENCES customer, return_date timestamp);
INSERT INTO rental SELECT i, DAY(i / 90), (i * 17) % 30000 + 1, (i * 13) % 20000 + 1, CASE WHEN i % 50 > 0 THEN DAY(i / 90 + 3) END FROM NUMBERS(60000);
CREATE TABLE payment (payment_id integer PRIMARY KEY, customer_id integer NOT NULL REFERENCES customer, rental_id integer REFERENCES rental, amount numeric(5,2) NOT NULL, payment_date timestamp NOT NULL);
INSERT INTO payment SELECT i, (i * 13) % 20000 + 1, i, 4.99, DAY(i / 90) FROM NUMBERS(60000);
`

// rentalStatements each lack one index.
var rentalStatements = []struct{ text, table, index, kind string }{
	{"SELECT * FROM rental WHERE customer_id = :id", "rental", "(customer_id)", fullScan},
	{"SELECT * FROM rental ORDER BY rental_date DESC LIMIT :n", "rental", "(rental_date DESC)", sorting},
	{"SELECT r.rental_id FROM rental AS r WHERE r.inventory_id = :id AND r.return_date IS NULL", "rental", "(inventory_id)", fullScan},
	{"SELECT r.rental_date, p.amount FROM rental r JOIN payment p ON p.rental_id = r.rental_id WHERE r.rental_id = :id", "payment", "(rental_id)", fullScan},
	{"SELECT sum(amount) AS total FROM payment WHERE payment_date >= :since AND payment_date < :until", "payment", "(payment_date)", fullScan},
	{"SELECT * FROM customer WHERE store_id = :id AND last_name = :name", "customer", "(last_name)", fullScan},
	{"SELECT a.first_name, a.last_name FROM film f JOIN film_actor fa ON fa.film_id = f.film_id JOIN actor a ON a.actor_id = fa.actor_id WHERE f.film_id = :id", "film_actor", "(film_id)", fullScan},
	{"SELECT count(*) AS copies FROM inventory WHERE film_id = :id AND store_id = 1", "inventory", "(film_id)", fullScan},
}

// soundStatements lack nothing.
var soundStatements = []string{
	"SELECT * FROM customer WHERE customer_id = :id", "SELECT * FROM film LIMIT :n", "SELECT count(*) AS n, avg(amount) AS mean FROM payment",
	"SELECT f.title FROM film f JOIN inventory i ON i.film_id = f.film_id WHERE i.inventory_id = :id",
	"SELECT * FROM rental WHERE rental_id = :id", "SELECT 1 AS one",
}

func statement(i int, text string) Statement {
	st := Statement{Name: fmt.Sprint("tool t", i), Where: fmt.Sprintf("file.yaml:%d:1", i), Text: text, Writes: !strings.HasPrefix(text, "SELECT")}
	for _, p := range []sqldb.Param{{Name: "id", Type: "integer"}, {Name: "n", Type: "integer"}, {Name: "since", Type: "string"}, {Name: "until", Type: "string"}, {Name: "name", Type: "string"}} {
		if strings.Contains(text, ":"+p.Name) {
			st.Params = append(st.Params, Param{Param: p})
		}
	}
	return st
}

// found looks for a finding of an index of a table that a statement lacks.
func found(r *Report, table, index, kind, name string) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool {
		sql := strings.ReplaceAll(strings.ReplaceAll(f.SQL, `"`, ""), "public.", "")
		return strings.Contains(sql, " ON "+table+" "+strings.TrimSuffix(index, ")")) && slices.Contains(f.Kinds, kind) &&
			slices.ContainsFunc(f.Gains, func(g Gain) bool { return g.Name == name && g.After < g.Before })
	})
}

func textsOf(planted []struct{ text, table, index, kind string }) (out []string) {
	for _, p := range planted {
		out = append(out, p.text)
	}
	return out
}

// checkFound looks for what was planted, and nothing else.
func checkFound(t *testing.T, src Source, planted []struct{ text, table, index, kind string }) *Report {
	t.Helper()
	r, err := Run(t.Context(), []Source{src}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) != len(planted) {
		t.Errorf("%d findings of %d faults", len(r.Findings), len(planted))
	}
	for i, p := range planted {
		if !found(r, p.table, p.index, p.kind, fmt.Sprint("tool t", i)) {
			t.Errorf("not found: %s %s for %s, a %s", p.table, p.index, p.text, p.kind)
		}
	}
	if len(r.Notes) > 0 {
		t.Errorf("notes: %q", r.Notes)
	}
	if t.Failed() {
		for _, f := range r.Findings {
			t.Logf("%+v", f)
		}
	}
	return r
}

func rentalSource(statements []string) (out []Statement) {
	for i, text := range statements {
		out = append(out, statement(i, text))
	}
	return out
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	statements := slices.Clone(rentalStatements)
	statements[3].kind, statements[6].kind = joining, joining // where PostgreSQL reads all for the value that it knows from the other table
	planted := append(statements, []struct{ text, table, index, kind string }{
		{"SELECT * FROM customer WHERE email = :name", "customer", "(email)", fullScan},
		{"SELECT rating, count(*) AS n FROM film GROUP BY rating", "film", "(rating)", sorting},
		{"UPDATE payment SET amount = 0 WHERE customer_id = :id", "payment", "(customer_id)", fullScan},
	}...)
	file := filepath.Join(t.TempDir(), "rental.db")
	conn, err := sqlite.OpenConn(file, sqlite.OpenReadWrite|sqlite.OpenCreate|sqlite.OpenWAL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	script := strings.NewReplacer("DAY(i / 90)", "datetime('2020-01-01', (i / 90) || ' days')", "DAY(i / 90 + 3)", "datetime('2020-01-01', (i / 90 + 3) || ' days')").Replace(rentalTables)
	for _, n := range []string{"2000", "10000", "20000", "30000", "40000", "60000"} {
		rows := n
		if raceEnabled {
			rows += " / 5"
		}
		script = strings.ReplaceAll(script, "FROM NUMBERS("+n+")", "FROM (WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < "+rows+") SELECT i FROM c) WHERE true")
	}
	if err := sqlitex.ExecuteScript(conn, script, nil); err != nil {
		t.Fatal(err)
	}
	cfg := sqldb.DefaultConfig()
	cfg.SQLite = &sqldb.SQLiteConfig{Path: file}
	src := Source{Name: "rentals", Config: cfg, Statements: rentalSource(append(textsOf(planted), soundStatements...))}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := checkFound(t, src, planted)
	after, err := os.ReadFile(file)
	if err != nil || string(before) != string(after) {
		t.Error("the file was changed", err)
	}

	for _, f := range r.Findings { // what it prints is ready
		if err := sqlitex.ExecuteTransient(conn, f.SQL, nil); err != nil {
			t.Errorf("%s: %v", f.SQL, err)
		}
	}
	if r, err = Run(t.Context(), []Source{src}, Options{}); err != nil || len(r.Findings) > 0 {
		t.Errorf("with all indexes: %+v, %v", r, err)
	}
	if r, err = Run(t.Context(), []Source{src}, Options{MaxCopy: 1}); err != nil || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "--max-copy") {
		t.Errorf("a file that is too large: %+v, %v", r, err)
	}
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	s, err := pgtest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	if err := s.Exec("postgres", "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'"); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	script := strings.NewReplacer("DAY(i / 90 + 3)", "timestamp '2020-01-01' + (i / 90 + 3) * interval '1 day'", "DAY(i / 90)", "timestamp '2020-01-01' + (i / 90) * interval '1 day'",
		"NUMBERS(", "generate_series(1, ").Replace(rentalTables)
	for _, n := range []string{"2000", "10000", "20000", "30000", "40000", "60000"} {
		script = strings.ReplaceAll(script, "generate_series(1, "+n+")", "generate_series(1, "+n+") AS i")
	}
	if err := s.Exec("postgres", script+"ANALYZE; CREATE EXTENSION hypopg"); err != nil {
		t.Fatal(err)
	}
	planted := append(slices.Clone(rentalStatements), []struct{ text, table, index, kind string }{
		{"SELECT * FROM customer WHERE lower(email) = lower(:name)", "customer", "((lower((email)::text)))", fullScan},
		{"SELECT film_id, title FROM film WHERE title LIKE :name || '%' ORDER BY title LIMIT 10", "film", "(title", sorting},
		{"DELETE FROM customer WHERE customer_id = :id", "payment", "(customer_id)", foreignKey},
	}...)
	cfg := sqldb.DefaultConfig()
	cfg.Postgres = &sqldb.PostgresConfig{Primary: conf.Secret(s.URL("postgres"))}
	src := Source{Name: "rentals", Config: cfg, Statements: rentalSource(append(textsOf(planted), soundStatements...))}
	r := checkFound(t, src, planted)
	testWithoutHypopg(t, s)
	testPostgresCorners(t, s)
	testCounted(t, s, src)
	for _, f := range r.Findings {
		if err := s.Exec("postgres", f.SQL); err != nil {
			t.Errorf("%s: %v", f.SQL, err)
		}
	}
	if err := s.Exec("postgres", "ANALYZE"); err != nil {
		t.Fatal(err)
	}
	if r, err = Run(t.Context(), []Source{src}, Options{}); err != nil || len(r.Findings) > 0 {
		t.Errorf("with all indexes: %+v, %v", r, err)
	}
}

// Without hypopg what the plan shows is told, and that nothing proves it.
func testWithoutHypopg(t *testing.T, s *pgtest.Server) {
	if err := s.Exec("postgres", "CREATE DATABASE bare"); err != nil {
		t.Fatal(err)
	}
	if err := s.Exec("bare", "CREATE TABLE n (id int PRIMARY KEY, v int); INSERT INTO n SELECT i, i FROM generate_series(1, 20000) AS i; ANALYZE"); err != nil {
		t.Fatal(err)
	}
	cfg := sqldb.DefaultConfig()
	cfg.Postgres = &sqldb.PostgresConfig{Primary: conf.Secret(s.URL("bare"))}
	r, err := Run(t.Context(), []Source{{Name: "bare", Config: cfg, Statements: rentalSource([]string{"SELECT * FROM n WHERE v = :id", "SELECT * FROM n WHERE id = :id", "SELECT * FROM missing"})}}, Options{})
	if err != nil || len(r.Findings) != 1 || r.Findings[0].Proof != "" || !strings.HasSuffix(r.Findings[0].SQL, "ON public.n (v);") {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(r.Notes) != 2 || !strings.Contains(r.Notes[0], `file.yaml:2:1: tool t2 cannot be explained: ERROR: relation "missing" does not exist`) || !strings.Contains(r.Notes[1], "CREATE EXTENSION hypopg") {
		t.Errorf("%q", r.Notes)
	}
	var text, sql strings.Builder
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "no proof: try it on a copy") {
		t.Error(text.String(), err)
	}
	if err := r.WriteSQL(&sql); err != nil || !strings.Contains(sql.String(), "-- not proven\nCREATE INDEX CONCURRENTLY n_v_idx ON public.n (v);") {
		t.Error(sql.String(), err)
	}
}

// What pg_stat_statements knows of the file's statements goes with their findings, and its costliest others are looked at too.
func testCounted(t *testing.T, s *pgtest.Server, src Source) {
	if err := s.Exec("postgres", "CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset()"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, sql := range []string{"SELECT * FROM rental WHERE customer_id = 7", "SELECT count(*), sum(amount) FROM payment WHERE customer_id = 11"} {
			if err := s.Exec("postgres", sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	src.Statements = src.Statements[:1]
	r, err := Run(t.Context(), []Source{src}, Options{Statements: 5})
	if err != nil || len(r.Findings) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, f := range r.Findings {
		g := f.Gains[0]
		want := "tool t0"
		if f.Table == "public.payment" {
			want = "pg_stat_statements: SELECT count(*), sum(amount) FROM payment WHERE customer_…"
		}
		if g.Name != want || g.Calls != 3 || g.Seconds <= 0 {
			t.Errorf("%+v", f)
		}
	}
	if err := s.Exec("postgres", "DROP EXTENSION pg_stat_statements"); err != nil {
		t.Fatal(err)
	}
}

// Names are quoted, roles and row-level security are those of the callers, one statement's trouble is its own, and what others wrote is not
// planned in this one's name.
func testPostgresCorners(t *testing.T, s *pgtest.Server) {
	if err := s.Exec("postgres", "CREATE DATABASE corners"); err != nil {
		t.Fatal(err)
	}
	if err := s.Exec("corners", `CREATE EXTENSION hypopg; CREATE EXTENSION pg_stat_statements; CREATE SCHEMA "My Schema";
		CREATE TABLE "My Schema"."Order; DROP TABLE x" ("Customer Id" int, v int); INSERT INTO "My Schema"."Order; DROP TABLE x" SELECT i % 5000, i FROM generate_series(1, 50000) AS i;
		CREATE TABLE secured (tenant int, v int); INSERT INTO secured SELECT i % 10, i FROM generate_series(1, 50000) AS i; ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
		CREATE POLICY own ON secured USING (tenant = current_setting('app.tenant')::int);
		CREATE TABLE hidden (v int); INSERT INTO hidden SELECT generate_series(1, 50000); CREATE VIEW shown AS SELECT * FROM hidden;
		CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA "My Schema" TO reader; GRANT SELECT ON "My Schema"."Order; DROP TABLE x", secured, shown TO reader;
		CREATE ROLE mallory LOGIN; GRANT CREATE ON SCHEMA public TO mallory; ANALYZE`); err != nil {
		t.Fatal(err)
	}
	const evil = `CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
			PERFORM set_config('default_transaction_read_only', 'off', false); CREATE TABLE IF NOT EXISTS planted (); RETURN 1; EXCEPTION WHEN OTHERS THEN RETURN 2; END $$;
		SET SESSION AUTHORIZATION mallory; SELECT count(*) FROM generate_series(1, 10) AS i WHERE i = evil()`
	if err := s.Exec("corners", "SELECT pg_stat_statements_reset()"); err != nil {
		t.Fatal(err)
	}
	if err := s.Exec("corners", evil); err != nil {
		t.Fatal(err)
	}
	if err := s.Exec("corners", "DROP TABLE IF EXISTS planted"); err != nil {
		t.Fatal(err)
	}
	cfg := sqldb.DefaultConfig()
	cfg.Settings = map[string]string{"app.tenant": "$tenant", "role": "reader"}
	cfg.Postgres = &sqldb.PostgresConfig{Primary: conf.Secret(s.URL("corners"))}
	src := Source{Name: "corners", Config: cfg, Statements: rentalSource([]string{
		`SELECT v FROM "My Schema"."Order; DROP TABLE x" WHERE "Customer Id" = :id`, "SELECT * FROM secured WHERE v = :id", "SELECT * FROM shown WHERE v = :id",
		"SELECT column_name FROM information_schema.columns WHERE table_name = :name", "SELECT public.evil() AS v, * FROM secured WHERE v = :id"})}
	r, err := Run(t.Context(), []Source{src}, Options{Statements: 20, Tenant: "3"})
	if err != nil || r.Looked != 5 || len(r.Notes) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	all := ""
	for _, f := range r.Findings {
		all += f.SQL + "\n"
		for _, g := range f.Gains {
			if strings.Contains(g.Name, "evil") {
				t.Errorf("what another has run was planned: %+v", g)
			}
		}
		if err := s.Exec("corners", f.SQL); err != nil {
			t.Errorf("%s: %v", f.SQL, err)
		}
	}
	for _, want := range []string{`order_drop_table_x_customer_id_idx ON "My Schema"."Order; DROP TABLE x" ("Customer Id");`, "ON public.secured (v", "ON public.hidden (v);"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
	if err := s.Exec("corners", "CREATE TABLE planted ()"); err != nil {
		t.Errorf("planning wrote: %v", err)
	}
	src.Config.Settings["app.tenant"] = "$tenant"
	if r, err = Run(t.Context(), []Source{src}, Options{}); err != nil || r.Looked == 5 || len(r.Notes) == 0 {
		t.Errorf("without a tenant: %+v, %v", r, err)
	}
}

func TestSQLiteCorners(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "corners.db")
	conn, err := sqlite.OpenConn(file, sqlite.OpenReadWrite|sqlite.OpenCreate|sqlite.OpenWAL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // while it is open what was written may still be in the -wal file
	const numbers = "WITH RECURSIVE c(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c WHERE i < 30000) SELECT i, i % 3000 FROM c"
	if err := sqlitex.ExecuteScript(conn, `CREATE TABLE "i ON x(a); DROP TABLE victim; --" (id INTEGER PRIMARY KEY, a INTEGER);
		INSERT INTO "i ON x(a); DROP TABLE victim; --" `+numbers+`; CREATE TABLE victim (id INTEGER PRIMARY KEY, a INTEGER, active INTEGER DEFAULT 1, name TEXT);
		INSERT INTO victim (id, a) `+numbers+`; UPDATE victim SET name = 'n' || id; CREATE INDEX victim_a_idx ON victim (a, id) WHERE a < 0; CREATE INDEX by_name ON victim (active, name)`, nil); err != nil {
		t.Fatal(err)
	}
	cfg := sqldb.DefaultConfig()
	cfg.SQLite = &sqldb.SQLiteConfig{Path: file}
	src := Source{Name: "corners", Config: cfg, Statements: rentalSource([]string{`SELECT * FROM "i ON x(a); DROP TABLE victim; --" WHERE a = :id`, "/* insert */ SELECT * FROM victim WHERE a = :id",
		"UPDATE victim SET name = 'x' WHERE a = :id RETURNING id", "SELECT * FROM victim WHERE active = :n ORDER BY name LIMIT 10", "SELECT missing FROM victim"})}
	src.Statements[3].Params[0].Example, src.Statements[3].Params[0].Type = "true", "boolean"
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), []Source{src}, Options{})
	if err != nil || r.Looked != 4 || len(r.Notes) != 1 || len(r.Findings) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("the file was changed: %v", err)
	}
	for _, f := range r.Findings {
		if err := sqlitex.ExecuteTransient(conn, f.SQL, nil); err != nil {
			t.Errorf("%s: %v", f.SQL, err)
		}
		if strings.Contains(f.SQL, "ON \"victim\"") && (len(f.Gains) != 2 || !strings.HasPrefix(f.SQL, "CREATE INDEX victim_a_idx2 ")) {
			t.Errorf("%+v", f)
		}
	}
	n := 0
	if err := sqlitex.ExecuteTransient(conn, "SELECT count(*) FROM victim WHERE name <> 'x'", &sqlitex.ExecOptions{ResultFunc: func(st *sqlite.Stmt) error { n = st.ColumnInt(0); return nil }}); err != nil || n != 30000 {
		t.Errorf("%d rows are as they were, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, []Source{src}, Options{}); err == nil {
		t.Error("it goes on after its end")
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), fmt.Sprintf("millrace-advise-%d-*", os.Getpid()))); len(left) > 1 { // another test may be about to open its own
		t.Errorf("left behind: %q", left)
	}
}
