package app

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"millrace/internal/pgtest"
)

// A source with shards, from the file to the calls: installed, read and written by key, read over all, cached, and moved while it serves.
func TestShards(t *testing.T) {
	t.Parallel()
	pg, err := pgtest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Stop)
	for _, name := range []string{"a", "b"} {
		if err := pg.Exec("postgres", "CREATE DATABASE "+name); err != nil {
			t.Fatal(err)
		}
		if err := pg.Exec(name, "CREATE TABLE notes (owner text, id bigint, body text NOT NULL, PRIMARY KEY (owner, id))"); err != nil {
			t.Fatal(err)
		}
	}
	const read = "annotations: {readOnlyHint: true}"
	r := start(t, `
tools:
  - {name: add, source: shop, description: Adds one., shard: {by: owner}, statement: "INSERT INTO notes VALUES (:owner, :id, :body)", parameters: [{name: owner, type: string, required: true}, {name: id, type: integer, required: true}, {name: body, type: string, default: b}], invalidates: ["notes:{owner}", notes]}
  - {name: of, source: shop, description: An owner's., shard: {by: owner}, statement: "SELECT id, body FROM notes WHERE owner = :owner ORDER BY id", parameters: [{name: owner, type: string, required: true}], `+read+`, cache: {scope: public, tags: ["notes:{owner}"]}}
  - {name: latest, source: shop, description: The last of all., statement: "SELECT owner, id FROM notes ORDER BY id DESC LIMIT 3", `+read+`, cache: {scope: public, tags: [notes]}}
  - {name: both, source: shop, description: An owner's., shard: {by: owner}, statements: {rows: "SELECT id FROM notes WHERE owner = :owner", number: "SELECT count(*) AS n FROM notes WHERE owner = :owner"}, parameters: [{name: owner, type: string, required: true}], `+read+`}
  - {name: all, source: shop, description: Refused., shard: {by: owner}, statement: "UPDATE notes SET body = 'x' WHERE owner <> :owner", parameters: [{name: owner, type: string, required: true}]}
resources:
  - {uriTemplate: "notes://{owner}", name: notes, source: shop, shard: {by: owner}, statement: "SELECT id FROM notes WHERE owner = :owner ORDER BY id"}
`, func(o *Options) {
		data, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		from, to := strings.Index(string(data), "sources:"), strings.Index(string(data), "\ntools:")
		sources := fmt.Sprintf("sources:\n  shop: {shards: {key: text, tables: [{table: notes, key: owner}], servers: {a: {primary: %q}, b: {primary: %q}}}}\n", pg.URL("a"), pg.URL("b"))
		if err := os.WriteFile(o.File, []byte(string(data[:from])+sources+string(data[to:])), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	call := func(tool, args string, parts ...string) {
		t.Helper()
		got := r.post("tools/call", fmt.Sprintf(`"name":%q,"arguments":%s,`, tool, args), tool)
		for _, p := range parts {
			if !strings.Contains(got, p) {
				t.Errorf("%s %s: no %s in %s", tool, args, p, got)
			}
		}
	}
	call("of", `{"owner":"o1"}`, "has no map of shards", "millrace install shop")
	if done, err := Install(t.Context(), r.file, "shop", false); err != nil || done != "the servers of source shop know which shards of notes they have" {
		t.Fatal(done, err)
	}
	for i := range 20 {
		call("add", fmt.Sprintf(`{"owner":"o%d","id":%d}`, i%10, i), `"rows_affected":1`)
	}
	check := func() {
		t.Helper()
		call("of", `{"owner":"o3"}`, `"structuredContent":{"rows":[{"id":3,"body":"b"},{"id":13,"body":"b"}]}`)
		call("latest", `{}`, `"structuredContent":{"rows":[{"owner":"o9","id":19},{"owner":"o8","id":18},{"owner":"o7","id":17}]}`)
		call("both", `{"owner":"o3"}`, `"structuredContent":{"number":{"rows":[{"n":2}]},"rows":{"rows":[{"id":3},{"id":13}]}}`)
		call("all", `{"owner":"o3"}`, "the write is refused, and nothing was changed")
		if got := r.post("resources/read", `"uri":"notes://o3",`, "notes://o3"); !strings.Contains(got, `[{\"id\":3},{\"id\":13}]`) {
			t.Errorf("the resource: %s", got)
		}
	}
	check()
	call("latest", `{}`, `"status":"hit"`)
	plan, err := PlanShards(t.Context(), r.file, "shop", []string{"a"})
	if err != nil || len(plan.Moves) != 1 {
		t.Fatal(plan, err)
	}
	done, err := MoveShards(t.Context(), r.file, "shop", "0-511", "b")
	if err != nil || len(done) != 1 || done[0].From != "a" || done[0].Rows == 0 {
		t.Fatal(done, err)
	}
	call("add", `{"owner":"o3","id":4,"body":"after"}`, `"rows_affected":1`)
	call("of", `{"owner":"o3"}`, `{"id":3,"body":"b"},{"id":4,"body":"after"},{"id":13,"body":"b"}`, `"status":"miss"`)
	for _, c := range []struct{ source, shards, to, want string }{
		{"shop", "0-5000", "b", "names no shards"}, {"shop", "1", "z", `no server "z"`}, {"nowhere", "1", "a", `there is no source "nowhere"`},
	} {
		if _, err := MoveShards(t.Context(), r.file, c.source, c.shards, c.to); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if done, err := Install(t.Context(), r.file, "shop", true); err != nil || !strings.Contains(done, "have no map of shards any more") {
		t.Error(done, err)
	}
}
