package session

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"millrace/internal/mcp"
)

func TestResume(t *testing.T) {
	t.Parallel()
	s := open(t, newStore(t), mcp.Anonymous)
	one, two := s.NewStream(), s.NewStream()
	prime := one.Send(nil, false)
	a := one.Send([]byte("a"), false)
	x := two.Send([]byte("x"), false)
	b := one.Send([]byte("b"), false)
	ids := map[string]bool{prime.ID: true, a.ID: true, x.ID: true, b.ID: true}
	if len(ids) != 4 {
		t.Errorf("ids are not unique: %v", ids)
	}
	got, stream, more, ok := s.Resume(prime.ID)
	if !ok || len(got) != 2 || string(got[0].Data) != "a" || string(got[1].Data) != "b" || got[1].ID != b.ID || !stream.Is(one) || more == nil {
		t.Fatalf("got %v, %t", got, ok)
	}
	last := one.Send([]byte("c"), true)
	<-more
	if got, _, more, ok = s.Resume(b.ID); !ok || len(got) != 1 || got[0].ID != last.ID || more != nil {
		t.Errorf("the end: %v, %t", got, ok)
	}
	if got, _, _, ok = s.Resume(x.ID); !ok || len(got) != 0 {
		t.Errorf("the other stream: %v, %t", got, ok)
	}
	for _, bad := range []string{"", "x", "-", "1-", "1-zzzzzz", "9-1", "0-0", "1-1-1", strings.Repeat("9", 100) + "-1"} {
		if _, _, _, ok := s.Resume(bad); ok {
			t.Errorf("%q is an event", bad)
		}
	}
}

