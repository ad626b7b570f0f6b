package catalog

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"

	"millrace/internal/mcp"
)

func TestBoundsAreExact(t *testing.T) {
	t.Parallel()
	table := mustTable(t, Parameter{Name: "i", Type: "integer", Minimum: ptr(-9007199254740992.0), Maximum: ptr(9007199254740992.0)},
		Parameter{Name: "wide", Type: "integer", Maximum: ptr(9223372036854775807.0)})
	for raw, good := range map[string]bool{
		`{"i":9007199254740992}`: true, `{"i":9007199254740993}`: false, `{"i":9007199254740991}`: true,
		`{"i":-9007199254740992}`: true, `{"i":-9007199254740993}`: false, `{"i":-9223372036854775808}`: false,
		`{"wide":9223372036854775807}`: true,
	} {
		if _, _, err := table.decode([]byte(raw), nil); (err == nil) != good {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

// TestIntegersAreExact holds the reading of integers against exact arithmetic.
func TestIntegersAreExact(t *testing.T) {
	t.Parallel()
	for _, digits := range []string{"0", "-0", "1", "9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
		"-9223372036854775809", "10000000000000000000", "1.5", "0.0", "123456789012345678.5", "92233720368547758.07", "922337203685477580.7"} {
		for _, exponent := range []string{"", "e0", "E+1", "e2", "e-1", "e-2", "e18", "e-18"} {
			raw := digits + exponent
			want, ok := new(big.Rat).SetString(raw)
			if !ok {
				t.Fatal(raw)
			}
			n, problem := parseInteger([]byte(raw))
			if fits := want.IsInt() && want.Num().IsInt64(); fits != (problem == "") || fits && n != want.Num().Int64() {
				t.Errorf("%s is %d, %q; want %s", raw, n, problem, want)
			}
		}
	}
	for _, raw := range []string{"1e-999999999", "1e999999999", "1e-99999999999999999999", "1" + strings.Repeat("0", 1<<20) + ".5"} {
		if _, problem := parseInteger([]byte(raw)); problem == "" {
			t.Errorf("%.30s… is taken", raw)
		}
	}
}

func TestRoundedNumbersAreFoundAtAnyDepth(t *testing.T) {
	t.Parallel()
	for raw, rounded := range map[string]bool{
		`[1,-2.5,"9007199254740993","\"9007199254740993",true,null,{"9007199254740993":1}]`: false,
		`{"a":[{"b":9007199254740993}]}`: true, `["\\",9007199254740993]`: true, `[0.30000000000000004]`: false,
		`[-9007199254740992]`: true, `[1e400]`: true, `[9007199254740991]`: false,
		`[0.30000000000000003]`: true, `[0.300000000000000041]`: true, `[8007199254740991.3]`: true, `[1.0000000000000001]`: true,
		`[1.00000000000000000000]`: false, `[-0.1234567890123e-5,1.50,100,0.0,-0e7,12E2]`: false, `[1e-400]`: true, `[4e-324]`: true, `[5e-324]`: false,
	} {
		if got := hasRounded([]byte(raw)); got != rounded {
			t.Errorf("%s: %v", raw, got)
		}
	}
}

func TestUnknownArgumentIsClipped(t *testing.T) {
	t.Parallel()
	_, _, err := mustTable(t, Parameter{Name: "a", Type: "string"}).decode([]byte(`{"`+strings.Repeat("x", 1<<20)+`":1}`), nil)
	if err == nil || len(err.Error()) > 300 || !strings.Contains(err.Error(), "the tool takes a") {
		t.Errorf("%.400v", err)
	}
}

// TestFaultyDefinitions: a mistake in the file is a fault, never a panic.
func TestFaultyDefinitions(t *testing.T) {
	t.Parallel()
	sources := database(t, "CREATE TABLE c (id INTEGER)")
	resource := func(change func(*Resource)) Definitions {
		r := Resource{URI: "c://all", Name: "all", Source: "db", Statement: "SELECT * FROM c"}
		r.SetDefaults()
		change(&r)
		return Definitions{Resources: []Resource{r}}
	}
	template := func(text string) Resource {
		r := Resource{URITemplate: text, Name: "one", Source: "db", Statement: "SELECT * FROM c WHERE id = :id"}
		r.SetDefaults()
		return r
	}
	for name, c := range map[string]struct {
		d    Definitions
		want string
	}{
		"no number": {Definitions{Tools: []Tool{sqlTool("a", "SELECT 1", func(t *Tool) { t.Output = map[string]any{"minimum": math.NaN()} })}}, "JSON"},
		"default of a bad schema": {Definitions{Tools: []Tool{sqlTool("a", "SELECT :p", func(t *Tool) {
			t.Parameters = []Parameter{{Name: "p", Type: "array", Items: 5, Default: []any{1}}}
		})}}, "JSON Schema"},
		"parameters of a fixed address": {resource(func(r *Resource) {
			r.Statement, r.Parameters = "SELECT * FROM c WHERE id = :id", []Parameter{{Name: "id", Type: "integer"}}
		}), "uriTemplate only"},
		"long address":     {resource(func(r *Resource) { r.URI += strings.Repeat("x", maxURI) }), "longer than 8192"},
		"template twice":   {Definitions{Resources: []Resource{template("c://{id}"), template("c://{id}")}}, "twice"},
		"nameless toolset": {Definitions{Toolsets: map[string][]string{"": nil}}, "no name of a toolset"},
	} {
		_, faults := New(c.d, Deps{Sources: sources, Meter: func(mcp.Method, string) mcp.Meter { return nil }})
		if !strings.Contains(faults.Error(), c.want) {
			t.Errorf("%s: %v", name, faults)
		}
	}
}

// TestHiddenResourceHidesNothing: who may not see the first template that fits gets what the second says.
func TestHiddenResourceHidesNothing(t *testing.T) {
	t.Parallel()
	one := func(uri, statement string, scopes ...string) Resource {
		r := Resource{URITemplate: uri, Name: statement, Source: "db", Statement: statement, RequireScopes: scopes}
		r.SetDefaults()
		return r
	}
	number := one("c://{n}", "SELECT :n AS number")
	number.Parameters = []Parameter{{Name: "n", Type: "integer"}}
	c := build(t, Definitions{Resources: []Resource{one("c://{a}", "SELECT :a AS hidden", "admin"), number, one("c://{b}", "SELECT :b AS shown")}}, database(t, ""))
	admin := mcp.NewPrincipal("t", "a", []string{"admin"})
	for _, x := range []struct {
		who       *mcp.Principal
		uri, want string
	}{{admin, "c://7", "hidden"}, {mcp.Anonymous, "c://7", `number\":7`}, {mcp.Anonymous, "c://x", "shown"}, {mcp.Anonymous, "c://%ff", ""}} {
		r, _, err := ask(c, "", x.who, nil, "resources/read", `{"uri":"`+x.uri+`"}`)
		if (err == nil) != (x.want != "") || !strings.Contains(string(r.Fields), x.want) {
			t.Errorf("%s for %s: %s %v; want %s", x.uri, x.who.Subject, r.Fields, err, x.want)
		}
	}
}

// TestToolsetThatIsGone: an endpoint was found in one generation and is resolved in the next, which has it no more.
func TestToolsetThatIsGone(t *testing.T) {
	t.Parallel()
	c := build(t, Definitions{Tools: []Tool{sqlTool("a", "SELECT 1")}}, database(t, ""))
	for _, method := range []string{"tools/list", "tools/call", "resources/read", "prompts/get", "completion/complete"} {
		_, _, err := ask(c, "gone", mcp.Anonymous, nil, method, `{"name":"a","uri":"c://1"}`)
		if fault := (*mcp.Error)(nil); !errors.As(err, &fault) || fault.Code != mcp.CodeInvalidParams {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// TestCursorOfLongNames: what a list gives as its cursor it takes, however long its entries' names are.
func TestCursorOfLongNames(t *testing.T) {
	t.Parallel()
	var d Definitions
	for i := range pageSize + 1 {
		r := Resource{URI: "c://" + strings.Repeat("x", 2000) + string(rune('0'+i)), Name: "r", Source: "db", Statement: "SELECT 1"}
		r.SetDefaults()
		d.Resources = append(d.Resources, r)
	}
	c := build(t, d, database(t, ""))
	r, _, err := ask(c, "", mcp.Anonymous, nil, "resources/list", `{}`)
	var page struct{ NextCursor string }
	if err := errors.Join(err, json.Unmarshal([]byte("{"+string(r.Fields)+"}"), &page)); err != nil || page.NextCursor == "" {
		t.Fatalf("%v, cursor %q", err, page.NextCursor)
	}
	if r, _, err = ask(c, "", mcp.Anonymous, nil, "resources/list", `{"cursor":"`+page.NextCursor+`"}`); err != nil || strings.Count(string(r.Fields), `"uri"`) != 1 {
		t.Errorf("second page: %v", err)
	}
}
