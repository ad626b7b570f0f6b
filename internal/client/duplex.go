package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"millrace/internal/mcp"
)

// ErrLeft is why calls fail once the one connection that carries them all is gone.
var ErrLeft = errors.New("the server closed the connection")

// duplex is a connection that carries the messages of many calls both ways: standard input and output of a process, or
// the event stream and the POSTs of 2024-11-05. Its methods are safe for concurrent use.
type duplex struct {
	s    *Session
	send func(ctx context.Context, message []byte) error
	stop func() // ends the connection, so that read returns
	wg   sync.WaitGroup

	asking chan struct{} // holds something for each request of the server that is being answered
	life   context.Context
	end    context.CancelFunc // of life: what is being answered is given up

	mu      sync.Mutex // guards what follows
	pending map[int64]*waiting
	err     error // why the connection is gone; nil while it is there
}

// waiting is a call that has not been answered.
type waiting struct {
	call *Call
	a    *Answer
	err  error
	done chan struct{} // closed when a or err is set
	busy sync.Mutex    // held while one of its notifications is being told
}

func newDuplex(s *Session, send func(context.Context, []byte) error, stop func()) *duplex {
	d := &duplex{s: s, send: send, stop: stop, asking: make(chan struct{}, mostAsking), pending: map[int64]*waiting{}}
	d.life, d.end = context.WithCancel(context.Background())
	return d
}

// begin reads messages, each into the buffer that next gives, until next fails or the server breaks the protocol; then it
// calls last, which ends what is left of the connection.
func (d *duplex) begin(next func() ([]byte, error), last func()) {
	d.wg.Go(func() {
		defer last()
		var m mcp.Request
		for {
			data, err := next()
			if err != nil {
				d.fail(err)
				return
			}
			m.Reset()
			if fault := m.Scan(data); fault != nil {
				d.fail(protocolErrorf("%s", fault.Message))
				return
			}
			d.take(&m, data)
		}
	})
}

// take hands on a message of the server.
func (d *duplex) take(m *mcp.Request, data []byte) {
	switch m.Kind {
	case mcp.KindResponse:
		id, err := strconv.ParseInt(string(m.ID), 10, 64)
		d.mu.Lock()
		w := d.pending[id]
		delete(d.pending, id)
		d.mu.Unlock()
		if err != nil || w == nil {
			return // of a call that was given up
		}
		w.a.Received = time.Now()
		w.a.body = append(w.a.body[:0], data...)
		w.a.message.Reset()
		if fault := w.a.message.Scan(w.a.body); fault != nil {
			w.err = protocolErrorf("%s", fault.Message)
		} else {
			w.err = w.a.take(id)
		}
		close(w.done)
	case mcp.KindNotification:
		// The message does not say which call it belongs to; a progress token does, and only its caller knows that.
		for _, w := range d.who(func(c *Call) bool { return c.Notify != nil }) {
			w.busy.Lock()
			select {
			case <-w.done:
			default:
				w.call.Notify(data)
			}
			w.busy.Unlock()
		}
	default:
		var call *Call
		if who := d.who(func(c *Call) bool { return c.Ask != nil }); len(who) > 0 {
			call = who[0].call
		}
		d.answer(data, call)
	}
}

// mostAsking is how many requests of the server are answered at a time. With more, nothing further is read: the server is
// to wait too.
const mostAsking = 16

// answer answers a request of the server, without holding up the answers of other calls: a user may have to think.
func (d *duplex) answer(data []byte, call *Call) {
	select {
	case d.asking <- struct{}{}:
	case <-d.life.Done():
		return
	}
	own := new(mcp.Request)
	if fault := own.Scan(append([]byte(nil), data...)); fault != nil {
		panic("a message that was scanned is none: " + fault.Message)
	}
	d.wg.Go(func() {
		defer func() { <-d.asking }()
		reply := appendReply(nil, own, call)
		ctx, cancel := context.WithTimeout(d.life, d.s.t.Timeout)
		defer cancel()
		_ = d.send(ctx, reply) // where it fails, so does reading
	})
}

// who gives the calls of which f is true.
func (d *duplex) who(f func(*Call) bool) (all []*waiting) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.pending {
		if f(w.call) {
			all = append(all, w)
		}
	}
	return all
}

// fail ends every call that waits, and those to come.
func (d *duplex) fail(err error) {
	if isEOF(err) || errors.Is(err, os.ErrClosed) {
		err = ErrLeft
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	for id, w := range d.pending {
		delete(d.pending, id)
		w.err = err
		close(w.done)
	}
}

func (d *duplex) call(ctx context.Context, deadline time.Time, id int64, call *Call, a *Answer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &waiting{call: call, a: a, done: make(chan struct{})}
	d.mu.Lock()
	if d.err != nil {
		d.mu.Unlock()
		return fmt.Errorf("%s: %w", call.Method, d.err)
	}
	d.pending[id] = w
	d.mu.Unlock()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if err := d.send(ctx, d.s.appendRequest(nil, id, call)); err != nil {
		d.forget(id, w)
		return err
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	if !d.forget(id, w) {
		return w.err // it came at the same moment
	}
	d.s.cancelled(id)
	return context.Cause(ctx)
}

// forget gives a call up; it is false where its answer has come.
func (d *duplex) forget(id int64, w *waiting) bool {
	d.mu.Lock()
	_, there := d.pending[id]
	delete(d.pending, id)
	d.mu.Unlock()
	if !there {
		<-w.done
		return false
	}
	w.busy.Lock() // whoever tells it something now is through with it first
	defer w.busy.Unlock()
	close(w.done)
	return true
}

func (d *duplex) close() {
	d.end()
	d.stop()
	d.wg.Wait()
}
