package sqldb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

func text(s string) mcp.Value { return mcp.Value{Kind: mcp.KindText, Text: []byte(s)} }
func integer(n int64) mcp.Value {
	return mcp.Value{Kind: mcp.KindInt, Int: n}
}

func toolError(t *testing.T, err error, kind string, parts ...string) {
	t.Helper()
	var te *mcp.ToolError
	if !errors.As(err, &te) || te.Kind != kind {
		t.Fatalf("error is %v (%T), want a tool error of kind %s", err, err, kind)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestSQLiteDeclaredTypes(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE v (b BOOLEAN, d DATE, dt DATETIME, j JSON, m DECIMAL(10,2), t TEXT, x)`), nil)
	for _, c := range []struct{ column, stored, want string }{
		{"b", `1`, `true`}, {"b", `0`, `false`}, {"b", `'true'`, `true`}, {"b", `'F'`, `false`}, {"b", `'maybe'`, `"maybe"`}, {"b", `NULL`, `null`},
		{"d", `'2024-02-29'`, `"2024-02-29"`}, {"d", `19782`, `19782`},
		{"dt", `'2024-02-29 12:30:00'`, `"2024-02-29T12:30:00"`}, {"dt", `'2024-02-29T12:30:00.5'`, `"2024-02-29T12:30:00.5"`},
		{"dt", `'2024-02-29 12:30:00+02:00'`, `"2024-02-29T10:30:00Z"`}, {"dt", `'2024-02-29T12:30:00Z'`, `"2024-02-29T12:30:00Z"`},
		{"dt", `'yesterday'`, `"yesterday"`}, {"dt", `1709210000`, `1709210000`},
		{"j", `'{"a": [1, 2,' || char(10) || '"x"]}'`, `{"a":[1,2,"x"]}`}, {"j", `'{"a":'`, `"{\"a\":"`}, {"j", `'[9007199254740993]'`, `[9007199254740993]`},
		{"j", `17`, `17`}, {"j", `'"s"'`, `"s"`},
		{"m", `'1.50'`, `"1.5"`}, {"m", `5`, `"5"`}, {"m", `9007199254740993`, `"9007199254740993"`}, {"m", `'n/a'`, `"n/a"`}, {"m", `1e300 * 1e300`, `null`},
		{"t", `'a"b\c' || char(10, 1, 228, 8364, 128512)`, `"a\"b\\c\n\u0001ä€😀"`}, {"t", `CAST(x'6180ff62' AS TEXT)`, `"a��b"`}, {"t", `''`, `""`},
		{"x", `9007199254740992`, `9007199254740992`}, {"x", `9007199254740993`, `"9007199254740993"`}, {"x", `-9007199254740993`, `"-9007199254740993"`},
		{"x", `-9223372036854775807 - 1`, `"-9223372036854775808"`}, {"x", `1.5`, `1.5`}, {"x", `1e-7`, `1e-7`}, {"x", `1e22`, `1e+22`}, {"x", `0.1`, `0.1`}, {"x", `-0.0`, `0`},
		{"x", `1e999`, `null`}, {"x", `-1e999`, `null`}, {"x", `x'00ff10'`, `"AP8Q"`}, {"x", `x''`, `""`}, {"x", `NULL`, `null`},
	} {
		if _, err := run(t, s, ReadWrite, "DELETE FROM v"); err != nil {
			t.Fatal(err)
		}
		if _, err := run(t, s, ReadWrite, fmt.Sprintf("INSERT INTO v (%s) VALUES (%s)", c.column, c.stored)); err != nil {
			t.Fatal(err)
		}
		// Through an alias: the declared type follows the column, not its name.
		got, err := run(t, s, ReadOnly, "SELECT "+c.column+" AS renamed FROM v")
		if want := `{"rows":[{"renamed":` + c.want + `}]}`; got != want || err != nil {
			t.Errorf("%s %s: %s, %v; want %s", c.column, c.stored, got, err, want)
		}
	}
}

func TestSQLiteArguments(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE t(x)`), nil)
	for _, c := range []struct {
		arg  mcp.Value
		want string
	}{
		{integer(math.MinInt64), `{"v":"-9223372036854775808","t":"integer"}`},
		{mcp.Value{Kind: mcp.KindBool, Int: 1}, `{"v":1,"t":"integer"}`},
		{mcp.Value{Kind: mcp.KindFloat, Float: 1.5}, `{"v":1.5,"t":"real"}`},
		{text("'; DROP TABLE t; --"), `{"v":"'; DROP TABLE t; --","t":"text"}`},
		{text(""), `{"v":"","t":"text"}`},
		{text(strings.Repeat("x", 100_000)), `{"v":"` + strings.Repeat("x", 100_000) + `","t":"text"}`},
		{mcp.Value{Kind: mcp.KindJSON, Text: []byte(`[1,"a"]`)}, `{"v":"[1,\"a\"]","t":"text"}`},
		{mcp.Value{}, `{"v":null,"t":"null"}`},
	} {
		got, err := run(t, s, ReadOnly, "SELECT :a AS v, typeof(:a) AS t", c.arg)
		if want := `{"rows":[` + c.want + `]}`; got != want || err != nil {
			t.Errorf("%+v: %.200s, %v", c.arg, got, err)
		}
	}
	got, err := run(t, s, ReadOnly, "SELECT value FROM json_each(:a) WHERE value > :b", mcp.Value{Kind: mcp.KindJSON, Text: []byte(`[1,2,3]`)}, integer(1))
	if got != `{"rows":[{"value":2},{"value":3}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestSQLiteWrites(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE n (id INTEGER PRIMARY KEY, note TEXT UNIQUE)`), nil)
	for _, c := range []struct{ statement, want string }{
		{"INSERT INTO n (note) VALUES ('a'), ('b')", `{"rows_affected":2}`},
		{"UPDATE n SET note = note || '!' RETURNING id, note", `{"rows":[{"id":1,"note":"a!"},{"id":2,"note":"b!"}]}`},
		{"UPDATE n SET note = 'z' WHERE id = 99 RETURNING id", `{"rows":[]}`},
		{"WITH x AS (SELECT 1 AS i) DELETE FROM n WHERE id IN (SELECT i FROM x)", `{"rows_affected":1}`},
		{"SELECT count(*) AS n FROM n", `{"rows":[{"n":1}]}`},
		{"CREATE TABLE other (x)", `{"rows_affected":0}`},
	} {
		if got, err := run(t, s, ReadWrite, c.statement); got != c.want || err != nil {
			t.Errorf("%s: %s, %v", c.statement, got, err)
		}
	}
	_, err := run(t, s, ReadWrite, "INSERT INTO n (note) VALUES ('c'), ('b!')")
	toolError(t, err, kindSQL, "UNIQUE constraint failed: n.note")
	if got, _ := run(t, s, ReadOnly, "SELECT count(*) AS n FROM n"); got != `{"rows":[{"n":1}]}` {
		t.Errorf("half of a refused statement stayed: %s", got)
	}
}

