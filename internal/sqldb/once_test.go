package sqldb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/pgtest"
	"millrace/internal/polltest"
)

func once(key, arguments string) *Once {
	return &Once{Key: sha256.Sum256([]byte(key)), Arguments: sha256.Sum256([]byte(arguments)), TTL: time.Hour}
}

// onBoth runs a test on both engines, with two sources of one database, as two servers of Millrace have them.
func onBoth(t *testing.T, f func(t *testing.T, sources [2]Source, run func(sql string) string)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		path := newFile(t, "CREATE TABLE n (id INTEGER PRIMARY KEY, v TEXT CHECK (v <> 'bad'))")
		a := newTestSQLite(t, path, nil)
		f(t, [2]Source{a, newTestSQLite(t, path, nil)}, func(sql string) string {
			out, _, err := compile(t, a, Spec{Text: sql, Mode: ReadWrite, Own: true, MaxRows: 10}).Run(t.Context(), nil, &Execution{})
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		})
	})
	t.Run("postgres", func(t *testing.T) {
		// The role may do nothing with the table of keys.
		change := func(c *Config) { c.Settings = map[string]string{"role": "writer_of_n"} }
		a, name := postgres(t, `DO $$ BEGIN CREATE ROLE writer_of_n; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
			CREATE TABLE n (id bigint GENERATED ALWAYS AS IDENTITY, v text CHECK (v <> 'bad')); GRANT ALL ON n TO writer_of_n`, change)
		cfg := a.cfg
		cfg.Postgres = &PostgresConfig{Primary: conf.Secret(sharedURL(name))}
		b, err := New("pg", cfg, a.log)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		f(t, [2]Source{a, b}, func(sql string) string {
			out, _, err := compile(t, a, Spec{Text: sql, Mode: ReadWrite, Own: true, MaxRows: 10}).Run(t.Context(), nil, &Execution{})
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		})
	})
}

func TestOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, sources [2]Source, run func(sql string) string) {
		spec := Spec{Text: "INSERT INTO n (v) VALUES (:a) RETURNING id, v", Params: []Param{{Name: "a", Type: "string"}}, Mode: ReadWrite, Once: true, MaxRows: 10, MaxBytes: 1 << 20}
		var queries [2]Query
		for i, s := range sources {
			queries[i] = compile(t, s, spec)
		}
		insert := func(i int, v string, o *Once) (string, Outcome, error) {
			out, outcome, err := queries[i].Run(t.Context(), []byte("<"), &Execution{Args: []mcp.Value{text(v)}, Once: o})
			return string(out), outcome, err
		}
		isNotInstalled := func(err error) bool { return err != nil && strings.Contains(err.Error(), "run 'millrace install ") }
		if _, _, err := insert(0, "x", once("k", "x")); !isNotInstalled(err) {
			t.Errorf("without the table: %v", err)
		}
		if _, err := queries[0].Describe(t.Context()); !isNotInstalled(err) {
			t.Errorf("without the table it is described: %v", err)
		}
		for range 2 { // the second changes nothing
			if err := InstallOnce(t.Context(), sources[1]); err != nil {
				t.Fatal(err)
			}
		}
		// Many that are the same at the same time, on both servers.
		const keys, same = 25, 6
		answers, firsts := make([][same]string, keys), make([]atomic.Int64, keys)
		var wg sync.WaitGroup
		for k := range keys {
			for i := range same {
				wg.Go(func() {
					v := fmt.Sprint("v", k)
					out, outcome, err := insert(i%2, v, once(v, v))
					if err != nil || outcome.Rows != 1 {
						t.Errorf("%s, %+v, %v", out, outcome, err)
					}
					if answers[k][i] = out; !outcome.Repeated {
						firsts[k].Add(1)
					}
				})
			}
		}
		wg.Wait()
		for k := range keys {
			if firsts[k].Load() != 1 {
				t.Errorf("key %d: %d runs", k, firsts[k].Load())
			}
			for _, a := range answers[k] {
				if a != answers[k][0] || !strings.Contains(a, fmt.Sprintf(`"v":"v%d"`, k)) || a[0] != '<' {
					t.Errorf("key %d: %q", k, answers[k])
				}
			}
		}
		if got := run("SELECT count(*) AS n FROM n"); got != fmt.Sprintf(`{"rows":[{"n":%d}]}`, keys) {
			t.Errorf("%s rows", got)
		}
		var tool *mcp.ToolError
		if _, _, err := insert(0, "other", once("v1", "other")); !errors.As(err, &tool) || tool.Kind != kindConflict {
			t.Errorf("other arguments: %v", err)
		}
		// What failed, or was not confirmed, leaves no key.
		if _, _, err := insert(0, "bad", once("again", "x")); err == nil {
			t.Error("the bad one went in")
		}
		x := &Execution{Args: []mcp.Value{text("x")}, Once: once("again", "x"), Confirm: func(rows int64) bool { return rows != 1 }}
		if _, outcome, err := queries[1].Run(t.Context(), nil, x); err != nil || !outcome.RolledBack {
			t.Errorf("not confirmed: %+v, %v", outcome, err)
		}
		for i, want := range []bool{false, true, true} {
			if _, outcome, err := insert(i%2, "x", once("again", "x")); err != nil || outcome.Repeated != want {
				t.Errorf("run %d: %+v, %v", i, outcome, err)
			}
		}
		// One that is not confirmed any more is not asked for either: it has been done.
		x.Confirm = func(int64) bool { t.Error("asked again"); return false }
		if _, outcome, err := queries[1].Run(t.Context(), nil, x); err != nil || !outcome.Repeated {
			t.Errorf("%+v, %v", outcome, err)
		}
		// Without a key nothing is remembered, and a write is a write.
		for range 2 {
			if _, outcome, err := insert(0, "plain", nil); err != nil || outcome.Repeated {
				t.Errorf("%+v, %v", outcome, err)
			}
		}
		// What has expired is a new key, and is removed.
		if sources[0].Dialect() == SQLite {
			run("UPDATE millrace_idempotency SET expires = unixepoch() - 1")
		} else {
			run("UPDATE millrace_idempotency SET expires = now() - interval '1 second'")
		}
		if _, outcome, err := insert(1, "other", once("v1", "other")); err != nil || outcome.Repeated {
			t.Errorf("an expired key: %+v, %v", outcome, err)
		}
		switch s := sources[0].(type) {
		case *sqliteSource:
			s.swept.last.Store(0)
		case *postgresSource:
			s.swept.last.Store(0)
		}
		if _, outcome, err := insert(0, "last", once("last", "last")); err != nil || outcome.Repeated {
			t.Errorf("%+v, %v", outcome, err)
		}
		polltest.Until(t, "the keys that have expired are gone", func() bool {
			return run("SELECT count(*) AS n FROM millrace_idempotency") == `{"rows":[{"n":2}]}`
		})
		if err := RemoveOnce(t.Context(), sources[0]); err != nil {
			t.Error(err)
		}
		if _, _, err := insert(0, "x", once("gone", "x")); !isNotInstalled(err) {
			t.Errorf("without the table any more: %v", err)
		}
		if _, err := queries[0].Describe(t.Context()); !isNotInstalled(err) {
			t.Errorf("without the table any more it is described: %v", err)
		}
	})
}

