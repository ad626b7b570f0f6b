package shards

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/pgtest"
	"millrace/internal/sqldb"
)

// keysOf gives keys of shards that a server has, in order.
func (r *rig) keysOf(t testing.TB, server string, n int) (out []int64) {
	t.Helper()
	r.with(t, func(s *Servers) {
		p, err := s.Plan(t.Context(), nil)
		must(t, err)
		i := slices.IndexFunc(p.Servers, func(o ServerPlan) bool { return o.Name == server })
		for key := int64(0); len(out) < n; key++ {
			if slices.Contains(p.Servers[i].Shards, sqldb.ShardOf(fmt.Sprint(key))) {
				out = append(out, key)
			}
		}
	})
	return out
}

func fails(t testing.TB, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %q in it", err, part)
		}
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3, "plain")
	s := r.open(t)
	q := ordersOf.compile(t, s)
	_, err := run(t, q, integer(1))
	fails(t, err, "millrace install")
	r.with(t, func(s *Servers) {
		_, err := s.Plan(t.Context(), nil)
		fails(t, err, "has no map of shards", "millrace install")
	})
	r.install(t)
	r.install(t) // changes nothing
	r.with(t, func(s *Servers) {
		p, err := s.Plan(t.Context(), nil)
		must(t, err)
		if got := p.Text("M", "F"); got != "server  shards  after\na          341    341\nb          341    341\nc          342    342\n\nnothing is to be moved\n" {
			t.Errorf("%s", got)
		}
		p, err = s.Plan(t.Context(), []string{"a"})
		must(t, err)
		if got := p.Text("M", "F"); got != "server  shards  after\na          341      0\nb          341    512\nc          342    512\n\nM 0-170 b F\nM 171-340 c F\n" {
			t.Errorf("%s", got)
		}
		_, err = s.Plan(t.Context(), []string{"z"})
		fails(t, err, `no server "z"; it has a, b, c`)
		// The database gives a key the shard that this process does.
		for _, key := range []string{"0", "-1", "9223372036854775807", "", "Ä", "00000000-0000-0000-0000-00000000000a"} {
			a := query(t.Context(), s.all[0].conn, "SELECT millrace_shard_of($1)", key)
			if a.err != nil || a.rows[0][0] != fmt.Sprint(sqldb.ShardOf(key)) {
				t.Errorf("%q: %v, want %d", key, a, sqldb.ShardOf(key))
			}
		}
	})
	if out, err := run(t, q, integer(1)); err != nil || out != `{"rows":[]}` {
		t.Errorf("%s %v", out, err)
	}
	r.with(t, func(s *Servers) {
		must(t, s.Remove(t.Context()))
		for _, o := range s.all {
			a := query(t.Context(), o.conn, "SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE 'millrace%') + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'millrace%') + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'millrace%')")
			if a.err != nil || a.rows[0][0] != "0" {
				t.Errorf("left on %s: %v", o.name, a)
			}
		}
		must(t, s.Remove(t.Context())) // once more is no error
	})
}

func TestInstallBesideRows(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, "plain")
	row := "INSERT INTO customers (id, owner, name) SELECT n, 0, 'n' FROM generate_series(1, 50) n"
	must(t, r.server.Exec(r.databases[1], row))
	r.install(t)
	r.with(t, func(s *Servers) {
		p, err := s.Plan(t.Context(), nil)
		must(t, err)
		if len(p.Servers[0].Shards) != 0 || len(p.Moves) != 1 || len(p.Moves[0].Shards) != 512 {
			t.Errorf("%+v", p)
		}
		done, err := s.Move(t.Context(), p.Moves[0].Shards, "a", nil)
		must(t, err)
		if len(done) != 1 || done[0].Rows < 10 || done[0].Rows > 40 {
			t.Errorf("%+v", done)
		}
		done, err = s.Move(t.Context(), p.Moves[0].Shards, "a", nil)
		if err != nil || len(done) != 0 {
			t.Errorf("again: %+v %v", done, err)
		}
	})
	list := tool{"SELECT id FROM customers ORDER BY id DESC LIMIT 3", sqldb.ReadOnly, nil, -1}.compile(t, r.open(t))
	if out, err := run(t, list); err != nil || out != `{"rows":[{"id":50},{"id":49},{"id":48}]}` {
		t.Errorf("%s %v", out, err)
	}
	r.inOrder(t)
	both := newRig(t, 2, "plain")
	for _, d := range both.databases {
		must(t, both.server.Exec(d, row))
	}
	both.with(t, func(s *Servers) {
		fails(t, s.Install(t.Context()), "servers a and b have rows", "put the rows of all on one")
	})
}

func TestInstallRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sql  string // on server b
		all  string // on both
		want string
	}{
		"a table that is not there": {sql: "DROP TABLE orders", want: "server b: table orders: it is not there"},
		"other columns":             {sql: "ALTER TABLE orders ADD more text", want: "table orders is not alike on servers a and b"},
		"another type":              {sql: "ALTER TABLE orders ALTER amount TYPE numeric(13,2)", want: "not alike"},
		"no primary key":            {all: "ALTER TABLE orders DROP CONSTRAINT orders_pkey", want: "table orders: it has no primary key"},
		"a key that may be null":    {all: "ALTER TABLE orders DROP CONSTRAINT orders_pkey; ALTER TABLE orders ADD PRIMARY KEY (id); ALTER TABLE orders ALTER customer_id DROP NOT NULL", want: "may be NULL"},
		"a key of another type":     {all: "ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey; ALTER TABLE orders ALTER customer_id TYPE text", want: "of type text, and shards.key says integer"},
		"no such column":            {all: "ALTER TABLE orders RENAME customer_id TO customer", want: "it has no column customer_id"},
		"rows that are hidden":      {all: "ALTER TABLE customers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", want: "row-level security"},
		"a reference by others":     {all: "ALTER TABLE orders ADD referred_by bigint REFERENCES customers ON DELETE CASCADE", want: "table orders refers to customers by other columns than the shard keys (customer_id and id)"},
		"a reference":               {all: "CREATE TABLE addresses (id bigint REFERENCES customers)", want: "table addresses refers to customers, whose rows move"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, 2, "plain")
			for i, d := range r.databases {
				must(t, r.server.Exec(d, c.all))
				if i == 1 {
					must(t, r.server.Exec(d, c.sql))
				}
			}
			r.with(t, func(s *Servers) { fails(t, s.Install(t.Context()), c.want) })
		})
	}
}

