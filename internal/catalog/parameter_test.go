package catalog

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"millrace/internal/mcp"
)

func mustTable(t testing.TB, params ...Parameter) *table {
	t.Helper()
	table, faults := compileTable("parameters", params)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return table
}

func ptr[T any](v T) *T { return &v }

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		param Parameter
		raw   string
		want  string // the value as shown by show, or the problem
	}{
		{Parameter{Type: "integer"}, `9223372036854775807`, "int 9223372036854775807"},
		{Parameter{Type: "integer"}, `-9223372036854775808`, "int -9223372036854775808"},
		{Parameter{Type: "integer"}, `9223372036854775808`, "is beyond 64 bits"},
		{Parameter{Type: "integer"}, `5.0`, "int 5"}, {Parameter{Type: "integer"}, `5e0`, "int 5"}, {Parameter{Type: "integer"}, `0.5e1`, "int 5"},
		{Parameter{Type: "integer"}, `-0.0`, "int 0"}, {Parameter{Type: "integer"}, `0e999999999`, "int 0"},
		{Parameter{Type: "integer"}, `5.5`, "must be an integer"}, {Parameter{Type: "integer"}, `1e-999999999`, "must be an integer"},
		{Parameter{Type: "integer"}, `1e999999999`, "is beyond 64 bits"}, {Parameter{Type: "integer"}, `1e19`, "is beyond 64 bits"},
		{Parameter{Type: "integer"}, `9007199254740993.0`, "int 9007199254740993"},
		{Parameter{Type: "integer"}, `"5"`, "must be an integer, not a string"},
		{Parameter{Type: "integer", Minimum: ptr(1.0)}, `0`, "must be at least 1"}, {Parameter{Type: "integer", Maximum: ptr(9.0)}, `10`, "must be at most 9"},
		{Parameter{Type: "number"}, `1.5`, "float 1.5"}, {Parameter{Type: "number"}, `1e999`, "is beyond the range"}, {Parameter{Type: "number"}, `true`, "not a boolean"},
		{Parameter{Type: "boolean"}, `true`, "bool 1"}, {Parameter{Type: "boolean"}, `false`, "bool 0"}, {Parameter{Type: "boolean"}, `1`, "must be a boolean"},
		{Parameter{Type: "string"}, `"a\u00e9\n"`, "text aé\n"}, {Parameter{Type: "string"}, `5`, "must be a string, not a number"},
		{Parameter{Type: "string", MinLength: ptr(2)}, `"é"`, "at least 2 characters"}, {Parameter{Type: "string", MaxLength: ptr(2)}, `"éé"`, "text éé"},
		{Parameter{Type: "string", MaxLength: ptr(2)}, `"ééé"`, "at most 2 characters"},
		{Parameter{Type: "string", Pattern: "^[A-Z]{2}$"}, `"CH"`, "text CH"}, {Parameter{Type: "string", Pattern: "^[A-Z]{2}$"}, `"ch"`, "must match"},
		{Parameter{Type: "string", Enum: []any{"a", "b"}}, `"b"`, "text b"}, {Parameter{Type: "string", Enum: []any{"a", "b"}}, `"c"`, `must be one of ["a","b"]`},
		{Parameter{Type: "integer", Enum: []any{int64(1), int64(2)}}, `2.0`, "int 2"},
		{Parameter{Type: "string", Default: "x"}, ``, "text x"}, {Parameter{Type: "string"}, ``, "null"}, {Parameter{Type: "string"}, `null`, "null"},
		{Parameter{Type: "string", Required: true}, ``, "is required"}, {Parameter{Type: "string", Required: true}, `null`, "must be a string, not null"},
		{Parameter{Type: "array", Items: map[string]any{"type": "integer"}}, `[2, 1]`, "json [2,1]"},
		{Parameter{Type: "array", Items: map[string]any{"type": "integer"}}, `["x"]`, "does not fit its schema"},
		{Parameter{Type: "array"}, `{}`, "must be an array, not an object"},
		{Parameter{Type: "object"}, `{"b":1.0,"a":"\u0041"}`, `json {"a":"A","b":1}`},
		{Parameter{Type: "object"}, `{"a":9007199254740993}`, `json {"a":9007199254740993} unsafe`},
		{Parameter{Type: "array"}, `[0.12345678901234567890]`, `json [0.12345678901234567890] unsafe`},
	} {
		c.param.Name = "p"
		table := mustTable(t, c.param)
		raw := "{}"
		if c.raw != "" {
			raw = `{"p":` + c.raw + `}`
		}
		values, unsafe, err := table.decode([]byte(raw), nil)
		got := ""
		if err != nil {
			got = err.Error()
		} else if got = show(values[0]); unsafe {
			got += " unsafe"
		}
		if err == nil && got != c.want || err != nil && !strings.Contains(got, c.want) {
			t.Errorf("%s %s: got %s, want %s", c.param.Type, c.raw, got, c.want)
		}
	}
	_, _, err := mustTable(t, Parameter{Name: "id", Type: "integer"}).decode([]byte(`{"ID":1}`), nil)
	if err == nil || !strings.Contains(err.Error(), `"ID" is unknown; the tool takes id`) {
		t.Errorf("an unknown argument: %v", err)
	}
}

