package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stampedReader reads from a connection of a listener that stamps, and knows when the kernel had received the last of what
// was read.
type stampedReader struct {
	arrived time.Time // by the wall clock

	raw syscall.RawConn
	oob [64]byte
}

// stamping makes a listener one whose connections are stamped: a request can be there before a connection could ask for it.
func stamping(network, address string, conn syscall.RawConn) (err error) {
	controlErr := conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1) })
	return cmp.Or(controlErr, err)
}

func newStampedReader(conn net.Conn) (*stampedReader, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T has no time stamps", conn)
	}
	raw, err := c.SyscallConn()
	return &stampedReader{raw: raw}, err
}

func (r *stampedReader) Read(p []byte) (n int, err error) {
	var oobn int
	waitErr := r.raw.Read(func(fd uintptr) bool {
		for err = unix.EINTR; err == unix.EINTR; {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), p, r.oob[:], 0)
		}
		return err != unix.EAGAIN
	})
	switch {
	case waitErr != nil:
		return 0, waitErr
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(r.oob[:oobn])
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS_NEW && len(m.Data) >= 16 {
			r.arrived = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
			return n, nil
		}
	}
	return 0, fmt.Errorf("the kernel gave no time stamp")
}
