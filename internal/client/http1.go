package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"time"
)

// maxHead bounds the head of a response.
const maxHead = 64 << 10

// wire is one HTTP/1.1 connection, used by one goroutine at a time. It is our own because a request is one write and its
// answer one read here: net/http's transport has two goroutines for each connection and costs more than the rest together.
type wire struct {
	t    *target
	of   *wires // whose it is; nil for a connection of its own
	conn net.Conn
	r    *bufio.Reader
	out  []byte
	head head
	body io.Reader // of the response being read
	left int64     // of a body with a length
	idle time.Time // since when
}

// head is what of a response's head matters.
type head struct {
	status    int
	length    int64 // -1 where there is none
	chunked   bool
	close     bool
	isJSON    bool
	isEvents  bool
	sessionID []byte
}

// dialWire opens a connection, within the target's time-out.
func dialWire(ctx context.Context, t *target) (*wire, error) {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	conn, err := t.Dial(ctx, "tcp", t.address)
	if err != nil {
		return nil, err
	}
	if t.secure {
		cfg := &tls.Config{}
		if t.TLS != nil {
			cfg = t.TLS.Clone()
		}
		if cfg.ServerName == "" {
			cfg.ServerName = t.host
		}
		cfg.NextProtos = []string{"http/1.1"}
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = secure
	}
	return &wire{t: t, conn: conn, r: bufio.NewReaderSize(conn, 16<<10)}, nil
}

func (w *wire) close() {
	w.conn.Close()
	if w.of != nil {
		w.of.forget(w)
	}
}

// send writes a POST with its body. extra is encoded header lines.
func (w *wire) send(prefix, extra, body []byte) error {
	out := append(append(w.out[:0], prefix...), extra...)
	out = append(out, "Content-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	out = append(append(out, "\r\n\r\n"...), body...)
	_, err := w.conn.Write(out)
	if cap(out) <= 64<<10 {
		w.out = out
	}
	return err
}

// get sends a GET for an event stream and reads the head of the response.
func (w *wire) get(extra []byte) error {
	out := append(w.t.head("GET"), "Accept: text/event-stream\r\nCache-Control: no-store\r\n"...)
	if _, err := w.conn.Write(append(append(out, extra...), "\r\n"...)); err != nil {
		return err
	}
	return w.receive()
}

// receive reads the head of the response.
func (w *wire) receive() error {
	for range 10 { // interim responses
		if err := w.readHead(); err != nil {
			return err
		}
		if w.head.status >= 200 {
			return w.beginBody()
		}
	}
	return protocolErrorf("interim responses without end")
}

// line reads one line of the head; it is good until the next one.
func (w *wire) line(room *int) ([]byte, error) {
	line, err := w.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, protocolErrorf("a header line of more than %d bytes", w.r.Size())
	}
	if err == io.EOF && (len(line) > 0 || *room < maxHead) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if *room -= len(line); *room < 0 {
		return nil, protocolErrorf("a header of more than %d bytes", maxHead)
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

func (w *wire) readHead() error {
	h := &w.head
	*h = head{length: -1, sessionID: h.sessionID[:0]}
	room := maxHead
	line, err := w.line(&room)
	if err != nil {
		return err
	}
	// HTTP/1.1 200 OK
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' {
		return protocolErrorf("%q is no HTTP/1.1 response", clip(line))
	}
	h.close = line[7] == '0' || w.t.NoKeepAlive
	status, err := strconv.ParseUint(string(line[9:12]), 10, 16)
	if err != nil || status < 100 || len(line) > 12 && line[12] != ' ' {
		return protocolErrorf("%q is no HTTP/1.1 response", clip(line))
	}
	h.status = int(status)
	for {
		line, err := w.line(&room)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return nil
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) == 0 || name[0] == ' ' || name[0] == '\t' || name[len(name)-1] == ' ' {
			return protocolErrorf("%q is no header line", clip(line))
		}
		value = bytes.Trim(value, " \t")
		switch len(name) { // of the few that matter no two have the same length but two
		case len("Content-Length"):
			if bytes.EqualFold(name, []byte("Content-Length")) {
				n, err := strconv.ParseUint(string(value), 10, 62)
				if err != nil || h.length >= 0 && h.length != int64(n) {
					return protocolErrorf("Content-Length %q", clip(value))
				}
				h.length = int64(n)
			} else if bytes.EqualFold(name, []byte("Mcp-Session-Id")) {
				h.sessionID = append(h.sessionID[:0], value...)
			}
		case len("Transfer-Encoding"):
			if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
				if !bytes.EqualFold(value, []byte("chunked")) {
					return protocolErrorf("Transfer-Encoding %q", clip(value))
				}
				h.chunked = true
			}
		case len("Content-Type"):
			if bytes.EqualFold(name, []byte("Content-Type")) {
				kind, _, _ := bytes.Cut(value, []byte(";"))
				kind = bytes.TrimRight(kind, " \t")
				h.isJSON = bytes.EqualFold(kind, []byte("application/json"))
				h.isEvents = bytes.EqualFold(kind, []byte("text/event-stream"))
			}
		case len("Connection"):
			if bytes.EqualFold(name, []byte("Connection")) && bytes.Contains(bytes.ToLower(value), []byte("close")) {
				h.close = true
			}
		case len("Content-Encoding"):
			if bytes.EqualFold(name, []byte("Content-Encoding")) && !bytes.EqualFold(value, []byte("identity")) {
				return protocolErrorf("Content-Encoding %q was not asked for", clip(value))
			}
		}
	}
}

func (w *wire) beginBody() error {
	h := &w.head
	switch {
	case h.status == 204 || h.status == 304:
		h.length, h.chunked = 0, false
		w.left = 0
	case h.chunked:
		if h.length >= 0 {
			h.close = true // two lengths: whichever it is, nothing behind it can be trusted
		}
		w.body = httputil.NewChunkedReader(w.r)
	case h.length >= 0:
		w.left = h.length
	default:
		h.close = true
		w.body = w.r
	}
	return nil
}

// Read reads the response's body.
func (w *wire) Read(p []byte) (int, error) {
	if w.head.chunked || w.head.length < 0 {
		return w.body.Read(p)
	}
	if w.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > w.left {
		p = p[:w.left]
	}
	n, err := w.r.Read(p)
	w.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// all appends the whole body to dst.
func (w *wire) all(dst []byte) ([]byte, error) {
	most := w.t.MaxBytes
	if w.head.length > int64(most) {
		w.head.close = true
		return dst, protocolErrorf("a message of %d bytes, of which at most %d are read", w.head.length, most)
	}
	dst, err := readAll(dst, w, most)
	if err != nil {
		w.head.close = true
		return dst, err
	}
	return dst, w.trailer()
}

// trailer reads what stands behind the last chunk.
func (w *wire) trailer() error {
	if !w.head.chunked || w.head.close {
		return nil
	}
	room := maxHead
	for {
		line, err := w.line(&room)
		if err != nil || len(line) == 0 {
			w.head.close = w.head.close || err != nil
			return err
		}
	}
}

func clip(text []byte) string {
	if len(text) > 100 {
		return fmt.Sprintf("%s…", text[:100])
	}
	return string(text)
}
