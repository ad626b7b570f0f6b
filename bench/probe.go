package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// answer is what a server sent back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// prober sends single requests over one keep-alive connection.
type prober struct {
	conn net.Conn
	buf  *bufio.Reader
}

func dial(ctx context.Context, addr string) (*prober, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &prober{conn: conn, buf: bufio.NewReader(conn)}, nil
}

func (p *prober) close() { p.conn.Close() }

// send writes one rendered request and reads its whole answer.
func (p *prober) send(raw string) (answer, error) {
	p.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(p.conn, raw); err != nil {
		return answer{}, err
	}
	resp, err := http.ReadResponse(p.buf, &http.Request{Method: http.MethodPost})
	if err != nil {
		return answer{}, fmt.Errorf("read answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, fmt.Errorf("read answer: %w", err)
	}
	return answer{resp.StatusCode, resp.Header, body}, nil
}

// openSession does the legacy handshake and returns the session's id, which may be empty.
func openSession(ctx context.Context, addr string, headers ...[2]string) (string, error) {
	p, err := dial(ctx, addr)
	if err != nil {
		return "", err
	}
	defer p.close()
	hello := request{addr: addr, headers: headers, body: `{"jsonrpc":"2.0","id":` + idMark + `,"method":"initialize","params":{"protocolVersion":"` +
		legacyVersion + `","capabilities":{},"clientInfo":{"name":"bench","version":"1.0.0"}}}`}
	a, err := p.send(hello.render(firstID, 0))
	if err != nil {
		return "", fmt.Errorf("initialize: %w", err)
	}
	if a.status != http.StatusOK || !bytes.Contains(a.body, []byte(legacyVersion)) {
		return "", fmt.Errorf("initialize: status %d: %s", a.status, clip(a.body))
	}
	session := a.header.Get("Mcp-Session-Id")
	note := `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	raw := "POST /mcp HTTP/1.1\r\nHost: " + addr + "\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: " + legacyVersion + "\r\n"
	for _, h := range headers {
		raw += h[0] + ": " + h[1] + "\r\n"
	}
	if session != "" {
		raw += "Mcp-Session-Id: " + session + "\r\n"
	}
	a, err = p.send(raw + "Content-Length: " + strconv.Itoa(len(note)) + "\r\n\r\n" + note)
	if err != nil {
		return "", fmt.Errorf("notifications/initialized: %w", err)
	}
	if a.status != http.StatusAccepted {
		return "", fmt.Errorf("notifications/initialized: status %d: %s", a.status, clip(a.body))
	}
	return session, nil
}

// checkFunc judges one answer.
type checkFunc func(id, key int, a answer) error

// checkLength is the floor's: so many bytes, whatever they are.
func checkLength(size int) checkFunc {
	return func(_, _ int, a answer) error {
		if a.status != http.StatusOK || len(a.body) != size {
			return fmt.Errorf("status %d and %d bytes, want 200 and %d", a.status, len(a.body), size)
		}
		return nil
	}
}

// checkCall holds a tools/call answer to its id, to a text that names the key, and to a cache status (empty: any).
func checkCall(text, cacheStatus string) checkFunc {
	return func(id, key int, a answer) error {
		if a.status != http.StatusOK {
			return fmt.Errorf("status %d: %s", a.status, clip(a.body))
		}
		var m struct {
			ID     json.Number
			Error  json.RawMessage
			Result struct {
				IsError bool
				Content []struct{ Text string }
				Meta    struct {
					Cache struct{ Status string } `json:"millrace/cache"`
				} `json:"_meta"`
			}
		}
		if err := json.Unmarshal(message(a.body), &m); err != nil {
			return fmt.Errorf("answer is no JSON: %w: %s", err, clip(a.body))
		}
		want := strings.ReplaceAll(text, keyMark, strconv.Itoa(key))
		switch {
		case m.Error != nil || m.Result.IsError:
			return fmt.Errorf("an error: %s", clip(a.body))
		case m.ID.String() != strconv.Itoa(id):
			return fmt.Errorf("id %s, want %d", m.ID, id)
		case len(m.Result.Content) != 1 || !strings.Contains(m.Result.Content[0].Text, want):
			return fmt.Errorf("content without %q: %s", want, clip(a.body))
		case cacheStatus != "" && m.Result.Meta.Cache.Status != cacheStatus:
			return fmt.Errorf("cache status %q, want %q: %s", m.Result.Meta.Cache.Status, cacheStatus, clip(a.body))
		}
		return nil
	}
}

// message returns the JSON of an answer that may have come as one server-sent event.
func message(body []byte) []byte {
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		return body
	}
	for line := range bytes.Lines(body) {
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok && len(bytes.TrimSpace(data)) > 0 {
			return data
		}
	}
	return body
}

func clip(b []byte) string {
	if len(b) > 300 {
		return string(b[:300]) + "…"
	}
	return string(b)
}
