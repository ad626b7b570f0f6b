package sqldb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/mcp"
)

// Reads that come together share round trips. Most of what a read of a few microseconds costs is the system calls that
// carry it to the server and back, here and there, and they carry sixteen reads as well as one.
//
// A quick read that finds fewer than mostTrips of its source under way leaves at once, alone; else it waits for one to
// return, and leaves with all that wait then, one after the other on one connection, each in a read-only transaction of
// its own as if it were alone. A single caller never waits for company. Of 64 callers with a point select, few trips
// under way served half as many again as sixteen, at three quarters of the CPU.
//
// What shares is safe to run again: whenever anything on the way goes otherwise than well, those without an answer run
// again alone, which is also where errors are told.
const (
	mostTrips  = 3
	mostRiders = 16
	// rideCost is what a read may take beyond the source's quickest one, so beyond the way there and back, if it is to
	// share. Slower ones do not wait for each other: a server with many processors runs them side by side.
	rideCost = 125 * time.Microsecond
	// rideWait is how many looks of the pool's watch a read waits for a trip before it takes a connection of its own.
	rideWait = 5
	// rideLimit is how many looks a shared trip may last: then it is stopped, since one of its reads is slow and the
	// others wait for it. The one that the stop strikes travels alone for aloneAfterStall, and so does a read that lasts
	// for as many looks on a connection of its own; one that failed, for aloneAfterError.
	rideLimit       = 8
	aloneAfterStall = 2 * time.Second
	aloneAfterError = time.Second
	// rideArgs bounds the arguments of a read that may share. All of a trip's must fit the socket's buffers: the server
	// may answer the first before it has read the last, and nobody reads the answers while we write.
	rideArgs = 1 << 10
	// rideNotices bounds what the database says to one read, beside its rows, until its caller is told.
	rideNotices = 256 << 10
)

// trips are the round trips of one source's reads.
type trips struct {
	most     int      // of slots
	wait     int      // rideWait, but in tests
	quickest quickest // of all reads

	mu      sync.Mutex // guards what follows
	slots   [mostTrips]slot
	number  uint64 // of the latest trip
	waiting []*rider
}

// slot is the place of one trip under way.
type slot struct {
	number uint64 // 0 where the slot is free
	looks  int    // of the watch, so far
}

// ticket names a trip by its slot and number. A slot that was taken away has another trip's number, or none.
type ticket struct {
	slot   int
	number uint64
}

// rider is a read on its way. It belongs to whoever reads its wake, until then to trips or to the leader of its trip.
type rider struct {
	q       *pgQuery
	x       *Execution
	st      *pgStmt
	looks   int // of the watch, while it waits; trips.mu guards it
	dst     []byte
	outcome Outcome
	notices []notice
	size    int    // of notices, in bytes
	dropped int    // notices beyond their bound
	queued  queued // what was sent for it
	ticket  ticket // of the trip that it is to lead
	company []*rider
	wake    chan wake // of one
}

type notice struct{ severity, message string }

// wake tells a rider what to do.
type wake uint8

const (
	wakeDone  wake = iota // its answer is there
	wakeAlone             // run alone
	wakeLead              // lead a trip of its own, with those that wait by then
)

var riders = sync.Pool{New: func() any { return &rider{wake: make(chan wake, 1)} }}

func (r *rider) free() {
	clear(r.company)
	*r = rider{wake: r.wake, company: r.company[:0]}
	riders.Put(r)
}

// quick tells whether the statement takes hardly longer than the way there and back. One that was never measured may be slow.
func (q *pgQuery) quick() bool {
	took := q.took.get()
	return took > 0 && took-q.source.trips.quickest.get() <= rideCost
}

// shares tells whether a run may share its round trip.
func (q *pgQuery) shares(x *Execution) bool {
	if q.spec.Mode != ReadOnly || q.locks || !q.quick() || x.Progress != nil {
		return false
	}
	size := 0
	for i := range x.Args {
		if size += len(x.Args[i].Text) + 32; x.Args[i].Kind == mcp.KindFloat {
			size += 350 // the longest one, written out
		}
	}
	if q.settings != nil {
		for _, v := range q.settings.of(x.Caller) { // they come back as rows too
			size += 2*len(v) + 64
		}
	}
	return size <= rideArgs && time.Now().UnixNano() >= q.aloneUntil.Load()
}

