package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/client"
	"millrace/internal/mcp"
)

// engine makes requests. In an open loop one goroutine watches the clock and wakes a worker for each request that is due;
// a worker that has ended one takes the next by itself if that is due already, so that at full speed nobody is woken.
type engine struct {
	operations []*operation
	weights    []float64 // running sums
	seed       uint64
	sessions   []*slot
	rec        *recorder
	schedule   *schedule
	pacer      clock
	start      time.Time
	numbers    atomic.Uint64 // of closed loops' requests
	holds      chan struct{} // holds something for each subscription that is held
	timeout    time.Duration // of one request

	// calls is what calls run in. A call over HTTP/1.1 is cheapest in a context that never ends; the end of the run closes
	// its connection.
	calls context.Context

	ctx    context.Context // ends with the run
	stop   context.CancelFunc
	closed chan struct{} // closed when all that ctx's end sets off is done
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	idle    []*worker  // the one that rested last is the last, so that few connections are used
	workers int
}

// worker makes one request at a time.
type worker struct {
	e    *engine
	slot *slot
	wake chan turn // of one
	q    request
	pcg  *rand.PCG
	rand *rand.Rand
}

// mostAhead is how much before a request is due the clock may come; the rest is waited for at work. To wake a machine that
// rests takes some 50 µs.
const mostAhead = 100 * time.Microsecond

// clock waits for moments.
type clock interface {
	wait(time.Duration) error // fails once it is closed
	close()
}

func newEngine(ctx context.Context, opts *Options, operations []*operation, sessions []*slot, expected time.Duration) (*engine, error) {
	s := opts.Scenario
	if opts.clock == nil {
		opts.clock = func() (clock, error) { return newPacer() }
	}
	p, err := opts.clock()
	if err != nil {
		return nil, err
	}
	e := &engine{operations: operations, seed: s.Seed, sessions: sessions, rec: newRecorder(operations, expected, s.LateLimit.Std()),
		schedule: &schedule{most: s.MaxInFlight}, pacer: p, holds: make(chan struct{}, s.MaxInFlight), timeout: s.Timeout.Std()}
	e.ctx, e.stop = context.WithCancel(ctx)
	e.calls = context.Background()
	if s.HTTP2 {
		e.calls = e.ctx
	}
	sum := 0.0
	for _, o := range operations {
		sum += o.Weight
		e.weights = append(e.weights, sum)
	}
	e.closed = make(chan struct{})
	context.AfterFunc(e.ctx, func() { // whoever waits, for the clock or for an answer, is woken
		defer close(e.closed)
		p.close()
		var wg sync.WaitGroup
		for _, s := range sessions {
			wg.Go(s.close)
		}
		wg.Wait()
	})
	e.start = time.Now()
	return e, nil
}

func (e *engine) now() time.Duration { return time.Since(e.start) }

// pace hands out all that is scheduled; it stops at a moment, and when the run ends.
func (e *engine) pace(until time.Duration) {
	ahead := time.Duration(0)
	for e.ctx.Err() == nil {
		next, gap, more := e.schedule.ahead()
		now := e.now()
		if !more || now > until {
			return
		}
		if next > now {
			// To wait at work keeps the runtime from asking the network: most of the time between two requests is for that.
			early := min(ahead, gap/4)
			if rest := next - now; rest <= early {
				runtime.Gosched()
			} else if e.pacer.wait(rest-early) != nil {
				return
			} else {
				// Where the clock comes too late by a habit, it is asked to come earlier by that much.
				ahead = min(max(0, ahead+(e.now()-next)/16), mostAhead)
			}
			continue
		}
		t, ok := e.schedule.take(now, false)
		if ok {
			e.hand(t)
		} else if e.pacer.wait(time.Millisecond) != nil { // all are in flight: who ends takes the next
			return
		}
	}
}

// hand gives a request to a worker that rests, or to a new one.
func (e *engine) hand(t turn) {
	e.mu.Lock()
	n := len(e.idle)
	if n > 0 {
		w := e.idle[n-1]
		e.idle = e.idle[:n-1]
		e.mu.Unlock()
		w.wake <- t
		return
	}
	w := e.newWorker(e.workers)
	e.workers++
	e.mu.Unlock()
	w.wake <- t
	e.wg.Go(w.run)
}

func (e *engine) newWorker(number int) *worker {
	w := &worker{e: e, slot: e.sessions[number%len(e.sessions)], wake: make(chan turn, 1), pcg: rand.NewPCG(0, 0)}
	w.rand = rand.New(w.pcg)
	return w
}

// run makes what it is woken for.
func (w *worker) run() {
	for {
		select {
		case t := <-w.wake:
			for ok := true; ok; {
				w.do(t)
				t, ok = w.e.schedule.take(w.e.now(), true)
			}
			w.e.mu.Lock()
			w.e.idle = append(w.e.idle, w)
			w.e.mu.Unlock()
		case <-w.e.ctx.Done():
			return
		}
	}
}

