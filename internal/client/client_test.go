package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(serverMode); mode != "" {
		serveStdio(mode)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// rawServer answers each request with what answer gives, byte by byte as it stands.
type rawServer struct {
	t  *testing.T
	l  net.Listener
	wg sync.WaitGroup

	mu       sync.Mutex // guards what follows
	conns    []net.Conn
	accepted int
	requests []string // with headers and body
}

// raw starts a server; after each answer the connection stays open if keep says so.
func raw(t *testing.T, answer func(n int, body string) (response string, keep bool)) *rawServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{t: t, l: l}
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.accepted++
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(conn, answer) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *rawServer) serve(conn net.Conn, answer func(int, string) (string, bool)) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		var head bytes.Buffer
		req.Header.Write(&head)
		s.mu.Lock()
		s.requests = append(s.requests, req.Method+" "+req.URL.Path+"\n"+head.String()+string(body))
		n := len(s.requests)
		s.mu.Unlock()
		response, keep := answer(n, string(body))
		if _, err := io.WriteString(conn, response); err != nil || !keep {
			return
		}
	}
}

// seen gives how many connections there were, and the requests.
func (s *rawServer) seen() (accepted int, requests []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted, s.requests
}

func (s *rawServer) url() string { return "http://" + s.l.Addr().String() + "/mcp" }

func (s *rawServer) session(t *testing.T, change ...func(*Config)) *Session {
	t.Helper()
	cfg := Config{URL: s.url(), Revision: mcp.Modern, Timeout: 10 * time.Second, MaxBytes: 100_000}
	for _, f := range change {
		f(&cfg)
	}
	session, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Close)
	return session
}

func withLength(status, kind, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", status, kind, len(body), body)
}

const good = `{"jsonrpc":"2.0","id":1,"result":{"ok":true}}`

// ok is the whole answer to the first request.
var ok = withLength("200 OK", "application/json", good)

