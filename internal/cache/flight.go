package cache

import (
	"sync"
	"time"

	"millrace/internal/mcp"
)

// flight is one run of a call that several callers wait for.
type flight struct {
	key    string
	after  *flight // must have ended before this one begins; nil for none
	begun  bool    // flights.mu guards it and stamps
	stamps []stamp // the versions of its tags when it began

	done   chan struct{} // closed when what follows is set
	result mcp.Result
	err    error
	level  uint8     // that the result came from; 0 for the work
	born   time.Time // the result, where it came from a level
}

// flights are the runs under way, by key. Those of one key never overlap: two that did could see the database in one order
// and be told of in the other.
type flights struct {
	tags *Tags

	mu      sync.Mutex // guards running
	running map[string]*flight
}

// join gives the flight of a key, and whether the caller is its first and has to see to the work. A flight that a change
// has overtaken is left to those who wait for it already: who comes after the change must not get what was read before. Where
// a change may not be known of, that is every flight that has begun.
func (fs *flights) join(key []byte, known bool) (f *flight, first bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	old := fs.running[string(key)]
	if old != nil && (!old.begun || known && fs.tags.current(old.stamps)) {
		return old, false
	}
	f = &flight{key: string(key), after: old, done: make(chan struct{})}
	fs.running[f.key] = f
	return f, true
}

// begin waits until the flight may begin, and notes the versions of its tags.
func (fs *flights) begin(f *flight, tags []string) {
	if f.after != nil {
		<-f.after.done // which is bounded as this one is
		f.after = nil
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.stamps, f.begun = fs.tags.stamps(tags), true
}

// restamp notes the versions anew, before the flight's work begins.
func (fs *flights) restamp(f *flight, tags []string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.stamps = fs.tags.stamps(tags)
}

// leave ends a flight. Who comes after it looks into the cache again, or flies anew.
func (fs *flights) leave(f *flight) {
	fs.mu.Lock()
	if fs.running[f.key] == f {
		delete(fs.running, f.key)
	}
	fs.mu.Unlock()
	close(f.done)
}
