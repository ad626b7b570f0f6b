package shards

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/pgtest"
	"millrace/internal/sqldb"
)

var operations = flag.Int("shards.operations", 8000, "how many random operations are held against a database that is not sharded")

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

// postgres is the server of all tests. Each shard server of a test is a database of its own on it.
var postgres = sync.OnceValues(func() (*pgtest.Server, error) {
	s, err := pgtest.Shared()
	if err == nil {
		err = s.Exec("postgres", "CREATE ROLE plain LOGIN")
	}
	return s, err
})

const schema = `CREATE TABLE customers (id bigint PRIMARY KEY, owner integer NOT NULL, name text NOT NULL, note text, twice bigint GENERATED ALWAYS AS (id * 2) STORED);
	CREATE TABLE orders (customer_id bigint NOT NULL REFERENCES customers, id bigint, owner integer NOT NULL, amount numeric(12,2), at timestamptz NOT NULL, tags text[] NOT NULL DEFAULT '{}',
		PRIMARY KEY (customer_id, id));`

// rig is a sharded source with its servers, and a database that has everything.
type rig struct {
	cfg       sqldb.Config
	databases []string // of the servers a, b and so on
	whole     string
	server    *pgtest.Server
	user      string
}

var rigs atomic.Int64

func newRig(t testing.TB, servers int, user string) *rig {
	t.Helper()
	pg, err := postgres()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{cfg: sqldb.DefaultConfig(), server: pg, user: user}
	r.cfg.QueryTimeout = conf.Duration(time.Minute) // writes wait for moves
	r.cfg.Shards = &sqldb.ShardsConfig{Key: "integer", Servers: map[string]sqldb.PostgresConfig{},
		Tables: []sqldb.ShardedTable{{Table: "customers", Key: "id"}, {Table: "orders", Key: "customer_id"}}}
	number := rigs.Add(1)
	for i := range servers + 1 {
		name := fmt.Sprintf("shards%d_%d", number, i)
		must(t, pg.Exec("postgres", "CREATE DATABASE "+name+" OWNER "+user))
		must(t, pg.Exec(name, "SET ROLE "+user+"; CREATE SCHEMA own; ALTER DATABASE "+name+" SET search_path = own; SET search_path = own; "+schema))
		if i == servers {
			r.whole = name
			break
		}
		r.databases = append(r.databases, name)
		r.cfg.Shards.Servers[string(rune('a'+i))] = sqldb.PostgresConfig{Primary: conf.Secret(r.url(name))}
	}
	return r
}

func (r *rig) url(database string) string {
	return strings.Replace(r.server.URL(database), "millrace:", r.user+":", 1)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) install(t testing.TB) {
	t.Helper()
	r.with(t, func(s *Servers) { must(t, s.Install(t.Context())) })
}

func (r *rig) with(t testing.TB, f func(*Servers)) {
	t.Helper()
	s, err := Open(t.Context(), r.cfg)
	must(t, err)
	defer s.Close()
	f(s)
}

// open gives the sharded source as one process has it.
func (r *rig) open(t testing.TB) sqldb.Source {
	t.Helper()
	return openSource(t, r.cfg)
}

func (r *rig) openWhole(t testing.TB) sqldb.Source {
	t.Helper()
	cfg := sqldb.DefaultConfig()
	cfg.QueryTimeout = r.cfg.QueryTimeout
	cfg.Postgres = &sqldb.PostgresConfig{Primary: conf.Secret(r.url(r.whole))}
	return openSource(t, cfg)
}

