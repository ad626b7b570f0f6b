package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"millrace/e2e/harness"
)

// sdkPeer is one way for the go-sdk client to reach a server.
type sdkPeer struct {
	transport string // http, sse or stdio
	revision  string
}

// TestGoSDK lets the go-sdk client do everything the demo offers, over every transport in every revision.
func TestGoSDK(t *testing.T) {
	peers := []sdkPeer{
		{"sse", "2024-11-05"},
		{"http", "2025-03-26"}, {"http", "2025-06-18"}, {"http", "2025-11-25"}, {"http", "2026-07-28"},
		{"stdio", "2024-11-05"}, {"stdio", "2025-03-26"}, {"stdio", "2025-06-18"}, {"stdio", "2025-11-25"}, {"stdio", "2026-07-28"},
	}
	for _, p := range peers {
		t.Run(p.transport+" "+p.revision, func(t *testing.T) {
			t.Parallel()
			config, env := harness.DemoConfig(t)
			var target mcp.Transport
			if p.transport == "stdio" {
				target = stdioTransport(t, config, env)
			} else {
				target = httpTransport(harness.Start(t, harness.Options{Config: config, Env: env}).URL, p.transport)
			}
			c := connectSDK(t, target, p.revision)
			if got := c.InitializeResult().ProtocolVersion; got != p.revision {
				t.Fatalf("negotiated %s, want %s", got, p.revision)
			}
			c.listsAndCalls(t)
			c.readsAndPrompts(t)
			c.answers(t, p.revision >= "2025-06-18")
			c.hearsOfNewTools(t, config)
		})
	}
}

func httpTransport(url, kind string) mcp.Transport {
	if kind == "sse" {
		return &mcp.SSEClientTransport{Endpoint: url}
	}
	return &mcp.StreamableClientTransport{Endpoint: url}
}

func stdioTransport(t *testing.T, config string, env []string) mcp.Transport {
	cmd := exec.Command(harness.Binary(), "serve", "--stdio", "--config", config, "--admin", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = harness.Log(t)
	harness.Detach(cmd)
	return &mcp.CommandTransport{Command: cmd}
}

// sdkClient is a connected go-sdk session, with what it was asked and told.
type sdkClient struct {
	*mcp.ClientSession
	ask      chan *mcp.ElicitParams // one for each question
	reply    chan *mcp.ElicitResult // what it is answered with
	changed  chan struct{}
	progress chan *mcp.ProgressNotificationParams
}

func connectSDK(t *testing.T, target mcp.Transport, revision string) *sdkClient {
	t.Helper()
	c := &sdkClient{
		ask:      make(chan *mcp.ElicitParams, 8),
		reply:    make(chan *mcp.ElicitResult, 8),
		changed:  make(chan struct{}, 64),
		progress: make(chan *mcp.ProgressNotificationParams, 4096),
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "1"}, &mcp.ClientOptions{
		ElicitationHandler: func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			c.ask <- r.Params
			select {
			case answer := <-c.reply:
				return answer, nil
			default: // a question that the test did not expect
				return &mcp.ElicitResult{Action: "decline"}, nil
			}
		},
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { c.changed <- struct{}{} },
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
			c.progress <- r.Params
		},
	})
	// HTTP+SSE reads its stream for as long as the context lives, so it gets no deadline here.
	session, err := client.Connect(t.Context(), target, &mcp.ClientSessionOptions{ProtocolVersion: revision})
	if err != nil {
		t.Fatalf("connect in %s: %v", revision, err)
	}
	c.ClientSession = session
	t.Cleanup(func() { _ = session.Close() })
	return c
}

// call calls a tool and decodes its text, which every revision has.
func (c *sdkClient) call(t *testing.T, tool string, args any) (rows []map[string]any, result *mcp.CallToolResult) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	result, err := c.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		t.Fatalf("%s %v: %v", tool, args, err)
	}
	if result.IsError {
		return nil, result
	}
	var content struct {
		Rows []map[string]any `json:"rows"`
	}
	if err := json.Unmarshal([]byte(text(t, result)), &content); err != nil {
		t.Fatalf("%s: the text is not the JSON of the rows: %v", tool, err)
	}
	return content.Rows, result
}

func text(t *testing.T, r *mcp.CallToolResult) string {
	t.Helper()
	if len(r.Content) == 0 {
		t.Fatal("the result has no content")
	}
	content, ok := r.Content[0].(*mcp.TextContent)
	if !ok {
		t.Fatalf("the content is %T, want text", r.Content[0])
	}
	return content.Text
}

func (c *sdkClient) listsAndCalls(t *testing.T) {
	t.Helper()
	if got := c.toolNames(t); !slices.Equal(got, harness.Tools) {
		t.Fatalf("tools are %q, want %q", got, harness.Tools)
	}
	rows, result := c.call(t, "get_city", map[string]any{"id": harness.Berlin})
	if len(rows) != 1 || rows[0]["name"] != "Berlin" {
		t.Fatalf("get_city: %v", rows)
	}
	if c.InitializeResult().ProtocolVersion >= "2025-06-18" && result.StructuredContent == nil {
		t.Error("get_city: no structuredContent, which this revision has")
	}
	for tool, args := range map[string]map[string]any{
		"search_cities":      {"name": "Berlin", "country": "DE", "limit": 3},
		"nearest_cities":     {"latitude": 52.52, "longitude": 13.41, "limit": 3},
		"country_statistics": {"country": "DE"},
	} {
		if rows, result := c.call(t, tool, args); result.IsError || len(rows) == 0 {
			t.Errorf("%s %v: no rows: %v", tool, args, text(t, result))
		}
	}
	if _, err := c.CallTool(t.Context(), &mcp.CallToolParams{Name: "no_such_tool"}); err == nil {
		t.Error("a tool that does not exist was called without an error")
	}
}

