package front

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/session"
)

// stdioWorkers is how many requests of one stdio client run at a time; further ones wait in its pipe.
const stdioWorkers = 64

// ServeStdio serves one client over lines of JSON, in whatever era its messages are. It returns nil when in ends, and
// when ctx does, after the running requests have been answered.
func (c *Core) ServeStdio(ctx context.Context, in io.Reader, out io.Writer, maxMessage int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sess := session.New(session.Hello{Principal: mcp.Anonymous, Hub: c.Hub.Now()}, 1024)
	defer sess.End()
	w := &lines{w: out}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var events sync.Once
	slots := make(chan struct{}, stdioWorkers)
	read := make(chan []byte)
	readErr := make(chan error, 1)
	go func() { // ends with in; a read of a pipe cannot be interrupted, so nobody waits for it
		readErr <- readLines(ctx, in, maxMessage, read)
	}()
	for {
		var line []byte
		select {
		case line = <-read:
		case err := <-readErr:
			return err
		case <-ctx.Done():
			return nil
		case <-c.draining:
			return nil
		}
		x := c.newExchange()
		x.body = append(x.body[:0], line...)
		x.ctx, x.start, x.principal, x.session = ctx, time.Now(), mcp.Anonymous, sess
		x.reply, x.canSend, x.rev = w, true, sess.Revision()
		if len(line) == 0 {
			x.fail(mcp.Errorf(mcp.CodeInvalidRequest, "a message is longer than %d bytes (listen.max_body)", maxMessage))
			x.free()
			continue
		}
		if mcp.IsBatch(x.body) {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				x.free()
				return nil
			}
			wg.Go(func() {
				defer func() { <-slots; x.free() }()
				c.batch(x, nil)
			})
			continue
		}
		if fault := c.stdioEra(x); fault != nil {
			x.fail(fault)
			x.free()
			continue
		}
		// Notifications, responses and what opens a session keep their order; the rest runs side by side.
		if x.req.Kind != mcp.KindRequest || x.req.Method == mcp.Initialize || x.req.Method == mcp.LoggingSetLevel {
			c.serve(x)
			if x.req.Method == mcp.NotificationInitialized {
				events.Do(func() {
					wg.Go(func() { c.legacyEvents(ctx, sess, w.send) })
				})
			}
			x.free()
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			x.free()
			return nil
		}
		x.slot, x.deaf = slots, ctx.Done()
		wg.Go(func() {
			defer func() { <-slots; x.free() }()
			c.serve(x)
		})
	}
}

// stdioEra reads the message and finds its revision.
func (c *Core) stdioEra(x *exchange) *mcp.Error {
	if fault := x.req.Scan(x.body); fault != nil {
		return fault
	}
	if v := x.req.Meta.ProtocolVersion; v != nil {
		x.rev = mcp.Modern
		if rev, _ := mcp.ParseRevision(v); !rev.IsModern() {
			return unsupported(v)
		}
		return c.modernMeta(x)
	}
	if x.rev == mcp.RevisionNone && x.req.Kind == mcp.KindRequest && x.req.Method != mcp.Initialize && x.req.Method != mcp.Ping {
		return mcp.Errorf(mcp.CodeInvalidRequest, "initialize first, or send the _meta of revision 2026-07-28 with each request")
	}
	return nil
}

// readLines hands over the lines of in; an empty one stands for one that is longer than maxMessage.
func readLines(ctx context.Context, in io.Reader, maxMessage int, lines chan<- []byte) error {
	r := bufio.NewReaderSize(in, 64<<10)
	var line []byte
	tooLong := false
	for {
		part, err := r.ReadSlice('\n')
		if tooLong = tooLong || len(line)+len(part) > maxMessage+1; !tooLong {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if whole := bytes.TrimSpace(line); tooLong || len(whole) > 0 {
			if tooLong {
				whole = nil
			}
			select {
			case lines <- bytes.Clone(whole):
			case <-ctx.Done():
				return nil
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read standard input: %w", err)
		}
		if tooLong = false; cap(line) > keepBuffer {
			line = nil // one great message must not hold its memory for good
		}
		line = line[:0]
	}
}

// lines writes one message a line.
type lines struct {
	mu  sync.Mutex // guards what follows
	w   io.Writer
	buf []byte
}

func (l *lines) send(message []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(append(l.buf[:0], message...), '\n')
	_, err := l.w.Write(l.buf)
	return err == nil
}

func (l *lines) finish(_ int, _ string, message []byte) {
	if message != nil {
		l.send(message)
	}
}

func (*lines) extend(time.Time) {}
