package front

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/hub"
	"millrace/internal/mcp"
	"millrace/internal/session"
)

// fakeService serves tools by functions.
type fakeService struct {
	tools map[string]mcp.Handler
	ready map[string]mcp.Result
}

var fakePolicy = &mcp.Policy{Timeout: 5 * time.Second}

func (f *fakeService) Has(toolset string) bool { return toolset == "" || toolset == "geo" }

func (f *fakeService) Resolve(_ string, _ map[string][]string, req *mcp.Request, call *mcp.Call) error {
	call.Request, call.Policy = req, fakePolicy
	switch req.Method {
	case mcp.ToolsCall:
		h, ok := f.tools[string(req.Name)]
		if _, ready := f.ready[string(req.Name)]; !ok && !ready {
			return mcp.Errorf(mcp.CodeInvalidParams, "unknown tool")
		}
		call.Target, call.Invoke = string(req.Name), h
		call.Args = append(call.Args, mcp.Value{Kind: mcp.KindText, Text: req.Arguments})
	case mcp.ToolsList:
		call.Invoke = func(context.Context, *mcp.Call) (mcp.Result, error) {
			return mcp.Result{Fields: []byte(`"tools":[]`), Hints: &mcp.Hints{TTL: time.Minute}}, nil
		}
	case mcp.ResourcesRead:
		if string(req.URI) == "city://none" {
			return &mcp.Error{Code: mcp.CodeResourceNotFound, Message: "unknown resource"}
		}
		call.Invoke = func(context.Context, *mcp.Call) (mcp.Result, error) {
			return mcp.Result{Fields: []byte(`"contents":[]`), Hints: &mcp.Hints{}}, nil
		}
	default:
		return mcp.Errorf(mcp.CodeMethodNotFound, "unknown method")
	}
	return nil
}

func (f *fakeService) Ready(call *mcp.Call, _ time.Time) (mcp.Result, bool) {
	r, ok := f.ready[call.Target]
	return r, ok
}

func (f *fakeService) Handle(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
	return call.Invoke(ctx, call)
}
func (f *fakeService) Acquire() bool { return true }
func (f *fakeService) Release()      {}

type noMeter struct{}

func (noMeter) Observe(mcp.Revision, mcp.CacheStatus, time.Duration) {}
func (noMeter) Error(mcp.Revision, string)                           {}

var echo = func(_ context.Context, c *mcp.Call) (mcp.Result, error) {
	return mcp.Result{Fields: []byte(`"content":[]`)}, nil
}

var confirm = func(_ context.Context, c *mcp.Call) (mcp.Result, error) {
	if c.Answer == nil || c.Answer.Responses["ok"] == nil {
		return mcp.Result{Input: &mcp.InputRequired{State: []byte("s"), Requests: []mcp.InputRequest{
			{Key: "ok", Method: "elicitation/create", Params: []byte(`{"message":"Sure?"}`)}}}}, nil
	}
	return mcp.Result{Fields: append([]byte(`"content":[],"answer":`), c.Answer.Responses["ok"]...)}, nil
}

// newTestCore makes a core, and its handler, over a fake service; both end with the test.
func newTestCore(t testing.TB, tools map[string]mcp.Handler) (*Core, *HTTP, *fakeService) {
	svc := &fakeService{tools: tools, ready: map[string]mcp.Result{}}
	store := session.NewMemory(session.DefaultConfig())
	var inFlight atomic.Int64
	core := NewCore(Deps{Service: func() Service { return svc }, Sessions: store, Hub: hub.New(),
		Meter: func(mcp.Method) mcp.Meter { return noMeter{} }, InFlight: gauge{&inFlight}, StateKey: []byte("key"),
		Version: "test", Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		core.Close()
		store.Close()
		if n := inFlight.Load(); n != 0 {
			t.Errorf("%d requests are in flight at the end", n)
		}
	})
	identify := func(authorization string) (*mcp.Principal, bool) {
		if who, ok := strings.CutPrefix(authorization, "Bearer "); ok {
			return mcp.NewPrincipal("", who, nil), true
		}
		return mcp.Anonymous, authorization == ""
	}
	return core, NewHTTP(DefaultConfig(), core, identify), svc
}

type gauge struct{ n *atomic.Int64 }

func (g gauge) Add(d int64) { g.n.Add(d) }

const (
	fullMeta  = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}`
	plainMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
)

// do sends one request through the handler. headers are "Name: value".
func do(s http.Handler, method, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://localhost/mcp", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if value == "" {
			r.Header.Del(name)
		} else if name == "Host" {
			r.Host = value
		} else {
			r.Header.Add(name, value)
		}
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// open initializes a session.
func open(t testing.TB, s http.Handler, revision, capabilities string, headers ...string) (id string) {
	t.Helper()
	w := do(s, "POST", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"`+revision+`","capabilities":`+capabilities+`}}`, headers...)
	if id = w.Header().Get("Mcp-Session-Id"); w.Code != 200 || id == "" {
		t.Fatalf("initialize gave %d %s", w.Code, w.Body)
	}
	return id
}

// call is a tools/call message of a tool.
func call(id, tool, more string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call","params":{"name":"` + tool + `"` + more + `}}`
}

func modernHeaders(method, name string) []string {
	h := []string{"Mcp-Protocol-Version: 2026-07-28", "Mcp-Method: " + method}
	if name != "" {
		h = append(h, "Mcp-Name: "+name)
	}
	return h
}

// live runs the handler on a real server and gives its URL.
func live(t *testing.T, s http.Handler) string {
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return srv.URL + "/mcp"
}

// send makes a request to a real server; its body is closed with the test.
func send(t *testing.T, ctx context.Context, method, url, body string, headers ...string) *http.Response {
	t.Helper()
	return sendBy(t, ctx, http.DefaultClient, method, url, body, headers...)
}

// sendBy is send through a client of the test's own.
func sendBy(t *testing.T, ctx context.Context, c *http.Client, method, url, body string, headers ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// events reads server-sent events.
type events struct{ *bufio.Scanner }

func readEvents(r io.Reader) events { return events{bufio.NewScanner(r)} }

// next gives the next event's id and data; both are "" at the end.
func (e events) next() (id, data string) {
	for e.Scan() {
		line := e.Text()
		if v, ok := strings.CutPrefix(line, "id: "); ok {
			id = v
		} else if v, ok := strings.CutPrefix(line, "data: "); ok {
			data = v
		} else if line == "" && (id != "" || data != "") {
			return id, data
		}
	}
	return "", ""
}
