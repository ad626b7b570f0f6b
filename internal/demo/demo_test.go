package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"zombiezen.com/go/sqlite"
)

// whole is the demo's database, made once for all tests. Only notes may be written to it. It holds every city, except under
// the race detector, which makes the engine's translated code some forty times slower: there it holds one in thirty
// and those that tests name.
var whole = sync.OnceValues(func() (string, error) {
	data := all
	if race {
		var err error
		if data, err = thin(all); err != nil {
			return "", err
		}
	}
	return prepare(context.Background(), dir, data)
})

func thin(data []byte) ([]byte, error) {
	r, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	text, err := r.DecodeAll(data, nil)
	if err != nil {
		return nil, err
	}
	named := regexp.MustCompile(`\t(Berli|Spring|Zür|[^\t]*\tLI\t)`)
	var kept []byte
	n := 0
	for line := range bytes.Lines(text) {
		if n%30 == 0 || named.Match(line) {
			kept = append(kept, line...)
		}
		n++
	}
	return w.EncodeAll(kept, nil), nil
}

var dir string // of whole

func TestMain(m *testing.M) {
	var err error
	if dir, err = os.MkdirTemp("", "demo-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// few is the data cut down to some cities, Berlin among them.
func few(t *testing.T) []byte {
	t.Helper()
	lines := columns + "\n2950159\tBerlin\tDE\t16\tPPLC\t3426354\t52.52437\t13.41053\n"
	for i := range 1000 {
		lines += fmt.Sprintf("%d\tCity %d\tXX\t00\tPPL\t%d\t%g\t%g\n", i+1, i, i, float64(i%90), float64(i%180))
	}
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll([]byte(lines), nil)
}

func open(t testing.TB, path string) *sqlite.Conn {
	t.Helper()
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// query gives the rows of a statement as text, with the parameters that it names bound and all others NULL.
func query(t *testing.T, conn *sqlite.Conn, statement string, args map[string]any) [][]string {
	t.Helper()
	rows, err := try(conn, statement, args)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return rows
}

func try(conn *sqlite.Conn, statement string, args map[string]any) (rows [][]string, err error) {
	stmt, trailing, err := conn.PrepareTransient(statement)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stmt.Finalize()) }()
	if trailing != 0 {
		return nil, errors.New("more than one statement")
	}
	for i := 1; i <= stmt.BindParamCount(); i++ {
		switch v := args[strings.TrimPrefix(stmt.BindParamName(i), ":")].(type) {
		case nil:
			stmt.BindNull(i)
		case int:
			stmt.BindInt64(i, int64(v))
		case float64:
			stmt.BindFloat(i, v)
		case string:
			stmt.BindText(i, v)
		}
	}
	for {
		more, err := stmt.Step()
		if err != nil || !more {
			return rows, err
		}
		row := make([]string, stmt.ColumnCount())
		for i := range row {
			row[i] = stmt.ColumnText(i)
		}
		rows = append(rows, row)
	}
}

func checkDB(t *testing.T, path, cities string) {
	t.Helper()
	conn := open(t, path)
	for statement, want := range map[string]string{
		"PRAGMA journal_mode":                   "wal",
		"PRAGMA integrity_check":                "ok",
		"SELECT count(*) FROM cities":           cities,
		"SELECT count(*) FROM notes":            "0",
		"PRAGMA foreign_key_check":              "",
		"SELECT count(*) > 0 FROM sqlite_stat1": "1",
		"SELECT name || country || admin || feature || population || ' ' || latitude || ' ' || longitude FROM cities WHERE id = 2950159": "BerlinDE16PPLC3426354 52.52437 13.41053",
	} {
		got := ""
		if rows := query(t, conn, statement, nil); len(rows) > 0 {
			got = rows[0][0]
		}
		if got != want {
			t.Errorf("%s: %q, want %q", statement, got, want)
		}
	}
}

// files gives the names in dir, without the lock file.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestPrepareAllCities(t *testing.T) {
	t.Parallel()
	path, err := whole()
	if err != nil {
		t.Fatal(err)
	}
	if race {
		t.Skip("the race detector's database has not all cities")
	}
	checkDB(t, path, "135233")
}

