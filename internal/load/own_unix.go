//go:build unix

package load

import (
	"runtime"
	"syscall"
)

// ownCPU is the processor time of this process in seconds.
func ownCPU() float64 {
	u := usage()
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// ownMaxMemory is the most memory that this process had resident, in bytes.
func ownMaxMemory() int64 {
	u := usage()
	if runtime.GOOS == "darwin" {
		return int64(u.Maxrss)
	}
	return int64(u.Maxrss) << 10
}

func usage() (u syscall.Rusage) {
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for oneself
	return u
}
