//lint:file-ignore SA1019 Logging is deprecated, and still what the older revisions have: that is what is tested here.

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"millrace/e2e/harness"
)

// A result of this many rows is long enough to be told how far it is.
const manyRows = 50_000

// TestProgress asks for a long result with a progress token.
func TestProgress(t *testing.T) {
	t.Parallel()
	config, env := harness.WorkConfig(t, "")
	s := harness.Start(t, harness.Options{Config: config, Env: env})
	for _, p := range []sdkPeer{
		{"sse", "2024-11-05"}, {"http", "2025-03-26"}, {"http", "2025-06-18"}, {"http", "2025-11-25"}, {"http", harness.Modern},
		{"stdio", "2025-11-25"}, {"stdio", harness.Modern},
	} {
		t.Run("go-sdk "+p.transport+" "+p.revision, func(t *testing.T) {
			t.Parallel()
			var target mcp.Transport
			if p.transport == "stdio" {
				target = stdioTransport(t, config, env)
			} else {
				target = httpTransport(s.URL, p.transport)
			}
			c := connectSDK(t, target, p.revision)
			params := &mcp.CallToolParams{Name: "long", Arguments: map[string]any{"n": manyRows, "width": 10}}
			params.SetProgressToken("the token")
			result, err := c.CallTool(t.Context(), params)
			if err != nil || result.IsError {
				t.Fatalf("long: %v %v", result, err)
			}
			last := 0.0
			// The client hands on notifications in its own time, so the last may come after the result.
			for last < manyRows/2 {
				select {
				case progress := <-c.progress:
					if progress.ProgressToken != "the token" || progress.Progress <= last {
						t.Fatalf("progress %v after %v", progress, last)
					}
					last = progress.Progress
				case <-time.After(10 * time.Second):
					t.Fatalf("told of %v rows of %d", last, manyRows)
				}
			}
		})
	}
	for _, p := range tsPeers[:3] {
		t.Run("typescript "+p.name, func(t *testing.T) {
			t.Parallel()
			var got struct {
				Progress []float64
				IsError  bool
				Rows     int
			}
			p.run(t, nil, &got, "progress.mjs", s.URL, "long", fmt.Sprintf(`{"n":%d,"width":10}`, manyRows))
			if got.IsError || got.Rows != manyRows || len(got.Progress) == 0 {
				t.Errorf("%d rows, error %v, told of %v", got.Rows, got.IsError, got.Progress)
			}
			for i := 1; i < len(got.Progress); i++ {
				if got.Progress[i] <= got.Progress[i-1] {
					t.Errorf("progress does not grow: %v", got.Progress)
				}
			}
		})
	}
}

// TestLog lets PostgreSQL raise a notice, which reaches those who asked for log messages and nobody else.
func TestLog(t *testing.T) {
	t.Parallel()
	pg := harness.NewPostgres(t)
	pg.Start()
	pg.Run(`CREATE FUNCTION tell(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'told %', what; RETURN what; END $$`)
	s := harness.Start(t, harness.Options{Env: []string{"PG=" + pg.URL()}, Config: harness.WriteConfig(t, `version: 1
sources:
  pg: {postgres: {primary: "${PG}"}}
tools:
  - name: tell
    source: pg
    description: Tells something beside its result.
    statement: SELECT tell(:what) AS said
    parameters: [{name: what, type: string, description: What., required: true}]
    annotations: {readOnlyHint: true}
`)})
	for _, revision := range []string{"2025-06-18", "2025-11-25", harness.Modern} {
		t.Run(revision, func(t *testing.T) {
			t.Parallel()
			messages := make(chan *mcp.LoggingMessageParams, 16)
			client := mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "1"}, &mcp.ClientOptions{
				LoggingMessageHandler: func(_ context.Context, r *mcp.LoggingMessageRequest) { messages <- r.Params },
			})
			session, err := client.Connect(t.Context(), httpTransport(s.URL, "http"), &mcp.ClientSessionOptions{ProtocolVersion: revision})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = session.Close() })
			params := &mcp.CallToolParams{Name: "tell", Arguments: map[string]any{"what": "quietly"}}
			if revision == harness.Modern {
				// Without a level in the request there must be no message.
				if _, err := session.CallTool(t.Context(), params); err != nil {
					t.Fatal(err)
				}
				params.Meta = mcp.Meta{"io.modelcontextprotocol/logLevel": "info"}
			} else if err := session.SetLoggingLevel(t.Context(), &mcp.SetLoggingLevelParams{Level: "info"}); err != nil {
				t.Fatal(err)
			}
			params.Arguments = map[string]any{"what": "loudly"}
			if _, err := session.CallTool(t.Context(), params); err != nil {
				t.Fatal(err)
			}
			select {
			case m := <-messages:
				if text := fmt.Sprint(m.Data); m.Level != "notice" || !strings.Contains(text, "told loudly") {
					t.Errorf("the message is %+v", m)
				}
			case <-time.After(10 * time.Second):
				t.Error("no notifications/message")
			}
		})
	}
}

// TestStdioEnds closes the input of a server on stdio: it ends by itself, and prints nothing but messages.
func TestStdioEnds(t *testing.T) {
	t.Parallel()
	config, env := harness.DemoConfig(t)
	cmd := exec.Command(harness.Binary(), "serve", "--stdio", "--config", config, "--admin", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), env...)
	harness.Detach(cmd)
	cmd.Stdin = strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}
{"jsonrpc":"2.0","method":"notifications/initialized"}
not JSON
{"jsonrpc":"2.0","id":"l\u0069st","method":"tools/list"}
` + harness.ModernBody("3", "no/such/method", "") + "\n" + harness.ModernBody("4", "tools/list", "") + "\n")
	out, errs, err := harness.Output(cmd, 30*time.Second)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i, want := range []string{`"id":1`, `-32700`, `"id":"l\u0069st"`, `-32601`, `"id":4`} {
		found := false
		for _, line := range lines {
			found = found || strings.HasPrefix(line, `{"jsonrpc":"2.0"`) && strings.Contains(line, want)
		}
		if !found {
			t.Errorf("message %d is not answered with %s:\n%s", i, want, out)
		}
	}
	if len(lines) != 5 {
		t.Errorf("%d lines on stdout, want 5:\n%s", len(lines), out)
	}
}
