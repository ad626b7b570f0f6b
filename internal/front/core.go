package front

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"millrace/internal/hub"
	"millrace/internal/mcp"
	"millrace/internal/session"
)

// Service is one generation of what is served. It is immutable; a reload gives another.
type Service interface {
	// Has tells whether there is a toolset of this name; "" always is.
	Has(toolset string) bool
	// Resolve fills call with what req asks for; the error is a *mcp.Error or *mcp.ToolError.
	Resolve(toolset string, headers map[string][]string, req *mcp.Request, call *mcp.Call) error
	// Ready gives an answer that is at hand, without waiting or working.
	Ready(call *mcp.Call, now time.Time) (mcp.Result, bool)
	// Handle does the work. It may only be called between Acquire and Release.
	Handle(ctx context.Context, call *mcp.Call) (mcp.Result, error)
	// Acquire keeps what the generation stands on open until Release. It is false for one that has been replaced: the
	// caller then takes the new one.
	Acquire() bool
	Release()
}

// Gauge counts what is in flight.
type Gauge interface{ Add(int64) }

// Deps is what a Core stands on.
type Deps struct {
	Service  func() Service // the current generation
	Sessions session.Store
	Hub      *hub.Hub
	Meter    func(mcp.Method) mcp.Meter // for the methods that the core answers itself
	InFlight Gauge
	StateKey []byte // signs requestState
	Version  string // of this program
	Log      *slog.Logger
}

// Core speaks the protocol, in every revision, above any transport: it takes scanned messages and answers through a
// replier. HTTP and stdio drive it; another HTTP engine could.
type Core struct {
	Deps
	seal     sealer
	meters   [mcp.MethodCount]mcp.Meter
	info     []byte // serverInfo
	draining chan struct{}
	base     context.Context // of work that outlives its connection
	stop     context.CancelFunc
	work     sync.WaitGroup // of goroutines that the core started
	direct   sync.Map       // session id → *eventStream of HTTP+SSE
	pool     sync.Pool      // of *exchange
	drainOne sync.Once

	laterMu sync.RWMutex // held for reading while work begins: none does once Close waits
}

// NewCore makes a core.
func NewCore(d Deps) *Core {
	c := &Core{Deps: d, draining: make(chan struct{}), seal: sealer{key: d.StateKey}}
	c.base, c.stop = context.WithCancel(context.Background())
	for m := range c.meters {
		c.meters[m] = d.Meter(mcp.Method(m))
	}
	c.info = mcp.AppendText([]byte(`{"name":"millrace","title":"Millrace","version":`), d.Version)
	c.info = append(c.info, '}')
	c.pool.New = func() any { return &exchange{core: c} }
	return c
}

// Drain ends the streams that have no end of their own; requests go on.
func (c *Core) Drain() { c.drainOne.Do(func() { close(c.draining) }) }

// Close cancels what still runs and waits for it.
func (c *Core) Close() {
	c.Drain()
	c.stop()
	c.laterMu.Lock() // who comes later sees that the server drains
	//lint:ignore SA2001 it only waits for those that came before
	c.laterMu.Unlock()
	c.work.Wait()
}

// serverCapabilities is what every revision is told.
const serverCapabilities = `{"completions":{},"logging":{},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"tools":{"listChanged":true}}`

const instructions = "Tools here run prepared SQL statements. Results carry their rows in structuredContent.rows; a result that was cut says so."

// serve answers the message that x has scanned. A panic ends that message alone: net/http would see to it for its own
// goroutines, but batches, stdio and HTTP+SSE have others, where it would end the process.
func (c *Core) serve(x *exchange) {
	defer func() {
		if p := recover(); p != nil {
			c.Log.Error("panic", "method", x.req.Method.String(), "target", x.call.Target, "panic", p, "stack", string(debug.Stack()))
			if x.req.Kind == mcp.KindRequest {
				x.failStatus(500, &mcp.Error{Code: mcp.CodeInternal, Message: "internal error; the server's log has more under the request id"})
			}
		}
	}()
	switch x.req.Kind {
	case mcp.KindNotification:
		c.notification(x)
	case mcp.KindResponse:
		c.response(x)
	default:
		c.InFlight.Add(1)
		defer c.InFlight.Add(-1)
		c.request(x)
	}
}

func (c *Core) request(x *exchange) {
	switch x.req.Method {
	case mcp.Initialize:
		c.initialize(x)
	case mcp.Ping:
		if x.rev.IsModern() {
			x.fail(errMethod(x))
			return
		}
		x.result(mcp.Result{})
	case mcp.LoggingSetLevel:
		c.setLevel(x)
	case mcp.ResourcesSubscribe, mcp.ResourcesUnsubscribe:
		c.watch(x)
	case mcp.ServerDiscover:
		c.discover(x)
	case mcp.SubscriptionsListen:
		c.listen(x)
	default:
		c.invoke(x)
	}
}

func errMethod(x *exchange) *mcp.Error {
	return mcp.Errorf(mcp.CodeMethodNotFound, "method %q does not exist in revision %s", clip(x.req.MethodName), x.rev)
}

