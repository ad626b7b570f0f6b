package e2e

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/e2e/harness"
)

// tsPeer is one way for the TypeScript client to reach a server.
type tsPeer struct{ name, how, revision string }

var tsPeers = []tsPeer{
	{"legacy", "legacy", "2025-11-25"},
	{"auto", "auto", harness.Modern},
	{"sse", "sse", "2024-11-05"},
	{"stdio legacy", "legacy", "2025-11-25"},
	{"stdio auto", "auto", harness.Modern},
}

// where is what the scripts connect to: a server of the configuration, or the command that starts one on stdio.
func (p tsPeer) where(t *testing.T, config string, env []string) string {
	t.Helper()
	if !strings.HasPrefix(p.name, "stdio") {
		return harness.Start(t, harness.Options{Config: config, Env: env}).URL
	}
	cmd, err := json.Marshal([]string{harness.Binary(), "serve", "--stdio", "--config", config, "--admin", "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	return string(cmd)
}

func (p tsPeer) script(t *testing.T, env []string, name, where string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := harness.Node(t, "peers/typescript/"+name, append([]string{where, p.how}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// tsRun runs a script to its end and decodes the one line that it prints.
func (p tsPeer) run(t *testing.T, env []string, into any, name, where string, args ...string) {
	t.Helper()
	out, errs, err := harness.Output(p.script(t, env, name, where, args...), 60*time.Second)
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, out, errs)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("%s printed %q: %v", name, out, err)
	}
}

// TestTypeScript lets the TypeScript client do everything the demo offers.
func TestTypeScript(t *testing.T) {
	for _, p := range tsPeers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			config, env := harness.DemoConfig(t)
			where := p.where(t, config, env)
			p.lists(t, env, where)
			p.reads(t, env, where)
			p.asks(t, env, where)
			p.hearsOfNewTools(t, env, where, config)
		})
	}
}

func (p tsPeer) lists(t *testing.T, env []string, where string) {
	t.Helper()
	var got struct {
		Version, Text string
		Tools         []string
		City          struct{ Rows []struct{ Name string } }
		Rows          []int
		Unknown       any
	}
	p.run(t, env, &got, "lists.mjs", where)
	// The transport of 2024-11-05 is one that later revisions can be spoken on: what was negotiated is the client's choice.
	if p.how != "sse" && got.Version != p.revision {
		t.Errorf("negotiated %s, want %s", got.Version, p.revision)
	}
	if !slices.Equal(got.Tools, harness.Tools) {
		t.Errorf("tools are %q, want %q", got.Tools, harness.Tools)
	}
	if len(got.City.Rows) != 1 || got.City.Rows[0].Name != "Berlin" || !strings.Contains(got.Text, `"Berlin"`) {
		t.Errorf("get_city: %+v, text %s", got.City, got.Text)
	}
	if slices.Contains(got.Rows, 0) || len(got.Rows) != 3 {
		t.Errorf("search_cities, nearest_cities and country_statistics gave %v rows", got.Rows)
	}
	if got.Unknown != float64(-32602) {
		t.Errorf("an unknown tool gave %v, want code -32602", got.Unknown)
	}
}

func (p tsPeer) reads(t *testing.T, env []string, where string) {
	t.Helper()
	var got struct {
		Templates, Prompts, Completion []string
		Resource                       struct{ URI, MimeType, Text string }
		Prompt                         string
	}
	p.run(t, env, &got, "reads.mjs", where)
	if !slices.Equal(got.Templates, []string{"city://{id}"}) || !slices.Equal(got.Prompts, []string{"plan_trip"}) {
		t.Errorf("templates %q, prompts %q", got.Templates, got.Prompts)
	}
	if got.Resource.MimeType != "application/json" || !strings.Contains(got.Resource.Text, `"Berlin"`) {
		t.Errorf("resources/read: %+v", got.Resource)
	}
	if !strings.Contains(got.Prompt, "Plan a trip to Berlin") || !slices.Contains(got.Completion, "Berlin") {
		t.Errorf("prompt %q, completion %q", got.Prompt, got.Completion)
	}
}

func (p tsPeer) asks(t *testing.T, env []string, where string) {
	t.Helper()
	type result struct {
		IsError bool
		Content []struct{ Text string }
	}
	var got struct {
		Questions          []struct{ Message string }
		Declined, Accepted result
		Between, After     int
	}
	p.run(t, env, &got, "asks.mjs", where, strconv.Itoa(harness.FreshCity(t)))
	if !got.Declined.IsError || len(got.Declined.Content) == 0 || !strings.Contains(got.Declined.Content[0].Text, "confirm") || got.Between != 1 {
		t.Errorf("declined: %+v, %d notes after it, want 1", got.Declined, got.Between)
	}
	if got.Accepted.IsError || got.After != 0 {
		t.Errorf("accepted: %+v, %d notes after it, want none", got.Accepted, got.After)
	}
	if len(got.Questions) != 2 || !strings.Contains(got.Questions[0].Message, "1 note") {
		t.Errorf("questions: %+v", got.Questions)
	}
}

func (p tsPeer) hearsOfNewTools(t *testing.T, env []string, where, config string) {
	t.Helper()
	cmd := p.script(t, env, "changes.mjs", where)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	harness.OnEnd(t, cmd)
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	next := func(what string) string {
		t.Helper()
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("changes.mjs ended before %s", what)
			}
			return line
		case <-time.After(30 * time.Second):
			t.Fatalf("changes.mjs: no %s", what)
			return ""
		}
	}
	if line := next(`"listening"`); line != `"listening"` {
		t.Fatalf("changes.mjs printed %s", line)
	}
	harness.AddTool(t, config, "e2e_added")
	if line := next("notifications/tools/list_changed"); !strings.Contains(line, `"e2e_added"`) {
		t.Errorf("tools after the change: %s", line)
	}
}
