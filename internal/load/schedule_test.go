package load

import (
	"math"
	"testing"
	"time"
)

// At whatever rate, as many requests are due as the rate says, each later than the one before.
func TestDue(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to float64
		length   time.Duration
		want     int64
	}{
		{100, 100, 10 * time.Second, 1000},
		{0, 1000, 10 * time.Second, 5000},
		{1000, 0, 10 * time.Second, 5000},
		{100, 300, 2 * time.Second, 400},
		{0.5, 0.5, 4 * time.Second, 2},
		{10000, 10000.001, time.Second, 10000},
		{0, 0, time.Second, 0},
	} {
		s := segment{length: c.length, from: c.from, to: c.to}
		last, k := time.Duration(-1), int64(0)
		for ; ; k++ {
			d, ok := s.due(k)
			if !ok {
				break
			}
			if d < last || d < 0 || d >= c.length {
				t.Fatalf("%v to %v: request %d is due at %s, after %s", c.from, c.to, k, d, last)
			}
			// As many requests are due before it as the area below the rate says, give or take a half.
			x := d.Seconds()
			if area := c.from*x + (c.to-c.from)*x*x/2/c.length.Seconds(); math.Abs(area-float64(k)-0.5) > 0.01 {
				t.Fatalf("%v to %v: request %d is due at %s, where %.2f should be", c.from, c.to, k, d, area)
			}
			last = d
		}
		if k != c.want {
			t.Errorf("%v to %v in %s: %d requests, want %d", c.from, c.to, c.length, k, c.want)
		}
	}
}

// A request waits for others when as many as may be are in flight at the moment it is due, and only then.
func TestTake(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	s := &schedule{most: 2}
	s.add(segment{phase: 3, length: time.Second, from: 100, to: 100}) // due at 5, 15, 25, …
	s.add(segment{phase: 4, start: time.Second, length: time.Second, from: 100, to: 100})
	want := func(now time.Duration, again, ok, blocked bool, due time.Duration) {
		t.Helper()
		got, gotOK := s.take(now, again)
		if gotOK != ok || got.blocked != blocked || got.due != due {
			t.Fatalf("at %s: %+v %v, want due at %s, blocked %v, %v", now, got, gotOK, due, blocked, ok)
		}
	}
	want(0, false, false, false, 0)
	if next, gap, more := s.ahead(); next != 5*ms || gap != 5*ms || !more {
		t.Errorf("ahead: %s, %s after the one before, %v", next, gap, more)
	}
	want(5*ms, false, true, false, 5*ms)
	want(17*ms, false, true, false, 15*ms)
	if next, gap, _ := s.ahead(); next != 25*ms || gap != 10*ms {
		t.Errorf("ahead: %s, %s after the one before", next, gap)
	}
	want(26*ms, false, false, false, 0)    // two are in flight
	want(30*ms, true, true, true, 25*ms)   // one ends, and the one that waited begins
	want(31*ms, true, false, false, 0)     // nothing is due
	want(38*ms, false, true, false, 35*ms) // late, but it waited for nobody
	want(46*ms, true, true, true, 45*ms)   // two were in flight when it was due
	if n, peak := s.busy(); n != 2 || peak != 2 {
		t.Errorf("%d in flight, %d at most", n, peak)
	}
	if got := s.drop(1016 * ms); got[3] != 95 || got[4] != 2 {
		t.Errorf("dropped %v", got)
	}
	if _, _, more := s.ahead(); more {
		t.Error("after drop something is left")
	}
}
