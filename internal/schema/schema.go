// Package schema makes JSON Schemas that come from outside safe to hold values against. It stands in no request's path: what
// it gives does.
package schema

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
)

// Resolve makes a schema ready. It refuses those whose references lead back to themselves without going down into the value:
// the library would follow them until the stack is full, which ends the process. A schema of trees, which refers to itself
// below properties or items, is none of them. References are to be JSON pointers into the schema itself.
func Resolve(s *jsonschema.Schema) (*jsonschema.Resolved, error) {
	r, err := s.Resolve(nil)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	w := walker{state: map[string]state{}}
	if err := json.Unmarshal(data, &w.root); err != nil {
		return nil, err
	}
	return r, w.all("", w.root)
}

type state int

const (
	under state = iota + 1 // its references are being followed
	done
)

// walker looks for circles among the schemas of a document, each known by its JSON pointer.
type walker struct {
	root  any
	state map[string]state
}

// all looks at every object of the document as if it were a schema.
func (w *walker) all(at string, v any) error {
	switch v := v.(type) {
	case map[string]any:
		if err := w.follow(at, v); err != nil {
			return err
		}
		for key, below := range v {
			if err := w.all(at+"/"+escape(key), below); err != nil {
				return err
			}
		}
	case []any:
		for i, below := range v {
			if err := w.all(at+"/"+strconv.Itoa(i), below); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow goes along what is held against the same value.
func (w *walker) follow(at string, v any) error {
	s, ok := v.(map[string]any)
	if !ok || w.state[at] == done {
		return nil
	}
	if w.state[at] == under {
		return fmt.Errorf("the schema at #%s refers to itself without going down into the value", at)
	}
	w.state[at] = under
	defer func() { w.state[at] = done }()
	if _, ok := s["$dynamicRef"].(string); ok {
		return fmt.Errorf("the schema at #%s has a $dynamicRef: write $ref", at)
	}
	if _, ok := s["$id"].(string); ok && at != "" {
		return fmt.Errorf("the schema at #%s has an $id of its own, which changes what references mean: remove it", at)
	}
	if ref, ok := s["$ref"].(string); ok {
		pointer, local := strings.CutPrefix(ref, "#")
		target, found := w.find(pointer)
		if !local || !found {
			return fmt.Errorf("the reference %q at #%s is no JSON pointer into the schema: write it as #/$defs/NAME", ref, at)
		}
		if err := w.follow(pointer, target); err != nil {
			return err
		}
	}
	for _, key := range []string{"not", "if", "then", "else"} {
		if err := w.follow(at+"/"+key, s[key]); err != nil {
			return err
		}
	}
	for _, key := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := s[key].([]any)
		for i, below := range list {
			if err := w.follow(at+"/"+key+"/"+strconv.Itoa(i), below); err != nil {
				return err
			}
		}
	}
	dependent, _ := s["dependentSchemas"].(map[string]any)
	for key, below := range dependent {
		if err := w.follow(at+"/dependentSchemas/"+escape(key), below); err != nil {
			return err
		}
	}
	return nil
}

// find gives what a JSON pointer (RFC 6901) points at.
func (w *walker) find(pointer string) (any, bool) {
	if pointer == "" {
		return w.root, true
	}
	v := w.root
	for i, part := range strings.Split(pointer, "/") {
		if i == 0 {
			if part != "" {
				return nil, false
			}
			continue
		}
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch below := v.(type) {
		case map[string]any:
			next, ok := below[part]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			n, err := strconv.Atoi(part)
			if err != nil || n < 0 || n >= len(below) {
				return nil, false
			}
			v = below[n]
		default:
			return nil, false
		}
	}
	return v, true
}

func escape(key string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(key) }
