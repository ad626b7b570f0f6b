package advise

import (
	"reflect"
	"testing"
)

func TestBindings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, name string
		want       binding
	}{
		{"SELECT * FROM t WHERE id = :id", ":id", binding{"id", "="}},
		{"SELECT * FROM t WHERE a.id = :id AND b = :idd", ":id", binding{"id", "="}},
		{"SELECT * FROM t WHERE b = :idd AND a.\"Id\" >= :id", ":id", binding{"Id", ">="}},
		{"SELECT * FROM t WHERE :id < a.id", ":id", binding{"id", ">"}},
		{"SELECT * FROM t WHERE id = ANY(:ids)", ":ids", binding{"id", "="}},
		{"SELECT * FROM t WHERE id IN (:a, :b)", ":a", binding{"id", "IN"}},
		{"SELECT * FROM t WHERE at BETWEEN :a AND :b", ":a", binding{"at", ">="}},
		{"SELECT * FROM t WHERE at BETWEEN :a AND :b", ":b", binding{"at", "<="}},
		{"SELECT * FROM t WHERE lower(email) = lower(:e)", ":e", binding{"email", "="}},
		{"SELECT * FROM t WHERE name LIKE :p || '%'", ":p", binding{"name", "LIKE"}},
		{"SELECT * FROM t WHERE :p IS NULL OR name = :p", ":p", binding{"name", "="}},
		{"SELECT * FROM t LIMIT :n OFFSET :o", ":n", binding{"", "LIMIT"}},
		{"SELECT * FROM t LIMIT :n OFFSET :o", ":o", binding{"", "OFFSET"}},
		{"SELECT :x", ":x", binding{}},
	} {
		if got := bindingOf(c.text, c.name); got != c.want {
			t.Errorf("%s in %s: %+v, want %+v", c.name, c.text, got, c.want)
		}
	}
}

func TestAccesses(t *testing.T) {
	t.Parallel()
	types := func(_, _, column string) string { return map[string]string{"name": "varchar", "id": "int4"}[column] }
	for _, c := range []struct {
		filter string
		want   access
	}{
		{"(r.id = $1)", access{equal: []string{"id"}}},
		{"((r.id = 7) AND (r.at > '2020-01-01 AND (x'::timestamp))", access{equal: []string{"id"}, ranged: []string{"at"}}},
		{"((r.name)::text = 'a.b = c'::text)", access{equal: []string{"name"}}},
		{"((r.id)::text = '7'::text)", access{equal: []string{"((id)::text)"}}},
		{"(r.at IS NULL)", access{equal: []string{"at"}}},
		{"(NOT r.active)", access{equal: []string{"active"}}},
		{"(r.id = ANY ('{1,2}'::integer[]))", access{equal: []string{"id"}}},
		{"(lower((r.name)::text) = 'x'::text)", access{equal: []string{"(lower((name)::text))"}}},
		{"(r.id = p.id)", access{joined: []string{"id"}}},
		{"(r.id = (r.other + 1))", access{}},
		{"(rr.id = 7)", access{}},
		{"((r.id = 7) OR (r.name = 'x'::text))", access{either: [][]string{{"id", "name"}}}},
		{"((r.id = 7) OR (p.name = 'x'::text))", access{}},
		{"((r.name)::text ~~ 'x%'::text)", access{liked: []string{"name"}}},
		{"(r.id <> 7)", access{}},
		{"(r.id = (SubPlan 1))", access{equal: []string{"id"}}},
	} {
		p := &plan{Node: "Seq Scan", Relation: "rental", Alias: "r", Filter: c.filter}
		got := *p.accesses(types)[0]
		got.relation, got.alias, got.prefix, got.full = "", "", nil, false
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.filter, got, c.want)
		}
	}
}

// Whatever a server says in a plan, reading it ends and breaks nothing.
func FuzzPlan(f *testing.F) {
	f.Add("((r.id = 7) AND (r.at > '2020-01-01'::timestamp))", "r", "SELECT * FROM t WHERE id = :id")
	f.Add("((r.id = 7) OR (\"r\".name ~~ 'x%'::text))", "r", ":id < x")
	f.Add("(", "", "'")
	f.Fuzz(func(t *testing.T, filter, alias, text string) {
		p := &plan{Node: "Seq Scan", Relation: "t", Alias: alias, Filter: filter, SortKey: []string{filter}, Plans: []*plan{{JoinFilter: filter}}}
		for _, a := range p.accesses(func(_, _, _ string) string { return "text" }) {
			a.candidates(&table{name: "t"}, func(string) string { return "" })
		}
		bindingOf(text, ":id")
		normal(text)
	})
}
