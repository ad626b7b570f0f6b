package sqldb

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"millrace/internal/mcp"
)

var gatherParams = []Param{{Name: "n", Type: "integer", Unused: true}, {Name: "t", Type: "string", Unused: true}}

func readGather(text string) (*gathering, string) {
	if _, faults := parse(text, dialectPostgres, gatherParams, ReadOnly); len(faults) > 0 {
		return nil, "parse: " + faults.Error()
	}
	g, faults := parseGather(text, gatherParams, []string{"orders", "lines", "customers"}, []string{"customer_id", "customer_id", "id"})
	if len(faults) > 0 {
		return nil, faults.Error()
	}
	return g, ""
}

func TestGatherOrderAndLimit(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"SELECT * FROM orders":                "[] -1 -1",
		"SELECT id FROM orders o ORDER BY id": "[{id 0 false false}] -1 -1",
		"SELECT id FROM Orders ORDER BY ID DESC, \"At\" NULLS FIRST, 3 DESC NULLS LAST LIMIT 20;":                             "[{id 0 true true} {At 0 false true} { 3 true false}] 20 -1",
		"SELECT id FROM orders ORDER BY id LIMIT :n":                                                                          "[{id 0 false false}] -1 0",
		"SELECT id FROM orders LIMIT ALL":                                                                                     "[] -1 -1",
		"SELECT id, (SELECT count(*) FROM lines l WHERE l.x = o.x ORDER BY 1 LIMIT 1) AS n FROM orders o":                     "[] -1 -1",
		"WITH big AS (SELECT DISTINCT id FROM orders ORDER BY id LIMIT 9) SELECT id FROM orders NATURAL JOIN big ORDER BY id": "[{id 0 false false}] -1 -1",
		"SELECT c.id, count(*) AS n FROM customers AS c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id, c.name":     "[] -1 -1",
		"SELECT id FROM ONLY orders WHERE a IS NOT DISTINCT FROM b":                                                           "[] -1 -1",
		"SELECT customer_id FROM orders GROUP BY customer_id HAVING bool_or(x) UNION ALL SELECT id FROM customers":            "[] -1 -1",
		"SELECT customer_id, coalesce(sum(x), 0) AS s FROM orders GROUP BY customer_id ORDER BY s LIMIT 3":                    "[{s 0 false false}] 3 -1",
		"SELECT o.customer_id, max(x) FROM orders o GROUP BY o.customer_id, o.y HAVING max(x) > 1":                            "[] -1 -1",
		"SELECT id FROM orders UNION ALL SELECT id FROM lines":                                                                "[] -1 -1",
		"TABLE orders": "[] -1 -1",
		"SELECT 'ORDER BY x LIMIT 5' AS text, \"limit\" FROM orders -- OFFSET 3": "[] -1 -1",
		"SELECT count FROM orders ORDER BY count":                                "[{count 0 false false}] -1 -1",
	} {
		g, fault := readGather(text)
		if fault != "" {
			t.Errorf("%s: %s", text, fault)
		} else if got := fmt.Sprint(g.order, g.limit, g.limitBy); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestGatherRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"SELECT count(*) FROM orders":                                          "count(…) would be of the rows of each server",
		"SELECT coalesce(sum(x), 0) FROM orders":                               "sum(…) would be of the rows of each server",
		"SELECT x, count(*) FROM orders GROUP BY x":                            "a group may have rows on several servers",
		"SELECT DISTINCT x FROM orders":                                        "DISTINCT is of the rows of each server",
		"SELECT x, rank() OVER (ORDER BY x) FROM orders":                       "a window sees the rows of one server",
		"SELECT x FROM orders UNION SELECT x FROM lines":                       "UNION compares",
		"SELECT x FROM orders EXCEPT ALL SELECT x FROM lines":                  "EXCEPT compares",
		"SELECT x FROM orders OFFSET 5":                                        "OFFSET counts",
		"SELECT x FROM orders FETCH FIRST 5 ROWS ONLY":                         "FETCH counts",
		"SELECT x FROM orders ORDER BY lower(x)":                               "must be in the result",
		"SELECT x FROM orders o ORDER BY o.x":                                  "must be in the result",
		"SELECT x FROM orders ORDER BY x COLLATE \"C\"":                        "must be in the result",
		"SELECT x FROM orders ORDER BY x USING >":                              "must be in the result",
		"SELECT x FROM orders LIMIT 1 + 1":                                     "neither a number nor a parameter",
		"SELECT x FROM orders LIMIT :t":                                        "neither a number nor a parameter",
		"SELECT 1":                                                             "it does not begin FROM one of",
		"SELECT x FROM other":                                                  "it does not begin FROM one of",
		"VALUES (1)":                                                           "VALUES would answer once for each server",
		"EXPLAIN SELECT x FROM orders":                                         "EXPLAIN would answer once",
		"SELECT x FROM orders ORDER BY":                                        "",
		"WITH a AS (SELECT x FROM orders) SELECT max(x) FROM a":                "it does not begin FROM one of",
		"SELECT id, count(*) FROM orders GROUP BY id":                          "a group may have rows",
		"SELECT count(*) FROM orders GROUP BY customer_id % 10":                "a group may have rows",
		"SELECT count(*) FROM orders GROUP BY customer_id IS NULL":             "a group may have rows",
		"SELECT count(*) FROM customers GROUP BY customer_id":                  "a group may have rows",
		"SELECT count(*) FROM customers c JOIN orders o ON true GROUP BY o.id": "a group may have rows",
		"SELECT customer_id, count(*) FROM orders GROUP BY customer_id UNION ALL SELECT 0, count(*) FROM orders":            "count(…) would be",
		"SELECT x FROM orders UNION ALL (SELECT x FROM orders LIMIT 5)":                                                     "( would answer once",
		"SELECT o.customer_id, count(*) FROM customers c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY o.customer_id": "a group may have rows",
		"SELECT c.id, count(*) FROM orders o LEFT OUTER JOIN customers c ON c.id = o.customer_id GROUP BY c.id":             "a group may have rows",
		"SELECT x, count(*) FROM orders o GROUP BY x, customers.id":                                                         "a group may have rows",
		"SELECT JSON_ARRAYAGG(id) FROM orders":                                                                              "json_arrayagg(…) would be",
		"SELECT 1 FROM orders HAVING true":                                                                                  "HAVING without GROUP BY",
		"SELECT x FROM countries LEFT JOIN orders ON true":                                                                  "it does not begin FROM one of",
		"SELECT x FROM orders RIGHT JOIN countries ON true":                                                                 "RIGHT JOIN gives rows",
		"SELECT x FROM orders FULL OUTER JOIN countries ON true":                                                            "FULL JOIN gives rows",
		"SELECT code FROM countries WHERE EXISTS (SELECT FROM orders)":                                                      "it does not begin FROM one of",
		"SELECT x FROM orders UNION ALL SELECT x FROM countries":                                                            "it does not begin FROM one of",
		"WITH orders AS (SELECT 1 AS x) SELECT x FROM orders":                                                               "WITH gives a table's name",
		"SELECT x FROM own.orders":                                                                                          "it does not begin FROM one of",
		"SELECT orders FROM countries":                                                                                      "it does not begin FROM one of",
		"SELECT \"count\"(*) FROM orders":                                                                                   "count(…) would be",
		"SELECT x FROM orders GROUP BY ROLLUP (customer_id)":                                                                "a group may have rows",
		"SELECT customer_id, x FROM orders GROUP BY x ORDER BY customer_id":                                                 "a group may have rows",
	} {
		if _, fault := readGather(text); fault == "" || !strings.Contains(fault, want) {
			t.Errorf("%s: %q, want %q", text, fault, want)
		}
	}
}

