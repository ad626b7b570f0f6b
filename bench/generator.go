package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// generator measures the generator: millrace load beside wrk, hey and vegeta, against what the server knows to be true, and
// whether compare and gate find what is there and nothing else.
type generator struct {
	*run
	quick bool
	bars  []bar
}

// shot is one run of one load tool in a closed loop.
type shot struct {
	requests int
	rate     float64
	p50, p99 float64 // microseconds
	cpu      float64 // microseconds a request, of the whole process
}

// measureGenerator is the job: `make bench ARGS=generator`.
func measureGenerator(ctx context.Context, args []string) error {
	return jobs(ctx, "generator", args, func(g *generator) []job {
		return []job{{"speed", g.speed}, {"agreement", g.agreement}, {"truth", g.truth}, {"memory", g.memory}, {"leaks", g.leaks}, {"alarms", g.alarms}, {"faults", g.faults}}
	}, func(g *generator) options { return options{rounds: g.rounds(), duration: g.length()} })
}

// job is a part of what is measured.
type job struct {
	name string
	f    func(context.Context) error
}

// jobs runs of a name's jobs those that the arguments match, all without arguments, and prints what they found.
func jobs(ctx context.Context, name string, args []string, all func(*generator) []job, say func(*generator) options) (err error) {
	quick, only := false, regexp.MustCompile("")
	for _, a := range args {
		if a == "--quick" {
			quick = true
		} else if only, err = regexp.Compile(a); err != nil {
			return err
		}
	}
	r, stop, err := newRun(ctx, "0:1", "")
	if err != nil {
		return err
	}
	defer stop()
	g := &generator{run: r, quick: quick}
	for _, job := range all(g) {
		if !only.MatchString(job.name) {
			continue
		}
		g.progress("%s: %s", name, job.name)
		if err := job.f(ctx); err != nil {
			return fmt.Errorf("%s: %w", job.name, err)
		}
	}
	printHeader(os.Stdout, r.m, say(g))
	printBars(os.Stdout, g.bars)
	return nil
}

func (g *generator) rounds() int {
	if g.quick {
		return 3
	}
	return 10
}

func (g *generator) length() time.Duration {
	if g.quick {
		return time.Second
	}
	return 3 * time.Second
}

func (g *generator) bar(work, limit string, met bool, format string, args ...any) {
	g.bars = append(g.bars, bar{work, limit, fmt.Sprintf(format, args...), met})
	g.progress("%s: %s", work, g.bars[len(g.bars)-1].measured)
}

// startRaw starts the raw server.
func (g *generator) startRaw(ctx context.Context, s *rawConfig) (*process, error) {
	var err error
	if s.Addr == "" {
		if s.Addr, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return g.m.start(ctx, "raw", s.Addr, []string{self, "serve-raw", "--raw", s.flags()}, startOptions{gogc: gogcTuned, dir: g.m.dir, ready: func(ctx context.Context) error {
		_, err := g.load(ctx, s.Addr, loadOptions{}, "--users", "1", "--duration", "10ms", "--tool", "echo", "--arguments", `{"id":1}`)
		return err
	}})
}

func (s *rawConfig) flags() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // numbers and texts
	}
	return string(b)
}

func (g *generator) loadShot(ctx context.Context, addr, tool string, k keys, d time.Duration) (shot, error) {
	m, err := g.load(ctx, addr, loadOptions{}, "--users", strconv.Itoa(connections), "--duration", d.String(), "--tool", tool,
		"--arguments", fmt.Sprintf(`{"id":{"uniform":[%d,%d]}}`, k.first, k.first+k.count-1), "--revision", modernVersion)
	if err != nil {
		return shot{}, err
	}
	p := m.Phases[0]
	if len(p.Errors) > 0 || len(m.Invalid) > 0 {
		return shot{}, fmt.Errorf("millrace load: errors %v, %v", p.Errors, m.Invalid)
	}
	return shot{p.Done, p.Throughput, p.Latency.P50 * 1e6, p.Latency.P99 * 1e6, m.cpu * 1e6 / float64(p.Done)}, nil
}

