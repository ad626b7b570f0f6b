package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"millrace/internal/mcp"
)

// Call is one request. What it holds is only read.
type Call struct {
	Method string
	// Name is what the Mcp-Name header says: the tool, the prompt, the resource's URI; "" for methods without it.
	Name string
	// Params is the encoded members of params, without braces and without _meta; nil for none.
	Params []byte
	// Meta is encoded members of params._meta, beside those that the revision demands; nil for none.
	Meta []byte
	// Headers are Mcp-Param-* headers.
	Headers []Header
	// Deadline bounds the call; zero for the client's own time-out from now.
	Deadline time.Time
	// Notify, where set, gets each notification that comes before the answer. The bytes are gone when it returns.
	Notify func(message []byte)
	// Ask, where set, answers the server's requests (legacy revisions): with an encoded result, or with an error. Over stdio
	// and HTTP+SSE several may run at a time, and one may outlast its call, but not the session: Close waits for it.
	Ask func(method string, params []byte) (result []byte, err *mcp.Error)
}

// Answer is what came back for a Call. Its bytes belong to it and are gone with its next use: one Answer serves many
// calls, one at a time.
type Answer struct {
	// Result is the result as the server sent it, an encoded object; nil where Error is set.
	Result []byte
	// Error is the server's JSON-RPC error.
	Error *mcp.Error
	// Status is HTTP's; 0 where there is none.
	Status int
	// Received is when the answer was complete.
	Received time.Time
	// Bytes is the length of the message.
	Bytes int

	message   mcp.Request
	body      []byte
	sessionID string // that an initialize brought
}

// Session is one client's conversation with a server. Its methods are safe for concurrent use: each call takes a
// connection of its own, or, where one connection carries all, a turn on it.
type Session struct {
	t      *target
	id     string // of a legacy session, "" for none
	tongue atomic.Pointer[tongue]
	ids    atomic.Int64
	wires  *wires
	shared *http.Client // carries HTTP/2
	duplex *duplex      // where one connection carries all: HTTP+SSE and stdio

	serverName, serverVersion string // as initialize or server/discover said; set before the session is used
}

// tongue is a revision and what it makes every request carry. It is replaced once the server has said what it speaks, while
// the server's first requests may already be answered.
type tongue struct {
	rev   mcp.Revision
	meta  []byte // the members of _meta that a modern request carries
	extra []byte // header lines
}

// Revision is what the session speaks.
func (s *Session) Revision() mcp.Revision { return s.tongue.Load().rev }

// Connections is how many HTTP/1.1 connections the session has open for its calls.
func (s *Session) Connections() int {
	s.wires.mu.Lock()
	defer s.wires.mu.Unlock()
	return len(s.wires.open)
}

// Server is what the server calls itself and its version; empty where it has not said so.
func (s *Session) Server() (name, version string) { return s.serverName, s.serverVersion }

// ID is the session id that the server gave, "" for none.
func (s *Session) ID() string { return s.id }

// Close ends the session: a legacy one is deleted at the server, within a second. Calls that are under way fail, but for
// those over HTTP/2, which only their context ends.
func (s *Session) Close() {
	if s.duplex != nil {
		s.duplex.close()
	}
	s.wires.close()
	if s.id != "" {
		s.end()
	}
	if s.shared != nil {
		s.shared.CloseIdleConnections()
	}
}

// end tells the server that a legacy session is over.
func (s *Session) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := s.t.request(ctx, http.MethodDelete, s.tongue.Load().extra)
	if err != nil {
		return
	}
	client := s.t.http()
	defer client.CloseIdleConnections()
	if resp, err := client.Do(req); err == nil {
		resp.Body.Close()
	}
}

// appendRequest writes the message of a call.
func (s *Session) appendRequest(dst []byte, id int64, call *Call) []byte {
	dst = strconv.AppendInt(append(dst, `{"jsonrpc":"2.0","id":`...), id, 10)
	return s.appendMethod(dst, call)
}

// appendMethod writes the rest of a request or notification, from its method on.
func (s *Session) appendMethod(dst []byte, call *Call) []byte {
	dst = mcp.AppendText(append(dst, `,"method":`...), call.Method)
	t := s.tongue.Load()
	if call.Params == nil && call.Meta == nil && !t.rev.IsModern() {
		return append(dst, '}')
	}
	dst = append(append(dst, `,"params":{`...), call.Params...)
	if call.Meta != nil || t.rev.IsModern() {
		if len(call.Params) > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, `"_meta":{`...), t.meta...)
		if call.Meta != nil {
			if len(t.meta) > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, call.Meta...)
		}
		dst = append(dst, '}')
	}
	return append(dst, '}', '}')
}