// Values compare as PostgreSQL says.
func TestGatherCompares(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "")
	for _, c := range []struct {
		oid    uint32
		cast   string
		values string
	}{
		{pgtype.Int8OID, "bigint", "9223372036854775807, -9223372036854775808, 0, 5, NULL, 9007199254740993"},
		{pgtype.NumericOID, "numeric", "'10.5', '9.99', '-0.001', NULL, '123456789012345678901234567890.1', 'NaN'"},
		{pgtype.BoolOID, "boolean", "true, false, NULL"},
		{pgtype.TextOID, "text", "'b', 'C', 'a', 'ä', '', 'Z', 'aZ', 'a\"', 'a\\', '€', '😀', NULL, E'a\\nb'"},
		{pgtype.UUIDOID, "uuid", "'00000000-0000-0000-0000-00000000000a', 'FFFFFFFF-0000-0000-0000-000000000001', NULL"},
		{pgtype.DateOID, "date", "'2024-02-29', '0001-01-01', '9999-12-31', NULL"},
		{pgtype.TimestamptzOID, "timestamptz", "'2024-02-29 12:00:00+00', '2024-02-29 12:00:00.5+00', '2024-02-29 12:00:00.45+02', '2024-02-29 12:00:00.123456+00', NULL"},
		{pgtype.TimestampOID, "timestamp", "'2024-02-29 12:00:00', '2024-02-29 12:00:00.5', '2024-02-29 12:00:00.45', NULL"},
		{pgtype.TimeOID, "time", "'12:00', '12:00:00.5', '00:00', '23:59:59.999999', NULL"},
	} {
		for _, tail := range []string{"", " DESC", " NULLS FIRST", " DESC NULLS LAST"} {
			values := "(CAST(" + strings.ReplaceAll(c.values, ", ", " AS "+c.cast+")), (CAST(") + " AS " + c.cast + "))"
			want, _, err := pgRun(t, s, ReadOnly, "SELECT v FROM (VALUES "+values+") a(v) ORDER BY v"+tail)
			if err != nil {
				t.Fatal(err)
			}
			g, fault := readGather("SELECT v FROM orders ORDER BY v" + tail)
			if fault != "" {
				t.Fatal(fault)
			}
			order, err := comparers("tool", g.order, []Column{{Name: "v", oid: c.oid}})
			if err != nil {
				t.Fatal(err)
			}
			all := splitRows([]byte(want))
			var parts []part // each row from a server of its own
			for i := range all.rows {
				parts = append(parts, part{rows: [][]byte{all.rows[len(all.rows)-1-i]}})
			}
			got, outcome, err := gather(nil, parts, order, -1, 0, 0)
			if err != nil || string(got) != want || outcome.Rows != int64(len(all.rows)) {
				t.Errorf("%s%s: %s %v\nwant %s", c.cast, tail, got, err, want)
			}
		}
	}
}

