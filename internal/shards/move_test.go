package shards

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/pgtest"
	"millrace/internal/sqldb"
)

// all is every shard.
func all() (shards []int) {
	for shard := range sqldb.ShardCount {
		shards = append(shards, shard)
	}
	return shards
}

const someCustomers = "SET search_path = own; INSERT INTO customers (id, owner, name) SELECT n, 0, 'n' FROM generate_series(1, 50) n"

// What keeps rows back on a server, or hides them from the move, ends it, and nothing has changed.
func TestMoveRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ a, b, want string }{
		"rows that are hidden":     {a: "ALTER TABLE customers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", want: "row-level security"},
		"rows that are kept":       {a: "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER keep BEFORE DELETE ON customers FOR EACH ROW EXECUTE FUNCTION keep()", want: "keeps rows that are deleted"},
		"rows that do not come":    {b: "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER skip BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION skip()", want: "does a trigger, a rule or a policy keep some back?"},
		"a key that is taken":      {b: "SET millrace.moving = 'yes'; INSERT INTO customers (id, owner, name) VALUES (7, 0, 'other')", want: "duplicate key"},
		"no triggers":              {a: "ALTER TABLE orders DISABLE TRIGGER USER", want: "table orders has not the triggers"},
		"a column that is dropped": {a: "", want: "has been changed on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, 2, "plain")
			must(t, r.server.Exec(r.databases[0], someCustomers))
			r.install(t)
			for i, sql := range []string{c.a, c.b} {
				must(t, r.server.Exec(r.databases[i], "SET search_path = own; SET ROLE plain; "+sql))
			}
			r.with(t, func(s *Servers) {
				_, err := s.Move(t.Context(), all(), "b", func(step string) error {
					if step == "switch" && c.a+c.b == "" {
						for _, d := range r.databases {
							must(t, r.server.Exec(d, "ALTER TABLE own.customers DROP note"))
						}
					}
					return nil
				})
				fails(t, err, c.want)
				p, err := s.Plan(t.Context(), nil)
				must(t, err)
				if len(p.Servers[0].Shards) != sqldb.ShardCount || len(p.Interrupted) > 0 {
					t.Errorf("%d shards are on a, of a move %v", len(p.Servers[0].Shards), p.Interrupted)
				}
				a := query(t.Context(), s.all[0].conn, "SET row_security = on")
				must(t, a.err)
				if name == "rows that are hidden" {
					must(t, r.server.Exec(r.databases[0], "ALTER TABLE own.customers NO FORCE ROW LEVEL SECURITY"))
				}
				if a = query(t.Context(), s.all[0].conn, "SELECT count(*) FROM customers"); a.err != nil || a.rows[0][0] != "50" {
					t.Errorf("rows on a: %v", a)
				}
			})
		})
	}
}

// One copy of a connection breaks; the other end's does with it, and what was begun is taken back all the same.
func TestACopyThatBreaks(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, "plain")
	must(t, r.server.Exec(r.databases[0], someCustomers))
	r.install(t)
	r.with(t, func(s *Servers) {
		_, err := s.Move(t.Context(), all(), "b", func(step string) error {
			if step == "copy customers" {
				must(t, r.server.Exec(r.databases[1], "DROP TABLE own."+staging("customers")))
			}
			return nil
		})
		fails(t, err, "does not exist")
	})
	r.inOrder(t)
}

// A server that is gone for good in the middle of a move is told, and the move taken back as far as that goes.
func TestAServerThatDies(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1, "plain")
	gone, err := pgtest.New()
	must(t, err)
	defer gone.Stop()
	must(t, gone.Exec("postgres", "CREATE ROLE plain LOGIN; CREATE SCHEMA own AUTHORIZATION plain; ALTER ROLE plain SET search_path = own; SET ROLE plain; SET search_path = own; "+schema))
	r.cfg.Shards.Servers["b"] = sqldb.PostgresConfig{Primary: conf.Secret(strings.Replace(gone.URL("postgres"), "millrace:", "plain:", 1))}
	must(t, r.server.Exec(r.databases[0], someCustomers))
	r.install(t)
	r.with(t, func(s *Servers) {
		_, err := s.Move(t.Context(), all(), "b", func(step string) error {
			if step == "copy orders" {
				gone.Kill()
			}
			return nil
		})
		fails(t, err, "from a to b", "server b: it cannot be reached")
	})
	must(t, gone.Start())
	r.with(t, func(s *Servers) {
		st, err := s.status(t.Context())
		must(t, err)
		if st["a"][0] != here {
			t.Errorf("the shards are %q on a", st["a"][0])
		}
		_, err = s.Move(t.Context(), all(), "b", nil)
		must(t, err)
	})
	r.inOrder(t)
}

