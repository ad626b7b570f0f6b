package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/e2e/harness"
)

// loadRun is what of a run's JSON these tests look at.
type loadRun struct {
	Interrupted bool `json:"interrupted"`
	Target      struct {
		Transport string   `json:"transport"`
		Revisions []string `json:"revisions"`
		Name      string   `json:"name"`
	} `json:"target"`
	Phases []struct {
		Name       string         `json:"name"`
		Done       int            `json:"done"`
		Errors     map[string]int `json:"errors"`
		Operations []struct {
			Name string `json:"name"`
			Done int    `json:"done"`
		} `json:"operations"`
		Server *struct {
			CPU     *float64 `json:"cpu_per_request"`
			HitRate *float64 `json:"cache_hit_rate"`
		} `json:"server"`
	} `json:"phases"`
}

// load runs millrace load to its end.
func load(t *testing.T, args ...string) (run loadRun, output string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "run.json")
	stdout, stderr, code := harness.Run(t, nil, append([]string{"load", "--out", out}, args...)...)
	output = stdout + stderr
	// A machine that is busy with other tests may make a run invalid: what was asked and answered is right all the same.
	if code != 0 && !strings.Contains(output, "the run is not valid: the generator sent") {
		t.Fatalf("millrace load %s: code %d\n%s", strings.Join(args, " "), code, output)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &run); err != nil {
		t.Fatal(err)
	}
	return run, output
}

// TestLoad loads the demo in every revision, without being told what it offers.
func TestLoad(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	for revision, transport := range map[string]string{"": "http/1.1", "2025-11-25": "http/1.1", "2025-06-18": "http/1.1", "2025-03-26": "http/1.1", "2024-11-05": "http+sse", "http2": "http/2"} {
		t.Run(revision, func(t *testing.T) {
			t.Parallel()
			args := []string{s.URL, "--rate", "100", "--duration", "1s", "--sessions", "3", "--metrics", s.Admin + "/metrics"}
			want := revision
			switch revision {
			case "http2":
				args, want = append(args, "--http2"), harness.Modern
			case "":
				want = harness.Modern
			default:
				args = append(args, "--revision", revision)
			}
			run, output := load(t, args...)
			p := run.Phases[0]
			if p.Done != 100 || len(p.Errors) > 0 || len(p.Operations) < 3 {
				t.Errorf("%+v\n%s", p, output)
			}
			if run.Target.Transport != transport || fmt.Sprint(run.Target.Revisions) != "["+want+"]" || run.Target.Name != "millrace" {
				t.Errorf("target %+v", run.Target)
			}
			if p.Server == nil || p.Server.CPU == nil || p.Server.HitRate == nil {
				t.Errorf("nothing is known of the server: %+v", p.Server)
			}
		})
	}
}

// TestLoadDocumentation runs the scenario that the documentation shows.
func TestLoadDocumentation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(harness.Repository(), "docs", "load.md"))
	if err != nil {
		t.Fatal(err)
	}
	yaml := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(text)
	if yaml == nil {
		t.Fatal("docs/load.md shows no scenario")
	}
	// A stress phase takes as long as it takes: it is left out here.
	scenario := regexp.MustCompile(`(?m)^.*kind: stress.*\n`).ReplaceAllString(string(yaml[1]), "")
	if scenario == string(yaml[1]) {
		t.Error("the scenario has no stress phase")
	}
	run, output := load(t, harness.Shared(t).URL, "--scenario", harness.WriteConfig(t, scenario), "--duration", "6s", "--rate", "600")
	for _, p := range run.Phases {
		if p.Done == 0 || len(p.Errors) > 0 {
			t.Errorf("phase %s: %d done, errors %v\n%s", p.Name, p.Done, p.Errors, output)
		}
	}
}