func (c *sdkClient) toolNames(t *testing.T) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var names []string
	for tool, err := range c.Tools(ctx, nil) {
		if err != nil {
			t.Fatalf("tools/list: %v", err)
		}
		names = append(names, tool.Name)
	}
	slices.Sort(names)
	return names
}

func (c *sdkClient) readsAndPrompts(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	templates, err := c.ListResourceTemplates(ctx, nil)
	if err != nil || len(templates.ResourceTemplates) != 1 || templates.ResourceTemplates[0].URITemplate != "city://{id}" {
		t.Fatalf("resources/templates/list: %v %v", templates, err)
	}
	uri := fmt.Sprintf("city://%d", harness.Berlin)
	read, err := c.ReadResource(ctx, &mcp.ReadResourceParams{URI: uri})
	if err != nil || len(read.Contents) != 1 || read.Contents[0].URI != uri || !strings.Contains(read.Contents[0].Text, `"Berlin"`) {
		t.Fatalf("resources/read: %v %v", read, err)
	}
	if prompts, err := c.ListPrompts(ctx, nil); err != nil || len(prompts.Prompts) != 1 || prompts.Prompts[0].Name != "plan_trip" {
		t.Fatalf("prompts/list: %v %v", prompts, err)
	}
	prompt, err := c.GetPrompt(ctx, &mcp.GetPromptParams{Name: "plan_trip", Arguments: map[string]string{"city": "Berlin"}})
	if err != nil || len(prompt.Messages) != 1 {
		t.Fatalf("prompts/get: %v %v", prompt, err)
	}
	if content, ok := prompt.Messages[0].Content.(*mcp.TextContent); !ok || !strings.Contains(content.Text, "Plan a trip to Berlin") {
		t.Errorf("prompts/get: %v", prompt.Messages[0].Content)
	}
	complete, err := c.Complete(ctx, &mcp.CompleteParams{
		Ref:      &mcp.CompleteReference{Type: "ref/prompt", Name: "plan_trip"},
		Argument: mcp.CompleteParamsArgument{Name: "city", Value: "Berl"},
	})
	if err != nil || !slices.Contains(complete.Completion.Values, "Berlin") {
		t.Errorf("completion/complete: %v %v", complete, err)
	}
}

// answers lets the client decline a question and then accept it. Revisions before elicitation have no way to ask: there
// the tool must refuse, and must not have done anything.
func (c *sdkClient) answers(t *testing.T, canAsk bool) {
	t.Helper()
	city := map[string]any{"city_id": harness.Berlin}
	if _, r := c.call(t, "add_note", map[string]any{"city_id": harness.Berlin, "text": "Bring a coat."}); r.IsError {
		t.Fatalf("add_note: %s", text(t, r))
	}
	if !canAsk {
		_, r := c.call(t, "delete_notes", city)
		if rows, _ := c.call(t, "list_notes", city); !r.IsError || len(rows) != 1 || len(c.ask) != 0 {
			t.Errorf("delete_notes where nobody can be asked: %s; %d notes, %d questions", text(t, r), len(rows), len(c.ask))
		}
		return
	}
	for _, no := range []*mcp.ElicitResult{
		{Action: "decline"}, {Action: "cancel"}, {Action: "accept", Content: map[string]any{"confirm": false}},
	} {
		c.reply <- no
		_, r := c.call(t, "delete_notes", city)
		if !r.IsError || !strings.Contains(text(t, r), "confirm") {
			t.Errorf("delete_notes after %s: %s", no.Action, text(t, r))
		}
		if rows, _ := c.call(t, "list_notes", city); len(rows) != 1 {
			t.Fatalf("after %s there are %d notes, want 1", no.Action, len(rows))
		}
	}
	c.reply <- &mcp.ElicitResult{Action: "accept", Content: map[string]any{"confirm": true}}
	if _, r := c.call(t, "delete_notes", city); r.IsError {
		t.Errorf("delete_notes after accept: %s", text(t, r))
	}
	if rows, _ := c.call(t, "list_notes", city); len(rows) != 0 {
		t.Errorf("after accept there are %d notes, want none", len(rows))
	}
	if len(c.ask) != 4 {
		t.Errorf("%d questions were asked, want 4", len(c.ask))
	}
	if q := <-c.ask; !strings.Contains(q.Message, "1 note") {
		t.Errorf("the question was %q", q.Message)
	}
}

func (c *sdkClient) hearsOfNewTools(t *testing.T, config string) {
	t.Helper()
	harness.AddTool(t, config, "e2e_added")
	select {
	case <-c.changed:
	case <-time.After(20 * time.Second):
		t.Fatal("no notifications/tools/list_changed after the file was edited")
	}
	// The client's own cache drops the list at the notification, so one more list must show the tool.
	if got := c.toolNames(t); !slices.Contains(got, "e2e_added") {
		t.Errorf("tools after the change: %q", got)
	}
}
