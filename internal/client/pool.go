package client

import (
	"context"
	"net"
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
	open   map[*wire]struct{}
	closed bool
}

// take gives an idle connection, or a new one.
func (p *wires) take(ctx context.Context) (*wire, error) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 || p.closed {
			p.mu.Unlock()
			return p.dial(ctx)
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

// dial opens a connection, which close ends too.
func (p *wires) dial(ctx context.Context) (*wire, error) {
	w, err := dialWire(ctx, p.t)
	if err != nil {
		return nil, err
	}
	w.of = p
	p.mu.Lock()
	closed := p.closed
	if !closed {
		if p.open == nil {
			p.open = map[*wire]struct{}{}
		}
		p.open[w] = struct{}{}
	}
	p.mu.Unlock()
	if closed {
		w.conn.Close()
		return nil, net.ErrClosed
	}
	return w, nil
}

// forget takes a connection out that has been closed.
func (p *wires) forget(w *wire) {
	p.mu.Lock()
	delete(p.open, w)
	p.mu.Unlock()
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

// close closes all connections: what runs on them fails.
func (p *wires) close() {
	p.mu.Lock()
	p.closed, p.idle = true, nil
	open := p.open
	p.open = nil
	p.mu.Unlock()
	for w := range open {
		w.conn.Close()
	}
}
