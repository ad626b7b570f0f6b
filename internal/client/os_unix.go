//go:build unix

package client

import (
	"crypto/tls"
	"net"
	"os/exec"
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

// ownGroup puts a process that is yet to be started into a group of its own, with whatever it starts itself.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

// killGroup ends a process and what it has started.
func killGroup(cmd *exec.Cmd) {
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // gone already is as good
}