func TestSQLiteConfirm(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE n (i); INSERT INTO n VALUES (1), (2), (3)`), nil)
	q := compile(t, s, Spec{Text: "DELETE FROM n WHERE i > 1", Mode: ReadWrite})
	for _, agree := range []bool{false, true} {
		var asked int64
		_, o, err := q.Run(t.Context(), nil, &Execution{Confirm: func(n int64) bool { asked = n; return agree }})
		if err != nil || asked != 2 || o.RolledBack == agree || o.Affected != 2 {
			t.Errorf("agree %v: asked %d, %+v, %v", agree, asked, o, err)
		}
		want := map[bool]string{false: `{"rows":[{"n":3}]}`, true: `{"rows":[{"n":1}]}`}[agree]
		if got, _ := run(t, s, ReadOnly, "SELECT count(*) AS n FROM n"); got != want {
			t.Errorf("agree %v: %s", agree, got)
		}
	}
}

// Each guard of a reader holds alone, and without both the write goes through: the test sees what it claims to see.
func TestSQLiteReadersCannotWrite(t *testing.T) {
	guards := map[string]func(conn *sqlite.Conn) error{
		"both":           func(*sqlite.Conn) error { return nil },
		"no authorizer":  func(c *sqlite.Conn) error { return c.SetAuthorizer(nil) },
		"no query_only":  func(c *sqlite.Conn) error { return unguard(c, true) },
		"neither of two": func(c *sqlite.Conn) error { return unguard(c, false) },
	}
	for name, change := range guards {
		t.Run(name, func(t *testing.T) {
			s := newTestSQLite(t, newFile(t, `CREATE TABLE n (i); INSERT INTO n VALUES (1)`), nil)
			s.opened = func(conn *sqlite.Conn, mode Mode) error {
				if mode == ReadOnly {
					return change(conn)
				}
				return nil
			}
			// A statement that no parser stopped.
			for i, write := range []string{"INSERT INTO n VALUES (2)", "CREATE TABLE x (y)", "DELETE FROM n"} {
				q := &sqliteQuery{source: s, spec: Spec{Name: "evil"}, statement: statement{sql: write, verb: "SELECT"}, number: 10 + i, span: time.Second}
				_, _, err := q.Run(t.Context(), nil, &Execution{})
				if wrote := err == nil; wrote != (name == "neither of two") {
					t.Errorf("%s: error %v", write, err)
				}
			}
			if name == "neither of two" {
				return
			}
			if got, err := run(t, s, ReadOnly, "SELECT i FROM n"); got != `{"rows":[{"i":1}]}` || err != nil {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

// unguard turns off query_only, and the authorizer for good or until then.
func unguard(c *sqlite.Conn, restore bool) error {
	if err := c.SetAuthorizer(nil); err != nil {
		return err
	}
	if err := sqlitex.ExecuteTransient(c, "PRAGMA query_only=0", nil); err != nil {
		return err
	}
	if !restore {
		return nil
	}
	own := &sqliteConn{conn: c, mode: ReadOnly}
	return c.SetAuthorizer(sqlite.AuthorizeFunc(own.authorize))
}

func TestSQLiteRefusals(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE n (i)`), nil)
	for i, sql := range []string{
		"ATTACH 'other.db' AS o", "DETACH main", "PRAGMA query_only = 0", "PRAGMA journal_mode = delete", "BEGIN", "COMMIT", "SAVEPOINT s", "VACUUM INTO 'x.db'",
		"SELECT load_extension('x')",
	} {
		for _, writes := range []bool{false, true} {
			q := &sqliteQuery{source: s, spec: Spec{Name: "evil"}, statement: statement{sql: sql, verb: "SELECT", writes: writes}, number: 10 + i, span: time.Second}
			if _, _, err := q.Run(t.Context(), nil, &Execution{}); err == nil {
				t.Errorf("%s (writes %v) went through", sql, writes)
			}
		}
	}
	if got, err := run(t, s, ReadOnly, "SELECT name FROM pragma_table_info('n')"); got != `{"rows":[{"name":"i"}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestSQLiteBounds(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE t(x)`), nil)
	const numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 1000000) "
	for _, c := range []struct {
		name, text, want string
		rows, bytes      int
		truncated        bool
	}{
		{"rows", numbers + "SELECT i FROM n", `{"rows":[{"i":1},{"i":2}],"truncated":true}`, 2, 0, true},
		{"just as many rows", "SELECT 1 AS i UNION ALL SELECT 2", `{"rows":[{"i":1},{"i":2}]}`, 2, 0, false},
		{"bytes", numbers + "SELECT i FROM n", `{"rows":[{"i":1},{"i":2}],"truncated":true}`, 0, 26, true},
		{"one value", "SELECT 'abcdefghijkl' AS x", `{"rows":[],"truncated":true}`, 0, 20, true},
		{"100 MB in rows", numbers + "SELECT hex(zeroblob(50)) AS x FROM n", "", 0, 1 << 20, true},
		{"60 MB in a value", "SELECT zeroblob(60000000) AS x", `{"rows":[],"truncated":true}`, 0, 1 << 20, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := compile(t, s, Spec{Text: c.text, MaxRows: c.rows, MaxBytes: c.bytes})
			out, o, err := q.Run(t.Context(), []byte("kept:"), &Execution{})
			got, ok := strings.CutPrefix(string(out), "kept:")
			if err != nil || !ok || o.Truncated != c.truncated || c.want != "" && got != c.want || c.bytes > 0 && len(got) > c.bytes+32 {
				t.Errorf("%.200s (%d bytes), %+v, %v", out, len(out), o, err)
			}
		})
	}
	_, err := run(t, s, ReadOnly, "SELECT zeroblob(100000000) AS x")
	toolError(t, err, kindSQL, "larger than 64 MiB")
}