func show(v mcp.Value) string {
	switch v.Kind {
	case mcp.KindInt:
		return "int " + strconv.FormatInt(v.Int, 10)
	case mcp.KindBool:
		return "bool " + strconv.FormatInt(v.Int, 10)
	case mcp.KindFloat:
		return "float " + strconv.FormatFloat(v.Float, 'g', -1, 64)
	case mcp.KindText:
		return "text " + string(v.Text)
	case mcp.KindJSON:
		return "json " + string(v.Text)
	}
	return "null"
}

// What the file gets wrong is found when it is loaded.
func TestParameterFaults(t *testing.T) {
	t.Parallel()
	for path, p := range map[string]Parameter{
		"parameters[0].name":      {Name: "a b", Type: "string"},
		"parameters[0].type":      {Name: "a", Type: "text"},
		"parameters[0].minimum":   {Name: "a", Type: "string", Minimum: ptr(1.0)},
		"parameters[0].maximum":   {Name: "a", Type: "integer", Minimum: ptr(2.0), Maximum: ptr(1.0)},
		"parameters[0].pattern":   {Name: "a", Type: "string", Pattern: "("},
		"parameters[0].default":   {Name: "a", Type: "integer", Default: "x"},
		"parameters[0].enum[1]":   {Name: "a", Type: "integer", Enum: []any{int64(1), "x"}},
		"parameters[0].header":    {Name: "a", Type: "number", Header: "A"},
		"parameters[0].items":     {Name: "a", Type: "string", Items: map[string]any{}},
		"parameters[0].maxLength": {Name: "a", Type: "string", MinLength: ptr(2), MaxLength: ptr(1)},
	} {
		if _, faults := compileTable("parameters", []Parameter{p}); len(faults) != 1 || faults[0].Path != path || faults[0].Fix == "" {
			t.Errorf("%s: got %v", path, faults)
		}
	}
}

