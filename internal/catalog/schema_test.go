package catalog

import (
	"strings"
	"testing"

	"millrace/internal/mcp"
)

type object = map[string]any

// TestOutputSchemas: what clients would refuse, with the whole list it stands in, is refused here.
func TestOutputSchemas(t *testing.T) {
	t.Parallel()
	sources := database(t, "")
	for _, c := range []struct {
		schema any
		want   string // "" where it is taken
	}{
		{object{"type": "object"}, ""},
		{object{"type": "object", "properties": object{"type": object{"type": []any{"string", "null"}}}, "required": []any{"type"}, "$defs": object{"a": true}}, ""},
		{object{"type": "object", "properties": object{"r": object{"$ref": "#/$defs/a"}}, "$defs": object{"a": object{"enum": []any{1, "x"}}}}, ""},
		{object{"type": 7}, "type"},
		{object{}, "schema of an object"},
		{object{"type": "array"}, "schema of an object"},
		{object{"type": []any{"object", "null"}}, "schema of an object"},
		{"object", "no JSON Schema but a string"}, {[]any{}, "JSON Schema"}, {true, "schema of an object"},
		{object{"type": "objekt"}, `"objekt" is no type`},
		{object{"type": "object", "properties": 5}, "properties"},
		{object{"type": "object", "properties": object{"a": object{"type": "text"}}}, `a: "text" is no type`},
		{object{"type": "object", "properties": object{"a": object{"items": object{"anyOf": []any{object{"type": "text"}}}}}}, `"text" is no type`},
		{object{"type": "object", "required": "a"}, "its required is a string"},
		{object{"type": "object", "properties": object{"a": object{"enum": "x"}}}, "enum"},
		{object{"type": "object", "properties": object{"a": object{"minLength": -1}}}, "a: minLength is negative"},
		{object{"type": "object", "properties": object{"a": object{"pattern": "("}}}, "pattern"},
		{object{"type": "object", "properties": object{"a": object{"$ref": "#/$defs/none"}}}, "none"},
		{object{"type": "object", "properties": object{"a": nil}}, "a"},
		{object{"type": "object", "$ref": "#"}, "refers to itself"},
		{object{"type": "object", "properties": object{"a": object{"items": object{"$ref": "#/properties/a/items"}}}}, "refers to itself"},
	} {
		_, faults := New(Definitions{Tools: []Tool{sqlTool("a", "SELECT 1", func(t *Tool) { t.Output = c.schema })}},
			Deps{Sources: sources, Meter: func(mcp.Method, string) mcp.Meter { return nil }})
		switch {
		case c.want == "" && len(faults) > 0:
			t.Errorf("%v: %v", c.schema, faults)
		case c.want != "" && (len(faults) != 1 || faults[0].Path != "tools[0].output" || !strings.Contains(faults[0].Message, c.want)):
			t.Errorf("%v: %v; want %s", c.schema, faults, c.want)
		}
	}
}

// TestEnumWithinBounds: a value that no call could use is a mistake.
func TestEnumWithinBounds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		p    Parameter
		want string // path and message
	}{
		{Parameter{Type: "integer", Minimum: ptr(5.0), Enum: []any{5, 4}}, "p[0].enum[1]: must be at least 5"},
		{Parameter{Type: "number", Maximum: ptr(5.0), Enum: []any{5.5}}, "p[0].enum[0]: must be at most 5"},
		{Parameter{Type: "string", MaxLength: ptr(2), Enum: []any{"äö", "abc"}}, "p[0].enum[1]: must have at most 2"},
		{Parameter{Type: "string", Pattern: "^a", Enum: []any{"a", "b"}}, "p[0].enum[1]: must match"},
		{Parameter{Type: "array", Items: object{"type": "integer"}, Enum: []any{[]any{1}, []any{"x"}}}, "p[0].enum[1]: does not fit"},
		{Parameter{Type: "array", Items: object{"type": "number?"}, Enum: []any{[]any{1}}}, `p[0]: "number?" is no type`},
		{Parameter{Type: "string", Enum: []any{1}}, "p[0].enum[0]: must be a string"},
		{Parameter{Type: "string", Pattern: "^a", Enum: []any{"a"}}, ""},
	} {
		c.p.Name = "x"
		_, faults := compileTable("p", []Parameter{c.p})
		if (c.want == "") != (len(faults) == 0) || len(faults) > 1 || !strings.HasPrefix(faults.Error(), c.want) {
			t.Errorf("%+v: %v; want %s", c.p, faults, c.want)
		}
	}
}