// quickest is about the shortest of the latest few thousand durations: what the work itself takes, however long it had to
// wait beside. Zero is none yet.
type quickest struct{ ns atomic.Int64 }

func (m *quickest) get() time.Duration { return time.Duration(m.ns.Load()) }

// add takes another one in. Of two at the same time one may be lost.
func (m *quickest) add(d time.Duration) {
	now := m.ns.Load()
	if n := max(1, int64(d)); now == 0 || n < now {
		m.ns.Store(n)
	} else {
		m.ns.Store(now + (n-now)>>12)
	}
}

// stayAlone keeps a statement from sharing for a while.
func (q *pgQuery) stayAlone(d time.Duration) {
	until := time.Now().Add(d).UnixNano()
	for was := q.aloneUntil.Load(); was < until && !q.aloneUntil.CompareAndSwap(was, until); {
		was = q.aloneUntil.Load()
	}
}

// travel runs a read that may share.
func (q *pgQuery) travel(ctx context.Context, dst []byte, x *Execution, b *bounds) ([]byte, Outcome, error) {
	t := &q.source.trips
	t.mu.Lock()
	for i := range t.slots[:t.most] {
		if t.slots[i].number == 0 {
			own := t.begin(i)
			t.mu.Unlock()
			defer t.returned(own)
			return q.alone(ctx, dst, x, b)
		}
	}
	r := riders.Get().(*rider)
	r.q, r.x, r.dst = q, x, dst
	t.waiting = append(t.waiting, r)
	t.mu.Unlock()
	defer r.free()
	w := <-r.wake
	if w == wakeLead {
		defer t.returned(r.ticket) // after a panic; else it has been done
		done, err := q.lead(ctx, r, b)
		t.returned(r.ticket)
		if err != nil {
			return dst, Outcome{}, err
		}
		if w = wakeAlone; done {
			w = wakeDone
		}
	}
	return r.arrive(ctx, w, b)
}

// arrive gives the rider's answer.
func (r *rider) arrive(ctx context.Context, w wake, b *bounds) ([]byte, Outcome, error) {
	if w == wakeAlone {
		return r.q.alone(ctx, r.dst, r.x, b)
	}
	for _, n := range r.notices {
		r.x.Notice(n.severity, n.message)
	}
	if r.dropped > 0 {
		r.x.Notice("WARNING", fmt.Sprintf("%d more notices were dropped", r.dropped))
	}
	return r.dst, r.outcome, nil
}

// begin notes a trip as under way in a slot. t.mu is locked.
func (t *trips) begin(i int) ticket {
	t.number++
	t.slots[i] = slot{number: t.number}
	return ticket{i, t.number}
}

// returned ends a trip, if its slot has not been taken away.
func (t *trips) returned(own ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.slots[own.slot].number == own.number {
		t.next(own.slot)
	}
}

// next gives a slot to the first of those that wait, or frees it. t.mu is locked.
func (t *trips) next(i int) {
	if len(t.waiting) == 0 {
		t.slots[i] = slot{}
		return
	}
	leader := t.waiting[0]
	t.forget(1)
	leader.ticket = t.begin(i)
	leader.wake <- wakeLead
}

// board takes those that wait along with a leader that has its connection. Before, it might wait for one longer than they
// may.
func (t *trips) board(leader *rider) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.waiting), mostRiders-1)
	leader.company = append(leader.company, t.waiting[:n]...)
	t.forget(n)
}

// forget takes the first n out of those that wait. t.mu is locked.
func (t *trips) forget(n int) {
	rest := copy(t.waiting, t.waiting[n:])
	clear(t.waiting[rest:])
	t.waiting = t.waiting[:rest]
}

