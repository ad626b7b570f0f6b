package load

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(serverMode); mode != "" {
		if err := serveAlone(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// server is an MCP server in memory, in a bubble of synctest's time: what a call takes and gives is up to each test.
type server struct {
	conns chan net.Conn
	ctx   context.Context // ends with the test
	call  func(w http.ResponseWriter, r *http.Request, m *mcp.Request) (result string)

	mu       sync.Mutex // guards what follows
	methods  map[string]int
	bodies   []string
	sessions int
}

// simulate runs f with a server in memory. call gives the result of a tools/call; with "" it has answered by itself.
func simulate(t *testing.T, call func(w http.ResponseWriter, r *http.Request, m *mcp.Request) string, f func(t *testing.T, srv *server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		srv := &server{conns: make(chan net.Conn), ctx: ctx, call: call, methods: map[string]int{}}
		s := &http.Server{Handler: srv, Protocols: new(http.Protocols)}
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
		var wg sync.WaitGroup
		wg.Go(func() { s.Serve(srv) })
		f(t, srv)
		cancel()
		s.Close()
		wg.Wait()
		synctest.Wait()
	})
}

func (s *server) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	mine, theirs := net.Pipe()
	select {
	case s.conns <- theirs:
		return mine, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept, Close and Addr implement net.Listener.
func (s *server) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}
func (s *server) Close() error   { return nil }
func (s *server) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// sleeper is a clock that goes by the bubble's time.
type sleeper struct{ done chan struct{} }

func (s sleeper) wait(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-s.done:
		return net.ErrClosed
	}
}
func (s sleeper) close() { close(s.done) }

const (
	toolList = `{"resultType":"complete","tools":[
		{"name":"get","inputSchema":{"type":"object","properties":{"id":{"type":"integer","minimum":5,"maximum":9}},"required":["id"]},
		 "outputSchema":{"type":"object","properties":{"v":{"type":"integer"}},"required":["v"]},"annotations":{"readOnlyHint":true}},
		{"name":"greedy","inputSchema":{"type":"object","properties":{"a":{"default":{"file":"/no/such/file"}},"b":{"const":{"file":"/no/such/file"}}},"required":["a","b"]},
		 "outputSchema":{"type":"object","$ref":"#"},"annotations":{"readOnlyHint":true}},
		{"name":"put","inputSchema":{"type":"object"}},
		{"name":"picky","inputSchema":{"type":"object","properties":{"x":{"type":"string","pattern":"^never$"}},"required":["x"]},"annotations":{"readOnlyHint":true}}]}`
	right = `{"resultType":"complete","content":[],"structuredContent":{"v":1}}`
)

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var m mcp.Request
	if r.Method == http.MethodDelete {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if fault := m.Scan(body); fault != nil {
		http.Error(w, fault.Message, http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.methods[string(m.MethodName)]++
	if len(s.bodies) < 10_000 {
		s.bodies = append(s.bodies, string(body))
	}
	s.mu.Unlock()
	result := ""
	switch m.Method {
	case mcp.Initialize:
		s.mu.Lock()
		s.sessions++
		w.Header().Set("Mcp-Session-Id", fmt.Sprintf("s%d", s.sessions))
		s.mu.Unlock()
		version, _ := mcp.Text(mcp.Member(m.Params, "protocolVersion"))
		result = `{"protocolVersion":"` + string(version) + `","capabilities":{},"serverInfo":{"name":"probe","version":"7"}}`
	case mcp.ServerDiscover:
		result = `{"resultType":"complete","supportedVersions":["2026-07-28"],"serverInfo":{"name":"probe","version":"7"}}`
	case mcp.ToolsList:
		result = toolList
	case mcp.ToolsCall:
		if name, _ := mcp.Text(mcp.Member(m.Params, "name")); string(name) == "picky" {
			result = `{"content":[{"type":"text","text":"no"}],"isError":true}`
		} else if result = s.call(w, r, &m); result == "" {
			return
		}
	case mcp.ResourcesList:
		result = `{"resources":[{"uri":"a://1"}]}`
	case mcp.ResourcesRead:
		result = `{"contents":[]}`
	case mcp.SubscriptionsListen:
		time.Sleep(2 * time.Millisecond) // of the bubble's time
		if bytes.Contains(body, []byte("silent")) {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: %s\n\n", `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{}}`)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	default:
		if m.Kind == mcp.KindNotification {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		result = "{}"
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, result)
}

// asked gives the messages that came.
func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies)
}

func (s *server) count(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.methods[method]
}

// scenario is one with the tool get, asked for at once.
func scenario(phases ...PhaseConfig) *Scenario {
	s := DefaultScenario()
	s.Name, s.Phases, s.Sessions = "test", phases, 4
	o := OperationConfig{Tool: "get", Arguments: map[string]any{"id": map[string]any{"uniform": []any{int64(1), int64(9)}}}}
	o.SetDefaults()
	s.Operations = []OperationConfig{o}
	return &s
}

func seconds(s float64) conf.Duration { return conf.Duration(s * 1e9) }

func execute(t *testing.T, ctx context.Context, srv *server, s *Scenario) *Run {
	t.Helper()
	if faults := s.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	run, err := Execute(ctx, Options{Endpoint: Endpoint{URL: "http://127.0.0.1/mcp", Version: "test", Dial: srv.dial}, Scenario: s,
		Note: func(text string) { t.Log(text) }, clock: func() (clock, error) { return sleeper{make(chan struct{})}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func contains(all []string, part string) bool {
	for _, s := range all {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}
