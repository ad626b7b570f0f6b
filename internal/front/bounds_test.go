package front

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/internal/mcp"
)

func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	// net/http keeps a connection that it closes for half a second after the last byte, in a goroutine of its own.
	lingering := goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait")
	if err := goleak.Find(lingering); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// blank is a ResponseWriter that keeps nothing.
type blank struct{ h http.Header }

func (b *blank) Header() http.Header         { return b.h }
func (b *blank) Write(p []byte) (int, error) { return len(p), nil }
func (b *blank) WriteHeader(int)             {}

type rewound struct{ *bytes.Reader }

func (rewound) Close() error { return nil }

// TestHitAllocations holds the ceiling of a hit: four allocations beyond the empty handler's, which has none here.
func TestHitAllocations(t *testing.T) {
	_, s, svc := newTestCore(t, nil)
	svc.ready["hot"] = mcp.Result{Fields: []byte(`"content":[]`), Cache: mcp.CacheInfo{Status: mcp.CacheHit, Level: 1}}
	sid := open(t, s, "2025-11-25", `{}`)
	for _, c := range []struct {
		name, body string
		headers    []string
	}{
		{"modern", call("1", "hot", ","+plainMeta), modernHeaders("tools/call", "hot")},
		{"legacy", call("1", "hot", ""), []string{"Mcp-Session-Id: " + sid}},
	} {
		r := httptest.NewRequest("POST", "http://localhost/mcp", nil)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		for _, h := range c.headers {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Set(name, value)
		}
		body := rewound{bytes.NewReader([]byte(c.body))}
		r.Body = body
		w := &blank{http.Header{}}
		n := testing.AllocsPerRun(1000, func() {
			body.Seek(0, io.SeekStart)
			clear(w.h)
			s.ServeHTTP(w, r)
		})
		t.Logf("%s: %v allocations", c.name, n)
		if n > 4 && !raceDetector {
			t.Errorf("%s: a hit allocates %v times, at most 4 are allowed", c.name, n)
		}
	}
}

// FuzzHTTP answers whatever comes with a status, and with JSON where it says so.
func FuzzHTTP(f *testing.F) {
	_, s, _ := newTestCore(f, map[string]mcp.Handler{"echo": echo, "confirm": confirm})
	sid := open(f, s, "2025-03-26", `{}`)
	f.Add("POST", call("1", "echo", ","+plainMeta), "2026-07-28", "tools/call", "echo", false)
	f.Add("POST", call("1", "confirm", ","+fullMeta), "2026-07-28", "tools/call", "=?base64?Y29uZmlybQ==?=", false)
	f.Add("POST", `[`+call("1", "echo", "")+`,{"jsonrpc":"2.0","method":"x"},null]`, "", "", "", true)
	f.Add("POST", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"x"}}`, "2025-11-25", "", "", false)
	f.Add("POST", `{"jsonrpc":"2.0","id":"millrace-1","error":{}}`, "2025-06-18", "", "", true)
	f.Add("DELETE", "", "2024-11-05", "", "", false)
	f.Add("GET", "", "2026-07-28", "x", "y", true)
	f.Fuzz(func(t *testing.T, method, body, version, name, target string, session bool) {
		switch method {
		case "POST", "DELETE", "PUT":
		case "GET": // with a session, or no version, a stream would stay open
			if session = false; version == "" {
				return
			}
		default:
			method = "POST"
		}
		r := httptest.NewRequest(method, "http://localhost/mcp", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		if strings.Contains(body, "listen") {
			r.Header.Set("Accept", "application/json") // it would wait
		}
		for k, v := range map[string]string{headerVersion: version, headerMethod: name, headerName: target} {
			if v != "" {
				r.Header[k] = []string{v}
			}
		}
		if session && method == "POST" {
			r.Header[headerSession] = []string{sid}
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code < 200 || w.Code >= 500 && w.Code != 503 {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		if w.Header().Get("Content-Type") == "application/json" && !mcp.Valid(w.Body.Bytes()) {
			t.Fatalf("no JSON: %q", w.Body)
		}
	})
}

// kinds counts errors by kind.
type kinds struct {
	mu sync.Mutex // guards n
	n  map[string]int
}

func (*kinds) Observe(mcp.Revision, mcp.CacheStatus, time.Duration) {}

func (k *kinds) Error(_ mcp.Revision, kind string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.n[kind]++
}

// Whatever is refused is counted: a wrong key or a flood of large bodies must be seen in the metrics.
func TestRefusalsAreCounted(t *testing.T) {
	started := make(chan struct{})
	core, s, _ := newTestCore(t, map[string]mcp.Handler{"wait": func(ctx context.Context, _ *mcp.Call) (mcp.Result, error) {
		close(started)
		<-ctx.Done()
		return mcp.Result{}, ctx.Err()
	}})
	count := &kinds{n: map[string]int{}}
	for m := range core.meters {
		core.meters[m] = count
	}
	for _, c := range []struct{ method, body, header, kind string }{
		{"POST", "{}", "Host: evil.example", "forbidden"},
		{"POST", "{}", "Authorization: Basic x", "unauthorized"},
		{"PUT", "{}", "X: y", "method_not_allowed"},
		{"GET", "", "Mcp-Session-Id: gone", "not_found"},
		{"GET", "", "MCP-Protocol-Version: 2025-11-25", "invalid_request"},
		{"POST", strings.Repeat(" ", 5<<20), "X: y", "too_large"},
		{"POST", "{", "X: y", "parse"},
	} {
		clear(count.n)
		do(s, c.method, c.body, c.header)
		if len(count.n) != 1 || count.n[c.kind] != 1 {
			t.Errorf("%s with %s: counted %v, want %q", c.method, c.header, count.n, c.kind)
		}
	}
	clear(count.n)
	sid := "Mcp-Session-Id: " + open(t, s, "2025-11-25", `{}`)
	go func() {
		<-started
		do(s, "POST", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}`, sid)
	}()
	do(s, "POST", call("5", "wait", ""), sid)
	if count.n["cancelled"] != 1 {
		t.Errorf("a cancelled call counted %v", count.n)
	}
}
