package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/e2e/harness"
)

// TestInspector lets the inspector's command line do what the demo offers, one process for each request.
func TestInspector(t *testing.T) {
	for _, era := range []string{"legacy", "modern"} {
		t.Run(era, func(t *testing.T) {
			t.Parallel()
			url := harness.Shared(t).URL
			var tools struct{ Tools []struct{ Name string } }
			inspect(t, url, era, &tools, "--method", "tools/list")
			var names []string
			for _, tool := range tools.Tools {
				names = append(names, tool.Name)
			}
			slices.Sort(names)
			if !slices.Equal(names, harness.Tools) {
				t.Errorf("tools are %q, want %q", names, harness.Tools)
			}
			var city struct {
				StructuredContent struct{ Rows []struct{ Name string } }
			}
			inspect(t, url, era, &city, "--method", "tools/call", "--tool-name", "get_city", "--tool-arg", fmt.Sprintf("id=%d", harness.Berlin))
			if rows := city.StructuredContent.Rows; len(rows) != 1 || rows[0].Name != "Berlin" {
				t.Errorf("get_city: %+v", rows)
			}
			var templates struct {
				ResourceTemplates []struct{ URITemplate string }
			}
			inspect(t, url, era, &templates, "--method", "resources/templates/list")
			if l := templates.ResourceTemplates; len(l) != 1 || l[0].URITemplate != "city://{id}" {
				t.Errorf("templates: %+v", l)
			}
			var read struct{ Contents []struct{ Text string } }
			inspect(t, url, era, &read, "--method", "resources/read", "--uri", fmt.Sprintf("city://%d", harness.Berlin))
			if len(read.Contents) != 1 || !strings.Contains(read.Contents[0].Text, `"Berlin"`) {
				t.Errorf("resources/read: %+v", read)
			}
			var prompt struct {
				Messages []struct{ Content struct{ Text string } }
			}
			inspect(t, url, era, &prompt, "--method", "prompts/get", "--prompt-name", "plan_trip", "--prompt-args", "city=Berlin")
			if len(prompt.Messages) != 1 || !strings.Contains(prompt.Messages[0].Content.Text, "Plan a trip to Berlin") {
				t.Errorf("prompts/get: %+v", prompt)
			}
		})
	}
}

// inspect runs the inspector once and decodes the result.
func inspect(t *testing.T, url, era string, into any, args ...string) {
	t.Helper()
	all := append([]string{"--cli", url, "--transport", "http", "--protocol-era", era, "--format", "json", "-q", "--stored-auth-only"}, args...)
	out, errs, err := harness.Output(harness.Node(t, "node_modules/.bin/mcp-inspector", all...), 60*time.Second)
	var answer struct{ Result json.RawMessage }
	if err == nil {
		err = json.Unmarshal(out, &answer)
	}
	if err == nil {
		err = json.Unmarshal(answer.Result, into)
	}
	if err != nil {
		t.Fatalf("mcp-inspector %q: %v\n%s%s", args, err, out, errs)
	}
}

// TestInspectorHolds lets mcpdo, the inspector's command that holds connections, answer the demo's question and see a
// tool that comes while it is connected.
func TestInspectorHolds(t *testing.T) {
	for _, era := range []string{"legacy", "modern"} {
		t.Run(era, func(t *testing.T) {
			t.Parallel()
			config, env := harness.DemoConfig(t)
			s := harness.Start(t, harness.Options{Config: config, Env: env})
			h := holdInspector(t, s.URL, era)
			city := fmt.Sprintf("city_id:=%d", harness.Berlin)
			notes := func() int {
				t.Helper()
				var list struct{ StructuredContent struct{ Rows []any } }
				h.result(t, &list, "tools/call", "list_notes", city)
				return len(list.StructuredContent.Rows)
			}
			var done struct {
				IsError bool
				Content []struct{ Text string }
			}
			h.result(t, &done, "tools/call", "add_note", city, `text:="Bring a coat."`)
			h.answer(t, &done, city, "--decline")
			if !done.IsError || notes() != 1 {
				t.Errorf("declined: %+v, and there are %d notes, want 1", done, notes())
			}
			done.IsError = false
			h.answer(t, &done, city, "confirm:=true")
			if done.IsError || notes() != 0 {
				t.Errorf("accepted: %+v, and there are %d notes, want none", done, notes())
			}
			harness.AddTool(t, config, "e2e_added")
			harness.Eventually(t, 20*time.Second, "the held connection lists the new tool", func() error {
				var tools struct{ Tools []struct{ Name string } }
				h.result(t, &tools, "tools/list")
				for _, tool := range tools.Tools {
					if tool.Name == "e2e_added" {
						return nil
					}
				}
				return fmt.Errorf("tools are %+v", tools)
			})
		})
	}
}

// held is a connection that mcpdo's daemon holds.
type held struct {
	url string
	run func(t *testing.T, args ...string) ([]byte, []byte, error)
}

func holdInspector(t *testing.T, url, era string) *held {
	t.Helper()
	home := t.TempDir()
	h := &held{url: url, run: func(t *testing.T, args ...string) ([]byte, []byte, error) {
		cmd := harness.Node(t, "node_modules/.bin/mcpdo", append([]string{"--format", "json", "--plain", "--stored-auth-only"}, args...)...)
		cmd.Env = append(cmd.Env, "HOME="+home, "MCP_INSPECTOR_DAEMON_DIR="+home, "MCP_INSPECTOR_DAEMON_TOKEN=e2e-e2e-e2e-e2e-e2e")
		return harness.Output(cmd, 60*time.Second)
	}}
	t.Cleanup(func() { h.stop(t) })
	if out, errs, err := h.run(t, "connect", url, "--transport", "http", "--era", era); err != nil {
		t.Fatalf("mcpdo connect: %v\n%s%s", err, out, errs)
	}
	return h
}

// stop ends the daemon, which is no child of ours, by its own command, and by its id where that does not work.
func (h *held) stop(t *testing.T) {
	var status struct{ PID int }
	out, _, err := h.run(t, "daemon", "status")
	if err != nil || json.Unmarshal(out, &status) != nil || status.PID == 0 {
		return
	}
	if _, _, err := h.run(t, "daemon", "stop"); err != nil {
		_ = exec.Command("kill", "-9", fmt.Sprint(status.PID)).Run()
	}
}

func (h *held) result(t *testing.T, into any, args ...string) {
	t.Helper()
	out, errs, err := h.run(t, append([]string{"--connection", h.url}, args...)...)
	// A result that is an error gives an exit code of its own, and is still printed.
	if jsonErr := json.Unmarshal(out, into); jsonErr != nil {
		t.Fatalf("mcpdo %q: %v %v\n%s%s", args, err, jsonErr, out, errs)
	}
}

// answer calls delete_notes and answers the question that comes back.
func (h *held) answer(t *testing.T, into any, city string, answer ...string) {
	t.Helper()
	var asked struct {
		ElicitationPending struct{ ElicitationID, Message string }
	}
	h.result(t, &asked, "tools/call", "delete_notes", city)
	if asked.ElicitationPending.ElicitationID == "" {
		t.Fatalf("delete_notes asked nothing: %+v", asked)
	}
	h.result(t, into, append([]string{"elicitation/respond", asked.ElicitationPending.ElicitationID}, answer...)...)
}
