package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/e2e/harness"
)

// raw is a request as it goes over the wire, with a length of its own choice.
func raw(s *harness.Server, body string, length int) string {
	head := fmt.Sprintf("POST /mcp HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: %d\r\n", s.Host(), length)
	return head + "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: rows\r\n\r\n" + body
}

func dial(t *testing.T, s *harness.Server) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", s.Host())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// TestSlowSenders sends half a head and half a body and then nothing: the server says what is wrong and lets go of them.
func TestSlowSenders(t *testing.T) {
	t.Parallel()
	s := harness.Work(t, "listen: {header_timeout: 300ms, body_timeout: 300ms}\n")
	for _, test := range []struct{ name, half, answer string }{
		{"head", "POST /mcp HTTP/1.1\r\nHost: " + s.Host() + "\r\nContent-", "HTTP/1.1 400 "}, // net/http's own answer
		{"body", raw(s, `{"jsonrpc":`, 1000), "HTTP/1.1 408 "},
		{"chunked body", strings.Replace(raw(s, "5\r\n{\"jso", 0), "Content-Length: 0", "Transfer-Encoding: chunked", 1), "HTTP/1.1 408 "},
	} {
		c := dial(t, s)
		if _, err := io.WriteString(c, test.half); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c) // ends without an error when the server closes the connection
		if err != nil {
			t.Errorf("half a %s: the connection was not closed within 10 s: %v: %q", test.name, err, answer)
		}
		if !strings.HasPrefix(string(answer), test.answer) {
			t.Errorf("half a %s: want %s: %q", test.name, test.answer, answer)
		}
	}
	serves(t, s)
}

// serves proves that a server of harness.WorkConfig answers other callers.
func serves(t *testing.T, s *harness.Server) {
	t.Helper()
	if a := harness.CallModern(t, s.URL, "count_notes", `{}`); a.Field("result", "structuredContent", "rows") == nil {
		t.Fatalf("a good call meanwhile: %v", a)
	}
}

// TestSlowReaders ask for large results and never read them: others are served meanwhile, and the server closes their
// connections once they have had body_timeout to take the answer.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	s := harness.Work(t, "listen: {header_timeout: 3s, body_timeout: 3s}\n")
	serves(t, s)
	sockets, before := s.Sockets(t), s.Memory(t)
	// 8 MiB: of less, the kernel's buffers would take all, and the server would never wait.
	body := harness.ModernBody("1", "tools/call", `"name":"long","arguments":{"n":4000,"width":1000}`)
	request := strings.Replace(raw(s, body, len(body)), "Mcp-Name: rows", "Mcp-Name: long", 1)
	const readers = 10
	for range readers {
		c := dial(t, s)
		if err := c.SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, 10*time.Second, "the server takes the connections", func() error {
		if open := s.Sockets(t); open < sockets+readers {
			return fmt.Errorf("it has %d sockets, and had %d before", open, sockets)
		}
		return nil
	})
	start := time.Now()
	for range 20 {
		serves(t, s)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("20 good calls took %v while %d readers were slow", took, readers)
	}
	harness.Eventually(t, 60*time.Second, "the server closes the connections", func() error {
		if open := s.Sockets(t); open > sockets {
			return fmt.Errorf("it has %d sockets, and had %d before", open, sockets)
		}
		return nil
	})
	s.Grown(t, before, 600<<20, fmt.Sprintf("%d results of 8 MiB that nobody reads", readers))
	serves(t, s)
}

// TestIdleConnections holds 10,000 connections that have asked once and then say nothing.
func TestIdleConnections(t *testing.T) {
	const want = 10_000
	// Each end of a connection is a file of its process. Main has raised the limit as far as it may.
	if limit := harness.OpenFiles(t); limit < want+1000 {
		reason := fmt.Sprintf("the limit of open files is %d and cannot be raised: %d connections take %d", limit, want, want+1000)
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	s := harness.Work(t, "")
	before := s.Memory(t)
	request := strings.Replace(raw(s, harness.ModernBody("1", "tools/call", `"name":"count_notes","arguments":{}`), 0), "Mcp-Name: rows", "Mcp-Name: count_notes", 1)
	head, body, _ := strings.Cut(request, "\r\n\r\n")
	request = strings.Replace(head, "Content-Length: 0", fmt.Sprintf("Content-Length: %d", len(body)), 1) + "\r\n\r\n" + body
	conns := make(chan net.Conn, want)
	todo := make(chan struct{}, want)
	for range want {
		todo <- struct{}{}
	}
	close(todo)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range todo {
				c, err := askOnce(s, request)
				if err != nil {
					t.Error(err)
					return
				}
				conns <- c
			}
		})
	}
	wg.Wait()
	close(conns)
	defer func() {
		for c := range conns {
			c.Close()
		}
	}()
	if held := len(conns); held != want {
		t.Fatalf("%d of %d connections", held, want)
	}
	serves(t, s)
	if open := s.Sockets(t); open < want {
		t.Errorf("the server has %d sockets, want the %d connections", open, want)
	}
	if code, _, err := s.AdminGet("/readyz"); code != http.StatusOK {
		t.Errorf("readiness: %d %v", code, err)
	}
	s.Grown(t, before, 500<<20, fmt.Sprintf("%d idle connections", want))
}

// askOnce opens a connection, gets one answer and leaves the connection open.
func askOnce(s *harness.Server, request string) (net.Conn, error) {
	c, err := net.Dial("tcp", s.Host())
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c, request); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	return c, nil
}
