package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/sqldb"
)

// gate is a query that waits until it may run, and knows every key.
type gate struct {
	sqldb.Query
	mu   sync.Mutex // guards runs
	runs []int      // keys of each that has begun
	may  chan struct{}
	fail bool
}

func (g *gate) Run(_ context.Context, _ []byte, x *sqldb.Execution) ([]byte, sqldb.Outcome, error) {
	var keys []string
	if err := json.Unmarshal(x.Args[1].Text, &keys); err != nil {
		return nil, sqldb.Outcome{}, err
	}
	g.mu.Lock()
	g.runs = append(g.runs, len(keys))
	g.mu.Unlock()
	<-g.may
	if g.fail {
		return nil, sqldb.Outcome{}, errors.New("gone")
	}
	out := `{"rows":[`
	for _, k := range keys {
		if entry := strconv.Quote("of " + k); k == "large" && x.Args[3].Int <= roundEntry {
			out += `{"key":"large","entry":null,"versions":null},`
		} else if k != "none" {
			out += fmt.Sprintf(`{"key":%q,"entry":%s,"versions":null},`, k, entry)
		}
	}
	return []byte(out + `{"key":null,"entry":null,"versions":"7:5"}]}`), sqldb.Outcome{}, nil
}

func (g *gate) begun() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.runs)
}

// Calls that wait for the same database share its answer, but never one to a question that was asked before they came.
func TestLooksShareRounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{may: make(chan struct{})}
		l := &L3{tags: NewTags(), count: &counts{}, log: slog.New(slog.DiscardHandler), get: g, wait: l3Get, known: make([]uint64, stripes), worth: newBreaker(nil)}
		l.open.Store(true)
		var wg sync.WaitGroup
		confirm := func() {
			wg.Go(func() {
				if !l.confirm(t.Context(), []stamp{{stripe: 7}, {stripe: sharedTag}}) {
					t.Error("not confirmed")
				}
			})
		}
		for i := range lookers {
			confirm()
			synctest.Wait()
			if n := g.begun(); n != i+1 {
				t.Errorf("%d queries for %d calls", n, i+1)
			}
		}
		for range 1000 {
			confirm()
		}
		for i := range roundKeys + 1 {
			wg.Go(func() {
				key := strconv.Itoa(i)
				if text, ok := l.look(t.Context(), key, []uint32{7}); !ok || text != "of "+key {
					t.Errorf("%q, %v for %s", text, ok, key)
				}
			})
		}
		synctest.Wait()
		if n := g.begun(); n != lookers {
			t.Errorf("%d queries while the first run", n)
		}
		for range lookers + 2 {
			g.may <- struct{}{}
		}
		wg.Wait()
		if got, want := fmt.Sprint(g.runs), fmt.Sprint(append(make([]int, lookers), roundKeys, 1)); got != want {
			t.Errorf("keys of the queries: %s, want %s", got, want)
		}
		if v := l.tags.stamp(7).version; v != 5 {
			t.Errorf("version %d, want what the database gave", v)
		}
		// What is too large for a round is fetched alone, and what is not there is not looked for again.
		close(g.may)
		for key, runs := range map[string]int{"large": 2, "none": 1} {
			before := g.begun()
			text, ok := l.look(t.Context(), key, []uint32{7})
			if !ok || (text == "of large") != (key == "large") || g.begun() != before+runs {
				t.Errorf("%s: %q, %v in %d queries", key, text, ok, g.begun()-before)
			}
		}
		l.open.Store(false)
		if l.confirm(t.Context(), nil) {
			t.Error("confirmed by a level that is closed")
		}
	})
}

// A database that does not answer has a bounded number of calls wait for it, and is left alone for all that waited in vain.
func TestLooksAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{may: make(chan struct{})}
		l := &L3{tags: NewTags(), count: &counts{}, log: slog.New(slog.DiscardHandler), get: g, wait: l3Get, known: make([]uint64, stripes), worth: newBreaker(nil)}
		l.open.Store(true)
		var refused atomic.Int64
		var wg sync.WaitGroup
		look := func() {
			if _, ok := l.look(t.Context(), "k", []uint32{7}); !ok {
				refused.Add(1)
			}
		}
		for range lookers {
			wg.Go(look)
			synctest.Wait()
		}
		for range roundsWait * roundKeys {
			wg.Go(look)
		}
		synctest.Wait()
		if refused.Load() != 0 {
			t.Errorf("%d refused while there was room", refused.Load())
		}
		look()
		if refused.Load() != 1 {
			t.Error("waits beyond the bound")
		}
		g.fail = true
		close(g.may)
		wg.Wait()
		if n := refused.Load(); n != 1+lookers+roundsWait*roundKeys {
			t.Errorf("%d have no answer", n)
		}
		if n := g.begun(); n > lookers+3 {
			t.Errorf("%d queries of a database that does not answer", n)
		}
		began := g.begun()
		if look(); g.begun() != began {
			t.Error("asked again at once after all looks have failed")
		}
	})
}

// Nobody waits long for the turn of his round.
func TestLooksEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{may: make(chan struct{})}
		l := &L3{tags: NewTags(), count: &counts{}, log: slog.New(slog.DiscardHandler), get: g, wait: l3Get, known: make([]uint64, stripes), worth: newBreaker(nil)}
		l.open.Store(true)
		began := time.Now()
		if _, ok := l.look(t.Context(), "k", nil); ok || time.Since(began) != 2*l3Get {
			t.Errorf("%v after %s", ok, time.Since(began))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, ok := l.look(ctx, "k", nil); ok {
			t.Error("waits for longer than its caller")
		}
		close(g.may)
	})
}
