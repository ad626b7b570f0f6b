package conf

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/google/jsonschema-go/jsonschema"
)

// variablePattern is a string that holds a variable: what it expands to is not known to an editor.
const variablePattern = `\$\{[A-Za-z_][A-Za-z0-9_]*(:[-?][^}]*)?\}`

// Schema derives the JSON Schema (draft 2020-12) of what Decode reads into v, a struct or a pointer to one. What v holds,
// unless it is zero or secret, becomes the default of its key.
func Schema(v any) ([]byte, error) {
	r := reflect.ValueOf(v)
	for r.Kind() == reflect.Pointer && !r.IsNil() {
		r = r.Elem()
	}
	if r.Kind() != reflect.Struct {
		return nil, fmt.Errorf("schema of %T: not a struct", v)
	}
	s := schemer{open: map[reflect.Type]bool{}, recursive: map[reflect.Type]bool{}, defs: map[string]*jsonschema.Schema{}}
	root := s.value(r, rules{}, "")
	if s.recursive[r.Type()] {
		root = &jsonschema.Schema{Ref: root.Ref}
	}
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	if len(s.defs) > 0 {
		root.Defs = s.defs
	}
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("schema of %T: %w", v, err)
	}
	return append(out, '\n'), nil
}

type schemer struct {
	open      map[reflect.Type]bool // structs that are being walked
	recursive map[reflect.Type]bool // those that were met again below themselves
	defs      map[string]*jsonschema.Schema
}

// value is the schema of what v's type takes, with v as the default.
func (s *schemer) value(v reflect.Value, r rules, desc string) *jsonschema.Schema {
	t := v.Type()
	if t.Kind() == reflect.Pointer {
		if v.IsNil() {
			if s.open[t.Elem()] {
				return s.ref(t.Elem(), desc)
			}
			v = newValue(t.Elem())
		}
		return s.value(v.Elem(), r, desc)
	}
	var out *jsonschema.Schema
	switch {
	case isText(t):
		out = textSchema(t, r)
	case t.Kind() == reflect.Struct:
		return s.structure(v, r, desc)
	case t.Kind() == reflect.Map:
		out = &jsonschema.Schema{Type: "object", AdditionalProperties: s.element(t.Elem(), r)}
	case t.Kind() == reflect.Slice:
		out = &jsonschema.Schema{Type: "array", Items: s.element(t.Elem(), r)}
	case t.Kind() == reflect.Interface:
		mustBeAny(t)
		out = &jsonschema.Schema{}
	default:
		out = numberSchema(t, r)
	}
	out.Description = desc
	if !v.IsZero() && t != secretType && !structural(t) {
		if b, err := json.Marshal(v.Interface()); err == nil && string(b) != "[]" && string(b) != "{}" {
			out.Default = b
		}
	}
	return out
}

// element is the schema of a list's or map's elements.
func (s *schemer) element(t reflect.Type, r rules) *jsonschema.Schema {
	if s.open[t] {
		return s.ref(t, "")
	}
	return s.value(newValue(t).Elem(), r, "")
}

func (s *schemer) ref(t reflect.Type, desc string) *jsonschema.Schema {
	s.recursive[t] = true
	return &jsonschema.Schema{Ref: "#/$defs/" + t.Name(), Description: desc}
}

func (s *schemer) structure(v reflect.Value, r rules, desc string) *jsonschema.Schema {
	t := v.Type()
	if s.open[t] {
		return s.ref(t, desc)
	}
	s.open[t] = true
	defer delete(s.open, t)
	out := &jsonschema.Schema{
		Type:                 "object",
		Properties:           map[string]*jsonschema.Schema{},
		AdditionalProperties: &jsonschema.Schema{Not: &jsonschema.Schema{}},
	}
	for _, f := range fieldsOf(t, nil) {
		out.Properties[f.name] = s.value(v.FieldByIndex(f.index), rules{r.literal || f.literal, f.enum}, f.desc)
		out.PropertyOrder = append(out.PropertyOrder, f.name)
		if f.required {
			out.Required = append(out.Required, f.name)
		}
	}
	if s.recursive[t] { // its defaults are those of where it was met first
		s.defs[t.Name()] = out
		return s.ref(t, desc)
	}
	out.Description = desc
	return out
}

// structural tells whether the defaults of t stand with the keys of a struct in it, or could show a secret.
func structural(t reflect.Type) bool {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Map || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t == secretType || t.Kind() == reflect.Struct && !isText(t)
}

func textSchema(t reflect.Type, r rules) *jsonschema.Schema {
	out := &jsonschema.Schema{Type: "string"}
	switch {
	case t == durationType:
		out.Pattern = durationPattern
	case t == sizeType:
		out.Pattern = sizePattern
	case len(r.enum) > 0:
		for _, w := range r.enum {
			out.Enum = append(out.Enum, w)
		}
	default:
		return out
	}
	return orVariable(out, r)
}

func numberSchema(t reflect.Type, r rules) *jsonschema.Schema {
	out := &jsonschema.Schema{}
	switch t.Kind() {
	case reflect.Bool:
		out.Type = "boolean"
	case reflect.Float32, reflect.Float64:
		out.Type = "number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		out.Type = "integer"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		out.Type, out.Minimum = "integer", jsonschema.Ptr(0.0)
	default:
		panic(fmt.Sprintf("conf: a field cannot be of type %s", t))
	}
	return orVariable(out, r)
}

// orVariable is s, or a string that holds a variable.
func orVariable(s *jsonschema.Schema, r rules) *jsonschema.Schema {
	if r.literal {
		return s
	}
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{s, {Type: "string", Pattern: variablePattern}}}
}

// Defaults are written with these.
var _ = []encoding.TextMarshaler{Duration(0), Size(0), Secret("")}
