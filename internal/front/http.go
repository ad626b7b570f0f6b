package front

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/session"
)

// Values of headers, made once: net/http takes the slices as they are.
var (
	jsonType        = []string{"application/json"}
	eventStreamType = []string{"text/event-stream"}
	noStore         = []string{"no-store"}
	acceptEncoding  = []string{"Accept-Encoding"}
	bearer          = []string{`Bearer realm="millrace"`}
)

// Path is where the protocol is served; a toolset of its own is below it.
const Path = "/mcp"

// Identify names the caller by the value of its Authorization header; false turns it away.
type Identify func(authorization string) (*mcp.Principal, bool)

// HTTP serves the protocol over net/http: Streamable HTTP of every revision that has it, and HTTP+SSE of 2024-11-05.
type HTTP struct {
	core     *Core
	identify Identify
	origins  *originPolicy
	compress *compressor
	maxBody  int64
	limit    time.Duration // for the body to arrive, and for one write to be taken
}

// NewHTTP makes the handler.
func NewHTTP(cfg Config, core *Core, identify Identify) *HTTP {
	return &HTTP{core: core, identify: identify, origins: newOriginPolicy(cfg), compress: newCompressor(cfg),
		maxBody: int64(cfg.MaxBody), limit: cfg.BodyTimeout.Std()}
}

func (s *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	cors, ok := s.origins.checkRequest(r)
	if !ok {
		s.refuse(w, http.StatusForbidden, nil, mcp.CodeInvalidRequest,
			"the Host or Origin header names a place that may not call here; see listen.allowed_hosts and listen.allowed_origins")
		return
	}
	toolset := ""
	if r.URL.Path != Path {
		rest, below := strings.CutPrefix(r.URL.Path, Path+"/")
		if !below || rest == "" || !s.core.Service().Has(rest) {
			s.refuse(w, http.StatusNotFound, nil, mcp.CodeInvalidRequest, "nothing is served here: the endpoint is "+Path+", a toolset's is "+Path+"/NAME")
			return
		}
		toolset = rest
	}
	if r.Method == http.MethodOptions {
		preflight(w, r, cors)
		return
	}
	allowOrigin(w.Header(), cors)
	authorization := ""
	if a := r.Header["Authorization"]; len(a) == 1 {
		authorization = a[0]
	}
	principal, ok := s.identify(authorization)
	if !ok {
		w.Header()["Www-Authenticate"] = bearer
		s.refuse(w, http.StatusUnauthorized, nil, mcp.CodeInvalidRequest, "an API key is needed: Authorization: Bearer KEY")
		return
	}
	switch r.Method {
	case http.MethodPost:
		s.post(w, r, start, toolset, principal)
	case http.MethodGet:
		s.get(w, r, toolset, principal)
	case http.MethodDelete:
		s.delete(w, r, principal)
	default:
		w.Header().Set("Allow", corsMethods)
		s.refuse(w, http.StatusMethodNotAllowed, nil, mcp.CodeInvalidRequest, "use POST")
	}
}

// refusals are the kinds of error that requests are counted as which never became a message.
var refusals = map[int]string{http.StatusBadRequest: "invalid_request", http.StatusUnauthorized: "unauthorized",
	http.StatusForbidden: "forbidden", http.StatusNotFound: "not_found", http.StatusMethodNotAllowed: "method_not_allowed",
	http.StatusNotAcceptable: "not_acceptable", http.StatusRequestTimeout: "slow_body",
	http.StatusRequestEntityTooLarge: "too_large", http.StatusUnsupportedMediaType: "unsupported_media_type",
	http.StatusServiceUnavailable: "unavailable"}

// refuse answers a request that never became a message.
func (s *HTTP) refuse(w http.ResponseWriter, status int, id []byte, code mcp.Code, message string) {
	s.core.meters[mcp.MethodUnknown].Error(mcp.RevisionNone, refusals[status])
	rid := requestID()
	s.core.Log.Debug("request refused", "request_id", rid, "status", status, "error", message)
	h := w.Header()
	h["Content-Type"] = jsonType
	w.WriteHeader(status)
	w.Write(appendError(nil, id, code, message, nil, rid)) //nolint:errcheck // the client is gone: nobody to tell
}

// mediaType tells whether the value of a Content-Type or Accept header is of, or lists, a type.
func mediaType(values []string, want, wildcard string) bool {
	for _, v := range values {
		if strings.Contains(v, want) || strings.Contains(v, "*/*") || wildcard != "" && strings.Contains(v, wildcard) {
			return true
		}
	}
	return false
}

