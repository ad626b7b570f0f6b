package session

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/mcp"
)

const shards = 64

// Memory keeps sessions in this process. Make it with NewMemory.
type Memory struct {
	cfg    Config
	seed   maphash.Seed
	count  atomic.Int64
	shards [shards]shard

	mu   sync.Mutex     // guards held
	held map[string]int // sessions by principal
	stop chan struct{}
	wg   sync.WaitGroup
}

type shard struct {
	mu       sync.RWMutex // guards sessions
	sessions map[string]*Session
	_        [32]byte // two shards never share a cache line
}

// NewMemory makes an empty store and starts its sweep; Close stops it.
func NewMemory(cfg Config) *Memory {
	m := &Memory{cfg: cfg, seed: maphash.MakeSeed(), held: map[string]int{}, stop: make(chan struct{})}
	for i := range m.shards {
		m.shards[i].sessions = map[string]*Session{}
	}
	m.wg.Go(m.sweep)
	return m
}

func (m *Memory) shard(id string) *shard { return &m.shards[maphash.String(m.seed, id)%shards] }

// Open makes a session, or gives ErrFull.
func (m *Memory) Open(_ context.Context, h Hello) (*Session, error) {
	if !m.hold(h.Principal) {
		return nil, ErrFull
	}
	if m.count.Add(1) > int64(m.cfg.Max) {
		m.count.Add(-1)
		m.letGo(h.Principal)
		return nil, ErrFull
	}
	s := newSession(h, int(m.cfg.EventBytes))
	s.used.Store(time.Now().UnixNano())
	sh := m.shard(s.ID)
	sh.mu.Lock()
	sh.sessions[s.ID] = s
	sh.mu.Unlock()
	return s, nil
}

// hold counts one more session of a principal, unless it has its share: half of all, so that no caller can lock every
// other out. Anonymous callers are many that cannot be told apart: they have no other to lock out.
func (m *Memory) hold(p *mcp.Principal) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := string(p.ScopeKey(mcp.ScopePrivate))
	if p != mcp.Anonymous && m.held[key] >= (m.cfg.Max+1)/2 {
		return false
	}
	m.held[key]++
	return true
}

// letGo ends what hold began.
func (m *Memory) letGo(p *mcp.Principal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := string(p.ScopeKey(mcp.ScopePrivate))
	if m.held[key]--; m.held[key] == 0 {
		delete(m.held, key)
	}
}

// Get gives a session to the principal that opened it.
func (m *Memory) Get(_ context.Context, id string, p *mcp.Principal) (*Session, bool) {
	sh := m.shard(id)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	s := sh.sessions[id]
	if s == nil || string(s.Principal.ScopeKey(mcp.ScopePrivate)) != string(p.ScopeKey(mcp.ScopePrivate)) {
		return nil, false
	}
	s.used.Store(time.Now().UnixNano()) // under the lock: the sweep either sees it or has taken the session out
	return s, true
}

// Delete ends a session.
func (m *Memory) Delete(_ context.Context, id string) {
	m.deleteIf(m.shard(id), id, func(*Session) bool { return true })
}

// deleteIf ends a session of sh of which f is true.
func (m *Memory) deleteIf(sh *shard, id string, f func(*Session) bool) {
	sh.mu.Lock()
	s := sh.sessions[id]
	if s == nil || !f(s) {
		sh.mu.Unlock()
		return
	}
	delete(sh.sessions, id)
	sh.mu.Unlock()
	m.count.Add(-1)
	m.letGo(s.Principal)
	s.end()
}

// Len is how many sessions there are.
func (m *Memory) Len() int { return int(m.count.Load()) }

// Close ends every session.
func (m *Memory) Close() {
	close(m.stop)
	m.wg.Wait()
	m.deleteAll(func(*Session) bool { return true })
}

// sweep ends the sessions that have idled out.
func (m *Memory) sweep() {
	t := time.NewTicker(max(m.cfg.Idle.Std()/4, time.Second))
	defer t.Stop()
	for {
		select {
		case <-m.stop:
			return
		case now := <-t.C:
			m.deleteAll(func(s *Session) bool { return s.idle(now.Add(-m.cfg.Idle.Std())) })
		}
	}
}

// deleteAll ends the sessions of which f is true, and still is when their turn comes.
func (m *Memory) deleteAll(f func(*Session) bool) {
	for i := range m.shards {
		sh := &m.shards[i]
		sh.mu.RLock()
		var ids []string
		for id, s := range sh.sessions {
			if f(s) {
				ids = append(ids, id)
			}
		}
		sh.mu.RUnlock()
		for _, id := range ids {
			m.deleteIf(sh, id, f)
		}
	}
}
