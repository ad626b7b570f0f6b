package e2e

import (
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"millrace/e2e/harness"
)

// TestMCPRemote puts mcp-remote between a client on stdio and Millrace on HTTP, as desktop clients do.
func TestMCPRemote(t *testing.T) {
	for _, revision := range []string{"2025-06-18", "2025-11-25", harness.Modern} {
		t.Run(revision, func(t *testing.T) {
			t.Parallel()
			config, env := harness.DemoConfig(t)
			s := harness.Start(t, harness.Options{Config: config, Env: env})
			cmd := harness.Node(t, "node_modules/mcp-remote/dist/proxy.js", s.URL, "--allow-http", "--transport", "http-only")
			cmd.Stderr = harness.Log(t)
			c := connectSDK(t, &mcp.CommandTransport{Command: cmd}, revision)
			if got := c.InitializeResult().ProtocolVersion; got != revision {
				t.Fatalf("negotiated %s, want %s", got, revision)
			}
			c.listsAndCalls(t)
			c.readsAndPrompts(t)
			c.answers(t, true)
			c.hearsOfNewTools(t, config)
		})
	}
}
