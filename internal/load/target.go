package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"millrace/internal/client"
	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// Endpoint says how the server is reached.
type Endpoint struct {
	URL     string
	Command []string // a server that speaks over its standard input and output, instead of URL
	Key     conf.Secret
	Headers []client.Header
	TLS     *tls.Config
	Own     bool // the user owns the target: it need not be this machine
	Version string
	Stderr  io.Writer // what commands say
	// Dial opens connections in place of the network's own way; nil for that.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// check refuses to put load on what is not this machine, unless its owner wants it.
func (e *Endpoint) check(ctx context.Context) error {
	if e.Own || len(e.Command) > 0 {
		return nil
	}
	u, err := url.Parse(e.URL)
	if err != nil || u.Hostname() == "" {
		return fmt.Errorf("%q is no URL of a server: write http://HOST:PORT/PATH", e.URL)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return err
	}
	for _, ip := range ips {
		if !ip.Unmap().IsLoopback() {
			return fmt.Errorf("%s is not this machine: load against a server that is not yours is an attack; say --i-own-this-target if it is", u.Hostname())
		}
	}
	return nil
}

// config is the client's.
func (e *Endpoint) config(s *Scenario, rev mcp.Revision) client.Config {
	return client.Config{URL: e.URL, Headers: e.Headers, Key: e.Key, Revision: rev, TLS: e.TLS, Dial: e.Dial, HTTP2: s.HTTP2, NoKeepAlive: !s.KeepAlive,
		MaxBytes: int(s.MaxAnswer), Timeout: s.Timeout.Std(), Name: "millrace load", Version: e.Version}
}

// open begins one conversation.
func (e *Endpoint) open(ctx context.Context, s *Scenario, rev mcp.Revision) (*client.Session, error) {
	if len(e.Command) == 0 {
		return client.Open(ctx, e.config(s, rev))
	}
	cmd := exec.Command(e.Command[0], e.Command[1:]...)
	cmd.Stderr = e.Stderr
	return client.OpenCommand(ctx, cmd, e.config(s, rev))
}

// slot holds one of a run's sessions. Its methods are safe for concurrent use.
type slot struct {
	open func(context.Context) (*client.Session, error)

	once   sync.Once      // closes it
	ending sync.WaitGroup // of sessions that are being closed

	mu      sync.Mutex // guards what follows
	session *client.Session
	opened  time.Time
	opening bool              // a new session, without holding mu
	old     []*client.Session // that others may still use
	closed  bool
}

func (s *slot) get() *client.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session
}

// renew opens a new session in place of one that the server does not know any more; not more often than each second. Calls
// of others with the old one are not disturbed: it is closed at the end.
func (s *slot) renew(ctx context.Context, old *client.Session) {
	s.mu.Lock()
	if s.session != old || s.opening || s.closed || time.Since(s.opened) < time.Second {
		s.mu.Unlock()
		return
	}
	s.opening, s.opened = true, time.Now()
	s.mu.Unlock()
	session, err := s.open(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening = false
	if err != nil { // the next error tries again
		return
	}
	stale := session // where the run has ended meanwhile
	if !s.closed {
		s.session, s.old, stale = session, append(s.old, old), nil
		if len(s.old) > mostOld {
			stale, s.old = s.old[0], s.old[1:] // nobody has used it for seconds
		}
	}
	if stale != nil {
		s.ending.Go(stale.Close)
	}
}

// mostOld is how many sessions that were replaced are kept for those who still use them.
const mostOld = 10

func (s *slot) close() {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		all := append(s.old, s.session)
		s.mu.Unlock()
		for _, session := range all {
			session.Close()
		}
		s.ending.Wait()
	})
}

// mostOpening is how many sessions are opened at a time.
const mostOpening = 16

// openSessions opens a run's sessions, of the revisions that the scenario wants.
func openSessions(ctx context.Context, e *Endpoint, s *Scenario) (slots []*slot, err error) {
	first, err := e.open(ctx, s, firstRevision(s))
	if err != nil {
		return nil, err
	}
	revisions := spread(s.Revisions, s.Sessions)
	if len(revisions) == 0 {
		revisions = slices.Repeat([]mcp.Revision{first.Revision()}, s.Sessions)
	}
	if len(e.Command) > 0 {
		revisions = revisions[:1] // one process is one session
	}
	slots = make([]*slot, len(revisions))
	faults := make([]error, len(revisions))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	room := make(chan struct{}, mostOpening)
	for i, rev := range revisions {
		slots[i] = &slot{open: func(ctx context.Context) (*client.Session, error) { return e.open(ctx, s, rev) }, opened: time.Now()}
		if first != nil && rev == first.Revision() {
			slots[i].session, first = first, nil
			continue
		}
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			if slots[i].session, faults[i] = slots[i].open(ctx); faults[i] != nil {
				cancel(faults[i]) // the first says why; the others need not be tried
			}
		})
	}
	wg.Wait()
	if first != nil { // what the server negotiated is another revision than was asked for
		first.Close()
	}
	if slices.ContainsFunc(faults, func(err error) bool { return err != nil }) {
		fault := context.Cause(ctx)
		for _, s := range slots {
			if s.session != nil {
				s.close()
			}
		}
		return nil, fmt.Errorf("open %d sessions: %w", len(slots), fault)
	}
	return slots, nil
}

func firstRevision(s *Scenario) mcp.Revision {
	for _, name := range slices.Sorted(maps.Keys(s.Revisions)) {
		rev, _ := mcp.ParseRevision(name)
		return rev
	}
	return mcp.RevisionNone
}

// spread gives n revisions in which each has its share, evenly mixed.
func spread(shares map[string]float64, n int) (out []mcp.Revision) {
	if len(shares) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(shares))
	sum := 0.0
	for _, w := range shares {
		sum += w
	}
	given := make([]float64, len(names))
	for i := range max(n, len(names)) {
		next := 0 // who has the least of what is due to it
		for j := range names {
			if given[j]-float64(i+1)*shares[names[j]]/sum < given[next]-float64(i+1)*shares[names[next]]/sum {
				next = j
			}
		}
		given[next]++
		rev, _ := mcp.ParseRevision(names[next])
		out = append(out, rev)
	}
	return out
}

// identify asks how the server calls itself, where opening the sessions did not tell.
func identify(ctx context.Context, sessions []*slot) (name, version string) {
	for _, s := range sessions {
		if name, version = s.get().Server(); name != "" {
			return clip(name), clip(version)
		}
	}
	var a client.Answer
	if s := sessions[0].get(); s.Revision().IsModern() && s.Call(ctx, &client.Call{Method: "server/discover"}, &a) == nil {
		name, version = client.ServerInfo(a.Result)
	}
	return clip(name), clip(version)
}

// transport names how the sessions reach the server.
func transport(e *Endpoint, s *Scenario, session *client.Session) string {
	switch {
	case len(e.Command) > 0:
		return "stdio"
	case session.Revision() == mcp.Revision20241105:
		return "http+sse"
	case s.HTTP2:
		return "http/2"
	}
	return "http/1.1"
}

// address is what a report calls the server. A URL is shown without what may be a secret in it.
func (e *Endpoint) address() string {
	if len(e.Command) > 0 {
		return strings.Join(e.Command, " ")
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + u.Path
}
