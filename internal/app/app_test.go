package app

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"millrace/internal/config"
	"millrace/internal/mcp"
	"millrace/internal/polltest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("internal/poll.runtime_pollWait")) // the test client's idle connections
}

// buffer is a log that tests read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// running is a server that a test has started.
type running struct {
	*App
	t    *testing.T
	file string
	url  string
	log  *buffer
	end  func() error
}

const head = "version: 1\nlisten: {address: \"127.0.0.1:0\"}\nadmin: {address: \"127.0.0.1:0\"}\n"

// start serves a file made of head, a SQLite source "db" and text.
func start(t *testing.T, text string, change ...func(*Options)) *running {
	t.Helper()
	dir := t.TempDir()
	db := filepath.Join(dir, "test.db")
	conn, err := sqlite.OpenConn(db)
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlitex.ExecuteScript(conn, "CREATE TABLE n (i INTEGER)", nil); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	r := &running{t: t, file: filepath.Join(dir, "millrace.yaml"), log: &buffer{}}
	r.write(head + "sources: {db: {sqlite: {path: " + db + "}, query_timeout: 60s}}\n" + text)
	opts := Options{File: r.file, Version: "test", Log: slog.New(slog.NewTextHandler(r.log, nil)), Out: io.Discard}
	for _, f := range change {
		f(&opts)
	}
	if r.App, err = New(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.end = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := r.end(); err != nil {
			t.Errorf("the end: %v", err)
		}
	})
	r.url = "http://" + r.mcpListener.Addr().String() + "/mcp"
	r.await("readiness", func() bool { return r.ready() == http.StatusOK })
	return r
}

func (r *running) write(text string) {
	r.t.Helper()
	tmp := r.file + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(tmp, r.file); err != nil {
		r.t.Fatal(err)
	}
}

// edit changes the file's text.
func (r *running) edit(old, new string) {
	r.t.Helper()
	data, err := os.ReadFile(r.file)
	if err != nil {
		r.t.Fatal(err)
	}
	r.write(strings.Replace(string(data), old, new, 1))
}

func (r *running) await(what string, ok func() bool) {
	r.t.Helper()
	defer func() {
		if r.t.Failed() {
			r.t.Log(r.log.String())
		}
	}()
	polltest.Until(r.t, what, ok)
}

