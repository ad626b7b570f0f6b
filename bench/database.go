package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// databaseJob measures statements that no cache answers: `make bench ARGS=database`.
func databaseJob(ctx context.Context, args []string) error {
	return jobs(ctx, "database", args, func(g *generator) []job {
		d := &databaseRun{generator: g}
		return []job{{"query", d.queryTime}, {"rows", d.manyRows}, {"batch", d.batches}, {"shards", d.shards}}
	}, func(g *generator) options { return options{rounds: 1, duration: g.span()} })
}

// databaseRun shares one PostgreSQL between the jobs.
type databaseRun struct {
	*generator
	url string // "" while it does not run
}

// startUncached starts a server of tools over PostgreSQL and SQLite that nothing caches: one row by its key, and a million rows, of which
// max_bytes lets a mebibyte through.
func (g *databaseRun) startUncached(ctx context.Context) (*cached, error) {
	addr, admin, err := freeAddrs()
	if err != nil {
		return nil, err
	}
	if g.url == "" {
		if g.url, err = startPostgres(ctx, g.m); err != nil {
			return nil, err
		}
	}
	const read = "description: Measured by bench., annotations: {readOnlyHint: true}"
	text := fmt.Sprintf(`version: 1
listen: {address: %q}
admin: {address: %q}
sources:
  postgres: {postgres: {primary: %q}}
  lite: {sqlite: {path: %q}}
tools:
  - {name: item, source: postgres, %s, statement: "SELECT id, name, value FROM items WHERE id = :id", parameters: [{name: id, type: integer, description: The key, required: true}]}
  - {name: batched_item, source: postgres, %[5]s, statement: "SELECT id, name, value FROM items WHERE id = :id", parameters: [{name: id, type: integer, description: The key, required: true}], batch: {by: id}}
  - {name: postgres_rows, source: postgres, %[5]s, max_rows: 2000000, max_bytes: 1MiB, statement: "SELECT n, repeat('x', 100) AS filler FROM generate_series(1, 1000000) AS n"}
  - {name: lite_rows, source: lite, %[5]s, max_rows: 2000000, max_bytes: 1MiB, statement: "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000000) SELECT n, hex(zeroblob(50)) AS filler FROM s"}
`, addr, admin, g.url, g.sqlite, read)
	file := filepath.Join(g.m.dir, "uncached.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := g.m.start(ctx, "uncached", addr, []string{g.millrace, "serve", "--config", file, "--log-level", "warn"}, startOptions{dir: g.m.dir, ready: isReady(admin)})
	if err != nil {
		return nil, err
	}
	return &cached{p, admin}, nil
}

// queryTime asks for single rows in an open loop.
func (g *databaseRun) queryTime(ctx context.Context) error {
	const rate = 2000
	c, err := g.startUncached(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	d := g.span()
	run, err := g.load(ctx, c.addr, loadOptions{}, "--rate", strconv.Itoa(rate), "--duration", d.String(), "--revision", modernVersion, "--tool", "item",
		"--arguments", fmt.Sprintf(`{"id":{"uniform":[%d,%d]}}`, itemKeys.first, itemKeys.first+itemKeys.count-1))
	if err != nil {
		return err
	}
	res := run.result()
	ran, err := c.metric(`millrace_db_query_duration_seconds_count{role="primary",source="postgres"}`)
	if err != nil {
		return err
	}
	g.bar(fmt.Sprintf("a PostgreSQL select by key, not cached, %d/s for %s", rate, d), "p95 < 50 ms, each a query", res.P95 < 50_000 && res.Wrong == 0 && int(ran) >= res.Requests,
		"p50 %.2f ms, p95 %.2f ms, p99 %.2f ms of whole calls, %d failed, %.0f queries for %d calls; %s", res.P50/1000, res.P95/1000, res.P99/1000, res.Wrong, ran, res.Requests, res.Invalid)
	return nil
}

// batches asks for single rows with batches and without, by turns: 64 callers for the rate, and one for the latency.
func (g *databaseRun) batches(ctx context.Context) error {
	c, err := g.startUncached(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	ask := func(tool string, users int, d time.Duration) (loadResult, error) {
		run, err := g.load(ctx, c.addr, loadOptions{}, "--users", strconv.Itoa(users), "--duration", d.String(), "--revision", modernVersion, "--tool", tool,
			"--arguments", fmt.Sprintf(`{"id":{"uniform":[%d,%d]}}`, itemKeys.first, itemKeys.first+itemKeys.count-1))
		if err != nil {
			return loadResult{}, err
		}
		res := run.result()
		if res.Wrong > 0 {
			return res, fmt.Errorf("%s: errors: %s", tool, res.Errors)
		}
		return res, nil
	}
	byTurns := func(users, rounds int, d time.Duration) (plain, batched []loadResult, err error) {
		for i := range 2 * rounds {
			tool, to := "item", &plain
			if (i+i/2)%2 == 1 {
				tool, to = "batched_item", &batched
			}
			res, err := ask(tool, users, d)
			if err != nil {
				return nil, nil, err
			}
			*to = append(*to, res)
		}
		return plain, batched, nil
	}
	plain, batched, err := byTurns(64, 5, g.span()/4)
	if err != nil {
		return err
	}
	rates, p95 := make([]float64, len(plain)), make([]float64, len(plain))
	for i := range plain {
		rates[i], p95[i] = batched[i].Rate/plain[i].Rate, batched[i].P95/plain[i].P95
	}
	g.bar("a PostgreSQL select by key, 64 callers, whole calls over HTTP, batched ÷ not", "rate ≥ 3, p95 not worse", median(rates) >= 3 && median(p95) <= 1,
		"rate %.2f, p95 %.2f, medians of %d rounds by turns", median(rates), median(p95), len(plain))
	if err := g.batchesBelow(ctx); err != nil {
		return err
	}
	plain, batched, err = byTurns(1, 30, time.Second)
	if err != nil {
		return err
	}
	ratios := make([]float64, len(plain))
	for i := range plain {
		ratios[i] = batched[i].P50 / plain[i].P50
	}
	low, high := medianInterval(ratios)
	g.bar("a select by key with one caller, p50, 30 rounds by turns, batched ÷ not", "95 % interval within 5 %", low >= 0.95 && high <= 1.05, "%.3f, from %.3f to %.3f", median(ratios), low, high)
	return nil
}

// batchesBelow reads rows without HTTP: the figure of a whole call has that in it, which is most of the call.
func (g *databaseRun) batchesBelow(ctx context.Context) error {
	out, err := g.goBench(ctx, "./internal/sqldb", "-run", "^$", "-bench", "^BenchmarkBatch$", "-benchtime", "3s")
	if err != nil {
		return err
	}
	rates, p95 := map[string]float64{}, map[string]float64{}
	for _, name := range []string{"alone", "shared", "batched"} {
		if rates[name], err = printed(out, "BenchmarkBatch/"+name+"-", "rows/s"); err != nil {
			return err
		}
		if p95[name], err = printed(out, "BenchmarkBatch/"+name+"-", "p95-us"); err != nil {
			return err
		}
	}
	rate, slow := rates["batched"]/rates["alone"], p95["batched"]/p95["alone"]
	g.bar("rows read by key below HTTP, 64 callers, batched ÷ each in a statement and a round trip of its own", "rate ≥ 3, p95 not worse", rate >= 3 && slow <= 1,
		"rate %.2f, p95 %.2f; in shared round trips without batches %.2f and %.2f; alone %.0f rows/s", rate, slow, rates["shared"]/rates["alone"], p95["shared"]/p95["alone"], rates["alone"])
	return nil
}

// medianInterval gives a 95 % interval of the median by ranks, of at least six values.
func medianInterval(values []float64) (low, high float64) {
	sorted := slices.Sorted(slices.Values(values))
	// The ranks of the binomial distribution's normal approximation: n/2 ± 0.98 √n.
	half := 0.98 * math.Sqrt(float64(len(sorted)))
	middle := float64(len(sorted)) / 2
	return sorted[max(0, int(math.Floor(middle-half)))], sorted[min(len(sorted)-1, int(math.Ceil(middle+half)))]
}

// manyRows asks for a million rows, and looks how much more memory that takes at most than what the server had after small calls.
func (g *databaseRun) manyRows(ctx context.Context) error {
	const most = 20 << 20
	c, err := g.startUncached(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	for range 100 {
		if _, err := c.call(ctx, "item", map[string]int{"id": itemKeys.first}); err != nil {
			return err
		}
	}
	for _, tool := range []string{"postgres_rows", "lite_rows"} {
		// 5 sets the peak back to what is resident now: https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.cmd.Process.Pid), []byte("5"), 0o200); err != nil {
			return fmt.Errorf("set back the peak of memory: %w", err)
		}
		before, _, err := c.memory()
		if err != nil {
			return err
		}
		const times = 20
		var peaks []int64
		for range times {
			if err := c.cutCall(ctx, tool); err != nil {
				return fmt.Errorf("%s: %w", tool, err)
			}
			_, peak, err := c.memory()
			if err != nil {
				return err
			}
			peaks = append(peaks, peak-before)
		}
		g.bar(tool+": 1,000,000 rows cut by max_bytes", "resident memory grows < 20 MB", peaks[0] < most,
			"from %d MB by %.1f MB at most; by %.1f MB with %d of them one after the other", before>>20, float64(peaks[0])/(1<<20), float64(peaks[times-1])/(1<<20), times)
	}
	return nil
}

// cutCall makes a call whose result must be cut.
func (c *cached) cutCall(ctx context.Context, tool string) error {
	data, err := c.post(ctx, tool, "{}")
	if err != nil {
		return err
	}
	if text := string(data); !strings.Contains(text, `"truncated":true`) || len(data) < 1<<20 || strings.Contains(text, `"isError":true`) {
		return fmt.Errorf("answered %d bytes: %s", len(data), clip(data))
	}
	return nil
}
