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

// cacheJob measures the cache's levels: `make bench ARGS=cache`, or of its jobs those that match: `make bench ARGS='cache l2|nodes'`.
func cacheJob(ctx context.Context, args []string) error {
	return jobs(ctx, "cache", args, func(g *generator) []job {
		return []job{{"levels", g.levels}, {"l2", g.l2Hits}, {"pipelining", g.pipelining}, {"l3", g.l3Hits}, {"restart", g.restart}, {"killed", g.killed}, {"nodes", g.nodes}, {"zipf", g.zipf}}
	}, func(g *generator) options { return options{rounds: g.rounds(), duration: g.span()} })
}

func (g *generator) span() time.Duration {
	if g.quick {
		return 5 * time.Second
	}
	return 20 * time.Second
}

// cached is a server of cached tools, which share what there is of levels beyond its process.
type cached struct {
	*process
	admin string
}

// levelsOf says how a server caches. Empty parts are levels that are not there.
type levelsOf struct {
	name    string // tells it from others
	l1      int
	initial int    // entries that are loaded at the start
	redis   string // address
	kept    string // SQLite file of L3
	source  string // that the tools read and write, as YAML; the bench's SQLite where it is empty
	ttl     time.Duration
}

// startCached starts a server of tools over items: lite_item, what no write can change, and item, which set_item writes.
func (g *generator) startCached(ctx context.Context, o levelsOf) (*cached, error) {
	addr, admin, err := freeAddrs()
	if err != nil {
		return nil, err
	}
	if o.source == "" {
		o.source = fmt.Sprintf("{sqlite: {path: %q}}", g.sqlite)
	}
	if o.ttl == 0 {
		o.ttl = time.Hour
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nlisten: {address: %q}\nadmin: {address: %q}\nsources:\n  lite: %s\n", addr, admin, o.source)
	if o.kept != "" {
		fmt.Fprintf(&b, "  kept: {sqlite: {path: %q}}\n", o.kept)
	}
	if o.redis != "" {
		fmt.Fprintf(&b, "redis: {nodes: [%q]}\n", o.redis)
	}
	fmt.Fprintf(&b, "cache:\n  l1: {size: %d, ttl: 1h}\n  l2: {ttl: 1h}\n  warmup: {initial_load: %d, interval: 0s}\n", o.l1, o.initial)
	if o.kept != "" {
		fmt.Fprintf(&b, "  l3: {source: kept, ttl: 1h}\n")
	}
	fmt.Fprintf(&b, `tools:
  - name: lite_item
    source: lite
    description: Measured by bench.
    statement: SELECT id, name, value FROM items WHERE id = :id
    parameters: [{name: id, type: integer, description: The key, required: true}]
    annotations: {readOnlyHint: true, idempotentHint: true}
    cache: {ttl: %[1]s, scope: public}
  - name: item
    source: lite
    description: Measured by bench.
    statement: SELECT id, name, value FROM items WHERE id = :id
    parameters: [{name: id, type: integer, description: The key, required: true}]
    annotations: {readOnlyHint: true, idempotentHint: true}
    cache: {ttl: %[1]s, scope: public, tags: ["item:{id}"]}
  - name: set_item
    source: lite
    description: Measured by bench.
    statement: UPDATE items SET value = :value WHERE id = :id
    parameters: [{name: id, type: integer, description: The key, required: true}, {name: value, type: integer, description: The new one, required: true}]
    invalidates: ["item:{id}"]
`, o.ttl)
	file := filepath.Join(g.m.dir, "cached-"+o.name+".yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return nil, err
	}
	p, err := g.m.start(ctx, "cached-"+o.name, addr, []string{g.millrace, "serve", "--config", file, "--log-level", "warn"},
		startOptions{dir: g.m.dir, ready: isReady(admin)})
	if err != nil {
		return nil, err
	}
	return &cached{p, admin}, nil
}

// requests reads how often a level gave a result.
func (c *cached) requests(level, result string) (float64, error) {
	return c.metric(fmt.Sprintf(`millrace_cache_requests_total{level=%q,result=%q}`, level, result))
}

// metric reads one figure, 0 where there is none.
func (c *cached) metric(name string) (float64, error) {
	resp, err := http.Get("http://" + c.admin + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	want := name + " "
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
	c, err := g.startCached(ctx, levelsOf{name: "l3", l1: 1000, kept: kept})
	if err != nil {
		return err
	}
	if _, err := g.ask(ctx, c, d, rate, ids); err != nil {
		return err
	}
	c.stop()
	if c, err = g.startCached(ctx, levelsOf{name: "l3", l1: 1000, kept: kept}); err != nil {
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
		c, err := g.startCached(ctx, levelsOf{name: "restart", l1: 10_000, initial: 1000, kept: file})
		if err != nil {
			return err
		}
		if _, err := g.ask(ctx, c, 2*g.span(), rate, ids); err != nil {
			return err
		}
		c.stop()
		if c, err = g.startCached(ctx, levelsOf{name: "restart", l1: 10_000, initial: 1000, kept: file}); err != nil {
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