// Taking everything away after a move that was interrupted between the commits of the two servers leaves all rows.
func TestRemoveAfterAnInterruptedMove(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, "plain")
	must(t, r.server.Exec(r.databases[0], someCustomers))
	r.install(t)
	planted := errors.New("pulled the plug")
	r.with(t, func(s *Servers) {
		_, err := s.Move(t.Context(), all(), "b", func(step string) error {
			if step != "here" {
				return nil
			}
			for _, o := range s.all {
				o.conn.Conn().Close()
			}
			return planted
		})
		if !errors.Is(err, planted) {
			t.Fatal(err)
		}
	})
	r.with(t, func(s *Servers) {
		must(t, s.Remove(t.Context()))
		if a := query(t.Context(), s.all[1].conn, "SELECT count(*) FROM customers"); a.err != nil || a.rows[0][0] != "50" {
			t.Errorf("rows on b: %v", a)
		}
	})
}

// An install that was interrupted behind its first server goes on with the others.
func TestInterruptedInstall(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3, "plain")
	r.with(t, func(s *Servers) {
		must(t, s.look(t.Context()))
		for _, o := range s.all {
			must(t, o.tx(t.Context(), objects(o.schema)...))
		}
		given, err := s.divide(t.Context())
		must(t, err)
		must(t, s.all[0].begin(t.Context(), given["a"]))
	})
	must(t, r.server.Exec(r.databases[0], fmt.Sprintf("SET search_path = own; INSERT INTO customers (id, owner, name) VALUES (%d, 0, 'n')", r.keysOf(t, "a", 1)[0])))
	r.install(t)
	r.inOrder(t)
	r.with(t, func(s *Servers) {
		p, err := s.Plan(t.Context(), nil)
		must(t, err)
		if len(p.Moves) > 0 {
			t.Errorf("%+v", p)
		}
	})
}

// What the text of a statement does not tell the database is asked.
func TestScatterAsksTheDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1, "plain")
	must(t, r.server.Exec(r.databases[0], "SET search_path = own; CREATE AGGREGATE total(bigint) (sfunc = int8pl, stype = bigint, initcond = '0')"))
	icu := r.databases[0] + "_icu"
	must(t, r.server.Exec("postgres", "CREATE DATABASE "+icu+" OWNER plain TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LC_COLLATE 'C' LC_CTYPE 'C'"))
	must(t, r.server.Exec(icu, "SET ROLE plain; CREATE SCHEMA own; ALTER DATABASE "+icu+" SET search_path = own; SET search_path = own; "+schema))
	r.cfg.Shards.Servers["b"] = sqldb.PostgresConfig{Primary: conf.Secret(r.url(icu))}
	r.install(t)
	s := r.open(t)
	for text, want := range map[string]string{
		"SELECT total(id) AS n FROM customers":            "total(…) is of the rows of each server",
		"SELECT range_agg(int8range(id, id)) FROM orders": "range_agg(…) is of the rows of each server",
		"SELECT name FROM customers ORDER BY name":        `(name COLLATE "C") AS name`,
		"SELECT id FROM customers ORDER BY name":          `ordered by name, which is no column of its result`,
	} {
		q := tool{text, sqldb.ReadOnly, nil, -1}.compile(t, s)
		_, err := run(t, q)
		fails(t, err, want)
		_, err = q.Describe(t.Context())
		fails(t, err, want)
	}
	for _, text := range []string{`SELECT name COLLATE "C" AS name FROM customers ORDER BY name`, "SELECT coalesce(id, 0) AS id, lower(name) AS l FROM customers ORDER BY id", "SELECT customer_id, range_agg(int8range(id, id)) FROM orders GROUP BY customer_id"} {
		if _, err := run(t, tool{text, sqldb.ReadOnly, nil, -1}.compile(t, s)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Settings by caller reach what the database is asked about a statement too.
func TestScatterWithSettings(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, "plain")
	r.cfg.Settings = map[string]string{"app.tenant": "$tenant"}
	for _, d := range r.databases {
		must(t, r.server.Exec(d, "SET search_path = own; ALTER TABLE customers ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON customers USING (name = current_setting('app.tenant'))"))
	}
	r.install(t)
	s := r.open(t)
	put := addCustomer.compile(t, s)
	for id := range int64(20) {
		_, err := run(t, put, integer(id), integer(0), text([]string{"a", "b"}[id%2]), mcp.Value{})
		must(t, err)
	}
	for _, d := range r.databases {
		must(t, r.server.Exec(d, "ALTER TABLE own.customers FORCE ROW LEVEL SECURITY"))
	}
	q := tool{`SELECT name COLLATE "C" AS name, id FROM customers WHERE name = current_setting('app.tenant') ORDER BY name, id LIMIT 2`, sqldb.ReadOnly, nil, -1}.compile(t, s)
	if _, err := q.Describe(t.Context()); err != nil {
		t.Error(err)
	}
	for tenant, want := range map[string]string{"a": `{"rows":[{"name":"a","id":0},{"name":"a","id":2}]}`, "b": `{"rows":[{"name":"b","id":1},{"name":"b","id":3}]}`} {
		out, _, err := q.Run(t.Context(), nil, &sqldb.Execution{Caller: &mcp.Caller{Principal: &mcp.Principal{Tenant: tenant, Subject: "s"}}})
		if err != nil || string(out) != want {
			t.Errorf("%s: %s %v", tenant, out, err)
		}
	}
}

// Rows that somebody has locked are not waited for while all writes of their shards stand still.
func TestRowsThatAreLocked(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, "plain")
	must(t, r.server.Exec(r.databases[0], someCustomers))
	r.install(t)
	conn, err := pgconn.Connect(t.Context(), r.url(r.databases[0]))
	must(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), "BEGIN; SELECT FROM customers FOR UPDATE").ReadAll()
	must(t, err)
	r.with(t, func(s *Servers) {
		var began time.Time
		_, err := s.Move(t.Context(), all(), "b", func(step string) error {
			switch {
			case step == "arrived" && began.IsZero():
				began = time.Now()
			case step == "arrived": // a second try
				if waited := time.Since(began); waited > 4*time.Second {
					t.Errorf("writes have waited %s", waited)
				}
				return errors.New("long enough")
			}
			return nil
		})
		fails(t, err, "long enough")
	})
	_, err = conn.Exec(t.Context(), "COMMIT").ReadAll()
	must(t, err)
	r.with(t, func(s *Servers) {
		_, err := s.Move(t.Context(), all(), "b", nil)
		must(t, err)
	})
	r.inOrder(t)
}

