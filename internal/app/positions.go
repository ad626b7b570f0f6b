package app

import (
	"context"
	"encoding/hex"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/internal/redis"
	"millrace/internal/sqldb"
)

// positionBus tells the servers of a deployment how far the log of a source's primary was when a caller wrote, through Redis: a replica
// shows him nothing older, on whatever server he reads. It is one for the process, and is there once a source has replicas.
type positionBus struct {
	client *redis.Client
	member *redis.Member
	find   func(source string) []sqldb.Replicated // "" for all

	mu      sync.Mutex        // guards what follows
	owed    map[string]uint64 // positions that could not be told, by source
	failing time.Time         // since when none could be told; zero where the last one could
}

func newPositionBus(cfg redis.Config, find func(string) []sqldb.Replicated, log *slog.Logger) (*positionBus, error) {
	client, err := redis.Open(cfg, log)
	if err != nil {
		return nil, err
	}
	b := &positionBus{client: client, find: find, owed: map[string]uint64{}}
	b.member = client.Join("positions", b)
	return b, nil
}

func (b *positionBus) close() {
	b.member.Close()
	b.client.Close()
}

// of gives what a source tells others by.
func (b *positionBus) of(source string) sqldb.Others { return sourcePositions{b, source} }

type sourcePositions struct {
	*positionBus
	source string
}

// tellFor is for how long positions are told again and again, from the first that could not be told, before writes do not wait for it any more. A
// connection that broke is back by then; and an answer that comes late to a process that had to wait for a processor says nothing of the others,
// who hear each other meanwhile.
const tellFor = time.Second

// Tell implements sqldb.Others.
func (p sourcePositions) Tell(key sqldb.PositionKey, lsn uint64) {
	hear(p.find(p.source), key, lsn)
	for range tellFor / redis.Lease { // what fails takes a Lease
		failed, over := p.announce(p.source, key, lsn)
		if !failed {
			return
		}
		if over {
			break
		}
	}
	p.owe(p.source, lsn)
}

// ownPositions tells of the positions of a source's callers where no other server can be told.
type ownPositions struct {
	find   func(source string) []sqldb.Replicated
	source string
}

// Tell implements sqldb.Others.
func (p ownPositions) Tell(key sqldb.PositionKey, lsn uint64) { hear(p.find(p.source), key, lsn) }

// Sure implements sqldb.Others.
func (p ownPositions) Sure() bool { return true }

// hear notes a position at all that serve a source: while a reload takes place there may be two, and a write ends on the old one.
func hear(all []sqldb.Replicated, key sqldb.PositionKey, lsn uint64) {
	for _, s := range all {
		s.Heard(key, lsn)
	}
}

func (b *positionBus) owe(source string, lsn uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owed[source] = max(b.owed[source], lsn)
}

// Sure implements sqldb.Others.
func (p sourcePositions) Sure() bool { return p.member.Holds(time.Now()) }

// announcePosition changes nothing: the announcement is all.
var announcePosition = redis.NewScript("return {}")

// announce tells whether it failed, and whether nothing could be announced for tellFor.
func (b *positionBus) announce(source string, key sqldb.PositionKey, lsn uint64) (failed, over bool) {
	ctx, cancel := context.WithTimeout(context.Background(), redis.Lease)
	defer cancel()
	_, err := b.member.Announce(ctx, announcePosition, nil, nil, hex.EncodeToString(key[:])+" "+strconv.FormatUint(lsn, 10)+" "+source, true)
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		b.failing = time.Time{}
		return false, false
	case b.failing.IsZero():
		b.failing = now
	}
	return true, now.Sub(b.failing) > tellFor
}

// Owes implements redis.Listener.
func (b *positionBus) Owes() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.owed) > 0
}

// Pay tells what could not be told as positions that everybody must be able to read, until one cannot be told.
func (b *positionBus) Pay() {
	b.mu.Lock()
	owed := maps.Clone(b.owed)
	b.mu.Unlock()
	for source, lsn := range owed {
		if failed, _ := b.announce(source, sqldb.Everybody, lsn); failed {
			return
		}
		b.mu.Lock()
		if b.owed[source] <= lsn {
			delete(b.owed, source)
		}
		b.mu.Unlock()
	}
}

// Announced implements redis.Listener.
func (b *positionBus) Announced(payload string) {
	text, rest, _ := strings.Cut(payload, " ")
	number, source, _ := strings.Cut(rest, " ")
	lsn, err := strconv.ParseUint(number, 10, 64)
	var key sqldb.PositionKey
	if raw, fault := hex.DecodeString(text); err != nil || fault != nil || len(raw) != len(key) {
		b.Missed() // of another version, which knows why
		return
	} else {
		copy(key[:], raw)
	}
	hear(b.find(source), key, lsn)
}

// Missed implements redis.Listener.
func (b *positionBus) Missed() {
	for _, s := range b.find("") {
		s.Missed()
	}
}

// share lets others know of the positions of a source's callers, where it has replicas: other servers, where there is Redis, and the source that a
// reload puts in its place.
func (a *App) share(s *source) error {
	r, ok := s.db.(sqldb.Replicated)
	if !ok {
		return nil
	}
	if len(a.started.Redis.Nodes) == 0 {
		r.Share(ownPositions{a.sources.replicated, s.name})
		return nil
	}
	if a.bus == nil {
		var err error
		if a.bus, err = newPositionBus(a.started.Redis, a.sources.replicated, a.log); err != nil {
			return err
		}
	}
	r.Share(a.bus.of(s.name))
	return nil
}

// replicated gives the open sources of a name that have replicas; "" for all.
func (s *sources) replicated(name string) (out []sqldb.Replicated) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.open {
		if r, ok := o.db.(sqldb.Replicated); ok && (name == "" || o.name == name) {
			out = append(out, r)
		}
	}
	return out
}
