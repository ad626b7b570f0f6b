package front

import (
	"sync"
	"time"

	"millrace/internal/mcp"
)

// batchWorkers is how many messages of one batch are answered at a time.
const batchWorkers = 8

// batch answers a JSON-RPC batch, which revision 2025-03-26 demands and 2024-11-05 allows. headers are the request's
// over HTTP, where the session has yet to be found, else nil.
func (c *Core) batch(x *exchange, headers map[string][]string) {
	messages, fault := mcp.ScanBatch(x.body)
	if fault != nil {
		x.failStatus(400, fault)
		return
	}
	parts := make([]*exchange, 0, len(messages))
	defer func() {
		for _, part := range parts {
			part.free()
		}
	}()
	// The batch lasts until the last of its calls may.
	var mu sync.Mutex // guards until
	var until time.Time
	extend := func(t time.Time) {
		mu.Lock()
		defer mu.Unlock()
		if t.After(until) {
			until = t
			x.reply.extend(t)
		}
	}
	for _, m := range messages {
		part := c.newExchange()
		parts = append(parts, part)
		part.body = append(part.body[:0], m...)
		part.ctx, part.start, part.toolset, part.principal = x.ctx, x.start, x.toolset, x.principal
		part.inBatch = true
		scanFault := part.req.Scan(part.body)
		if part.req.Meta.ProtocolVersion != nil || headerRevision(headers).IsModern() {
			x.rev = mcp.Modern
			x.fail(mcp.Errorf(mcp.CodeInvalidRequest, "revision 2026-07-28 has no batches"))
			return
		}
		if part.req.Method == mcp.Initialize && part.req.Kind == mcp.KindRequest {
			x.fail(mcp.Errorf(mcp.CodeInvalidRequest, "initialize cannot be part of a batch"))
			return
		}
		if headers != nil && x.session == nil {
			probe := &exchange{core: c, exchangeState: exchangeState{ctx: x.ctx, principal: x.principal, toolset: x.toolset}}
			if status, fault := c.httpEra(probe, headers); fault != nil {
				x.failStatus(status, fault)
				return
			}
			x.session, x.rev = probe.session, probe.rev
		}
		if x.rev == mcp.RevisionNone { // stdio
			x.fail(mcp.Errorf(mcp.CodeInvalidRequest, "initialize first"))
			return
		}
		if x.rev > mcp.Revision20250326 {
			x.fail(mcp.Errorf(mcp.CodeInvalidRequest, "revision %s has no batches", x.rev))
			return
		}
		part.session, part.rev = x.session, x.rev
		part.reply = &collect{fault: scanFault, extendAll: extend}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, batchWorkers)
	for _, part := range parts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if fault := part.reply.(*collect).fault; fault != nil {
				part.failStatus(400, fault)
				return
			}
			c.serve(part)
		})
	}
	wg.Wait()
	out := []byte{'['}
	for _, part := range parts {
		if answer := part.reply.(*collect).message; answer != nil {
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(out, answer...)
		}
	}
	if len(out) == 1 {
		x.accepted() // nothing but notifications and responses
		return
	}
	x.reply.finish(200, "", append(out, ']'))
}

// collect keeps the answer of one message of a batch.
type collect struct {
	fault     *mcp.Error
	message   []byte
	extendAll func(until time.Time)
}

func (*collect) send([]byte) bool { return false }

func (p *collect) finish(_ int, _ string, message []byte) {
	p.message = append([]byte(nil), message...)
}

func (p *collect) extend(until time.Time) { p.extendAll(until) }
