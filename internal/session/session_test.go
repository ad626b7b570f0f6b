package session

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStore(t *testing.T, change ...func(*Config)) *Memory {
	t.Helper()
	cfg := DefaultConfig()
	for _, f := range change {
		f(&cfg)
	}
	m := NewMemory(cfg)
	t.Cleanup(m.Close)
	return m
}

func open(t *testing.T, m *Memory, p *mcp.Principal) *Session {
	t.Helper()
	s, err := m.Open(t.Context(), Hello{Revision: mcp.Revision20251125, Principal: p})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASessionIsItsOpenersAlone(t *testing.T) {
	t.Parallel()
	m := newStore(t)
	ann, bob := mcp.NewPrincipal("a", "ann", nil), mcp.NewPrincipal("a", "bob", nil)
	s := open(t, m, ann)
	if got, ok := m.Get(t.Context(), s.ID, mcp.NewPrincipal("a", "ann", nil)); !ok || got != s {
		t.Error("its opener does not find it")
	}
	for _, other := range []*mcp.Principal{bob, mcp.Anonymous, mcp.NewPrincipal("a", "ann", []string{"more"})} {
		if _, ok := m.Get(t.Context(), s.ID, other); ok {
			t.Errorf("%s/%s found it", other.Tenant, other.Subject)
		}
	}
	for _, c := range s.ID {
		if c < 0x21 || c > 0x7E {
			t.Errorf("id %q is not visible ASCII", s.ID)
		}
	}
}

func TestNumberIsBounded(t *testing.T) {
	t.Parallel()
	m := newStore(t, func(c *Config) { c.Max = 2 })
	first := open(t, m, mcp.Anonymous)
	open(t, m, mcp.Anonymous)
	if _, err := m.Open(t.Context(), Hello{Principal: mcp.Anonymous}); !errors.Is(err, ErrFull) {
		t.Fatalf("a third session: %v", err)
	}
	m.Delete(t.Context(), first.ID)
	m.Delete(t.Context(), first.ID)
	if m.Len() != 1 {
		t.Errorf("%d sessions", m.Len())
	}
	select {
	case <-first.Ended():
	default:
		t.Error("a deleted session has not ended")
	}
	open(t, m, mcp.Anonymous)
}

func TestIdleSessionsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(Config{Max: 10, Idle: conf.Duration(time.Minute), EventBytes: 1024})
		defer m.Close()
		idle, used, streaming, busy := open(t, m, mcp.Anonymous), open(t, m, mcp.Anonymous), open(t, m, mcp.Anonymous), open(t, m, mcp.Anonymous)
		detach := streaming.Attach()
		busy.Run([]byte("1"), noop{})
		for range 4 {
			time.Sleep(30 * time.Second)
			m.Get(t.Context(), used.ID, mcp.Anonymous)
		}
		ended := func(s *Session) bool {
			select {
			case <-s.Ended():
				return true
			default:
				return false
			}
		}
		if !ended(idle) || ended(used) || ended(streaming) || ended(busy) {
			t.Errorf("ended: idle %t, used %t, streaming %t, busy %t", ended(idle), ended(used), ended(streaming), ended(busy))
		}
		detach()
		busy.Finish([]byte("1"))
		time.Sleep(2 * time.Minute)
		if !ended(used) || !ended(streaming) || !ended(busy) || m.Len() != 0 {
			t.Errorf("%d are left", m.Len())
		}
	})
}

type noop struct{}

func (noop) Cancel(error) {}

type recorder struct{ causes []error }

func (r *recorder) Cancel(cause error) { r.causes = append(r.causes, cause) }

