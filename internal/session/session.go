// Package session remembers what the legacy revisions need remembered between two requests: what was negotiated, which
// resources are watched, which requests run, what was asked of the client, and the last messages of its streams, so
// that a broken stream can be resumed.
//
// All of it is bounded: sessions in number and idle time, the messages of each in bytes. The modern revision needs
// nothing of this.
package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// Config is `sessions:`.
type Config struct {
	Max        int           `yaml:"max" desc:"The most sessions of legacy clients at a time, of which one API key may have half; further ones are refused until one ends or idles out."`
	Idle       conf.Duration `yaml:"idle" desc:"A session ends after this long without a request or an open stream."`
	EventBytes conf.Size     `yaml:"event_bytes" desc:"How much of a session's messages is kept for resuming a broken stream."`
}

// DefaultConfig gives 10,000 sessions, 30 minutes and 1 MiB.
func DefaultConfig() Config {
	return Config{Max: 10000, Idle: conf.Duration(30 * time.Minute), EventBytes: 1 << 20}
}

// Validate gives every fault, with paths relative to `sessions:`.
func (c *Config) Validate() conf.Faults {
	var faults conf.Faults
	if c.Max < 1 || c.Max > 1e7 {
		faults = append(faults, conf.Fault{Path: "max", Message: fmt.Sprintf("is %d", c.Max), Fix: "give 1 to 10000000"})
	}
	if c.Idle <= 0 {
		faults = append(faults, conf.Fault{Path: "idle", Message: "must be longer than nothing", Fix: "write 30m"})
	}
	if c.EventBytes < 1024 {
		faults = append(faults, conf.Fault{Path: "event_bytes", Message: "is less than 1KiB", Fix: "write 1MiB"})
	}
	return faults
}

// ErrFull says that there are as many sessions as may be, of all callers or of this one.
var ErrFull = errors.New("too many sessions")

// Hello is what a client said when it opened a session.
type Hello struct {
	Revision  mcp.Revision
	Principal *mcp.Principal
	Toolset   string // the endpoint
	CanElicit bool
	Hub       uint64 // the hub's position then
}

// Store keeps sessions. What it promises fits sessions outside this process too: a session is asked for anew with each
// request. Its methods are safe for concurrent use.
type Store interface {
	// Open makes a session, or gives ErrFull.
	Open(ctx context.Context, h Hello) (*Session, error)
	// Get gives a session to the principal that opened it, and to nobody else.
	Get(ctx context.Context, id string, p *mcp.Principal) (*Session, bool)
	// Delete ends a session: its requests are cancelled and its streams closed.
	Delete(ctx context.Context, id string)
	// Len is how many there are.
	Len() int
	// Close ends every session.
	Close()
}

// Session is one client's. Its methods are safe for concurrent use.
type Session struct {
	ID        string
	Principal *mcp.Principal
	Toolset   string

	revision  atomic.Uint32
	canElicit atomic.Bool
	used      atomic.Int64 // UnixNano of the last request
	logLevel  atomic.Uint32
	ended     chan struct{} // closed by end

	mu       sync.Mutex // guards what follows
	isEnded  bool
	open     int // streams that are attached: a session with one does not idle out
	running  map[string]Canceller
	asked    map[string]chan []byte
	askedSeq uint64
	watched  map[string]struct{}
	watchedB int // bytes of the URIs in watched
	log      eventLog
	listener context.CancelFunc // ends the standalone stream that listens now
	alone    *Stream            // of what belongs to no request
	hubAt    uint64
}

// mostWatched is how many resources one session may watch, mostWatchedBytes how long their URIs may be together, and
// mostRunning how many requests it may have in flight.
const (
	mostWatched      = 1000
	mostWatchedBytes = 128 << 10
	mostRunning      = 1000
)

// New makes a session of its own, outside any store: that of a stdio connection.
func New(h Hello, eventBytes int) *Session { return newSession(h, eventBytes) }

func newSession(h Hello, eventBytes int) *Session {
	s := &Session{ID: rand.Text(), Principal: h.Principal, Toolset: h.Toolset, ended: make(chan struct{}), hubAt: h.Hub,
		log: eventLog{max: eventBytes}}
	s.Negotiated(h.Revision, h.CanElicit)
	s.logLevel.Store(uint32(mcp.LogInfo))
	return s
}

// Negotiated notes what initialize agreed upon; for sessions that are there before it.
func (s *Session) Negotiated(r mcp.Revision, canElicit bool) {
	s.revision.Store(uint32(r))
	s.canElicit.Store(canElicit)
}

// Revision is what was negotiated, RevisionNone before.
func (s *Session) Revision() mcp.Revision { return mcp.Revision(s.revision.Load()) }

// CanElicit tells whether the client can ask its user with a form.
func (s *Session) CanElicit() bool { return s.canElicit.Load() }

// Ended is closed when the session ends.
func (s *Session) Ended() <-chan struct{} { return s.ended }

