//go:build !unix

package front

import (
	"errors"
	"syscall"
)

func setBuffers(syscall.RawConn, int) (int, error) {
	return 0, errors.New("listen.tcp_buffer: a fixed size is not supported on this system; write auto")
}