// What a write may not do is refused by the database itself, whoever writes.
func TestOtherShards(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, "plain")
	r.install(t)
	s := r.open(t)
	a, b := r.keysOf(t, "a", 2), r.keysOf(t, "b", 1)
	put := addCustomer.compile(t, s)
	for _, key := range append(a, b...) {
		_, err := run(t, put, integer(key), integer(0), text("n"), mcp.Value{})
		must(t, err)
	}
	everybody := tool{"UPDATE customers SET name = 'x' WHERE id >= 0 AND :id IS NOT NULL", sqldb.ReadWrite, []string{"id:integer"}, 0}.compile(t, s)
	_, err := run(t, everybody, integer(a[0]))
	fails(t, err, "the write is refused, and nothing was changed", "a row of shard", "and the key is of shard", "no transaction spans servers")
	rename := tool{"UPDATE customers SET id = :to WHERE id = :id", sqldb.ReadWrite, []string{"id:integer", "to:integer"}, 0}.compile(t, s)
	_, err = run(t, rename, integer(a[0]), integer(b[0]+1_000_000))
	fails(t, err, "the write is refused")
	direct := func(sql string) error { return r.server.Exec(r.databases[0], "SET search_path = own; "+sql) }
	must(t, direct(fmt.Sprintf("UPDATE customers SET name = 'direct' WHERE id IN (%d, %d)", a[0], a[1]))) // both are here
	fails(t, direct(fmt.Sprintf("INSERT INTO customers (id, owner, name) VALUES (%d, 0, 'n')", b[0])), "which is on another server")
	fails(t, direct(fmt.Sprintf("BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE customers SET name = 'y' WHERE id = %d; COMMIT", a[0])), "READ COMMITTED transactions only")
	r.with(t, func(m *Servers) {
		_, err := m.Move(t.Context(), []int{sqldb.ShardOf(fmt.Sprint(a[0]))}, "b", func(step string) error {
			if step == "switch" {
				fails(t, direct("TRUNCATE customers, orders"), "truncate it when that is over")
				must(t, direct(fmt.Sprintf("UPDATE customers SET name = 'while moving' WHERE id = %d", a[0])))
			}
			return nil
		})
		must(t, err)
	})
	if out, err := run(t, ordersOf.compile(t, s), integer(a[0])); err != nil || !strings.Contains(out, "while moving") {
		t.Errorf("%s %v", out, err)
	}
	r.inOrder(t)
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, "plain")
	s := r.open(t)
	for want, change := range map[string]func(*sqldb.Spec){
		"shard: is missing: the write would be of all servers, and no transaction spans them": func(o *sqldb.Spec) { o.Shard = nil },
		"idempotency: keys are kept beside the rows":                                          func(o *sqldb.Spec) { o.Once = true },
		"batch: goes with one server":                                                         func(o *sqldb.Spec) { o.Batch = &sqldb.Batch{} },
		"snapshot: goes with one server":                                                      func(o *sqldb.Spec) { o.Snapshot = true },
		"the source's keys are of type integer":                                               func(o *sqldb.Spec) { o.Shard = new(2) },
	} {
		spec := addCustomer.spec(true)
		change(&spec)
		_, err := s.Compile(spec)
		fails(t, err, want)
	}
	fails(t, s.Script(t.Context(), nil), "spread over servers")
	// A table that the file names since, and nobody has made ready.
	more := r.cfg
	shards := *r.cfg.Shards
	more.Shards, shards.Tables = &shards, append([]sqldb.ShardedTable{{Table: "later", Key: "id"}}, r.cfg.Shards.Tables...)
	r.install(t)
	_, err := run(t, ordersOf.compile(t, openSource(t, more)), integer(1))
	fails(t, err, "has not been made ready for table later; run 'millrace install shop")
	// The keys of what is ordered are looked at when the database is asked.
	jsonb := tool{"SELECT to_jsonb(id) AS j FROM customers ORDER BY j", sqldb.ReadOnly, nil, -1}.compile(t, s)
	_, err = jsonb.Describe(t.Context())
	fails(t, err, `ordered by "j", whose type cannot be put in order`)
	collated := tool{`SELECT name COLLATE "en_US" AS name FROM customers ORDER BY name`, sqldb.ReadOnly, nil, -1}
	if a := r.server.Exec(r.databases[0], `SELECT 'a' COLLATE "en_US"`); a != nil {
		collated.text = strings.Replace(collated.text, "en_US", "unicode", 1)
		for _, d := range r.databases {
			must(t, r.server.Exec(d, `SET search_path = own; CREATE COLLATION unicode (provider = icu, locale = 'und')`))
		}
	}
	_, err = collated.compile(t, s).Describe(t.Context())
	fails(t, err, `text under a collation of the database's own`, `(name COLLATE "C") AS name`)
}