// appendHeaders writes the header lines of a call's request.
func (s *Session) appendHeaders(dst []byte, call *Call) []byte {
	t := s.tongue.Load()
	dst = append(dst, t.extra...)
	if t.rev.IsModern() {
		dst = appendHeader(dst, "Mcp-Method", call.Method)
		if call.Name != "" {
			dst = appendHeader(dst, "Mcp-Name", mcp.EncodeHeader(call.Name))
		}
	}
	for _, h := range call.Headers {
		dst = appendHeader(dst, h.Name, mcp.EncodeHeader(h.Value))
	}
	return dst
}

// Call sends a request and waits for its answer, which it writes into a. An error of the server's, or a tool's, is an
// answer and no error of Call. When ctx ends before the answer is there, the request is cancelled as its revision has it.
func (s *Session) Call(ctx context.Context, call *Call, a *Answer) error {
	deadline := call.Deadline
	if deadline.IsZero() {
		deadline = time.Now().Add(s.t.Timeout)
	}
	for _, h := range call.Headers { // their names come from a server's schemas, their values are encoded
		if err := checkName(h.Name); err != nil {
			return err
		}
	}
	a.reset()
	id := s.ids.Add(1)
	switch {
	case s.duplex != nil:
		return s.duplex.call(ctx, deadline, id, call, a)
	case s.shared != nil:
		return s.callShared(ctx, deadline, id, call, a)
	}
	return s.callWire(ctx, deadline, id, call, a)
}

func (a *Answer) reset() {
	a.message.Reset()
	*a = Answer{message: a.message, body: a.body[:0]}
}

// keepBody is the greatest buffer that an Answer keeps for its next use.
const keepBody = 1 << 20

// callWire is a call on an HTTP/1.1 connection.
func (s *Session) callWire(ctx context.Context, deadline time.Time, id int64, call *Call, a *Answer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if cap(a.body) > keepBody {
		a.body = nil
	}
	// The request stands behind the headers in one buffer; the answer takes its place.
	buf := s.appendHeaders(a.body[:0], call)
	split := len(buf)
	buf = s.appendRequest(buf, id, call)
	dial, cancel := context.WithDeadline(ctx, deadline)
	w, err := s.wires.take(dial)
	cancel()
	if err != nil {
		return s.cause(ctx, err)
	}
	if err := s.exchange(ctx, w, deadline, id, call, buf[:split], buf[split:], a); err != nil {
		w.close() // nothing is sent again: the server may have done what it was asked
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			s.giveUp(id, call)
		}
		return s.cause(ctx, err)
	}
	s.wires.put(w)
	return nil
}

// cause says of an error that came of ctx's end that it did.
func (s *Session) cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// exchange sends a request on w and reads its answer.
func (s *Session) exchange(ctx context.Context, w *wire, deadline time.Time, id int64, call *Call, extra, body []byte, a *Answer) (err error) {
	if err := w.conn.SetDeadline(deadline); err != nil {
		return err
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() {
			s.giveUp(id, call)
			_ = w.conn.SetDeadline(time.Unix(1, 0))
		})
		defer func() {
			if !stop() { // the cancel may still strike: not the next one to use the connection
				w.head.close = true
			}
		}()
	}
	if err := w.send(s.t.prefix, extra, body); err != nil {
		return err
	}
	if err := w.receive(); err != nil {
		return err
	}
	a.Status = w.head.status
	if s.id == "" && len(w.head.sessionID) > 0 {
		a.sessionID = string(w.head.sessionID)
	}
	if w.head.isEvents {
		return s.events(ctx, w, deadline, id, call, a)
	}
	if a.body, err = w.all(a.body[:0]); err != nil {
		return err
	}
	a.Received = time.Now()
	return a.read(w.head.isJSON, id)
}

// read takes the answer out of a body that is one message.
func (a *Answer) read(isJSON bool, id int64) error {
	if !isJSON || len(a.body) == 0 {
		if a.Status == http.StatusOK {
			return protocolErrorf("it answered a request with status 200 and neither JSON nor an event stream")
		}
		return &StatusError{a.Status, clip(a.body)}
	}
	fault := a.message.Scan(a.body)
	if fault != nil || a.message.Kind != mcp.KindResponse {
		if a.Status != http.StatusOK {
			return &StatusError{a.Status, clip(a.body)}
		}
		if fault == nil {
			return protocolErrorf("it answered a request with another message")
		}
		return protocolErrorf("%s", fault.Message)
	}
	return a.take(id)
}

