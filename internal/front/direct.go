package front

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/session"
)

// HTTP+SSE, the transport of revision 2024-11-05: a GET opens an event stream whose first event names where to POST;
// answers to what is posted there come over the stream.

const directQuery = "sessionId"

func (s *HTTP) getDirect(w http.ResponseWriter, r *http.Request, toolset string, principal *mcp.Principal) {
	c := s.core
	sess, err := c.Sessions.Open(r.Context(), session.Hello{Revision: mcp.Revision20241105, Principal: principal, Toolset: toolset, Hub: c.Hub.Now()})
	if err != nil {
		s.refuse(w, http.StatusServiceUnavailable, nil, mcp.CodeInternal, "too many sessions: try again later")
		return
	}
	// The stream is the session: when it breaks, nobody can receive the answers of what still runs.
	defer c.Sessions.Delete(context.WithoutCancel(r.Context()), sess.ID)
	detach := sess.Attach()
	defer detach()
	events := openEvents(w, "", s.limit)
	defer events.close()
	direct := &directStream{eventStream: events, idle: make(chan struct{}, 1)}
	c.direct.Store(sess.ID, direct)
	defer c.direct.Delete(sess.ID)
	if !events.event("", "endpoint", []byte(r.URL.Path+"?"+directQuery+"="+sess.ID)) {
		return
	}
	c.legacyEvents(r.Context(), sess, func(message []byte) bool { return events.message("", message) })
	// While the server drains the stream goes on until what runs has been answered on it.
	for direct.working.Load() > 0 {
		select {
		case <-direct.idle:
		case <-r.Context().Done():
			return
		case <-sess.Ended():
			return
		case <-c.base.Done():
			return
		}
	}
}

// postDirect takes a message of an HTTP+SSE session. x goes with it: it is answered over the session's stream, after
// this request.
func (s *HTTP) postDirect(w http.ResponseWriter, x *exchange, id string) {
	c := s.core
	sess, ok := c.Sessions.Get(x.ctx, id, x.principal)
	open, isOpen := c.direct.Load(id)
	if !ok || !isOpen || sess.Toolset != x.toolset {
		s.refuse(w, http.StatusNotFound, nil, mcp.CodeInvalidRequest, "the session does not exist, or has ended: open a new event stream")
		x.free()
		return
	}
	x.session, x.rev, x.canSend, x.ctx = sess, sess.Revision(), true, c.base
	events := open.(*directStream)
	x.reply = directReply{events.eventStream}
	if mcp.IsBatch(x.body) {
		s.later(w, x, events, func() { c.batch(x, nil) })
		return
	}
	if fault := x.req.Scan(x.body); fault != nil {
		s.refuse(w, http.StatusBadRequest, x.req.ID, fault.Code, fault.Message)
		x.free()
		return
	}
	if x.req.Kind != mcp.KindRequest {
		w.WriteHeader(http.StatusAccepted)
		c.serve(x)
		x.free()
		return
	}
	s.later(w, x, events, func() { c.serve(x) })
}

// mostDirect is how many requests and batches of one HTTP+SSE session may be at work: their POSTs do not wait for them,
// so nothing else bounds what one client can heap up.
const mostDirect = 256

// directStream is the event stream of an HTTP+SSE session.
type directStream struct {
	*eventStream
	working atomic.Int32
	idle    chan struct{} // gets something when working has come down to zero
}

// later accepts x and runs f for it beside the request that brought it.
func (s *HTTP) later(w http.ResponseWriter, x *exchange, events *directStream, f func()) {
	c := s.core
	c.laterMu.RLock()
	defer c.laterMu.RUnlock()
	refusal := ""
	select {
	case <-c.draining:
		refusal = "the server is stopping: open a new event stream"
	default:
		if events.working.Add(1) > mostDirect {
			events.working.Add(-1)
			refusal = "too many requests of this session are running: try again later"
		}
	}
	if refusal != "" {
		s.refuse(w, http.StatusServiceUnavailable, x.req.ID, mcp.CodeInternal, refusal)
		x.free()
		return
	}
	w.WriteHeader(http.StatusAccepted)
	c.work.Go(func() {
		defer func() {
			if events.working.Add(-1) == 0 {
				select {
				case events.idle <- struct{}{}:
				default:
				}
			}
		}()
		f()
		x.free()
	})
}

// directReply answers over the stream of an HTTP+SSE session.
type directReply struct{ events *eventStream }

func (p directReply) send(message []byte) bool { return p.events.message("", message) }

func (p directReply) finish(_ int, _ string, message []byte) {
	if message != nil {
		p.events.message("", message)
	}
}

func (directReply) extend(time.Time) {}
