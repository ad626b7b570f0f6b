//go:build !unix

package load

// ownCPU is the processor time of this process in seconds; unknown here.
func ownCPU() float64 { return 0 }

// ownMaxMemory is the most memory that this process had resident, in bytes; unknown here.
func ownMaxMemory() int64 { return 0 }