func TestSQLiteProgress(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE t(x)`), nil)
	var told []int64
	q := compile(t, s, Spec{Text: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 2500) SELECT i FROM n"})
	if _, _, err := q.Run(t.Context(), nil, &Execution{Progress: func(n int64) { told = append(told, n) }}); err != nil || fmt.Sprint(told) != "[1000 2000]" {
		t.Errorf("%v, %v", told, err)
	}
}

// A panic in the middle of the rows costs the reader its connection: the statement would hold its snapshot for good.
func TestSQLiteReaderPanics(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE t(x)`), nil)
	q := compile(t, s, Spec{Text: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 2500) SELECT i FROM n"})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		_, _, _ = q.Run(t.Context(), nil, &Execution{Progress: func(int64) { panic("a fault of ours") }})
	}()
	if st := s.Stats()[0]; st.Open != 0 {
		t.Errorf("%+v", st)
	}
	if got, err := run(t, s, ReadOnly, "SELECT count(*) AS n FROM t"); got != `{"rows":[{"n":0}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

const endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) AS c FROM n"

func TestSQLiteTimeout(t *testing.T) {
	path := newFile(t, `CREATE TABLE t(x)`)
	s := newTestSQLite(t, path, func(c *Config) { c.QueryTimeout = conf.Duration(40 * time.Millisecond) })
	q := compile(t, s, Spec{Name: "slow", Text: endless})
	for range 3 { // the connection is of use afterwards
		_, _, err := q.Run(t.Context(), nil, &Execution{})
		toolError(t, err, kindTimeout, "slow", "query_timeout of 40ms")
		if got, err := run(t, s, ReadOnly, "SELECT 1 AS x"); got != `{"rows":[{"x":1}]}` || err != nil {
			t.Fatalf("%s, %v", got, err)
		}
	}
	_, _, err := compile(t, s, Spec{Name: "slow", Text: endless, Timeout: 20 * time.Millisecond}).Run(t.Context(), nil, &Execution{})
	toolError(t, err, kindTimeout, "the tool's timeout of 20ms")
	_, _, err = q.Run(t.Context(), nil, &Execution{Deadline: time.Now().Add(10 * time.Millisecond)})
	toolError(t, err, kindTimeout, "the call's own deadline")
	// A write that runs out of time leaves nothing.
	_, err = run(t, s, ReadWrite, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) INSERT INTO t SELECT i FROM n")
	toolError(t, err, kindTimeout)
	if got, err := run(t, s, ReadOnly, "SELECT count(*) AS c FROM t"); got != `{"rows":[{"c":0}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := run(t, s, ReadWrite, "INSERT INTO t VALUES (1)"); got != `{"rows_affected":1}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestSQLiteCancel(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE t(x)`), nil)
	q := compile(t, s, Spec{Text: endless})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	started := time.Now()
	_, _, err := q.Run(ctx, nil, &Execution{})
	if !errors.Is(err, context.Canceled) || time.Since(started) > 2*time.Second {
		t.Errorf("%v after %s", err, time.Since(started))
	}
	if st := s.Stats()[0]; st.Busy != 0 || st.Open != 1 {
		t.Errorf("%+v", st)
	}
	if got, err := run(t, s, ReadOnly, "SELECT 1 AS x"); got != `{"rows":[{"x":1}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestSQLiteOverload(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE t(x)`), func(c *Config) {
		c.Pool = PoolConfig{Size: 1, Overflow: 1, Wait: conf.Duration(30 * time.Millisecond)}
	})
	q := compile(t, s, Spec{Text: endless})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { _, _, _ = q.Run(ctx, nil, &Execution{}) })
	}
	for s.Stats()[0].Busy < 2 {
		runtime.Gosched()
	}
	_, err := run(t, s, ReadOnly, "SELECT 1 AS x")
	toolError(t, err, kindOverloaded, "30ms", "try again")
	cancel()
	wg.Wait()
	if got, err := run(t, s, ReadOnly, "SELECT 1 AS x"); got != `{"rows":[{"x":1}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if st := s.Stats()[0]; st.Busy != 0 || st.WaitCount == 0 || st.WaitDuration == 0 {
		t.Errorf("%+v", st)
	}
	closesOverflow(t, s, 1)
}

// closesOverflow asserts that no more than size readers stay open: one reap sees what is idle, the next closes it.
func closesOverflow(t *testing.T, s *sqliteSource, size int) {
	t.Helper()
	s.readers.reap()
	s.readers.reap()
	if st := s.Stats()[0]; st.Open > size {
		t.Errorf("overflow did not close: %+v", st)
	}
}

func TestSQLiteManyCallers(t *testing.T) {
	s := newTestSQLite(t, newFile(t, cities(100)), func(c *Config) { c.Pool.Size, c.Pool.Overflow = 3, 2 })
	q := pointSelect(t, s)
	var wg sync.WaitGroup
	for g := range 20 {
		wg.Go(func() {
			for i := range 100 {
				id := int64(1 + (g+i)%100)
				ctx, cancel := context.WithCancel(context.Background())
				if i%7 == 0 {
					cancel()
				}
				out, _, err := q.Run(ctx, nil, &Execution{Args: []mcp.Value{integer(id)}})
				cancel()
				if errors.Is(err, context.Canceled) {
					continue
				}
				if err != nil || !strings.Contains(string(out), fmt.Sprintf(`"id":%d,`, id)) {
					t.Errorf("%s, %v", out, err)
				}
			}
		})
	}
	wg.Wait()
	if st := s.Stats()[0]; st.Busy != 0 || st.Waiting != 0 {
		t.Errorf("%+v", st)
	}
	closesOverflow(t, s, 3)
}

func TestSQLiteWriterQueue(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE n (i); INSERT INTO n VALUES (0)`), nil)
	q := compile(t, s, Spec{Text: "UPDATE n SET i = i + 1", Mode: ReadWrite})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, _, err := q.Run(context.Background(), nil, &Execution{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := run(t, s, ReadOnly, "SELECT i FROM n"); got != `{"rows":[{"i":50}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if st := s.Stats()[1]; st.Open != 1 || st.Role != "writer" {
		t.Errorf("%+v", st)
	}
}

func TestSQLiteDiskFull(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE n (b)`), nil)
	s.opened = func(conn *sqlite.Conn, mode Mode) error {
		if mode == ReadWrite {
			return sqlitex.ExecuteTransient(conn, "PRAGMA max_page_count=20", nil)
		}
		return nil
	}
	// The pragma is ours: the authorizer would refuse it from a tool.
	was := s.writer.open
	s.writer.open = func(ctx context.Context, deadline time.Time) (*sqliteConn, error) {
		opened := s.opened
		s.opened = nil
		defer func() { s.opened = opened }()
		c, err := was(ctx, deadline)
		if err != nil {
			return nil, err
		}
		c.own = true
		err = opened(c.conn, ReadWrite)
		c.own = false
		return c, err
	}
	if _, err := run(t, s, ReadWrite, "INSERT INTO n VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	_, err := run(t, s, ReadWrite, "INSERT INTO n VALUES (2), (zeroblob(1000000))")
	toolError(t, err, kindUnavailable, "disk is full", "nothing was changed")
	if got, err := run(t, s, ReadOnly, "SELECT b FROM n"); got != `{"rows":[{"b":1}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := run(t, s, ReadWrite, "INSERT INTO n VALUES (3)"); got != `{"rows_affected":1}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestSQLiteTwoColumnsOfOneName(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE n (i)`), nil)
	q := compile(t, s, Spec{Text: "SELECT a.i, b.i FROM n a, n b"})
	_, _, err := q.Run(t.Context(), nil, &Execution{})
	toolError(t, err, kindSQL, `two columns are called "i"`, "AS")
}

func TestSQLiteFileComes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "late.db")
	s := newTestSQLite(t, path, nil)
	for range 2 {
		err := s.Ping(t.Context())
		toolError(t, err, kindUnavailable, path, "create the database or correct sqlite.path")
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Fatal("the file was made")
	}
	runScript(t, path, "CREATE TABLE t (x); INSERT INTO t VALUES (1)")
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := run(t, s, ReadOnly, "SELECT x FROM t"); got != `{"rows":[{"x":1}]}` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestSQLiteNotADatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "text.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("no database at all\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	toolError(t, newTestSQLite(t, path, nil).Ping(t.Context()), kindUnavailable, path, "not a database")
}

func TestSQLiteSchemaChange(t *testing.T) {
	path := newFile(t, `CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1)`)
	s := newTestSQLite(t, path, nil)
	q := compile(t, s, Spec{Text: "SELECT * FROM t"})
	for _, c := range []struct{ change, want string }{
		{"SELECT 1", `{"rows":[{"a":1}]}`},
		{"ALTER TABLE t ADD COLUMN b BOOLEAN DEFAULT 1", `{"rows":[{"a":1,"b":true}]}`},
		{"ALTER TABLE t RENAME COLUMN a TO c", `{"rows":[{"c":1,"b":true}]}`},
		{"DROP TABLE t; CREATE TABLE t (c BOOLEAN); INSERT INTO t VALUES (0)", `{"rows":[{"c":false}]}`},
	} {
		runScript(t, path, c.change)
		out, _, err := q.Run(t.Context(), nil, &Execution{})
		if string(out) != c.want || err != nil {
			t.Errorf("after %s: %s, %v", c.change, out, err)
		}
	}
}

func TestSQLiteDescribe(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE t (i INTEGER, b BOOLEAN, t TEXT, j JSON)`), nil)
	cols, err := compile(t, s, Spec{Text: "SELECT i, b AS yes, t, j, count(*) AS n FROM t"}).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range cols {
		got = append(got, c.Name+" "+string(c.Schema))
	}
	want := `i {"type":["number","string","null"]}|yes {"type":["boolean","string","null"]}|t {"type":["string","null"]}|j {}|n {}`
	if strings.Join(got, "|") != want {
		t.Errorf("%s", strings.Join(got, "|"))
	}
	if cols, err := compile(t, s, Spec{Text: "DELETE FROM t", Mode: ReadWrite}).Describe(t.Context()); err != nil || len(cols) != 0 {
		t.Errorf("%v, %v", cols, err)
	}
}

