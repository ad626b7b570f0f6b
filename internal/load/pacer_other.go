//go:build !linux

package load

import "time"

// pacer waits until a moment.
type pacer struct{}

func newPacer() (*pacer, error) { return &pacer{}, nil }

// wait returns after d.
func (*pacer) wait(d time.Duration) error {
	time.Sleep(d)
	return nil
}

func (*pacer) close() {}
