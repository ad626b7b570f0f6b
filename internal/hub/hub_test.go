package hub

import (
	"testing"

	"millrace/internal/mcp"
)

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
