package cache

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// looks ask the database, for all calls that wait in one query: for entries, and for the versions of what they and those in L1 rest
// on. While there are fewer than lookers queries a call's own leaves at once; else those that come wait for the next, since theirs must
// begin after they did. So a process that falls back on the level, all calls at once, has no more than so many connections to open.
type looks struct {
	mu      sync.Mutex // guards what follows
	waiting []*round   // that have not begun; there is room in the last
	running int        // queries
}

// round is a query and who waits for it.
type round struct {
	calls   int
	keys    []string
	stripes map[uint32]struct{}
	done    chan struct{} // closed when it has ended; what follows is set before
	entries map[string]string
	ok      bool // the database has answered
}

// The bounds of looks.
const (
	lookers      = 2
	roundKeys    = 32 // each may bring an entry of l3Entry bytes
	roundStripes = 1000
	roundsWait   = 32
)

// look learns the versions of stripes, and gives the text of the entry of a key as L3 has it; "" is no key, and no entry. ok is false where
// the database does not say.
func (l *L3) look(ctx context.Context, key string, asked []uint32) (text string, ok bool) {
	if !l.open.Load() || !l.worth.TryAcquirePermit() {
		return "", false
	}
	began := time.Now()
	r := l.join(key, asked)
	if r == nil {
		l.worth.RecordFailure()
		return "", false
	}
	defer func() { l.count.Looked(time.Since(began)) }()
	select {
	case <-r.done:
		return r.entries[key], r.ok
	case <-ctx.Done():
		return "", false
	}
}

// join puts a call into a round that has not begun; nil where too many wait.
func (l *L3) join(key string, asked []uint32) *round {
	s := &l.looks
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.waiting)
	if n == 0 || len(s.waiting[n-1].keys) >= roundKeys || len(s.waiting[n-1].stripes) > roundStripes {
		if n == roundsWait {
			return nil
		}
		s.waiting = append(s.waiting, &round{stripes: map[uint32]struct{}{}, done: make(chan struct{})})
	}
	r := s.waiting[len(s.waiting)-1]
	r.calls++
	if key != "" {
		r.keys = append(r.keys, key)
	}
	for _, stripe := range asked {
		r.stripes[stripe] = struct{}{}
	}
	if s.running < lookers {
		s.running++
		go l.lookAll() // ends when nobody waits; a query takes no longer than its time
	}
	return r
}

func (l *L3) lookAll() {
	s := &l.looks
	for {
		s.mu.Lock()
		if len(s.waiting) == 0 {
			s.running--
			s.mu.Unlock()
			return
		}
		r := s.waiting[0]
		s.waiting = slices.Delete(s.waiting, 0, 1)
		s.mu.Unlock()
		l.lookFor(r)
		close(r.done)
	}
}

// lookFor asks for all of a round. Each of its calls counts when the level is judged.
func (l *L3) lookFor(r *round) {
	judge := l.worth.RecordFailure
	defer func() {
		for range r.calls {
			judge()
		}
	}()
	asked, err := json.Marshal(slices.Sorted(maps.Keys(r.stripes)))
	if err != nil {
		return
	}
	keys := []byte("[]")
	if len(r.keys) > 0 {
		if keys, err = json.Marshal(r.keys); err != nil {
			return
		}
	}
	out, err := l.run(context.Background(), l.get, l.wait, string(asked), string(keys), time.Now().UnixMilli())
	if err != nil {
		return
	}
	judge = l.worth.RecordSuccess
	var got struct {
		Rows []struct{ Key, Entry, Versions *string }
	}
	if json.Unmarshal(out, &got) != nil {
		return
	}
	r.entries = make(map[string]string, len(r.keys))
	told := false
	for _, row := range got.Rows {
		if row.Key != nil && row.Entry != nil {
			r.entries[*row.Key] = *row.Entry
			continue
		}
		told = true
		if row.Versions == nil {
			continue
		}
		for pair := range strings.SplitSeq(*row.Versions, ",") {
			if stripe, version, _ := strings.Cut(pair, ":"); l.learn(stripe, version) != nil {
				return
			}
		}
	}
	r.ok = told
}

// confirm learns the versions of stamps. It is false where they are not known.
func (l *L3) confirm(ctx context.Context, stamps []stamp) bool {
	asked := make([]uint32, 0, len(stamps))
	for _, s := range stamps {
		if s.stripe < stripes {
			asked = append(asked, s.stripe)
		}
	}
	_, ok := l.look(ctx, "", asked)
	return ok
}

// find gives the fresh entry of a key; nil where there is none. tags are the call's, and stamps are theirs from before. there is
// what the second level says of them, nil for nothing: a server that could tell that one of a change may not have been able to tell this one.
func (l *L3) find(ctx context.Context, key []byte, tags []string, stamps []stamp, there *sight) *Entry {
	asked := make([]uint32, 0, len(tags))
	for _, t := range tags {
		if s := l.tags.stripe(t); s < stripes {
			asked = append(asked, s)
		}
	}
	text, ok := l.look(ctx, l3Key(key), asked)
	if !ok || text == "" {
		return nil
	}
	e := l.read(text, time.Now())
	if e == nil || e.Key != string(key) || there != nil && e.under != nil && e.under.run == there.run && !there.has(e.under.versions) {
		return nil
	}
	own := e.stamps
	e.stamps = slices.Clone(stamps)
	for _, m := range own {
		i := slices.IndexFunc(stamps, func(s stamp) bool { return s.stripe == m.stripe })
		if i < 0 {
			return nil
		}
		e.stamps[i].version = m.version
	}
	return e
}
