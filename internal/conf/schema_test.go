package conf

import (
	"encoding/json"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
)

func TestSchemaAgreesWithDecode(t *testing.T) {
	t.Parallel()
	b, err := Schema(defaults())
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	resolved, err := s.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	for _, c := range []struct {
		yaml string
		ok   bool
	}{
		{"{}", true},
		{"name: x", true},
		{"name: 5", false},
		{"nam: x", false},
		{"listen: {address: a, http2: false}", true},
		{"listen: {http2: 'yes'}", false},
		{"listen: {http2: '${X:-true}'}", true},
		{"listen: {timeout: 5}", false},
		{"listen: {timeout: 1h30m}", true},
		{"listen: {timeout: soon}", false},
		{"listen: {max_body: 4MB}", true},
		{"listen: {max_body: 4mb}", false},
		{"listen: {max_body: '${X:-1B}'}", true},
		{"mode: gzip", true},
		{"mode: lzma", false},
		{"modes: [gzip, zstd]", true},
		{"modes: [gzip, lzma]", false},
		{"tools: [{name: a, parameters: [{name: b, items: {name: c, items: {default: 1}}}]}]", true},
		{"tools: [{name: a, parameters: [{items: {nme: c}}]}]", false},
		{"tools: {}", false},
		{"tools: [{rows: -1}]", true},
		{"limit: -1", false},
		{"labels: {a: b}", true},
		{"labels: {a: [b]}", false},
		{"level: high", true},
		{"level: 3", false},
		{"exact: ${X:-1}", false},
		{"inlined: 3", true},
	} {
		d, faults := Parse("f.yaml", []byte(c.yaml), nil)
		v := defaults()
		faults = append(faults, d.Decode(v)...)
		if (len(faults) == 0) != c.ok {
			t.Errorf("%s: decode gives %v", c.yaml, faults)
		}
		// What the editor sees: the same text, without types of ours.
		var plain struct {
			X any `yaml:"x" expand:"none"`
		}
		d, _ = Parse("f.yaml", []byte("x:\n  "+c.yaml), nil)
		if c.yaml == "{}" {
			continue
		}
		if f := d.Decode(&plain); len(f) > 0 {
			t.Fatal(f)
		}
		if err := resolved.Validate(plain.X); (err == nil) != c.ok {
			t.Errorf("%s: the schema says %v", c.yaml, err)
		}
	}
}

func TestSchemaHoldsDefaults(t *testing.T) {
	t.Parallel()
	b, err := Schema(defaults())
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	listen := s.Properties["listen"]
	for _, c := range []struct {
		name      string
		got, want string
	}{
		{"address", string(listen.Properties["address"].Default), `"127.0.0.1:8080"`},
		{"http2", string(listen.Properties["http2"].Default), "true"},
		{"timeout", string(listen.Properties["timeout"].Default), `"10s"`},
		{"max_body", string(listen.Properties["max_body"].Default), `"4MiB"`},
		{"element", string(s.Properties["tools"].Items.Properties["timeout"].Default), `"5s"`},
		{"secret", string(s.Properties["key"].Default), ""},
		{"desc", s.Properties["name"].Description, "Who this is."},
	} {
		if c.got != c.want {
			t.Errorf("%s is %v, not %v\n%s", c.name, c.got, c.want, b)
		}
	}
}
