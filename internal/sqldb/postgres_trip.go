package sqldb

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Reads that come together share round trips. Most of what a read of a few microseconds costs is the system calls that
// carry it to the server and back, here and there, and they carry sixteen reads as well as one.
//
// A quick read that finds fewer than mostTrips of its source under way leaves at once, alone; else it waits for one to
// return, and leaves with all that wait then, one after the other on one connection, each in a read-only transaction of
// its own as if it were alone. A single caller never waits for company. Of 64 callers with a point select, four trips
// under way served half as many again as sixteen, at three quarters of the CPU.
//
// What shares is safe to run again: whenever anything on the way goes otherwise than well, those without an answer run
// again alone, which is also where errors are told.
const (
	mostTrips  = 4
	mostRiders = 16
	// rideCost is what a read may take beyond the source's quickest one, so beyond the way there and back, if it is to
	// share. Slower ones do not wait for each other: a server with many processors runs them side by side.
	rideCost = 125 * time.Microsecond
	// rideWait is how many looks of the pool's watch a read waits for a trip before it takes a connection of its own.
	rideWait = 5
	// rideLimit is how many looks a shared trip may last: then it is stopped, since one of its reads is slow and the
	// others wait for it. The slow one travels alone for aloneAfterStall, one that failed for aloneAfterError.
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
	most     int
	quickest quickest // of all reads

	mu       sync.Mutex // guards what follows
	underWay int
	waiting  []*rider
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
	size    int // of notices, in bytes
	dropped int // notices beyond their bound
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

// shares tells whether a run may share its round trip.
func (q *pgQuery) shares(x *Execution) bool {
	took := q.took.get()
	if q.spec.Mode != ReadOnly || q.locks || took-q.source.trips.quickest.get() > rideCost || x.Progress != nil {
		return false
	}
	size := 0
	for i := range x.Args {
		size += len(x.Args[i].Text)
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
	if t.underWay < t.most {
		t.underWay++
		t.mu.Unlock()
		defer t.returned()
		return q.alone(ctx, dst, x, b)
	}
	r := riders.Get().(*rider)
	r.q, r.x, r.dst = q, x, dst
	t.waiting = append(t.waiting, r)
	t.mu.Unlock()
	defer r.free()
	if w := <-r.wake; w != wakeLead {
		return r.arrive(ctx, w, b)
	}
	defer t.returned()
	if !q.lead(ctx, r, b) {
		return q.alone(ctx, dst, x, b)
	}
	return r.arrive(ctx, wakeDone, b)
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

// returned ends a trip, and sends the first of those that wait on the next one.
func (t *trips) returned() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.underWay--
		return
	}
	leader := t.waiting[0]
	t.forget(1)
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

// look lets those go that have waited for long. The pool's watch calls it.
func (t *trips) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	late := 0
	for _, r := range t.waiting { // the first has waited for longest
		if r.looks++; r.looks > rideWait {
			late++
		}
	}
	for _, r := range t.waiting[:late] {
		r.wake <- wakeAlone
	}
	t.forget(late)
}

func (t *trips) queue() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

// lead makes the trip of r and of those that wait when it has a connection. Everybody else has been woken when it returns;
// it is false where r is to run alone.
func (q *pgQuery) lead(ctx context.Context, r *rider, b *bounds) (done bool) {
	pool := q.source.pool
	c, err := pool.get(ctx, b.deadline)
	if err != nil {
		return false
	}
	broken := true // until the last answer has been read
	defer func() {
		c.notice = nil
		pool.put(c, broken || c.isBroken() || pool.stopped(c) != stopNone)
		for _, other := range r.company { // nil where it has been woken
			if other != nil {
				other.wake <- wakeAlone
			}
		}
	}()
	r.st, err = c.stmt(context.Background(), q)
	if err == nil {
		err = q.bind(c, r.st, r.x.Args)
	}
	if err != nil {
		q.isStale(c, err)
		broken = false
		return false
	}
	q.source.trips.board(r)
	if len(r.company) == 0 {
		broken = false
		return false
	}
	pool.share(c)
	commands := q.sendTransaction(c, r.st)
	for i, other := range r.company {
		// One whose statement this connection does not know yet, or whose arguments do not fit, runs alone.
		if other.st = c.known(other.q); other.st == nil || other.q.bind(c, other.st, other.x.Args) != nil {
			r.company[i] = nil
			other.wake <- wakeAlone
			continue
		}
		other.q.sendTransaction(c, other.st)
	}
	if c.sync() != nil || !c.ride(r, commands) {
		broken = false // it has been mended, or abandoned
		return false
	}
	for i, other := range r.company {
		if other == nil {
			continue
		}
		if !c.ride(other, commands) {
			broken = false
			return true
		}
		r.company[i] = nil
		other.wake <- wakeDone
	}
	broken = c.ready() != nil
	return true
}

// ride reads the answer of one rider. It is false where there is none: then the connection has been mended or abandoned,
// and nobody after it has an answer either.
func (c *pgConn) ride(r *rider, commands int) bool {
	c.notice = nil
	if r.x.Notice != nil {
		c.notice = r.note
	}
	out, outcome, err := r.q.reply(r.dst, c, r.st, r.x, commands)
	if err == nil {
		r.dst, r.outcome = out, outcome
		return true
	}
	r.notices = nil // it will hear them again
	alone := aloneAfterError
	if r.q.source.pool.stopped(c) != stopNone {
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