// users runs a closed loop until the segment's end.
func (e *engine) users(seg segment) {
	end := seg.start + seg.length
	e.schedule.hold(seg.users)
	defer e.schedule.hold(-seg.users)
	var wg sync.WaitGroup
	for i := range seg.users {
		w := e.newWorker(i)
		wg.Go(func() {
			for now := e.now(); now < end && e.ctx.Err() == nil; now = e.now() {
				w.do(turn{phase: seg.phase, number: e.numbers.Add(1), due: now})
				if seg.think > 0 && !e.sleep(min(seg.think, end-e.now())) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// sleep waits; it is false where the run ended before.
func (e *engine) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-e.ctx.Done():
		return false
	}
}

var errCancelled = errors.New("cancelled, as the scenario says")

// do makes one request.
func (w *worker) do(t turn) {
	e := w.e
	w.pcg.Seed(e.seed, t.number)
	index := 0
	if len(e.operations) > 1 {
		index = sort.SearchFloat64s(e.weights, w.rand.Float64()*e.weights[len(e.weights)-1])
	}
	o := e.operations[index]
	sent := e.now()
	session := w.slot.get()
	o.build(&w.q, session.Revision(), w.rand)
	var err error
	switch {
	case o.Subscribe != "":
		err = e.subscribe(w, session, o)
	case o.CancelAfter > 0:
		ctx, cancel := context.WithTimeoutCause(e.ctx, o.CancelAfter.Std(), errCancelled)
		err = session.Call(ctx, &w.q.call, &w.q.answer)
		cancel()
	default:
		err = session.Call(e.calls, &w.q.call, &w.q.answer)
	}
	end := w.q.answer.Received
	if o.Subscribe != "" || err != nil {
		end = time.Now()
	}
	if err != nil && e.ctx.Err() != nil {
		return // the run's end cut it off
	}
	kind := ""
	if o.Subscribe == "" || err != nil {
		if !errors.Is(err, errCancelled) {
			kind = o.judge(&w.q.answer, err)
		}
	}
	e.rec.record(t, index, sent, end.Sub(e.start), kind)
	if kind == "http 404" && session.ID() != "" || errors.Is(err, client.ErrLeft) {
		w.slot.renew(e.ctx, session)
	}
}

// close ends what is under way, and waits for it.
func (e *engine) close() {
	e.stop()
	<-e.closed
	e.wg.Wait()
}

// subscribe opens a subscription and returns once the server has confirmed it; it is held beyond that.
func (e *engine) subscribe(w *worker, session *client.Session, o *operation) error {
	select {
	case e.holds <- struct{}{}:
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
	params, name := append([]byte(nil), w.q.params...), w.q.call.Name
	confirmed := make(chan error, 1)
	ctx, giveUp := context.WithCancel(e.ctx)
	e.wg.Go(func() {
		defer func() { <-e.holds }()
		defer giveUp()
		if session.Revision().IsModern() {
			e.listen(ctx, session, o, name, confirmed)
			return
		}
		var a client.Answer
		call := client.Call{Method: "resources/subscribe", Name: name, Params: params}
		err := session.Call(ctx, &call, &a)
		if err == nil && a.Error != nil {
			err = a.Error
		}
		confirmed <- err
		if err != nil {
			return
		}
		e.sleep(o.Hold.Std())
		call.Method = "resources/unsubscribe"
		_ = session.Call(context.WithoutCancel(e.ctx), &call, &a) // its answer is no figure of the run
	})
	timer := time.NewTimer(e.timeout)
	defer timer.Stop()
	select {
	case err := <-confirmed:
		return err
	case <-timer.C:
		giveUp()
		return context.DeadlineExceeded
	}
}

// listen holds a subscription of the stateless revision, which is a request that lasts.
func (e *engine) listen(ctx context.Context, session *client.Session, o *operation, uri string, confirmed chan<- error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	told := false
	tell := func(err error) {
		if !told {
			told = true
			confirmed <- err
		}
	}
	var a client.Answer
	params := append(mcp.AppendText([]byte(`"notifications":{"resourceSubscriptions":[`), uri), `]}`...)
	err := session.Call(ctx, &client.Call{Method: "subscriptions/listen", Params: params,
		Deadline: time.Now().Add(o.Hold.Std() + time.Minute),
		Notify: func([]byte) {
			if !told {
				tell(nil)
				time.AfterFunc(o.Hold.Std(), func() { cancel(errCancelled) })
			}
		}}, &a)
	switch {
	case err == nil && a.Error != nil:
		err = a.Error
	case err == nil:
		err = fmt.Errorf("%w: it ended a subscription at once", client.ErrProtocol)
	}
	tell(err)
}
