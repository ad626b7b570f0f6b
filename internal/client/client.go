// Package client is Millrace's own MCP client: it speaks every revision over Streamable HTTP and gives results as the raw
// bytes that the server sent. The load generator stands on it, and what federates other servers will.
//
// It is not a typed SDK: it knows the envelope, sessions, streams and errors of the protocol, and leaves params and
// results to its user. It stands outside the server's request path, on the other end of the wire.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// Config says how a server is reached. The zero value of each field but URL is a default.
type Config struct {
	URL string // http:// or https://, the endpoint
	// Headers go with each request.
	Headers []Header
	// Key is sent as a bearer token.
	Key conf.Secret
	// Revision is what to speak; RevisionNone finds out.
	Revision mcp.Revision
	// TLS is for https; nil for the system's authorities.
	TLS *tls.Config
	// Dial opens connections in place of the network's own way; nil for that.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// HTTP2 speaks HTTP/2, in clear text with prior knowledge.
	HTTP2 bool
	// NoKeepAlive opens a connection for each request.
	NoKeepAlive bool
	// MaxBytes bounds one message of the server; 64 MiB unless set.
	MaxBytes int
	// Timeout bounds a call that has no time limit of its own; 30 s unless set.
	Timeout time.Duration
	// Name and Version are what the client says of itself.
	Name, Version string
	// Capabilities is the client's, an encoded JSON object; none unless set.
	Capabilities []byte
}

// Header is one header of a request.
type Header struct{ Name, Value string }

const (
	defaultMaxBytes = 64 << 20
	defaultTimeout  = 30 * time.Second
)

// target is a Config made ready: what every request has in common.
type target struct {
	Config
	secure  bool
	address string // host:port
	host    string // of TLS
	path    string // and query
	prefix  []byte // request line and the headers that never change, for POST
}

func newTarget(cfg Config) (*target, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("the server's address is no URL; write http://HOST:PORT/PATH or https://…") // it may hold a password
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("%q: write http://HOST:PORT/PATH or https://…, without a user", u.Redacted())
	}
	t := &target{Config: cfg, secure: u.Scheme == "https", host: u.Hostname(), path: u.RequestURI()}
	port := u.Port()
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[t.secure]
	}
	t.address = net.JoinHostPort(t.host, port)
	t.defaults()
	for _, h := range cfg.Headers {
		if err := checkHeader(h); err != nil {
			return nil, err
		}
	}
	if key := cfg.Key.Reveal(); key != "" {
		h := Header{"Authorization", "Bearer " + key}
		if checkHeader(h) != nil {
			return nil, errors.New("the API key holds a byte that no header may hold")
		}
		t.Headers = append(t.Headers[:len(t.Headers):len(t.Headers)], h)
	}
	t.prefix = t.head("POST")
	t.prefix = append(t.prefix, "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"...)
	return t, nil
}

// defaults fills in what the Config leaves open.
func (t *target) defaults() {
	if t.MaxBytes == 0 {
		t.MaxBytes = defaultMaxBytes
	}
	if t.Dial == nil {
		t.Dial = new(net.Dialer).DialContext
	}
	if t.Timeout == 0 {
		t.Timeout = defaultTimeout
	}
	if t.Capabilities == nil {
		t.Capabilities = []byte("{}")
	}
	if t.Name == "" {
		t.Name = "millrace"
	}
}

// head begins a request: its first line and the headers that all have.
func (t *target) head(method string) []byte {
	out := append([]byte(method), ' ')
	out = append(append(out, t.path...), " HTTP/1.1\r\nHost: "...)
	u, _ := url.Parse(t.URL) // read before
	out = append(append(out, u.Host...), "\r\n"...)
	for _, h := range t.Headers {
		out = appendHeader(out, h.Name, h.Value)
	}
	if t.NoKeepAlive {
		out = appendHeader(out, "Connection", "close")
	}
	return out
}

func appendHeader(dst []byte, name, value string) []byte {
	return append(append(append(append(dst, name...), ": "...), value...), "\r\n"...)
}

// checkName refuses what is no name of a header: it could end the line and begin another request.
func checkName(name string) error {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7F || strings.IndexByte("()<>@,;:\\\"/[]?={}", c) >= 0 {
			return fmt.Errorf("header %q: no such name is possible", name)
		}
	}
	return nil
}

// checkHeader refuses what would end a header line, or is ours to send.
func checkHeader(h Header) error {
	if err := checkName(h.Name); err != nil {
		return err
	}
	for i := range len(h.Value) {
		if c := h.Value[i]; c < ' ' && c != '\t' || c == 0x7F {
			return fmt.Errorf("header %s: its value holds a control character", h.Name)
		}
	}
	switch strings.ToLower(h.Name) {
	case "":
		return errors.New("a header has no name")
	case "host", "content-length", "transfer-encoding", "connection", "content-type", "accept", "mcp-session-id",
		"mcp-protocol-version", "mcp-method", "mcp-name", "accept-encoding", "upgrade", "expect":
		return fmt.Errorf("header %s is the client's own", h.Name)
	}
	return nil
}

// StatusError is an HTTP status that brought no message of the protocol.
type StatusError struct {
	Status int
	Body   string // its beginning
}

func (e *StatusError) Error() string {
	if e.Body == "" {
		return fmt.Sprintf("the server answered with HTTP status %d", e.Status)
	}
	return fmt.Sprintf("the server answered with HTTP status %d: %s", e.Status, e.Body)
}

// ErrProtocol is below every error that says the server broke the protocol, HTTP's or MCP's.
var ErrProtocol = errors.New("the server broke the protocol")

func protocolErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
}
