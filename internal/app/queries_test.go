package app

import (
	"net/http"
	"strings"
	"testing"
)

// Tools of one statement share their results, but not with who may not call them; what makes one's void makes all of them void.
func TestSharedQueries(t *testing.T) {
	t.Parallel()
	const read = `source: db, statement: "SELECT count(*) AS n FROM n WHERE i >= :i", parameters: [{name: i, type: integer, default: 0}], annotations: {readOnlyHint: true}, cache: {scope: public, query: rows}`
	r := start(t, `
auth: {keys: [{name: k, sha256: "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", tenant: t, scopes: [count]}, {name: l, sha256: "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8", tenant: t}]}
tools:
  - {name: count, description: How many., `+read+`}
  - {name: total, description: How many in all., require_scopes: [count], `+read+`}
  - {name: alone, description: How many., `+strings.Replace(read, ", query: rows", "", 1)+`}
  - {name: add, description: One more., source: db, statement: "INSERT INTO n VALUES (:v)", parameters: [{name: v, type: integer, required: true}], writes: {tool: total, with: {i: v}}}
`)
	const may, mayNot = "Authorization: Bearer secret", "Authorization: Bearer password" // the first has the scope
	expect := func(when, got string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(got, p) {
				t.Errorf("%s: no %s in %s", when, p, got)
			}
		}
	}
	expect("the first", r.call("count", may), `"n":0`, `"status":"miss"`)
	expect("another tool", r.call("total", may), `"n":0`, `"status":"hit"`)
	expect("a tool without the name", r.call("alone", may), `"status":"miss"`)
	expect("a caller without the scope", r.call("total", mayNot), "unknown tool")
	expect("the same of what it may call", r.call("count", mayNot), `"status":"hit"`)
	expect("a write", r.post("tools/call", `"name":"add","arguments":{"v":0},`, "add", may), `"rows_affected":1`)
	expect("after it", r.call("count", may), `"n":1`, `"status":"miss"`)
	expect("after it, the other", r.call("total", may), `"n":1`, `"status":"hit"`)
	resp, err := http.Post("http://"+r.adminListener[0].Addr().String()+"/cache/purge", "application/json", strings.NewReader(`{"tools":["total"]}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Error(resp.Status)
	}
	expect("after a purge of one", r.call("count", may), `"status":"miss"`)
	r.edit("SELECT count(*) AS n FROM n WHERE i >= :i\", parameters: [{name: i, type: integer, default: 0}], annotations: {readOnlyHint: true}, cache: {scope: public, query: rows}",
		"SELECT count(*) AS n FROM n WHERE i > :i\", parameters: [{name: i, type: integer, default: 0}], annotations: {readOnlyHint: true}, cache: {scope: public, query: rows}")
	r.Reload()
	if !strings.Contains(r.log.String(), "they differ in statement") { // edit changes the first place alone
		t.Errorf("a file whose tools differ was taken: %s", r.log)
	}
}
