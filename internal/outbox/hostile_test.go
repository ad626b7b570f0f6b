package outbox

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/conf"
	"millrace/internal/sqldb"
)

func openPostgres(t *testing.T) (sqldb.Source, string) {
	t.Helper()
	url := newDatabase(t)
	return open(t, func(c *sqldb.Config) { c.Postgres = &sqldb.PostgresConfig{Primary: conf.Secret(url)} }), url
}

// session is a connection of somebody else.
func session(t *testing.T, url string) func(statement string) error {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return func(statement string) error {
		_, err := conn.Exec(t.Context(), statement).ReadAll()
		return err
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Transactions end in another order than they began, than they took their ids, and than somebody began to follow.
func TestEveryOrderOfTransactions(t *testing.T) {
	t.Parallel()
	s, url := openPostgres(t)
	install(t, s, items)
	first, second, early := session(t, url), session(t, url), session(t, url)
	must(t, early("BEGIN; INSERT INTO items VALUES (100, 'a', NULL)"))
	script(t, s, "INSERT INTO items VALUES (101, 'a', NULL)")
	h, stop := follow(t, s, items)
	h.await(t, 1)
	want := []string{}
	insert := func(id int64) string {
		want = append(want, "items - "+item(id, "null"))
		return fmt.Sprintf("INSERT INTO items VALUES (%d, 'a', NULL)", id)
	}
	// The lower number of a transaction with the higher id ends first.
	must(t, first("BEGIN; SELECT pg_current_xact_id()"))
	must(t, second("BEGIN; SELECT pg_current_xact_id()"))
	must(t, second("INSERT INTO items VALUES (1, 'a', NULL)"))
	must(t, first(insert(2)))
	must(t, first("COMMIT"))
	h.await(t, 1, want...)
	must(t, second("COMMIT"))
	want = append(want, "items - "+item(1, "null"))
	h.await(t, 1, want...)
	// One that had begun before anybody followed.
	must(t, early("COMMIT"))
	want = append(want, "items - "+item(100, "null"))
	h.await(t, 1, want...)
	// One that goes on while who follows is restarted, and has a savepoint rolled back.
	must(t, first("BEGIN; INSERT INTO items VALUES (3, 'a', NULL); SAVEPOINT s; INSERT INTO items VALUES (4, 'a', NULL); ROLLBACK TO s"))
	must(t, second(insert(5)))
	h.await(t, 1, want...)
	stop()
	h, _ = follow(t, s, items)
	must(t, first("COMMIT"))
	h.await(t, 0, "items - "+item(3, "null"))
}

// Many transactions at once, with what is read between them: each event is told once.
func TestEachEventIsToldOnce(t *testing.T) {
	onEach(t, func(t *testing.T, s sqldb.Source) {
		install(t, s, items)
		h, _ := follow(t, s, items)
		h.await(t, 1)
		const writers, each = 8, 40
		var next atomic.Int64
		done := make(chan error, writers)
		for range writers {
			go func() {
				for range each {
					id := next.Add(2)
					if err := s.Script(t.Context(), []string{fmt.Sprintf("INSERT INTO items VALUES (%d, 'a', NULL)", id), fmt.Sprintf("INSERT INTO items VALUES (%d, 'a', NULL)", id-1)}); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range writers {
			must(t, <-done)
		}
		h.until(t, "every event", func() bool { return len(h.texts) >= 2*writers*each })
		seen := map[string]bool{}
		for _, text := range h.texts {
			if seen[text] {
				t.Errorf("%s was told twice", text)
			}
			seen[text] = true
		}
	})
}

// A change of more rows than are read at once is told whole, and one of very many as that anything may have changed.
func TestManyChangesAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, s sqldb.Source) {
		install(t, s, items)
		const most = 4
		h, _ := follow(t, s, items, func(f *Follower) { f.most = most })
		h.await(t, 1)
		fill := func(from, to int) string {
			return fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO items SELECT i, 'a', NULL FROM n", from, to)
		}
		script(t, s, fill(1, 2*pageRows))
		var want []string
		for i := range int64(2 * pageRows) {
			want = append(want, "items - "+item(i+1, "null"))
		}
		h.await(t, 1, want...)
		script(t, s, fill(2*pageRows+1, (most+4)*pageRows))
		h.until(t, "that changes were missed", func() bool { return h.missed == 2 })
		h.mu.Lock()
		h.texts = nil
		h.mu.Unlock()
		script(t, s, "DELETE FROM items WHERE id = 1")
		h.await(t, 2, "items "+item(1, "null")+" -")
	})
}

// A value that is too large to be told, or that JSON has not, is a row of which nothing is known: the write goes on, and so
// do the events.
func TestValuesThatAreNotTold(t *testing.T) {
	onEach(t, func(t *testing.T, s sqldb.Source) {
		install(t, s, items)
		h, _ := follow(t, s, items)
		h.await(t, 1)
		script(t, s, fmt.Sprintf(`INSERT INTO items VALUES (1, 'a', '%s')`, strings.Repeat("x", 2_000_000)))
		script(t, s, `UPDATE items SET "odd ""name" = 'x' WHERE id = 1`)
		want := []string{"items - {}", "items {} " + item(1, `"x"`)}
		if s.Dialect() == sqldb.SQLite {
			script(t, s, `UPDATE items SET "odd ""name" = x'00ff' WHERE id = 1`)
			want = append(want, "items "+item(1, `"x"`)+" {}")
		}
		h.await(t, 1, want...)
	})
}

// What REPLACE takes away is told too.
func TestReplace(t *testing.T) {
	onEach(t, func(t *testing.T, s sqldb.Source) {
		if s.Dialect() != sqldb.SQLite {
			return // it has no REPLACE
		}
		script(t, s, "CREATE TABLE pairs (a text, b text COLLATE NOCASE, c text, PRIMARY KEY (a, b)) WITHOUT ROWID", "CREATE UNIQUE INDEX pairs_c ON pairs (c)", `CREATE UNIQUE INDEX items_odd ON items ("odd ""name")`)
		tables := append([]Table{{Name: "pairs", Columns: []string{"a", "c"}}}, items...)
		install(t, s, tables)
		h, _ := follow(t, s, tables)
		h.await(t, 1)
		script(t, s, "INSERT INTO items VALUES (1, 'a', 'x'), (2, 'a', 'y')")
		script(t, s, "REPLACE INTO items VALUES (1, 'b', 'y')")
		script(t, s, "INSERT INTO items VALUES (3, 'b', 'z')", `UPDATE OR REPLACE items SET "odd ""name" = 'z' WHERE id = 1`)
		script(t, s, "INSERT INTO pairs VALUES ('a', 'b', 'c')", "REPLACE INTO pairs VALUES ('a', 'B', 'd')", "UPDATE pairs SET c = 'e'")
		pair := func(c string) string { return `{"a":"a","c":"` + c + `"}` }
		h.await(t, 1, "items - "+item(1, `"x"`), "items - "+item(2, `"y"`),
			"items "+item(2, `"y"`)+" -", "items "+item(1, `"x"`)+" -", "items - "+item(1, `"y"`),
			"items - "+item(3, `"z"`), "items "+item(3, `"z"`)+" -", "items "+item(1, `"y"`)+" "+item(1, `"z"`),
			"pairs - "+pair("c"), "pairs "+pair("c")+" -", "pairs - "+pair("d"), "pairs "+pair("d")+" "+pair("e"))
	})
}

// A column that is not there is refused before a trigger makes every write fail.
func TestInstallRefusesAColumnThatIsNotThere(t *testing.T) {
	onEach(t, func(t *testing.T, s sqldb.Source) {
		if err := Install(t.Context(), s, []Table{{Name: "items", Columns: []string{"id", "nmae"}}}); err == nil || !strings.Contains(err.Error(), "nmae") {
			t.Errorf("got %v", err)
		}
		script(t, s, "INSERT INTO items VALUES (1, 'a', NULL)")
	})
}

// Who follows while the outbox is made anew goes on with the new one.
func TestInstallUnderWhoFollows(t *testing.T) {
	onEach(t, func(t *testing.T, s sqldb.Source) {
		install(t, s, items)
		h, _ := follow(t, s, items)
		h.await(t, 1)
		script(t, s, "INSERT INTO items VALUES (1, 'a', NULL)", "INSERT INTO items VALUES (2, 'a', NULL)")
		h.await(t, 1, "items - "+item(1, "null"), "items - "+item(2, "null"))
		install(t, s, items)
		script(t, s, "INSERT INTO items VALUES (3, 'a', NULL)")
		h.until(t, "that it is another outbox", func() bool { return h.missed > 1 })
	})
}

var guests atomic.Int64

// Triggers run as who installed them, and nobody else can have them do something else.
func TestTriggersMeanTheirOwnTables(t *testing.T) {
	t.Parallel()
	s, url := openPostgres(t)
	install(t, s, items)
	h, _ := follow(t, s, items)
	h.await(t, 1)
	role := fmt.Sprintf("guest%d", guests.Add(1))
	script(t, s, "CREATE ROLE "+role, "GRANT INSERT ON items TO "+role)
	guest := session(t, url)
	must(t, guest("SET ROLE "+role))
	must(t, guest("CREATE TEMP TABLE millrace_events (id bigint, name text, was jsonb, becomes jsonb)"))
	must(t, guest("INSERT INTO items VALUES (1, 'a', NULL)"))
	h.await(t, 1, "items - "+item(1, "null"))
	if err := guest("SELECT millrace_event_" + items[0].suffix() + "()"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("anybody may use the function: %v", err)
	}
	if err := guest("SELECT timeline_id FROM pg_control_checkpoint()"); err != nil {
		t.Errorf("a follower that is nobody special cannot see which database it is: %v", err)
	}
	must(t, guest("RESET ROLE"))
	must(t, guest("DROP OWNED BY "+role))
	must(t, guest("DROP ROLE "+role))
}

// Tables of parts are told of, and installed and removed more than once.
func TestPartitions(t *testing.T) {
	t.Parallel()
	s, _ := openPostgres(t)
	script(t, s, "CREATE TABLE parts (id bigint PRIMARY KEY) PARTITION BY RANGE (id)", "CREATE TABLE p1 PARTITION OF parts FOR VALUES FROM (0) TO (10)")
	tables := []Table{{Name: "parts", Columns: []string{"id"}}}
	install(t, s, tables)
	install(t, s, tables)
	h, _ := follow(t, s, tables)
	h.await(t, 1)
	script(t, s, "INSERT INTO parts VALUES (1)", "DELETE FROM p1")
	h.await(t, 1, `parts - {"id":1}`, `parts {"id":1} -`)
	for range 2 {
		must(t, Remove(t.Context(), s))
	}
	script(t, s, "INSERT INTO parts VALUES (1)")
}

// A lock that is held for long is not waited for: all who use the table would wait too.
func TestInstallDoesNotQueueForLong(t *testing.T) {
	t.Parallel()
	s, url := openPostgres(t)
	writer := session(t, url)
	must(t, writer("BEGIN; INSERT INTO items VALUES (1, 'a', NULL)"))
	if err := Install(t.Context(), s, items); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("got %v", err)
	}
}
