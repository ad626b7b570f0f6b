package cache

import (
	"sync"

	"millrace/internal/mcp"
)

// flight is one run of a call that several callers wait for.
type flight struct {
	key    string
	done   chan struct{} // closed when result and err are set
	result mcp.Result
	err    error
}

type flights struct {
	mu      sync.Mutex // guards running
	running map[string]*flight
}

// join gives the flight of a key, and whether the caller is its first and has to see to the work.
func (fs *flights) join(key []byte) (f *flight, first bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f = fs.running[string(key)]; f != nil {
		return f, false
	}
	f = &flight{key: string(key), done: make(chan struct{})}
	fs.running[f.key] = f
	return f, true
}

// leave ends a flight. Who comes after it looks into the cache again, or flies anew.
func (fs *flights) leave(f *flight) {
	fs.mu.Lock()
	delete(fs.running, f.key)
	fs.mu.Unlock()
	close(f.done)
}