// woken tells whether a channel is closed.
func woken(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestTheLogIsBounded(t *testing.T) {
	t.Parallel()
	const most = 10 << 10
	s := New(Hello{Principal: mcp.Anonymous}, most)
	stream := s.NewStream()
	first := stream.Send([]byte("first"), false)
	var last Message
	for range 1000 {
		last = stream.Send(make([]byte, 1000), false)
		if s.log.bytes > most {
			t.Fatalf("the log has %d bytes", s.log.bytes)
		}
	}
	if n := cap(s.log.events); n > 100 {
		t.Errorf("the log has room for %d events and may hold 9", n)
	}
	if _, _, _, ok := s.Resume(first.ID); ok {
		t.Error("what was forgotten can be resumed from: something would be lost in silence")
	}
	if _, _, _, ok := s.Resume(last.ID); !ok {
		t.Error("the last one cannot be resumed from")
	}
	huge := stream.Send(make([]byte, most+1), false)
	if s.log.bytes != 0 || len(s.log.events) != 0 {
		t.Errorf("a message beyond the bound is kept: %d bytes", s.log.bytes)
	}
	if _, _, _, ok := s.Resume(last.ID); ok {
		t.Error("the huge message would be lost in silence")
	}
	if got, _, more, ok := s.Resume(huge.ID); !ok || len(got) != 0 || more == nil {
		t.Errorf("who has received the huge message cannot go on: %v, %t", got, ok)
	}
}

// A quiet stream, as the standalone one mostly is, is not cut off by busy ones.
func TestABusyStreamDoesNotCutOffAQuietOne(t *testing.T) {
	t.Parallel()
	s := New(Hello{Principal: mcp.Anonymous}, 1024)
	quiet, busy := s.Standalone(), s.NewStream()
	prime := quiet.Send(nil, false)
	for range 100 {
		busy.Send(make([]byte, 500), false)
	}
	if _, _, _, ok := s.Resume(prime.ID); !ok {
		t.Error("nothing behind the quiet stream's event is forgotten, yet it cannot be resumed from")
	}
	quiet.Send([]byte("q"), false)
	got, _, _, ok := s.Resume(prime.ID)
	if !ok || len(got) != 1 || string(got[0].Data) != "q" {
		t.Errorf("got %v, %t", got, ok)
	}
	for range 100 {
		busy.Send(make([]byte, 500), false)
	}
	if _, _, _, ok := s.Resume(prime.ID); ok {
		t.Error("q was forgotten in silence")
	}
}

func TestEndWakesStreams(t *testing.T) {
	t.Parallel()
	s := New(Hello{Principal: mcp.Anonymous}, 1024)
	stream := s.NewStream()
	m := stream.Send(nil, false)
	_, _, more, _ := s.Resume(m.ID)
	if woken(more) || !isOpen(stream) {
		t.Fatal("woken before anything came")
	}
	s.End()
	if !woken(more) || !woken(s.Ended()) || isOpen(stream) {
		t.Error("the end wakes nobody")
	}
	stream.Send([]byte("late"), true)
	stream.End()
	if isOpen(s.NewStream()) || isOpen(s.Standalone()) {
		t.Error("a stream opens in a session that has ended: nothing will ever close it")
	}
}

func TestStandaloneIsOne(t *testing.T) {
	t.Parallel()
	s := New(Hello{Principal: mcp.Anonymous}, 1024)
	if a, b := s.Standalone(), s.Standalone(); !a.Is(b) || a.Is(s.NewStream()) || a.Is(New(Hello{}, 1).Standalone()) {
		t.Error("not one stream of its own")
	}
}

// Whatever is sent, a resumed stream gives exactly what came on it after the event, or nothing at all.
func TestResumeModel(t *testing.T) {
	t.Parallel()
	type sent struct {
		stream int
		m      Message
	}
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.IntRange(100, 2000).Draw(rt, "most")
		s := New(Hello{Principal: mcp.Anonymous}, most)
		var streams []*Stream
		var ended []bool
		var all []sent
		ids := map[string]bool{}
		for range rapid.IntRange(1, 80).Draw(rt, "operations") {
			switch op := rapid.IntRange(0, 9).Draw(rt, "operation"); {
			case op == 0 || len(streams) == 0:
				streams, ended = append(streams, s.NewStream()), append(ended, false)
			case op <= 7:
				i := rapid.IntRange(0, len(streams)-1).Draw(rt, "stream")
				if ended[i] {
					continue
				}
				ended[i] = op == 7
				data := strings.Repeat("x", rapid.IntRange(0, 300).Draw(rt, "size"))
				m := streams[i].Send(fmt.Appendf(nil, "%d:%d:%s", i, len(all), data), ended[i])
				if ids[m.ID] {
					rt.Fatalf("id %s is used twice", m.ID)
				}
				ids[m.ID] = true
				all = append(all, sent{i, m})
			case len(all) > 0:
				from := rapid.IntRange(0, len(all)-1).Draw(rt, "from")
				got, stream, more, ok := s.Resume(all[from].m.ID)
				if !ok {
					kept := 0 // everything since then, of all streams: less than may be kept is never forgotten
					for _, e := range all[from+1:] {
						kept += len(e.m.Data) + loggedCost
					}
					if kept <= most {
						rt.Fatalf("%d of %d bytes are forgotten", kept, most)
					}
					continue
				}
				i := all[from].stream
				if !stream.Is(streams[i]) || (more == nil) != ended[i] {
					rt.Fatalf("another stream, or more is %t of a stream of which ended is %t", more != nil, ended[i])
				}
				for _, e := range all[from+1:] {
					if e.stream != i {
						continue
					}
					if len(got) == 0 || got[0].ID != e.m.ID || string(got[0].Data) != string(e.m.Data) {
						rt.Fatalf("%s is missing: got %v", e.m.ID, got)
					}
					got = got[1:]
				}
				if len(got) > 0 {
					rt.Fatalf("%v came on no such stream", got)
				}
			}
			if s.log.bytes > most {
				rt.Fatalf("the log has %d bytes of %d", s.log.bytes, most)
			}
		}
	})
}

// isOpen tells whether messages may still come on a stream.
func isOpen(t *Stream) bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return t.s.log.open[t.id] != nil
}
