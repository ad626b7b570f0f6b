// Package hub carries events (a list changed, a resource was updated) from where they happen to the streams that wait
// for them.
//
// It is a ring of the last events and a way to wait for more, not a set of queues: a slow stream costs no memory and
// holds nobody up; when it comes back later than the ring remembers, it is told that everything may have changed.
package hub

import (
	"sync"

	"millrace/internal/mcp"
)

// remembered is how many events the ring holds.
const remembered = 1024

// Hub is safe for concurrent use. Make it with New.
type Hub struct {
	mu   sync.Mutex // guards what follows
	ring [remembered]mcp.Event
	next uint64        // the number of the next event; the first is 1
	wake chan struct{} // closed at the next event
}

// New makes an empty hub.
func New() *Hub { return &Hub{next: 1, wake: make(chan struct{})} }

// Publish tells everybody who waits.
func (h *Hub) Publish(events ...mcp.Event) {
	if len(events) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		h.ring[h.next%remembered] = e
		h.next++
	}
	close(h.wake)
	h.wake = make(chan struct{})
}

// Now gives the position behind the last event: a reader that starts here sees what comes.
func (h *Hub) Now() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.next
}

// everything stands for events that the ring no longer holds; that every resource may have been updated is said by lost.
var everything = []mcp.Event{{Kind: mcp.ToolsChanged}, {Kind: mcp.PromptsChanged}, {Kind: mcp.ResourcesChanged}}

// Since gives the events from position at on, the position behind them, and a channel that is closed when there are
// more. lost tells that every resource may have been updated; where that is since events were forgotten, the others begin
// with a change of every list.
func (h *Hub) Since(at uint64) (events []mcp.Event, next uint64, lost bool, more <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at = max(at, 1) // before the first event there was none
	if h.next > remembered && at < h.next-remembered {
		events, lost, at = append(events, everything...), true, h.next-remembered
	}
	for ; at < h.next; at++ {
		e := h.ring[at%remembered]
		if e == (mcp.Event{Kind: mcp.ResourceUpdated}) {
			lost = true
			continue
		}
		events = append(events, e)
	}
	return events, h.next, lost, h.wake
}
