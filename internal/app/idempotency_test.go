package app

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"millrace/internal/client"
	"millrace/internal/mcp"
)

// A write with a key happens once, in every revision, and says so when it is asked for again.
func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	const write = `description: Add one., source: db, statement: "INSERT INTO n VALUES (:i) RETURNING i, (SELECT count(*) FROM n) AS n"`
	r := start(t, `
tools:
  - {name: add, `+write+`, parameters: [{name: i, type: integer, required: true}], idempotency: {}}
  - {name: named, `+write+`, parameters: [{name: i, type: integer, required: true}, {name: request, type: string}], idempotency: {ttl: 1h, parameter: request}, writes: {tool: get, with: {i: i}}}
  - {name: get, description: One., source: db, statement: "SELECT i, (SELECT count(*) FROM n) AS n FROM n WHERE i = :i LIMIT 1", parameters: [{name: i, type: integer, required: true}], annotations: {readOnlyHint: true}, cache: {}}
`)
	if _, err := Install(t.Context(), r.file, "nowhere", false); err == nil || !strings.Contains(err.Error(), `there is no source "nowhere"`) {
		t.Errorf("an unknown source: %v", err)
	}
	done, err := Install(t.Context(), r.file, "db", false)
	if err != nil || !strings.HasSuffix(done, "of add, named") {
		t.Fatal(done, err)
	}
	var next atomic.Int64
	everyRevision(t, r.url, func(t *testing.T, s *client.Session) {
		call := func(tool, args, meta string) string {
			var a client.Answer
			c := &client.Call{Method: "tools/call", Name: tool, Params: fmt.Appendf(nil, `"name":%q,"arguments":{%s}`, tool, args)}
			if meta != "" {
				c.Meta = []byte(`"millrace/idempotencyKey":` + meta)
			}
			if err := s.Call(t.Context(), c, &a); err != nil {
				t.Fatal(err)
			}
			if a.Error != nil {
				return a.Error.Message
			}
			return string(a.Result)
		}
		rows := func(result string) string {
			return string(mcp.Member(mcp.Member([]byte(result), "structuredContent"), "rows"))
		}
		const repeated = `"millrace/write":"repeated"`
		for tool, key := range map[string]func(i int64, key string) string{
			"add":   func(i int64, key string) string { return call("add", fmt.Sprintf(`"i":%d`, i), fmt.Sprintf("%q", key)) },
			"named": func(i int64, key string) string { return call("named", fmt.Sprintf(`"i":%d,"request":%q`, i, key), "") },
		} {
			i := next.Add(1)
			first := key(i, fmt.Sprint(tool, i))
			if rows(first) == "" || strings.Contains(first, repeated) {
				t.Errorf("%s: %s", tool, first)
			}
			if again := key(i, fmt.Sprint(tool, i)); rows(again) != rows(first) || !strings.Contains(again, repeated) {
				t.Errorf("%s again: %s, first %s", tool, again, first)
			}
			if other := key(i+1, fmt.Sprint(tool, i)); !strings.Contains(other, "with other arguments") || !strings.Contains(other, `"isError":true`) {
				t.Errorf("%s with other arguments: %s", tool, other)
			}
			if bad := key(i, ""); !strings.Contains(bad, "1 to 256 bytes") {
				t.Errorf("%s with no key: %s", tool, bad)
			}
		}
		if bad := call("add", `"i":1`, "7"); !strings.Contains(bad, "1 to 256 bytes") {
			t.Errorf("a number as key: %s", bad)
		}
		// A repeated answer is no news: what is there now stays in the cache.
		i := next.Add(1)
		for _, want := range []string{"", repeated} {
			if got := call("named", fmt.Sprintf(`"i":%d,"request":"r%d"`, i, i), ""); !strings.Contains(got, want) {
				t.Errorf("got %s, want %s", got, want)
			}
			call("add", "\"i\":0", "")
		}
		then := rows(call("get", fmt.Sprintf(`"i":%d`, i), ""))
		if now := rows(call("named", fmt.Sprintf(`"i":%d,"request":"r%d"`, i, i), "")); now == then {
			t.Errorf("the read after a repeated write gives the write's first answer: %s", then)
		}
	})
	if got := r.post("tools/list", "", ""); strings.Count(got, `"_meta":{"millrace/idempotency":{"ttlMs":`) != 2 || !strings.Contains(got, `{"ttlMs":86400000}`) {
		t.Errorf("the list does not say which tools take keys: %s", got)
	}
	if _, err := Install(t.Context(), r.file, "db", true); err != nil {
		t.Error(err)
	}
}