func (g *generator) wrkShot(ctx context.Context, addr, tool string, k keys, d time.Duration) (shot, error) {
	g.loads++
	res, err := runWrk(ctx, g.m, toolCall(modern, addr, "", tool, idArgument), k, g.loads, d)
	if err != nil {
		return shot{}, err
	}
	return shot{requests: res.Requests, rate: float64(res.Requests) / res.Duration * 1e6, p50: res.P50, p99: res.P99}, nil
}

var (
	heyRate = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	heyP    = regexp.MustCompile(`(50|99)%+ in ([0-9.]+) secs`)
	heyOK   = regexp.MustCompile(`\[200\]\s+([0-9]+) responses`)
)

// heyShot has one argument for all requests: hey knows no others.
func (g *generator) heyShot(ctx context.Context, addr, tool string, k keys, d time.Duration) (shot, error) {
	q := toolCall(modern, addr, "", tool, idArgument)
	body := strings.NewReplacer(idMark, strconv.Itoa(firstID), keyMark, strconv.Itoa(k.first)).Replace(q.body)
	argv := []string{"hey", "-z", d.String(), "-c", strconv.Itoa(connections), "-m", "POST", "-T", "application/json", "-d", body,
		"-H", "Accept: application/json, text/event-stream", "-disable-compression"}
	for _, h := range q.headers {
		argv = append(argv, "-H", h[0]+": "+h[1])
	}
	name, args := g.m.load(append(argv, "http://"+addr+"/mcp"))
	cmd := command(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return shot{}, fmt.Errorf("hey: %w: %s", err, clip(out))
	}
	var s shot
	rate, ok := heyRate.FindSubmatch(out), heyOK.FindSubmatch(out)
	if rate == nil || ok == nil {
		return s, fmt.Errorf("hey printed no result: %s", clip(out))
	}
	s.rate, _ = strconv.ParseFloat(string(rate[1]), 64)
	s.requests, _ = strconv.Atoi(string(ok[1]))
	for _, p := range heyP.FindAllSubmatch(out, -1) {
		v, _ := strconv.ParseFloat(string(p[2]), 64)
		if string(p[1]) == "50" {
			s.p50 = v * 1e6
		} else {
			s.p99 = v * 1e6
		}
	}
	s.cpu = float64((cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Microseconds()) / float64(s.requests)
	return s, nil
}

func (g *generator) vegetaShot(ctx context.Context, addr, tool string, k keys, d time.Duration) (shot, error) {
	self, err := os.Executable()
	if err != nil {
		return shot{}, err
	}
	name, args := g.m.load([]string{self, "attack", "--addr", addr, "--tool", tool, "--key", strconv.Itoa(k.first), "--for", d.String()})
	cmd := command(ctx, name, args...)
	cmd.Env = environment("")
	out, err := cmd.Output()
	if err != nil {
		return shot{}, fmt.Errorf("vegeta: %w", err)
	}
	var n int
	if _, err := fmt.Sscan(string(out), &n); err != nil || n == 0 {
		return shot{}, fmt.Errorf("vegeta printed %s", clip(out))
	}
	u := cmd.ProcessState
	return shot{requests: n, rate: float64(n) / d.Seconds(), cpu: float64((u.UserTime() + u.SystemTime()).Microseconds()) / float64(n)}, nil
}

type shooter struct {
	name string
	f    func(ctx context.Context, addr, tool string, k keys, d time.Duration) (shot, error)
}

// shoot makes interleaved rounds of several tools.
func (g *generator) shoot(ctx context.Context, addr, tool string, k keys, tools []shooter) (map[string][]shot, error) {
	out := map[string][]shot{}
	for round := range g.rounds() {
		for i := range tools {
			t := tools[(i+round)%len(tools)]
			s, err := t.f(ctx, addr, tool, k, g.length())
			if err != nil {
				return nil, err
			}
			out[t.name] = append(out[t.name], s)
		}
	}
	return out, nil
}

func each(shots []shot, f func(shot) float64) (out []float64) {
	for _, s := range shots {
		out = append(out, f(s))
	}
	return out
}

// speed compares the cost of a request with that of other tools, against a server that costs next to nothing.
func (g *generator) speed(ctx context.Context) error {
	server := &rawConfig{}
	p, err := g.startRaw(ctx, server)
	if err != nil {
		return err
	}
	defer p.stop()
	k := keys{randomKeys, 100_000, 100_000}
	shots, err := g.shoot(ctx, server.Addr, "echo", k, []shooter{{"millrace load", g.loadShot}, {"hey", g.heyShot}, {"vegeta", g.vegetaShot}, {"wrk", g.wrkShot}})
	if err != nil {
		return err
	}
	cpu := func(name string) float64 { return median(each(shots[name], func(s shot) float64 { return s.cpu })) }
	rate := func(name string) float64 { return median(each(shots[name], func(s shot) float64 { return s.rate })) }
	own, hey, vegeta := cpu("millrace load"), cpu("hey"), cpu("vegeta")
	g.bar("requests/s, answers checked, one core", "≥ 40,000", rate("millrace load") >= 40_000, "%.0f (hey %.0f, vegeta %.0f, wrk without checks %.0f)",
		rate("millrace load"), rate("hey"), rate("vegeta"), rate("wrk"))
	g.bar("CPU a request", "less than hey and vegeta", own < hey && own < vegeta, "%.1f µs (hey %.1f, vegeta %.1f)", own, hey, vegeta)
	return nil
}

// memory takes the growth of the generator's own memory over ten minutes at 10,000 requests a second.
func (g *generator) memory(ctx context.Context) error {
	d := 10 * time.Minute
	if g.quick {
		d = 30 * time.Second
	}
	server := &rawConfig{}
	p, err := g.startRaw(ctx, server)
	if err != nil {
		return err
	}
	defer p.stop()
	m, err := g.load(ctx, server.Addr, loadOptions{}, "--rate", strconv.Itoa(openRate), "--duration", d.String(), "--tool", "echo", "--arguments", `{"id":{"uniform":[100000,199999]}}`)
	if err != nil {
		return err
	}
	growth := m.Generator.Growth
	if growth == nil || len(m.Invalid) > 0 {
		return fmt.Errorf("the run tells no growth: %v", m.Invalid)
	}
	// An hour at this rate is 36 million requests.
	g.bar(fmt.Sprintf("the generator's memory grows in an hour and 36,000,000 requests, by the upper bound of its slope over %s", d), "< 200 MB", growth.High < 200e6,
		"%.1f MB (%.1f to %.1f); %.0f MB resident at most", growth.Value/1e6, growth.Low/1e6, growth.High/1e6, m.Generator.Memory/1e6)
	return nil
}

// agreement holds a closed loop against wrk and hey, where the server sets the pace: it works 100 µs for each call, so that no
// tool comes near what its own core can do.
func (g *generator) agreement(ctx context.Context) error {
	server := &rawConfig{Spin: 100 * time.Microsecond}
	p, err := g.startRaw(ctx, server)
	if err != nil {
		return err
	}
	defer p.stop()
	k := keys{randomKeys, 100_000, 1} // hey knows one argument alone
	shots, err := g.shoot(ctx, server.Addr, "echo", k, []shooter{{"millrace load", g.loadShot}, {"hey", g.heyShot}, {"wrk", g.wrkShot}})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		of   func(shot) float64
		unit float64
	}{{"throughput, 1/s", func(s shot) float64 { return s.rate }, 1}, {"p50, ms", func(s shot) float64 { return s.p50 }, 1e3}, {"p99, ms", func(s shot) float64 { return s.p99 }, 1e3}} {
		own := each(shots["millrace load"], f.of)
		for _, other := range []string{"wrk", "hey"} {
			theirs := each(shots[other], f.of)
			a, b := median(own), median(theirs)
			off, limit, text := math.Abs(a/b-1), 0.10, "within 10 %"
			if strings.HasPrefix(f.name, "p99") {
				spread := max(slices.Max(own)-slices.Min(own), slices.Max(theirs)-slices.Min(theirs)) / b
				limit, text = max(limit, spread), "within 10 % or the rounds' spread"
			}
			g.bar("closed loop, "+f.name+", beside "+other, text, off <= limit, "%.2f, %s %.2f (%+.1f %%)", a/f.unit, other, b/f.unit, 100*(a/b-1))
		}
	}
	return nil
}

