package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"millrace/e2e/harness"
)

// TestBadJSON sends what is no request, in both eras: each gets 400 and a JSON-RPC error, whatever else is wrong with it.
func TestBadJSON(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	list := harness.ModernBody("1", "tools/list", "")
	call := func(arguments string) string {
		return harness.ModernBody("1", "tools/call", `"name":"get_city","arguments":`+arguments)
	}
	parse, invalid, params := -32700, -32600, -32602
	tests := []struct {
		name, body string
		codes      []int
	}{
		{"empty", "", []int{parse}},
		{"blank", "  \n", []int{parse}},
		{"word", "hello", []int{parse}},
		{"open brace", "{", []int{parse}},
		{"truncated", list[:len(list)-9], []int{parse}},
		{"truncated in a string", list[:20], []int{parse}},
		{"trailing bytes", list + "x", []int{parse}},
		{"two requests", list + list, []int{parse}},
		{"single quotes", strings.ReplaceAll(list, `"`, `'`), []int{parse}},
		{"trailing comma", strings.TrimSuffix(list, "}") + ",}", []int{parse}},
		{"comment", "/* */" + list, []int{parse}},
		{"byte order mark", "\uFEFF" + list, []int{parse}},
		{"leading zero", call(`{"id":01}`), []int{parse}},
		{"NaN", call(`{"id":NaN}`), []int{parse}},
		{"bad UTF-8", strings.Replace(list, `"id":1`, "\"id\":\"\xff\"", 1), []int{parse}},
		{"bad escape", strings.Replace(list, `"id":1`, `"id":"\x"`, 1), []int{parse}},
		{"lone surrogate", strings.Replace(list, `"id":1`, `"id":"\ud800"`, 1), []int{parse}},
		{"control character", strings.Replace(list, `"id":1`, "\"id\":\"\x01\"", 1), []int{parse}},
		{"method twice", strings.Replace(list, `"method":`, `"method":"tools/call","method":`, 1), []int{parse, invalid}},
		{"method twice, once escaped", strings.Replace(list, `"method":`, `"m\u0065thod":"tools/call","method":`, 1), []int{parse, invalid}},
		{"name twice", harness.ModernBody("1", "tools/call", `"name":"get_city","name":"delete_notes","arguments":{"id":1}`), []int{parse, invalid, params}},
		{"argument twice", call(`{"id":1,"id":2}`), []int{parse, invalid, params}},
		{"deep arrays", call(`{"id":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`), []int{parse, invalid}},
		{"deep objects", call(strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000)), []int{parse, invalid}},
		{"deep and truncated", strings.Repeat("[", 1_000_000), []int{parse, invalid}},
		{"null", "null", []int{invalid}},
		{"number", "1", []int{invalid}},
		{"string", `"tools/list"`, []int{invalid}},
		{"empty batch", "[]", []int{invalid}},
		{"empty object", "{}", []int{invalid}},
		{"no jsonrpc", strings.Replace(list, `"jsonrpc":"2.0",`, "", 1), []int{invalid}},
		{"jsonrpc 1.0", strings.Replace(list, `"2.0"`, `"1.0"`, 1), []int{invalid}},
		{"jsonrpc a number", strings.Replace(list, `"2.0"`, `2.0`, 1), []int{invalid}},
		{"no method", strings.Replace(list, `"method":"tools/list",`, "", 1), []int{invalid}},
		{"method a number", strings.Replace(list, `"tools/list"`, `7`, 1), []int{invalid}},
		{"params a string", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":"x"}`, []int{invalid, params}},
		{"params an array", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[1]}`, []int{invalid, params}},
		{"keys of another case", strings.NewReplacer(`"jsonrpc"`, `"JSONRPC"`, `"method"`, `"Method"`).Replace(list), []int{invalid}},
	}
	for _, test := range tests {
		for era, headers := range map[string][]string{
			"modern": harness.ModernHeaders("tools/list", ""),
			"legacy": {"MCP-Protocol-Version: 2025-11-25"},
		} {
			t.Run(test.name+" "+era, func(t *testing.T) {
				if strings.Contains(test.body, `"tools/call"`) && era == "modern" {
					headers = harness.ModernHeaders("tools/call", "get_city")
				}
				a := harness.Post(t, s.URL, test.body, headers...)
				if era == "legacy" && a.Status == http.StatusBadRequest && a.Code() == 0 && a.Field("error", "code") == nil {
					t.Errorf("no JSON-RPC error: %v", a)
				}
				if a.Status != http.StatusBadRequest {
					t.Fatalf("status %d, want 400: %v", a.Status, a)
				}
				// A legacy request without a session may be refused for that, after it has been understood.
				if code := a.Code(); !slices.Contains(test.codes, code) && (era == "modern" || slices.Contains(test.codes, parse)) {
					t.Errorf("code %d, want one of %v: %v", code, test.codes, a)
				}
			})
		}
	}
	stillServes(t, s)
}

// stillServes proves that other callers are unharmed.
func stillServes(t *testing.T, s *harness.Server) {
	t.Helper()
	a := harness.CallModern(t, s.URL, "get_city", fmt.Sprintf(`{"id":%d}`, harness.Berlin))
	if a.Status != http.StatusOK || a.Field("result", "structuredContent", "rows", 0, "name") != "Berlin" {
		t.Fatalf("a good call afterwards: %v", a)
	}
}

// TestIDs sends ids of every kind. One that JSON-RPC allows comes back byte for byte: a number beyond what a float holds
// and a string with escapes are the client's own.
func TestIDs(t *testing.T) {
	t.Parallel()
	url := harness.Shared(t).URL
	session := harness.Initialize(t, url, "2025-11-25", "{}")
	echoed := []string{
		`0`, `-1`, `9007199254740993`, `123456789012345678901234567890123456789`, `"a"`, `""`, `"1"`,
		`"\u0061\/\"\\\n\t"`, `"é 漢字 🐎"`, `"\ud83d\udc0e"`, `"<script>&\u2028"`,
		`"` + strings.Repeat("x", 1000) + `"`,
	}
	for _, id := range echoed {
		for era, answer := range askWithID(t, url, session, id) {
			if want := `"id":` + id; answer.Status != http.StatusOK || !strings.Contains(answer.Message(), want) {
				t.Errorf("%s: id %s is not in the answer byte for byte: %v", era, id, answer)
			}
		}
	}
	for _, id := range []string{`null`, `true`, `false`, `[]`, `[1]`, `{}`, `{"a":1}`} {
		for era, answer := range askWithID(t, url, session, id) {
			if answer.Status != http.StatusBadRequest || answer.Code() != -32600 {
				t.Errorf("%s: id %s: want 400 and -32600: %v", era, id, answer)
			}
		}
	}
	// JSON-RPC discourages fractions and MCP has none: refused or given back as it came, but never rounded.
	for _, id := range []string{`1.5`, `1.0`, `1e3`, `1E400`} {
		for era, answer := range askWithID(t, url, session, id) {
			refused := answer.Status == http.StatusBadRequest && answer.Code() == -32600
			if !refused && !strings.Contains(answer.Message(), `"id":`+id) {
				t.Errorf("%s: id %s is neither refused nor given back as it came: %v", era, id, answer)
			}
		}
	}
}

func askWithID(t *testing.T, url string, session harness.Session, id string) map[string]harness.Answer {
	t.Helper()
	return map[string]harness.Answer{
		"modern": harness.Post(t, url, harness.ModernBody(id, "tools/list", ""), harness.ModernHeaders("tools/list", "")...),
		"legacy": session.Post(t, `{"jsonrpc":"2.0","id":`+id+`,"method":"tools/list"}`),
	}
}

// TestOversized sends more than max_body.
func TestOversized(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	before := s.Memory(t)
	for range 20 {
		body := harness.ModernBody("1", "tools/call", `"name":"get_city","arguments":{"id":"`+strings.Repeat("x", 8<<20)+`"}`)
		a, err := harness.Do(t.Context(), http.MethodPost, s.URL, strings.NewReader(body), harness.ModernHeaders("tools/call", "get_city")...)
		// The server may close the connection while the body is still being sent: that is an error of the client's.
		if err == nil && a.Status != http.StatusRequestEntityTooLarge {
			t.Fatalf("8 MiB: want 413: %v", a)
		}
	}
	s.Grown(t, before, 200<<20, "20 bodies of 8 MiB")
	stillServes(t, s)
}