// look lets those go that have waited for long, and takes the slots of those away that are out for long: the work goes on,
// but quick reads must not wait for it. Whose fault that is shows elsewhere: who has the slot may only wait for a
// connection. The pool's watch calls it.
func (t *trips) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	late := 0
	for _, r := range t.waiting { // the first has waited for longest
		if r.looks++; r.looks > t.wait {
			late++
		}
	}
	for _, r := range t.waiting[:late] {
		r.wake <- wakeAlone
	}
	t.forget(late)
	for i := range t.slots {
		s := &t.slots[i]
		if s.number == 0 {
			continue
		}
		if s.looks++; s.looks > rideLimit {
			t.next(i)
		}
	}
}

func (t *trips) queue() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

// lead makes the trip of r and of those that wait when it has a connection. Everybody else has been woken when it returns;
// done is false where r is to run alone.
func (q *pgQuery) lead(ctx context.Context, r *rider, b *bounds) (done bool, err error) {
	pool := q.source.pool
	c, err := pool.get(ctx, b.deadline)
	if err != nil {
		return false, err
	}
	broken := true // until the last answer has been read
	defer func() {
		c.notice = nil
		for _, other := range r.company { // nil where it has been woken
			if other != nil {
				other.wake <- wakeAlone
			}
		}
		pool.put(c, broken || c.isBroken() || pool.stopped(c) != stopNone)
	}()
	if r.x.after > c.replayed { // it must be asked, which is done alone
		broken = false
		return false, nil
	}
	r.st, err = c.stmt(context.Background(), q)
	if err == nil {
		err = q.bind(c, r.st, r.x.Args)
	}
	if err != nil {
		q.isStale(c, err)
		broken = false
		return false, nil
	}
	if pool.stopped(c) == stopNone { // else the stop would strike whoever runs
		q.source.trips.board(r)
	}
	if len(r.company) == 0 {
		broken = false
		return false, nil
	}
	pool.share(c)
	r.queued = q.sendTransaction(c, r.st, r.x, false)
	for i, other := range r.company {
		// One whose statement this connection does not know yet, or whose arguments do not fit, runs alone.
		if other.st = c.known(other.q); other.st == nil || other.x.after > c.replayed || other.q.bind(c, other.st, other.x.Args) != nil {
			r.company[i] = nil
			other.wake <- wakeAlone
			continue
		}
		other.queued = other.q.sendTransaction(c, other.st, other.x, false)
	}
	if c.sync() != nil || !c.ride(r) {
		broken = false // it has been mended, or abandoned
		return false, nil
	}
	for i, other := range r.company {
		if other == nil {
			continue
		}
		if !c.ride(other) {
			broken = false
			return true, nil
		}
		r.company[i] = nil
		other.wake <- wakeDone
	}
	c.notice = nil // the last one has been told all that is its own
	broken = c.ready() != nil
	return true, nil
}

// ride reads the answer of one rider. It is false where there is none: then the connection has been mended or abandoned,
// and nobody after it has an answer either.
func (c *pgConn) ride(r *rider) bool {
	c.notice = nil
	if r.x.Notice != nil {
		c.notice = r.note
	}
	out, outcome, err := r.q.reply(r.dst, c, r.st, r.x, r.queued)
	if err == nil {
		r.dst, r.outcome = out, outcome
		return true
	}
	r.notices = nil                 // it will hear them again
	if errors.Is(err, errTooMany) { // the connection was given up: no sign that the server is gone
		r.q.stayAlone(aloneAfterStall)
		return false
	}
	alone := aloneAfterError
	if r.q.source.pool.stopped(c) != stopNone {
		// The stop strikes who runs. The clock here tells less: the server keeps its answers until the last is there.
		alone = aloneAfterStall
	}
	r.q.stayAlone(alone)
	_ = c.ready()
	if !r.q.isStale(c, err) && !c.isBroken() && c.conn.TxStatus() != 'I' && c.run(controlRollback) != nil {
		c.abandon()
	}
	return false
}

// note keeps a notice until the rider itself can tell it: its caller may be slow to listen.
func (r *rider) note(severity, message string) {
	if r.size += len(message) + 64; r.size > rideNotices {
		r.dropped++
		return
	}
	r.notices = append(r.notices, notice{severity, message})
}