// TestLoadStdio loads a server that it starts itself, and leaves nothing of it.
func TestLoadStdio(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	run, output := load(t, "--stdio", harness.Binary()+" serve --stdio --log-level error --data "+data, "--users", "3", "--duration", "500ms", "--tool", "get_city", "--arguments", `{"id":2950159}`)
	if p := run.Phases[0]; p.Done < 10 || len(p.Errors) > 0 || run.Target.Transport != "stdio" {
		t.Errorf("%+v over %s\n%s", p, run.Target.Transport, output)
	}
	harness.Eventually(t, 5*time.Second, "the server's end", func() error {
		if out, err := exec.Command("pgrep", "-f", "data "+data).Output(); err == nil {
			return fmt.Errorf("still running: %s", out)
		}
		return nil
	})
}

// TestLoadInterrupt ends a run with a signal: the figures so far are there.
func TestLoadInterrupt(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run.json")
	cmd := exec.Command(harness.Binary(), "load", harness.Shared(t).URL, "--users", "2", "--duration", "10m", "--out", out)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	harness.Detach(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	harness.OnEnd(t, cmd)
	lines, goes := bufio.NewScanner(stderr), false
	for !goes && lines.Scan() {
		goes = strings.Contains(lines.Text(), "in flight") // notes come before it
	}
	if !goes {
		t.Fatal("it ended before it said how it goes")
	}
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("it ended with %v after %s", err, time.Since(began))
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var run loadRun
	if err := json.Unmarshal(data, &run); err != nil || !run.Interrupted || run.Phases[0].Done == 0 || len(run.Phases[0].Errors) > 0 {
		t.Errorf("%+v, %v", run, err)
	}
}

// TestLoadRefuses says what stands in the way of a run.
func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	url := harness.Shared(t).URL
	for want, args := range map[string][]string{
		"is a server running there?":            {fmt.Sprintf("http://127.0.0.1:%d/mcp", harness.FreePort(t)), "--users", "1"},
		"--i-own-this-target":                   {"http://192.0.2.1/mcp", "--users", "1"},
		"say how much load":                     {url},
		"no scenario is called \"sook\"":        {url, "--scenario", "sook"},
		"the server has no tool \"no\"":         {url, "--users", "1", "--tool", "no"},
		"no revision is called so":              {url, "--users", "1", "--revision", "2020-01-01"},
		"name the server: its URL, or --stdio":  {"--users", "1"},
		"Millrace's are at admin.address":       {url, "--users", "1", "--metrics", fmt.Sprintf("http://127.0.0.1:%d/metrics", harness.FreePort(t))},
		"phases[0].duration: is missing":        {url, "--scenario", harness.WriteConfig(t, "version: 1\nphases: [{rate: 1}]\n")},
		"read the server's process 2147483646:": {url, "--users", "1", "--pid", "2147483646"},
	} {
		if out, errs, code := harness.Run(t, nil, append([]string{"load", "--duration", "1s"}, args...)...); code != 1 || !strings.Contains(out+errs, want) {
			t.Errorf("load %s: code %d, %s%s\nwant %q", strings.Join(args, " "), code, out, errs, want)
		}
	}
}

// TestLoadOthers loads a server that is not ours.
func TestLoadOthers(t *testing.T) {
	t.Parallel()
	harness.Peers(t)
	everything := harness.Node(t, "node_modules/@modelcontextprotocol/server-everything/dist/index.js", "stdio")
	run, output := load(t, "--stdio", strings.Join(everything.Args, " "), "--users", "2", "--duration", "1s", "--tool", "echo", "--arguments", `{"message":{"choice":["a","b"]}}`)
	if p := run.Phases[0]; p.Done < 10 || len(p.Errors) > 0 || !strings.Contains(run.Target.Name, "everything") {
		t.Errorf("%+v of %s\n%s", p, run.Target.Name, output)
	}
}