// cutter passes bytes between a client and a server until it is armed: then it loses what the server answers to a commit, and the
// connection.
type cutter struct {
	net.Listener
	to    string
	armed atomic.Bool
	wg    sync.WaitGroup
}

func newCutter(t *testing.T, to string) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, to: to}
	c.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			c.pass(client, server)
		}
	})
	t.Cleanup(func() { l.Close(); c.wg.Wait() })
	return c
}

func (c *cutter) pass(client, server net.Conn) {
	var cut atomic.Bool
	both := func(from, to net.Conn, seen func([]byte) bool) {
		defer client.Close()
		defer server.Close()
		for b := make([]byte, 64<<10); ; {
			n, err := from.Read(b)
			if err != nil || !seen(b[:n]) {
				return
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
	commit := []byte(controlNames[controlCommit] + "\x00")
	c.wg.Go(func() {
		both(client, server, func(b []byte) bool {
			if bytes.Contains(b, commit) && c.armed.CompareAndSwap(true, false) {
				cut.Store(true)
			}
			return true
		})
	})
	c.wg.Go(func() { both(server, client, func([]byte) bool { return !cut.Load() }) })
}

// A write whose answer was lost behind its commit is told as unknown; the same key again tells what became of it.
func TestOnceTellsWhatIsUnknown(t *testing.T) {
	t.Parallel()
	direct, name := postgres(t, "CREATE TABLE n (id bigint GENERATED ALWAYS AS IDENTITY, v text)")
	if err := InstallOnce(t.Context(), direct); err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(sharedURL(name))
	if err != nil {
		t.Fatal(err)
	}
	c := newCutter(t, to.Host)
	to.Host = c.Addr().String()
	cfg := DefaultConfig()
	cfg.Postgres = &PostgresConfig{Primary: conf.Secret(to.String())}
	s, err := New("pg", cfg, direct.log)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	q := compile(t, s, Spec{Text: "INSERT INTO n (v) VALUES ('x') RETURNING id, v", Mode: ReadWrite, Once: true, MaxRows: 10})
	if _, _, err := q.Run(t.Context(), nil, &Execution{}); err != nil {
		t.Fatal(err)
	}
	c.armed.Store(true)
	_, _, err = q.Run(t.Context(), nil, &Execution{Once: once("k", "x")})
	if !errors.Is(err, mcp.ErrUnknownFate) || !strings.Contains(err.Error(), "repeat it with the same idempotency key") {
		t.Fatalf("the answer was lost, and yet: %v", err)
	}
	out, outcome, err := q.Run(t.Context(), nil, &Execution{Once: once("k", "x")})
	if err != nil || !outcome.Repeated || string(out) != `{"rows":[{"id":2,"v":"x"}]}` {
		t.Errorf("%s, %+v, %v", out, outcome, err)
	}
}

// Keys that expire are not swept away while they are claimed anew.
func TestSweepSparesWhatIsClaimedAnew(t *testing.T) {
	t.Parallel()
	s, name := postgres(t, "")
	if err := InstallOnce(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	server, _ := pgtest.Shared()
	if err := server.Exec(name, "INSERT INTO millrace_idempotency SELECT 'k' || i, '', '{}', now() - interval '1 hour' FROM generate_series(1, 2) AS i"); err != nil {
		t.Fatal(err)
	}
	c, err := pgconn.Connect(t.Context(), sharedURL(name))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	exec := func(sql string) string {
		results, err := c.Exec(t.Context(), sql).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if last := results[len(results)-1]; len(last.Rows) == 1 {
			return string(last.Rows[0][0])
		}
		return ""
	}
	exec("BEGIN")
	if r := c.ExecParams(t.Context(), onceStatements[PostgreSQL].claim, [][]byte{[]byte("k1"), []byte("a"), []byte("60")}, nil, nil, nil).Read(); r.Err != nil {
		t.Fatal(r.Err)
	}
	swept := make(chan error, 1)
	go func() {
		_, _, err := compile(t, s, Spec{Text: onceStatements[PostgreSQL].sweep, Mode: ReadWrite, Own: true}).Run(context.Background(), nil, &Execution{})
		swept <- err
	}()
	polltest.Until(t, "the sweep has ended, or waits", func() bool {
		return len(swept) == 1 || exec("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == "1"
	})
	exec("COMMIT")
	if err := <-swept; err != nil {
		t.Error(err)
	}
	if left := exec("SELECT string_agg(key, ',') FROM millrace_idempotency"); left != "k1" {
		t.Errorf("%q are left", left)
	}
}

// What a statement leaves for its commit runs as who ran the statement, with a key as without.
func TestOnceKeepsTheRoleForDeferredTriggers(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, `DO $$ BEGIN CREATE ROLE deferred_role; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
		CREATE TABLE n (v int); CREATE TABLE who (name text); GRANT ALL ON n, who TO deferred_role;
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v < 0 THEN RAISE EXCEPTION 'less than nothing'; END IF; INSERT INTO who VALUES (current_user); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER t AFTER INSERT ON n DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()`,
		oneConnection, func(c *Config) { c.Settings = map[string]string{"role": "deferred_role"} })
	if err := InstallOnce(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	q := compile(t, s, Spec{Text: "INSERT INTO n VALUES (:v)", Params: []Param{{Name: "v", Type: "integer"}}, Mode: ReadWrite, Once: true})
	for _, o := range []*Once{nil, once("k", "1")} {
		if _, _, err := q.Run(t.Context(), nil, &Execution{Args: ints(1), Once: o}); err != nil {
			t.Error(err)
		}
	}
	first := s.pool.all[0]
	if _, _, err := q.Run(t.Context(), nil, &Execution{Args: ints(-1), Once: once("less", "-1")}); err == nil || !strings.Contains(err.Error(), "less than nothing") {
		t.Errorf("a constraint that the commit would have found: %v", err)
	}
	if got, _, err := pgRun(t, s, ReadOnly, "SELECT string_agg(name, ' ') AS v FROM who"); err != nil || got != `{"rows":[{"v":"deferred_role deferred_role"}]}` {
		t.Errorf("%s, %v", got, err)
	}
	if s.pool.all[0] != first {
		t.Error("the connection was given up")
	}
}

// Calls that wait for one of the same key take no place of another write.
func TestOnceWaitsWithoutAPlace(t *testing.T) {
	t.Parallel()
	s, name := postgres(t, "CREATE TABLE n (v int)", func(c *Config) { c.Writes, c.QueryTimeout = 2, conf.Duration(time.Minute) })
	if err := InstallOnce(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	c, err := pgconn.Connect(t.Context(), sharedURL(name))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	lock := func(sql string) {
		if _, err := c.Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	lock("SELECT pg_advisory_lock(7)")
	slow := compile(t, s, Spec{Text: "INSERT INTO n SELECT 1 FROM pg_advisory_xact_lock(7)", Mode: ReadWrite, Once: true})
	var wg sync.WaitGroup
	var repeated atomic.Int64
	for range 5 {
		wg.Go(func() {
			_, outcome, err := slow.Run(context.Background(), nil, &Execution{Once: once("k", "")})
			if err != nil {
				t.Error(err)
			}
			if outcome.Repeated {
				repeated.Add(1)
			}
		})
	}
	polltest.Until(t, "all wait", func() bool {
		s.turns.mu.Lock()
		defer s.turns.mu.Unlock()
		own := s.turns.by[once("k", "").Key]
		return own != nil && own.want == 5
	})
	if _, _, err := pgRun(t, s, ReadWrite, "INSERT INTO n VALUES (2)"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := slow.Run(ctx, nil, &Execution{Once: once("k", "")}); !errors.Is(err, context.Canceled) {
		t.Errorf("who has left: %v", err)
	}
	lock("SELECT pg_advisory_unlock(7)")
	wg.Wait()
	if repeated.Load() != 4 || len(s.turns.by) != 0 {
		t.Errorf("%d repeated, %d turns left", repeated.Load(), len(s.turns.by))
	}
}