func (r *running) ready() int {
	resp, err := http.Get("http://" + r.adminListener[0].Addr().String() + "/readyz")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// post sends one modern request and gives the body of its answer.
func (r *running) post(method, params, name string, headers ...string) string {
	r.t.Helper()
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":{%s"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`, method, params)
	req, err := http.NewRequest(http.MethodPost, r.url, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, h := range append([]string{"Content-Type: application/json", "MCP-Protocol-Version: 2026-07-28", "Mcp-Method: " + method, "Mcp-Name: " + name}, headers...) {
		if k, v, _ := strings.Cut(h, ": "); v != "" {
			req.Header.Set(k, v)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func (r *running) call(tool string, headers ...string) string {
	return r.post("tools/call", fmt.Sprintf(`"name":%q,`, tool), tool, headers...)
}

const one = "tools:\n  - {name: one, source: db, description: One., statement: SELECT 1 AS v, annotations: {readOnlyHint: true}, cache: {scope: public}}\n"
const two = "  - {name: two, source: db, description: Two., statement: SELECT 2 AS v, annotations: {readOnlyHint: true}}\n"

func TestReload(t *testing.T) {
	t.Parallel()
	r := start(t, one)
	if got := r.call("one"); !strings.Contains(got, `"status":"miss"`) {
		t.Errorf("got %s", got)
	}
	at := r.hub.Now()
	// The file is watched: no signal is needed.
	r.edit(one, one+two)
	r.await("second tool", func() bool { return strings.Contains(r.call("two"), `"v":2`) })
	var events []mcp.Event
	r.await("event", func() bool { // it is published after the tool can be called
		events, _, _, _ = r.hub.Since(at)
		return len(events) > 0
	})
	if len(events) != 1 || events[0].Kind != mcp.ToolsChanged {
		t.Errorf("events %v", events)
	}
	if got := r.call("one"); !strings.Contains(got, `"status":"hit"`) {
		t.Errorf("the cache was not carried over: %s", got)
	}
	for _, bad := range []struct{ old, new, message string }{
		{"SELECT 2 AS v", "DELETE FROM n", "not allowed in a read-only tool"},
		{"version: 1", "version: 1\nlisen: {}", "did you mean"},
		{"127.0.0.1:0\"}\nadmin", "127.0.0.1:1\"}\nadmin", "needs a restart"},
		{"version: 1", "version: 1\nredis: {nodes: [\"127.0.0.1:1\"]}", "redis has changed, which needs a restart"},
	} {
		before := r.current.Load()
		r.edit(bad.old, bad.new)
		r.Reload()
		if r.current.Load() != before || !strings.Contains(r.log.String(), bad.message) {
			t.Errorf("%s: not refused with %q:\n%s", bad.new, bad.message, r.log)
		}
		r.edit(bad.new, bad.old)
	}
	if got := r.call("two"); !strings.Contains(got, `"v":2`) {
		t.Errorf("after the refusals: %s", got)
	}
}

// A generation's sources are closed with its last request, and not before.
func TestAnOldGenerationFinishes(t *testing.T) {
	t.Parallel()
	slow := "  - {name: slow, source: db, description: Slow., statement: \"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 40000) SELECT count(*) AS v FROM c\", annotations: {readOnlyHint: true}, timeout: 60s}\n"
	r := start(t, one+slow)
	old := r.current.Load()
	answer := make(chan string, 1)
	go func() { answer <- r.call("slow") }()
	r.await("running call", func() bool { return old.users.Load() > 1 || len(answer) > 0 })
	data, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	r.write(strings.Replace(string(data), "query_timeout: 60s", "query_timeout: 50s", 1))
	r.Reload()
	if r.current.Load() == old || old.sources[0] == r.current.Load().sources[0] {
		t.Fatalf("not reloaded, or the source was not replaced:\n%s", r.log)
	}
	if got := <-answer; !strings.Contains(got, `"v":40000`) {
		t.Errorf("the call in flight got %s", got)
	}
	r.await("end of the old generation", func() bool { return old.users.Load() == 0 && !old.Acquire() })
	if got := r.call("one"); !strings.Contains(got, `"v":1`) {
		t.Errorf("the new generation: %s", got)
	}
}

func TestReadyWithASourceDown(t *testing.T) {
	t.Parallel()
	r := start(t, one+"  - {name: lost, source: gone, description: Lost., statement: SELECT 1 AS v, annotations: {readOnlyHint: true}}\n", func(o *Options) {
		data, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(data), "sources: {db", "sources: {gone: {sqlite: {path: /nowhere/at.db}}, db", 1)
		if err := os.WriteFile(o.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	r.await("degraded source", func() bool { return strings.Contains(fmt.Sprint(r.health.Ready().Degraded), "source gone") })
	if code := r.ready(); code != http.StatusOK {
		t.Errorf("/readyz is %d", code)
	}
	if got := r.call("lost"); !strings.Contains(got, `"isError":true`) || !strings.Contains(got, "not available") {
		t.Errorf("its tool answers %s", got)
	}
	if got := r.call("one"); !strings.Contains(got, `"v":1`) {
		t.Errorf("the other answers %s", got)
	}
}

// A warm public entry answers nobody who may not call the tool.
func TestScopesBeforeTheCache(t *testing.T) {
	t.Parallel()
	const key, other = "the-key-of-the-reader-0123456789", "the-key-of-another-9876543210"
	sum := func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
	r := start(t, "auth:\n  keys:\n    - {name: reader, sha256: "+sum(key)+", scopes: [read]}\n    - {name: other, sha256: "+sum(other)+"}\n"+
		strings.Replace(one, "description: One.", "description: One., require_scopes: [read]", 1))
	for _, status := range []string{"miss", "hit"} {
		if got := r.call("one", "Authorization: Bearer "+key); !strings.Contains(got, `"status":"`+status+`"`) {
			t.Errorf("the reader got %s", got)
		}
	}
	if got := r.call("one", "Authorization: Bearer "+other); !strings.Contains(got, "unknown tool") || strings.Contains(got, `"v"`) {
		t.Errorf("the other got %s", got)
	}
	if got := r.call("one"); !strings.Contains(got, "API key") {
		t.Errorf("nobody got %s", got)
	}
	for _, secret := range []string{key, other} {
		if strings.Contains(r.log.String(), secret) {
			t.Error("a key is in the log")
		}
	}
	// Taking all keys away would let everybody in.
	data, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	from := strings.Index(string(data), "auth:")
	r.write(string(data[:from]) + one)
	r.Reload()
	if got := r.call("one"); !strings.Contains(got, "API key") {
		t.Errorf("after the keys had gone from the file: %s", got)
	}
}

func TestPublicAddressNeedsKeys(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte("version: 1\nlisten: {address: \"0.0.0.0:0\"}\nadmin: {address: \"127.0.0.1:0\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := Options{File: file, Log: slog.New(slog.DiscardHandler), Out: io.Discard}
	if _, err := New(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "--insecure") {
		t.Errorf("got %v", err)
	}
	opts.Insecure = true
	a, err := New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	a.stop()
}

func TestStdio(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	in := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}
{"jsonrpc":"2.0","method":"notifications/initialized"}
{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"one"}}
`
	file := filepath.Join(t.TempDir(), "f.yaml")
	text := "version: 1\nsources: {db: {sqlite: {path: /nowhere/at.db}}}\n" + one
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), Options{File: file, Stdio: true, Log: slog.New(slog.DiscardHandler), In: strings.NewReader(in), Out: &out})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"protocolVersion":"2025-11-25"`) || !strings.Contains(lines[1], `"isError":true`) {
		t.Errorf("got %s", out.String())
	}
}

// Every configured number is shown with the value that holds.
func TestNumbersAreInTheMetrics(t *testing.T) {
	t.Parallel()
	r := start(t, one)
	resp, err := http.Get("http://" + r.adminListener[0].Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"sessions.max": "10000", "sessions.idle": "1800", "cache.l1.size": "1000", "cache.l1.max_bytes": "6.7108864e+07",
		"sources.db.pool.size": "50", "sources.db.pool.overflow": "10", "sources.db.pool.wait": "5", "sources.db.query_timeout": "60", "sources.db.pool.max_lifetime": "3600", "sources.db.pool.min_idle": "0", "sources.db.write_concurrency": "10", "sources.db.max_lag": "10",
		"listen.header_timeout": "10", "listen.body_timeout": "30", "listen.max_body": "4.194304e+06", "tools[one].timeout": "5", "tools[one].max_rows": "1000"} {
		if want := fmt.Sprintf("millrace_config_value{key=%q} %s\n", key, value); !strings.Contains(string(data), want) {
			t.Errorf("no %s", want)
		}
	}
	if !strings.Contains(string(data), "millrace_config_info{hash=\""+r.current.Load().loaded.Hash+"\"} 1") {
		t.Error("the file's hash is not shown")
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	schema, err := config.Schema()
	if err != nil || !json.Valid(schema) || !bytes.Contains(schema, []byte(`"readOnlyHint"`)) {
		t.Errorf("got %.200s, %v", schema, err)
	}
}

// A flag in place of the file's address is held against the same rules as the file.
func TestFlagsAreValidated(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(file, []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ listen, admin, want string }{
		{"", "0.0.0.0:0", "--admin 0.0.0.0:0: address: "}, {"", "nonsense", "--admin nonsense: address: "}, {"nonsense", "", "--listen nonsense: address: "},
	} {
		a, err := New(t.Context(), Options{File: file, Listen: c.listen, Admin: c.admin, Insecure: true, Version: "test", Log: slog.New(slog.DiscardHandler), Out: io.Discard})
		if err == nil {
			a.stop()
			t.Fatalf("%+v was taken", c)
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v gave %q, want %q", c, err, c.want)
		}
	}
}
