package front

import (
	"net/http"
	"sync"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/session"
)

// keepAliveEvery is how often a quiet event stream shows that it is alive: well below the idle time-outs of proxies.
const keepAliveEvery = 15 * time.Second

// eventStream writes server-sent events to one HTTP response. Its methods are safe for concurrent use. After a write
// has failed all others do nothing: the client is gone.
type eventStream struct {
	limit time.Duration // for one write

	mu     sync.Mutex // guards what follows
	w      http.ResponseWriter
	ctl    *http.ResponseController
	buf    []byte
	failed bool
	closed bool
	stop   chan struct{} // ends the keep-alives
	wg     sync.WaitGroup
}

// openEvents turns a response into an event stream. close must be called before the handler returns.
func openEvents(w http.ResponseWriter, sessionID string, limit time.Duration) *eventStream {
	s := &eventStream{limit: limit, w: w, ctl: http.NewResponseController(w), stop: make(chan struct{})}
	h := w.Header()
	h["Content-Type"] = eventStreamType
	h["Cache-Control"] = noStore
	h["X-Accel-Buffering"] = []string{"no"}
	if sessionID != "" {
		h["Mcp-Session-Id"] = []string{sessionID}
	}
	s.ctl.SetReadDeadline(time.Time{}) //nolint:errcheck // HTTP/2 may not have it, and needs it not
	w.WriteHeader(http.StatusOK)
	s.write(nil)
	s.wg.Go(s.keepAlive)
	return s
}

func (s *eventStream) keepAlive() {
	t := time.NewTicker(keepAliveEvery)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			s.write(mcp.KeepAlive)
		}
	}
}

// write sends raw bytes of the stream.
func (s *eventStream) write(p []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeLocked(p)
}

func (s *eventStream) writeLocked(p []byte) bool {
	if s.failed || s.closed {
		return false
	}
	s.ctl.SetWriteDeadline(time.Now().Add(s.limit)) //nolint:errcheck // where there is none, the server's own holds
	if len(p) > 0 {
		if _, err := s.w.Write(p); err != nil {
			s.failed = true
			return false
		}
	}
	if err := s.ctl.Flush(); err != nil {
		s.failed = true
	}
	// Between two writes there is no deadline: HTTP/2's resets a stream also where nothing is being written.
	s.ctl.SetWriteDeadline(time.Time{}) //nolint:errcheck // as above
	return !s.failed
}

// event sends one event.
func (s *eventStream) event(id, name string, data []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = mcp.AppendEvent(s.buf[:0], id, name, data)
	ok := s.writeLocked(s.buf)
	if cap(s.buf) > keepBuffer {
		s.buf = nil
	}
	return ok
}

// message sends one JSON-RPC message.
func (s *eventStream) message(id string, data []byte) bool { return s.event(id, "message", data) }

// messages sends the messages of a stream that is being resumed; those that only primed it are passed over.
func (s *eventStream) messages(missed []session.Message) bool {
	for _, m := range missed {
		if len(m.Data) > 0 && !s.message(m.ID, m.Data) {
			return false
		}
	}
	return true
}

// close ends the stream; the response must not be used by others afterwards.
func (s *eventStream) close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.stop)
	}
	s.mu.Unlock()
	s.wg.Wait()
}
