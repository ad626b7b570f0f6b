package sqldb

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/mcp"
)

// askServer is the monitor's question: https://www.postgresql.org/docs/current/functions-admin.html. A replica's timeline is that of what it receives, where its
// user may see that (pg_read_all_stats), else that of its last checkpoint.
const askServer = `SELECT pg_catalog.pg_is_in_recovery(), (SELECT system_identifier FROM pg_catalog.pg_control_system()),
	CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END,
	CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_insert_lsn() END, pg_catalog.current_setting('wal_block_size'),
	CASE WHEN pg_catalog.pg_is_in_recovery()
		THEN coalesce((SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver), (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()))::text
		ELSE substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END,
	pg_catalog.pg_last_wal_replay_lsn()`

// state is a server's answer.
type serverState struct {
	recovering bool
	system     string
	lsn        uint64    // flushed, or replayed
	inserted   uint64    // of a primary
	timeline   uint64    // of its log
	recovered  uint64    // up to where a primary had replayed when it was promoted; 0 for never, or before its last start
	pages      bool      // its log has pages of the usual size
	asked      time.Time // before it answered
}

// poll asks a server again and again on a connection of its own, and tells of each answer, or error.
func (s *postgresSource) poll(ctx context.Context, tell func(serverState, error)) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for ctx.Err() == nil {
		conn, err := s.connect(ctx)
		for err == nil && ctx.Err() == nil {
			limited, cancel := context.WithTimeout(ctx, pollLimit)
			var state serverState
			state, err = answer(limited, conn)
			cancel()
			if err == nil {
				tell(state, nil)
				select {
				case <-t.C:
				case <-ctx.Done():
				}
			}
		}
		if conn != nil {
			goodbye(conn)
		}
		if ctx.Err() != nil {
			return
		}
		tell(serverState{}, err)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// answer asks on a connection.
func answer(ctx context.Context, conn *pgconn.PgConn) (serverState, error) {
	asked := time.Now()
	results, err := conn.Exec(ctx, askServer).ReadAll()
	if err != nil {
		return serverState{}, err
	}
	if len(results) != 1 {
		return serverState{}, errOtherAnswer
	}
	s, err := parseState(results[0].Rows)
	s.asked = asked
	return s, err
}

var errOtherAnswer = errors.New("another answer than was asked for")

func parseState(rows [][][]byte) (s serverState, err error) {
	if len(rows) != 1 || len(rows[0]) != 7 {
		return s, errOtherAnswer
	}
	row := rows[0]
	s.recovering, s.system = string(row[0]) == "t", string(row[1])
	for _, lsn := range []struct {
		text []byte
		to   *uint64
	}{{row[2], &s.lsn}, {row[3], &s.inserted}, {row[6], &s.recovered}} {
		if lsn.text != nil && err == nil {
			*lsn.to, err = parseLSN(lsn.text)
		}
	}
	s.pages = string(row[4]) == strconv.Itoa(logPage)
	base := 16 // in the name of a file of the log
	if s.recovering {
		base, s.recovered = 10, 0
	}
	if err == nil {
		if s.timeline, err = strconv.ParseUint(string(row[5]), base, 32); err != nil {
			err = errOtherAnswer
		}
	}
	return s, err
}

// watch looks after a server, as what it is: the primary, or a replica.
func (r *replicated) watch(ctx context.Context, o *replica) {
	slow := false
	o.poll(ctx, func(s serverState, err error) {
		if r.leader() == o {
			r.ofPrimary(o, s, err)
		} else {
			r.ofReplica(o, s, err, &slow)
		}
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		o.leave(errGone)
	}
}

// ofPrimary notes how far the primary comes.
func (r *replicated) ofPrimary(o *replica, s serverState, err error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leader() != o {
		return // it was asked before another took its place
	}
	o.last = s
	if err != nil || s.recovering || s.system == r.system && s.timeline < r.timeline { // of several hosts, one that was left behind
		if r.lostAt.CompareAndSwap(0, now.UnixNano()) {
			r.told = ""
		}
		if r.isLost(now) && !r.released {
			r.released = true
			r.newTerm() // what waits for it goes elsewhere
		}
		r.succeed(now)
		return
	}
	o.out(leading)
	r.lostAt.Store(0)
	r.released = false
	if r.system != "" && s.system != r.system { // another database has been put in its place
		r.samples, r.timeline = nil, 0
		r.known.Store(newPositions())
		r.distrust()
	}
	if s.timeline > r.timeline {
		if r.timeline != 0 {
			o.pool.flush() // of several hosts, another is the primary
			r.distrust()
		}
		r.timeline, r.fork = s.timeline, 0
		o.atLeast(s.system, s.timeline)
	}
	r.pages.Store(s.pages)
	r.known.Load().learn(s.asked, r.recordEnd(s.inserted))
	r.system, r.answered = s.system, s.asked
	r.samples = append(r.samples, sample{s.asked, s.lsn})
	old := 0
	for old < len(r.samples)-1 && now.Sub(r.samples[old+1].at) > r.maxLag+time.Second {
		old++
	}
	r.samples = append(r.samples[:0], r.samples[old:]...)
}

// distrust forgets how far replicas have come, until each has answered again: it may have been on another timeline. r.mu is locked.
func (r *replicated) distrust() {
	for _, o := range r.servers {
		o.replayed.Store(0)
	}
}

// succeed looks whether a replica has been promoted in the place of a primary that is lost, and makes it the primary: one of its system and of a
// later timeline, which was seen as a primary for the first time when the old one did not answer any more. One that was promoted beside a
// primary that goes on, to try something with say, never is: nobody's writes must end there when that is restarted. r.mu is locked.
func (r *replicated) succeed(now time.Time) {
	if r.system == "" {
		r.guess(now)
		return
	}
	var best *replica
	why := ""
	for _, o := range r.servers {
		switch {
		case o.promoted.IsZero() || o.as.system != r.system || o.as.timeline <= r.timeline:
		case !o.promoted.After(r.answered):
			why = "it was promoted while the primary still answered: name it as postgres.primary if it is to take its place"
		case best == nil || o.as.timeline > best.as.timeline:
			best = o
		}
	}
	if best == nil {
		if r.isLost(now) {
			r.tell(why)
		}
		return
	}
	r.log.Warn("a replica has been promoted, and is the primary now", "source", r.name, "replica", best.number, "was", r.lead.Load(), "timeline", best.as.timeline)
	r.takeOver(best)
}

// guess finds the primary at the start, when the one that the file names has not answered for a while: the only one there is, if nothing that
// the others say is against it. It is a guess, and the one that the file names is the primary again when it answers as one of a timeline that is
// no earlier. r.mu is locked.
func (r *replicated) guess(now time.Time) {
	if !r.isLost(now) {
		return
	}
	var best *replica
	for _, o := range r.servers {
		if !o.promoted.IsZero() && (best == nil || o.as.timeline > best.as.timeline) {
			best = o
		}
	}
	if best == nil {
		return
	}
	replicas, follow := 0, 0
	for _, o := range r.servers {
		if o == best || o.last.system == "" {
			continue
		}
		if o.last.system != best.as.system {
			r.tell("servers of two databases answer: name the primary in postgres.primary")
			return
		}
		if o.last.recovering {
			if replicas++; o.shown == best.as.timeline {
				follow++
			}
		}
	}
	if replicas > 0 && follow == 0 {
		r.tell("no replica follows the server that is a primary: name it as postgres.primary if it is to be that")
		return
	}
	r.log.Warn("the server that postgres.primary names does not answer; another is the primary", "source", r.name, "replica", best.number, "timeline", best.as.timeline)
	r.takeOver(best)
	r.guessed = true
}

// tell says once in each loss why no other server is the primary. r.mu is locked.
func (r *replicated) tell(why string) {
	if why != "" && r.told != why {
		r.told = why
		r.log.Error("the primary does not answer, and no other server takes its place", "source", r.name, "why", why)
	}
}

// takeOver makes a server that has been promoted the primary. r.mu is locked.
func (r *replicated) takeOver(o *replica) {
	r.follow(o)
	r.system, r.timeline, r.fork, r.guessed, r.released = o.as.system, o.as.timeline, 0, false, false
	if o.recovered { // else that is where it last recovered after a crash
		r.fork = o.as.recovered
	}
	o.atLeast(r.system, r.timeline)
	r.lostAt.Store(0)
}

// follow makes a server the primary. r.mu is locked, or nothing runs yet.
func (r *replicated) follow(o *replica) {
	was := r.leader()
	o.leads.Store(true)
	r.lead.Store(int32(o.number))
	if was != o {
		was.leads.Store(false)
		was.pool.flush() // connections that were opened to a primary
		r.distrust()
	}
	r.newTerm()
	o.out(leading)
}

// behind gives how far behind the primary a replica is at most that has replayed up to lsn: how long ago the primary had come that far. r.mu is
// locked.
func (r *replicated) behind(lsn uint64, now time.Time) time.Duration {
	for i := len(r.samples) - 1; i >= 0; i-- {
		if r.samples[i].lsn <= lsn {
			return now.Sub(r.samples[i].at)
		}
	}
	return r.maxLag + time.Hour
}

// ofReplica notes how far a replica comes, and takes it out and in. slow is what was last told of it.
func (r *replicated) ofReplica(o *replica, s serverState, err error, slow *bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leader() == o {
		return // it was asked before it took the primary's place
	}
	if err != nil || s.lsn < o.last.lsn {
		o.shown = 0
	}
	// What it receives, and from whom, is not to be seen while its primary is away.
	o.last, o.shown = s, max(o.shown, s.timeline)
	switch {
	case err != nil: // that says nothing of what it is; and where it is seen as a primary next, nothing of where it became that
		o.recovered = false
	case s.recovering:
		o.promoted, o.recovered = time.Time{}, true
	case o.promoted.IsZero() || o.as.system != s.system || o.as.timeline != s.timeline:
		o.promoted, o.as = s.asked, s
	}
	if err == nil && !s.recovering {
		switch {
		case r.lostAt.Load() != 0:
			r.succeed(now)
		case r.guessed && o.number == 0 && s.system == r.system && s.timeline >= r.timeline:
			r.log.Warn("the server that postgres.primary names answers as the primary, and is that again", "source", r.name, "timeline", s.timeline)
			r.takeOver(o)
		}
		if r.leader() == o {
			return
		}
	}
	switch {
	case err != nil:
		o.out("it does not answer: " + pollFailure(err))
	case r.system != "" && s.system != r.system:
		o.out("it is no replica of this primary")
	case !s.recovering:
		o.out("it is a primary by itself")
	case r.system == "": // the primary has never answered: nobody knows whose replica it is
	case o.shown < r.timeline && s.lsn > r.fork: // it has what was never the present primary's
		o.out("it follows an earlier timeline than the primary's")
	case o.shown > r.timeline && r.lostAt.Load() == 0:
		o.out("it follows a later timeline than the primary's")
	default:
		o.replayed.Store(s.lsn)
		was := o.latency.Load() // what was slow once is tried again after a while
		o.latency.CompareAndSwap(was, was-was/8)
		lag := r.behind(s.lsn, now)
		o.lag.Store(int64(lag))
		if far := lag > r.maxLag && !r.isLost(now); far != *slow {
			*slow = far
			if far {
				o.log.Warn("a replica is further behind than max_lag, and takes no reads until it is not", "source", o.name, "replica", o.number)
			} else {
				o.log.Info("a replica has caught up", "source", o.name, "replica", o.number)
			}
		}
		o.in(now)
	}
}

// pollFailure is what of an error may be shown.
func pollFailure(err error) string {
	var tool *mcp.ToolError
	if errors.As(err, &tool) && tool.Cause != nil {
		return tool.Cause.Error()
	}
	return connectFailure(err).Error()
}