// truth holds latencies against what the server wrote down.
func (g *generator) truth(ctx context.Context) error {
	server := &rawConfig{Sleep: 5 * time.Millisecond, More: 10 * time.Millisecond, Truth: filepath.Join(g.m.dir, "truth.json")}
	p, err := g.startRaw(ctx, server)
	if err != nil {
		return err
	}
	const rate = 5000
	count := 1_000_000
	if g.quick {
		count = 50_000
	}
	m, err := g.load(ctx, server.Addr, loadOptions{}, "--rate", strconv.Itoa(rate), "--duration", (time.Duration(count/rate) * time.Second).String(), "--tool", "echo",
		"--arguments", `{"id":{"uniform":[1,100]}}`, "--revision", modernVersion)
	if err != nil {
		return err
	}
	p.stop()
	data, err := os.ReadFile(server.Truth)
	if err != nil {
		return err
	}
	var t truth
	if err := json.Unmarshal(data, &t); err != nil {
		return err
	}
	l := m.Phases[0].Latency
	for _, q := range []struct {
		name       string
		own, truth float64
	}{{"p50", l.P50, t.P50}, {"p95", l.P95, t.P95}, {"p99", l.P99, t.P99}, {"p99.9", l.P999, t.P999}} {
		off := q.own*1e6 - q.truth
		g.bar(fmt.Sprintf("%s of %d requests beside the server's own", q.name, l.Count), "within 2 % or 0.2 ms", math.Abs(off) <= max(0.02*q.truth, 200),
			"%.2f ms, truth %.2f ms (%+.2f ms, %+.1f %%); sent p50 %.0f µs, p99 %.0f µs after due; the server read a request at most %.1f ms after it had come %s", q.own*1e3, q.truth/1e3, off/1e3, 100*off/q.truth,
			m.Generator.Lateness.P50*1e6, m.Generator.Lateness.P99*1e6, t.Waited/1e3, strings.Join(m.Invalid, "; "))
	}
	return nil
}

