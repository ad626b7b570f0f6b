package sqldb

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"millrace/internal/mcp"
)

// newFile makes a database in WAL with the script's content.
func newFile(t testing.TB, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	runScript(t, path, script)
	return path
}

func runScript(t testing.TB, path, script string) {
	t.Helper()
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite|sqlite.OpenCreate|sqlite.OpenWAL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := sqlitex.ExecuteScript(conn, script, nil); err != nil {
		t.Fatal(err)
	}
}

func newTestSQLite(t testing.TB, path string, change func(*Config)) *sqliteSource {
	t.Helper()
	cfg := DefaultConfig()
	cfg.SQLite = &SQLiteConfig{Path: path}
	if change != nil {
		change(&cfg)
	}
	s, err := New("test", cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.(*sqliteSource)
}

func compile(t testing.TB, s Source, spec Spec) Query {
	t.Helper()
	if spec.Name == "" {
		spec.Name = "tool"
	}
	q, err := s.Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// run runs a statement once and gives its encoded outcome.
func run(t testing.TB, s Source, mode Mode, text string, args ...mcp.Value) (string, error) {
	t.Helper()
	spec := Spec{Text: text, Mode: mode}
	for i := range args {
		spec.Params = append(spec.Params, Param{Name: string(rune('a' + i))})
	}
	out, _, err := compile(t, s, spec).Run(t.Context(), nil, &Execution{Args: args})
	return string(out), err
}

func cities(n int) string {
	return fmt.Sprintf(`CREATE TABLE cities (id INTEGER PRIMARY KEY, name TEXT, country TEXT, population INTEGER, lat REAL, lon REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d)
INSERT INTO cities SELECT i, 'City ' || i, 'DE', i * 10, i / 7.0, -i / 3.0 FROM n;`, n)
}

func pointSelect(t testing.TB, s Source) Query {
	return compile(t, s, Spec{
		Name: "get_city", Text: "SELECT * FROM cities WHERE id = :id", Params: []Param{{Name: "id", Type: "integer"}},
		MaxRows: 1000, MaxBytes: 1 << 20, Timeout: 5 * time.Second,
	})
}

func BenchmarkSQLitePointSelect(b *testing.B) {
	s := newTestSQLite(b, newFile(b, cities(130_000)), nil)
	benchmarkPointSelect(b, pointSelect(b, s))
	b.Logf("%d connections", s.Stats()[0].Open)
}

// benchmarkPointSelect reports the processor's time too: on a busy machine only that says something.
func benchmarkPointSelect(b *testing.B, q Query) {
	one := func(b *testing.B, next func() bool) {
		var dst []byte
		x := Execution{Args: []mcp.Value{{Kind: mcp.KindInt}}}
		for i := int64(0); next(); i++ {
			x.Args[0].Int = 1 + i*7919%130_000
			var err error
			if dst, _, err = q.Run(context.Background(), dst[:0], &x); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		before := cpuTime()
		one(b, b.Loop)
		b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(16)
		before := cpuTime()
		b.RunParallel(func(pb *testing.PB) { one(b, pb.Next) })
		b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
	})
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestSQLitePointSelect(t *testing.T) {
	s := newTestSQLite(t, newFile(t, cities(10)), nil)
	out, _, err := pointSelect(t, s).Run(t.Context(), nil, &Execution{Args: []mcp.Value{{Kind: mcp.KindInt, Int: 7}}})
	want := `{"rows":[{"id":7,"name":"City 7","country":"DE","population":70,"lat":1,"lon":-2.3333333333333335}]}`
	if err != nil || string(out) != want {
		t.Fatalf("%s, %v", out, err)
	}
}