// take reads the response that has been scanned.
func (a *Answer) take(id int64) error {
	var want [20]byte
	if own := strconv.AppendInt(want[:0], id, 10); string(a.message.ID) != string(own) {
		// An error before the id was read has none.
		if a.message.Error == nil || a.message.ID != nil && string(a.message.ID) != "null" {
			return protocolErrorf("it answered request %s with the id %s", own, clip(a.message.ID))
		}
	}
	a.Bytes = len(a.body)
	if a.message.Error != nil {
		return a.takeError()
	}
	a.Result = a.message.Result
	return nil
}

func (a *Answer) takeError() error {
	code, err := strconv.ParseInt(string(mcp.Member(a.message.Error, "code")), 10, 32)
	text, isText := mcp.Text(mcp.Member(a.message.Error, "message"))
	if err != nil || !isText {
		return protocolErrorf("an error without code or message: %s", clip(a.message.Error))
	}
	a.Error = &mcp.Error{Code: mcp.Code(code), Message: string(text), Data: mcp.Member(a.message.Error, "data")}
	return nil
}

// afterAnswer is how long a stream may go on once the answer is there, if its connection is to be used again.
const afterAnswer = 50 * time.Millisecond

// events reads an event stream up to the answer.
func (s *Session) events(ctx context.Context, w *wire, deadline time.Time, id int64, call *Call, a *Answer) error {
	r := mcp.NewEventReader(w, s.t.MaxBytes)
	for {
		e, err := r.Next()
		if err != nil {
			return streamError(err)
		}
		began := time.Now()
		done, err := s.event(ctx, e, id, call, a)
		if err != nil {
			return err
		}
		if a.message.Kind == mcp.KindRequest && a.message.Method != mcp.Ping && call.Ask != nil && ctx.Err() == nil {
			deadline = deadline.Add(time.Since(began)) // the time in which its user thinks is not the call's
			if err := w.conn.SetDeadline(deadline); err != nil {
				return err
			}
		}
		if done {
			break
		}
	}
	if w.conn.SetReadDeadline(time.Now().Add(afterAnswer)) != nil {
		w.head.close = true
	} else if _, err := r.Next(); err == nil || !isEOF(err) || w.trailer() != nil {
		w.head.close = true
	}
	return nil
}

func streamError(err error) error {
	switch {
	case isEOF(err):
		return protocolErrorf("the stream ended before the answer")
	case errors.Is(err, mcp.ErrEventTooLarge):
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return err
}

// event takes one event of a stream that carries a call; done tells that it was the answer.
func (s *Session) event(ctx context.Context, e *mcp.StreamEvent, id int64, call *Call, a *Answer) (done bool, err error) {
	if len(e.Data) == 0 || string(e.Name) != "message" {
		return false, nil
	}
	a.message.Reset()
	a.body = append(a.body[:0], e.Data...)
	if fault := a.message.Scan(a.body); fault != nil {
		return false, protocolErrorf("%s", fault.Message)
	}
	switch a.message.Kind {
	case mcp.KindResponse:
		a.Received = time.Now()
		return true, a.take(id)
	case mcp.KindNotification:
		if call.Notify != nil {
			call.Notify(a.body)
		}
	default:
		return false, s.reply(ctx, &a.message, call)
	}
	return false, nil
}

// reply answers a request of the server.
func (s *Session) reply(ctx context.Context, m *mcp.Request, call *Call) error {
	if rev := s.Revision(); rev.IsModern() {
		return protocolErrorf("a server of revision %s sent a request", rev)
	}
	return s.post(ctx, appendReply(nil, m, call))
}

// appendReply writes the answer to a request of the server.
func appendReply(dst []byte, m *mcp.Request, call *Call) []byte {
	var result []byte
	fault := mcp.Errorf(mcp.CodeMethodNotFound, "this client does not know the method")
	switch {
	case m.Method == mcp.Ping:
		result, fault = []byte("{}"), nil
	case call != nil && call.Ask != nil:
		result, fault = call.Ask(string(m.MethodName), m.Params)
	}
	dst = append(append(dst, `{"jsonrpc":"2.0","id":`...), m.ID...)
	if fault == nil {
		return append(append(append(dst, `,"result":`...), result...), '}')
	}
	dst = mcp.AppendInt(append(dst, `,"error":{"code":`...), int64(fault.Code))
	return append(mcp.AppendText(append(dst, `,"message":`...), fault.Message), '}', '}')
}

// Notify sends a notification.
func (s *Session) Notify(ctx context.Context, call *Call) error {
	body := s.appendMethod([]byte(`{"jsonrpc":"2.0"`), call)
	if s.duplex != nil {
		return s.duplex.send(ctx, body)
	}
	return s.post(ctx, body)
}
