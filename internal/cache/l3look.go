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
	most    int64 // bytes of an entry; of one that is larger nil is found
	keys    []string
	stripes map[uint32]struct{}
	done    chan struct{} // closed when it has ended; found and ok are set before
	found   map[string]*string
	ok      bool // the database has answered
}

// The bounds of looks.
const (
	lookers      = 2
	roundKeys    = 32
	roundEntry   = 64 << 10 // an entry that is larger is fetched by itself: the others would wait for it
	roundStripes = 1000
	roundsWait   = 32
)

// look learns the versions of stripes, and gives the text of the entry of a key as L3 has it; "" is no key, and no entry. ok is false where
// the database does not say.
func (l *L3) look(ctx context.Context, key string, asked []uint32) (text string, ok bool) {
	if !l.open.Load() || l.looks.full() || !l.worth.TryAcquirePermit() {
		return "", false
	}
	began := time.Now()
	defer func() { l.count.Looked(time.Since(began)) }()
	r := l.join(key, asked, roundEntry)
	if r == nil {
		l.worth.RecordFailure()
		return "", false
	}
	if !l.await(ctx, r) {
		return "", false
	}
	entry, found := r.found[key]
	if found && entry == nil && l.worth.TryAcquirePermit() {
		if r = l.join(key, asked, l3Entry*2); r == nil || !l.await(ctx, r) {
			return "", false
		}
		entry = r.found[key]
	}
	if entry == nil {
		return "", true
	}
	return *entry, true
}

// await waits for a round, and tells whether the database has answered.
func (l *L3) await(ctx context.Context, r *round) bool {
	late := time.NewTimer(2 * l.wait) // its round's turn has not come: so many others wait
	defer late.Stop()
	select {
	case <-r.done:
		return r.ok
	case <-late.C:
	case <-ctx.Done():
	}
	return false
}

// full tells whether so many wait that another would in vain. That says nothing of the database.
func (s *looks) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.waiting)
	return n == roundsWait && s.waiting[n-1].full()
}

func (r *round) full() bool {
	return r.most > roundEntry || len(r.keys) >= roundKeys || len(r.stripes) > roundStripes
}

// join puts a call into a round that has not begun, for entries of most bytes; nil where too many wait. One that is larger than roundEntry has a
// round of its own.
func (l *L3) join(key string, asked []uint32, most int64) *round {
	s := &l.looks
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.waiting)
	if n == 0 || s.waiting[n-1].full() || most > roundEntry {
		if n >= roundsWait {
			return nil
		}
		s.waiting = append(s.waiting, &round{most: most, stripes: map[uint32]struct{}{}, done: make(chan struct{})})
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
	if l.worth.IsOpen() { // by those that were before it
		return
	}
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
	out, err := l.run(context.Background(), l.get, l.wait, string(asked), string(keys), time.Now().UnixMilli(), r.most)
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
	r.found = make(map[string]*string, len(r.keys))
	told := false
	for _, row := range got.Rows {
		if row.Key != nil {
			r.found[*row.Key] = row.Entry
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