// Replicas: a move waits until they know, and gives up where they do not; and one takes the place of a server that is gone, shards and all.
func TestReplicas(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1, "plain")
	servers, err := pgtest.NewReplication("CREATE ROLE plain LOGIN; GRANT pg_read_all_stats TO plain; CREATE SCHEMA own AUTHORIZATION plain; ALTER ROLE plain SET search_path = own; SET ROLE plain; SET search_path = own; "+schema, nil)
	must(t, err)
	defer servers.Stop()
	plain := func(url string) conf.Secret { return conf.Secret(strings.Replace(url, "millrace:", "plain:", 1)) }
	r.cfg.Shards.Servers["b"] = sqldb.PostgresConfig{Primary: plain(servers.Primary.URL("postgres")), Replicas: []conf.Secret{plain(servers.URLs("postgres")[0])}}
	r.install(t)
	s := r.open(t)
	put, list := addCustomer.compile(t, s), tool{"SELECT id FROM customers ORDER BY id", sqldb.ReadOnly, nil, -1}.compile(t, s)
	var want []string
	write := func(id int64) error {
		_, err := run(t, put, integer(id), integer(0), text("n"), mcp.Value{})
		if err == nil {
			want = append(want, fmt.Sprintf(`{"id":%d}`, id))
		}
		return err
	}
	for id := range int64(20) {
		must(t, write(id))
	}
	must(t, servers.Replicas[0].Freeze())
	r.with(t, func(m *Servers) {
		_, err := m.Move(t.Context(), all(), "b", nil)
		fails(t, err, "the replicas of b do not show within 5s that they have the rows")
	})
	must(t, servers.Replicas[0].Thaw())
	r.with(t, func(m *Servers) {
		done, err := m.Move(t.Context(), all(), "b", nil)
		must(t, err)
		if len(done) != 1 || done[0].Lagging {
			t.Errorf("%+v", done)
		}
	})
	servers.Primary.Kill()
	must(t, servers.Replicas[0].Promote())
	over := time.Now().Add(20 * time.Second)
	for err = write(100); err != nil && time.Now().Before(over); err = write(100) { // until the source has found it
		var failed *mcp.ToolError
		if !errors.As(err, &failed) || failed.Kind != "unavailable" {
			t.Fatal(err)
		}
	}
	must(t, err)
	got, err := run(t, list)
	if err != nil || got != `{"rows":[`+strings.Join(want, ",")+`]}` {
		t.Errorf("%s %v, want %s", got, err, want)
	}
	r.with(t, func(m *Servers) { // to the one that was promoted
		done, err := m.Move(context.WithoutCancel(t.Context()), []int{sqldb.ShardOf("100")}, "a", nil)
		must(t, err)
		if len(done) != 1 || done[0].Rows < 1 || !done[0].Lagging {
			t.Errorf("%+v", done)
		}
	})
	must(t, servers.Primary.Start()) // so that it can be stopped
}
