// Command bench measures Millrace beside an empty net/http handler and two other MCP servers, and prints one table.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := dispatch(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// dispatch knows the names under which the program starts itself; any other arguments are the user's.
func dispatch(args []string) error {
	if len(args) > 0 && strings.HasPrefix(args[0], "serve-") {
		fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
		addr := fs.String("addr", "", "address to listen on")
		size := fs.Int("size", 0, "length of the floor's answer")
		form := fs.String("era", "", "legacy or modern")
		db := fs.String("db", "", "SQLite file")
		raw := fs.String("raw", "{}", "the raw server, as JSON")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		switch strings.TrimPrefix(args[0], "serve-") {
		case kindFloor:
			return serveFloor(*addr, era(*form), *size)
		case kindGoSDK:
			return serveGoSDK(*addr, era(*form), *db)
		case kindMCPGo:
			return serveMCPGo(*addr, era(*form), *db)
		case "raw":
			s := &rawServer{}
			if err := json.Unmarshal([]byte(*raw), &s.rawConfig); err != nil {
				return err
			}
			return s.serve()
		}
		return fmt.Errorf("no server is named %s", args[0])
	}
	if len(args) > 0 && args[0] == "attack" {
		fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
		addr, tool := fs.String("addr", "", "the server"), fs.String("tool", "", "the tool")
		key, d := fs.Int("key", 0, "its argument"), fs.Duration("for", 0, "how long")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return attack(*addr, *tool, *key, *d)
	}
	job := func(ctx context.Context) error { return measureGenerator(ctx, args[1:]) }
	switch {
	case len(args) > 0 && args[0] == "generator":
	case len(args) > 0 && args[0] == "release":
		job = func(ctx context.Context) error { return compareRelease(ctx, args[1:]) }
	case len(args) > 0 && args[0] == "cache":
		job = func(ctx context.Context) error { return cacheJob(ctx, args[1:]) }
	case len(args) > 0 && args[0] == "database":
		job = func(ctx context.Context) error { return databaseJob(ctx, args[1:]) }
	case len(args) > 0 && args[0] == "scenarios":
		job = func(ctx context.Context) error { return scenarios(ctx, args[1:]) }
	default:
		o, err := parseOptions(args)
		if err != nil {
			return err
		}
		job = func(ctx context.Context) error { return bench(ctx, o) }
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := job(ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted; every server has been stopped")
	}
	return err
}

type options struct {
	rounds   int
	duration time.Duration
	open     time.Duration
	distinct int
	only     *regexp.Regexp
	millrace string
	out      string
	pin      string
	strict   bool
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.IntVar(&o.rounds, "rounds", 5, "interleaved rounds; the table has their medians")
	fs.DurationVar(&o.duration, "duration", 5*time.Second, "length of one round of one work, in whole seconds")
	fs.DurationVar(&o.open, "open", 30*time.Second, "length of each open loop")
	fs.IntVar(&o.distinct, "distinct", 1_000_000, "requests on distinct keys")
	only := fs.String("only", "", "measure only the works whose name matches this `regexp` (and their floors)")
	quick := fs.Bool("quick", false, "one round of 2s, open loops of 5s, 100,000 distinct keys: to see that all works, not to compare")
	fs.StringVar(&o.millrace, "millrace", "", "Millrace's `binary`; empty builds it, \"none\" measures floor and peers alone")
	fs.StringVar(&o.out, "out", "", "write the tables to this `file` too")
	fs.StringVar(&o.pin, "pin", "0:1", "cores of the servers and of the load, as taskset takes them; off pins nothing")
	fs.BoolVar(&o.strict, "strict", false, "exit with 1 when a bar is missed")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if *quick {
		o.rounds, o.duration, o.open, o.distinct = 1, 2*time.Second, 5*time.Second, 100_000
	}
	if *only != "" {
		var err error
		if o.only, err = regexp.Compile(*only); err != nil {
			return o, err
		}
	}
	if o.rounds < 1 || o.duration < time.Second || o.open < time.Second {
		return o, fmt.Errorf("at least one round, of at least one second")
	}
	if o.distinct > 8_000_000 {
		return o, fmt.Errorf("--distinct %d: keys have seven digits, so 8000000 at most", o.distinct)
	}
	return o, nil
}

// newMachine finds the tools and makes the temporary folder.
func newMachine(pin string) (*machine, error) {
	m := &machine{}
	var err error
	if pin != "off" {
		var ok bool
		if m.serverCPUs, m.loadCPUs, ok = strings.Cut(pin, ":"); !ok {
			return nil, fmt.Errorf("--pin %q: want SERVER:LOAD, such as 0:1, or off", pin)
		}
		if path, err := exec.LookPath("taskset"); err == nil && runtime.NumCPU() > 1 {
			m.taskset = path
		}
	}
	if m.dir, err = os.MkdirTemp("", "millrace-bench-"); err != nil {
		return nil, err
	}
	return m, os.Chmod(m.dir, 0o755) // PostgreSQL's user must reach its folder in here
}

// bench is the whole run.
func bench(ctx context.Context, o options) (err error) {
	r, stop, err := newRun(ctx, o.pin, o.millrace)
	if err != nil {
		return err
	}
	defer stop()
	r.rounds, r.duration = o.rounds, o.duration
	works := plan(o.only, r.millrace != "")
	if slices.ContainsFunc(works, func(w work) bool { return w.tool == "pg_item" }) {
		if r.postgres, err = startPostgres(ctx, r.m); err != nil {
			return err
		}
	}
	measured, err := r.closedLoop(ctx, works)
	if err != nil {
		return err
	}
	lines, bars := report(measured)
	if r.millrace != "" {
		l, b, err := r.openLoop(ctx, o.only, o.open)
		if err != nil {
			return err
		}
		lines, bars = append(lines, l...), append(bars, b...)
		if o.only == nil || o.only.MatchString(distinctWork) {
			l, b, err := r.distinct(ctx, o.distinct)
			if err != nil {
				return err
			}
			lines, bars = append(lines, l), append(bars, b)
		}
	}
	if len(lines) == 0 {
		return fmt.Errorf("--only %s: nothing has such a name", o.only)
	}
	var text strings.Builder
	printHeader(&text, r.m, o)
	printLines(&text, lines)
	if len(bars) > 0 {
		fmt.Fprintln(&text)
		printBars(&text, bars)
	}
	fmt.Print(text.String())
	if o.out != "" {
		if err := os.WriteFile(o.out, []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	if missed := slices.ContainsFunc(bars, func(b bar) bool { return !b.met }); missed && o.strict {
		return fmt.Errorf("a bar was missed")
	}
	return nil
}

// printHeader says under what conditions the figures were taken.
func printHeader(w io.Writer, m *machine, o options) {
	pinned := "nothing pinned"
	if m.taskset != "" {
		pinned = fmt.Sprintf("servers pinned to core %s, load and PostgreSQL to core %s", m.serverCPUs, m.loadCPUs)
	}
	fmt.Fprintf(w, "%d cores (%s), %s/%s, %s; %s. %d keep-alive connections, no Accept-Encoding, unique request ids; medians of %d interleaved rounds of %s.\n",
		runtime.NumCPU(), cpuModel(), runtime.GOOS, runtime.GOARCH, runtime.Version(), pinned, connections, o.rounds, o.duration)
	fmt.Fprint(w, "The floor is an empty net/http handler that reads the whole body and writes as many bytes as Millrace's answer to the same request; ÷ floor is the median of the rounds' own ratios of CPU a request, both at one GOGC.\n\n")
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for l := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}
