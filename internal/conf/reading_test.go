package conf

import (
	"reflect"
	"testing"
)

// TestReading holds the parser to YAML 1.2 where YAML parsers are known to slip.
func TestReading(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	for in, want := range map[string]any{
		"any: |2\n    x\n   y\n":                         "  x\n y\n",
		"any: |+\n  x\n\n\nname: a\n":                    "x\n\n\n",
		"any: |-\n  x # no comment\n  # nor this\n\n":    "x # no comment\n# nor this",
		"any: | # a comment\n  x\n":                      "x\n",
		"any: >\n  a\n  b\n\n  c\n":                      "a b\nc\n",
		"any: >-\n  a\n    b\n  c\n":                     "a\n  b\nc",
		"any: |\n  a\n    b\n\n  c\n# end\n":             "a\n  b\n\nc\n",
		"any: http://x:80/#y\n":                          "http://x:80/#y",
		"any: a #b\n":                                    "a",
		"any: a#b\n":                                     "a#b",
		"any: a\n  b\n  c\n":                             "a b c",
		"any: \"a\n\n  b \\\n  c\\td\"\n":                "a\nb c\td",
		"any: 'a\n  b'\n":                                "a b",
		"any: 'it''s: {x}, [y] # z'\n":                   "it's: {x}, [y] # z",
		"any: C:\\dir\\new\n":                            `C:\dir\new`,
		"any: \"\\u00e9\\x41\\U0001F600\\/\"\n":          "éA😀/",
		"any:\n- a\n-   b\n":                             []any{"a", "b"},
		"any:\n- - a\n  - b\n- c: d\n  e: f\n":           []any{[]any{"a", "b"}, m{"c": "d", "e": "f"}},
		"any:\n  # one\n  a: 1\n  # two\n\n  b: 2 # x\n": m{"a": int64(1), "b": int64(2)},
		"any: {a: 1, # one\n  b: [x,\n  y], c: }\n":      m{"a": int64(1), "b": []any{"x", "y"}, "c": nil},
		"any: {\"a: b\": c, 'd': \"e\"}\n":               m{"a: b": "c", "d": "e"},
		"any: {\"a\":1, \"b\":[true,null]}\n":            m{"a": int64(1), "b": []any{true, nil}},
		"any: [a b, -1, - , \"\"]\n":                     nil,
		"any: [a b, -1, -x, \"\"]\n":                     []any{"a b", int64(-1), "-x", ""},
		"any: [[], {}, [{}]]\n":                          []any{[]any{}, m{}, []any{m{}}},
		"any: SELECT * FROM t WHERE a = :id\n":           "SELECT * FROM t WHERE a = :id",
		"any: [x, SELECT * FROM t]\n":                    []any{"x", "SELECT * FROM t"},
		"any:\n  statement: >-\n    SELECT ':a'\n    FROM t -- {x}\n  next: 1\n": m{"statement": "SELECT ':a' FROM t -- {x}", "next": int64(1)},
		"any:\n  a:\n  b:\n    - c:\n      d: 1\n":                               m{"a": nil, "b": []any{m{"c": nil, "d": int64(1)}}},
		"any: \"city:{id}\"\n":                                                   "city:{id}",
		"any: [city:{id}]\n":                                                     nil,
		"any: {x: city://a}\n":                                                   m{"x": "city://a"},
		"any: -\n":                                                               nil,
		"any: ''\n":                                                              "",
		"any: nan\n":                                                             "nan",
		"any: 1e3\n":                                                             1000.0,
		"any: -0\n":                                                              int64(0),
		"any: 12:30:45\n":                                                        "12:30:45",
		"any: 1.2.3\n":                                                           "1.2.3",
		"any: 9223372036854775808\n":                                             uint64(9223372036854775808),
		"any: 日本 語\n":                                                            "日本 語",
		"any: \"a\\\n   b\"\n":                                                   "ab",
	} {
		var v struct {
			Any  any    `yaml:"any"`
			Name string `yaml:"name"`
		}
		d, faults := Parse("f.yaml", []byte(in), nil)
		faults = append(faults, d.Decode(&v)...)
		if want == nil { // must be refused
			if faults == nil {
				t.Errorf("%q is read as %#v", in, v.Any)
			}
			continue
		}
		if faults != nil || !reflect.DeepEqual(v.Any, want) {
			t.Errorf("%q\ngot  %#v, %v\nwant %#v", in, v.Any, faults, want)
		}
	}
}
