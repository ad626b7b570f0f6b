package cache

import (
	"fmt"
	"log/slog"
	"testing"

	"millrace/internal/mcp"
	"millrace/internal/polltest"
	"millrace/internal/redistest"
)

// parted gives two nodes whose ways to one Redis can be cut.
func parted(t *testing.T) (a, b *node, ways [2]*link) {
	t.Helper()
	s, err := redistest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	var nodes [2]*node
	for i := range ways {
		ways[i] = newLink(t, s.Addr())
		nodes[i] = (&deployment{addr: ways[i].listener.Addr().String(), prefix: "p"}).start(t)
	}
	return nodes[0], nodes[1], ways
}

// part makes the server unreachable by a way: connections are broken, and new ones bring nothing.
func (k *link) part() {
	k.hold()
	k.drop.Store(true)
	k.cut()
}

func (k *link) rejoin() {
	k.cut()
	k.drop.Store(false)
	k.release()
}

// What Redis could not be told is not forgotten with the cache that could not tell it.
func TestDebtsOutliveAReload(t *testing.T) {
	t.Parallel()
	a, b, ways := parted(t)
	db := &table{rows: map[int64]int64{1: 10}}
	b.keeps(t, db.read, 1)
	ways[0].part()
	polltest.Until(t, "end of the lease", func() bool { return !a.l2.open() })
	do(t, a.Cache, writing(1, false), db.write(1, 11))
	next, err := New(DefaultConfig(), Deps{Tags: a.tags, L1: a.n1, L2: a.n2, L3: a.n3, Redis: a.client, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.Close)
	a.Close()
	if next.l2.open() {
		t.Error("it reads where its debts are not paid")
	}
	ways[0].rejoin()
	polltest.Until(t, "way back", next.l2.open)
	want(t, next.Middleware(db.read), reading(1), mcp.CacheMiss, "11")
	polltest.Until(t, "hit of what is true", func() bool { // a busy machine may cost a lease again, and the first look with it
		r, err := b.Middleware(db.read)(t.Context(), reading(1))
		if err != nil || string(r.Fields) != "11" {
			t.Fatalf("%s %q, %v", r.Cache.Status, r.Fields, err)
		}
		return r.Cache.Status == mcp.CacheHit
	})
}

// After an outage of all nodes none reads what another could not say was void: who is back first waits for the others.
func TestDebtsArePaidBeforeOthersRead(t *testing.T) {
	t.Parallel()
	const rounds = 6
	least := rounds
	for range 3 { // the time that is left to the others is short, and the processor may be somewhere else
		if least = min(least, staleAfterOutages(t, rounds)); least <= rounds/3 {
			return
		}
	}
	t.Errorf("in %d of %d rounds a node read what another had changed", least, rounds)
}

// staleAfterOutages gives in how many rounds that was so.
func staleAfterOutages(t *testing.T, rounds int) (stale int) {
	a, b, ways := parted(t)
	db := &table{rows: map[int64]int64{}}
	for v := range int64(rounds) {
		do(t, a.Cache, writing(1, false), db.write(1, 2*v))
		b.keeps(t, db.read, 1)
		for _, k := range ways {
			k.part()
		}
		polltest.Until(t, "end of the leases", func() bool { return !a.l2.open() && !b.l2.open() })
		do(t, a.Cache, writing(1, false), db.write(1, 2*v+1))
		select {
		case <-ways[1].passed: // of before
		default:
		}
		ways[1].rejoin()
		<-ways[1].passed // it is earlier
		ways[0].rejoin()
		read := ""
		polltest.Until(t, "way back", func() bool {
			opened := b.l2.open()
			r, err := b.Middleware(db.read)(t.Context(), reading(1))
			if err != nil {
				t.Fatal(err)
			}
			read = string(r.Fields)
			return opened
		})
		if read != fmt.Sprint(2*v+1) {
			stale++
		}
		polltest.Until(t, "payment", a.l2.open)
	}
	return stale
}
