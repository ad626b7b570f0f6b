package sqldb

import (
	"math"
	"strconv"
	"sync"
	"time"

	"millrace/internal/mcp"
)

// positions are how far the primary's log was when each caller last wrote. It is safe for concurrent use, and bounded: what it forgets
// holds for everybody from then on.
type positions struct {
	mu    sync.RWMutex // guards what follows
	by    map[string]position
	floor uint64 // of all that were forgotten
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

func newPositions() *positions { return &positions{by: map[string]position{}} }

// positionKey is whose position it is: the subject's; without one the session's; else that of all who have neither.
func positionKey(c *mcp.Caller) string {
	switch {
	case c.Principal == nil:
		return ""
	case c.Principal != mcp.Anonymous:
		return "u" + strconv.Itoa(len(c.Tenant)) + ":" + c.Tenant + c.Subject
	case c.Session != "":
		return "s" + c.Session
	}
	return ""
}

// note keeps a position, if it is the latest of the caller's.
func (p *positions) note(key string, lsn uint64) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
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

func (p *positions) drop(key string, was position) {
	delete(p.by, key)
	if until := was.at.Add(unknownFor); was.lsn != unknownPosition {
		p.floor = max(p.floor, was.lsn)
	} else if until.After(p.anywhere) {
		p.anywhere = until
	}
}

// of gives what a caller must be able to read: 0 for anything.
func (p *positions) of(key string) uint64 {
	p.mu.RLock()
	defer p.mu.RUnlock()
	was, ok := p.by[key]
	now := time.Now()
	switch {
	case now.Before(p.anywhere):
		return unknownPosition
	case ok && !was.over(now):
		return max(was.lsn, p.floor)
	}
	return p.floor
}
