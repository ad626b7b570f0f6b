package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"millrace/e2e/harness"
)

// TestBadJSON sends what is no request, in both eras: each gets 400 and a JSON-RPC error that says what is wrong. The
// legacy messages are of a session that is open, and the same messages without their fault are answered, so that nothing
// but the fault explains a refusal.
func TestBadJSON(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	session := harness.Initialize(t, s.URL, "2025-11-25", "{}")
	list := harness.ModernBody("1", "tools/list", "")
	call := func(arguments string) string {
		return harness.ModernBody("1", "tools/call", `"name":"get_city","arguments":`+arguments)
	}
	post := func(era, body string) harness.Answer {
		t.Helper()
		switch {
		case era == "legacy":
			return session.Post(t, strings.NewReplacer(","+harness.Meta, "", harness.Meta, "").Replace(body))
		case strings.Contains(body, `"tools/call"`):
			return harness.Post(t, s.URL, body, harness.ModernHeaders("tools/call", "get_city")...)
		}
		return harness.Post(t, s.URL, body, harness.ModernHeaders("tools/list", "")...)
	}
	eras := []string{"modern", "legacy"}
	for _, good := range []string{list, call(fmt.Sprintf(`{"id":%d}`, harness.Berlin))} {
		for _, era := range eras {
			if a := post(era, good); a.Status != http.StatusOK || a.Field("result") == nil {
				t.Fatalf("%s: a good message: %v", era, a)
			}
		}
	}
	const parse, invalid, params = -32700, -32600, -32602
	tests := []struct {
		name, body string
		id         string // of the answer: null where that of the message cannot be known
		code       int
		says       string
	}{
		{"empty", "", "null", parse, "unexpected end"},
		{"blank", "  \n", "null", parse, "unexpected end"},
		{"word", "hello", "null", parse, "unexpected character"},
		{"open brace", "{", "null", parse, "expected a key"},
		{"truncated", list[:len(list)-9], "null", parse, "unterminated string"},
		{"truncated in a string", list[:20], "null", parse, "unterminated string"},
		{"trailing bytes", list + "x", "null", parse, "bytes after the end"},
		{"two requests", list + list, "null", parse, "bytes after the end"},
		{"single quotes", strings.ReplaceAll(list, `"`, `'`), "null", parse, "expected a key"},
		{"trailing comma", strings.TrimSuffix(list, "}") + ",}", "null", parse, "trailing comma"},
		{"comment", "/* */" + list, "null", parse, "unexpected character"},
		{"byte order mark", "\uFEFF" + list, "null", parse, "unexpected character"},
		{"leading zero", call(`{"id":01}`), "null", parse, "expected a comma"},
		{"NaN", call(`{"id":NaN}`), "null", parse, "unexpected character"},
		{"bad UTF-8", strings.Replace(list, `"id":1`, "\"id\":\"\xff\"", 1), "null", parse, "invalid UTF-8"},
		{"bad escape", strings.Replace(list, `"id":1`, `"id":"\x"`, 1), "null", parse, "bad escape"},
		{"lone surrogate", strings.Replace(list, `"id":1`, `"id":"\ud800"`, 1), "null", parse, "bad escape"},
		{"control character", strings.Replace(list, `"id":1`, "\"id\":\"\x01\"", 1), "null", parse, "control character"},
		{"method twice", strings.Replace(list, `"method":`, `"method":"tools/call","method":`, 1), "null", parse, "duplicate key"},
		{"method twice, once escaped", strings.Replace(list, `"method":`, `"m\u0065thod":"tools/call","method":`, 1), "null", parse, "duplicate key"},
		{"name twice", harness.ModernBody("1", "tools/call", `"name":"get_city","name":"delete_notes","arguments":{"id":1}`), "null", parse, "duplicate key"},
		{"argument twice", call(`{"id":1,"id":2}`), "null", parse, "duplicate key"},
		{"deep arrays", call(`{"id":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`), "null", parse, "nested too deeply"},
		{"deep objects", call(strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000)), "null", parse, "nested too deeply"},
		{"deep and truncated", strings.Repeat("[", 1_000_000), "null", parse, "nested too deeply"},
		{"null", "null", "null", invalid, "must be a JSON object"},
		{"number", "1", "null", invalid, "must be a JSON object"},
		{"string", `"tools/list"`, "null", invalid, "must be a JSON object"},
		{"empty batch", "[]", "null", invalid, "batch"},
		{"empty object", "{}", "null", invalid, "jsonrpc"},
		{"no jsonrpc", strings.Replace(list, `"jsonrpc":"2.0",`, "", 1), "1", invalid, "jsonrpc"},
		{"jsonrpc 1.0", strings.Replace(list, `"2.0"`, `"1.0"`, 1), "1", invalid, "jsonrpc"},
		{"jsonrpc a number", strings.Replace(list, `"2.0"`, `2.0`, 1), "1", invalid, "jsonrpc"},
		{"no method", strings.Replace(list, `"method":"tools/list",`, "", 1), "1", invalid, "method"},
		{"method a number", strings.Replace(list, `"tools/list"`, `7`, 1), "1", invalid, "method"},
		{"params a string", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":"x"}`, "1", params, "params"},
		{"params an array", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[1]}`, "1", params, "params"},
		{"keys of another case", strings.NewReplacer(`"jsonrpc"`, `"JSONRPC"`, `"method"`, `"Method"`).Replace(list), "1", invalid, "jsonrpc"},
	}
	for _, test := range tests {
		for _, era := range eras {
			t.Run(test.name+" "+era, func(t *testing.T) {
				a := post(era, test.body)
				message, _ := a.Field("error", "message").(string)
				if a.Status != http.StatusBadRequest || a.Code() != test.code || !strings.Contains(message, test.says) ||
					!strings.HasPrefix(a.Body, `{"jsonrpc":"2.0","id":`+test.id+`,`) {
					t.Errorf("want 400, code %d, id %s and a message with %q: %v", test.code, test.id, test.says, a)
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

// TestOversized sends more than max_body, with its length ahead and in chunks.
func TestOversized(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	before := s.Memory(t)
	text := harness.ModernBody("1", "tools/call", `"name":"get_city","arguments":{"id":"`+strings.Repeat("x", 8<<20)+`"}`)
	for name, body := range map[string]func() io.Reader{
		"with its length": func() io.Reader { return strings.NewReader(text) },
		"in chunks":       func() io.Reader { return io.MultiReader(strings.NewReader(text)) }, // of which net/http sees no length
	} {
		refused := 0
		var last error
		for range 10 {
			a, err := harness.Do(t.Context(), http.MethodPost, s.URL, body(), harness.ModernHeaders("tools/call", "get_city")...)
			switch {
			case err != nil: // the server may close the connection while the body is still being sent
				last = err
			case a.Status != http.StatusRequestEntityTooLarge:
				t.Fatalf("8 MiB %s: want 413: %v", name, a)
			default:
				refused++
			}
		}
		t.Logf("8 MiB %s: 413 was read %d times of 10", name, refused)
		if refused == 0 {
			t.Errorf("8 MiB %s: no 413 could be read: %v", name, last)
		}
	}
	s.Grown(t, before, 200<<20, "20 bodies of 8 MiB")
	stillServes(t, s)
}
