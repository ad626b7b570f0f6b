package load

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pacer waits until a moment. The runtime's own timers wake an idle process up to a millisecond late, because epoll takes
// whole ones; a timer of the kernel's that the poller waits for like for a connection comes within some ten microseconds.
type pacer struct {
	file *os.File
	fd   int
	buf  [8]byte
}

func newPacer() (*pacer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return &pacer{file: os.NewFile(uintptr(fd), "timer"), fd: fd}, nil
}

// wait returns after d, or when the pacer is closed.
func (p *pacer) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
	if err := unix.TimerfdSettime(p.fd, 0, &spec, nil); err != nil {
		return os.NewSyscallError("timerfd_settime", err)
	}
	_, err := p.file.Read(p.buf[:])
	return err
}

func (p *pacer) close() { p.file.Close() }
