package load

import (
	"math"
	"sync"
	"time"
)

// segment is a stretch of time in which requests are due at a rate that changes evenly, or users make them.
type segment struct {
	phase    int
	start    time.Duration // since the run's start
	length   time.Duration
	from, to float64 // requests a second at its beginning and end
	users    int     // instead of a rate
	think    time.Duration
}

// due gives when request k, counted from 0, is due since the segment's start; false where that is after its end. The
// requests until t number from·t + (to-from)·t²/2·length; request k is due when that reaches k + 1/2.
func (s *segment) due(k int64) (time.Duration, bool) {
	n := float64(k) + 0.5
	length := s.length.Seconds()
	slope := (s.to - s.from) / length
	t := n / s.from
	if slope != 0 {
		root := s.from*s.from + 2*slope*n
		if root < 0 {
			return 0, false
		}
		t = 2 * n / (s.from + math.Sqrt(root)) // the form that does not cancel where slope is small
	}
	if !(t < length) {
		return 0, false
	}
	return time.Duration(t * 1e9), true
}

// schedule hands out the requests of segments, in order. Its methods are safe for concurrent use.
type schedule struct {
	most int // the most that may be in flight

	mu       sync.Mutex // guards what follows
	segments []segment  // the first is being handed out
	k        int64      // requests of the first that have been handed out, and the one at hand
	next     time.Duration
	gap      time.Duration // between the one before and it
	number   uint64        // of the next request, over all segments
	inFlight int
	peak     int
	waiting  bool // of the requests that are due, some had to wait for others
}

// turn is a request to be made.
type turn struct {
	phase   int
	number  uint64
	due     time.Duration // since the run's start
	blocked bool          // it had to wait, because as many as may be were in flight
}

// add puts a segment behind the others.
func (s *schedule) add(seg segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = append(s.segments, seg)
	if len(s.segments) == 1 {
		s.begin()
	}
}

// begin finds the first request of the first segment that has any.
func (s *schedule) begin() {
	for ; len(s.segments) > 0; s.segments = s.segments[1:] {
		s.k = 0
		if t, ok := s.segments[0].due(0); ok {
			s.follow(s.segments[0].start + t)
			return
		}
	}
}

// follow makes a moment the next at which a request is due.
func (s *schedule) follow(next time.Duration) { s.next, s.gap = next, next-s.next }

// step goes on to the next request.
func (s *schedule) step() {
	s.k++
	if t, ok := s.segments[0].due(s.k); ok {
		s.follow(s.segments[0].start + t)
		return
	}
	s.segments = s.segments[1:]
	s.begin()
}

// take hands out a request that is due at now. again says that the caller has just ended another one.
func (s *schedule) take(now time.Duration, again bool) (t turn, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := s.inFlight >= s.most // the caller's own is among them
	if again {
		s.inFlight--
	}
	if len(s.segments) == 0 || s.next > now {
		s.waiting = false // none is left that had to wait
		return turn{}, false
	}
	s.waiting = s.waiting || full
	if s.inFlight >= s.most {
		return turn{}, false
	}
	s.inFlight++
	s.peak = max(s.peak, s.inFlight)
	t = turn{phase: s.segments[0].phase, number: s.number, due: s.next, blocked: s.waiting}
	s.number++
	s.step()
	return t, true
}

// ahead gives when the next request is due, and how long after the one before; false where there is none.
func (s *schedule) ahead() (next, gap time.Duration, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next, s.gap, len(s.segments) > 0
}

// drop gives up what has not been handed out, and counts what of it was due before now, by phase.
func (s *schedule) drop(now time.Duration) map[int]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[int]int64{}
	for len(s.segments) > 0 && s.next <= now {
		out[s.segments[0].phase]++
		s.step()
	}
	s.segments = nil
	return out
}

// hold counts n users as in flight, or with a negative number no more.
func (s *schedule) hold(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight += n
	s.peak = max(s.peak, s.inFlight)
}

// busy is how many requests are in flight, and how many were at most.
func (s *schedule) busy() (now, peak int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inFlight, s.peak
}