func TestParamHeaders(t *testing.T) {
	t.Parallel()
	table := mustTable(t, Parameter{Name: "region", Type: "string", Header: "Region"}, Parameter{Name: "n", Type: "integer", Header: "N"},
		Parameter{Name: "b", Type: "boolean", Header: "B"})
	if !strings.Contains(string(table.schema()), `"x-mcp-header":"Region"`) {
		t.Errorf("the schema does not say so: %s", table.schema())
	}
	for _, c := range []struct {
		raw     string
		headers map[string][]string
		ok      bool
	}{
		{`{}`, nil, true}, {`{"region":null}`, nil, true},
		{`{"region":"eu"}`, map[string][]string{"Mcp-Param-Region": {"eu"}}, true},
		{`{"region":"é"}`, map[string][]string{"Mcp-Param-Region": {mcp.EncodeHeader("é")}}, true},
		{`{"region":""}`, map[string][]string{"Mcp-Param-Region": {""}}, true},
		{`{"region":"eu"}`, nil, false},
		{`{"region":"eu"}`, map[string][]string{"Mcp-Param-Region": {"us"}}, false},
		{`{"region":"eu"}`, map[string][]string{"Mcp-Param-Region": {"eu", "eu"}}, false},
		{`{"region":"eu"}`, map[string][]string{"Mcp-Param-Region": {"=?base64?%%%?="}}, false},
		{`{}`, map[string][]string{"Mcp-Param-Region": {"eu"}}, false},
		{`{"n":5}`, map[string][]string{"Mcp-Param-N": {"5"}}, true},
		{`{"n":5}`, map[string][]string{"Mcp-Param-N": {"5.0"}}, true},
		{`{"n":5}`, map[string][]string{"Mcp-Param-N": {"6"}}, false},
		{`{"n":5}`, map[string][]string{"Mcp-Param-N": {"x"}}, false},
		{`{"b":true}`, map[string][]string{"Mcp-Param-B": {"true"}}, true},
		{`{"b":true}`, map[string][]string{"Mcp-Param-B": {"1"}}, false},
		{`{}`, map[string][]string{"Mcp-Param-Other": {"x"}}, true},
	} {
		values, _, err := table.decode([]byte(c.raw), nil)
		if err != nil {
			t.Fatal(err)
		}
		fault := table.checkHeaders(c.headers, values, []byte(c.raw))
		if (fault == nil) != c.ok || fault != nil && fault.Code != mcp.CodeHeaderMismatch {
			t.Errorf("%s with %v: %v", c.raw, c.headers, fault)
		}
	}
}

// FuzzArguments lets the table and encoding/json read the same arguments: what the table accepts means the same in both.
func FuzzArguments(f *testing.F) {
	for _, seed := range []string{`{"i":1,"n":1.5,"s":"x","b":true,"a":[1],"o":{"k":null}}`, `{"i":5.0}`, `{"i":1e-99999}`, `{"s":"\ud83d\ude00"}`, `{"a":[9007199254740993]}`, `{}`} {
		f.Add([]byte(seed))
	}
	table := mustTable(f, Parameter{Name: "i", Type: "integer"}, Parameter{Name: "n", Type: "number"}, Parameter{Name: "s", Type: "string"},
		Parameter{Name: "b", Type: "boolean"}, Parameter{Name: "a", Type: "array"}, Parameter{Name: "o", Type: "object"})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !mcp.Valid(raw) || bytes.TrimSpace(raw)[0] != '{' {
			return
		}
		values, _, err := table.decode(raw, nil)
		if err != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var tree map[string]any
		if err := d.Decode(&tree); err != nil {
			t.Fatalf("encoding/json refuses %s: %v", raw, err)
		}
		for i, name := range []string{"i", "n", "s", "b", "a", "o"} {
			v, want := values[i], tree[name]
			same := false
			switch w := want.(type) {
			case nil:
				same = v.Kind == mcp.KindNull
			case string:
				same = v.Kind == mcp.KindText && string(v.Text) == w
			case bool:
				same = v.Kind == mcp.KindBool && v.Bool() == w
			case json.Number:
				number, _ := w.Float64()
				same = v.Kind == mcp.KindFloat && v.Float == number ||
					v.Kind == mcp.KindInt && isExactly(w, v.Int)
			default:
				same = v.Kind == mcp.KindJSON && mcp.Valid(v.Text)
			}
			if !same {
				t.Fatalf("%s: %s is %s here and %v there", raw, name, show(v), want)
			}
		}
	})
}

// isExactly compares without rounding; a number with a great exponent that is taken for an integer can only be zero.
func isExactly(n json.Number, i int64) bool {
	if number, _ := n.Float64(); number == 0 {
		return i == 0
	}
	exact, ok := new(big.Rat).SetString(n.String())
	return ok && exact.IsInt() && exact.Num().IsInt64() && exact.Num().Int64() == i
}
