package front

import (
	"context"

	"millrace/internal/mcp"
	"millrace/internal/session"
)

// filter is what one listener wants to hear.
type filter struct {
	tools, prompts, resources bool
	uris                      map[string]struct{}
}

func (f *filter) wants(e mcp.Event) bool {
	switch e.Kind {
	case mcp.ToolsChanged:
		return f.tools
	case mcp.PromptsChanged:
		return f.prompts
	case mcp.ResourcesChanged:
		return f.resources
	}
	_, ok := f.uris[e.URI]
	return ok
}

func (f *filter) empty() bool { return !f.tools && !f.prompts && !f.resources && len(f.uris) == 0 }

// mostFilterURIs is how many resources one listener may name, mostFilterBytes how long their URIs may be together.
const (
	mostFilterURIs  = 1000
	mostFilterBytes = 128 << 10
)

var eventMethods = [...]string{
	mcp.ToolsChanged: "notifications/tools/list_changed", mcp.PromptsChanged: "notifications/prompts/list_changed",
	mcp.ResourcesChanged: "notifications/resources/list_changed", mcp.ResourceUpdated: "notifications/resources/updated",
}

// appendNotification writes an event's notification; subscription is the raw JSON-RPC id of the listener, nil for
// legacy streams, which have none.
func appendNotification(dst []byte, e mcp.Event, subscription []byte) []byte {
	dst = mcp.AppendText(append(dst, `{"jsonrpc":"2.0","method":`...), eventMethods[e.Kind])
	if e.Kind != mcp.ResourceUpdated && subscription == nil {
		return append(dst, '}')
	}
	dst = append(dst, `,"params":{`...)
	if e.Kind == mcp.ResourceUpdated {
		dst = mcp.AppendText(append(dst, `"uri":`...), e.URI)
		if subscription != nil {
			dst = append(dst, ',')
		}
	}
	if subscription != nil {
		dst = append(appendSubscription(dst, subscription), '}')
	} else {
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

func appendSubscription(dst, id []byte) []byte {
	return append(append(append(dst, `"_meta":{"io.modelcontextprotocol/subscriptionId":`...), id...), '}')
}

// listen answers subscriptions/listen: an acknowledgement, then notifications until the client leaves or the server
// stops, which ends the stream with a result.
func (c *Core) listen(x *exchange) {
	if !x.rev.IsModern() {
		x.fail(errMethod(x))
		return
	}
	want := mcp.Member(x.req.Params, "notifications")
	if len(want) == 0 || want[0] != '{' {
		x.fail(mcp.Errorf(mcp.CodeInvalidParams, "params.notifications is missing, or no object"))
		return
	}
	f := filter{uris: map[string]struct{}{}}
	var fault *mcp.Error
	size := 0 // of the URIs
	mcp.Members(want, func(key, value []byte) bool {
		flag := map[string]*bool{"toolsListChanged": &f.tools, "promptsListChanged": &f.prompts, "resourcesListChanged": &f.resources}[string(key)]
		if flag != nil {
			*flag = string(value) == "true"
			return true
		}
		if string(key) == "resourceSubscriptions" {
			mcp.Elements(value, func(v []byte) bool {
				uri, ok := mcp.Text(v)
				if size += len(uri); !ok || len(f.uris) >= mostFilterURIs || size > mostFilterBytes {
					fault = mcp.Errorf(mcp.CodeInvalidParams, "resourceSubscriptions must be at most %d strings of %d bytes together", mostFilterURIs, mostFilterBytes)
					return false
				}
				probe, call := mcp.Request{Method: mcp.ResourcesRead, URI: uri}, mcp.Call{Caller: x.caller()}
				if c.Service().Resolve(x.toolset, nil, &probe, &call) == nil {
					f.uris[string(uri)] = struct{}{} // what could not be read is not honoured, and the acknowledgement says so
				}
				return true
			})
		}
		return fault == nil
	})
	if fault != nil {
		x.fail(fault)
		return
	}
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	if x.session != nil { // stdio: notifications/cancelled ends it, from the moment on that the client knows of it
		if !x.session.Run(x.req.ID, cancelFunc(cancel)) {
			x.fail(mcp.Errorf(mcp.CodeInvalidRequest, "a request with this id is running, or too many are"))
			return
		}
		defer x.session.Finish(x.req.ID)
	}
	x.unpin()
	at := c.Hub.Now() // before the acknowledgement: what changes after it is told
	ack := append([]byte(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":`), f.json()...)
	ack = append(appendSubscription(append(ack, ','), x.req.ID), `}}`...)
	if !x.reply.send(ack) {
		x.fail(mcp.Errorf(mcp.CodeInvalidRequest, "subscriptions/listen needs an event stream: list text/event-stream in Accept"))
		return
	}
	x.park()
	defer x.unpark()
	for !f.empty() {
		events, next, lost, more := c.Hub.Since(at)
		at = next
		for _, e := range events {
			if f.wants(e) && !x.reply.send(appendNotification(nil, e, x.req.ID)) {
				x.reply.finish(200, "", nil)
				return
			}
		}
		if lost {
			for uri := range f.uris {
				x.reply.send(appendNotification(nil, mcp.Event{Kind: mcp.ResourceUpdated, URI: uri}, x.req.ID))
			}
		}
		select {
		case <-more:
		case <-c.draining:
			f = filter{}
		case <-ctx.Done():
			select {
			case <-c.draining: // it ends with its connection, but in good order
				f = filter{}
			default:
				x.reply.finish(200, "", nil)
				return
			}
		}
	}
	meta := append([]byte(`"io.modelcontextprotocol/subscriptionId":`), x.req.ID...)
	x.result(mcp.Result{Meta: meta})
}

// cancelFunc is a session.Canceller.
type cancelFunc func()

func (f cancelFunc) Cancel(error) { f() }

// json gives the honoured subset of what was asked for.
func (f *filter) json() []byte {
	out := []byte{'{'}
	add := func(key string, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(mcp.AppendText(out, key), ':'), value...)
	}
	for _, flag := range []struct {
		key string
		on  bool
	}{{"toolsListChanged", f.tools}, {"promptsListChanged", f.prompts}, {"resourcesListChanged", f.resources}} {
		if flag.on {
			add(flag.key, []byte("true"))
		}
	}
	if len(f.uris) > 0 {
		list := []byte{'['}
		for uri := range f.uris {
			if len(list) > 1 {
				list = append(list, ',')
			}
			list = mcp.AppendText(list, uri)
		}
		add("resourceSubscriptions", append(list, ']'))
	}
	return append(out, '}')
}

// legacyEvents carries the hub's events to a legacy session until ctx or the session ends, or the server drains.
// deliver is false when the client is gone.
func (c *Core) legacyEvents(ctx context.Context, s *session.Session, deliver func(message []byte) bool) {
	for {
		events, next, lost, more := c.Hub.Since(s.HubAt())
		if lost { // whatever is watched may have been updated
			for _, uri := range s.Watched() {
				events = append(events, mcp.Event{Kind: mcp.ResourceUpdated, URI: uri})
			}
		}
		for _, e := range events {
			if e.Kind == mcp.ResourceUpdated && !s.Watches(e.URI) {
				continue
			}
			// Another stream may have taken over while this one was writing: the rest is the other's to tell.
			if ctx.Err() != nil || !deliver(appendNotification(nil, e, nil)) {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		s.SetHubAt(next)
		select {
		case <-more:
		case <-ctx.Done():
			return
		case <-s.Ended():
			return
		case <-c.draining:
			return
		}
	}
}
