//go:build unix

package client

import (
	"crypto/tls"
	"net"
	"syscall"
)

// alive tells whether an idle connection is still open and silent: the server may have closed it meanwhile, or have said
// something that nobody asked for. It does not wait.
func alive(conn net.Conn) bool {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	has, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := has.SyscallConn()
	if err != nil {
		return false
	}
	silent := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		silent = err == syscall.EAGAIN
		return true
	})
	return err == nil && silent
}
