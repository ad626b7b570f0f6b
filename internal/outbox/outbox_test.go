package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/conf"
	"millrace/internal/pgtest"
	"millrace/internal/sqldb"
)

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

// onEach runs f on a new database of each kind, with a table of items in it.
func onEach(t *testing.T, f func(t *testing.T, source sqldb.Source)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "a.db")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		f(t, open(t, func(c *sqldb.Config) { c.SQLite = &sqldb.SQLiteConfig{Path: file} }))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		f(t, open(t, func(c *sqldb.Config) { c.Postgres = &sqldb.PostgresConfig{Primary: conf.Secret(newDatabase(t))} }))
	})
}

func newDatabase(t *testing.T) string {
	t.Helper()
	s, name := pgtest.NewDatabase(t, "")
	return s.URL(name)
}

func open(t *testing.T, change func(*sqldb.Config)) sqldb.Source {
	t.Helper()
	cfg := sqldb.DefaultConfig()
	change(&cfg)
	s, err := sqldb.New("shop", cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	script(t, s, `CREATE TABLE items (id bigint PRIMARY KEY, name text, "odd ""name" text)`)
	return s
}

func script(t *testing.T, s sqldb.Source, statements ...string) {
	t.Helper()
	if err := s.Script(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
}

var items = []Table{{Name: "items", Columns: []string{"id", `odd "name`}}}

// heard is what a follower has told.
type heard struct {
	mu     sync.Mutex // guards what follows
	texts  []string
	missed int
	news   chan struct{}
}

func newHeard() *heard { return &heard{news: make(chan struct{}, 1)} }

func (h *heard) tell() {
	select {
	case h.news <- struct{}{}:
	default:
	}
}

func compact(raw json.RawMessage) string {
	if raw == nil {
		return "-"
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err.Error()
	}
	out, _ := json.Marshal(v)
	return string(out)
}

func (h *heard) Changed(changes []Change) {
	h.mu.Lock()
	for _, c := range changes {
		h.texts = append(h.texts, c.Table+" "+compact(c.Was)+" "+compact(c.Becomes))
	}
	h.mu.Unlock()
	h.tell()
}

func (h *heard) Missed() {
	h.mu.Lock()
	h.missed++
	h.mu.Unlock()
	h.tell()
}

func (h *heard) Settled() bool { return true }

// until waits until what has been heard is as is says, which holds the lock.
func (h *heard) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	over := time.After(30 * time.Second)
	for {
		h.mu.Lock()
		ok := is()
		got := fmt.Sprintf("%d missed:\n%s", h.missed, strings.Join(h.texts[:min(len(h.texts), 50)], "\n"))
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-h.news:
		case <-over:
			t.Fatalf("heard %s\nwant %s", got, what)
		}
	}
}

// await waits until exactly that has been heard.
func (h *heard) await(t *testing.T, missed int, want ...string) {
	t.Helper()
	h.until(t, fmt.Sprintf("%d missed:\n%s", missed, strings.Join(want[:min(len(want), 50)], "\n")), func() bool {
		return h.missed == missed && slices.Equal(h.texts, want)
	})
}

// follow follows a source until the end of the test, or stop.
func follow(t *testing.T, s sqldb.Source, tables []Table, change ...func(*Follower)) (*heard, func()) {
	t.Helper()
	h := newHeard()
	f := &Follower{Source: s, Name: "test", Tables: tables, Listener: h, Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(f)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends with ctx
		defer close(done)
		f.Follow(ctx)
	}()
	stop := func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return h, stop
}

func install(t *testing.T, s sqldb.Source, tables []Table) {
	t.Helper()
	if err := Install(t.Context(), s, tables); err != nil {
		t.Fatal(err)
	}
}

func item(id int64, odd string) string { return fmt.Sprintf(`{"id":%d,"odd \"name":%s}`, id, odd) }

