package front

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/session"
)

// replier carries the messages of one exchange back to the client. It is used by one goroutine at a time.
type replier interface {
	// send writes a message that is not the last: a notification, or a request to the client. It is false where the
	// client cannot take one.
	send(message []byte) bool
	// finish writes the last message, or, with nil, that there is none. status is HTTP's; sessionID is set where a
	// session was opened. message must not be kept.
	finish(status int, sessionID string, message []byte)
	// extend lets the exchange last until the given time, whatever the transport's own limits are.
	extend(until time.Time)
}

// exchange is one message from a client and all that belongs to answering it. It is pooled.
type exchange struct {
	core *Core
	req  mcp.Request
	call mcp.Call
	body []byte // the message's bytes
	out  []byte
	exchangeState
}

// exchangeState is what of an exchange is cleared after each use.
type exchangeState struct {
	ctx          context.Context // the transport's: it ends when the client is gone
	start        time.Time
	rev          mcp.Revision
	principal    *mcp.Principal
	session      *session.Session // nil for modern over HTTP
	toolset      string
	headers      map[string][]string // of a modern HTTP request, to be held against its body; else nil
	reply        replier
	posted       httpReply // what reply is in most cases: no allocation of its own
	canSend      bool      // the client takes messages before the last
	inBatch      bool
	newSession   string
	packed       *mcp.Packed // of the result in out, whose Fields are from fieldsAt to fieldsEnd there; nil for one that is not kept
	fieldsAt     int
	fieldsEnd    int
	lastProgress float64
	progressed   bool
	slot         chan struct{}   // of stdio: taken while x is at work; nil where none is
	deaf         <-chan struct{} // closed when the client can answer no question any more; nil where it always can
}

// keepBuffer is the greatest buffer that an exchange keeps for its next use.
const keepBuffer = 64 << 10

func (c *Core) newExchange() *exchange { return c.pool.Get().(*exchange) }

// free gives x back. Nothing of it may be used any more.
func (x *exchange) free() {
	x.req.Reset()
	x.call.Reset()
	if cap(x.body) > keepBuffer {
		x.body = nil
	}
	if cap(x.out) > keepBuffer {
		x.out = nil
	}
	x.body, x.out = x.body[:0], x.out[:0]
	x.exchangeState = exchangeState{}
	x.core.pool.Put(x)
}

// unpin lets go of the message but for its id: a stream that lives for hours must not keep the body that opened it.
func (x *exchange) unpin() {
	id, method := bytes.Clone(x.req.ID), x.req.Method
	x.req.Reset()
	x.req.ID, x.req.Method, x.req.Kind = id, method, mcp.KindRequest
	x.body = nil
}

// park gives up the place among those at work while x only waits, for its user or for events; unpark takes one again.
func (x *exchange) park() {
	if x.slot != nil {
		<-x.slot
	}
}

func (x *exchange) unpark() {
	if x.slot != nil {
		x.slot <- struct{}{}
	}
}

func (x *exchange) caller() mcp.Caller {
	caller := mcp.Caller{Principal: x.principal}
	if x.session != nil {
		caller.Session = x.session.ID
	}
	return caller
}

// result answers with r.
func (x *exchange) result(r mcp.Result) {
	x.observe(r)
	x.out = x.appendResult(x.out[:0], &r)
	x.reply.finish(200, x.newSession, x.out)
}

// meter counts what x asked for: its target, or, before that is known, its method.
func (x *exchange) meter() mcp.Meter {
	if x.call.Meter != nil {
		return x.call.Meter
	}
	return x.core.meters[x.req.Method]
}

func (x *exchange) observe(r mcp.Result) {
	meter := x.meter()
	meter.Observe(x.rev, r.Cache.Status, time.Since(x.start))
	if r.IsError {
		meter.Error(x.rev, r.ErrorKind)
	}
}

// appendResult writes the response around the result's bytes and the caller's own id.
func (x *exchange) appendResult(dst []byte, r *mcp.Result) []byte {
	dst = append(append(append(dst, `{"jsonrpc":"2.0","id":`...), x.req.ID...), `,"result":{`...)
	start := len(dst)
	x.fieldsAt, x.packed = start, r.Packed
	comma := func() {
		if len(dst) > start {
			dst = append(dst, ',')
		}
	}
	dst = append(dst, r.Fields...)
	x.fieldsEnd = len(dst)
	modern := x.rev.IsModern()
	if modern {
		comma()
		if r.Input != nil {
			dst = x.appendInput(append(dst, `"resultType":"input_required"`...), r.Input)
		} else {
			dst = append(dst, `"resultType":"complete"`...)
			if r.Hints != nil {
				dst = mcp.AppendInt(append(dst, `,"ttlMs":`...), max(0, r.Hints.TTL-r.Cache.Age).Milliseconds())
				if r.Hints.Scope == mcp.ScopePublic {
					dst = append(dst, `,"cacheScope":"public"`...)
				} else {
					dst = append(dst, `,"cacheScope":"private"`...)
				}
			}
		}
	}
	if modern || r.Cache.Status != mcp.CacheNone || r.Meta != nil {
		comma()
		dst = append(dst, `"_meta":{`...)
		start = len(dst)
		if modern {
			dst = append(append(dst, `"io.modelcontextprotocol/serverInfo":`...), x.core.info...)
		}
		if r.Cache.Status != mcp.CacheNone {
			comma()
			dst = append(append(append(dst, `"millrace/cache":{"status":"`...), r.Cache.Status.String()...), '"')
			if r.Cache.Level > 0 {
				dst = append(dst, `,"level":`...)
				dst = strconv.AppendUint(dst, uint64(r.Cache.Level), 10)
				dst = mcp.AppendInt(append(dst, `,"age_ms":`...), r.Cache.Age.Milliseconds())
			}
			dst = append(dst, '}')
		}
		if r.Meta != nil {
			comma()
			dst = append(dst, r.Meta...)
		}
		dst = append(dst, '}')
	}
	return append(dst, `}}`...)
}