// leaks holds a server that leaks, and one that does not, against the gates of a soak.
func (g *generator) leaks(ctx context.Context) error {
	d := time.Minute
	if g.quick {
		d = 30 * time.Second
	}
	for _, c := range []struct {
		name   string
		server rawConfig
		pass   bool
	}{{"that leaks nothing", rawConfig{}, true}, {"that leaks 1 KB a request", rawConfig{LeakBytes: 1024}, false}, {"that leaks a goroutine in 1000 requests", rawConfig{LeakCalls: 1000}, false}} {
		server := &c.server
		var err error
		if server.Admin, err = freeAddr(); err != nil {
			return err
		}
		p, err := g.startRaw(ctx, server)
		if err != nil {
			return err
		}
		m, err := g.load(ctx, server.Addr, loadOptions{}, "--rate", "2000", "--duration", d.String(), "--tool", "echo", "--arguments", `{"id":{"uniform":[1,100]}}`,
			"--metrics", "http://"+server.Admin+"/metrics")
		p.stop()
		if err != nil {
			return err
		}
		out, failed := command(ctx, g.millrace, "gate", "soak", m.file).CombinedOutput()
		want := map[bool]string{true: "passes", false: "fails"}
		g.bar("the soak gate for a server "+c.name, want[c.pass], (failed == nil) == c.pass, "%s %s", want[failed == nil], failures(out))
	}
	return nil
}