// LogLevel is the least severe level that the client wants; SetLogLevel changes it.
func (s *Session) LogLevel() mcp.LogLevel     { return mcp.LogLevel(s.logLevel.Load()) }
func (s *Session) SetLogLevel(l mcp.LogLevel) { s.logLevel.Store(uint32(l)) }

// ErrCancelled is the cause of a context that the client cancelled, ErrSessionEnded of one whose session ended.
var (
	ErrCancelled    = errors.New("cancelled by the client")
	ErrSessionEnded = errors.New("the session has ended")
)

// Canceller is a running request that can be cancelled.
type Canceller interface{ Cancel(cause error) }

// Run notes a request as running, so that the client can cancel it by its id; Finish must be called at its end. It is
// false for an id that is running already, and for too many.
func (s *Session) Run(id []byte, c Canceller) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.running[string(id)]; twice || len(s.running) >= mostRunning || s.isEnded {
		return false
	}
	if s.running == nil {
		s.running = map[string]Canceller{}
	}
	s.running[string(id)] = c
	return true
}

// Finish ends what Run began.
func (s *Session) Finish(id []byte) {
	now := time.Now().UnixNano()
	s.mu.Lock()
	delete(s.running, string(id))
	s.used.Store(now) // the client may have waited for longer than a session may idle
	s.mu.Unlock()
}

// Cancel cancels a running request; an unknown id is no fault: it may have just ended.
func (s *Session) Cancel(id []byte) {
	s.mu.Lock()
	c := s.running[string(id)]
	s.mu.Unlock()
	if c != nil {
		c.Cancel(ErrCancelled)
	}
}

// Ask makes the id of a request to the client, and the channel that its response comes through. forget must be called
// when nobody waits any more.
func (s *Session) Ask() (id string, response <-chan []byte, forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.askedSeq++
	id = fmt.Sprintf("millrace-%d", s.askedSeq)
	ch := make(chan []byte, 1)
	if s.asked == nil {
		s.asked = map[string]chan []byte{}
	}
	s.asked[id] = ch
	return id, ch, func() {
		s.mu.Lock()
		delete(s.asked, id)
		s.mu.Unlock()
	}
}

// Answer hands a response to the one who asked; nil is an error response. It is false where nobody asks.
func (s *Session) Answer(id string, result []byte) bool {
	s.mu.Lock()
	ch := s.asked[id]
	delete(s.asked, id)
	s.mu.Unlock()
	if ch == nil {
		return false
	}
	ch <- result
	return true
}

// Watch and Unwatch keep the resources whose updates the client wants. Watch is false for too many.
func (s *Session) Watch(uri string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.watched[uri]; known {
		return true
	}
	if len(s.watched) >= mostWatched || s.watchedB+len(uri) > mostWatchedBytes {
		return false
	}
	if s.watched == nil {
		s.watched = map[string]struct{}{}
	}
	s.watched[uri] = struct{}{}
	s.watchedB += len(uri)
	return true
}

// Unwatch ends what Watch began.
func (s *Session) Unwatch(uri string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.watched[uri]; known {
		delete(s.watched, uri)
		s.watchedB -= len(uri)
	}
}

// Watches tells whether the client wants to hear of a resource.
func (s *Session) Watches(uri string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.watched[uri]
	return ok
}

// Watched gives all the resources that the client watches.
func (s *Session) Watched() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.watched))
}

// HubAt is the position in the hub up to which the client has heard; SetHubAt moves it.
func (s *Session) HubAt() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hubAt
}

// SetHubAt moves HubAt.
func (s *Session) SetHubAt(at uint64) {
	s.mu.Lock()
	s.hubAt = at
	s.mu.Unlock()
}

// Listen makes the caller the one that carries the session's standalone messages: the one before it is ended, since
// each message goes to one stream. done must be called at its end.
func (s *Session) Listen(ctx context.Context) (listen context.Context, done func()) {
	listen, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	if s.listener != nil {
		s.listener()
	}
	s.listener = cancel
	s.mu.Unlock()
	return listen, cancel
}

// Attach notes an open stream; done must be called at its end.
func (s *Session) Attach() (done func()) {
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.open--
		s.used.Store(time.Now().UnixNano())
		s.mu.Unlock()
	}
}

// idle tells whether the session has had neither request nor stream since then.
func (s *Session) idle(since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open == 0 && len(s.running) == 0 && s.used.Load() < since.UnixNano()
}

// End ends a session that is in no store.
func (s *Session) End() { s.end() }

func (s *Session) end() {
	s.mu.Lock()
	if s.isEnded {
		s.mu.Unlock()
		return
	}
	s.isEnded = true
	running := slices.Collect(maps.Values(s.running)) // Run takes no more
	close(s.ended)
	s.log.end()
	s.mu.Unlock()
	for _, c := range running { // not under mu: what a cancelled request does next is its own affair
		c.Cancel(ErrSessionEnded)
	}
}
