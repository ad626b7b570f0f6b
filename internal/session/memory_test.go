package session

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// A client that waited for its answer for longer than a session may idle has just been there: its session stays.
func TestLongWorkAndStreamsCountAsUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(Config{Max: 10, Idle: conf.Duration(time.Minute), EventBytes: 1024})
		defer m.Close()
		worked, streamed := open(t, m, mcp.Anonymous), open(t, m, mcp.Anonymous)
		worked.Run([]byte("1"), noop{})
		detach := streamed.Attach()
		time.Sleep(10*time.Minute + time.Second)
		worked.Finish([]byte("1"))
		detach()
		time.Sleep(59 * time.Second) // several sweeps
		for name, s := range map[string]*Session{"worked": worked, "streamed": streamed} {
			if woken(s.Ended()) {
				t.Errorf("%s: ended within its idle time", name)
			}
		}
		time.Sleep(20 * time.Second)
		if !woken(worked.Ended()) || !woken(streamed.Ended()) || m.Len() != 0 {
			t.Error("idle for longer than allowed")
		}
	})
}

// Whoever asks with another's session id neither gets the session nor keeps it alive.
func TestAStrangerKeepsNoSessionAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(Config{Max: 10, Idle: conf.Duration(time.Minute), EventBytes: 1024})
		defer m.Close()
		s := open(t, m, mcp.NewPrincipal("a", "ann", nil))
		for range 5 {
			time.Sleep(20 * time.Second)
			if _, ok := m.Get(t.Context(), s.ID, mcp.NewPrincipal("a", "bob", nil)); ok {
				t.Fatal("bob has ann's session")
			}
		}
		if !woken(s.Ended()) {
			t.Error("the session did not idle out")
		}
	})
}

// The sweep looks at a session, a request takes it, the sweep ends it: the second look must see the request.
func TestTheSweepLooksTwice(t *testing.T) {
	t.Parallel()
	m := newStore(t)
	s := open(t, m, mcp.Anonymous)
	looks := 0
	m.deleteAll(func(*Session) bool {
		looks++
		return looks == 1
	})
	if _, ok := m.Get(t.Context(), s.ID, mcp.Anonymous); !ok || looks != 2 || m.Len() != 1 || woken(s.Ended()) {
		t.Errorf("after %d looks the session is gone", looks)
	}
}

func TestNumberIsBoundedForManyAtOnce(t *testing.T) {
	t.Parallel()
	const most = 50
	m := newStore(t, func(c *Config) { c.Max = most })
	var opened atomic.Int64
	var wg sync.WaitGroup
	ids := make(chan string, 1000)
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if s, err := m.Open(t.Context(), Hello{Principal: mcp.Anonymous}); err == nil {
					opened.Add(1)
					ids <- s.ID
				}
				if n := m.Len(); n > most+8 { // each of the 8 counts itself before it knows
					t.Errorf("%d sessions", n)
				}
			}
		})
	}
	wg.Wait()
	if opened.Load() != most || m.Len() != most {
		t.Errorf("%d were opened, %d are there", opened.Load(), m.Len())
	}
	close(ids)
	for id := range ids { // many end one session, once
		for range 3 {
			wg.Go(func() { m.Delete(t.Context(), id) })
		}
	}
	wg.Wait()
	if m.Len() != 0 {
		t.Errorf("%d are left", m.Len())
	}
}

func TestCloseEndsAll(t *testing.T) {
	t.Parallel()
	m := NewMemory(DefaultConfig())
	r := &recorder{}
	s := open(t, m, mcp.Anonymous)
	s.Run([]byte("1"), r)
	m.Close()
	if !woken(s.Ended()) || m.Len() != 0 || len(r.causes) != 1 {
		t.Errorf("%d sessions, causes %v", m.Len(), r.causes)
	}
	if _, ok := m.Get(t.Context(), s.ID, mcp.Anonymous); ok {
		t.Error("a closed store gives a session")
	}
}

