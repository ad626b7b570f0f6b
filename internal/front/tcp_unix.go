//go:build unix

package front

import (
	"runtime"
	"syscall"
)

// setBuffers sets the send and receive buffers of a socket and gives the smaller of the two sizes that the kernel took.
func setBuffers(raw syscall.RawConn, size int) (effective int, err error) {
	var inner error
	err = raw.Control(func(fd uintptr) {
		effective = size
		for _, option := range []int{syscall.SO_RCVBUF, syscall.SO_SNDBUF} {
			var got int
			if inner = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, option, size); inner != nil {
				return
			}
			if got, inner = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, option); inner != nil {
				return
			}
			if runtime.GOOS == "linux" {
				got /= 2 // Linux doubles what it is given, for its own bookkeeping, and tells the double
			}
			effective = min(effective, got)
		}
	})
	if err == nil {
		err = inner
	}
	return effective, err
}
