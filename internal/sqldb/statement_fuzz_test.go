package sqldb

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// FuzzStatement reads any text in both dialects: it never panics; what passes has a placeholder for each use of a
// parameter and none else; and reading the outcome again finds no parameter left.
func FuzzStatement(f *testing.F) {
	for _, seed := range []string{
		"SELECT * FROM t WHERE id = :id", "SELECT ':id', \":id\", /* :id */ :id -- :id", "SELECT $tag$ :id $tag$, :id::text",
		"WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d", "SELECT a[1:2], a[:id] FROM t", "SELECT 1; DROP TABLE t",
		"INSERT INTO t VALUES (:id, :name) RETURNING id", "SELECT E'\\':id', :id", "SELECT /* /* */ :id */ :id", "PRAGMA table_info(t)",
		"SELECT [a:id], `b:id`, :id", "SELECT U&'\\0061:id' , :id", "SELECT :id$1", "EXPLAIN DELETE FROM t",
		"SELECT a, (SELECT max(b) FROM u) FROM t GROUP BY id ORDER BY a DESC NULLS LAST, 2 LIMIT :id;", "SELECT DISTINCT a OVER () FROM t OFFSET 1",
	} {
		f.Add(seed)
	}
	params := []Param{{Name: "id", Type: "integer"}, {Name: "name", Type: "string"}}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 10_000 {
			return
		}
		for d, mark := range map[dialect]string{dialectSQLite: "?", dialectPostgres: "$"} {
			for _, mode := range []Mode{ReadOnly, ReadWrite} {
				st, faults := parse(text, d, params, mode)
				for _, fault := range faults {
					if fault.Message == "" || fault.Fix == "" {
						t.Fatalf("%q: a fault without words: %+v", text, fault)
					}
				}
				if len(faults) > 0 {
					continue
				}
				for n := range st.binds {
					if !strings.Contains(st.sql, mark+strconv.Itoa(n+1)) {
						t.Fatalf("%q became %q, without placeholder %d", text, st.sql, n+1)
					}
				}
				if d == dialectPostgres && mode == ReadOnly { // it reads what parse accepts
					if g, faults := parseGather(text, params, []string{"t"}, []string{"id"}); len(faults) == 0 && (g.end < 1 || g.end > len(text)) {
						t.Fatalf("%q ends at %d", text, g.end)
					}
				}
				if st.uses > 0 && len(regexp.MustCompile(`[?$][0-9]+`).FindAllString(st.sql, -1)) < st.uses {
					t.Fatalf("%q became %q, with fewer placeholders than %d uses", text, st.sql, st.uses)
				}
			}
		}
	})
}