// accepted answers a message that needs no answer.
func (x *exchange) accepted() { x.reply.finish(202, "", nil) }

// requestID names one failure, for the client and the log.
func requestID() string {
	var b [8]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	return hex.EncodeToString(b[:])
}

// fail answers with a protocol error under the HTTP status that its code has in the exchange's era.
func (x *exchange) fail(e *mcp.Error) {
	status := 200
	switch e.Code {
	case mcp.CodeParse, mcp.CodeInvalidRequest, mcp.CodeHeaderMismatch, mcp.CodeMissingCapability, mcp.CodeUnsupportedVersion:
		status = 400
	case mcp.CodeMethodNotFound:
		if x.rev.IsModern() {
			status = 404
		}
	}
	x.failStatus(status, e)
}

var errorKinds = map[mcp.Code]string{mcp.CodeParse: "parse", mcp.CodeInvalidRequest: "invalid_request",
	mcp.CodeMethodNotFound: "unknown_method", mcp.CodeInvalidParams: "invalid_params", mcp.CodeInternal: "internal",
	mcp.CodeHeaderMismatch: "header_mismatch", mcp.CodeMissingCapability: "missing_capability",
	mcp.CodeUnsupportedVersion: "unsupported_version", mcp.CodeResourceNotFound: "not_found"}

func (x *exchange) failStatus(status int, e *mcp.Error) {
	x.meter().Error(x.rev, errorKinds[e.Code])
	id := requestID()
	level := slog.LevelDebug
	if e.Code == mcp.CodeInternal {
		level = slog.LevelWarn
	}
	x.core.Log.Log(x.ctx, level, "request failed", "request_id", id, "method", x.req.Method.String(), "target", x.call.Target,
		"code", int(e.Code), "error", e)
	code := e.Code
	if code == mcp.CodeResourceNotFound && x.rev.IsModern() {
		code = mcp.CodeInvalidParams
	}
	x.out = appendError(x.out[:0], x.req.ID, code, e.Message, e.Data, id)
	x.reply.finish(status, "", x.out)
}

// appendError writes an error response; data, where there is any, is a JSON object.
func appendError(dst, id []byte, code mcp.Code, message string, data []byte, requestID string) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	if id == nil {
		dst = append(dst, "null"...)
	}
	dst = append(append(dst, id...), `,"error":{"code":`...)
	dst = mcp.AppendText(append(mcp.AppendInt(dst, int64(code)), `,"message":`...), message)
	dst = append(dst, `,"data":{`...)
	if len(data) > 2 {
		dst = append(append(dst, data[1:len(data)-1]...), ',')
	}
	dst = mcp.AppendText(append(dst, `"requestId":`...), requestID)
	return append(dst, `}}}`...)
}

// failErr answers with any error that came of resolving or handling the call.
func (x *exchange) failErr(err error) {
	var tool *mcp.ToolError
	switch {
	case errors.As(err, &tool):
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded):
		tool = &mcp.ToolError{Kind: "timeout", Message: "the call took longer than its time limit and was stopped", Cause: err}
	case errors.Is(err, session.ErrCancelled), errors.Is(err, session.ErrSessionEnded), errors.Is(err, context.Canceled):
		// Nobody waits for an answer: the specification wants none.
		x.meter().Error(x.rev, "cancelled")
		x.core.Log.Debug("request cancelled", "method", x.req.Method.String(), "target", x.call.Target)
		x.accepted()
		return
	default:
		e, ok := mcp.AsError(err)
		if !ok {
			e = &mcp.Error{Code: mcp.CodeInternal, Message: "internal error; the server's log has more under the request id", Cause: err}
		}
		if e.Code == mcp.CodeMissingCapability && !x.rev.IsModern() {
			tool = &mcp.ToolError{Kind: "missing_capability", Message: e.Message} // a code of the modern revision only
			break
		}
		x.fail(e)
		return
	}
	if x.req.Method != mcp.ToolsCall {
		x.fail(&mcp.Error{Code: mcp.CodeInternal, Message: tool.Message, Cause: tool.Cause})
		return
	}
	id := requestID()
	x.core.Log.Debug("tool failed", "request_id", id, "target", x.call.Target, "kind", tool.Kind, "error", tool)
	out := mcp.AppendText([]byte(`"content":[{"type":"text","text":`), tool.Message)
	meta := mcp.AppendText([]byte(`"millrace/requestId":`), id)
	if tool.Meta != nil {
		meta = append(append(meta, ','), tool.Meta...)
	}
	x.result(mcp.Result{Fields: append(out, `}],"isError":true`...), Meta: meta, IsError: true, ErrorKind: tool.Kind})
}
