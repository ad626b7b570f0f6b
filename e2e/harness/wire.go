package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Modern is the revision without sessions.
const Modern = "2026-07-28"

// Meta is what every modern request must carry, with every client capability that the demo can use.
const Meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}`

// Answer is one HTTP answer, read to its end.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Code is the JSON-RPC error code of the answer, or 0.
func (a Answer) Code() int {
	var m struct {
		Error struct {
			Code int `json:"code"`
		} `json:"error"`
	}
	_ = json.Unmarshal([]byte(a.Message()), &m)
	return m.Error.Code
}

// Message is the JSON of the answer: its body, or the data of the last event of a stream.
func (a Answer) Message() string {
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "text/event-stream") {
		return a.Body
	}
	last := ""
	for line := range strings.Lines(a.Body) {
		if data, ok := strings.CutPrefix(line, "data:"); ok && strings.TrimSpace(data) != "" {
			last = strings.TrimSpace(data)
		}
	}
	return last
}

// Field decodes the answer and walks down keys and indices ("result", "content", 0); nil where there is nothing.
func (a Answer) Field(path ...any) any {
	d := json.NewDecoder(strings.NewReader(a.Message()))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func (a Answer) String() string {
	return fmt.Sprintf("%d %s", a.Status, tail(a.Body, 2000))
}

// Post posts a body with the two headers that every request needs and reads the answer to its end, within ten seconds.
func Post(tb testing.TB, url, body string, headers ...string) Answer {
	tb.Helper()
	a, err := Do(tb.Context(), http.MethodPost, url, strings.NewReader(body), headers...)
	if err != nil {
		tb.Fatalf("POST %s: %v", tail(body, 200), err)
	}
	return a
}

// Do sends one request on a connection of the shared pool.
func Do(ctx context.Context, method, url string, body io.Reader, headers ...string) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	for _, h := range headers {
		if name, ok := strings.CutPrefix(h, "-"); ok {
			req.Header.Del(name)
			continue
		}
		name, value, _ := strings.Cut(h, ":")
		value = strings.TrimSpace(value)
		switch http.CanonicalHeaderKey(name) {
		case "Host":
			req.Host = value
		case "Content-Type", "Accept":
			req.Header.Set(name, value)
		default:
			req.Header.Add(name, value)
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	var buf bytes.Buffer
	_, err = buf.ReadFrom(res.Body)
	return Answer{Status: res.StatusCode, Header: res.Header, Body: buf.String()}, err
}

// ModernBody is a modern request; params are the members of its params beside _meta, without braces.
func ModernBody(id, method, params string) string {
	if params != "" {
		params += ","
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":{%s%s}}`, id, method, params, Meta)
}

// ModernHeaders are the headers that must go with a modern request; name is empty where the method has none.
func ModernHeaders(method, name string) []string {
	h := []string{"MCP-Protocol-Version: " + Modern, "Mcp-Method: " + method}
	if name != "" {
		h = append(h, "Mcp-Name: "+name)
	}
	return h
}

// CallModern calls a tool in the modern era; args is a JSON object.
func CallModern(tb testing.TB, url, tool, args string) Answer {
	tb.Helper()
	body := ModernBody("1", "tools/call", fmt.Sprintf(`"name":%q,"arguments":%s`, tool, args))
	return Post(tb, url, body, ModernHeaders("tools/call", tool)...)
}

// Session is a legacy session over Streamable HTTP.
type Session struct {
	URL, ID, Revision string
}

// Initialize opens a legacy session with capabilities, a JSON object, and says that it is initialized.
func Initialize(tb testing.TB, url, revision, capabilities string) Session {
	tb.Helper()
	a := Post(tb, url, fmt.Sprintf(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":%q,"capabilities":%s,"clientInfo":{"name":"e2e","version":"1"}}}`, revision, capabilities))
	if got := a.Field("result", "protocolVersion"); a.Status != http.StatusOK || got != revision {
		tb.Fatalf("initialize %s: %v", revision, a)
	}
	s := Session{URL: url, ID: a.Header.Get("Mcp-Session-Id"), Revision: revision}
	if a := s.Post(tb, `{"jsonrpc":"2.0","method":"notifications/initialized"}`); a.Status != http.StatusAccepted {
		tb.Fatalf("notifications/initialized: %v", a)
	}
	return s
}

// Headers are those of a request in the session.
func (s Session) Headers() []string {
	var h []string
	if s.ID != "" {
		h = append(h, "Mcp-Session-Id: "+s.ID)
	}
	if s.Revision >= "2025-06-18" {
		h = append(h, "MCP-Protocol-Version: "+s.Revision)
	}
	return h
}

// Post posts a body in the session.
func (s Session) Post(tb testing.TB, body string, headers ...string) Answer {
	tb.Helper()
	return Post(tb, s.URL, body, append(s.Headers(), headers...)...)
}

// Call calls a tool in the session; args is a JSON object.
func (s Session) Call(tb testing.TB, tool, args string) Answer {
	tb.Helper()
	return s.Post(tb, fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, tool, args))
}
