package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scenarios puts three servers under the built-in scenarios of millrace load: `make bench ARGS="scenarios [DIR]"`. Each run's
// JSON and HTML go into DIR, ./scenarios unless named; --quick makes all short, --soak DURATION sets the soak's length, and names
// of servers or scenarios limit what is done.
func scenarios(ctx context.Context, args []string) error {
	quick, soak, dir := false, 10*time.Minute, "scenarios"
	servers, names := []string{"demo", "go-sdk", "everything"}, []string{"ramp", "burst", "stress", "mixed", "soak"}
	var onlyServers, onlyNames []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--quick":
			quick, soak = true, 20*time.Second
		case a == "--soak" && i+1 < len(args):
			i++
			d, err := time.ParseDuration(args[i])
			if err != nil {
				return err
			}
			soak = d
		case slices.Contains(servers, a):
			onlyServers = append(onlyServers, a)
		case slices.Contains(names, a):
			onlyNames = append(onlyNames, a)
		case strings.HasPrefix(a, "-"):
			return fmt.Errorf("scenarios knows --quick and --soak DURATION, not %s", a)
		default:
			dir = a
		}
	}
	if onlyServers != nil {
		servers = onlyServers
	}
	if onlyNames != nil {
		names = onlyNames
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	r, stop, err := newRun(ctx, "0:1", "")
	if err != nil {
		return err
	}
	defer stop()
	g := &generator{run: r}
	fmt.Printf("%s; server on core %s, millrace load on core %s.\n\n", cpuModel(), r.m.serverCPUs, r.m.loadCPUs)
	fmt.Println("| Server | Scenario, phase | answers/s | p50 ms | p95 ms | p99 ms | errors | CPU | µs/request | resident MB | |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|")
	for _, server := range servers {
		for _, name := range names {
			if name == "mixed" && server == "go-sdk" {
				continue // it has no resource
			}
			if err := g.scenario(ctx, server, name, dir, soak, quick); err != nil {
				return fmt.Errorf("%s under %s: %w", server, name, err)
			}
		}
	}
	return nil
}

// scenario makes one run against a fresh server, and prints its rows.
func (g *generator) scenario(ctx context.Context, server, name, dir string, soak time.Duration, quick bool) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	p, args, err := g.target(ctx, server, name, addr)
	if err != nil {
		return err
	}
	defer p.stop()
	file := filepath.Join(dir, server+"-"+name+".json")
	args = append(args, "--scenario", name, "--html", strings.TrimSuffix(file, ".json")+".html")
	switch {
	case name == "soak":
		args = append(args, "--duration", soak.String(), "--rate", map[string]string{"demo": "2000", "go-sdk": "500", "everything": "100"}[server])
	case quick:
		args = append(args, "--duration", "20s")
	}
	g.progress("%s: %s", server, strings.Join(args, " "))
	run, err := g.load(ctx, addr, loadOptions{out: file, progress: os.Stderr}, args...)
	if err != nil {
		return err
	}
	run.print(server, name)
	return nil
}

// target starts one of the servers; args are what millrace load needs to know of it.
func (g *generator) target(ctx context.Context, server, name, addr string) (*process, []string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	o := startOptions{dir: g.m.dir, ready: listening(addr)}
	argv, args := []string{}, []string{}
	switch server {
	case "demo":
		admin, err := freeAddr()
		if err != nil {
			return nil, nil, err
		}
		argv = []string{g.millrace, "serve", "--listen", addr, "--admin", admin, "--data", g.m.dir, "--log-level", "warn"}
		args = []string{"--metrics", "http://" + admin + "/metrics"}
		if name != "mixed" { // a thousand cities, some far more often than others
			args = append(args, "--tool", "get_city", "--arguments", `{"id":{"zipf":[2950000,2950999],"exponent":1}}`)
		}
	case "go-sdk":
		argv = []string{self, "serve-" + kindGoSDK, "--addr", addr, "--era", string(legacy), "--db", g.sqlite}
		args = []string{"--revision", legacyVersion, "--tool", "get_item", "--arguments", `{"id":{"uniform":[100000,199999]}}`}
	case "everything":
		peers, err := filepath.Abs("../e2e/node_modules")
		if err != nil {
			return nil, nil, err
		}
		node := filepath.Join(peers, "node", "bin", "node")
		if _, err := os.Stat(node); err != nil {
			return nil, nil, fmt.Errorf("server-everything is not installed: type make peers: %w", err)
		}
		_, port, _ := strings.Cut(addr, ":")
		argv = []string{"env", "PORT=" + port, node, filepath.Join(peers, "@modelcontextprotocol", "server-everything", "dist", "index.js"), "streamableHttp"}
		args = []string{"--revision", legacyVersion, "--tool", "echo", "--arguments", `{"message":{"choice":["a","b"]}}`}
	}
	p, err := g.m.start(ctx, server, addr, argv, o)
	if err != nil {
		return nil, nil, err
	}
	if server != "demo" {
		args = append(args, "--pid", strconv.Itoa(p.cmd.Process.Pid)) // taskset and env replace themselves
	}
	return p, args, nil
}

// print writes the rows of the scenarios' table.
func (run *loadRun) print(server, name string) {
	figure := func(v *float64, scale float64, format string) string {
		if v == nil {
			return "–"
		}
		return fmt.Sprintf(format, *v*scale)
	}
	for _, p := range run.Phases {
		if !p.Measured || p.Kind == "step" {
			continue
		}
		failed := 0
		for _, n := range p.Errors {
			failed += n
		}
		cpu, each, resident := "–", "–", "–"
		if p.Server != nil {
			cpu, each, resident = figure(p.Server.CPU, 100, "%.0f %%"), figure(p.Server.CPURequest, 1e6, "%.1f"), figure(p.Server.Resident, 1e-6, "%.0f")
		}
		title := name
		if p.Name != name {
			title += ", " + p.Name
		}
		fmt.Printf("| %s | %s | %.0f | %.2f | %.2f | %.2f | %.3f %% | %s | %s | %s | %s |\n", server, title, p.Throughput, p.Latency.P50*1e3, p.Latency.P95*1e3, p.Latency.P99*1e3,
			100*float64(failed)/float64(max(1, p.Done+failed)), cpu, each, resident, strings.Join(run.Invalid, "; "))
	}
	if k := run.Knee; k != nil {
		fmt.Printf("| %s | %s | %.0f | | | | | | | | the knee; at %.0f/s: %s |\n", server, name, k.Rate, k.At, k.Broken)
	}
}
