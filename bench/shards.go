package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// The rows of the sharded table: customers, each with so many orders.
const (
	shardCustomers = 20_000
	shardOrders    = 15
)

// shardedTables makes the tables of one server that are spread.
var shardedTables = []string{
	"CREATE TABLE orders (customer_id bigint NOT NULL, id bigint, amount numeric(12,2) NOT NULL, created timestamptz NOT NULL, PRIMARY KEY (customer_id, id))",
	"CREATE INDEX ON orders (created DESC)",
}

// startSharded starts three servers of PostgreSQL and one, all the same, and a server of tools over the three with a third of the shards each,
// and over the one with all. The rows come in by way of moves: one server has all of them at first.
func (g *databaseRun) startSharded(ctx context.Context) (c *cached, urls map[string]string, err error) {
	addr, admin, err := freeAddrs()
	if err != nil {
		return nil, nil, err
	}
	fill := fmt.Sprintf("INSERT INTO orders SELECT c, o, (c * 7919 + o * 104729) %% 100000 / 100.0, '2026-01-01'::timestamptz + ((c * 7919 + o * 104729) %% 31536000) * interval '1 s' FROM generate_series(1, %d) c, generate_series(1, %d) o",
		shardCustomers, shardOrders)
	urls = map[string]string{}
	for _, name := range []string{"whole", "a", "b", "c"} {
		statements := shardedTables
		if name == "whole" || name == "a" {
			statements = append(append([]string{}, shardedTables...), fill)
		}
		if urls[name], err = startDatabase(ctx, g.m, "shards-"+name, statements); err != nil {
			return nil, nil, err
		}
	}
	const read = "annotations: {readOnlyHint: true}, description: Measured by bench."
	var tools strings.Builder
	for _, source := range []string{"one", "three"} {
		fmt.Fprintf(&tools, `  - {name: %[1]s_keyed, source: %[1]s, %[2]s, shard: {by: customer}, statement: "SELECT id, amount, created FROM orders WHERE customer_id = :customer ORDER BY id", parameters: [{name: customer, type: integer, required: true}]}
  - {name: %[1]s_latest, source: %[1]s, %[2]s, statement: "%[3]s"}
  - {name: %[1]s_totals, source: %[1]s, %[2]s, statement: "SELECT customer_id, sum(amount) AS total FROM orders GROUP BY customer_id ORDER BY total DESC, customer_id LIMIT 20"}
`, source, read, latestOrders)
	}
	const tables = "key: integer, tables: [{table: orders, key: customer_id}]"
	text := fmt.Sprintf(`version: 1
listen: {address: %q}
admin: {address: %q}
sources:
  one: {shards: {%s, servers: {whole: {primary: %q}}}}
  three: {shards: {%[3]s, servers: {a: {primary: %[5]q}, b: {primary: %[6]q}, c: {primary: %[7]q}}}}
tools:
%[8]s`, addr, admin, tables, urls["whole"], urls["a"], urls["b"], urls["c"], tools.String())
	file := filepath.Join(g.m.dir, "sharded.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	for _, args := range [][]string{{"install", "one"}, {"install", "three"}, {"shards", "move", "three", "342-682", "b"}, {"shards", "move", "three", "683-1023", "c"}} {
		out, err := command(ctx, g.millrace, append(args, "--config", file)...).CombinedOutput()
		if err != nil {
			return nil, nil, fmt.Errorf("millrace %s: %w: %s", strings.Join(args, " "), err, clip(out))
		}
		g.progress("%s", strings.TrimSpace(string(out)))
	}
	for _, url := range urls {
		if err := execute(ctx, url, "VACUUM ANALYZE"); err != nil {
			return nil, nil, err
		}
	}
	p, err := g.m.start(ctx, "sharded", addr, []string{g.millrace, "serve", "--config", file, "--log-level", "warn"}, startOptions{dir: g.m.dir, ready: isReady(admin)})
	if err != nil {
		return nil, nil, err
	}
	return &cached{p, admin}, urls, nil
}

// latestOrders reads a few rows of all.
const latestOrders = "SELECT customer_id, id, created FROM orders ORDER BY created DESC, customer_id, id LIMIT 20"