func clip(text []byte) string {
	if len(text) > 100 {
		return string(text[:100]) + "…"
	}
	return string(text)
}

// notification takes what needs no answer.
func (c *Core) notification(x *exchange) {
	if x.req.Method == mcp.NotificationCancelled && x.session != nil {
		if id := mcp.Member(x.req.Params, "requestId"); id != nil {
			x.session.Cancel(id)
		}
	}
	x.accepted()
}

// response takes a legacy client's response to a request of ours.
func (c *Core) response(x *exchange) {
	if x.session != nil {
		if id, ok := mcp.Text(x.req.ID); ok {
			// The bytes outlive this message: they go to the request that asked.
			x.session.Answer(string(id), append([]byte(nil), x.req.Result...))
		}
	}
	x.accepted()
}

func (c *Core) initialize(x *exchange) {
	if x.rev.IsModern() || x.inBatch {
		x.fail(errMethod(x))
		return
	}
	asked, ok := mcp.Text(mcp.Member(x.req.Params, "protocolVersion"))
	if !ok {
		x.fail(mcp.Errorf(mcp.CodeInvalidParams, "params.protocolVersion is missing"))
		return
	}
	rev, known := mcp.ParseRevision(asked)
	if !known || rev.IsModern() {
		rev = mcp.LatestLegacy
	}
	canElicit := rev >= mcp.Revision20250618 && declaresForms(mcp.Member(x.req.Params, "capabilities"))
	x.rev = rev
	if x.session != nil { // of stdio or HTTP+SSE: it was there before
		x.session.Negotiated(rev, canElicit)
	} else {
		s, err := c.Sessions.Open(x.ctx, session.Hello{Revision: rev, Principal: x.principal, Toolset: x.toolset,
			CanElicit: canElicit, Hub: c.Hub.Now()})
		if err != nil {
			x.failStatus(503, &mcp.Error{Code: mcp.CodeInternal, Cause: err,
				Message: "too many sessions: try again later, or use revision 2026-07-28, which needs none"})
			return
		}
		x.session, x.newSession = s, s.ID
	}
	out := mcp.AppendText([]byte(`"protocolVersion":`), rev.String())
	out = append(append(out, `,"capabilities":`...), serverCapabilities...)
	out = append(append(out, `,"serverInfo":`...), c.info...)
	out = mcp.AppendText(append(out, `,"instructions":`...), instructions)
	x.result(mcp.Result{Fields: out})
}

// declaresForms tells whether client capabilities hold elicitation by form; an empty object means that.
func declaresForms(capabilities []byte) bool {
	e := mcp.Member(capabilities, "elicitation")
	if len(e) == 0 || e[0] != '{' {
		return false
	}
	return mcp.Member(e, "form") != nil || mcp.Member(e, "url") == nil
}

func (c *Core) discover(x *exchange) {
	if !x.rev.IsModern() {
		x.fail(errMethod(x))
		return
	}
	out := []byte(`"supportedVersions":[`)
	for r := mcp.Modern; r > mcp.RevisionNone; r-- {
		if r != mcp.Modern {
			out = append(out, ',')
		}
		out = mcp.AppendText(out, r.String())
	}
	out = append(append(out, `],"capabilities":`...), serverCapabilities...)
	out = mcp.AppendText(append(out, `,"instructions":`...), instructions)
	x.result(mcp.Result{Fields: out, Hints: &mcp.Hints{TTL: time.Hour, Scope: mcp.ScopePublic}})
}

func (c *Core) setLevel(x *exchange) {
	if x.rev.IsModern() || x.session == nil {
		x.fail(errMethod(x))
		return
	}
	name, _ := mcp.Text(mcp.Member(x.req.Params, "level"))
	level, ok := mcp.ParseLogLevel(name)
	if !ok {
		x.fail(mcp.Errorf(mcp.CodeInvalidParams, "params.level must be one of debug, info, notice, warning, error, critical, alert, emergency"))
		return
	}
	x.session.SetLogLevel(level)
	x.result(mcp.Result{})
}

// watch answers resources/subscribe and resources/unsubscribe.
func (c *Core) watch(x *exchange) {
	if x.rev.IsModern() || x.session == nil {
		x.fail(errMethod(x))
		return
	}
	if x.req.URI == nil || len(x.req.URI) > 8192 {
		x.fail(mcp.Errorf(mcp.CodeInvalidParams, "params.uri is missing, or longer than 8192 bytes"))
		return
	}
	uri := string(x.req.URI)
	if x.req.Method == mcp.ResourcesUnsubscribe {
		x.session.Unwatch(uri)
		x.result(mcp.Result{})
		return
	}
	// Only what could be read can be watched: the same look-up and scope check as a read.
	probe := mcp.Request{Method: mcp.ResourcesRead, URI: x.req.URI}
	call := mcp.Call{Caller: x.caller()}
	if err := c.Service().Resolve(x.toolset, nil, &probe, &call); err != nil {
		x.failErr(err)
		return
	}
	if !x.session.Watch(uri) {
		x.fail(mcp.Errorf(mcp.CodeInvalidParams, "this session watches as many resources as it may"))
		return
	}
	x.result(mcp.Result{})
}