func openSource(t testing.TB, cfg sqldb.Config) sqldb.Source {
	t.Helper()
	s, err := sqldb.New("shop", cfg, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// tool is a statement; by is its shard key, -1 for none.
type tool struct {
	text   string
	mode   sqldb.Mode
	params []string // name:type
	by     int
}

func (o tool) spec(isSharded bool) sqldb.Spec {
	s := sqldb.Spec{Name: "tool", Text: o.text, Mode: o.mode, MaxRows: 1000, MaxBytes: 1 << 20}
	for _, p := range o.params {
		name, kind, _ := strings.Cut(p, ":")
		s.Params = append(s.Params, sqldb.Param{Name: name, Type: kind})
	}
	if isSharded && o.by >= 0 {
		s.Shard = &o.by
	}
	return s
}

func (o tool) compile(t testing.TB, s sqldb.Source) sqldb.Query {
	t.Helper()
	q, err := s.Compile(o.spec(s.Sharded()))
	must(t, err)
	return q
}

func integer(n int64) mcp.Value { return mcp.Value{Kind: mcp.KindInt, Int: n} }
func text(s string) mcp.Value   { return mcp.Value{Kind: mcp.KindText, Text: []byte(s)} }

func run(t testing.TB, q sqldb.Query, args ...mcp.Value) (string, error) {
	t.Helper()
	out, _, err := q.Run(t.Context(), nil, &sqldb.Execution{Args: args})
	return string(out), err
}

var (
	addCustomer = tool{"INSERT INTO customers (id, owner, name, note) VALUES (:id, :owner, :name, :note) ON CONFLICT (id) DO UPDATE SET name = excluded.name, note = excluded.note RETURNING name, twice",
		sqldb.ReadWrite, []string{"id:integer", "owner:integer", "name:string", "note:string"}, 0}
	addOrder = tool{"INSERT INTO orders (customer_id, id, owner, amount, at, tags) VALUES (:customer, :id, :owner, CAST(CAST(:amount AS text) AS numeric), to_timestamp(:at), ARRAY['a,b', :amount]) ON CONFLICT (customer_id, id) DO UPDATE SET amount = excluded.amount, at = excluded.at",
		sqldb.ReadWrite, []string{"customer:integer", "id:integer", "owner:integer", "amount:string", "at:integer"}, 0}
	moveOrder   = tool{"UPDATE orders SET id = :id + 1000 WHERE customer_id = :customer AND id = :id AND NOT EXISTS (SELECT FROM orders o WHERE o.customer_id = :customer AND o.id = :id + 1000)", sqldb.ReadWrite, []string{"customer:integer", "id:integer"}, 0}
	removeOrder = tool{"DELETE FROM orders WHERE customer_id = :customer AND id = :id RETURNING amount", sqldb.ReadWrite, []string{"customer:integer", "id:integer"}, 0}
	ordersOf    = tool{"SELECT c.name, o.id, o.amount, o.at, o.tags FROM customers c LEFT JOIN orders o ON o.customer_id = c.id WHERE c.id = :customer ORDER BY o.id", sqldb.ReadOnly, []string{"customer:integer"}, 0}
	largest     = tool{"SELECT customer_id, id, amount, at FROM orders WHERE owner = :owner ORDER BY amount DESC NULLS LAST, at, customer_id, 2 LIMIT :n", sqldb.ReadOnly, []string{"owner:integer", "n:integer"}, -1}
	byName      = tool{"SELECT name, id, note FROM customers WHERE owner = :owner ORDER BY note, name DESC, id", sqldb.ReadOnly, []string{"owner:integer"}, -1}
	totals      = tool{"SELECT customer_id, sum(amount) AS total, count(*) AS n FROM orders WHERE owner = :owner GROUP BY customer_id ORDER BY total DESC, customer_id LIMIT 7", sqldb.ReadOnly, []string{"owner:integer"}, -1}
)

// Random calls by several callers on two processes answer as a database that is not sharded does, while shards move to and fro.
func TestModel(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3, "plain")
	r.install(t)
	nodes := []sqldb.Source{r.open(t), r.open(t)}
	whole := r.openWhole(t)
	const callers, customers = 6, 12
	ctx, stop := context.WithCancel(t.Context())
	moved := make(chan error, 1)
	var moves, rows, changes atomic.Int64
	var longest time.Duration
	go func() { moved <- r.shuffle(ctx, callers*1000, &moves, &rows, &changes, &longest) }()
	var callersDone sync.WaitGroup
	for owner := range int64(callers) {
		callersDone.Go(func() {
			random := rand.New(rand.NewPCG(uint64(owner), 1))
			type pair struct{ sharded, whole []sqldb.Query }
			var tools []pair
			all := []tool{addCustomer, addOrder, moveOrder, removeOrder, ordersOf, largest, byName, totals}
			for _, o := range all {
				p := pair{whole: []sqldb.Query{o.compile(t, whole)}}
				for _, n := range nodes {
					p.sharded = append(p.sharded, o.compile(t, n))
				}
				tools = append(tools, p)
			}
			call := func(which int, args ...mcp.Value) {
				got, err := run(t, tools[which].sharded[random.IntN(len(nodes))], args...)
				want, wantErr := run(t, tools[which].whole[0], args...)
				if err != nil || wantErr != nil || got != want {
					t.Errorf("%s with %v:\n%s %v\nand of one database\n%s %v", all[which].text, args, got, err, want, wantErr)
				}
			}
			customer := func() mcp.Value { return integer(owner*1000 + random.Int64N(customers)) }
			for i := range int64(customers) {
				call(0, integer(owner*1000+i), integer(owner), text(fmt.Sprintf("name %d", i%5)), mcp.Value{})
			}
			for range *operations/callers - customers {
				if t.Failed() {
					return
				}
				switch n := random.IntN(20); {
				case n < 2:
					note := mcp.Value{}
					if random.IntN(2) == 0 {
						note = text([]string{"Zoë", "a\tb\\", "ä", "Ab", "ab"}[random.IntN(5)])
					}
					call(0, customer(), integer(owner), text([]string{"Ann", "ann", "Ölm", "Zed", "\"q\""}[random.IntN(5)]), note)
				case n < 8:
					call(1, customer(), integer(random.Int64N(30)), integer(owner), text(fmt.Sprintf("%d.%02d", random.IntN(20)-5, random.IntN(100))), integer(1700000000+random.Int64N(5)))
				case n < 10:
					call(2, customer(), integer(random.Int64N(30)))
				case n < 12:
					call(3, customer(), integer(random.Int64N(1030)))
				case n < 16:
					call(4, customer())
				case n < 18:
					call(5, integer(owner), integer(random.Int64N(15)))
				case n < 19:
					call(6, integer(owner))
				default:
					call(7, integer(owner))
				}
			}
		})
	}
	callersDone.Wait()
	stop()
	must(t, <-moved)
	r.inOrder(t)
	t.Logf("%d moves of %d rows, with %d changes meanwhile; writes waited %s at most", moves.Load(), rows.Load(), changes.Load(), longest.Round(time.Millisecond))
	if moves.Load() < 3 || rows.Load() == 0 || changes.Load() == 0 {
		t.Errorf("%d moves of %d rows with %d changes prove nothing", moves.Load(), rows.Load(), changes.Load())
	}
}

// shuffle moves shards that have rows from server to server until ctx ends.
func (r *rig) shuffle(ctx context.Context, keys int, moves, rows, changes *atomic.Int64, longest *time.Duration) error {
	random := rand.New(rand.NewPCG(9, 9))
	for ctx.Err() == nil {
		var which []int
		for key := range keys {
			if shard := sqldb.ShardOf(fmt.Sprint(key)); key%1000 < 12 && random.IntN(3) == 0 && !slices.Contains(which, shard) {
				which = append(which, shard)
			}
		}
		s, err := Open(context.WithoutCancel(ctx), r.cfg)
		if err != nil {
			return err
		}
		done, err := s.Move(context.WithoutCancel(ctx), which, string(rune('a'+random.IntN(len(r.databases)))), nil)
		s.Close()
		if err != nil {
			return err
		}
		for _, m := range done {
			moves.Add(1)
			rows.Add(m.Rows)
			changes.Add(m.Changes)
			*longest = max(*longest, m.Paused)
		}
	}
	return nil
}

// inOrder fails where a row is on a server that has not its shard, or a shard is not on one server, or anything of a move is left.
func (r *rig) inOrder(t testing.TB) {
	t.Helper()
	r.with(t, func(s *Servers) {
		p, err := s.Plan(t.Context(), nil)
		must(t, err)
		if len(p.Interrupted) > 0 || len(p.Nowhere) > 0 {
			t.Errorf("shards %s are of a move, and %s nowhere", ranges(p.Interrupted), ranges(p.Nowhere))
		}
		for _, o := range s.all {
			for _, q := range []string{
				"SELECT count(*) FROM orders WHERE millrace_shard_of(customer_id::text) NOT IN (SELECT shard FROM millrace_shards WHERE state = 'here')",
				"SELECT count(*) FROM customers WHERE millrace_shard_of(id::text) NOT IN (SELECT shard FROM millrace_shards WHERE state = 'here')",
				"SELECT count(*) FROM millrace_shard_changes", "SELECT count(*) FROM pg_class WHERE relname LIKE 'millrace_arriving%'",
			} {
				if a := query(t.Context(), o.conn, q); a.err != nil || a.rows[0][0] != "0" {
					t.Errorf("server %s: %s: %v", o.name, q, a)
				}
			}
		}
	})
}

// A move that ends at any of its steps loses nothing and repeats nothing: what is written before, between and after is there once, and the next
// move brings it to an end.
func TestInterruptedMoves(t *testing.T) {
	t.Parallel()
	for _, user := range []string{"plain", "millrace"} {
		for _, at := range []string{"leaving", "copy customers", "copy orders", "switch", "arrived", "leave", "here"} {
			t.Run(user+" at "+at, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, 2, user)
				r.install(t)
				s := r.open(t)
				put, list := addCustomer.compile(t, s), tool{"SELECT id FROM customers ORDER BY id", sqldb.ReadOnly, nil, -1}.compile(t, s)
				var want []string
				write := func(id int64) {
					t.Helper()
					_, err := run(t, put, integer(id), integer(0), text("n"), mcp.Value{})
					must(t, err)
					want = append(want, fmt.Sprintf(`{"id":%d}`, id))
				}
				for id := range int64(20) {
					write(id)
				}
				var all []int
				for shard := range sqldb.ShardCount / 2 {
					all = append(all, shard)
				}
				planted := errors.New("pulled the plug")
				r.with(t, func(m *Servers) {
					_, err := m.Move(t.Context(), all, "b", func(step string) error {
						if step == "switch" || step == "copy orders" {
							write(int64(100 + len(want)))
						}
						if step != at {
							return nil
						}
						for _, o := range m.all { // nothing can be tidied up any more
							o.conn.Conn().Close()
						}
						return planted
					})
					if !errors.Is(err, planted) {
						t.Fatalf("the move ended with %v", err)
					}
				})
				if at != "here" { // else they are between the servers until the next move
					write(int64(100 + len(want)))
				}
				r.with(t, func(m *Servers) {
					_, err := m.Move(t.Context(), all, "b", nil)
					must(t, err)
				})
				write(int64(100 + len(want)))
				got, err := run(t, list)
				if err != nil || got != `{"rows":[`+strings.Join(want, ",")+`]}` {
					t.Errorf("%s %v, want %s", got, err, want)
				}
				r.inOrder(t)
				r.with(t, func(m *Servers) {
					p, err := m.Plan(t.Context(), nil)
					must(t, err)
					if len(p.Servers[1].Shards) != sqldb.ShardCount {
						t.Errorf("server b has %d shards", len(p.Servers[1].Shards))
					}
				})
			})
		}
	}
}
