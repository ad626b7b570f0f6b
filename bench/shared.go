package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startRedis starts a private Redis on the load tool's cores, at addr where that is given.
func startRedis(ctx context.Context, m *machine, addr string) (*process, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		if program, err = exec.LookPath("valkey-server"); err != nil {
			return nil, fmt.Errorf("there is no Redis: install Debian's package redis-server")
		}
	}
	if addr == "" {
		if addr, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	_, port, _ := strings.Cut(addr, ":")
	return m.start(ctx, "redis", addr, []string{program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", m.dir},
		startOptions{dir: m.dir, onLoadCPUs: true, quit: syscall.SIGKILL, ready: listening(addr)})
}

// levels measures the L1 hits of the main table with the levels beyond the process configured.
func (g *generator) levels(ctx context.Context) (err error) {
	r := *g.run
	r.servers, r.sessions, r.sizes = map[string]*process{}, map[string]string{}, map[string]int{}
	if r.kept, err = keptFile(g.m.dir, "levels.db"); err != nil {
		return err
	}
	redis, err := startRedis(ctx, g.m, "")
	if err != nil {
		return err
	}
	defer redis.stop()
	r.redis = redis.addr
	r.rounds, r.duration = 5, 2*time.Second
	if g.quick {
		r.rounds, r.duration = 1, time.Second
	}
	only := regexp.MustCompile("^(" + regexp.QuoteMeta(hitLegacy) + "|" + regexp.QuoteMeta(hitModern) + ")$")
	measured, err := r.closedLoop(ctx, plan(only, true))
	for _, p := range r.servers {
		p.stop()
	}
	if err != nil {
		return err
	}
	_, bars := report(measured)
	for i := range bars {
		bars[i].work += ", L2 and L3 configured"
	}
	g.bars = append(g.bars, bars...)
	return nil
}

// l2Hits fills Redis from one server, and asks another, which keeps next to nothing in its process, for what is there.
func (g *generator) l2Hits(ctx context.Context) error {
	const rate, keys, fill = 5000, 20_000, 2000 // slower, so that every key gets there
	redis, err := startRedis(ctx, g.m, "")
	if err != nil {
		return err
	}
	defer redis.stop()
	ids := fmt.Sprintf(`{"sequence":[100000,%d]}`, 100_000+keys-1)
	c, err := g.startCached(ctx, levelsOf{name: "fills", l1: 1000, redis: redis.addr})
	if err != nil {
		return err
	}
	if _, err := g.ask(ctx, c, keys/fill*time.Second*11/10, fill, ids); err != nil {
		return err
	}
	c.stop()
	if c, err = g.startCached(ctx, levelsOf{name: "asks", l1: 10, redis: redis.addr}); err != nil {
		return err
	}
	defer c.stop()
	res, err := g.ask(ctx, c, g.span(), rate, ids)
	if err != nil {
		return err
	}
	hits, err := c.requests("l2", "hit")
	if err != nil {
		return err
	}
	share := hits / float64(res.Requests)
	g.bar(fmt.Sprintf("an L2 hit, %d/s for %s", rate, g.span()), "p95 < 2 ms, 99 % from L2", res.P95 < 2000 && share > 0.99,
		"p95 %.2f ms, p99 %.2f ms, %.1f %% from L2; %s", res.P95/1000, res.P99/1000, 100*share, res.Invalid)
	return nil
}

// goBench runs a benchmark or a test of a package that prints figures, and gives what it printed.
func (g *generator) goBench(ctx context.Context, pkg string, args ...string) (string, error) {
	cmd := command(ctx, "go", append([]string{"test", pkg, "-count=1", "-timeout", "0"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go test %s: %w: %s", strings.Join(args, " "), err, clip(out))
	}
	return string(out), nil
}

// printed gives the number in front of a unit on a line of output that has name in it.
func printed(out, name, unit string) (float64, error) {
	for line := range strings.Lines(out) {
		if !strings.Contains(line, name) {
			continue
		}
		fields := strings.Fields(line)
		for i := 1; i < len(fields); i++ {
			if fields[i] == unit {
				return strconv.ParseFloat(fields[i-1], 64)
			}
		}
	}
	return 0, fmt.Errorf("no %s of %s in: %s", unit, name, clip([]byte(out)))
}

// pipelining compares looks into Redis of 64 callers at the same time with one at a time.
func (g *generator) pipelining(ctx context.Context) error {
	out, err := g.goBench(ctx, "./internal/cache", "-run", "^$", "-bench", "^BenchmarkL2Look$", "-benchtime", "2s")
	if err != nil {
		return err
	}
	alone, err := printed(out, "/alone", "looks/s")
	if err != nil {
		return err
	}
	together, err := printed(out, "/together", "looks/s")
	if err != nil {
		return err
	}
	g.bar("looks into L2 of 64 callers, beside one round trip at a time", "≥ 3 times", together >= 3*alone, "%.1f times: %.0f/s, one at a time %.0f/s", together/alone, together, alone)
	return nil
}

// zipf is the cache's own hit rate on a trace, without a network.
func (g *generator) zipf(ctx context.Context) error {
	n := 20_000_000
	if g.quick {
		n = 1_000_000
	}
	for _, writes := range []int{0, 1} {
		out, err := g.goBench(ctx, "./internal/cache", "-run", "^TestZipf$", "-v", "-cache.zipf", strconv.Itoa(n), "-cache.zipfwrites", strconv.Itoa(writes))
		if err != nil {
			return err
		}
		var rates [6]float64
		for i, name := range []string{"combined", "L1 alone", "otter alone", "of L1", "of L2", "of L3"} {
			if rates[i], err = printed(out, name+":", "%"); err != nil {
				return err
			}
		}
		name := fmt.Sprintf("%d requests, Zipf(1.0) over 1,000,000 keys, L1 1 %%, L2 10 %%, L3 all: hits in the second half", n)
		measured := fmt.Sprintf("%.2f %% (L1 %.1f, L2 %.1f, L3 %.1f)", rates[0], rates[3], rates[4], rates[5])
		if writes > 0 {
			g.bar(name+fmt.Sprintf(", %d %% writes", writes), "reported", true, "%s", measured)
			continue
		}
		g.bar(name, "> 95 %", rates[0] > 95, "%s", measured)
		g.bar("L1 alone beside otter alone on the same trace", "within 2 points", rates[1] > rates[2]-2, "%.2f %%, otter %.2f %%", rates[1], rates[2])
	}
	return nil
}

// killed ends Redis under load and starts it again.
func (g *generator) killed(ctx context.Context) error {
	for _, tool := range []string{"lite_item", "item"} {
		if err := g.killedUnder(ctx, tool); err != nil {
			return fmt.Errorf("%s: %w", tool, err)
		}
	}
	return nil
}

func (g *generator) killedUnder(ctx context.Context, tool string) error {
	const rate = 5000
	redis, err := startRedis(ctx, g.m, "")
	if err != nil {
		return err
	}
	defer func() { redis.stop() }()
	kept, err := keptFile(g.m.dir, "killed-"+tool+".db")
	if err != nil {
		return err
	}
	c, err := g.startCached(ctx, levelsOf{name: "killed", l1: 1000, redis: redis.addr, kept: kept})
	if err != nil {
		return err
	}
	defer c.stop()
	third := g.span() / 2
	warm := 2 * third
	// Each with a seed of its own: the same requests again would find everything.
	load := func(seed int, d time.Duration) (*loadRun, error) {
		scenario, err := json.Marshal(map[string]any{"version": 1, "seed": seed, "revisions": map[string]int{modernVersion: 1},
			"operations": []any{map[string]any{"tool": tool, "arguments": map[string]any{"id": map[string]any{"zipf": []int{100_000, 199_999}, "exponent": 1}}}},
			"phases":     []any{map[string]any{"name": "load", "rate": rate, "duration": d.String()}}})
		if err != nil {
			return nil, err
		}
		file := filepath.Join(g.m.dir, "killed.yaml")
		if err := os.WriteFile(file, scenario, 0o600); err != nil {
			return nil, err
		}
		return g.load(ctx, c.addr, loadOptions{}, "--scenario", file)
	}
	if _, err := load(1, warm); err != nil {
		return err
	}
	ended := make(chan error, 1)
	var run *loadRun
	go func() {
		var err error
		run, err = load(2, 3*third)
		ended <- err
	}()
	var loads []float64 // queries of each second
	last, err := c.queries()
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	seconds := int(third.Seconds())
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			n, err := c.queries()
			if err != nil {
				return err
			}
			loads, last = append(loads, n-last), n
			switch i + 1 {
			case seconds:
				redis.stop()
			case 2 * seconds:
				if redis, err = startRedis(ctx, g.m, redis.addr); err != nil {
					return err
				}
			}
			continue
		case err := <-ended:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		break
	}
	res := run.result()
	if len(loads) < 3*seconds-1 {
		return fmt.Errorf("only %d seconds were looked at", len(loads))
	}
	before, after := loads[1:seconds], loads[seconds:min(len(loads), 3*seconds)]
	normal := 0.0
	for _, n := range before {
		normal += n / float64(len(before))
	}
	worst := slices.Max(after)
	what := "that no write can change"
	if tool == "item" {
		what = "that writes can change"
	}
	g.progress("queries of each second: %v", loads)
	g.bar(fmt.Sprintf("Redis killed and back under %d/s of what is cached and %s", rate, what), "no failed request, p99 < 100 ms, database load ≤ 2 x normal",
		res.Wrong == 0 && res.P99 < 100_000 && worst <= 2*normal, "%d failed, p99 %.2f ms, %.0f queries/s before, %.0f/s in the worst second after; %s", res.Wrong, res.P99/1000, normal, worst, res.Invalid)
	return nil
}

// queries reads how many statements ran on the tools' source.
func (c *cached) queries() (float64, error) {
	return c.metric(`millrace_db_query_duration_seconds_count{role="reader",source="lite"}`)
}

// nodes lets three servers write on one database, and looks from the others how old what they serve is.
func (g *generator) nodes(ctx context.Context) error {
	const rows, writesPerSecond, readers = 50, 100, 2 // readers of each server
	redis, err := startRedis(ctx, g.m, "")
	if err != nil {
		return err
	}
	defer redis.stop()
	url, err := startPostgres(ctx, g.m)
	if err != nil {
		return err
	}
	var servers []*cached
	for i := range 3 {
		c, err := g.startCached(ctx, levelsOf{name: "node" + strconv.Itoa(i), l1: 1000, redis: redis.addr, source: fmt.Sprintf("{postgres: {primary: %q}}", url)})
		if err != nil {
			return err
		}
		defer c.stop()
		servers = append(servers, c)
	}
	type written struct {
		at    time.Time // when it had been answered
		value int
	}
	var mu sync.Mutex // guards what follows
	latest := make([][]written, rows)
	var ages []float64 // milliseconds
	own, reads := 0, 0
	fail := make(chan error, 100)
	ctx, cancel := context.WithTimeout(ctx, g.span())
	defer cancel()
	var wg sync.WaitGroup
	for i, c := range servers {
		for range readers {
			wg.Go(func() {
				for ctx.Err() == nil {
					row := rand.IntN(rows)
					began := time.Now()
					v, err := c.call(ctx, "item", map[string]int{"id": itemKeys.first + row})
					if err != nil {
						if ctx.Err() == nil {
							fail <- fmt.Errorf("server %d: %w", i, err)
						}
						return
					}
					mu.Lock()
					reads++
					age := 0.0 // since the first write was answered that it does not show
					for _, w := range slices.Backward(latest[row]) {
						if w.value <= v {
							break
						}
						if w.at.Before(began) {
							age = float64(began.Sub(w.at).Microseconds()) / 1000
						}
					}
					ages = append(ages, age)
					mu.Unlock()
				}
			})
		}
	}
	wg.Go(func() {
		tick := time.NewTicker(time.Second / writesPerSecond)
		defer tick.Stop()
		var writing sync.WaitGroup
		defer writing.Wait()
		busy := make([]sync.Mutex, rows) // one write of a row at a time: which is the newest is known then
		for n := 1_000_000; ; n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			writing.Go(func() {
				row, at := rand.IntN(rows), rand.IntN(len(servers))
				busy[row].Lock()
				defer busy[row].Unlock()
				mu.Lock()
				value := n
				if l := latest[row]; len(l) > 0 {
					value = max(n, l[len(l)-1].value+1)
				}
				mu.Unlock()
				if _, err := servers[at].call(ctx, "set_item", map[string]int{"id": itemKeys.first + row, "value": value}); err != nil {
					if ctx.Err() == nil {
						fail <- fmt.Errorf("write on server %d: %w", at, err)
					}
					return
				}
				mu.Lock()
				latest[row] = append(latest[row], written{time.Now(), value})
				mu.Unlock()
				// The writer reads it back, on its own server and on another.
				for _, c := range []*cached{servers[at], servers[(at+1)%len(servers)]} {
					v, err := c.call(ctx, "item", map[string]int{"id": itemKeys.first + row})
					if err != nil {
						return
					}
					if v < value {
						mu.Lock()
						own++
						mu.Unlock()
					}
				}
			})
		}
	})
	wg.Wait()
	select {
	case err := <-fail:
		return err
	default:
	}
	writes := 0
	for _, l := range latest {
		writes += len(l)
	}
	if reads == 0 || writes == 0 {
		return fmt.Errorf("%d reads and %d writes", reads, writes)
	}
	slices.Sort(ages)
	p99, worst := ages[len(ages)*99/100], ages[len(ages)-1]
	hits := 0.0
	for _, c := range servers {
		n, err := c.requests("l1", "hit")
		if err != nil {
			return err
		}
		hits += n
	}
	g.bar(fmt.Sprintf("three servers, %d writes at %d/s, %d reads (%.0f %% from L1)", writes, writesPerSecond, reads, 100*hits/float64(reads+2*writes)), "staleness p99 < 50 ms, own writes never stale",
		p99 < 50 && own == 0, "p99 %.1f ms, at most %.1f ms; %d own writes stale", p99, worst, own)
	return nil
}

// post calls a tool and gives the body of its answer.
func (c *cached) post(ctx context.Context, tool, arguments string) ([]byte, error) {
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `","arguments":` + arguments +
		`,"_meta":{"io.modelcontextprotocol/protocolVersion":"` + modernVersion + `","io.modelcontextprotocol/clientCapabilities":{}}}}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.addr+"/mcp", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": modernVersion, "Mcp-Method": "tools/call", "Mcp-Name": tool} {
		req.Header.Set(name, value)
	}
	resp, err := nodesClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// call calls a tool and gives the value of the row that came, 0 for none.
func (c *cached) call(ctx context.Context, tool string, arguments map[string]int) (int, error) {
	args, err := json.Marshal(arguments)
	if err != nil {
		return 0, err
	}
	data, err := c.post(ctx, tool, string(args))
	if err != nil {
		return 0, err
	}
	var got struct {
		Error  json.RawMessage
		Result struct {
			IsError           bool
			StructuredContent struct {
				Rows []struct{ Value int }
			}
		}
	}
	if err := json.Unmarshal(message(data), &got); err != nil || got.Error != nil || got.Result.IsError {
		return 0, fmt.Errorf("%v: %s", err, clip(bytes.TrimSpace(data)))
	}
	if len(got.Result.StructuredContent.Rows) == 0 {
		return 0, nil
	}
	return got.Result.StructuredContent.Rows[0].Value, nil
}

var nodesClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