// TestGateAndCompare holds a run against limits, and two runs against each other.
func TestGateAndCompare(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url := harness.Shared(t).URL
	file := func(i int) string { return filepath.Join(dir, fmt.Sprintf("%d.json", i)) }
	for i := range 2 {
		if out, errs, code := harness.Run(t, nil, "load", url, "--users", "2", "--duration", "4s", "--tool", "get_city", "--arguments", `{"id":2950159}`, "--out", file(i)); code != 0 {
			t.Fatalf("load: %s%s", out, errs)
		}
	}
	gates := harness.WriteConfig(t, "version: 1\ngates:\n  - {figure: error_rate, max: 0.1%}\n  - {figure: throughput, min: 1}\n")
	if out, errs, code := harness.Run(t, nil, "gate", gates, file(0)); code != 0 || strings.Count(out, "PASS") != 3 {
		t.Errorf("gates that hold: code %d\n%s%s", code, out, errs)
	}
	junit := filepath.Join(dir, "junit.xml")
	html := filepath.Join(dir, "run.html")
	out, errs, code := harness.Run(t, nil, "gate", "promise", file(0), "--junit", junit, "--html", html)
	if code != 1 || !strings.Contains(out, "MISSING") {
		t.Errorf("a promise without figures of the server: code %d\n%s%s", code, out, errs)
	}
	if xml, err := os.ReadFile(junit); err != nil || !strings.Contains(string(xml), "<failure") {
		t.Errorf("JUnit's file: %s, %v", xml, err)
	}
	if page, err := os.ReadFile(html); err != nil || !strings.Contains(string(page), "cache_hit_rate") || !strings.Contains(string(page), "get_city") {
		t.Errorf("the report: %d bytes, %v", len(page), err)
	}
	out, errs, code = harness.Run(t, nil, "compare", "--threshold", "1000", file(0), file(1))
	if code != 0 || !strings.Contains(out, "latency.p95") || !strings.Contains(out, "0 worse") {
		t.Errorf("compare: code %d\n%s%s", code, out, errs)
	}
}

// TestCompareAB starts two servers by turns, with every flag that goes with it, and leaves none of them.
func TestCompareAB(t *testing.T) {
	t.Parallel()
	address, admin := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t)), fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
	data, keep := t.TempDir(), t.TempDir()
	serve := fmt.Sprintf("'%s' serve --log-level error --listen %s --admin %s --data '%s'", harness.Binary(), address, admin, data)
	scenario := harness.WriteConfig(t, "version: 1\nphases:\n  - {name: few, duration: 1s, users: 2}\n")
	ab := func(more ...string) (string, int) {
		out, errs, code := harness.Run(t, nil, append([]string{"compare", "--ab", serve, serve, "--url", "http://" + address + "/mcp"}, more...)...)
		return out + errs, code
	}
	// Servers that are the same differ by less than ten times, whatever else this machine does meanwhile.
	out, code := ab("--scenario", scenario, "--metrics", "http://"+admin+"/metrics", "--tool", "get_city", "--arguments", `{"id":{"choice":[2950159,2761369]}}`,
		"--most-rounds", "3", "--threshold", "1000", "--keep", keep)
	if code != 0 || !strings.Contains(out, "in 3 rounds") || !strings.Contains(out, "get_city") || !strings.Contains(out, "cpu_per_request") || !strings.Contains(out, "more than 1000 %") {
		t.Errorf("code %d\n%s", code, out)
	}
	files, err := filepath.Glob(filepath.Join(keep, "*.json"))
	if err != nil || len(files) != 6 {
		t.Fatalf("%d runs were kept: %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var run loadRun
		if err := json.Unmarshal(data, &run); err != nil || run.Phases[0].Name != "few" || run.Phases[0].Done == 0 || run.Phases[0].Server == nil || run.Phases[0].Server.HitRate == nil {
			t.Errorf("%s: %+v, %v", file, run, err)
		}
	}
	for want, args := range map[string][]string{
		"say how much load":            {},
		"not a JSON object":            {"--users", "1", "--tool", "get_city", "--arguments", "x"},
		"no scenario is called \"no\"": {"--scenario", "no"},
		"no":                           {"--users", "1", "--keep", filepath.Join(keep, "no")},
	} {
		if out, code := ab(args...); code == 0 || !strings.Contains(out, want) {
			t.Errorf("%v: code %d\n%s\nwant %q", args, code, out, want)
		}
	}
	if out, err := exec.Command("pgrep", "-f", "data "+data).Output(); err == nil {
		t.Errorf("still running: %s", out)
	}
}