// A server that is away takes its shards with it, and nobody else's.
func TestAServerAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, "plain")
	gone, err := pgtest.New()
	must(t, err)
	defer gone.Stop()
	must(t, gone.Exec("postgres", "CREATE ROLE plain LOGIN"))
	must(t, gone.Exec("postgres", "CREATE DATABASE c OWNER plain"))
	must(t, gone.Exec("c", "SET ROLE plain; CREATE SCHEMA own; ALTER DATABASE c SET search_path = own; SET search_path = own; "+schema))
	r.cfg.Shards.Servers["c"] = sqldb.PostgresConfig{Primary: conf.Secret(strings.Replace(gone.URL("c"), "millrace:", "plain:", 1))}
	r.install(t)
	a, c := r.keysOf(t, "a", 1)[0], r.keysOf(t, "c", 1)[0]
	warm, cold := r.open(t), r.open(t)
	for _, key := range []int64{a, c} {
		_, err := run(t, addCustomer.compile(t, warm), integer(key), integer(0), text("n"), mcp.Value{})
		must(t, err)
	}
	gone.Kill()
	for i, s := range []sqldb.Source{warm, cold} {
		q := ordersOf.compile(t, s)
		if _, err := run(t, q, integer(a)); err != nil {
			t.Errorf("process %d: a shard on a: %v", i, err)
		}
		_, err := run(t, q, integer(c))
		fails(t, err, `source "shop/c": the database is not available`)
		_, err = run(t, byName.compile(t, s), integer(0))
		fails(t, err, `source "shop/c": the database is not available`)
		fails(t, s.Ping(t.Context()), `source "shop/c"`)
	}
	_, err = Open(t.Context(), r.cfg)
	fails(t, err, "server c: it cannot be reached")
	must(t, gone.Start())
	for i, s := range []sqldb.Source{warm, cold} {
		if _, err := run(t, ordersOf.compile(t, s), integer(c)); err != nil {
			t.Errorf("process %d: a shard on c, which is back: %v", i, err)
		}
	}
}

// A write that does not end keeps its shard where it is: the move waits a while, is given up, and leaves nothing.
func TestAWriteThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, "plain")
	r.install(t)
	key := r.keysOf(t, "a", 1)[0]
	conn, err := pgconn.Connect(t.Context(), r.url(r.databases[0]))
	must(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), fmt.Sprintf("BEGIN; INSERT INTO customers (id, owner, name) VALUES (%d, 0, 'n')", key)).ReadAll()
	must(t, err)
	shard := []int{sqldb.ShardOf(fmt.Sprint(key))}
	r.with(t, func(s *Servers) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := s.Move(ctx, shard, "b", nil)
		fails(t, err, "from a to b")
	})
	r.with(t, func(s *Servers) {
		r.with(t, func(other *Servers) {
			_, err := s.Move(t.Context(), nil, "b", nil)
			must(t, err)
			_, err = other.Move(t.Context(), shard, "b", nil)
			fails(t, err, "another move is under way")
		})
	})
	_, err = conn.Exec(t.Context(), "COMMIT").ReadAll()
	must(t, err)
	r.with(t, func(s *Servers) {
		_, err := s.Move(t.Context(), shard, "b", nil)
		must(t, err)
	})
	r.inOrder(t)
}

// Two servers with one shard, as after a restore, are told, and nothing of that shard runs.
func TestAShardTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2, "plain")
	r.install(t)
	a, b := r.keysOf(t, "a", 1)[0], r.keysOf(t, "b", 1)[0]
	must(t, r.server.Exec(r.databases[1], fmt.Sprintf("SET search_path = own; INSERT INTO millrace_shards VALUES (%d, 'here'); UPDATE millrace_shard_epoch SET epoch = epoch + 1", sqldb.ShardOf(fmt.Sprint(a)))))
	s := r.open(t)
	_, err := run(t, ordersOf.compile(t, s), integer(a))
	fails(t, err, "is on several servers", "millrace shards plan")
	_, err = run(t, byName.compile(t, s), integer(0))
	fails(t, err, "is on several servers")
	if _, err := run(t, ordersOf.compile(t, s), integer(b)); err != nil {
		t.Error(err)
	}
	r.with(t, func(s *Servers) {
		_, err := s.Plan(t.Context(), nil)
		fails(t, err, "is on a and on b")
	})
}

func TestParse(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"5": "5", "0-3,7": "0-3,7", "9, 8,8": "8-9", "1023": "1023", "0-1023": "0-1023"} {
		if got, err := Parse(in); err != nil || ranges(got) != want {
			t.Errorf("%s: %v %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", "-1", "5-", "7-5", "1024", "1-2-3", "1,,2"} {
		_, err := Parse(in)
		fails(t, err, "names no shards")
	}
}
