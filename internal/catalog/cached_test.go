package catalog

import (
	"context"
	"slices"
	"testing"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

func cachedTool(name, statement string, c CachePolicy, params ...Parameter) Tool {
	return sqlTool(name, statement, func(t *Tool) { t.Cache, t.Parameters = &c, params })
}

func param(name, kind string) Parameter { return Parameter{Name: name, Type: kind} }

// open compiles tools on a table of notes.
func open(t *testing.T, tools ...Tool) *Catalog {
	t.Helper()
	c, faults := New(Definitions{Tools: tools}, Deps{Sources: database(t, "CREATE TABLE n (id INTEGER PRIMARY KEY, v TEXT)"), TTL: conf.Duration(time.Minute),
		Meter: func(mcp.Method, string) mcp.Meter { return nil }, Publish: func(...mcp.Event) {}})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return c
}

func resolved(t *testing.T, c *Catalog, p *mcp.Principal, params string) *mcp.Call {
	t.Helper()
	_, call, err := ask(c, "", p, nil, "tools/call", params)
	if err != nil {
		t.Fatal(err)
	}
	return call
}

// A write and a read that mean the same thing give the same tag, whatever types they have given it.
func TestTags(t *testing.T) {
	t.Parallel()
	read := cachedTool("read", "SELECT :id AS id, :a AS a", CachePolicy{Scope: "public", Tags: []string{"n:{id}", "all", "a:{a}/{id}"}}, param("id", "integer"), param("a", "string"))
	write := sqlTool("write", "INSERT INTO n VALUES (:id, :a)", func(t *Tool) {
		t.Annotations.ReadOnlyHint, t.Parameters = false, []Parameter{param("id", "number"), param("a", "string")}
		t.Invalidates = []string{"n:{id}", "a:{a}/{id}"}
	})
	c := open(t, read, write)
	for arguments, want := range map[string][]string{
		`{"id":7,"a":"x/y"}`: {"n:7", "all", "a:x/y/7"}, `{"id":-3}`: {"n:-3", "all", "a:/-3"}, `{}`: {"n:", "all", "a:/"},
	} {
		want = append(want, "row")
		call := resolved(t, c, mcp.Anonymous, `{"name":"read","arguments":`+arguments+`}`)
		got := call.Policy.Tags(call.Args)
		if got[len(got)-1] = "row"; !slices.Equal(got, want) || call.Policy.Changes != nil {
			t.Errorf("%s gives %q, want %q", arguments, got, want)
		}
	}
	zero := resolved(t, c, mcp.Anonymous, `{"name":"write","arguments":{"id":-0.0,"a":""}}`)
	if got := zero.Policy.Changes.Tags(zero.Args); got[0] != "n:0" {
		t.Errorf("-0 gives %q", got)
	}
	call := resolved(t, c, mcp.Anonymous, `{"name":"write","arguments":{"id":7.0,"a":"x/y"}}`)
	if got := call.Policy.Changes.Tags(call.Args); !slices.Equal(got, []string{"n:7", "a:x/y/7"}) || call.Policy.Changes.Put != nil {
		t.Errorf("the write gives %q", got)
	}
}

func TestWrites(t *testing.T) {
	t.Parallel()
	read := func(statement string, scopes ...string) Tool {
		read := cachedTool("read", statement, CachePolicy{Scope: "tenant"}, param("id", "integer"))
		read.RequireScopes = scopes
		read.Parameters[0].Required, read.Parameters[0].Minimum = true, ptr(0.0)
		return read
	}
	write := sqlTool("write", "INSERT INTO n VALUES (:key, 'x') RETURNING id, v", func(t *Tool) {
		t.Annotations.ReadOnlyHint, t.Parameters = false, []Parameter{param("key", "integer")}
		t.Writes = &Writes{Tool: "read", With: map[string]string{"id": "key"}}
	})
	const good = "SELECT id, v FROM n WHERE id = :id"
	ann := mcp.NewPrincipal("acme", "ann", []string{"read"})
	for _, c := range []struct {
		name, read string
		scopes     []string
		key        string
		described  bool
		put        bool
	}{
		{"the same columns", good, nil, "1", true, true},
		{"nobody asked the database", good, nil, "1", false, false},
		{"other columns", "SELECT v, id FROM n WHERE id = :id", nil, "1", true, false},
		{"the caller may read", good, []string{"read"}, "1", true, true},
		{"the caller may not read", good, []string{"admin"}, "1", true, false},
		{"nobody can read it", good, nil, "-1", true, false},
		{"no key", good, nil, "null", true, false},
	} {
		cat := open(t, read(c.read, c.scopes...), write)
		if c.described {
			if complete, refused := cat.Describe(context.Background()); !complete || len(refused) > 0 {
				t.Fatal(complete, refused)
			}
		}
		w := resolved(t, cat, ann, `{"name":"write","arguments":{"key":`+c.key+`}}`)
		put := w.Policy.Changes.Put(w)
		if (put != nil) != c.put {
			t.Errorf("%s: put is %v", c.name, put)
		}
		if put == nil {
			continue
		}
		all := mcp.NewPrincipal("acme", "ann", append(slices.Clone(c.scopes), "read"))
		r := resolved(t, cat, all, `{"name":"read","arguments":{"id":`+c.key+`}}`)
		if string(put.Key()) != string(r.Key()) || put.Policy != r.Policy {
			t.Errorf("%s: what is put is not what is read", c.name)
		}
		tags, row := r.Policy.Tags(r.Args), w.Policy.Changes.Tags(w.Args)
		if len(row) != 1 || !slices.Contains(tags, row[0]) {
			t.Errorf("%s: the write makes %q void, the read rests on %q", c.name, row, tags)
		}
		other := resolved(t, cat, all, `{"name":"read","arguments":{"id":2}}`)
		if slices.Contains(other.Policy.Tags(other.Args), row[0]) {
			t.Errorf("%s: the write makes another row void", c.name)
		}
	}
	if faults := open(t, read("SELECT v, id FROM n WHERE id = :id"), write).Check(context.Background(), nil); len(faults) != 1 || faults[0].Path != "tools[1].writes" {
		t.Errorf("other columns: %v", faults)
	}
	removes := write
	removes.Statement = "DELETE FROM n WHERE id = :key RETURNING id, v"
	c := open(t, read(good), write, sqlTool("fill", "INSERT INTO n VALUES (1, 'x')", func(t *Tool) { t.Annotations.ReadOnlyHint = false }), func() Tool { removes.Name = "removes"; return removes }())
	if r, _, err := ask(c, "", ann, nil, "tools/call", `{"name":"write","arguments":{"key":5}}`); err != nil || r.Rows != mcp.RowsOne {
		t.Errorf("a row that was written: %v, %v", r.Rows, err)
	}
	if r, _, err := ask(c, "", ann, nil, "tools/call", `{"name":"removes","arguments":{"key":5}}`); err != nil || r.Rows != mcp.RowsUnknown {
		t.Errorf("a row that was removed is nobody's result: %v, %v", r.Rows, err)
	}
	if faults := open(t, read(good), write).Check(context.Background(), nil); len(faults) != 0 {
		t.Errorf("the same columns: %v", faults)
	}
}

func TestCachePolicies(t *testing.T) {
	t.Parallel()
	ms := func(n int) *conf.Duration { d := conf.Duration(time.Duration(n) * time.Millisecond); return &d }
	for _, c := range []struct {
		cache CachePolicy
		want  mcp.Policy
	}{
		{CachePolicy{Scope: "public"}, mcp.Policy{Cacheable: true, Scope: mcp.ScopePublic, TTL: time.Minute, Negative: 5 * time.Second}},
		{CachePolicy{Scope: "private", TTL: ms(5), NegativeTTL: ms(0), StaleWhileRevalidate: *ms(7), StaleIfError: *ms(9)},
			mcp.Policy{Cacheable: true, TTL: 5 * time.Millisecond, StaleRevalidate: 7 * time.Millisecond, StaleError: 9 * time.Millisecond}},
		{CachePolicy{Scope: "tenant", TTL: ms(0)}, mcp.Policy{Scope: mcp.ScopeTenant, Negative: 5 * time.Second}},
	} {
		got := *resolved(t, open(t, cachedTool("t", "SELECT 1 AS v", c.cache)), mcp.Anonymous, `{"name":"t","arguments":{}}`).Policy
		if got.Cacheable != c.want.Cacheable || got.Scope != c.want.Scope || got.TTL != c.want.TTL || got.Negative != c.want.Negative ||
			got.StaleRevalidate != c.want.StaleRevalidate || got.StaleError != c.want.StaleError {
			t.Errorf("%+v gives %+v", c.cache, got)
		}
	}
}

// Recall makes a call again by what a key holds of it.
func TestRecall(t *testing.T) {
	t.Parallel()
	c := open(t, cachedTool("t", "SELECT :id AS id, :a AS a", CachePolicy{Scope: "public"}, param("id", "integer"), param("a", "string")))
	call := resolved(t, c, mcp.Anonymous, `{"name":"t","arguments":{"id":7,"a":"x"}}`)
	key := call.Key()
	values, ok := mcp.ParseValues(key[call.KeyArgs():])
	if !ok {
		t.Fatalf("%q holds no values", key[call.KeyArgs():])
	}
	again := c.Recall("t", call.Version, values)
	if again == nil {
		t.Fatal("not recalled")
	}
	again.Caller.Principal = mcp.Anonymous
	if string(again.Key()) != string(key) {
		t.Error("another key")
	}
	for name, again := range map[string]*mcp.Call{"unknown": c.Recall("u", call.Version, values), "changed": c.Recall("t", [16]byte{}, values), "fewer": c.Recall("t", call.Version, values[:1])} {
		if again != nil {
			t.Errorf("%s: recalled", name)
		}
	}
}
