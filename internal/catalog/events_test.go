package catalog

import (
	"strings"
	"testing"

	"millrace/internal/mcp"
)

// The columns of a row fill a tag as a tool's parameters do; where that cannot be known, nothing is guessed.
func TestValuesOfARow(t *testing.T) {
	t.Parallel()
	e := &rowEvent{columns: []parameter{{Parameter: Parameter{Name: "c", Type: "string"}}}}
	for row, want := range map[string]mcp.Value{
		`{"c":7}`:                {Kind: mcp.KindInt, Int: 7},
		`{"c":9007199254740993}`: {Kind: mcp.KindInt, Int: 9007199254740993},
		`{"c":1.5,"d":2}`:        {Kind: mcp.KindFloat, Float: 1.5},
		`{"c":1.50}`:             {Kind: mcp.KindFloat, Float: 1.5},
		`{"c":0.1}`:              {Kind: mcp.KindFloat, Float: 0.1},
		`{"c":true}`:             {Kind: mcp.KindBool, Int: 1},
		`{"c":null}`:             {},
		`{"c":"x"}`:              {Kind: mcp.KindText, Text: []byte("x")},
	} {
		got, ok := e.values([]byte(row))
		if !ok || len(got) != 1 || got[0].Kind != want.Kind || got[0].Int != want.Int || got[0].Float != want.Float || string(got[0].Text) != string(want.Text) {
			t.Errorf("%s: %v %v, want %v", row, got, ok, want)
		}
	}
	for _, row := range []string{`{}`, `[]`, `{"c":{}}`, `{"c":[]}`, `{"c":0.1234567890123456789}`, `{"c":9223372036854775808}`, `{"c":1e999}`, `{"c":`, strings.Repeat("[", 100000)} {
		if got, ok := e.values([]byte(row)); ok {
			t.Errorf("%.100s gave %v", row, got)
		}
	}
}
