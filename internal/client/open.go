package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"time"

	"millrace/internal/mcp"
)

// Open begins a conversation with the server of cfg. Where cfg names no revision it finds out: it tries the stateless one,
// then initialize, then the HTTP+SSE of 2024-11-05, as the specification has it.
func Open(ctx context.Context, cfg Config) (*Session, error) {
	t, err := newTarget(cfg)
	if err != nil {
		return nil, err
	}
	switch rev := cfg.Revision; {
	case rev.IsModern():
		return newSession(t, rev), nil
	case rev == mcp.Revision20241105:
		return openDirect(ctx, t)
	case rev != mcp.RevisionNone:
		return initialize(ctx, t, rev)
	}
	s, err := discover(ctx, t)
	if err == nil || !isRefusal(err) {
		return s, err
	}
	s, err = initialize(ctx, t, mcp.LatestLegacy)
	if status := (*StatusError)(nil); err == nil || !errors.As(err, &status) || status.Status != 400 && status.Status != 404 && status.Status != 405 {
		return s, err
	}
	if s, directErr := openDirect(ctx, t); directErr == nil {
		return s, nil
	}
	return nil, err
}

func newSession(t *target, rev mcp.Revision) *Session {
	s := &Session{t: t, wires: &wires{t: t}}
	if t.HTTP2 {
		s.shared = t.http()
	}
	s.speak(rev)
	return s
}

// speak sets what every request of a revision carries.
func (s *Session) speak(rev mcp.Revision) {
	t := &tongue{rev: rev}
	if rev.IsModern() {
		t.meta = mcp.AppendText([]byte(`"io.modelcontextprotocol/protocolVersion":`), rev.String())
		t.meta = append(append(t.meta, `,"io.modelcontextprotocol/clientInfo":`...), s.t.info()...)
		t.meta = append(append(t.meta, `,"io.modelcontextprotocol/clientCapabilities":`...), s.t.Capabilities...)
	}
	if rev >= mcp.Revision20250618 {
		t.extra = appendHeader(t.extra, "MCP-Protocol-Version", rev.String())
	}
	if s.id != "" {
		t.extra = appendHeader(t.extra, "Mcp-Session-Id", s.id)
	}
	s.tongue.Store(t)
}

// info is clientInfo.
func (t *target) info() []byte {
	out := mcp.AppendText([]byte(`{"name":`), t.Name)
	version := t.Version
	if version == "" {
		version = "unknown"
	}
	return append(mcp.AppendText(append(out, `,"version":`...), version), '}')
}

// ServerInfo reads how a server calls itself from a result of initialize, or from one of the stateless revision's; empty
// texts where it is not there.
func ServerInfo(result []byte) (name, version string) {
	info := mcp.Member(result, "serverInfo")
	if info == nil {
		info = mcp.Member(mcp.Member(result, "_meta"), "io.modelcontextprotocol/serverInfo")
	}
	n, _ := mcp.Text(mcp.Member(info, "name"))
	v, _ := mcp.Text(mcp.Member(info, "version"))
	return clip(n), clip(v)
}

// refusal says that the server does not speak what was tried.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func isRefusal(err error) bool { return errors.As(err, new(refusal)) }

// discover finds out whether the server is stateless.
func discover(ctx context.Context, t *target) (*Session, error) {
	s := newSession(t, mcp.Modern)
	var a Answer
	err := s.Call(ctx, &Call{Method: "server/discover"}, &a)
	status := (*StatusError)(nil)
	switch {
	case errors.As(err, &status) && status.Status >= 400 && status.Status < 500 && status.Status != http.StatusUnauthorized && status.Status != http.StatusForbidden:
		err = refusal{err}
	case err != nil:
	case a.Error != nil:
		err = refusal{a.Error}
	case supportsModern(a.Result):
		s.serverName, s.serverVersion = ServerInfo(a.Result)
		return s, nil
	default:
		err = refusal{errors.New("the server does not support revision " + mcp.Modern.String())}
	}
	s.Close()
	return nil, err
}

