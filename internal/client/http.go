package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"millrace/internal/mcp"
)

// http gives a client of net/http for the target: for HTTP/2, and for what is too rare to be fast.
func (t *target) http() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!t.HTTP2)
	protocols.SetHTTP2(t.HTTP2)
	protocols.SetUnencryptedHTTP2(t.HTTP2)
	transport := &http.Transport{Protocols: protocols, DialContext: t.Dial, DisableCompression: true, DisableKeepAlives: t.NoKeepAlive,
		MaxResponseHeaderBytes: maxHead, TLSClientConfig: t.TLS.Clone(), IdleConnTimeout: 90 * time.Second,
		HTTP2: &http.HTTP2Config{StrictMaxConcurrentRequests: false}}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a POST to where nobody wanted to send it is no answer
	}}
}

// request makes a request for net/http with the target's headers and further encoded lines.
func (t *target) request(ctx context.Context, method string, lines []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, t.URL, nil)
	if err != nil {
		return nil, err
	}
	for _, h := range t.Headers {
		req.Header.Set(h.Name, h.Value)
	}
	for line := range strings.SplitSeq(string(lines), "\r\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			req.Header.Set(name, value)
		}
	}
	return req, nil
}

// callShared is a call through net/http.
func (s *Session) callShared(ctx context.Context, deadline time.Time, id int64, call *Call, a *Answer) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	defer func() {
		if ctx.Err() != nil && a.Received.IsZero() {
			s.giveUp(id, call)
		}
	}()
	resp, err := s.doPost(ctx, s.appendHeaders(nil, call), s.appendRequest(nil, id, call))
	if err != nil {
		return s.cause(ctx, err)
	}
	defer resp.Body.Close()
	a.Status = resp.StatusCode
	if s.id == "" {
		a.sessionID = resp.Header.Get("Mcp-Session-Id")
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") {
		r := mcp.NewEventReader(resp.Body, s.t.MaxBytes)
		for {
			e, err := r.Next()
			if err != nil {
				return s.cause(ctx, streamError(err))
			}
			if done, err := s.event(ctx, e, id, call, a); done || err != nil {
				return err
			}
		}
	}
	if a.body, err = readAll(a.body[:0], resp.Body, s.t.MaxBytes); err != nil {
		return s.cause(ctx, err)
	}
	a.Received = time.Now()
	return a.read(strings.EqualFold(strings.TrimSpace(kind), "application/json"), id)
}

// giveUp tells a legacy server that nobody waits for a call any more: there, leaving is no cancellation.
func (s *Session) giveUp(id int64, call *Call) {
	if call.Method != "initialize" && !s.Revision().IsModern() {
		s.cancelled(id)
	}
}

// cancelled tells a legacy server that nobody waits for a request any more.
func (s *Session) cancelled(id int64) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Notify(ctx, &Call{Method: "notifications/cancelled", Params: mcp.AppendInt([]byte(`"requestId":`), id)})
}

// doPost sends a message through net/http.
func (s *Session) doPost(ctx context.Context, lines, body []byte) (*http.Response, error) {
	req, err := s.t.request(ctx, http.MethodPost, lines)
	if err != nil {
		return nil, err
	}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	return s.shared.Do(req)
}

// post sends a message that has no answer: a notification, or an answer to the server.
func (s *Session) post(ctx context.Context, body []byte) error {
	deadline := time.Now().Add(s.t.Timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	tongue := s.tongue.Load()
	lines := tongue.extra
	if tongue.rev.IsModern() {
		var m mcp.Request
		if m.Scan(body) == nil {
			lines = appendHeader(append([]byte(nil), lines...), "Mcp-Method", string(m.MethodName))
		}
	}
	status := 0
	if s.shared != nil {
		resp, err := s.doPost(ctx, lines, body)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		status = resp.StatusCode
	} else {
		dial, cancel := context.WithDeadline(ctx, deadline)
		w, err := s.wires.take(dial)
		cancel()
		if err != nil {
			return err
		}
		if err := w.deliver(ctx, deadline, lines, body); err != nil {
			w.close()
			return s.cause(ctx, err)
		}
		status = w.head.status
		s.wires.put(w) // and with it w is another's
	}
	if status >= 300 {
		return &StatusError{Status: status}
	}
	return nil
}

// deliver sends a message and reads what comes back, which is nothing that matters.
func (w *wire) deliver(ctx context.Context, deadline time.Time, lines, body []byte) error {
	if err := w.conn.SetDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() { // the cancel may still strike: not the next one to use the connection
			w.head.close = true
		}
	}()
	if err := w.send(w.t.prefix, lines, body); err != nil {
		return err
	}
	if err := w.receive(); err != nil {
		return err
	}
	_, err := w.all(nil)
	return err
}

// readAll appends what r gives, which may be at most most bytes.
func readAll(dst []byte, r io.Reader, most int) ([]byte, error) {
	start := len(dst)
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if len(dst)-start > most {
			return dst, protocolErrorf("a message of more than %d bytes", most)
		}
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) }
