package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// rawConfig says how a rawServer behaves.
type rawConfig struct {
	Addr      string
	Admin     string        // where its Prometheus metrics are; "" for nowhere
	Spin      time.Duration // of processor for each call
	Sleep     time.Duration // at least, for each call
	More      time.Duration // beyond that, exponentially distributed, on average
	Truth     string        // the file that gets what calls took, at the end
	LeakBytes int           // for each call
	LeakCalls int           // calls for each goroutine that is leaked; 0 for none
}

// rawServer is the least MCP server that a generator can be measured against: it reads HTTP/1.1 by itself, answers with the
// request's id, and on demand is slow, or leaks, in a known way.
type rawServer struct {
	rawConfig
	calls atomic.Int64

	mu     sync.Mutex // guards what follows
	took   *hdrhistogram.Histogram
	waited time.Duration
	kept   [][]byte
}

// truth is what the server says that calls took, in microseconds: from the moment its machine had a request, by the kernel's
// stamp, to the moment the answer was written. The time at which the server read it would leave out what it waited, where
// the server's core, or its process, stood still.
type truth struct {
	Count                    int64
	P50, P95, P99, P999, Max float64
	Waited                   float64 // longest from the kernel's stamp to when the request was read
}

const (
	rawTools  = `{"resultType":"complete","tools":[{"name":"echo","inputSchema":{"type":"object","properties":{"id":{"type":"integer"}},"required":["id"]},"annotations":{"readOnlyHint":true}}]}`
	rawAnswer = `{"resultType":"complete","content":[{"type":"text","text":"0123456789012345678901234567890123456789012345678901234567890123456789"}]}`
)

// serve runs until it is told to end.
func (s *rawServer) serve() error {
	s.took = hdrhistogram.New(1, 60_000_000, 3)
	var listen net.ListenConfig
	if s.Truth != "" {
		listen.Control = stamping
	}
	l, err := listen.Listen(context.Background(), "tcp", s.Addr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if s.Admin != "" {
		registry := prometheus.NewRegistry()
		registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector(
			collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/gc/heap/live:bytes$`)})))
		admin := &http.Server{Addr: s.Admin, Handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}
		go admin.ListenAndServe() // ends with the process
	}
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return s.tell()
		}
		if err != nil {
			return err
		}
		go s.connection(conn) // ends with the connection, or the process
	}
}

// tell writes the truth.
func (s *rawServer) tell() error {
	if s.Truth == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := func(q float64) float64 { return float64(s.took.ValueAtQuantile(q)) }
	data, err := json.Marshal(truth{s.took.TotalCount(), at(50), at(95), at(99), at(99.9), float64(s.took.Max()), float64(s.waited.Microseconds())})
	if err != nil {
		return err
	}
	return os.WriteFile(s.Truth, data, 0o600)
}

func (s *rawServer) connection(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	var stamped *stampedReader
	if s.Truth != "" {
		var err error
		if stamped, err = newStampedReader(conn); err != nil {
			fmt.Fprintln(os.Stderr, err) // the client sees the connection close
			return
		}
		r.Reset(stamped)
	}
	var body, out []byte
	for {
		length, err := rawHead(r)
		if err != nil {
			return
		}
		if cap(body) < length {
			body = make([]byte, length)
		}
		body = body[:length]
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		began := time.Now()
		result, status := s.answer(body)
		if out = append(out[:0], "HTTP/1.1 "...); result == "" {
			out = append(append(out, status...), "\r\nContent-Length: 0\r\n\r\n"...)
		} else {
			id := rawID(body)
			out = append(append(out, status...), "\r\nContent-Type: application/json\r\nContent-Length: "...)
			out = strconv.AppendInt(out, int64(len(`{"jsonrpc":"2.0","id":,"result":}`)+len(id)+len(result)), 10)
			out = append(append(append(out, "\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":"...), id...), `,"result":`...)
			out = append(append(out, result...), '}')
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
		if stamped != nil && result == rawAnswer {
			took := time.Since(stamped.arrived).Microseconds()
			s.mu.Lock()
			s.took.RecordValue(took)
			s.waited = max(s.waited, began.Sub(stamped.arrived))
			s.mu.Unlock()
		}
	}
}

// answer gives the result for a message, "" for none.
func (s *rawServer) answer(body []byte) (result, status string) {
	if bytes.Contains(body, []byte(`"method":"tools/call"`)) {
		s.work()
		return rawAnswer, "200 OK"
	}
	result, code := rawHandshake(body)
	return result, strconv.Itoa(code) + " " + http.StatusText(code)
}

// rawHandshake gives the result and the HTTP status for what a client sends before its calls, "" for no result.
func rawHandshake(body []byte) (result string, status int) {
	switch {
	case bytes.Contains(body, []byte(`"method":"tools/list"`)):
		return rawTools, http.StatusOK
	case bytes.Contains(body, []byte(`"method":"server/discover"`)):
		return `{"resultType":"complete","supportedVersions":["` + modernVersion + `"]}`, http.StatusOK
	case bytes.Contains(body, []byte(`"method":"initialize"`)):
		return `{"protocolVersion":"` + legacyVersion + `","capabilities":{},"serverInfo":{"name":"raw","version":"1"}}`, http.StatusOK
	case bytes.Contains(body, []byte(`"id":`)):
		return "{}", http.StatusOK
	}
	return "", http.StatusAccepted
}

// work is what a call costs, and leaks.
func (s *rawServer) work() {
	n := s.calls.Add(1)
	for start := time.Now(); s.Spin > 0 && time.Since(start) < s.Spin; {
	}
	if d := s.Sleep + time.Duration(rand.ExpFloat64()*float64(s.More)); d > 0 {
		time.Sleep(d)
	}
	if s.LeakBytes > 0 {
		s.mu.Lock()
		s.kept = append(s.kept, make([]byte, s.LeakBytes))
		s.mu.Unlock()
	}
	if s.LeakCalls > 0 && n%int64(s.LeakCalls) == 0 {
		go func() { select {} }()
	}
}

// rawHead reads a request's head and gives the length of its body.
func rawHead(r *bufio.Reader) (length int, err error) {
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 && !first {
			return length, nil
		}
		const name = "content-length:"
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil || length < 0 || length > 1<<20 {
				return 0, fmt.Errorf("a body of %q bytes", line)
			}
		}
	}
}

// rawID gives the bytes of a message's id, which is a number.
func rawID(body []byte) []byte {
	_, rest, _ := bytes.Cut(body, []byte(`"id":`))
	n := 0
	for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
		n++
	}
	return rest[:n]
}