func TestEveryChangeIsTold(t *testing.T) {
	onEach(t, func(t *testing.T, s sqldb.Source) {
		install(t, s, items)
		h, _ := follow(t, s, items)
		h.await(t, 1) // whatever was before is not known
		script(t, s, "INSERT INTO items VALUES (1, 'a', 'x')", "INSERT INTO items VALUES (9007199254740993, 'b', NULL)")
		script(t, s, `UPDATE items SET "odd ""name" = 'it''s' WHERE id = 1`)
		script(t, s, "DELETE FROM items WHERE id = 1")
		want := []string{"items - " + item(1, `"x"`), "items - " + item(9007199254740993, "null"), "items " + item(1, `"x"`) + " " + item(1, `"it's"`), "items " + item(1, `"it's"`) + " -"}
		for i := range want {
			want[i] = strings.ReplaceAll(want[i], "9007199254740993", "9007199254740992") // compact reads it as a float
		}
		h.await(t, 1, want...)
		if s.Dialect() == sqldb.PostgreSQL {
			script(t, s, "TRUNCATE items")
			h.await(t, 1, append(want, "items - -")...)
		}
		// What is rolled back is not told.
		if err := s.Script(t.Context(), []string{"INSERT INTO items VALUES (3, 'c', NULL)", "INSERT INTO nothing VALUES (1)"}); err == nil {
			t.Error("no error")
		}
	})
}

// What was committed while nobody followed is told to who comes back.
func TestWhatWasMissedIsToldLater(t *testing.T) {
	onEach(t, func(t *testing.T, s sqldb.Source) {
		install(t, s, items)
		h, stop := follow(t, s, items)
		h.await(t, 1)
		script(t, s, "INSERT INTO items VALUES (1, 'a', NULL)")
		h.await(t, 1, "items - "+item(1, "null"))
		stop()
		script(t, s, "INSERT INTO items VALUES (2, 'a', NULL)")
		h, stop = follow(t, s, items)
		h.await(t, 0, "items - "+item(2, "null"))
		stop()
		// Another database in its place knows nothing of it.
		if err := Remove(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		install(t, s, items)
		h, _ = follow(t, s, items)
		h.await(t, 1)
	})
}

// Triggers that are not those of the configuration are not believed, and a missing outbox is said with what to do.
func TestInstallIsAskedFor(t *testing.T) {
	onEach(t, func(t *testing.T, s sqldb.Source) {
		f := &Follower{Source: s, Name: "test", Tables: items, Listener: newHeard(), Log: slog.New(slog.DiscardHandler)}
		if err := f.compile(); err != nil {
			t.Fatal(err)
		}
		asks := func(what string) {
			t.Helper()
			if err := f.begin(t.Context()); err == nil || !strings.Contains(err.Error(), "millrace events install") {
				t.Errorf("%s: %v", what, err)
			}
		}
		asks("nothing is installed")
		install(t, s, []Table{{Name: "items", Columns: []string{"id"}}})
		asks("a column is not told")
		install(t, s, items)
		if err := f.begin(t.Context()); err != nil {
			t.Error(err)
		}
		if err := Install(t.Context(), s, []Table{{Name: "nothing", Columns: []string{"id"}}}); err == nil || !strings.Contains(err.Error(), "nothing") {
			t.Errorf("a table that is not there: %v", err)
		}
		if err := f.begin(t.Context()); err != nil {
			t.Errorf("what failed has taken away what was there: %v", err)
		}
		for range 2 {
			if err := Remove(t.Context(), s); err != nil {
				t.Error(err)
			}
		}
		script(t, s, "INSERT INTO items VALUES (1, 'a', NULL)") // no trigger fails for want of its table
	})
}

// Old events are removed, and who was away for longer knows that it missed some.
func TestOldEventsAreRemoved(t *testing.T) {
	onEach(t, func(t *testing.T, s sqldb.Source) {
		install(t, s, items)
		h, stop := follow(t, s, items)
		h.await(t, 1)
		stop()
		script(t, s, "INSERT INTO items VALUES (1, 'a', NULL)", "INSERT INTO items VALUES (2, 'a', NULL)", "UPDATE millrace_events SET at = 0 WHERE id = 1")
		other := &Follower{Source: s, Name: "other", Tables: items, Listener: newHeard(), Log: slog.New(slog.DiscardHandler)}
		if err := other.compile(); err != nil {
			t.Fatal(err)
		}
		if err := other.begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		events := func() int {
			got, err := rows[struct{ ID json.Number }](t.Context(), s, "SELECT id FROM millrace_events")
			if err != nil {
				t.Fatal(err)
			}
			return len(got)
		}
		other.forget(t.Context())
		if n := events(); n != 2 {
			t.Errorf("%d events: those that were just read are removed", n)
		}
		other.forget(t.Context())
		if n := events(); n != 1 || other.refused {
			t.Errorf("%d events are left, want that which is not old", n)
		}
		script(t, s, fmt.Sprintf("UPDATE millrace_events_seen SET at = %d WHERE name = 'test'", time.Now().Add(-mostAway).Unix()-1))
		h, _ = follow(t, s, items)
		h.await(t, 1)
	})
}
