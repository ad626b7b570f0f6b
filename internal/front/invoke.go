package front

import (
	"errors"
	"math"
	"strconv"
	"sync"
	"time"

	"millrace/internal/mcp"
)

var errTimeout = errors.New("time limit")

// mostRounds is how often one legacy call may ask its user.
const mostRounds = 5

// askLimit is how long a legacy call waits for its user.
const askLimit = 10 * time.Minute

// invoke answers what the catalog serves. An answer that is at hand goes straight back; all else is work.
func (c *Core) invoke(x *exchange) {
	svc := c.Service()
	call := &x.call
	call.Caller = x.caller()
	if err := svc.Resolve(x.toolset, x.headers, &x.req, call); err != nil {
		x.failErr(err)
		return
	}
	if x.req.RequestState == nil && x.req.InputResponses == nil {
		if r, ok := svc.Ready(call, x.start); ok {
			x.result(r)
			return
		}
	}
	for !svc.Acquire() { // a reload came in between
		svc = c.Service()
		call.Reset()
		call.Caller = x.caller()
		if err := svc.Resolve(x.toolset, x.headers, &x.req, call); err != nil {
			x.failErr(err)
			return
		}
	}
	defer svc.Release()
	c.handle(x, svc)
}

func (c *Core) handle(x *exchange, svc Service) {
	call := &x.call
	modern := x.rev.IsModern()
	if modern {
		if level := x.req.Meta.LogLevel; level != nil {
			var ok bool
			if call.LogLevel, ok = mcp.ParseLogLevel(level); !ok {
				x.fail(mcp.Errorf(mcp.CodeInvalidParams, "_meta logLevel must be one of debug to emergency"))
				return
			}
		}
		call.CanElicit = declaresForms(x.req.Meta.ClientCapabilities)
		if err := c.takeAnswer(x); err != nil {
			x.fail(err)
			return
		}
	} else if x.session != nil {
		call.LogLevel = x.session.LogLevel()
		call.CanElicit = x.canSend && x.session.CanElicit()
	}
	if x.canSend {
		call.Notify = x
	}

	// The user may take minutes between two rounds; only the work itself is under the tool's time limit.
	life := x.ctx
	if x.session != nil {
		// A broken connection is no cancellation in legacy revisions: the client resumes, or cancels by message.
		life = c.base
	}
	running := &running{}
	if x.session != nil {
		if !x.session.Run(x.req.ID, running) {
			x.fail(mcp.Errorf(mcp.CodeInvalidRequest, "a request with this id is running in this session, or too many are"))
			return
		}
		defer x.session.Finish(x.req.ID)
	}
	for round := 0; ; round++ {
		timeout := call.Policy.Timeout
		if ms := x.req.Meta.TimeoutMs; ms > 0 && ms < timeout.Milliseconds() {
			timeout = time.Duration(ms) * time.Millisecond
		}
		call.Deadline = time.Now().Add(timeout)
		x.reply.extend(call.Deadline)
		ctx := newCallContext(life, call.Deadline)
		running.enter(ctx)
		r, err := svc.Handle(ctx, call)
		if err != nil {
			// A tool's own account of a time-out stays: it may say that a write's fate is unknown.
			if cause := ctx.Cause(); cause != nil && errors.Is(err, ctx.Err()) && (cause != errTimeout || !isToolError(err)) {
				err = cause
			}
		}
		ctx.finish()
		switch {
		case err != nil:
			x.failErr(err)
			return
		case r.Input == nil:
			x.result(r)
			return
		case !call.CanElicit:
			x.failErr(&mcp.Error{Code: mcp.CodeMissingCapability, Message: "the client cannot ask its user, and this call needs that",
				Data: []byte(`{"requiredCapabilities":{"elicitation":{"form":{}}}}`)})
			return
		case modern:
			x.result(r)
			return
		case round == mostRounds:
			x.failErr(&mcp.ToolError{Kind: "declined", Message: "The user was asked too often: nothing was changed. Try again."})
			return
		}
		asking := newCallContext(life, time.Now().Add(askLimit))
		running.enter(asking)
		x.park()
		call.Answer, err = c.askSession(asking, x, r.Input)
		x.unpark()
		asking.finish()
		if err != nil {
			x.failErr(err)
			return
		}
	}
}

