package cache

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/pgtest"
	"millrace/internal/sqldb"
)

func TestMain(m *testing.M) {
	stop := func() {
		if s := startedRedis.Load(); s != nil {
			s.Stop()
		}
	}
	pgtest.Main(m, stop, goleak.IgnoreAnyFunction("github.com/valkey-io/valkey-go.(*call).DelayDo.func1"))
}

// newDatabase gives the URL of a database of the test's own.
func newDatabase(t *testing.T) string {
	t.Helper()
	s, name := pgtest.NewDatabase(t, "")
	return s.URL(name)
}

// place is a database that caches of one test share, as processes share it one after the other.
type place struct {
	source  sqldb.Source
	dialect Dialect
}

func (p *place) exec(t *testing.T, sql string) string {
	t.Helper()
	q, err := p.source.Compile(sqldb.Spec{Name: "test", Text: sql, Mode: sqldb.ReadWrite})
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := q.Run(t.Context(), nil, &sqldb.Execution{})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func openPlace(t *testing.T, name string, d Dialect, change func(*sqldb.Config)) *place {
	t.Helper()
	cfg := sqldb.DefaultConfig()
	change(&cfg)
	s, err := sqldb.New(name, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &place{s, d}
}

// places gives a new database of each kind.
func places(t *testing.T) map[string]*place {
	t.Helper()
	out := map[string]*place{}
	open := func(name string, d Dialect, change func(*sqldb.Config)) { out[name] = openPlace(t, name, d, change) }
	file := filepath.Join(t.TempDir(), "cache.db")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open("sqlite", SQLite, func(c *sqldb.Config) { c.SQLite = &sqldb.SQLiteConfig{Path: file} })
	open("postgres", PostgreSQL, func(c *sqldb.Config) { c.Postgres = &sqldb.PostgresConfig{Primary: conf.Secret(newDatabase(t))} })
	return out
}

// process is a cache with a third level, and what it counted.
type process struct {
	*Cache
	n1, n3 *counts
}

func start(t *testing.T, p *place, change ...func(*Config)) *process {
	t.Helper()
	return startOf(t, p, NewTags(), change...)
}

// startOf starts a cache in a process that has raised some versions already.
func startOf(t *testing.T, p *place, tags *Tags, change ...func(*Config)) *process {
	t.Helper()
	cfg := DefaultConfig()
	for _, f := range change {
		f(&cfg)
	}
	out := &process{n1: &counts{}, n3: &counts{}}
	c, err := New(cfg, Deps{Tags: tags, L1: out.n1, L3: out.n3, Database: &Database{p.dialect, p.source.Compile}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.l1.chance = func() float64 { return 0 }
	c.l3.wait = 10 * time.Second // tests run beside each other
	if err := c.l3.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.Cache = c
	return out
}

func level(t *testing.T, h mcp.Handler, c *mcp.Call, status mcp.CacheStatus, level uint8, text string) {
	t.Helper()
	r, err := h(t.Context(), c)
	if err != nil || r.Cache.Status != status || r.Cache.Level != level || string(r.Fields) != text {
		t.Errorf("%s at level %d %q, %v; want %s at %d %q", r.Cache.Status, r.Cache.Level, r.Fields, err, status, level, text)
	}
}

func onEach(t *testing.T, f func(t *testing.T, p *place)) {
	t.Parallel()
	for name, p := range places(t) {
		t.Run(name, func(t *testing.T) { f(t, p) })
	}
}

// readAndLeft gives the rows that a process has read into the level before it ended.
func readAndLeft(t *testing.T, p *place, ids ...int64) *table {
	t.Helper()
	db := &table{rows: map[int64]int64{}}
	a := start(t, p)
	for _, id := range ids {
		db.rows[id] = 10 * id
		level(t, a.Middleware(db.read), reading(id), mcp.CacheMiss, 0, strconv.FormatInt(10*id, 10))
	}
	a.Close()
	return db
}

func TestL3OutlivesTheProcess(t *testing.T) {
	onEach(t, func(t *testing.T, p *place) {
		db := &table{rows: map[int64]int64{1: 10, 2: 20}}
		hints := &mcp.Hints{TTL: time.Minute, Scope: mcp.ScopeTenant}
		read := func(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
			r, err := db.read(ctx, c)
			r.Meta, r.Hints = []byte(`"a":"\"\\é"`), hints
			return r, err
		}
		a := start(t, p)
		h := a.Middleware(read)
		level(t, h, reading(1), mcp.CacheMiss, 0, "10")
		level(t, h, reading(2), mcp.CacheMiss, 0, "20")
		level(t, h, reading(1), mcp.CacheHit, 1, "10")
		a.Close()
		if a.n3.of(Miss) != 2 || a.n3.of(Filled) != 2 || a.n3.of(Failed) != 0 {
			t.Errorf("%d misses, %d fills, %d failures", a.n3.of(Miss), a.n3.of(Filled), a.n3.of(Failed))
		}
		b := start(t, p)
		h = b.Middleware(read)
		level(t, h, reading(1), mcp.CacheHit, 3, "10")
		level(t, h, reading(1), mcp.CacheHit, 1, "10")
		r, err := h(t.Context(), reading(1))
		if err != nil || string(r.Meta) != `"a":"\"\\é"` || *r.Hints != *hints || r.Rows != mcp.RowsOne || db.runs.Load() != 2 {
			t.Errorf("%+v, %v after %d runs", r, err, db.runs.Load())
		}
		if b.n3.of(Hit) != 1 || b.n1.of(Miss) != 1 || b.n1.of(Hit) != 2 {
			t.Errorf("%d hits at level 3; %d misses and %d hits at level 1", b.n3.of(Hit), b.n1.of(Miss), b.n1.of(Hit))
		}
		// A changed tool shares nothing with the old one, nor does one caller with another.
		changed, private, other := reading(1), reading(1), reading(1)
		changed.Version[0]++
		private.Policy.Scope, other.Policy.Scope = mcp.ScopePrivate, mcp.ScopePrivate
		other.Caller.Principal = mcp.NewPrincipal("a", "b", nil)
		for _, c := range []*mcp.Call{changed, private, other} {
			level(t, h, c, mcp.CacheMiss, 0, "10")
		}
	})
}

// A write makes void what is in the database, in this process and in those that come after it.
func TestL3KeepsNothingThatAWriteMadeVoid(t *testing.T) {
	onEach(t, func(t *testing.T, p *place) {
		db := readAndLeft(t, p, 1, 2)
		a := start(t, p)
		h := a.Middleware(db.read)
		do(t, a.Cache, writing(1, false), db.write(1, 11))
		b := start(t, p)
		level(t, b.Middleware(db.read), reading(1), mcp.CacheMiss, 0, "11")
		level(t, b.Middleware(db.read), reading(2), mcp.CacheHit, 3, "20")
		level(t, h, reading(1), mcp.CacheMiss, 0, "11")
		do(t, a.Cache, writing(1, true), db.write(1, 12))
		a.Close()
		level(t, start(t, p).Middleware(db.read), reading(1), mcp.CacheHit, 3, "12") // the row that the write returned
		c := start(t, p)
		if err := c.Purge([]string{"row:1"}, nil); err != nil {
			t.Error(err)
		}
		level(t, start(t, p).Middleware(db.read), reading(1), mcp.CacheMiss, 0, "12")
		if err := c.PurgeAll(); err != nil {
			t.Error(err)
		}
		level(t, start(t, p).Middleware(db.read), reading(2), mcp.CacheMiss, 0, "20")
	})
}

// A process that dies in the middle of a write leaves nothing that was read before the write was done.
func TestL3AfterADeathInTheMiddleOfAWrite(t *testing.T) {
	onEach(t, func(t *testing.T, p *place) {
		db := readAndLeft(t, p, 1)
		a := start(t, p)
		h := a.Middleware(db.read)
		do(t, a.Cache, writing(1, false), func(ctx context.Context, call *mcp.Call) (mcp.Result, error) {
			level(t, h, reading(1), mcp.CacheMiss, 0, "10") // read before the row is changed, and not for longer than the process
			r, err := db.write(1, 11)(ctx, call)
			a.Close() // Here it dies, with all that it would keep written: what comes after it sees the database as it is now.
			level(t, start(t, p).Middleware(db.read), reading(1), mcp.CacheMiss, 0, "11")
			return r, err
		})
		if a.n3.of(Filled) != 0 {
			t.Error("what was read in the middle of a write was kept for longer than the process")
		}
	})
}

// What another process read before a write is void wherever it is found, though that process knows nothing of the write.
func TestL3OfTwoProcesses(t *testing.T) {
	onEach(t, func(t *testing.T, p *place) {
		db := &table{rows: map[int64]int64{1: 10}}
		a, b := start(t, p), start(t, p)
		do(t, a.Cache, writing(1, false), db.write(1, 11))
		// b has not heard of the write: what it fills carries the old version.
		old := entryOf(reading(1), mcp.Result{Fields: []byte("10"), Rows: mcp.RowsOne}, time.Now(), 0)
		old.stamps = b.tags.stamps(b.tagsOf(reading(1)))
		b.l3.writeBatch([]*Entry{old})
		level(t, start(t, p).Middleware(db.read), reading(1), mcp.CacheMiss, 0, "11")
		// Looking for it tells b.
		level(t, b.Middleware(db.read), reading(1), mcp.CacheMiss, 0, "11")
		level(t, b.Middleware(db.read), reading(1), mcp.CacheHit, 1, "11")
		b.Close()
		level(t, start(t, p).Middleware(db.read), reading(1), mcp.CacheHit, 3, "11")
	})
}

func TestLoad(t *testing.T) {
	onEach(t, func(t *testing.T, p *place) {
		db := &table{rows: map[int64]int64{}}
		for id := range int64(20) {
			db.rows[id] = 10 * id
		}
		a := start(t, p)
		h := a.Middleware(db.read)
		for id := range int64(20) {
			for range 1 + 2*id { // halved or not, no two are asked for as often
				if _, err := h(t.Context(), reading(id)); err != nil {
					t.Fatal(err)
				}
			}
		}
		a.Close()
		b := start(t, p, func(c *Config) {
			c.Warmup.InitialLoad = 5
			c.L1.TTL = c.L3.TTL // a clock that is set meanwhile makes both old, or neither
		})
		known := reading(0)
		b.Load(t.Context(), func(target string, version [16]byte, args []mcp.Value) *mcp.Call {
			if target != "t" || version != known.Version || len(args) != 1 || args[0].Int == 19 {
				return nil // the hottest has changed
			}
			return reading(args[0].Int)
		})
		if n, _ := b.Size(); n != 4 || b.n1.of(Warmed) != 4 {
			t.Errorf("%d entries, %d loaded", n, b.n1.of(Warmed))
		}
		h = b.Middleware(db.read)
		for id := int64(15); id < 19; id++ {
			level(t, h, reading(id), mcp.CacheHit, 1, strconv.FormatInt(10*id, 10))
		}
		level(t, h, reading(14), mcp.CacheHit, 3, "140")
		if t.Failed() {
			n, bytes := b.Size()
			t.Logf("%d entries of %d bytes: %d fills, %d evictions, %d discards, %d hits", n, bytes, b.n1.of(Filled), b.n1.of(Evicted), b.n1.of(Discarded), b.n1.of(Hit))
			for _, e := range b.l1.entries.All() {
				t.Logf("%s: born %v ago, fresh for %v, stamps %v, current %v", e.Result.Fields, time.Since(e.Born), e.life, e.stamps, b.tags.current(e.stamps))
			}
		}
	})
}

func TestL3Bounds(t *testing.T) {
	onEach(t, func(t *testing.T, p *place) {
		a := start(t, p, func(c *Config) { c.L3.MaxBytes = 5000 })
		h := a.Middleware(func(_ context.Context, c *mcp.Call) (mcp.Result, error) {
			return mcp.Result{Fields: []byte(strings.Repeat("x", 1000)), Rows: mcp.RowsOne}, nil
		})
		for id := range int64(10) {
			if _, err := h(t.Context(), reading(id)); err != nil {
				t.Fatal(err)
			}
		}
		gone, err := h(t.Context(), reading(11, func(p *mcp.Policy) { p.TTL = time.Millisecond }))
		if err != nil || gone.Cache.Status != mcp.CacheMiss {
			t.Error(gone.Cache, err)
		}
		a.Close()
		b := start(t, p, func(c *Config) { c.L3.MaxBytes = 5000 })
		b.l3.sweep(t.Context())
		b.l3.sweep(t.Context())
		if n, bytes := b.DatabaseSize()(); n < 2 || n > 4 || bytes > 5000 {
			t.Errorf("%d entries of %d bytes", n, bytes)
		}
	})
}

// What is not an entry, or one of another call, is not served.
func TestL3DoesNotTrustItsRows(t *testing.T) {
	onEach(t, func(t *testing.T, p *place) {
		db := readAndLeft(t, p, 1, 2)
		one, two := l3Key(reading(1).Key()), l3Key(reading(2).Key())
		p.exec(t, fmt.Sprintf("UPDATE millrace_cache SET entry = (SELECT entry FROM millrace_cache WHERE key = '%s') WHERE key = '%s'", two, one))
		level(t, start(t, p).Middleware(db.read), reading(1), mcp.CacheMiss, 0, "10")
		for _, text := range []string{"", "{}", "null", `{"k":"","t":"t","a":99,"f":"evil","s":[[1,1]]}`, `{"s":[[99999999,1]]}`, `{"s":[]}`} {
			p.exec(t, fmt.Sprintf("UPDATE millrace_cache SET entry = '%s'", text))
			b := start(t, p)
			level(t, b.Middleware(db.read), reading(2), mcp.CacheMiss, 0, "20")
			b.Close() // which writes it anew: not in the middle of the next round
		}
	})
}

// Without its database the level costs a moment and no call; when it is back, what was owed is paid before anything is read.
func TestL3WithoutItsDatabase(t *testing.T) {
	t.Parallel()
	p := places(t)["sqlite"]
	var down atomic.Bool
	compile := func(spec sqldb.Spec) (sqldb.Query, error) {
		q, err := p.source.Compile(spec)
		return &faulty{q, &down}, err
	}
	db := readAndLeft(t, p, 1)
	l1, l3 := &counts{}, &counts{}
	c, err := New(DefaultConfig(), Deps{Tags: NewTags(), L1: l1, L3: l3, Database: &Database{SQLite, compile}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.l3.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	do(t, c, writing(1, false), db.write(1, 11))
	level(t, c.Middleware(db.read), reading(1), mcp.CacheMiss, 0, "11")
	if c.l3.open.Load() || l3.of(Failed) == 0 {
		t.Error("what the database does not know must close it")
	}
	if err := c.PurgeAll(); err == nil {
		t.Error("that the database could not be told was not told")
	}
	// The next write tells it, as soon as it answers: who knows nothing but what the database says must not be left with what was before.
	down.Store(false)
	do(t, c, writing(1, false), db.write(1, 12))
	level(t, start(t, p).Middleware(db.read), reading(1), mcp.CacheMiss, 0, "12")
	if !c.l3.open.Load() {
		t.Error("it is closed still")
	}
	down.Store(true)
	do(t, c, writing(1, false), db.write(1, 13))
	down.Store(false)
	if err := c.l3.begin(t.Context()); err != nil || !c.l3.open.Load() {
		t.Error(err)
	}
	level(t, start(t, p).Middleware(db.read), reading(1), mcp.CacheMiss, 0, "13")
}

// Versions that were raised while there was no such level, or by a cache that is gone, are the database's too before it is read.
func TestL3LearnsWhatWasRaisedWithoutIt(t *testing.T) {
	onEach(t, func(t *testing.T, p *place) {
		db := readAndLeft(t, p, 1)
		// A process whose cache has no such level writes; then, by a reload, it has one.
		without, _ := newCache(t)
		do(t, without, writing(1, false), db.write(1, 11))
		with := startOf(t, p, without.tags)
		level(t, with.Middleware(db.read), reading(1), mcp.CacheMiss, 0, "11")
		with.Close()
		// The next process knows nothing but what the database says.
		level(t, start(t, p).Middleware(db.read), reading(1), mcp.CacheHit, 3, "11")
		// A write that goes through a cache that is closed is found at the next look around.
		with = startOf(t, p, without.tags)
		do(t, without, writing(1, false), db.write(1, 12))
		with.l3.sweep(t.Context())
		level(t, start(t, p).Middleware(db.read), reading(1), mcp.CacheMiss, 0, "12")
	})
}

// An entry that is stale here and fresh there takes its own place again.
func TestL3RenewsWhatIsStaleInL1(t *testing.T) {
	onEach(t, func(t *testing.T, p *place) {
		db := &table{rows: map[int64]int64{1: 10}}
		a := start(t, p)
		h := a.Middleware(db.read)
		read := func() *mcp.Call { return reading(1, func(p *mcp.Policy) { p.StaleError = time.Hour }) }
		level(t, h, read(), mcp.CacheMiss, 0, "10")
		e := a.Cache.l1.get(read().Key(), time.Now())
		a.l3.writeBatch([]*Entry{e})
		e.life = 1 // its time in this level is over
		level(t, h, read(), mcp.CacheHit, 3, "10")
		level(t, h, read(), mcp.CacheHit, 1, "10")
	})
}

// A database that hangs holds up a write for no longer than a statement may take.
func TestL3ThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var hanging atomic.Bool
		goOn := make(chan struct{})
		db := Database{SQLite, func(spec sqldb.Spec) (sqldb.Query, error) { return &hung{&hanging, goOn}, nil }}
		c, err := New(DefaultConfig(), Deps{Tags: NewTags(), L1: &counts{}, L3: &counts{}, Database: &db, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.l3.begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		hanging.Store(true)
		began := time.Now()
		rows := &table{}
		do(t, c, writing(1, false), rows.write(1, 11))
		if took := time.Since(began); took > 2*l3Time {
			t.Errorf("the write took %s", took)
		}
		if c.l3.open.Load() {
			t.Error("what the database was not told must close it")
		}
		hanging.Store(false)
		close(goOn)
		time.Sleep(2 * time.Second)
		if !c.l3.open.Load() {
			t.Error("it answers again, and is closed")
		}
		c.Close()
	})
}

// hung is a query that takes until it is let go on.
type hung struct {
	hanging *atomic.Bool
	goOn    chan struct{}
}

func (h *hung) Run(_ context.Context, dst []byte, _ *sqldb.Execution) ([]byte, sqldb.Outcome, error) {
	if h.hanging.Load() {
		<-h.goOn
	}
	return append(dst, `{"rows":[]}`...), sqldb.Outcome{}, nil
}

func (h *hung) Describe(context.Context) ([]sqldb.Column, error) { return nil, nil }

// faulty is a query whose database is away for a while.
type faulty struct {
	sqldb.Query
	down *atomic.Bool
}

func (f *faulty) Run(ctx context.Context, dst []byte, x *sqldb.Execution) ([]byte, sqldb.Outcome, error) {
	if f.down.Load() {
		return dst, sqldb.Outcome{}, &mcp.ToolError{Kind: "unavailable", Message: "away"}
	}
	return f.Query.Run(ctx, dst, x)
}

// What many ask for is fetched anew before it expires, if it is everybody's.
func TestTend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, n := newCache(t, func(cfg *Config) { cfg.Warmup.PriorityThreshold = 3 })
		db := &table{rows: map[int64]int64{1: 10, 2: 20, 3: 30}}
		h := c.Middleware(db.read)
		c.Tend(func(_ string, _ [16]byte, args []mcp.Value) *mcp.Call {
			call := reading(args[0].Int)
			call.Caller = mcp.Caller{}
			if args[0].Int == 3 {
				call.Policy.Scope = mcp.ScopePrivate
			}
			return call
		}, db.read)
		private := func() *mcp.Call {
			return reading(3, func(p *mcp.Policy) { p.Scope = mcp.ScopePrivate })
		}
		ask := func(call func() *mcp.Call, times int) {
			for range times {
				if _, err := h(t.Context(), call()); err != nil {
					t.Error(err)
				}
			}
		}
		ask(func() *mcp.Call { return reading(1) }, 4)
		ask(func() *mcp.Call { return reading(2) }, 3)
		ask(private, 9)
		time.Sleep(29 * time.Second)
		if n.of(Refreshed) != 0 {
			t.Errorf("%d fetched in the first round", n.of(Refreshed))
		}
		time.Sleep(2 * time.Second) // at 30 s: 30 of 60 s are left, which is no more than an interval
		if n.of(Refreshed) != 1 || db.runs.Load() != 4 {
			t.Errorf("%d fetched, %d runs", n.of(Refreshed), db.runs.Load())
		}
		time.Sleep(40 * time.Second) // at 71 s: the first was fetched at 30 s, the others have expired
		want(t, h, reading(1), mcp.CacheHit, "10")
		want(t, h, reading(2), mcp.CacheMiss, "20")
	})
}
