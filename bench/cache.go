package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cacheJob measures the cache's levels beyond the process: `make bench ARGS=cache`.
func cacheJob(ctx context.Context, args []string) error {
	quick := len(args) > 0 && args[0] == "--quick"
	if len(args) > 1 || len(args) == 1 && !quick {
		return fmt.Errorf("cache knows --quick, not %s", strings.Join(args, " "))
	}
	r, stop, err := newRun(ctx, "0:1", "")
	if err != nil {
		return err
	}
	defer stop()
	g := &generator{run: r, quick: quick}
	if err := g.l3Hits(ctx); err != nil {
		return fmt.Errorf("l3: %w", err)
	}
	if err := g.restart(ctx); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	printHeader(os.Stdout, r.m, options{rounds: 1, duration: g.span()})
	printBars(os.Stdout, g.bars)
	return nil
}

func (g *generator) span() time.Duration {
	if g.quick {
		return 5 * time.Second
	}
	return 20 * time.Second
}

// cached is a server whose results outlive it, where kept is a file.
type cached struct {
	*process
	admin string
}

// startCached starts a server of one tool over items, with L1 as large as is said.
func (g *generator) startCached(ctx context.Context, kept string, l1, initial int) (*cached, error) {
	addr, admin, err := freeAddrs()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nlisten: {address: %q}\nadmin: {address: %q}\nsources:\n  lite: {sqlite: {path: %q}}\n", addr, admin, g.sqlite)
	fmt.Fprintf(&b, "cache:\n  l1: {size: %d, ttl: 1h}\n  warmup: {initial_load: %d, interval: 0s}\n", l1, initial)
	if kept != "" {
		fmt.Fprintf(&b, "  l3: {source: kept, ttl: 1h}\n")
	}
	text := b.String()
	if kept != "" {
		text = strings.Replace(text, "sources:\n", fmt.Sprintf("sources:\n  kept: {sqlite: {path: %q}}\n", kept), 1)
	}
	text += `tools:
  - name: lite_item
    source: lite
    description: Measured by bench.
    statement: SELECT id, name, value FROM items WHERE id = :id
    parameters: [{name: id, type: integer, description: The key, required: true}]
    annotations: {readOnlyHint: true, idempotentHint: true}
    cache: {ttl: 1h, scope: public}
`
	file := filepath.Join(g.m.dir, "cached.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := g.m.start(ctx, "cached", addr, []string{g.millrace, "serve", "--config", file, "--log-level", "warn"},
		startOptions{dir: g.m.dir, ready: isReady(admin)})
	if err != nil {
		return nil, err
	}
	return &cached{p, admin}, nil
}

// requests reads how often a level gave a result.
func (c *cached) requests(level, result string) (float64, error) {
	resp, err := http.Get("http://" + c.admin + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	want := fmt.Sprintf(`millrace_cache_requests_total{level=%q,result=%q} `, level, result)
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), want); ok {
			return strconv.ParseFloat(v, 64)
		}
	}
	return 0, nil
}

func keptFile(dir, name string) (string, error) {
	file := filepath.Join(dir, name)
	return file, os.WriteFile(file, nil, 0o600)
}

// ask puts a server under a load of one tool and gives what came of it.
func (g *generator) ask(ctx context.Context, c *cached, d time.Duration, rate int, id string) (loadResult, error) {
	run, err := g.load(ctx, c.addr, loadOptions{}, "--rate", strconv.Itoa(rate), "--duration", d.String(), "--revision", modernVersion, "--tool", "lite_item",
		"--arguments", `{"id":`+id+`}`)
	if err != nil {
		return loadResult{}, err
	}
	res := run.result()
	if res.Wrong > 0 {
		return res, fmt.Errorf("errors: %s", res.Errors)
	}
	return res, nil
}

// l3Hits fills the database's level, and asks a server that has nothing in its own process for what is there, each once.
func (g *generator) l3Hits(ctx context.Context) error {
	const rate = 2000
	kept, err := keptFile(g.m.dir, "hits.db")
	if err != nil {
		return err
	}
	d := g.span()
	ids := fmt.Sprintf(`{"sequence":[100000,%d]}`, 100_000+int(d.Seconds())*rate-1)
	c, err := g.startCached(ctx, kept, 1000, 0)
	if err != nil {
		return err
	}
	if _, err := g.ask(ctx, c, d, rate, ids); err != nil {
		return err
	}
	c.stop()
	if c, err = g.startCached(ctx, kept, 1000, 0); err != nil {
		return err
	}
	defer c.stop()
	res, err := g.ask(ctx, c, d, rate, ids)
	if err != nil {
		return err
	}
	hits, err := c.requests("l3", "hit")
	if err != nil {
		return err
	}
	share := hits / float64(res.Requests)
	g.bar(fmt.Sprintf("an L3 hit on SQLite, %d/s for %s", rate, d), "p95 < 10 ms, 99 % from L3", res.P95 < 10_000 && share > 0.99,
		"p95 %.2f ms, p99 %.2f ms, %.1f %% from L3; %s", res.P95/1000, res.P99/1000, 100*share, res.Invalid)
	return nil
}

// restart ends a server whose cache is warm, and looks how many of the first five seconds' calls the next one answers without
// its database.
func (g *generator) restart(ctx context.Context) error {
	const rate, first = 2000, 5 * time.Second
	kept, err := keptFile(g.m.dir, "restart.db")
	if err != nil {
		return err
	}
	rates := map[string]float64{}
	for _, file := range []string{kept, ""} {
		const ids = `{"zipf":[100000,109999],"exponent":1}`
		c, err := g.startCached(ctx, file, 10_000, 1000)
		if err != nil {
			return err
		}
		if _, err := g.ask(ctx, c, 2*g.span(), rate, ids); err != nil {
			return err
		}
		c.stop()
		if c, err = g.startCached(ctx, file, 10_000, 1000); err != nil {
			return err
		}
		res, err := g.ask(ctx, c, first, rate, ids)
		if err != nil {
			return err
		}
		last := "l1"
		if file != "" {
			last = "l3"
		}
		missed, err := c.requests(last, "miss")
		c.stop()
		if err != nil {
			return err
		}
		rates[file] = 1 - missed/float64(res.Requests)
	}
	g.bar(fmt.Sprintf("hits in the first %s after a restart, Zipf(1.0) over 10,000 keys at %d/s", first, rate), "> 90 %", rates[kept] > 0.9,
		"%.1f %% (%.1f %% without L3)", 100*rates[kept], 100*rates[""])
	return nil
}
