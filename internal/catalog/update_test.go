package catalog

import (
	"context"
	"slices"
	"strings"
	"testing"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

func updated(uri string) Resource {
	r := Resource{Name: "r", Source: "db", Statement: "SELECT 1 AS v"}
	if r.SetDefaults(); strings.Contains(uri, "{") {
		r.URITemplate, r.Statement = uri, "SELECT :id AS v"
	} else {
		r.URI = uri
	}
	return r
}

// A write that was kept tells what it changed, with its own arguments; one that failed or waits for its user tells nothing.
func TestUpdates(t *testing.T) {
	t.Parallel()
	var told []string
	write := func(change ...func(*Tool)) Tool {
		return sqlTool("w", "INSERT INTO n VALUES (:id)", append([]func(*Tool){func(t *Tool) {
			t.Annotations.ReadOnlyHint = false
			t.Updates = []string{"n://all", "n://{id}/x"}
			t.Parameters = []Parameter{{Name: "id", Type: "string"}}
		}}, change...)...)
	}
	asks := write(func(t *Tool) { t.Name, t.Confirm = "asks", "Sure?" })
	d := Definitions{Tools: []Tool{write(), asks}, Resources: []Resource{updated("n://all"), updated("n://{id}/x")}}
	c, faults := New(d, Deps{Sources: database(t, "CREATE TABLE n (id TEXT CHECK (id <> 'bad'))"), Meter: func(mcp.Method, string) mcp.Meter { return nil },
		Publish: func(events ...mcp.Event) {
			for _, e := range events {
				if e.Kind != mcp.ResourceUpdated {
					t.Errorf("told %+v", e)
				}
				told = append(told, e.URI)
			}
		}})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	canAsk := func(c *mcp.Call) { c.CanElicit = true }
	agree := func(c *mcp.Call) {
		canAsk(c)
		c.Answer = &mcp.Answer{State: []byte("1"), Responses: map[string][]byte{confirmKey: []byte(`{"action":"accept","content":{"confirm":true}}`)}}
	}
	for _, call := range []struct {
		params string
		change func(*mcp.Call)
		want   []string
	}{
		{`{"name":"w","arguments":{"id":"a b/ü"}}`, nil, []string{"n://all", "n://a%20b%2F%C3%BC/x"}},
		{`{"name":"w","arguments":{}}`, nil, []string{"n://all"}},
		{`{"name":"w","arguments":{"id":"bad"}}`, nil, nil},
		{`{"name":"asks","arguments":{"id":"1"}}`, canAsk, nil},
		{`{"name":"asks","arguments":{"id":"1"}}`, agree, []string{"n://all", "n://1/x"}},
	} {
		told = nil
		_, _, err := ask(c, "", mcp.Anonymous, call.change, "tools/call", call.params)
		if !slices.Equal(told, call.want) {
			t.Errorf("%s told %q, want %q (%v)", call.params, told, call.want, err)
		}
	}
}

// doubtful is a source whose writes end with an error.
type doubtful struct {
	sqldb.Source
	err error
}

func (d doubtful) Compile(spec sqldb.Spec) (sqldb.Query, error) {
	q, err := d.Source.Compile(spec)
	if spec.Mode == sqldb.ReadWrite {
		return doubt{q, d.err}, err
	}
	return q, err
}

type doubt struct {
	sqldb.Query
	err error
}

func (d doubt) Run(_ context.Context, dst []byte, _ *sqldb.Execution) ([]byte, sqldb.Outcome, error) {
	return dst, sqldb.Outcome{}, d.err
}

// A write that may have been kept tells what it may have changed.
func TestUpdatesOfUnknownFate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cause error
		want  int
	}{{mcp.ErrUnknownFate, 1}, {nil, 0}} {
		sources := database(t, "CREATE TABLE n (id)")
		sources["db"] = Source{Source: doubtful{sources["db"].Source, &mcp.ToolError{Kind: "unavailable", Message: "lost", Cause: c.cause}}}
		told := 0
		tool := sqlTool("w", "INSERT INTO n VALUES (1)", func(t *Tool) { t.Annotations.ReadOnlyHint, t.Updates = false, []string{"n://all"} })
		cat, faults := New(Definitions{Tools: []Tool{tool}, Resources: []Resource{updated("n://all")}},
			Deps{Sources: sources, Meter: func(mcp.Method, string) mcp.Meter { return nil }, Publish: func(e ...mcp.Event) { told += len(e) }})
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		if _, _, err := ask(cat, "", mcp.Anonymous, nil, "tools/call", `{"name":"w","arguments":{}}`); err == nil || told != c.want {
			t.Errorf("cause %v told %d, want %d (%v)", c.cause, told, c.want, err)
		}
	}
}

func TestFaultyUpdates(t *testing.T) {
	t.Parallel()
	cached := updated("c://{id}")
	cached.Cache = &CachePolicy{Scope: "private"}
	sources := database(t, "CREATE TABLE n (id)")
	for _, c := range []struct {
		update, want string
		change       func(*Tool)
	}{
		{"n://{id}/x", "", func(*Tool) {}},
		{"n://{id}/y", `no resource has an address like "n://{id}/y"`, func(*Tool) {}},
		{"n://{other}/x", `no parameter "other"`, func(*Tool) {}},
		{"c://{id}", "is cached", func(*Tool) {}},
		{"n://{id}/x", "goes with writes only", func(t *Tool) { t.Annotations.ReadOnlyHint, t.Statement = true, "SELECT :id" }},
		{"n://{id}/x", "of type array", func(t *Tool) { t.Parameters[0].Type = "array" }},
	} {
		tool := sqlTool("w", "INSERT INTO n VALUES (:id)", func(t *Tool) {
			t.Annotations.ReadOnlyHint = false
			t.Updates = []string{c.update}
			t.Parameters = []Parameter{{Name: "id", Type: "string"}}
			c.change(t)
		})
		_, faults := New(Definitions{Tools: []Tool{tool}, Resources: []Resource{updated("n://{id}/x"), cached}},
			Deps{Sources: sources, TTL: conf.Duration(1), Meter: func(mcp.Method, string) mcp.Meter { return nil }})
		if got := faults.Error(); c.want == "" && len(faults) > 0 || !strings.Contains(got, c.want) || c.want != "" && !strings.Contains(got, "tools[0].updates[0]") {
			t.Errorf("%s gave %s, want %s", c.update, got, c.want)
		}
	}
}
