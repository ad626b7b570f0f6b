package main

import (
	"os"
	"runtime/debug"
)

// tuneMemory lets the heap grow further between collections than Go does by itself: a server of small requests has a
// small heap, which would be collected hundreds of times a second. What stands in the environment wins.
func tuneMemory() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(400)
	}
}