func TestPrepareMakesThenReuses(t *testing.T) {
	t.Parallel()
	data := few(t)
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	path, err := prepare(t.Context(), dir, data)
	if err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); len(got) != 1 || got[0] != filepath.Base(path) {
		t.Errorf("left %v", got)
	}
	checkDB(t, path, "1001")
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	conn := open(t, path)
	query(t, conn, "INSERT INTO notes (city_id, text) VALUES (2950159, 'kept')", nil)
	again, err := prepare(t.Context(), dir, data)
	if err != nil || again != path {
		t.Fatalf("second: %q, %v", again, err)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("the second call made another file")
	}
	if got := query(t, conn, "SELECT text FROM notes", nil); len(got) != 1 || got[0][0] != "kept" {
		t.Errorf("notes: %v", got)
	}
}

func TestPrepareAtOnce(t *testing.T) {
	t.Parallel()
	data := few(t)
	dir := t.TempDir()
	var (
		wg   sync.WaitGroup
		info [2]os.FileInfo
		path [2]string
	)
	for i := range info {
		wg.Go(func() {
			var err error
			if path[i], err = prepare(t.Context(), dir, data); err != nil {
				t.Error(err)
			} else if info[i], err = os.Stat(path[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if path[0] != path[1] || !os.SameFile(info[0], info[1]) {
		t.Errorf("two databases: %v", path)
	}
	if got := files(t, dir); len(got) != 1 {
		t.Errorf("left %v", got)
	}
	checkDB(t, path[0], "1001")
}

// A process that was killed leaves half a database under a temporary name; one that was killed while it served may
// leave a log, which is harmful when only the database was deleted.
func TestPrepareAfterKill(t *testing.T) {
	t.Parallel()
	data := few(t)
	dir := t.TempDir()
	for _, end := range []string{".tmp", ".tmp-wal", ".tmp-shm", ".tmp-journal", ".lock", "-wal", "-shm"} {
		if err := os.WriteFile(filepath.Join(dir, name(data)+end), []byte("SQLite format 3\x00\x10\x00 cut off"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path, err := prepare(t.Context(), dir, data)
	if err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); len(got) != 1 {
		t.Errorf("left %v", got)
	}
	checkDB(t, path, "1001")
}

func TestPrepareFails(t *testing.T) {
	t.Parallel()
	data := few(t)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		make func(t *testing.T, dir string) string // gives the directory to use
		want []string
	}{
		{"a file in place of the directory", t.Context(), func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "file"))
		}, []string{"file is not a directory", "choose another"}},
		{"a file in place of a parent", t.Context(), func(t *testing.T, dir string) string {
			return filepath.Join(write(t, filepath.Join(dir, "file")), "sub")
		}, []string{"is not a directory", "choose another"}},
		{"something else under the name", t.Context(), func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, name(data)))
			return dir
		}, []string{name(data), "not an SQLite database", "move it away"}},
		{"a directory under the name", t.Context(), func(t *testing.T, dir string) string {
			if err := os.Mkdir(filepath.Join(dir, name(data)), 0o700); err != nil {
				t.Fatal(err)
			}
			return dir
		}, []string{name(data), "not an SQLite database", "move it away"}},
		{"cancelled", cancelled, func(_ *testing.T, dir string) string { return dir }, []string{"context canceled"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path, err := prepare(c.ctx, c.make(t, t.TempDir()), data)
			if err == nil || path != "" {
				t.Fatalf("%q, %v", path, err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

func write(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte("something else that is long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A build that is cancelled, or whose disk is full, leaves nothing behind and says why.
func TestPublishFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Prepare(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cut short: %v", err)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	for _, err := range []error{&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, sqlite.ResultFull.ToError()} {
		if got := advise(err, dir).Error(); !strings.Contains(got, "disk is full") || !strings.Contains(got, need) || !strings.Contains(got, dir) {
			t.Errorf("%v: %s", err, got)
		}
	}
	for _, err := range []error{&os.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, sqlite.ResultCantOpen.ToError(), sqlite.ResultReadOnly.ToError()} {
		if got := advise(err, dir).Error(); !strings.Contains(got, dir+" cannot be written") || !errors.Is(advise(err, dir), err) {
			t.Errorf("%v: %s", err, got)
		}
	}
}

// Whoever holds the lock is waited for, but no longer than the caller wants.
func TestPrepareWaits(t *testing.T) {
	t.Parallel()
	data := few(t)
	dir := t.TempDir()
	unlock, err := lock(t.Context(), filepath.Join(dir, name(data)+".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := prepare(ctx, dir, data); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "wait for the process") {
		t.Errorf("got %v", err)
	}
}