func isToolError(err error) bool {
	var tool *mcp.ToolError
	return errors.As(err, &tool)
}

// running is a request of a session while it runs, whatever it does at the moment.
type running struct {
	mu    sync.Mutex // guards what follows
	now   *callContext
	cause error
}

// enter makes ctx what Cancel cancels.
func (r *running) enter(ctx *callContext) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = ctx
	if r.cause != nil {
		ctx.Cancel(r.cause)
	}
}

// Cancel implements session.Canceller.
func (r *running) Cancel(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cause = cause
	if r.now != nil {
		r.now.Cancel(cause)
	}
}

// askSession asks a legacy client's user, over the stream of the call that needs it. Nothing is held meanwhile but the
// connection itself.
func (c *Core) askSession(ctx *callContext, x *exchange, in *mcp.InputRequired) (*mcp.Answer, error) {
	answer := &mcp.Answer{State: in.State, Responses: map[string][]byte{}}
	for _, q := range in.Requests {
		id, response, forget := x.session.Ask()
		defer forget()
		out := mcp.AppendText([]byte(`{"jsonrpc":"2.0","id":`), id)
		out = mcp.AppendText(append(out, `,"method":`...), q.Method)
		out = append(append(append(out, `,"params":`...), q.Params...), '}')
		if !x.reply.send(out) {
			return nil, &mcp.ToolError{Kind: "missing_capability", Message: "the user could not be asked: the client accepts no event stream (Accept: text/event-stream)"}
		}
		select {
		case r := <-response:
			if len(r) == 0 {
				return nil, &mcp.ToolError{Kind: "declined", Message: "The client could not ask its user: nothing was changed."}
			}
			answer.Responses[q.Key] = r
		case <-ctx.Done():
			if errors.Is(ctx.Cause(), errTimeout) {
				return nil, &mcp.ToolError{Kind: "declined", Message: "The user did not answer in time: nothing was changed."}
			}
			return nil, ctx.Cause()
		case <-x.deaf:
			return nil, &mcp.ToolError{Kind: "declined", Message: "The client left while its user was asked: nothing was changed."}
		case <-c.draining:
			return nil, &mcp.ToolError{Kind: "declined", Message: "The server is stopping: nothing was changed. Try again."}
		}
	}
	return answer, nil
}

// Progress implements mcp.Notifier.
func (x *exchange) Progress(progress, total float64, message string) {
	token := x.req.Meta.ProgressToken
	if token == nil || x.progressed && progress <= x.lastProgress || math.IsNaN(progress) || math.IsInf(progress, 0) {
		return
	}
	x.lastProgress, x.progressed = progress, true
	out := append(append([]byte(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":`), token...), `,"progress":`...)
	out = strconv.AppendFloat(out, progress, 'f', -1, 64)
	if total > 0 && !math.IsInf(total, 0) {
		out = strconv.AppendFloat(append(out, `,"total":`...), total, 'f', -1, 64)
	}
	if message != "" && x.rev >= mcp.Revision20250326 {
		out = mcp.AppendText(append(out, `,"message":`...), message)
	}
	x.reply.send(append(out, `}}`...))
}

// Log implements mcp.Notifier.
func (x *exchange) Log(level mcp.LogLevel, logger, message string) {
	if x.call.LogLevel == mcp.LogOff || level < x.call.LogLevel {
		return
	}
	out := mcp.AppendText([]byte(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":`), level.String())
	out = mcp.AppendText(append(out, `,"logger":`...), logger)
	out = mcp.AppendText(append(out, `,"data":`...), message)
	x.reply.send(append(out, `}}`...))
}