func (s *HTTP) post(w http.ResponseWriter, r *http.Request, start time.Time, toolset string, principal *mcp.Principal) {
	ct := r.Header["Content-Type"]
	if len(ct) != 1 || !isJSON(ct[0]) {
		s.refuse(w, http.StatusUnsupportedMediaType, nil, mcp.CodeInvalidRequest, "Content-Type must be application/json")
		return
	}
	accept := r.Header["Accept"]
	streams := mediaType(accept, eventStreamType[0], "text/*")
	if len(accept) > 0 && !streams && !mediaType(accept, jsonType[0], "application/*") {
		s.refuse(w, http.StatusNotAcceptable, nil, mcp.CodeInvalidRequest, "Accept must list application/json and text/event-stream")
		return
	}
	x := s.core.newExchange()
	defer func() { x.free() }()
	if status, message := s.read(x, r); status != 0 {
		w.Header()["Connection"] = []string{"close"}
		// The time for the answer began with the body's and ended with it.
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.limit)) //nolint:errcheck // the server's own holds
		s.refuse(w, status, nil, mcp.CodeInvalidRequest, message)
		return
	}
	x.ctx, x.start, x.toolset, x.principal = r.Context(), start, toolset, principal
	reply := &x.posted
	if r.URL.RawQuery != "" {
		reply = new(httpReply) // x may go with the message, and this may not
	}
	*reply = httpReply{http: s, x: x, w: w, r: r}
	x.reply, x.canSend = reply, streams
	defer reply.close()
	if r.URL.RawQuery != "" {
		if id := r.URL.Query().Get(directQuery); id != "" {
			s.postDirect(w, x, id)
			x = s.core.newExchange() // the other one went with the message
			return
		}
	}
	if mcp.IsBatch(x.body) {
		s.core.batch(x, r.Header)
		return
	}
	if fault := x.req.Scan(x.body); fault != nil {
		x.rev = headerRevision(r.Header)
		x.failStatus(http.StatusBadRequest, fault)
		return
	}
	if status, fault := s.core.httpEra(x, r.Header); fault != nil {
		x.failStatus(status, fault)
		return
	}
	s.core.serve(x)
}

