package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"millrace/internal/schema"
)

// compileSchema compiles a JSON Schema of the file. One that is none would break more than itself: clients refuse the
// whole list that it stands in.
func compileSchema(v any) (*jsonschema.Resolved, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(data, &s); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) { // the decoder's own words are of types of Go
			if field := strings.ReplaceAll(wrong.Field, "schemaWithoutMethods.", ""); field != "" {
				return nil, fmt.Errorf("is no JSON Schema: its %s is a %s", field, wrong.Value)
			}
			return nil, fmt.Errorf("is no JSON Schema but a %s", wrong.Value)
		}
		return nil, fmt.Errorf("is no JSON Schema: %w", err)
	}
	resolved, err := schema.Resolve(&s) // finds wrong patterns and references
	if err != nil {
		return nil, fmt.Errorf("is no JSON Schema: %s", strings.ReplaceAll(err.Error(), "jsonschema.Schema: <anonymous schema>: ", ""))
	}
	return resolved, checkSchema(&s)
}

var schemaTypes = []string{"null", "boolean", "object", "array", "number", "string", "integer"}

// checkSchema finds what the library takes although draft 2020-12 does not: types that are none, negative counts.
func checkSchema(s *jsonschema.Schema) error {
	for _, t := range append(slices.Clone(s.Types), s.Type) {
		if t != "" && !slices.Contains(schemaTypes, t) {
			return fmt.Errorf("%q is no type of JSON Schema", t)
		}
	}
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		var err error
		switch f := v.Field(i).Interface().(type) {
		case *int:
			if f != nil && *f < 0 {
				err = fmt.Errorf("%s is negative", strings.Split(v.Type().Field(i).Tag.Get("json"), ",")[0])
			}
		case *jsonschema.Schema:
			if f != nil {
				err = checkSchema(f)
			}
		case []*jsonschema.Schema:
			for _, below := range f {
				err = errors.Join(err, checkSchema(below))
			}
		case map[string]*jsonschema.Schema:
			for name, below := range f {
				if e := checkSchema(below); e != nil {
					err = errors.Join(err, fmt.Errorf("%s: %w", name, e))
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
