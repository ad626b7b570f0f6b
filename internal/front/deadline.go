package front

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// lazyListener accepts connections whose deadlines are lazyDeadlines.
type lazyListener struct{ net.Listener }

func (l lazyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newLazyConn(conn), nil
}

// lazyConn is a connection whose deadlines cost next to nothing to move. net/http moves them eight times a request, each
// time taking the poller's lock and changing a timer: together as much as the whole of an answer from the cache.
type lazyConn struct {
	net.Conn
	in, out lazyDeadline
}

func newLazyConn(conn net.Conn) *lazyConn {
	return &lazyConn{Conn: conn, in: lazyDeadline{set: conn.SetReadDeadline}, out: lazyDeadline{set: conn.SetWriteDeadline}}
}

// Read implements net.Conn.
func (c *lazyConn) Read(p []byte) (n int, err error) {
	if err := c.in.begin(); err != nil {
		return 0, err
	}
	for {
		n, err = c.Conn.Read(p)
		if !c.in.again(err) {
			c.in.end()
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c *lazyConn) Write(p []byte) (n int, err error) {
	if err := c.out.begin(); err != nil {
		return 0, err
	}
	for {
		m, err := c.Conn.Write(p[n:])
		n += m
		if !c.out.again(err) {
			c.out.end()
			return n, err
		}
	}
}

// CloseWrite shuts the sending side down, where the connection can.
func (c *lazyConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetDeadline implements net.Conn.
func (c *lazyConn) SetDeadline(t time.Time) error { return errors.Join(c.in.move(t), c.out.move(t)) }

// SetReadDeadline implements net.Conn.
func (c *lazyConn) SetReadDeadline(t time.Time) error { return c.in.move(t) }

// SetWriteDeadline implements net.Conn.
func (c *lazyConn) SetWriteDeadline(t time.Time) error { return c.out.move(t) }

// lazyDeadline is a deadline of one direction. Most deadlines move away before they come: so the connection's own one is
// only ever set to come earlier, and one that came too early is noticed by whoever it wakes, who sets the wanted one and
// goes on. Operations on the connection stand between begin and end.
type lazyDeadline struct {
	set func(time.Time) error // moves the connection's own

	mu    sync.Mutex // guards what follows
	want  time.Time  // zero for none
	armed time.Time  // the connection's own
	spent bool       // armed has come: until it is moved, every operation fails at once
	busy  int        // operations that run
}

// longPast is before any time that a clock shows. net/http interrupts a read with such a deadline.
var longPast = time.Unix(1<<20, 0)

// move makes t the deadline, also of the operations that run.
func (d *lazyDeadline) move(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.want = t
	if d.busy == 0 {
		return nil // begin sees to it
	}
	return d.arm()
}

// arm makes sure that the connection's own deadline comes no later than the wanted one. d.mu is locked.
func (d *lazyDeadline) arm() error {
	if !d.spent && (d.want.IsZero() || !d.armed.IsZero() && !d.want.Before(d.armed)) {
		return nil
	}
	d.armed, d.spent = d.want, false
	return d.set(d.want)
}

func (d *lazyDeadline) begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.want.IsZero() && d.want.Before(longPast) {
		return os.ErrDeadlineExceeded
	}
	d.busy++
	if err := d.arm(); err != nil {
		d.busy--
		return err
	}
	return nil
}

// again tells whether err only says that a deadline came which is not the wanted one any more: the operation is to go on.
func (d *lazyDeadline) again(err error) bool {
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spent = true
	if !d.want.IsZero() && !time.Now().Before(d.want) {
		return false
	}
	return d.arm() == nil
}

func (d *lazyDeadline) end() {
	d.mu.Lock()
	d.busy--
	d.mu.Unlock()
}