// read reads the body into x. Its buffer grows with what arrives, not with what is promised.
func (s *HTTP) read(x *exchange, r *http.Request) (status int, message string) {
	const tooLarge = "the message is larger than listen.max_body"
	if r.ContentLength > s.maxBody {
		return http.StatusRequestEntityTooLarge, tooLarge
	}
	if cap(x.body) == 0 {
		x.body = make([]byte, 0, 2048)
	}
	b := x.body[:0]
	for {
		n, err := r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if int64(len(b)) > s.maxBody {
			return http.StatusRequestEntityTooLarge, tooLarge
		}
		if err == io.EOF {
			x.body = b
			return 0, ""
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return http.StatusRequestTimeout, "the message did not arrive within listen.body_timeout"
			}
			return http.StatusBadRequest, "the message broke off"
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// httpReply answers one POST: with JSON, or, once something had to be sent before the answer, with an event stream.
type httpReply struct {
	http   *HTTP
	x      *exchange
	w      http.ResponseWriter
	r      *http.Request
	events *eventStream
	stream *session.Stream // of a legacy session: what is sent can be read again
	detach func()
}

func (p *httpReply) send(message []byte) bool {
	if !p.x.canSend {
		return false
	}
	resumable := p.x.session != nil
	if p.events == nil {
		p.events = openEvents(p.w, p.x.newSession, p.http.limit)
		if resumable {
			p.stream = p.x.session.NewStream()
			p.detach = p.x.session.Attach()
			if p.x.rev >= mcp.Revision20251125 {
				first := p.stream.Send(nil, false)
				p.events.event(first.ID, "", nil) // primes the client with an id to resume from
			}
		}
	}
	id := ""
	if resumable {
		id = p.stream.Send(message, false).ID
	}
	// A legacy client that is gone may resume: for it the message is sent. A modern one has cancelled by leaving.
	return p.events.message(id, message) || resumable
}

// kept tells which part of a message is a result that is kept.
func (p *httpReply) kept(message []byte) part {
	x := p.x
	if x.packed == nil || len(message) != len(x.out) || &message[0] != &x.out[0] {
		return part{}
	}
	return part{x.fieldsAt, x.fieldsEnd, x.packed}
}

func (p *httpReply) finish(status int, sessionID string, message []byte) {
	if p.events != nil {
		if message != nil {
			id := ""
			if p.stream != nil {
				id = p.stream.Send(append([]byte(nil), message...), true).ID
			}
			p.events.message(id, message)
		} else if p.stream != nil {
			p.stream.End()
		}
		p.close()
		return
	}
	h := p.w.Header()
	if message == nil {
		p.w.WriteHeader(http.StatusAccepted)
		return
	}
	h["Content-Type"] = jsonType
	if sessionID != "" {
		h[headerSession] = []string{sessionID}
	}
	if p.http.compress.varies(len(message)) {
		h["Vary"] = append(h["Vary"], acceptEncoding...)
		if ae := p.r.Header["Accept-Encoding"]; len(ae) > 0 {
			if packed, coding := p.http.compress.encode(nil, strings.Join(ae, ","), message, p.kept(message)); coding != "" {
				message = packed
				h["Content-Encoding"] = []string{coding}
			}
		}
	}
	if len(message) > 2048 { // below, net/http finds the length by itself
		h["Content-Length"] = []string{strconv.Itoa(len(message))}
	}
	if status != http.StatusOK {
		p.w.WriteHeader(status)
	}
	if len(message) > 256<<10 {
		// More than the socket takes at once: the time to take it counts from here, not from the request.
		http.NewResponseController(p.w).SetWriteDeadline(time.Now().Add(p.http.limit)) //nolint:errcheck // the server's own holds
	}
	if _, err := p.w.Write(message); err != nil {
		p.http.core.Log.Debug("the client did not take its answer", "error", err)
	}
}

// close ends what send has begun. The keep-alives must not outlive the handler, however it ends.
func (p *httpReply) close() {
	if p.events == nil {
		return
	}
	p.events.close()
	if p.stream != nil {
		p.stream.End()
		p.detach()
		p.stream = nil
	}
}

// extend lets the exchange last until the given time.
func (p *httpReply) extend(until time.Time) {
	if p.events != nil || until.Sub(p.x.start) <= p.http.limit/2 {
		return // the limits that hold from the request's start leave time enough
	}
	ctl := http.NewResponseController(p.w)
	ctl.SetReadDeadline(time.Time{})              //nolint:errcheck // HTTP/2 may not have it, and needs it not
	ctl.SetWriteDeadline(until.Add(p.http.limit)) //nolint:errcheck // as above
}

// get opens the stream of a session's own messages, or an HTTP+SSE connection of 2024-11-05.
func (s *HTTP) get(w http.ResponseWriter, r *http.Request, toolset string, principal *mcp.Principal) {
	if !mediaType(r.Header["Accept"], eventStreamType[0], "text/*") {
		s.refuse(w, http.StatusNotAcceptable, nil, mcp.CodeInvalidRequest,
			"this is an MCP endpoint: clients POST JSON-RPC messages here, or GET with Accept: text/event-stream")
		return
	}
	if s.notLegacy(w, r, "revision 2026-07-28 has no GET: use subscriptions/listen") {
		return
	}
	id := r.Header[headerSession]
	if len(id) == 0 {
		if len(r.Header[headerVersion]) == 0 {
			s.getDirect(w, r, toolset, principal)
		} else {
			s.refuse(w, http.StatusBadRequest, nil, mcp.CodeInvalidRequest, "header Mcp-Session-Id is missing")
		}
		return
	}
	sess, ok := s.core.Sessions.Get(r.Context(), id[0], principal)
	if !ok || len(id) > 1 || sess.Toolset != toolset {
		s.refuse(w, http.StatusNotFound, nil, mcp.CodeInvalidRequest, "the session does not exist, or has ended: initialize again")
		return
	}
	last := r.Header.Get(headerResume)
	if last != "" {
		_, stream, _, ok := sess.Resume(last)
		if !ok {
			s.refuse(w, http.StatusBadRequest, nil, mcp.CodeInvalidRequest, "Last-Event-ID is no event of this session, or too old to resume from")
			return
		}
		if !stream.Is(sess.Standalone()) {
			s.follow(w, r, sess, last)
			return
		}
	}
	detach := sess.Attach()
	defer detach()
	// The stream before this one is ended first: what it has taken until then is among what was missed.
	ctx, done := sess.Listen(r.Context())
	defer done()
	events := openEvents(w, "", s.limit)
	defer events.close()
	stream := sess.Standalone()
	if last != "" {
		missed, _, _, ok := sess.Resume(last)
		if !ok || !events.messages(missed) {
			return
		}
	} else if sess.Revision() >= mcp.Revision20251125 {
		events.event(stream.Send(nil, false).ID, "", nil)
	}
	s.core.legacyEvents(ctx, sess, func(message []byte) bool {
		return events.message(stream.Send(message, false).ID, message)
	})
}

// follow carries the rest of a call's stream that is being resumed. It ends with the call, also while the server drains.
func (s *HTTP) follow(w http.ResponseWriter, r *http.Request, sess *session.Session, last string) {
	detach := sess.Attach()
	defer detach()
	events := openEvents(w, "", s.limit)
	defer events.close()
	for {
		missed, _, more, ok := sess.Resume(last)
		if !ok || !events.messages(missed) || more == nil {
			return
		}
		if len(missed) > 0 {
			last = missed[len(missed)-1].ID
		}
		select {
		case <-more:
		case <-sess.Ended():
			return
		case <-r.Context().Done():
			return
		}
	}
}

// delete ends a session.
func (s *HTTP) delete(w http.ResponseWriter, r *http.Request, principal *mcp.Principal) {
	if s.notLegacy(w, r, "revision 2026-07-28 has no sessions") {
		return
	}
	id := r.Header[headerSession]
	if len(id) != 1 {
		s.refuse(w, http.StatusBadRequest, nil, mcp.CodeInvalidRequest, "header Mcp-Session-Id is missing")
		return
	}
	if _, ok := s.core.Sessions.Get(r.Context(), id[0], principal); !ok {
		s.refuse(w, http.StatusNotFound, nil, mcp.CodeInvalidRequest, "the session does not exist, or has ended")
		return
	}
	s.core.Sessions.Delete(r.Context(), id[0])
	w.WriteHeader(http.StatusNoContent)
}
