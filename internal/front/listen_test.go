package front

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/conf"
)

// serve runs a server on a free port until the test ends.
func serve(t *testing.T, cfg Config, h http.Handler) (address string) {
	t.Helper()
	cfg.Address = "127.0.0.1:0"
	if faults := cfg.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	l, err := Listen(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := NewHTTPServer(cfg, h, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// echoProto answers with the protocol that it was asked in, and the body.
var echoProto = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestTimeout)
		return
	}
	io.WriteString(w, r.Proto+" "+string(body))
})

func client(t *testing.T, set func(*http.Transport, *http.Protocols)) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols), ForceAttemptHTTP2: false}
	set(tr, tr.Protocols)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func post(c *http.Client, url string) (string, error) {
	r, err := c.Post(url, "application/json", strings.NewReader("{}"))
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return string(body), err
}

func TestClearTextProtocols(t *testing.T) {
	http1 := client(t, func(_ *http.Transport, p *http.Protocols) { p.SetHTTP1(true) })
	h2c := client(t, func(_ *http.Transport, p *http.Protocols) { p.SetUnencryptedHTTP2(true) })

	url := "http://" + serve(t, DefaultConfig(), echoProto)
	for want, c := range map[string]*http.Client{"HTTP/1.1 {}": http1, "HTTP/2.0 {}": h2c} {
		if got, err := post(c, url); got != want || err != nil {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}

	off := DefaultConfig()
	off.HTTP2 = false
	url = "http://" + serve(t, off, echoProto)
	if got, err := post(http1, url); got != "HTTP/1.1 {}" {
		t.Errorf("http2: false, HTTP/1.1: %q, %v", got, err)
	}
	if got, err := post(h2c, url); err == nil {
		t.Errorf("http2: false, HTTP/2: %q", got)
	}
}

func TestKeepAlive(t *testing.T) {
	for _, on := range []bool{true, false} {
		cfg := DefaultConfig()
		cfg.KeepAlive = on
		conn, err := net.Dial("tcp", serve(t, cfg, echoProto))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Close == on {
			t.Errorf("keep_alive %v: Connection: close is %v", on, r.Close)
		}
		conn.Close()
	}
}

func TestHeaderTooLarge(t *testing.T) {
	c := client(t, func(_ *http.Transport, p *http.Protocols) { p.SetHTTP1(true) })
	r, _ := http.NewRequest("GET", "http://"+serve(t, DefaultConfig(), echoProto), nil)
	r.Header.Set("X-Long", strings.Repeat("x", maxHeaderBytes+8<<10))
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestFixedBuffers(t *testing.T) {
	cfg := DefaultConfig()
	cfg.TCPBuffer = 16 << 10
	var got int
	l, err := Listen(Config{Address: "127.0.0.1:0", TCPBuffer: cfg.TCPBuffer}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.(lazyListener).Listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if got, err = setBuffers(raw, int(cfg.TCPBuffer)); err != nil || got < 16<<10 {
		t.Errorf("%d bytes, %v", got, err)
	}
	if body, err := post(http.DefaultClient, "http://"+serve(t, cfg, echoProto)); body != "HTTP/1.1 {}" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// pipeListener is a listener in memory, so that time in tests is synctest's.
type pipeListener struct {
	conns  chan net.Conn
	closed context.Context
	close  func()
}

func newPipeListener() *pipeListener {
	ctx, cancel := context.WithCancel(context.Background())
	return &pipeListener{conns: make(chan net.Conn), closed: ctx, close: cancel}
}

func (l *pipeListener) dial() net.Conn {
	mine, theirs := net.Pipe()
	l.conns <- theirs
	return mine
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed.Done():
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.close(); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

// inBubble runs f against a server in memory whose time is synctest's.
func inBubble(t *testing.T, cfg Config, h http.Handler, f func(t *testing.T, l *pipeListener)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s := NewHTTPServer(cfg, h, slog.New(slog.DiscardHandler))
		var wg sync.WaitGroup
		wg.Go(func() { s.Serve(lazyListener{l}) })
		f(t, l)
		s.Close()
		wg.Wait()
	})
}

// timeToClose reads until the server closes the connection.
func timeToClose(conn net.Conn) time.Duration {
	start := time.Now()
	io.Copy(io.Discard, conn)
	return time.Since(start)
}

func TestTimeouts(t *testing.T) {
	cfg := DefaultConfig()
	cfg.HeaderTimeout = conf.Duration(7 * time.Second)
	cfg.BodyTimeout = conf.Duration(11 * time.Second)
	cfg.IdleTimeout = conf.Duration(13 * time.Second)

	for _, c := range []struct {
		name, send string
		want       time.Duration
	}{
		{"no byte", "", 7 * time.Second},
		{"half a header", "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-", 7 * time.Second},
		{"half a body", "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", 11 * time.Second},
		{"idle", "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}", 13 * time.Second},
		{"half a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nS", 7 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, cfg, echoProto, func(t *testing.T, l *pipeListener) {
				conn := l.dial()
				defer conn.Close()
				var wg sync.WaitGroup
				wg.Go(func() { io.WriteString(conn, c.send) })
				// net/http lingers half a second after an answer to a body that it did not read.
				if got := timeToClose(conn); got < c.want || got > c.want+time.Second {
					t.Errorf("closed after %v, want %v", got, c.want)
				}
				wg.Wait()
			})
		})
	}

	t.Run("slow reader", func(t *testing.T) {
		var failed chan error // made in the bubble: on one from outside, time would stand still
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := w.Write(make([]byte, 1<<20))
			failed <- err
		})
		inBubble(t, cfg, h, func(t *testing.T, l *pipeListener) {
			failed = make(chan error, 1)
			conn := l.dial()
			defer conn.Close()
			start := time.Now()
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
			if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 11*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	})

	t.Run("a trickle of a body does not help", func(t *testing.T) {
		inBubble(t, cfg, echoProto, func(t *testing.T, l *pipeListener) {
			conn := l.dial()
			defer conn.Close()
			var wg sync.WaitGroup
			wg.Go(func() {
				io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
				for {
					if _, err := conn.Write([]byte(" ")); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			})
			if got := timeToClose(conn); got < 11*time.Second || got > 12*time.Second {
				t.Errorf("closed after %v", got)
			}
			wg.Wait()
		})
	})

	t.Run("a stream moves its own deadlines", func(t *testing.T) {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			if err := errors.Join(rc.SetWriteDeadline(time.Time{}), rc.SetReadDeadline(time.Time{})); err != nil {
				t.Error(err)
			}
			for range 10 {
				time.Sleep(30 * time.Second)
				io.WriteString(w, "data\n")
				if err := rc.Flush(); err != nil {
					t.Error(err)
				}
			}
		})
		inBubble(t, cfg, h, func(t *testing.T, l *pipeListener) {
			conn := l.dial()
			defer conn.Close()
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			r, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(r.Body); len(body) != 50 || err != nil {
				t.Errorf("%d bytes, %v", len(body), err)
			}
		})
	})
}
