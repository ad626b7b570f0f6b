package front

import (
	"context"
	"sync"
	"time"
)

// callContext is the context of one call's work: it ends with its parent, at its deadline, or when it is cancelled.
//
// Most work is a statement of a few microseconds that never asks for Done: the database layer looks at Err now and
// then. So a timer and a channel, which cost more than many a statement, are only made when somebody wants to be woken.
type callContext struct {
	parent   context.Context
	deadline time.Time

	mu     sync.Mutex // guards what follows
	cause  error      // of its end, once somebody has seen it or brought it about: it never changes then
	std    context.Context
	cancel context.CancelCauseFunc
	stop   context.CancelFunc
}

func newCallContext(parent context.Context, deadline time.Time) *callContext {
	return &callContext{parent: parent, deadline: deadline}
}

// standard gives a context of the standard library that ends when c does.
func (c *callContext) standard() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.standardLocked()
}

func (c *callContext) standardLocked() context.Context {
	if c.std == nil {
		var ctx context.Context
		ctx, c.cancel = context.WithCancelCause(c.parent)
		if c.cause != nil && c.cause != errTimeout {
			c.cancel(c.cause) // before the deadline is looked at, which may have passed since
		}
		c.std, c.stop = context.WithDeadlineCause(ctx, c.deadline, errTimeout)
	}
	return c.std
}

// Cancel ends the context with a cause, unless it has ended.
func (c *callContext) Cancel(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = cause
	}
	if c.cancel != nil {
		c.cancel(cause)
	}
}

// Cause tells why the context has ended, nil while it has not.
func (c *callContext) Cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.std != nil:
		return context.Cause(c.std)
	case c.cause != nil:
	case c.parent.Err() != nil:
		c.cause = context.Cause(c.parent)
	case !time.Now().Before(c.deadline):
		c.cause = errTimeout
	}
	return c.cause
}

// Deadline implements context.Context.
func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} { return c.standard().Done() }

// AfterFunc lets package context wait for the end without a goroutine.
func (c *callContext) AfterFunc(f func()) (stop func() bool) {
	return context.AfterFunc(c.standard(), f)
}

// Err implements context.Context.
func (c *callContext) Err() error {
	switch cause := c.Cause(); cause {
	case nil:
		return nil
	case errTimeout:
		return context.DeadlineExceeded
	default:
		return context.Canceled
	}
}

// Value implements context.Context.
func (c *callContext) Value(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.std == nil && c.cause == nil {
		return c.parent.Value(key)
	}
	// Package context finds through this what it cancels with, and, at the end, the cause: it must not be the parent's.
	return c.standardLocked().Value(key)
}

// finish frees what the context holds; it counts as cancelled from now on.
func (c *callContext) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = context.Canceled
	}
	if c.cancel != nil {
		c.stop()
		c.cancel(context.Canceled)
	}
}
