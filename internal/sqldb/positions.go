package sqldb

import (
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"millrace/internal/mcp"
)

// positions are how far the primary's log was when each caller last wrote. It is safe for concurrent use, and bounded: what it forgets
// holds for everybody from then on.
type positions struct {
	mu    sync.RWMutex // guards what follows
	by    map[PositionKey]position
	floor uint64 // of all that were forgotten
	// missed is when something may last have been written of which the position was not heard: everybody must be able to read it. Zero where
	// it has been learned since how far the log is.
	missed time.Time
	// logged is how far the log was when it was asked for at asked.
	logged uint64
	asked  time.Time
}

// position is of one caller.
type position struct {
	lsn uint64
	at  time.Time
	// unknown is when he wrote something of which the position is not known; zero for never, or where it has been learned since.
	unknown time.Time
}

const (
	mostPositions = 100_000
	// keepPosition is how long a position is kept by itself.
	keepPosition = time.Hour
	// unknownPosition is of a write whose position could not be learned: its caller reads from the primary for unknownFor.
	unknownPosition = math.MaxUint64
	unknownFor      = 10 * time.Minute
)

// newPositions knows nothing of what was written before.
func newPositions() *positions {
	return &positions{by: map[PositionKey]position{}, missed: time.Now()}
}

// PositionKey stands for a caller. The zero value is that of all callers of this process that are nobody.
type PositionKey [16]byte

// Everybody is the key of a position that all callers must be able to read.
var Everybody = PositionKey{0: 0xff}

// positionKey is whose position it is: the subject's; without one the session's; else that of all who have neither.
func positionKey(c *mcp.Caller) PositionKey {
	switch {
	case c.Principal == nil:
		return PositionKey{}
	case c.Principal != mcp.Anonymous:
		return xxh3.HashString128("u" + strconv.Itoa(len(c.Tenant)) + ":" + c.Tenant + c.Subject).Bytes()
	case c.Session != "":
		return xxh3.HashString128("s" + c.Session).Bytes()
	}
	return PositionKey{}
}

// note keeps a position. Of two the later one counts.
func (p *positions) note(key PositionKey, lsn uint64) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	was, ok := p.by[key]
	if !ok && len(p.by) >= mostPositions {
		p.forget(now)
	}
	was.at = now
	if lsn == unknownPosition {
		was.unknown = now
	} else {
		was.lsn = max(was.lsn, lsn)
	}
	if key == Everybody {
		p.raise(was)
	} else {
		p.by[key] = was
	}
}

// forget makes room: the old ones go, or all where that is not much. p.mu is locked.
func (p *positions) forget(now time.Time) {
	for key, was := range p.by {
		if now.Sub(was.at) > keepPosition {
			p.drop(key, was)
		}
	}
	if len(p.by) > mostPositions*7/8 {
		for key, was := range p.by {
			p.drop(key, was)
		}
	}
}

func (p *positions) drop(key PositionKey, was position) {
	delete(p.by, key)
	p.raise(was)
}

// raise makes a position everybody's. One that is not known is taken for where the log is when it would have been learned. p.mu is locked.
func (p *positions) raise(was position) {
	p.floor = max(p.floor, was.lsn)
	if until := was.unknown.Add(unknownFor); !was.unknown.IsZero() && until.After(p.missed) {
		p.missed = until
	}
}

// miss says that positions may have been missed until now.
func (p *positions) miss() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.After(p.missed) {
		p.missed = now
	}
}

// learn takes where the log was when it was asked for at asked: all that was missed before is not behind that.
func (p *positions) learn(asked time.Time, lsn uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.logged = asked, lsn
	if !p.missed.IsZero() && asked.After(p.missed) {
		p.missed, p.floor = time.Time{}, max(p.floor, lsn)
	}
}

// of gives what a caller must be able to read: 0 for anything.
func (p *positions) of(key PositionKey) uint64 {
	p.mu.RLock()
	was, ok := p.by[key]
	floor, missed, over := p.floor, !p.missed.IsZero(), p.asked.After(was.unknown.Add(unknownFor))
	p.mu.RUnlock()
	switch {
	case missed, !was.unknown.IsZero() && !over:
		return unknownPosition
	case !ok:
		return floor
	case was.unknown.IsZero():
		return max(was.lsn, floor)
	}
	p.mu.Lock() // by now it has been written or never will be
	defer p.mu.Unlock()
	if now, ok := p.by[key]; ok && now == was {
		was.lsn, was.unknown = max(was.lsn, p.logged), time.Time{}
		p.by[key] = was
	}
	return max(was.lsn, floor, p.logged)
}