// failures gives the figures that a gate failed for.
func failures(out []byte) string {
	var names []string
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 1 && (strings.Contains(line, "FAIL") || strings.Contains(line, "MISSING")) {
			names = append(names, strings.Join(fields, " "))
		}
	}
	return strings.Join(names, "; ")
}

// alarms counts how often compare sees a change between runs of one server.
func (g *generator) alarms(ctx context.Context) error {
	server := &rawConfig{Spin: 20 * time.Microsecond}
	p, err := g.startRaw(ctx, server)
	if err != nil {
		return err
	}
	defer p.stop()
	total, of, each := 32, 100, 5
	if g.quick {
		total, of = 12, 20
	}
	var files []string
	for range total {
		m, err := g.load(ctx, server.Addr, loadOptions{}, g.comparable()...)
		if err != nil {
			return err
		}
		if len(m.Invalid) == 0 {
			files = append(files, m.file)
		}
	}
	alarms := 0
	r := rand.New(rand.NewPCG(1, 1))
	for range of {
		r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
		worse, _, err := g.compare(ctx, append([]string{"--rounds"}, files[:2*each]...)...)
		if err != nil {
			return err
		}
		if worse {
			alarms++
		}
	}
	limit := of / 20
	g.bar(fmt.Sprintf("A/A: alarms in %d comparisons resampled from %d runs", of, len(files)), fmt.Sprintf("≤ %d", limit), alarms <= limit, "%d", alarms)
	return nil
}

func (g *generator) comparable() []string {
	return []string{"--users", "16", "--duration", "1s", "--tool", "echo", "--arguments", `{"id":{"uniform":[1,100]}}`, "--revision", modernVersion}
}

// compare runs millrace compare; worse says that it found a regression.
func (g *generator) compare(ctx context.Context, args ...string) (worse bool, text string, err error) {
	name, args := g.m.load(append([]string{g.millrace, "compare"}, args...))
	var out, errs bytes.Buffer
	cmd := command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if err != nil && strings.Contains(errs.String(), "is worse than") {
		return true, out.String(), nil
	}
	if err != nil {
		err = errors.New(clip(errs.Bytes()))
	}
	return false, out.String(), err
}

// faults lets compare --ab judge equal servers, and one that is a tenth slower.
func (g *generator) faults(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	server := func(spin time.Duration) string {
		bin, args := g.m.server([]string{self, "serve-raw", "--raw", "'" + (&rawConfig{Addr: addr, Spin: spin}).flags() + "'"})
		return strings.Join(append([]string{bin}, args...), " ")
	}
	ab := func(a, b time.Duration) (bool, error) {
		worse, _, err := g.compare(ctx, append([]string{"--ab", server(a), server(b), "--url", "http://" + addr + "/mcp", "--users", "16", "--duration", "1s",
			"--tool", "echo"}, "--arguments", `{"id":{"uniform":[1,100]}}`)...)
		return worse, err
	}
	times := 20
	if g.quick {
		times = 3
	}
	alarms, found := 0, 0
	for range times {
		worse, err := ab(100*time.Microsecond, 100*time.Microsecond)
		if err != nil {
			return err
		}
		if worse {
			alarms++
		}
	}
	g.bar(fmt.Sprintf("A/A: alarms in %d live comparisons", times), "≤ 3 of 20", alarms*20 <= 3*times, "%d", alarms)
	for range 3 {
		// 100 µs of work and some 10 of the network: a tenth more in all is 11 µs.
		worse, err := ab(100*time.Microsecond, 111*time.Microsecond)
		if err != nil {
			return err
		}
		if worse {
			found++
		}
	}
	g.bar("a server that is 10 % slower is found", "3 of 3", found == 3, "%d of 3", found)
	return nil
}
