package schema

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
)

func resolve(t *testing.T, text string) (*jsonschema.Resolved, error) {
	t.Helper()
	var s jsonschema.Schema
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return Resolve(&s)
}

// A schema that would be followed without end is refused; the library takes each of these.
func TestCirclesAreRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"$ref":"#"}`,
		`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`,
		`{"items":{"$ref":"#/items"}}`,
		`{"allOf":[{"anyOf":[{"$ref":"#"}]}]}`,
		`{"not":{"if":{"$ref":"#/not"}}}`,
		`{"properties":{"a":{"oneOf":[{"$ref":"#/properties/a"}]}}}`,
		`{"dependentSchemas":{"a/b":{"$ref":"#/dependentSchemas/a~1b"}}}`,
	} {
		if _, err := resolve(t, text); err == nil || !strings.Contains(err.Error(), "refers to itself") {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		`{"$dynamicRef":"#a","$defs":{"a":{"$dynamicAnchor":"a"}}}`: "$dynamicRef",
		`{"$ref":"#a","$defs":{"a":{"$anchor":"a"}}}`:               "is no JSON pointer",
		`{"$defs":{"a":{"$id":"http://x/y"}}}`:                      "$id of its own",
	} {
		if _, err := resolve(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestTreesAreNoCircles(t *testing.T) {
	t.Parallel()
	r, err := resolve(t, `{"type":"object","properties":{"children":{"type":"array","items":{"$ref":"#"}},"v":{"$ref":"#/$defs/n"},"w":{"allOf":[{"$ref":"#/$defs/n"},{"$ref":"#/$defs/n"}]}},"$defs":{"n":{"type":"integer"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	for text, fits := range map[string]bool{`{"children":[{"children":[],"v":1}]}`: true, `{"children":[{"v":"x"}]}`: false} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if err := r.Validate(v); (err == nil) != fits {
			t.Errorf("%s: %v", text, err)
		}
	}
}
