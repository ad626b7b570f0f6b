package front

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// countedConn counts how often its deadlines are moved.
type countedConn struct {
	net.Conn
	moves int
}

func (c *countedConn) SetReadDeadline(t time.Time) error {
	c.moves++
	return c.Conn.SetReadDeadline(t)
}

func (c *countedConn) SetWriteDeadline(t time.Time) error {
	c.moves++
	return c.Conn.SetWriteDeadline(t)
}

// lazyPipe gives a lazy connection, what is below it, and its other end.
func lazyPipe(t *testing.T) (*lazyConn, *countedConn, net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	counted := &countedConn{Conn: near}
	return newLazyConn(counted), counted, far
}

func TestLazyDeadlineEndsWhatItShould(t *testing.T) {
	buf := make([]byte, 10)
	read := func(c *lazyConn) error { _, err := c.Read(buf); return err }
	write := func(c *lazyConn) error { _, err := c.Write(buf); return err }
	for _, c := range []struct {
		name string
		op   func(*lazyConn) error
		set  func(*lazyConn, time.Time) error
	}{{"read", read, (*lazyConn).SetReadDeadline}, {"write", write, (*lazyConn).SetWriteDeadline},
		{"read, both", read, (*lazyConn).SetDeadline}, {"write, both", write, (*lazyConn).SetDeadline}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, _, _ := lazyPipe(t)
				start := time.Now()
				expect := func(after time.Duration) {
					t.Helper()
					err := c.op(conn)
					var timeout net.Error
					if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
						t.Fatalf("gave %v", err)
					}
					if got := time.Since(start); got != after {
						t.Fatalf("ended after %v, want %v", got, after)
					}
				}
				c.set(conn, start.Add(5*time.Second))
				expect(5 * time.Second)
				expect(5 * time.Second)                // it has come: every further one ends at once
				c.set(conn, start.Add(20*time.Second)) // later
				expect(20 * time.Second)
				c.set(conn, start.Add(60*time.Second))
				c.set(conn, start.Add(30*time.Second)) // earlier
				expect(30 * time.Second)
				c.set(conn, start.Add(40*time.Second)) // moved away while the operation waits for it
				go func() {
					time.Sleep(5 * time.Second)
					c.set(conn, start.Add(50*time.Second))
				}()
				expect(50 * time.Second)
				c.set(conn, time.Time{}) // brought forward while the operation waits without one
				go func() {
					time.Sleep(5 * time.Second)
					c.set(conn, start.Add(57*time.Second))
				}()
				expect(57 * time.Second)
				c.set(conn, time.Time{})
				go func() { // net/http's way of interrupting
					time.Sleep(3 * time.Second)
					c.set(conn, time.Unix(1, 0))
				}()
				expect(60 * time.Second)
				expect(60 * time.Second)
			})
		})
	}
}

// A deadline that was moved away while a part had been written, or read, loses nothing.
func TestLazyDeadlineGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, _, far := lazyPipe(t)
		conn.SetDeadline(time.Now().Add(time.Second))
		go func() {
			io.ReadFull(far, make([]byte, 3))
			conn.SetWriteDeadline(time.Now().Add(time.Hour))
			time.Sleep(time.Minute) // the first deadline comes meanwhile
			got := make([]byte, 4)
			io.ReadFull(far, got)
			far.Write(got)
		}()
		if n, err := conn.Write([]byte("1234567")); n != 7 || err != nil {
			t.Fatal(n, err)
		}
		conn.SetReadDeadline(time.Time{})
		got := make([]byte, 4)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "4567" {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

func TestLazyDeadlineMovesRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, counted, far := lazyPipe(t)
		go io.Copy(far, far)
		buf := make([]byte, 1)
		for range 1000 { // 10 s, as net/http goes about it
			conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
			conn.SetReadDeadline(time.Unix(1, 0))
			conn.SetReadDeadline(time.Time{})
			time.Sleep(10 * time.Millisecond)
			conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			conn.Write(buf)
			conn.Read(buf)
			conn.SetWriteDeadline(time.Time{})
		}
		if counted.moves > 3 {
			t.Errorf("the connection's own deadlines moved %d times in 1000 requests", counted.moves)
		}
	})
}
