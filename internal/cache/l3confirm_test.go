package cache

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"millrace/internal/sqldb"
)

// gate is a query that waits until it may run, and counts its runs.
type gate struct {
	sqldb.Query
	runs    int // of those that have begun, one after the other
	may     chan struct{}
	answers string
}

func (g *gate) Run(context.Context, []byte, *sqldb.Execution) ([]byte, sqldb.Outcome, error) {
	g.runs++
	<-g.may
	return []byte(g.answers), sqldb.Outcome{}, nil
}

// Calls that wait for the same database share its answer, but never one to a question that was asked before they came.
func TestConfirmSharesRounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{may: make(chan struct{}), answers: `{"rows":[{"entry":null,"versions":"7:5"}]}`}
		l := &L3{tags: NewTags(), count: &counts{}, get: g, wait: l3Get, known: make([]uint64, stripes), worth: newBreaker(nil)}
		l.open.Store(true)
		ask := func() bool { return l.confirm(t.Context(), []stamp{{stripe: 7}, {stripe: sharedTag}}) }
		var wg sync.WaitGroup
		wg.Go(func() {
			if !ask() {
				t.Error("not confirmed")
			}
		})
		synctest.Wait() // its query has begun
		for range 100 {
			wg.Go(func() {
				if !ask() {
					t.Error("not confirmed")
				}
			})
		}
		synctest.Wait()
		if g.runs != 1 {
			t.Errorf("%d queries while the first runs", g.runs)
		}
		g.may <- struct{}{}
		g.may <- struct{}{}
		wg.Wait()
		if g.runs != 2 {
			t.Errorf("%d queries, want one for the first and one for all that came later", g.runs)
		}
		if v := l.tags.stamp(7).version; v != 5 {
			t.Errorf("version %d, want what the database gave", v)
		}
		l.open.Store(false)
		if ask() {
			t.Error("confirmed by a level that is closed")
		}
	})
}