func TestCancel(t *testing.T) {
	t.Parallel()
	s := open(t, newStore(t), mcp.Anonymous)
	one, two := &recorder{}, &recorder{}
	if !s.Run([]byte("1"), one) || !s.Run([]byte(`"1"`), two) {
		t.Fatal("two ids did not run")
	}
	if s.Run([]byte("1"), &recorder{}) {
		t.Error("one id runs twice")
	}
	s.Cancel([]byte("1"))
	s.Cancel([]byte("2"))
	s.Finish([]byte("1"))
	s.Cancel([]byte("1"))
	if len(one.causes) != 1 || !errors.Is(one.causes[0], ErrCancelled) || len(two.causes) != 0 {
		t.Errorf("causes %v, %v", one.causes, two.causes)
	}
	s.End()
	s.End()
	if len(two.causes) != 1 || !errors.Is(two.causes[0], ErrSessionEnded) {
		t.Errorf("at the end: %v", two.causes)
	}
	if s.Run([]byte("3"), one) {
		t.Error("a session that has ended runs a request")
	}
}

func TestAskAndAnswer(t *testing.T) {
	t.Parallel()
	s := open(t, newStore(t), mcp.Anonymous)
	a, fromA, forgetA := s.Ask()
	b, fromB, forgetB := s.Ask()
	if a == b {
		t.Fatal("two questions have one id")
	}
	if !s.Answer(b, []byte("B")) || s.Answer(b, []byte("again")) || s.Answer("unknown", nil) {
		t.Error("answers went astray")
	}
	if got := <-fromB; string(got) != "B" {
		t.Errorf("got %s", got)
	}
	forgetA()
	if s.Answer(a, []byte("late")) {
		t.Error("an answer came after nobody waited")
	}
	select {
	case got := <-fromA:
		t.Errorf("got %s", got)
	default:
	}
	forgetB()
}

func TestWatch(t *testing.T) {
	t.Parallel()
	s := open(t, newStore(t), mcp.Anonymous)
	for i := range mostWatched {
		if !s.Watch(strconv.Itoa(i)) {
			t.Fatalf("the %dth was refused", i)
		}
	}
	if s.Watch("y") || !s.Watch("1") {
		t.Error("the bound does not hold, or an old one counts twice")
	}
	s.Unwatch("1")
	if s.Watches("1") || !s.Watch("y") || !s.Watches("y") {
		t.Error("unwatching frees nothing")
	}
}

func TestWatchedBytesAreBounded(t *testing.T) {
	t.Parallel()
	s := open(t, newStore(t), mcp.Anonymous)
	half := strings.Repeat("x", mostWatchedBytes/2)
	first, again := s.Watch(half), s.Watch(half)
	if !first || !again || !s.Watch("y"+half[1:]) {
		t.Fatal("what fits was refused")
	}
	if s.Watch("z") {
		t.Error("the bound does not hold")
	}
	s.Unwatch("unknown")
	s.Unwatch(half)
	s.Unwatch(half)
	if !s.Watch("z") || s.Watch(half) {
		t.Error("unwatching frees nothing, or too much")
	}
}

func TestANewListenerTakesOver(t *testing.T) {
	t.Parallel()
	s := open(t, newStore(t), mcp.Anonymous)
	first, doneFirst := s.Listen(t.Context())
	second, doneSecond := s.Listen(t.Context())
	<-first.Done()
	if second.Err() != nil {
		t.Error("the second was ended as well")
	}
	doneFirst()
	doneSecond()
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	m := newStore(t)
	s := open(t, m, mcp.Anonymous)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				id := []byte{byte(g), byte(i)}
				if s.Run(id, noop{}) {
					s.Cancel(id)
					s.Finish(id)
				}
				stream := s.NewStream()
				e := stream.Send(id, i%2 == 0)
				s.Resume(e.ID)
				stream.End()
				s.Watch(string(id))
				s.Attach()()
				m.Get(t.Context(), s.ID, mcp.Anonymous)
				if i == 150 && g == 0 {
					m.Delete(t.Context(), s.ID)
				}
			}
		})
	}
	wg.Wait()
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	c := Config{}
	if faults := c.Validate(); len(faults) != 3 {
		t.Errorf("got %v", faults)
	}
	c = DefaultConfig()
	if faults := c.Validate(); len(faults) != 0 {
		t.Errorf("the defaults have %v", faults)
	}
}
