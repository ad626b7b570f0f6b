package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/internal/conf"
	"millrace/internal/polltest"
	"millrace/internal/redistest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/valkey-io/valkey-go.(*call).DelayDo.func1")) // ends by itself, within a second
}

// heard is what a member has been told.
type heard struct {
	mu       sync.Mutex // guards what follows
	payloads []string
	missed   int
	each     func()
	owes     atomic.Bool
	pay      func()
}

func (h *heard) Announced(payload string) {
	if h.each != nil {
		h.each()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.payloads = append(h.payloads, payload)
}

func (h *heard) Missed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.missed++
}

func (h *heard) Owes() bool { return h.owes.Load() }

func (h *heard) Pay() { h.pay() }

func (h *heard) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("%d missed, %s", h.missed, strings.Join(h.payloads, " "))
}

func newServer(t *testing.T, options ...string) *redistest.Server {
	t.Helper()
	s, err := redistest.New(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func open(t *testing.T, s *redistest.Server, change ...func(*Config)) *Client {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Nodes = []string{s.Addr()}
	for _, f := range change {
		f(&cfg)
	}
	if faults := cfg.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	c, err := Open(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func join(t *testing.T, c *Client, h *heard) *Member {
	t.Helper()
	m := c.Join("test", h)
	t.Cleanup(m.Close)
	holds(t, m, true)
	return m
}

func holds(t *testing.T, m *Member, want bool) {
	t.Helper()
	polltest.Until(t, fmt.Sprintf("holding %t", want), func() bool { return m.Holds(time.Now()) == want })
}

var nothing = NewScript(`return {tostring(#keys), args[1], string.format('%.0f', now)}`)

func announce(t *testing.T, m *Member, payload string, wait bool) time.Duration {
	t.Helper()
	began := time.Now()
	got, err := m.Announce(t.Context(), nothing, []string{m.c.SharedKey("a"), m.c.SharedKey("b")}, []string{"x"}, payload, wait)
	if err != nil || len(got) != 3 || got[0].String() == "" {
		t.Fatal(got, err)
	}
	return time.Since(began)
}

func TestAnnouncementsAreHeardByAllOthers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var ha, hb, hc heard
	a, b := join(t, open(t, s), &ha), join(t, open(t, s), &hb)
	join(t, open(t, s), &hc)
	announce(t, a, "1", true)
	announce(t, b, "2,3", true)
	announce(t, a, "4", false)
	announce(t, a, "5", true)
	for name, want := range map[*heard]string{&ha: "1 missed, 2,3", &hb: "1 missed, 1 4 5", &hc: "1 missed, 1 2,3 4 5"} {
		polltest.Until(t, "heard "+want, func() bool { return name.text() == want }) // later where one had no lease for want of a processor
	}
}

// One who does not answer is waited for as long as it may rely on what it knows, and no longer.
func TestAnnounceWaitsForTheLease(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var ha heard
	hb := heard{}
	release := make(chan struct{})
	a, b := join(t, open(t, s), &ha), join(t, open(t, s), &hb)
	hb.each = func() { <-release }
	took := announce(t, a, "1", true)
	if b.Holds(time.Now()) {
		t.Errorf("after %s it is not waited for any more, and holds its lease", took)
	}
	if took > 2*time.Second {
		t.Errorf("it was waited for %s", took)
	}
	close(release)
	holds(t, b, true)
	if got := hb.text(); got != "1 missed, 1" {
		t.Errorf("it holds its lease again and has heard %q", got)
	}
	// One who left is not waited for.
	b.Close()
	fast := false
	for range 20 { // beside other tests each may be slow
		fast = fast || announce(t, a, "2", true) < Lease/2
	}
	if !fast {
		t.Error("a member that left is waited for")
	}
}

// A server that dies takes the leases with it, and one that comes back gives none before it was said that news may be missing.
func TestLeaseOverARestart(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var ha, hb heard
	a, b := join(t, open(t, s), &ha), join(t, open(t, s), &hb)
	run := func() string {
		conn, err := a.c.Conn()
		if err != nil {
			t.Fatal(err)
		}
		text, err := conn.Do(t.Context(), conn.B().Get().Key(a.RunKey()).Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first := run()
	s.Kill()
	holds(t, a, false)
	holds(t, b, false)
	began := time.Now()
	if _, err := a.Announce(t.Context(), nothing, nil, []string{"x"}, "lost", true); err == nil {
		t.Error("no error where there is no server")
	}
	if took := time.Since(began); took < Lease-time.Millisecond {
		t.Errorf("after %s others may still hold leases", took)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	holds(t, a, true)
	holds(t, b, true)
	if second := run(); second == first || second == "" {
		t.Errorf("the server's life is %q, and was %q", second, first)
	}
	announce(t, a, "1", true)
	polltest.Until(t, "heard", func() bool { return hb.text() == "2 missed, 1" })
}

// A server that forgot who its members are is not believed, though it knows some again.
func TestAnnounceAfterAFlush(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var ha, hb heard
	a, b := join(t, open(t, s), &ha), join(t, open(t, s), &hb)
	conn, err := a.c.Conn()
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []string{"", a.id, b.id} {
		slow := false
		for range 50 { // until the announcement comes soon enough after the flush
			if err := conn.Do(t.Context(), conn.B().Flushall().Build()).Error(); err != nil {
				t.Fatal(err)
			}
			for known != "" && conn.Do(t.Context(), conn.B().Hget().Key(a.key("members")).Field(known).Build()).Error() != nil {
			}
			if slow = announce(t, a, "1", true) >= Lease; slow {
				break
			}
		}
		if !slow {
			t.Errorf("with %q known again, no announcement waited for the leases that the server had forgotten", known)
		}
	}
	fast := false
	for range 50 {
		fast = fast || announce(t, a, "2", true) < Lease/2
	}
	if !fast {
		t.Error("the server is never believed again")
	}
}

// awaitRenewals returns when a member has renewed its lease n times more, as the server sees it.
func awaitRenewals(t *testing.T, of *Member, n int) {
	t.Helper()
	conn, err := of.c.Conn()
	if err != nil {
		t.Fatal(err)
	}
	read := func() string { // each is a round trip, which is all the waiting that there is
		text, err := conn.Do(t.Context(), conn.B().Hget().Key(of.key("members")).Field(of.id).Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for last := read(); n > 0; {
		if now := read(); now != last {
			last = now
			n--
		}
	}
}

// After an outage of all, who is back first leaves the one that owes something time to announce it, and that one gets no lease before it has.
func TestDebtsComeBeforeLeases(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var ha, hb heard
	a, b := join(t, open(t, s), &ha), join(t, open(t, s), &hb)
	held := make(chan [2]bool, 1)
	ha.pay = func() {
		awaitRenewals(t, b, 2) // one of them has seen that a is not back
		held <- [2]bool{a.Holds(time.Now()), b.Holds(time.Now())}
		ha.owes.Store(false)
	}
	inTime := 0
	for range 4 {
		if err := s.Freeze(); err != nil {
			t.Fatal(err)
		}
		polltest.Until(t, "the end of both leases, by the server's clock too", func() bool {
			past := time.Now().Add(-Lease) // a renewal may have been on its way for as long
			return !a.Holds(past) && !b.Holds(past)
		})
		ha.owes.Store(true)
		if err := s.Thaw(); err != nil {
			t.Fatal(err)
		}
		got := <-held
		if got[0] {
			t.Error("it has a lease, and owes something")
		}
		if !got[1] { // it waits no longer than a Lease, and the processor may be somewhere else for as long
			inTime++
		}
		polltest.Until(t, "both leases", func() bool { return a.Holds(time.Now()) && b.Holds(time.Now()) })
	}
	if inTime == 0 {
		t.Error("the other has never waited")
	}
	// Nobody waits where one alone was away, nor for one that left.
	a.Close()
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	holds(t, b, false)
	if err := s.Thaw(); err != nil {
		t.Fatal(err)
	}
	awaitRenewals(t, b, 1)
	holds(t, b, true)
}

// What is owed when a member leaves is announced before it does, and while it holds its lease it keeps it.
func TestDebtsArePaidAtTheEnd(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	paid := make(chan bool, 100)
	var h heard
	m := open(t, s).Join("test", &h)
	holds(t, m, true)
	h.pay = func() { paid <- m.Holds(time.Now()) }
	h.owes.Store(true)
	kept := false
	for range 20 { // each is of a token that came while it owed something
		kept = <-paid || kept
	}
	if !kept {
		t.Error("a member that holds its lease loses it by owing something")
	}
	for len(paid) > 0 {
		<-paid
	}
	s.Kill()
	holds(t, m, false)
	for len(paid) > 0 {
		<-paid
	}
	m.Close()
	if len(paid) == 0 {
		t.Error("it left, and did not try to pay")
	}
}

// A server that is not there yet is no fault: it is used once it is.
func TestOpenBeforeTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.Kill()
	c := open(t, s)
	if _, err := c.Conn(); !errors.Is(err, ErrAway) {
		t.Errorf("got %v", err)
	}
	var h heard
	m := c.Join("test", &h)
	defer m.Close()
	if _, err := m.Announce(context.Background(), nothing, nil, nil, "", false); !errors.Is(err, ErrAway) {
		t.Errorf("got %v", err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	holds(t, m, true)
}

func TestPassword(t *testing.T) {
	t.Parallel()
	s := newServer(t, "--requirepass", "secret-of-the-test")
	wrong := open(t, s)
	var h heard
	join(t, open(t, s, func(c *Config) { c.Password = "secret-of-the-test" }), &h)
	if _, err := wrong.Conn(); !errors.Is(err, ErrAway) {
		t.Errorf("without the password: %v", err)
	}
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Prefix: "p", Nodes: []string{"redis"}}, `nodes[0]: "redis" is not host:port`},
		{Config{Prefix: "p", Nodes: []string{":6379"}}, "nodes[0]"},
		{Config{Prefix: "p", Sentinel: "main"}, "sentinel: is given and there are no nodes"},
		{Config{Prefix: "p", Password: "x"}, "password"},
		{Config{Prefix: "p", TLS: true}, "tls"},
		{Config{Prefix: "p", CAFile: "x", Nodes: []string{"a:1"}}, "ca_file: is given without tls"},
		{Config{Prefix: "{p}"}, "prefix"},
		{Config{}, "prefix"},
	} {
		if faults := c.cfg.Validate(); len(faults) != 1 || !strings.Contains(faults.Error(), c.want) || strings.Contains(faults.Error(), "secret") {
			t.Errorf("%+v: %v, want %q", c.cfg, faults, c.want)
		}
	}
	c := DefaultConfig()
	if faults := c.Validate(); len(faults) > 0 {
		t.Errorf("the defaults have %v", faults)
	}
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, "/nowhere.pem"} {
		c := Config{Prefix: "p", Nodes: []string{"a:1"}, TLS: true, CAFile: file}
		var faults conf.Faults
		if err := c.CheckFiles(); !errors.As(err, &faults) || faults[0].Path != "redis.ca_file" {
			t.Errorf("%s: %v", file, err)
		}
	}
}
