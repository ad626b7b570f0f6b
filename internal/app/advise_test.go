package app

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"millrace/internal/advise"
	"millrace/internal/telemetry"
)

// Every statement of a file is looked at, wherever it stands, and what the metrics of a server say of tools goes with it.
func TestAdvise(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := filepath.Join(dir, "n.db")
	conn, err := sqlite.OpenConn(db)
	if err != nil {
		t.Fatal(err)
	}
	err = sqlitex.ExecuteScript(conn, "CREATE TABLE n (a INTEGER, b TEXT, c TEXT, d INTEGER); INSERT INTO n WITH RECURSIVE s(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM s WHERE i < 40000) SELECT i, 'b' || i, 'c' || i, i FROM s", nil)
	if err == nil {
		err = conn.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "tools.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `version: 1
sources: {db: {sqlite: {path: %q}}}
tools:
  - {name: one, source: db, description: d, statement: "SELECT * FROM n WHERE a = :a", parameters: [{name: a, type: integer}], annotations: {readOnlyHint: true}}
  - {name: two, source: db, description: d, statements: {sum: "SELECT 1 AS x", rows: "SELECT * FROM n WHERE d = :d"}, parameters: [{name: d, type: integer}], annotations: {readOnlyHint: true}}
resources:
  - {uriTemplate: "n://{b}", name: row, source: db, statement: "SELECT * FROM n WHERE b = :b"}
prompts:
  - {name: p, messages: [{role: user, text: "{c}"}], arguments: [{name: c, complete: {source: db, statement: "SELECT c FROM n WHERE c = :value"}}]}
`, db), 0o600); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	m := telemetry.NewMetrics(registry)
	m.Operation("tools/call", "two", "2026-07-28").Observe(2, "miss", 4e9)
	m.Operation("tools/call", "two", "2025-11-25").Observe(2, "miss", 2e9)
	m.Operation("tools/call", "two", "2025-11-25").Observe(1, "hit", 9e9)
	scrape := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(scrape, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	r, err := Advise(t.Context(), file, scrape.Body.Bytes(), advise.Options{})
	if err != nil || r.Looked != 5 || len(r.Notes) > 0 || len(r.Findings) != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	all := ""
	for _, f := range r.Findings {
		all += fmt.Sprintf("%s %s %s\n", f.SQL, f.Gains[0].Name, strings.TrimPrefix(f.Gains[0].Where, dir))
	}
	for _, want := range []string{`("a"); tool one /tools.yaml:4:`, `("d"); tool two.rows /tools.yaml:5:`, `("b"); resource row /tools.yaml:7:`, `("c"); completion of p /tools.yaml:9:`} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in:\n%s", want, all)
		}
	}
	if g := r.Findings[0].Gains[0]; g.Name != "tool two.rows" || g.Calls != 2 || g.Seconds < 6 || g.Seconds > 6.01 {
		t.Errorf("the costliest comes first: %+v", r.Findings[0])
	}
}
