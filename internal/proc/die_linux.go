package proc

import "syscall"

// dieWithParent lets the kernel end the process when the thread that starts it is gone. A thread of Go's ends before its
// process only if a goroutine that was locked to it does, and none here is.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
