package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestMemoryOfTheEnvironment: what stands there wins over what the program would choose. It changes the process's
// settings, so it runs by itself.
func TestMemoryOfTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		gogc, limit string
		want        int
	}{{"", "", 400}, {"50", "", 77}, {"", "1GiB", 77}, {"off", "1GiB", 77}} {
		t.Setenv("GOGC", c.gogc)
		t.Setenv("GOMEMLIMIT", c.limit)
		before := debug.SetGCPercent(77)
		tuneMemory()
		if got := debug.SetGCPercent(before); got != c.want {
			t.Errorf("GOGC=%q GOMEMLIMIT=%q: %d, want %d", c.gogc, c.limit, got, c.want)
		}
	}
}

func parse(args ...string) (*commands, error) {
	var c commands
	k, err := kong.New(&c, kong.Exit(func(int) {}), kong.Writers(io.Discard, io.Discard))
	if err != nil {
		return nil, err
	}
	_, err = k.Parse(args)
	return &c, err
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"", "nope", "check", "serve --log-level=loud", "call", "serve extra", "call t --timeout=5", "version now"} {
		if _, err := parse(strings.Fields(line)...); err == nil {
			t.Errorf("%q is taken", line)
		}
	}
	c, err := parse("call", "get", "id=5", "name=a=b", "-y", "--url=http://h/mcp")
	if err != nil || c.Call.Tool != "get" || fmt.Sprint(c.Call.Arguments) != "[id=5 name=a=b]" || !c.Call.Yes || c.Call.URL != "http://h/mcp" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = parse("serve", "-c", "f.yaml", "--stdio", "--insecure"); err != nil || c.Serve.Config != "f.yaml" || !c.Serve.Stdio || !c.Serve.Insecure || c.Serve.LogLevel != "info" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "m.yaml")
	for text, want := range map[string]string{"version: 1\n": "", "version: 2\n": "has 1 fault", "version: 2\nx: 1\n": "has 2 faults"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (&checkCmd{File: file}).Run(); (err == nil) != (want == "") || err != nil && !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := (&checkCmd{File: file + ".not"}).Run(); err == nil {
		t.Error("a file that is not there has no faults")
	}
}

// TestCallArguments: what is typed becomes JSON by the types of the tool's schema, exactly, and what is none is refused.
func TestCallArguments(t *testing.T) {
	t.Parallel()
	var sent, header string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.RawMessage
			Method string
			Params struct{ Arguments json.RawMessage }
		}
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		result := `{"tools":[{"name":"t","inputSchema":{"properties":{"i":{"type":"integer","x-mcp-header":"Id"},"s":{"type":"string"},"o":{"type":"object"}}}}]}`
		switch m.Method {
		case "server/discover":
			result = `{"supportedVersions":["2026-07-28"]}`
		case "tools/call":
			sent, header = string(m.Params.Arguments), r.Header.Get("Mcp-Param-Id")
			result = `{"content":[]}`
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, result)
	}))
	t.Cleanup(server.Close)
	for _, c := range []struct{ args, want string }{
		{"i=9007199254740993 s=9", `{"i":9007199254740993,"s":"9"}`}, {`o={"k":[1]} s=a=b`, `{"o":{"k":[1]},"s":"a=b"}`},
		{"s=", `{"s":""}`}, {`s="q"`, `{"s":"\"q\""}`}, {"other=x", `{"other":"x"}`},
		{"i=five", ""}, {"i=", ""}, {"i=5,6", ""}, {"o={", ""}, {"s", ""},
	} {
		sent = ""
		err := (&callCmd{Tool: "t", Arguments: strings.Fields(c.args), URL: server.URL}).Run()
		if sent != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: sent %s, %v; want %s", c.args, sent, err, c.want)
		}
		if n, _, _ := strings.Cut(strings.TrimPrefix(c.args, "i="), " "); sent != "" && strings.HasPrefix(c.args, "i=") && header != n {
			t.Errorf("%s: the header says %q", c.args, header)
		}
	}
	if err := (&callCmd{Tool: "none", URL: server.URL}).Run(); err == nil || !strings.Contains(err.Error(), `no tool "none"`) {
		t.Error(err)
	}
}