func chunked(kind string, parts ...string) string {
	var b strings.Builder
	b.WriteString("HTTP/1.1 200 OK\r\nContent-Type: " + kind + "\r\nTransfer-Encoding: chunked\r\n\r\n")
	for _, p := range parts {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(p), p)
	}
	return b.String() + "0\r\n\r\n"
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct{ name, response, want string }{
		{"JSON", ok, `{"ok":true}`},
		{"names in small letters", strings.ToLower("HTTP/1.1 200 OK\r\nCONTENT-TYPE: application/json; charset=utf-8\r\nCONTENT-LENGTH:45") + "\r\n\r\n" + good, "status line"},
		{"a charset", withLength("200 OK", "application/json; charset=utf-8", good), `{"ok":true}`},
		{"chunks", chunked("application/json", good[:7], good[7:]), `{"ok":true}`},
		{"to the end of the connection", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + good, `{"ok":true}`},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + good, `{"ok":true}`},
		{"interim responses", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok, `{"ok":true}`},
		{"a stream", chunked("text/event-stream", ": hello\n\n", "id: 1\ndata: \n\n", "event: message\ndata: "+good+"\n\n"), `{"ok":true}`},
		{"a stream with other events", chunked("text/event-stream", "event: x\ndata: y\n\ndata: "+good+"\n\n"), `{"ok":true}`},
		{"an error", withLength("200 OK", "application/json", `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no \"x\"","data":{"a":1}}}`), `error -32602 no "x" {"a":1}`},
		{"an error with a status", withLength("400 Bad Request", "application/json", `{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"m"}}`), `error -32022 m `},
		{"an error without an id", withLength("400 Bad Request", "application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}`), `error -32700 m `},

		{"another id", withLength("200 OK", "application/json", `{"jsonrpc":"2.0","id":2,"result":{}}`), "broke the protocol: it answered request 1 with the id 2"},
		{"an id of another type", withLength("200 OK", "application/json", `{"jsonrpc":"2.0","id":"1","result":{}}`), `broke the protocol: it answered request 1 with the id "1"`},
		{"no id", withLength("200 OK", "application/json", `{"jsonrpc":"2.0","result":{}}`), "broke the protocol"},
		{"no JSON", withLength("200 OK", "application/json", `{"jsonrpc":`), "broke the protocol: malformed JSON"},
		{"a key twice", withLength("200 OK", "application/json", `{"jsonrpc":"2.0","id":1,"id":1,"result":{}}`), "broke the protocol: malformed JSON"},
		{"a request for an answer", withLength("200 OK", "application/json", `{"jsonrpc":"2.0","id":1,"method":"ping"}`), "broke the protocol: it answered a request with another message"},
		{"an error without a code", withLength("200 OK", "application/json", `{"jsonrpc":"2.0","id":1,"error":{"message":"m"}}`), "broke the protocol: an error without code"},
		{"another type", withLength("200 OK", "text/html", "<html>"), "broke the protocol: it answered a request with status 200 and neither"},
		{"accepted", "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", "HTTP status 202"},
		{"a status", withLength("500 Oops", "text/plain", "it fell over"), "HTTP status 500: it fell over"},
		{"a status with other JSON", withLength("503 Busy", "application/json", `{"error":"busy"}`), `HTTP status 503: {"error":"busy"}`},
		{"a redirect", "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n", "HTTP status 302"},
		{"nothing", "", "EOF"},
		{"another protocol", "SSH-2.0-OpenSSH_9.2\r\n", `is no HTTP/1.1 response`},
		{"HTTP/2", "HTTP/2.0 200 OK\r\n\r\n", `is no HTTP/1.1 response`},
		{"no status", "HTTP/1.1 abc OK\r\n\r\n", `is no HTTP/1.1 response`},
		{"half a header", "HTTP/1.1 200 OK\r\nContent-", "unexpected EOF"},
		{"no header line", "HTTP/1.1 200 OK\r\nfoo\r\n\r\n", `"foo" is no header line`},
		{"a folded header", "HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\n", `is no header line`},
		{"half a body", ok[:len(ok)-5], "unexpected EOF"},
		{"half a chunk", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", "unexpected EOF"},
		{"no chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "chunk length"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "Content-Length"},
		{"a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"},
		{"gzip", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "was not asked for"},
		{"another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "Transfer-Encoding"},
		{"a large header line", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", "a header line of more than"},
		{"a large header", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+strings.Repeat("x", 1000)+"\r\n", 100) + "\r\n", "a header of more than"},
		{"interim responses without end", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20), "interim responses without end"},
		{"a promise of too much", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n{", "of which at most"},
		{"too much", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + strings.Repeat(" ", 200_000), "a message of more than"},
		{"a stream that ends", chunked("text/event-stream", ": x\n\n"), "the stream ended before the answer"},
		{"a large event", chunked("text/event-stream", "data: "+strings.Repeat("x", 200_000)+"\n\n"), "larger than allowed"},
		{"a stream with no JSON", chunked("text/event-stream", "data: {\n\n"), "malformed JSON"},
		{"a request in a stream", chunked("text/event-stream", `data: {"jsonrpc":"2.0","id":7,"method":"ping"}`+"\n\n"), "sent a request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := raw(t, func(int, string) (string, bool) { return c.response, false }).session(t)
			if c.want == "status line" {
				c.want = "is no HTTP/1.1 response" // the protocol's name is in capitals
			}
			var a Answer
			err := s.Call(t.Context(), &Call{Method: "tools/call", Name: "x", Params: []byte(`"name":"x"`)}, &a)
			got := string(a.Result)
			switch {
			case err != nil:
				got = err.Error()
				if strings.Contains(c.want, "broke the protocol") && !errors.Is(err, ErrProtocol) {
					t.Errorf("%v is not ErrProtocol", err)
				}
			case a.Error != nil:
				got = fmt.Sprintf("error %d %s %s", a.Error.Code, a.Error.Message, a.Error.Data)
			case a.Received.IsZero() || a.Bytes != len(good):
				t.Errorf("received %v, %d bytes", a.Received, a.Bytes)
			}
			if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
				t.Errorf("gave %s, want %s", got, c.want)
			}
		})
	}
}

// answerEach gives each request its own id back.
func answerEach(n int, body string) (string, bool) {
	var m mcp.Request
	if m.Scan([]byte(body)) != nil || m.ID == nil {
		return "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", true
	}
	return withLength("200 OK", "application/json", `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"n":`+fmt.Sprint(n)+`}}`), true
}

func TestWhatIsSent(t *testing.T) {
	t.Parallel()
	srv := raw(t, answerEach)
	s := srv.session(t, func(c *Config) {
		c.Key, c.Headers = conf.Secret("sesame"), []Header{{"X-Team", "web"}}
		c.Name, c.Version = "test", "1"
	})
	var a Answer
	if err := s.Call(t.Context(), &Call{Method: "tools/call", Name: "größe", Params: []byte(`"name":"größe"`), Meta: []byte(`"progressToken":1`),
		Headers: []Header{{"Mcp-Param-Id", " 7"}}}, &a); err != nil {
		t.Fatal(err)
	}
	_, requests := srv.seen()
	got := requests[0]
	for _, want := range []string{"POST /mcp\n", "Accept: application/json, text/event-stream\r\n", "Authorization: Bearer sesame\r\n",
		"Mcp-Method: tools/call\r\n", "Mcp-Name: =?base64?Z3LDtsOfZQ==?=\r\n", "Mcp-Param-Id: =?base64?IDc=?=\r\n", "Mcp-Protocol-Version: 2026-07-28\r\n", "X-Team: web\r\n",
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"größe","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",` +
			`"io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"},"io.modelcontextprotocol/clientCapabilities":{},"progressToken":1}}}`} {
		if !strings.Contains(got, want) {
			t.Errorf("sent\n%s\nwithout %s", got, want)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{URL: "ftp://x"}, "write http://"},
		{Config{URL: "http://user:secret@x/"}, "write http://"},
		{Config{URL: "http://x/", Headers: []Header{{"A b", "c"}}}, "no such name"},
		{Config{URL: "http://x/", Headers: []Header{{"A", "b\r\nC: d"}}}, "control character"},
		{Config{URL: "http://x/", Headers: []Header{{"Content-Length", "1"}}}, "the client's own"},
		{Config{URL: "http://x/", Key: "a\nb"}, "API key holds a byte"},
	} {
		if _, err := Open(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v gave %v, want %s", c.cfg, err, c.want)
		}
	}
}

// A server's schema names the headers that repeat arguments: no name of its may begin another line.
func TestHeaderNamesAreChecked(t *testing.T) {
	t.Parallel()
	srv := raw(t, answerEach)
	s := srv.session(t)
	err := s.Call(t.Context(), &Call{Method: "tools/call", Headers: []Header{{"Mcp-Param-X: 1\r\n\r\nGET / HTTP/1.1\r\nA", "b"}}}, new(Answer))
	if n, _ := srv.seen(); err == nil || n != 0 {
		t.Errorf("gave %v after %d connections", err, n)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	srv := raw(t, answerEach)
	s := srv.session(t)
	var a Answer
	for range 10 {
		if err := s.Call(t.Context(), &Call{Method: "ping"}, &a); err != nil {
			t.Fatal(err)
		}
	}
	if n, _ := srv.seen(); n != 1 {
		t.Errorf("%d connections for ten calls, want 1", n)
	}
	// One that the server closes while it is idle is not used again.
	srv.mu.Lock()
	srv.conns[0].Close()
	srv.mu.Unlock()
	s.wires.idle[0].idle = time.Time{}
	for alive(s.wires.idle[0].conn) {
	}
	err := s.Call(t.Context(), &Call{Method: "ping"}, &a)
	if n, _ := srv.seen(); err != nil || n != 2 {
		t.Errorf("%v, %d connections", err, n)
	}
	one := srv.session(t, func(c *Config) { c.NoKeepAlive = true })
	for range 3 {
		if err := one.Call(t.Context(), &Call{Method: "ping"}, &a); err != nil {
			t.Fatal(err)
		}
	}
	if n, _ := srv.seen(); n != 5 {
		t.Errorf("%d connections, want one for each call", n)
	}
}

func TestManyCallsAtOnce(t *testing.T) {
	t.Parallel()
	s := raw(t, answerEach).session(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			var a Answer
			for range 50 {
				if err := s.Call(t.Context(), &Call{Method: "ping"}, &a); err != nil || a.Result == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A call ends at its deadline and when its context does; the server sees its connection close, and in legacy revisions
// hears of it.
func TestCallsEnd(t *testing.T) {
	t.Parallel()
	silent := make(chan struct{})
	defer close(silent)
	for _, rev := range []mcp.Revision{mcp.Modern, mcp.Revision20251125} {
		asked, told := make(chan struct{}, 1), make(chan string, 10)
		srv := raw(t, func(_ int, body string) (string, bool) {
			switch {
			case strings.Contains(body, `"initialize"`):
				return withLength("200 OK", "application/json", `{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25"}}`), true
			case strings.Contains(body, "notifications/"):
				told <- body
				return "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", true
			}
			asked <- struct{}{}
			<-silent
			return "", false
		})
		s := srv.session(t, func(c *Config) { c.Revision = rev })
		if rev == mcp.Revision20251125 {
			<-told // initialized
		}
		var a Answer
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("why")
		go func() {
			<-asked
			cancel(why)
		}()
		if err := s.Call(ctx, &Call{Method: "ping"}, &a); !errors.Is(err, why) {
			t.Errorf("%s: the cancelled call gave %v", rev, err)
		}
		if rev == mcp.Revision20251125 {
			if got := <-told; !strings.Contains(got, `"method":"notifications/cancelled","params":{"requestId":2}`) {
				t.Errorf("the server was told %s", got)
			}
		}
		err := s.Call(t.Context(), &Call{Method: "ping", Deadline: time.Now().Add(20 * time.Millisecond)}, &a)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the late call gave %v", rev, err)
		}
		if rev == mcp.Revision20251125 {
			if got := <-told; !strings.Contains(got, `"method":"notifications/cancelled","params":{"requestId":3}`) {
				t.Errorf("of the late call the server was told %s", got)
			}
		}
	}
}

