package front

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// TestCallContextIsLikeTheStandardOne ends contexts in every way, with Done asked for before, after and never.
func TestCallContextIsLikeTheStandardOne(t *testing.T) {
	t.Parallel()
	planted := errors.New("planted")
	far, past := time.Now().Add(time.Hour), time.Now().Add(-time.Second)
	for _, c := range []struct {
		name     string
		deadline time.Time
		end      func(c *callContext, parent context.CancelCauseFunc)
		err      error
		cause    error
	}{
		{"running", far, func(*callContext, context.CancelCauseFunc) {}, nil, nil},
		{"cancelled", far, func(c *callContext, _ context.CancelCauseFunc) { c.Cancel(planted) }, context.Canceled, planted},
		{"parent", far, func(_ *callContext, p context.CancelCauseFunc) { p(planted) }, context.Canceled, planted},
		{"late", past, func(*callContext, context.CancelCauseFunc) {}, context.DeadlineExceeded, errTimeout},
		{"late, seen, then cancelled", past, func(c *callContext, _ context.CancelCauseFunc) { c.Err(); c.Cancel(planted) }, context.DeadlineExceeded, errTimeout},
		{"finished", far, func(c *callContext, _ context.CancelCauseFunc) { c.finish() }, context.Canceled, context.Canceled},
		{"finished late", past, func(c *callContext, _ context.CancelCauseFunc) { c.Err(); c.finish() }, context.DeadlineExceeded, errTimeout},
	} {
		for _, asked := range []string{"before", "after"} {
			parent, cancel := context.WithCancelCause(context.WithValue(t.Context(), planted, "v"))
			ctx := newCallContext(parent, c.deadline)
			if asked == "before" {
				ctx.Done()
			}
			c.end(ctx, cancel)
			if err, cause := ctx.Err(), context.Cause(ctx); err != c.err || cause != c.cause || ctx.Value(planted) != "v" {
				t.Errorf("%s, asked %s: %v because of %v, want %v because of %v", c.name, asked, err, cause, c.err, c.cause)
			}
			child, stop := context.WithCancel(ctx)
			if child.Err() != c.err || context.Cause(child) != c.cause {
				t.Errorf("%s, asked %s: the child has %v because of %v", c.name, asked, child.Err(), context.Cause(child))
			}
			ctx.finish()
			<-child.Done()
			<-ctx.Done()
			stop()
			cancel(nil)
		}
	}
}

func TestCallContextRaces(t *testing.T) {
	t.Parallel()
	for range 200 {
		ctx := newCallContext(t.Context(), time.Now().Add(time.Hour))
		var wg sync.WaitGroup
		for _, f := range []func(){
			func() { ctx.Cancel(context.Canceled) }, func() { ctx.finish() }, func() { ctx.Value(1); ctx.Err() },
			func() { <-ctx.Done() },
			func() {
				child, stop := context.WithTimeout(ctx, time.Hour)
				defer stop()
				<-child.Done()
			},
			func() {
				woken := make(chan struct{})
				ctx.AfterFunc(func() { close(woken) })
				<-woken
			},
		} {
			wg.Go(f)
		}
		wg.Wait()
	}
}