// scatterFloor gives how much longer, in milliseconds, pgx waits for the same rows of three servers at once than of one: what a machine
// with as many processors as this one needs for that whoever asks.
func scatterFloor(ctx context.Context, urls map[string]string) (float64, error) {
	conns := map[string]*pgx.Conn{}
	for name, url := range urls {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return 0, err
		}
		defer conn.Close(ctx)
		conns[name] = conn
	}
	ask := func(name string) error {
		b := &pgx.Batch{}
		b.Queue("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
		b.Queue("SELECT epoch FROM millrace_shard_epoch")
		b.Queue(latestOrders)
		b.Queue("ROLLBACK")
		return conns[name].SendBatch(ctx, b).Close()
	}
	var one, three []float64
	for range 2000 {
		for _, names := range [][]string{{"whole"}, {"a", "b", "c"}} {
			began := time.Now()
			failed := make(chan error, len(names))
			for _, name := range names[1:] {
				go func() { failed <- ask(name) }()
			}
			failed <- ask(names[0])
			for range names {
				if err := <-failed; err != nil {
					return 0, err
				}
			}
			took := float64(time.Since(began).Microseconds()) / 1000
			if len(names) == 1 {
				one = append(one, took)
			} else {
				three = append(three, took)
			}
		}
	}
	return median(three) - median(one), nil
}

// shards asks one caller's calls of three servers and of one, by turns, and has a test hold random calls against a database that is not sharded.
//
// Nothing is pinned here: servers that shards are spread over have processors of their own, and three of them on one of two tell nothing of that.
func (g *databaseRun) shards(ctx context.Context) error {
	defer func(was string) { g.m.taskset = was }(g.m.taskset)
	g.m.taskset = ""
	c, urls, err := g.startSharded(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	more, err := scatterFloor(ctx, urls)
	if err != nil {
		return err
	}
	for _, work := range []struct {
		tool, limit    string
		most           float64
		arguments, say string // of many calls, and of one
	}{
		{"keyed", "p50 ≤ 1.1 times", 1.1, fmt.Sprintf(`{"customer":{"uniform":[1,%d]}}`, shardCustomers), `{"customer":77}`},
		{"latest", "p50 ≤ 1.5 times", 1.5, "{}", "{}"},
		{"totals", "p50 ≤ 1.5 times", 1.5, "{}", "{}"},
	} {
		one, err := c.post(ctx, "one_"+work.tool, work.say)
		if err != nil {
			return err
		}
		three, err := c.post(ctx, "three_"+work.tool, work.say)
		if err != nil {
			return err
		}
		if string(one) != string(three) {
			return fmt.Errorf("%s: one server answers %s, and three %s", work.tool, clip(one), clip(three))
		}
		rounds := 20
		if g.quick {
			rounds = 6
		}
		var p50, p95, times, threes []float64
		for i := range rounds {
			var ran [2]loadResult
			for turn := range 2 {
				at := (i + turn) % 2
				run, err := g.load(ctx, c.addr, loadOptions{}, "--users", "1", "--duration", (2 * time.Second).String(), "--revision", modernVersion,
					"--tool", []string{"one_", "three_"}[at]+work.tool, "--arguments", work.arguments)
				if err != nil {
					return err
				}
				if ran[at] = run.result(); ran[at].Wrong > 0 {
					return fmt.Errorf("%s: errors: %s", work.tool, ran[at].Errors)
				}
			}
			p50, p95 = append(p50, ran[1].P50/ran[0].P50), append(p95, ran[1].P95/ran[0].P95)
			times, threes = append(times, ran[0].P50/1000), append(threes, ran[1].P50/1000)
		}
		low, high := medianInterval(p50)
		floor := ""
		if work.tool == "latest" {
			floor = fmt.Sprintf("; pgx alone, without HTTP and Millrace, takes %.2f ms more of three servers than of one, and this %.2f ms", more, median(threes)-median(times))
		}
		g.bar("one caller, "+work.tool+", three servers with a third of "+strconv.Itoa(shardCustomers*shardOrders)+" rows ÷ one with all, unpinned", work.limit, median(p50) <= work.most,
			"p50 %.2f (%.2f to %.2f), p95 %.2f, medians of %d rounds by turns; p50 of one %.2f ms%s", median(p50), low, high, median(p95), rounds, median(times), floor)
	}
	operations := 100_000
	if g.quick {
		operations = 10_000
	}
	out, err := g.goBench(ctx, "./internal/shards", "-run", "^TestModel$", "-v", "-shards.operations", strconv.Itoa(operations))
	said := ""
	for line := range strings.Lines(out) {
		if _, text, ok := strings.Cut(line, "shards_test.go:"); ok {
			_, said, _ = strings.Cut(strings.TrimSpace(text), ": ")
		}
	}
	if err != nil {
		said = err.Error()
	}
	g.bar(fmt.Sprintf("%d random operations while shards move, held against a database that is not sharded", operations), "all results equal", err == nil, "%s", said)
	return nil
}