// silentServer takes one request, says that it has, and never answers it.
func silentServer(t *testing.T) (srv *rawServer, arrived <-chan struct{}) {
	t.Helper()
	came, end := make(chan struct{}), make(chan struct{})
	srv = raw(t, func(int, string) (string, bool) {
		close(came)
		<-end
		return "", false
	})
	t.Cleanup(func() { close(end) }) // before the server's own clean-up, which waits for it
	return srv, came
}

// Close ends the calls that are under way.
func TestCloseEndsCalls(t *testing.T) {
	t.Parallel()
	srv, arrived := silentServer(t)
	s := srv.session(t)
	go func() {
		<-arrived
		s.Close()
	}()
	if err := s.Call(context.Background(), &Call{Method: "ping"}, new(Answer)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the call gave %v", err)
	}
	if err := s.Call(context.Background(), &Call{Method: "ping"}, new(Answer)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a call after Close gave %v", err)
	}
}

// Close does not wait for a server of 2024-11-05 that asks and does not take the answers.
func TestCloseGivesAnswersUp(t *testing.T) {
	t.Parallel()
	var stuck atomic.Int64
	asked, full, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "event: endpoint\ndata: /mcp\n\n")
			w.(http.Flusher).Flush()
			<-asked
			io.WriteString(w, `data: {"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2024-11-05"}}`+"\n\n")
			io.WriteString(w, strings.Repeat(`data: {"jsonrpc":"2.0","id":"p","method":"ping"}`+"\n\n", 100))
			w.(http.Flusher).Flush()
			<-end
			return
		}
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), `"initialize"`) {
			close(asked)
		}
		if strings.Contains(string(body), `"result"`) {
			if stuck.Add(1) == mostAsking {
				close(full)
			}
			<-end
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer srv.Close()
	defer close(end)
	s, err := Open(t.Context(), Config{URL: srv.URL + "/mcp", Revision: mcp.Revision20241105, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	<-full
	began := time.Now()
	s.Close()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("Close took %s", took)
	}
}

// A notification that the server does not take ends with its context.
func TestNotifyEnds(t *testing.T) {
	t.Parallel()
	srv, arrived := silentServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if err := srv.session(t).Notify(ctx, &Call{Method: "notifications/x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Notify gave %v", err)
	}
}

// A session id that no header may carry as it is breaks the protocol.
func TestSessionIDIsChecked(t *testing.T) {
	t.Parallel()
	srv := raw(t, func(int, string) (string, bool) {
		return strings.Replace(withLength("200 OK", "application/json", `{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18"}}`),
			"\r\n", "\r\nMCP-Session-Id: a\rb\r\n", 1), true
	})
	if _, err := Open(t.Context(), Config{URL: srv.url(), Revision: mcp.Revision20250618}); !errors.Is(err, ErrProtocol) {
		t.Errorf("Open gave %v", err)
	}
}

// What comes before the answer is told, and the connection of a stream serves the next call.
func TestNotificationsAndQuestions(t *testing.T) {
	t.Parallel()
	replies := make(chan string, 1)
	srv := raw(t, func(_ int, body string) (string, bool) {
		var m mcp.Request
		if fault := m.Scan([]byte(body)); fault != nil {
			return withLength("400 Bad Request", "text/plain", fault.Message), true
		}
		switch {
		case m.Method == mcp.Initialize:
			return strings.Replace(withLength("200 OK", "application/json", `{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18"}}`), "\r\n", "\r\nMCP-Session-Id: s1\r\n", 1), true
		case m.Kind == mcp.KindResponse:
			replies <- body
			return "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", true
		case m.ID == nil:
			return "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", true
		}
		return chunked("text/event-stream", `data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}`+"\n\n",
			`data: {"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"sure?"}}`+"\n\n",
			`data: {"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{}}`+"\n\n"), true
	})
	s := srv.session(t, func(c *Config) { c.Revision = mcp.Revision20251125 })
	if s.Revision() != mcp.Revision20250618 || s.ID() != "s1" {
		t.Errorf("revision %s, session %q", s.Revision(), s.ID())
	}
	var heard []string
	call := &Call{Method: "tools/call", Notify: func(m []byte) { heard = append(heard, string(m)) },
		Ask: func(method string, params []byte) ([]byte, *mcp.Error) {
			return []byte(`{"method":"` + method + `","asked":` + string(params) + `}`), nil
		}}
	for range 2 {
		var a Answer
		if err := s.Call(t.Context(), call, &a); err != nil || string(a.Result) != "{}" {
			t.Fatal(a.Result, err)
		}
		if got := <-replies; got != `{"jsonrpc":"2.0","id":"q","result":{"method":"elicitation/create","asked":{"message":"sure?"}}}` {
			t.Errorf("replied %s", got)
		}
	}
	if len(heard) != 2 || !strings.Contains(heard[0], "progress") {
		t.Errorf("heard %q", heard)
	}
	// The first call's connection and that of the answer to its question.
	n, requests := srv.seen()
	if n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	if last := requests[len(requests)-1]; !strings.Contains(last, "Mcp-Session-Id: s1\r\n") || !strings.Contains(last, "Mcp-Protocol-Version: 2025-06-18\r\n") {
		t.Errorf("sent %s", last)
	}
}
