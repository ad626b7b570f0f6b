package client

import (
	"context"
	"sync"
	"time"
)

// restless is how long a connection may have been idle before it is looked at again: a server that closes idle
// connections does so after seconds, and looking costs a system call.
const restless = time.Second

// mostIdle is how many idle connections are kept.
const mostIdle = 10_000

// wires keeps a target's idle connections. Its methods are safe for concurrent use.
type wires struct {
	t *target

	mu     sync.Mutex // guards what follows
	idle   []*wire    // the one used last is the last
	closed bool
}

// take gives an idle connection, or a new one.
func (p *wires) take(ctx context.Context) (*wire, error) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 || p.closed {
			p.mu.Unlock()
			return dialWire(ctx, p.t)
		}
		w := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if time.Since(w.idle) < restless || alive(w.conn) {
			return w, nil
		}
		w.close()
	}
}

// put takes a connection back whose response has been read to its end.
func (p *wires) put(w *wire) {
	w.idle = time.Now()
	p.mu.Lock()
	keep := !p.closed && !w.head.close && len(p.idle) < mostIdle
	if keep {
		p.idle = append(p.idle, w)
	}
	p.mu.Unlock()
	if !keep {
		w.close()
	}
}

// close closes the idle connections; those in use are closed when they come back.
func (p *wires) close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, w := range idle {
		w.close()
	}
}
