package hub

import (
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"millrace/internal/mcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSince(t *testing.T) {
	t.Parallel()
	h := New()
	at := h.Now()
	events, next, lost, more := h.Since(at)
	if len(events) != 0 || lost {
		t.Fatalf("a new hub has %v, lost %v", events, lost)
	}
	h.Publish(mcp.Event{Kind: mcp.ResourceUpdated, URI: "a"}, mcp.Event{Kind: mcp.ToolsChanged})
	<-more
	events, next, lost, _ = h.Since(next)
	if len(events) != 2 || events[0].URI != "a" || events[1].Kind != mcp.ToolsChanged || lost {
		t.Fatalf("got %v, lost %v", events, lost)
	}
	if events, _, _, _ = h.Since(next); len(events) != 0 {
		t.Fatalf("events came twice: %v", events)
	}
}

// A source of which is not known what changed: whoever watches a resource is told.
func TestAnyResource(t *testing.T) {
	t.Parallel()
	h := New()
	h.Publish(mcp.Event{Kind: mcp.ResourcesChanged}, mcp.Event{Kind: mcp.ResourceUpdated})
	if events, _, lost, _ := h.Since(1); !lost || len(events) != 1 || events[0].Kind != mcp.ResourcesChanged {
		t.Errorf("got %v, lost %v", events, lost)
	}
}

func TestALateReaderIsToldThatAllMayHaveChanged(t *testing.T) {
	t.Parallel()
	h := New()
	at := h.Now()
	for range remembered + 1 {
		h.Publish(mcp.Event{Kind: mcp.ResourceUpdated, URI: "x"})
	}
	events, next, lost, _ := h.Since(at)
	if !lost || len(events) != len(everything)+remembered || events[0].Kind != mcp.ToolsChanged {
		t.Fatalf("lost %v with %d events", lost, len(events))
	}
	if events, _, lost, _ = h.Since(next); lost || len(events) != 0 {
		t.Fatalf("after catching up: lost %v, %d events", lost, len(events))
	}
}

func TestTheEdgesOfTheRing(t *testing.T) {
	t.Parallel()
	h := New()
	if events, next, lost, _ := h.Since(0); len(events) != 0 || lost || next != h.Now() {
		t.Errorf("position 0 of a new hub: %v, lost %v", events, lost)
	}
	h.Publish()
	if h.Now() != 1 {
		t.Error("nothing was published, yet the position moved")
	}
	h.Publish(mcp.Event{Kind: mcp.ToolsChanged})
	at := h.Now()
	for i := range remembered {
		h.Publish(mcp.Event{Kind: mcp.ResourceUpdated, URI: strconv.Itoa(i)})
	}
	events, _, lost, _ := h.Since(at)
	if lost || len(events) != remembered || events[0].URI != "0" || events[remembered-1].URI != strconv.Itoa(remembered-1) {
		t.Errorf("a full ring: lost %v, %d events", lost, len(events))
	}
	if _, _, lost, _ = h.Since(at - 1); !lost {
		t.Error("one position earlier, and nothing is lost")
	}
	h.Publish(mcp.Event{Kind: mcp.ResourceUpdated, URI: "over"})
	if events, _, lost, _ = h.Since(at); !lost || events[len(everything)].URI != "1" {
		t.Errorf("one event more: lost %v", lost)
	}
	if events, next, lost, _ := h.Since(1 << 60); len(events) != 0 || lost || next != h.Now() {
		t.Errorf("a position that is yet to come: %v, lost %v", events, lost)
	}
}

// Every reader, however it is scheduled, sees each event once and in order, or is told that it lost some.
func TestConcurrentReaders(t *testing.T) {
	t.Parallel()
	h := New()
	const events = 3 * remembered
	var wg sync.WaitGroup
	for range 8 {
		at := h.Now()
		wg.Go(func() {
			for seen := 0; seen < events; {
				got, next, lost, more := h.Since(at)
				if lost {
					got = got[len(everything):]
					seen = int(next-1) - len(got)
				}
				at = next
				for _, e := range got {
					if e.URI != strconv.Itoa(seen) {
						t.Errorf("got %s instead of %d", e.URI, seen)
						return
					}
					seen++
				}
				if seen < events {
					<-more
				}
			}
		})
	}
	for i := range events {
		h.Publish(mcp.Event{Kind: mcp.ResourceUpdated, URI: strconv.Itoa(i)})
	}
	wg.Wait()
}
