// Package polltest waits in tests for what no event tells of: the state of other processes, and the end of a time that is their concern.
// Where an event does, a test waits for that.
package polltest

import (
	"testing"
	"time"
)

const (
	every = time.Millisecond
	limit = 30 * time.Second
)

// Until returns once is gives true, and ends the test where it does not for long.
func Until(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick, over := time.NewTicker(every), time.NewTimer(limit)
	defer tick.Stop()
	defer over.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-over.C:
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