// initialize opens a legacy session.
func initialize(ctx context.Context, t *target, rev mcp.Revision) (*Session, error) {
	s := newSession(t, rev)
	s.tongue.Store(&tongue{rev: rev}) // nothing is negotiated yet
	if err := s.greet(ctx, rev); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// greet negotiates a legacy revision on a fresh session.
func (s *Session) greet(ctx context.Context, rev mcp.Revision) error {
	params := mcp.AppendText([]byte(`"protocolVersion":`), rev.String())
	params = append(append(params, `,"capabilities":`...), s.t.Capabilities...)
	params = append(append(params, `,"clientInfo":`...), s.t.info()...)
	var a Answer
	if err := s.Call(ctx, &Call{Method: "initialize", Params: params}, &a); err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	if a.Error != nil {
		return fmt.Errorf("initialize: %w", a.Error)
	}
	text, _ := mcp.Text(mcp.Member(a.Result, "protocolVersion"))
	got, ok := mcp.ParseRevision(text)
	if !ok || got.IsModern() {
		return protocolErrorf("it answered initialize with the revision %q", clip(text))
	}
	for _, c := range []byte(a.sessionID) {
		if c <= ' ' || c >= 0x7F { // as the specification has it; anything else could also end the header line
			return protocolErrorf("it gave the session id %q", clip([]byte(a.sessionID)))
		}
	}
	s.id = a.sessionID
	s.serverName, s.serverVersion = ServerInfo(a.Result)
	s.speak(got)
	if err := s.Notify(ctx, &Call{Method: "notifications/initialized"}); err != nil {
		return fmt.Errorf("notifications/initialized: %w", err)
	}
	return nil
}

// openDirect opens a session of 2024-11-05: an event stream that brings all messages, and POSTs that only carry ours.
func openDirect(ctx context.Context, t *target) (*Session, error) {
	s := newSession(t, mcp.Revision20241105)
	w, err := dialWire(ctx, t)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, w.close) // until the endpoint is there
	endpoint, r, err := beginDirect(w, t)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	cfg := t.Config
	cfg.URL = endpoint
	if s.t, err = newTarget(cfg); err != nil {
		w.close()
		return nil, protocolErrorf("its endpoint event names %q", clip([]byte(endpoint)))
	}
	s.wires.t = s.t
	s.duplex = newDuplex(s, s.post, w.close)
	s.duplex.begin(func() ([]byte, error) {
		for {
			e, err := r.Next()
			if err != nil {
				return nil, err
			}
			if string(e.Name) == "message" && len(e.Data) > 0 {
				return e.Data, nil
			}
		}
	}, w.close)
	if err := s.greet(ctx, mcp.Revision20241105); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// beginDirect opens the event stream and reads its first event.
func beginDirect(w *wire, t *target) (endpoint string, r *mcp.EventReader, err error) {
	if err := w.conn.SetDeadline(time.Now().Add(t.Timeout)); err != nil {
		return "", nil, err
	}
	if err := w.get(nil); err != nil {
		return "", nil, err
	}
	if w.head.status != http.StatusOK || !w.head.isEvents {
		body, _ := w.all(nil)
		return "", nil, &StatusError{w.head.status, clip(body)}
	}
	r = mcp.NewEventReader(w, t.MaxBytes)
	e, err := r.Next()
	if err != nil {
		return "", nil, streamError(err)
	}
	if string(e.Name) != "endpoint" {
		return "", nil, protocolErrorf("its first event is called %q, not endpoint", clip(e.Name))
	}
	base, _ := url.Parse(t.URL) // read before
	u, err := base.Parse(string(e.Data))
	if err != nil || u.Scheme != base.Scheme || u.Host != base.Host {
		return "", nil, protocolErrorf("its endpoint event names %q, which is another server's", clip(e.Data))
	}
	return u.String(), r, w.conn.SetDeadline(time.Time{})
}

// Listen carries the messages of a legacy session that belong to no call, until ctx ends, the session or the stream does.
func (s *Session) Listen(ctx context.Context, notify func(message []byte)) error {
	if s.Revision().IsModern() || s.duplex != nil {
		return errors.New("only sessions of Streamable HTTP before 2026-07-28 have a stream of their own")
	}
	w, err := dialWire(ctx, s.t)
	if err != nil {
		return err
	}
	defer w.close()
	stop := context.AfterFunc(ctx, w.close)
	defer stop()
	if err := w.get(s.tongue.Load().extra); err != nil {
		return s.cause(ctx, err)
	}
	if w.head.status != http.StatusOK || !w.head.isEvents {
		body, _ := w.all(nil)
		return &StatusError{w.head.status, clip(body)}
	}
	r := mcp.NewEventReader(w, s.t.MaxBytes)
	for {
		e, err := r.Next()
		if err != nil {
			return s.cause(ctx, streamError(err))
		}
		if string(e.Name) != "message" || len(e.Data) == 0 {
			continue
		}
		var m mcp.Request
		if fault := m.Scan(e.Data); fault != nil {
			return protocolErrorf("%s", fault.Message)
		}
		switch m.Kind {
		case mcp.KindNotification:
			notify(e.Data)
		case mcp.KindRequest:
			if err := s.reply(ctx, &m, &Call{}); err != nil {
				return err
			}
		}
	}
}

// OpenCommand starts a server that speaks over its standard input and output, and begins a conversation with it. Session's
// Close ends the process: by closing its input, and after two seconds by force. What it writes to standard error goes to
// cmd.Stderr.
func OpenCommand(ctx context.Context, cmd *exec.Cmd, cfg Config) (*Session, error) {
	t := &target{Config: cfg}
	t.defaults()
	p, err := startProcess(cmd, t.MaxBytes)
	if err != nil {
		return nil, err
	}
	s := &Session{t: t, wires: &wires{t: t}}
	s.speak(cfg.Revision)
	s.duplex = newDuplex(s, p.send, p.stop)
	s.duplex.begin(p.next, p.end)
	rev := cfg.Revision
	if rev == mcp.RevisionNone {
		rev = s.probe(ctx)
	}
	s.speak(rev)
	if rev.IsModern() {
		return s, nil
	}
	if err := s.greet(ctx, rev); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// probe finds out what a process speaks: one that does not answer server/discover as the stateless revision does is asked
// to initialize.
func (s *Session) probe(ctx context.Context) mcp.Revision {
	s.speak(mcp.Modern)
	ctx, cancel := context.WithTimeout(ctx, min(s.t.Timeout, 5*time.Second))
	defer cancel()
	var a Answer
	if s.Call(ctx, &Call{Method: "server/discover"}, &a) == nil && a.Error == nil && supportsModern(a.Result) {
		s.serverName, s.serverVersion = ServerInfo(a.Result)
		return mcp.Modern
	}
	return mcp.LatestLegacy
}

// supportsModern tells whether the result of server/discover names the stateless revision.
func supportsModern(result []byte) (yes bool) {
	mcp.Elements(mcp.Member(result, "supportedVersions"), func(v []byte) bool {
		text, _ := mcp.Text(v)
		rev, _ := mcp.ParseRevision(text)
		yes = rev.IsModern()
		return !yes
	})
	return yes
}
