package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// database gives a SQLite source made by script.
func database(t testing.TB, script string) map[string]Source {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	conn, err := sqlite.OpenConn(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlitex.ExecuteScript(conn, script, nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := sqldb.DefaultConfig()
	cfg.SQLite = &sqldb.SQLiteConfig{Path: path}
	db, err := sqldb.New("db", cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return map[string]Source{"db": {Source: db, Hash: "h"}}
}

func build(t testing.TB, d Definitions, sources map[string]Source) *Catalog {
	t.Helper()
	c, faults := New(d, Deps{Sources: sources, TTL: conf.Duration(time.Minute), Meter: func(mcp.Method, string) mcp.Meter { return nil }})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return c
}

func sqlTool(name, statement string, change ...func(*Tool)) Tool {
	t := Tool{Name: name, Source: "db", Description: "A tool.", Statement: statement}
	t.SetDefaults()
	t.Annotations.ReadOnlyHint = true
	for _, f := range change {
		f(&t)
	}
	return t
}

// ask resolves and handles one request.
func ask(c *Catalog, toolset string, p *mcp.Principal, change func(*mcp.Call), method, params string) (mcp.Result, *mcp.Call, error) {
	var req mcp.Request
	if fault := req.Scan([]byte(`{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":` + params + `}`)); fault != nil {
		return mcp.Result{}, nil, fault
	}
	call := &mcp.Call{Caller: mcp.Caller{Principal: p}}
	if err := c.Resolve(toolset, nil, &req, call); err != nil {
		return mcp.Result{}, call, err
	}
	call.Deadline = time.Now().Add(call.Policy.Timeout)
	if change != nil {
		change(call)
	}
	r, err := call.Invoke(context.Background(), call)
	return r, call, err
}

func text(t *testing.T, r mcp.Result, err error) string {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	if !mcp.Valid([]byte("{" + string(r.Fields) + "}")) {
		t.Errorf("no JSON: %s", r.Fields)
	}
	return string(r.Fields)
}

func TestCall(t *testing.T) {
	t.Parallel()
	c := build(t, Definitions{Tools: []Tool{
		sqlTool("get", "SELECT :n + 1 AS v", func(t *Tool) { t.Parameters = []Parameter{{Name: "n", Type: "integer", Required: true}} }),
		sqlTool("many", "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 10) SELECT n FROM c", func(t *Tool) { t.MaxRows = 2 }),
	}}, database(t, ""))
	r, _, err := ask(c, "", mcp.Anonymous, nil, "tools/call", `{"name":"get","arguments":{"n":41}}`)
	if got := text(t, r, err); got != `"structuredContent":{"rows":[{"v":42}]},"content":[{"type":"text","text":"{\"rows\":[{\"v\":42}]}"}]` {
		t.Errorf("got %s", got)
	}
	r, _, err = ask(c, "", mcp.Anonymous, nil, "tools/call", `{"name":"many"}`)
	if got := text(t, r, err); !strings.Contains(got, `"truncated":true`) || !strings.Contains(got, "cut after 2 rows") || !strings.Contains(got, "max_rows") {
		t.Errorf("got %s", got)
	}
	var tool *mcp.ToolError
	if _, _, err := ask(c, "", mcp.Anonymous, nil, "tools/call", `{"name":"get","arguments":{"n":"x"}}`); !errors.As(err, &tool) || tool.Kind != "arguments" {
		t.Errorf("a wrong argument: %v", err)
	}
}

// A tool that a caller may not use is, for that caller, not there: not in lists, not in toolsets, and with the answer of a
// name that nobody knows.
func TestScopes(t *testing.T) {
	t.Parallel()
	d := Definitions{
		Tools:     []Tool{sqlTool("open", "SELECT 1 AS v"), sqlTool("closed", "SELECT 2 AS v", func(t *Tool) { t.RequireScopes = []string{"read"} })},
		Resources: []Resource{{URI: "x://closed", Name: "r", Source: "db", Statement: "SELECT 3 AS v", RequireScopes: []string{"read"}}},
		Prompts:   []Prompt{{Name: "p", Messages: []PromptMessage{{Role: "user", Text: "hi"}}, RequireScopes: []string{"read"}}},
		Toolsets:  map[string][]string{"set": {"closed", "open"}},
	}
	d.Resources[0].SetDefaults()
	d.Resources[0].URI = "x://closed"
	c := build(t, d, database(t, ""))
	reader := mcp.NewPrincipal("a", "b", []string{"read", "more"})
	for _, set := range []string{"", "set"} {
		r, _, err := ask(c, set, mcp.Anonymous, nil, "tools/list", `{}`)
		if got := text(t, r, err); strings.Contains(got, "closed") || !strings.Contains(got, "open") {
			t.Errorf("anonymous sees %s", got)
		}
		r, _, err = ask(c, set, reader, nil, "tools/list", `{}`)
		if got := text(t, r, err); !strings.Contains(got, "closed") {
			t.Errorf("the reader sees %s", got)
		}
		_, _, hidden := ask(c, set, mcp.Anonymous, nil, "tools/call", `{"name":"closed"}`)
		_, _, unknown := ask(c, set, mcp.Anonymous, nil, "tools/call", `{"name":"nobody"}`)
		if hidden == nil || unknown == nil || strings.ReplaceAll(hidden.Error(), "closed", "nobody") != unknown.Error() {
			t.Errorf("hidden: %v, unknown: %v", hidden, unknown)
		}
		if r, _, err := ask(c, set, reader, nil, "tools/call", `{"name":"closed"}`); !strings.Contains(text(t, r, err), `"v":2`) {
			t.Error("the reader cannot call it")
		}
	}
	for _, q := range []struct{ method, params string }{{"resources/read", `{"uri":"x://closed"}`}, {"prompts/get", `{"name":"p"}`}} {
		if _, _, err := ask(c, "", mcp.Anonymous, nil, q.method, q.params); err == nil {
			t.Errorf("%s answers anonymous", q.method)
		}
		if _, _, err := ask(c, "", reader, nil, q.method, q.params); err != nil {
			t.Errorf("%s: %v", q.method, err)
		}
	}
	if c.Has("nowhere") || !c.Has("set") || !c.Has("") {
		t.Error("toolsets are not what was defined")
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	var d Definitions
	for i := range 250 {
		d.Tools = append(d.Tools, sqlTool(fmt.Sprintf("tool%03d", i), "SELECT 1 AS v"))
	}
	c := build(t, d, database(t, ""))
	seen, cursor, pages := map[string]bool{}, "", 0
	for {
		params := `{}`
		if cursor != "" {
			params = `{"cursor":"` + cursor + `"}`
		}
		r, _, err := ask(c, "", mcp.Anonymous, nil, "tools/list", params)
		var page struct {
			Tools []struct {
				Name string `json:"name"`
			} `json:"tools"`
			NextCursor string `json:"nextCursor"`
		}
		if err := json.Unmarshal([]byte("{"+text(t, r, err)+"}"), &page); err != nil {
			t.Fatal(err)
		}
		for _, tool := range page.Tools {
			if seen[tool.Name] {
				t.Errorf("%s came twice", tool.Name)
			}
			seen[tool.Name] = true
		}
		pages++
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if len(seen) != 250 || pages != 3 {
		t.Errorf("%d tools on %d pages", len(seen), pages)
	}
	for _, bad := range []string{"x", "YWZ0", strings.Repeat("A", 2000)} {
		_, _, err := ask(c, "", mcp.Anonymous, nil, "tools/list", `{"cursor":"`+bad+`"}`)
		if e, ok := mcp.AsError(err); !ok || e.Code != mcp.CodeInvalidParams {
			t.Errorf("cursor %.20q: %v", bad, err)
		}
	}
	if r, _, err := ask(c, "", mcp.Anonymous, nil, "tools/list", `{"cursor":""}`); !strings.Contains(text(t, r, err), "tool000") {
		t.Error("the empty cursor is not the beginning")
	}
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	sources := database(t, "CREATE TABLE n (i INTEGER); INSERT INTO n VALUES (1), (2)")
	c := build(t, Definitions{Tools: []Tool{
		sqlTool("wipe", "DELETE FROM n", func(t *Tool) { t.Annotations.ReadOnlyHint, t.Confirm = false, "Delete {n} rows?" }),
		sqlTool("add", "INSERT INTO n VALUES (3)", func(t *Tool) { t.Annotations.ReadOnlyHint = false }),
		sqlTool("count", "SELECT count(*) AS n FROM n"),
	}}, sources)
	count := func(want int) {
		t.Helper()
		if r, _, err := ask(c, "", mcp.Anonymous, nil, "tools/call", `{"name":"count"}`); !strings.Contains(text(t, r, err), fmt.Sprintf(`"n":%d`, want)) {
			t.Errorf("got %s, want %d rows", r.Fields, want)
		}
	}
	wipe := func(a *mcp.Answer) (mcp.Result, error) {
		r, _, err := ask(c, "", mcp.Anonymous, func(call *mcp.Call) { call.CanElicit, call.Answer = true, a }, "tools/call", `{"name":"wipe"}`)
		return r, err
	}
	yes := func(state string) *mcp.Answer {
		return &mcp.Answer{State: []byte(state), Responses: map[string][]byte{"confirm": []byte(`{"action":"accept","content":{"confirm":true}}`)}}
	}
	_, _, err := ask(c, "", mcp.Anonymous, nil, "tools/call", `{"name":"wipe"}`)
	if e, ok := mcp.AsError(err); !ok || e.Code != mcp.CodeMissingCapability {
		t.Errorf("a client that cannot ask: %v", err)
	}
	r, err := wipe(nil)
	if err != nil || r.Input == nil || !strings.Contains(string(r.Input.Requests[0].Params), "Delete 2 rows?") || string(r.Input.State) != "2" {
		t.Fatalf("got %+v, %v", r, err)
	}
	count(2)
	for _, reply := range []string{`{"action":"decline"}`, `{"action":"cancel"}`, `{"action":"accept","content":{"confirm":false}}`, `{"action":"accept"}`, `{}`} {
		var tool *mcp.ToolError
		if _, err := wipe(&mcp.Answer{State: []byte("2"), Responses: map[string][]byte{"confirm": []byte(reply)}}); !errors.As(err, &tool) || tool.Kind != "declined" {
			t.Errorf("%s: %v", reply, err)
		}
	}
	if r, err := wipe(&mcp.Answer{State: []byte("2")}); err != nil || r.Input == nil {
		t.Errorf("a missing answer does not ask again: %+v, %v", r, err)
	}
	count(2)
	if _, _, err := ask(c, "", mcp.Anonymous, nil, "tools/call", `{"name":"add"}`); err != nil {
		t.Fatal(err)
	}
	if r, err = wipe(yes("2")); err != nil || r.Input == nil || string(r.Input.State) != "3" {
		t.Errorf("what was agreed to has changed, and it was not asked again: %+v, %v", r, err)
	}
	count(3)
	if r, err = wipe(yes("3")); !strings.Contains(text(t, r, err), `"rows_affected":3`) {
		t.Errorf("got %s", r.Fields)
	}
	count(0)
	if r, err = wipe(nil); !strings.Contains(text(t, r, err), `"rows_affected":0`) {
		t.Errorf("nothing to confirm, and it asks: %+v", r)
	}
}

// What scopes guard is never offered to shared caches, whoever shares it here.
func TestHintsOfGuardedResources(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		scopes []string
		want   mcp.Scope
	}{{nil, mcp.ScopePublic}, {[]string{"read"}, mcp.ScopePrivate}} {
		r := updated("n://all")
		r.Cache, r.RequireScopes = &CachePolicy{Scope: "public"}, c.scopes
		cat, faults := New(Definitions{Resources: []Resource{r}}, Deps{Sources: database(t, ""), TTL: conf.Duration(time.Minute),
			Meter: func(mcp.Method, string) mcp.Meter { return nil }})
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		result, _, err := ask(cat, "", &mcp.Principal{Scopes: c.scopes}, nil, "resources/read", `{"uri":"n://all"}`)
		if err != nil || result.Hints == nil || result.Hints.Scope != c.want {
			t.Errorf("scopes %q: %+v, %v; want scope %d", c.scopes, result.Hints, err, c.want)
		}
	}
}

func TestResources(t *testing.T) {
	t.Parallel()
	byID := Resource{URITemplate: "city://{id}", Name: "city", Source: "db", Statement: "SELECT * FROM c WHERE id = :id",
		Parameters: []Parameter{{Name: "id", Type: "integer"}}}
	named := Resource{URITemplate: "name://a.b/{name}", Name: "named", Source: "db", Statement: "SELECT * FROM c WHERE name = :name"}
	all := Resource{URI: "all://c", Name: "all", Source: "db", Statement: "SELECT * FROM c WHERE id > 5"}
	for _, r := range []*Resource{&byID, &named, &all} {
		was := *r
		r.SetDefaults()
		was.Timeout, was.MaxRows, was.MaxBytes, was.MimeType = r.Timeout, r.MaxRows, r.MaxBytes, r.MimeType
		*r = was
	}
	c := build(t, Definitions{Resources: []Resource{byID, named, all}}, database(t, "CREATE TABLE c (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO c VALUES (1, 'a/b c')"))
	for uri, want := range map[string]string{
		"city://1":                    `"contents":[{"uri":"city://1","mimeType":"application/json","text":"{\"rows\":[{\"id\":1,\"name\":\"a/b c\"}]}"}]`,
		"name://a.b/a%2Fb%20c":        `"contents":[{"uri":"name://a.b/a%2Fb%20c","mimeType":"application/json","text":"{\"rows\":[{\"id\":1,\"name\":\"a/b c\"}]}"}]`,
		"all://c":                     `"contents":[{"uri":"all://c","mimeType":"application/json","text":"{\"rows\":[]}"}]`,
		"city://2":                    "", // no such row
		"city://x":                    "", // no such id
		"city://1/2":                  "",
		"city://":                     "",
		"name://aXb/a%2Fb%20c":        "", // a dot is a dot
		"name://a.b/%zz":              "",
		"CITY://1":                    "",
		"city://99999999999999999999": "",
	} {
		r, _, err := ask(c, "", mcp.Anonymous, nil, "resources/read", `{"uri":`+string(mcp.AppendText(nil, uri))+`}`)
		if want != "" {
			if got := text(t, r, err); got != want {
				t.Errorf("%s: got %s", uri, got)
			}
		} else if e, ok := mcp.AsError(err); !ok || e.Code != mcp.CodeResourceNotFound {
			t.Errorf("%s: %s, %v", uri, r.Fields, err)
		}
	}
}

func TestPrompts(t *testing.T) {
	t.Parallel()
	c := build(t, Definitions{Prompts: []Prompt{{Name: "p", Arguments: []PromptArgument{
		{Name: "a", Required: true, Complete: &Complete{Source: "db", Statement: "SELECT 'x' || :value AS v UNION ALL SELECT 'y'"}},
		{Name: "b", Complete: &Complete{Values: []string{"Red", "rose", "blue"}}}, {Name: "c"}},
		Messages: []PromptMessage{{Role: "user", Text: "{a} and {b} {not this}"}}}}}, database(t, ""))
	r, _, err := ask(c, "", mcp.Anonymous, nil, "prompts/get", `{"name":"p","arguments":{"a":"{b}","b":"\"q\""}}`)
	if got := text(t, r, err); got != `"messages":[{"role":"user","content":{"type":"text","text":"{b} and \"q\" {not this}"}}]` {
		t.Errorf("got %s", got)
	}
	for _, params := range []string{`{"name":"p"}`, `{"name":"p","arguments":{"a":1}}`, `{"name":"p","arguments":{"a":"x","z":"y"}}`, `{"name":"q"}`, `{}`} {
		if _, _, err := ask(c, "", mcp.Anonymous, nil, "prompts/get", params); err == nil {
			t.Errorf("%s passed", params)
		}
	}
	for argument, want := range map[string]string{
		"a": `"completion":{"values":["xr","y"],"hasMore":false,"total":2}`, "b": `"completion":{"values":["Red","rose"],"hasMore":false,"total":2}`,
		"c": `"completion":{"values":[],"hasMore":false,"total":0}`,
	} {
		r, _, err := ask(c, "", mcp.Anonymous, nil, "completion/complete", `{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"`+argument+`","value":"r"}}`)
		if got := text(t, r, err); got != want {
			t.Errorf("%s: got %s", argument, got)
		}
	}
	if _, _, err := ask(c, "", mcp.Anonymous, nil, "completion/complete", `{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"zz","value":""}}`); err == nil {
		t.Error("an unknown argument is completed")
	}
}

func TestSignaturesAndVersions(t *testing.T) {
	t.Parallel()
	sources := database(t, "CREATE TABLE c (id INTEGER)")
	one := build(t, Definitions{Tools: []Tool{sqlTool("a", "SELECT id FROM c")}}, sources)
	same := build(t, Definitions{Tools: []Tool{sqlTool("a", "SELECT id FROM c")}}, sources)
	other := build(t, Definitions{Tools: []Tool{sqlTool("a", "SELECT id FROM c LIMIT 1")}}, sources)
	described := build(t, Definitions{Tools: []Tool{sqlTool("a", "SELECT id FROM c", func(t *Tool) { t.Description = "Another." })}}, sources)
	moved := build(t, Definitions{Tools: []Tool{sqlTool("a", "SELECT id FROM c")}}, map[string]Source{"db": {Source: sources["db"].Source, Hash: "other"}})
	if one.Signatures() != same.Signatures() || one.Signatures() != other.Signatures() || one.Signatures() == described.Signatures() {
		t.Error("signatures are not those of the lists")
	}
	if one.tools[0].version != same.tools[0].version || one.tools[0].version == other.tools[0].version || one.tools[0].version == moved.tools[0].version {
		t.Error("versions are not those of definition and source")
	}
	before := one.Signatures()
	if complete, refused := one.Describe(t.Context()); !complete || len(refused) > 0 || one.Signatures()[0] == before[0] || one.Signatures()[1] != before[1] {
		t.Error("the columns do not show")
	}
	r, _, err := ask(one, "", mcp.Anonymous, nil, "tools/list", `{}`)
	if got := text(t, r, err); !strings.Contains(got, `"outputSchema":{"type":"object","properties":{"rows":{"type":"array","items":{"type":"object","properties":{"id":`) {
		t.Errorf("got %s", got)
	}
	before = one.Signatures()
	if complete, _ := one.Describe(t.Context()); !complete || one.Signatures() != before {
		t.Error("describing again changes something")
	}
}

// A tool of several statements gives one object, is described by it, and says which of its parts were cut.
func TestStatements(t *testing.T) {
	c := build(t, Definitions{Tools: []Tool{sqlTool("report", "", func(t *Tool) {
		t.Annotations.ReadOnlyHint, t.MaxRows, t.Snapshot = true, 2, true
		t.Statements = map[string]string{"one": "SELECT 1 AS v", "more": "SELECT id FROM n"}
	})}}, database(t, "CREATE TABLE n (id INTEGER); INSERT INTO n VALUES (1), (2), (3)"))
	if complete, refused := c.Describe(t.Context()); !complete || len(refused) > 0 {
		t.Fatal(complete, refused)
	}
	listed := string(*c.tools[0].listed.Load())
	const rows = `{"type":"object","properties":{"rows":{"type":"array","items":{"type":"object","properties":{"id":`
	if !json.Valid([]byte(listed)) || !strings.Contains(listed, `"outputSchema":{"type":"object","properties":{"more":`+rows) || !strings.Contains(listed, `"required":["more","one"]`) {
		t.Error(listed)
	}
	r, err := c.tools[0].run(t.Context(), &mcp.Call{})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		StructuredContent map[string]struct {
			Rows      []map[string]int
			Truncated bool
		}
		Content []struct{ Text string }
	}
	if err := json.Unmarshal([]byte("{"+string(r.Fields)+"}"), &got); err != nil {
		t.Fatal(err)
	}
	if s := got.StructuredContent; len(s) != 2 || len(s["more"].Rows) != 2 || !s["more"].Truncated || s["one"].Rows[0]["v"] != 1 || s["one"].Truncated {
		t.Errorf("%s", r.Fields)
	}
	if len(got.Content) != 2 || !strings.HasPrefix(got.Content[1].Text, "The result was cut after 3 rows in all") {
		t.Errorf("%+v", got.Content)
	}
}