func TestSQLitePointSelectAllocs(t *testing.T) {
	s := newTestSQLite(t, newFile(t, cities(10)), nil)
	q := pointSelect(t, s)
	x := &Execution{Args: []mcp.Value{integer(3)}}
	var dst []byte
	n := testing.AllocsPerRun(200, func() {
		var err error
		if dst, _, err = q.Run(context.Background(), dst[:0], x); err != nil {
			t.Fatal(err)
		}
	})
	if n > 1 && !raceEnabled {
		t.Errorf("a point select allocates %v times, at most 1 is allowed", n)
	}
}

// Describe tells of each statement that the database rejects what is wrong with it.
func TestSQLiteDescribeRejects(t *testing.T) {
	s := newTestSQLite(t, newFile(t, `CREATE TABLE n (i)`), nil)
	for _, c := range []struct {
		mode       Mode
		text, want string
	}{
		{ReadOnly, "SELECT a.i, b.i FROM n a, n b", `two columns are called "i"; give one of them another name with AS`},
		{ReadOnly, "SELECT * FROM nowhere", "no such table: nowhere"}, {ReadOnly, "SELECT j FROM n", "no such column: j"},
		{ReadOnly, "SELECT i FRM n m", "syntax error"}, {ReadWrite, "INSERT INTO n VALUES (1, 2)", "2 values were supplied"},
	} {
		q := compile(t, s, Spec{Name: "tool", Text: c.text, Mode: c.mode})
		for range 2 {
			columns, err := q.Describe(t.Context())
			if toolError(t, err, kindSQL, "tool: ", c.want); columns != nil {
				t.Errorf("%s: %v", c.text, columns)
			}
		}
	}
}

