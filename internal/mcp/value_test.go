package mcp

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// What AppendKey writes, ParseValues reads.
func TestParseValues(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var want []Value
		var key []byte
		for range rapid.IntRange(0, 5).Draw(rt, "values") {
			v := Value{Kind: Kind(rapid.IntRange(0, int(KindJSON)).Draw(rt, "kind"))}
			switch v.Kind {
			case KindBool:
				v.Int = rapid.Int64Range(0, 1).Draw(rt, "bool")
			case KindInt:
				v.Int = rapid.Int64().Draw(rt, "integer")
			case KindFloat:
				v.Float = rapid.Float64().Draw(rt, "number")
			case KindText, KindJSON:
				v.Text = []byte(rapid.String().Draw(rt, "text"))
			}
			want, key = append(want, v), v.AppendKey(key)
		}
		got, ok := ParseValues(key)
		if !ok || len(got) != len(want) {
			rt.Fatalf("%v, %t; want %v", got, ok, want)
		}
		var again []byte
		for _, v := range got {
			again = v.AppendKey(again)
		}
		if string(again) != string(key) {
			rt.Fatalf("%v; want %v", got, want)
		}
		if n := rapid.IntRange(0, len(key)).Draw(rt, "cut"); n < len(key) {
			ParseValues(key[:n]) // never panics
		}
		ParseValues(rapid.SliceOf(rapid.Byte()).Draw(rt, "bytes"))
	})
}

func TestValueAsJSON(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]Value{"null": {}, "true": {Kind: KindBool, Int: 1}, "-7": {Kind: KindInt, Int: -7}, "0.5": {Kind: KindFloat, Float: 0.5},
		`"a\"b"`: {Kind: KindText, Text: []byte(`a"b`)}, `[1,2]`: {Kind: KindJSON, Text: []byte(`[1,2]`)}} {
		if got := v.Append(nil); string(got) != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := (Value{Kind: KindFloat, Float: math.Inf(1)}).Append(nil); string(got) != "null" {
		t.Errorf("%s", got)
	}
}
