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
	// missed is when announcements of others may last have been missed: everybody may have written, up to where the log is then. Zero for
	// never, or where that has been learned.
	missed time.Time
	// anywhere is until when everybody may have written something of which the position is not known.
	anywhere time.Time
}

type position struct {
	lsn uint64
	at  time.Time
}

const (
	mostPositions = 100_000
	// keepPosition is how long a position is kept by itself.
	keepPosition = time.Hour
	// unknownPosition is of a write whose position could not be learned: its caller reads from the primary for unknownFor.
	unknownPosition = math.MaxUint64
	unknownFor      = 10 * time.Minute
)

func newPositions() *positions { return &positions{by: map[PositionKey]position{}} }

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

// note keeps a position, if it is the latest of the caller's.
func (p *positions) note(key PositionKey, lsn uint64) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if key == Everybody {
		p.raise(position{lsn, now})
		return
	}
	if was, ok := p.by[key]; ok && was.lsn > lsn && !was.over(now) {
		return
	}
	if len(p.by) >= mostPositions {
		p.forget(now)
	}
	p.by[key] = position{lsn, now}
}

// over tells whether a position that is not known has been one for long enough.
func (p position) over(now time.Time) bool {
	return p.lsn == unknownPosition && now.Sub(p.at) > unknownFor
}

// forget makes room: the old ones go, or all. p.mu is locked.
func (p *positions) forget(now time.Time) {
	all := true
	for key, was := range p.by {
		if was.over(now) || now.Sub(was.at) > keepPosition {
			all = false
			p.drop(key, was)
		}
	}
	if all {
		for key, was := range p.by {
			p.drop(key, was)
		}
	}
}

func (p *positions) drop(key PositionKey, was position) {
	delete(p.by, key)
	p.raise(was)
}

// raise makes a position everybody's. p.mu is locked.
func (p *positions) raise(was position) {
	if until := was.at.Add(unknownFor); was.lsn != unknownPosition {
		p.floor = max(p.floor, was.lsn)
	} else if until.After(p.anywhere) {
		p.anywhere = until
	}
}

// miss says that positions may have been missed until now.
func (p *positions) miss() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.missed = time.Now()
}

// learn takes where the log was when it was asked for at asked: all that was missed before is not behind that.
func (p *positions) learn(asked time.Time, lsn uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.missed.IsZero() && asked.After(p.missed) {
		p.missed, p.floor = time.Time{}, max(p.floor, lsn)
	}
}

// of gives what a caller must be able to read: 0 for anything.
func (p *positions) of(key PositionKey) uint64 {
	p.mu.RLock()
	defer p.mu.RUnlock()
	was, ok := p.by[key]
	now := time.Now()
	switch {
	case now.Before(p.anywhere), !p.missed.IsZero():
		return unknownPosition
	case ok && !was.over(now):
		return max(was.lsn, p.floor)
	}
	return p.floor
}