// Two columns that come to have one name are an error on every run, not on the first alone.
func TestSQLiteColumnsThatComeToHaveOneName(t *testing.T) {
	path := newFile(t, `CREATE TABLE a (x INTEGER); CREATE TABLE b (y INTEGER); INSERT INTO a VALUES (1); INSERT INTO b VALUES (2)`)
	q := compile(t, newTestSQLite(t, path, nil), Spec{Text: "SELECT * FROM a, b"})
	if out, _, err := q.Run(t.Context(), nil, &Execution{}); string(out) != `{"rows":[{"x":1,"y":2}]}` || err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	runScript(t, path, "ALTER TABLE b ADD COLUMN x INTEGER")
	for range 3 {
		_, _, err := q.Run(t.Context(), nil, &Execution{})
		toolError(t, err, kindSQL, `two columns are called "x"`)
	}
}

// Connections that are opened and closed beside each other do not touch what is another's: not its authorizer, not its memory.
func TestOpeningAndClosing(t *testing.T) {
	t.Parallel()
	path := newFile(t, "CREATE TABLE a (id INTEGER PRIMARY KEY)")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 250 {
				c, err := openSQLite(path, ReadWrite, coldCache)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := c.conn.Prepare("SELECT id FROM a"); err != nil {
					t.Error(err)
				}
				c.close()
			}
		})
	}
	all.Wait()
}