func TestGatherBounds(t *testing.T) {
	t.Parallel()
	g, _ := readGather("SELECT v FROM orders ORDER BY v")
	order, err := comparers("tool", g.order, []Column{{Name: "v", oid: pgtype.Int8OID}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		parts             []string
		most, rows, bytes int
		want              string
	}{
		{[]string{"1 3 5", "2 4"}, -1, 0, 0, "1 2 3 4 5"},
		{[]string{"1 3 5", "2 4"}, 3, 0, 0, "1 2 3"},
		{[]string{"1 3 5", "2 4"}, 0, 0, 0, ""},
		{[]string{"1 3 5", "2 4"}, -1, 3, 0, "1 2 3 cut"},
		{[]string{"1 3 5", "2 4"}, -1, 5, 0, "1 2 3 4 5"},
		{[]string{"1 3 5", "2 4"}, -1, 0, 28, "1 2 cut"},
		{[]string{"1 2 cut", "5 6"}, -1, 0, 0, "1 2 cut"}, // what else is below 5 nobody knows
		{[]string{"1 2 cut", "5 6"}, 2, 0, 0, "1 2"},
		{[]string{"", ""}, -1, 0, 0, ""},
	} {
		var parts []part
		for _, p := range c.parts {
			numbers, cut := strings.CutSuffix(p, " cut")
			parts = append(parts, splitRows(numbered(strings.Fields(numbers), cut)))
		}
		got, outcome, err := gather(nil, parts, order, c.most, c.rows, c.bytes)
		numbers, cut := strings.CutSuffix(c.want, "cut")
		if want := numbered(strings.Fields(numbers), cut); err != nil || string(got) != string(want) || outcome.Truncated != cut {
			t.Errorf("%v: %s %v %v, want %s", c, got, outcome, err, want)
		}
	}
	if _, _, err := gather(nil, []part{splitRows(numbered([]string{"2", "1"}, false))}, order, -1, 0, 0); err == nil || !strings.Contains(err.Error(), "not in the order") {
		t.Errorf("rows out of order: %v", err)
	}
	if _, err := comparers("tool", g.order, []Column{{Name: "w", oid: pgtype.Int8OID}}); err == nil || !strings.Contains(err.Error(), "no column of its result") {
		t.Errorf("an unknown column: %v", err)
	}
	if _, err := comparers("tool", g.order, []Column{{Name: "v", oid: pgtype.Float8OID}}); err == nil || !strings.Contains(err.Error(), "CAST(v AS numeric)") {
		t.Errorf("a float: %v", err)
	}
	if _, err := comparers("tool", g.order, []Column{{Name: "v", oid: pgtype.JSONBOID}}); err == nil || !strings.Contains(err.Error(), "cannot be put in order") {
		t.Errorf("a type without an order: %v", err)
	}
}

func numbered(numbers []string, cut bool) []byte {
	r := beginRows(nil, 0, 0)
	for _, n := range numbers {
		r.beginRow()
		r.dst = append(r.dst, `{"v":`+n+`}`...)
		r.endRow()
	}
	r.truncated = cut
	return r.end()
}

func TestShardKeys(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind string
		v    mcp.Value
		want string
	}{
		{"integer", integer(-5), "-5"}, {"text", text("Ä"), "Ä"}, {"uuid", text("AAAAAAAA-0000-0000-0000-00000000000B"), "aaaaaaaa-0000-0000-0000-00000000000b"},
		{"uuid", text("aaaaaaaa00000000000000000000000b"), "aaaaaaaa-0000-0000-0000-00000000000b"}, {"uuid", text("x"), "!no UUID"}, {"text", mcp.Value{}, "!must be given"},
	} {
		s := &sharded{cfg: Config{Shards: &ShardsConfig{Key: c.kind}}}
		got, err := s.key("tool", &Param{Name: "k"}, &c.v)
		if message, fails := strings.CutPrefix(c.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), message) {
				t.Errorf("%v: %q %v, want %s", c, got, err, message)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%v: %q %v", c, got, err)
		}
	}
}
