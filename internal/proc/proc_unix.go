//go:build unix

// Package proc ends processes that this one has started, with whatever they have started themselves. It is for the ends of
// the wire, the client and the load generator: the server starts no process.
package proc

import (
	"os/exec"
	"syscall"
)

// Group puts a process that is yet to be started into a group of its own, with whatever it starts itself. On Linux the
// process also ends with this one, however that ends.
func Group(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr)
}

// Terminate asks a process that was started in a Group, and all in the group, to end. One that is gone is as good.
func Terminate(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }

// Kill ends a process that was started in a Group, and all in the group.
func Kill(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