// What is cancelled may turn to its session at once.
func TestTheCancelledMayUseTheSession(t *testing.T) {
	t.Parallel()
	s := New(Hello{Principal: mcp.Anonymous}, 1024)
	finished := 0
	for _, id := range []string{"1", "2"} {
		s.Run([]byte(id), cancelled(func() {
			s.Finish([]byte(id))
			finished++
		}))
	}
	s.Cancel([]byte("1"))
	s.End()
	if finished != 2 || len(s.running) != 0 {
		t.Errorf("%d finished, %d run", finished, len(s.running))
	}
}

type cancelled func()

func (f cancelled) Cancel(error) { f() }

func TestRunningIsBounded(t *testing.T) {
	t.Parallel()
	s := New(Hello{Principal: mcp.Anonymous}, 1024)
	id := func(i int) []byte { return []byte{byte(i >> 8), byte(i)} }
	for i := range mostRunning {
		if !s.Run(id(i), noop{}) {
			t.Fatalf("the %dth was refused", i)
		}
	}
	if s.Run(id(mostRunning), noop{}) {
		t.Error("the bound does not hold")
	}
	s.Finish(id(0))
	if !s.Run(id(mostRunning), noop{}) {
		t.Error("finishing frees nothing")
	}
}

// A listener that was replaced must not end its successor when it leaves.
func TestAReplacedListenerLeavesAlone(t *testing.T) {
	t.Parallel()
	s := New(Hello{Principal: mcp.Anonymous}, 1024)
	_, doneFirst := s.Listen(t.Context())
	second, doneSecond := s.Listen(t.Context())
	doneFirst()
	if second.Err() != nil {
		t.Error("the second listener ended with the first")
	}
	doneSecond()
	parent, cancel := context.WithCancel(t.Context())
	third, doneThird := s.Listen(parent)
	defer doneThird()
	cancel()
	if third.Err() == nil {
		t.Error("a listener outlives its connection")
	}
}

func TestConcurrentQuestions(t *testing.T) {
	t.Parallel()
	s := New(Hello{Principal: mcp.Anonymous}, 1024)
	var wg sync.WaitGroup
	var answered atomic.Int64
	for range 100 {
		wg.Go(func() {
			id, response, forget := s.Ask()
			defer forget()
			for range 3 { // the client answers, and answers again
				wg.Go(func() {
					if s.Answer(id, []byte(id)) {
						answered.Add(1)
					}
				})
			}
			if got := <-response; string(got) != id {
				t.Errorf("%s got the answer to %s", id, got)
			}
		})
	}
	wg.Wait()
	if answered.Load() != 100 || len(s.asked) != 0 {
		t.Errorf("%d answers were taken, %d questions are left", answered.Load(), len(s.asked))
	}
}

// No API key can take more than half of the sessions, however many it opens; what it ends it may open again.
func TestMemoryShares(t *testing.T) {
	m := NewMemory(Config{Max: 10, Idle: conf.Duration(time.Hour), EventBytes: 1024})
	defer m.Close()
	hoarder, other := mcp.NewPrincipal("acme", "hoarder", nil), mcp.NewPrincipal("acme", "other", nil)
	open := func(p *mcp.Principal) (*Session, error) { return m.Open(t.Context(), Hello{Principal: p}) }
	var last *Session
	for i := range 6 {
		s, err := open(hoarder)
		if (err != nil) != (i == 5) || err != nil && !errors.Is(err, ErrFull) {
			t.Fatalf("session %d of one key gave %v", i+1, err)
		}
		if err == nil {
			last = s
		}
	}
	if _, err := open(other); err != nil {
		t.Fatalf("another key is locked out: %v", err)
	}
	m.Delete(t.Context(), last.ID)
	if _, err := open(hoarder); err != nil {
		t.Errorf("one ended, but no other may be opened: %v", err)
	}
	for m.Len() < 10 {
		if _, err := open(mcp.Anonymous); err != nil {
			t.Fatalf("anonymous callers share %d of 10: %v", m.Len(), err)
		}
	}
	if _, err := open(mcp.Anonymous); !errors.Is(err, ErrFull) {
		t.Errorf("the eleventh gave %v", err)
	}
	if m.held[string(mcp.Anonymous.ScopeKey(mcp.ScopePrivate))] != 4 {
		t.Errorf("held %v", m.held)
	}
}
