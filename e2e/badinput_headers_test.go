package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"millrace/e2e/harness"
)

// TestModernHeaders sends modern requests whose headers do not say what the body says.
func TestModernHeaders(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	body := harness.ModernBody("6", "tools/call", fmt.Sprintf(`"name":"get_city","arguments":{"id":%d}`, harness.Berlin))
	const version, method, name = "MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: get_city"
	encoded := func(s string) string {
		return "Mcp-Name: =?base64?" + base64.StdEncoding.EncodeToString([]byte(s)) + "?="
	}
	for _, test := range []struct {
		name    string
		headers []string
		code    int // 0 for an answer
	}{
		{"all", []string{version, method, name}, 0},
		{"other case of the names", []string{"mcp-protocol-version: 2026-07-28", "MCP-METHOD: tools/call", "mCP-nAME: get_city"}, 0},
		{"encoded name", []string{version, method, encoded("get_city")}, 0},
		{"session and event id are ignored", []string{version, method, name, "Mcp-Session-Id: nonsense", "Last-Event-ID: 7"}, 0},
		{"unknown Mcp-Param", []string{version, method, name, "Mcp-Param-Whatever: 7"}, 0},
		{"no version", []string{method, name}, -32020},
		{"another version", []string{"MCP-Protocol-Version: 2025-11-25", method, name}, -32020},
		{"no method", []string{version, name}, -32020},
		{"empty method", []string{version, "Mcp-Method:", name}, -32020},
		{"another method", []string{version, "Mcp-Method: tools/list", name}, -32020},
		{"other case of the method", []string{version, "Mcp-Method: Tools/Call", name}, -32020},
		{"no name", []string{version, method}, -32020},
		{"empty name", []string{version, method, "Mcp-Name:"}, -32020},
		{"another name", []string{version, method, "Mcp-Name: delete_notes"}, -32020},
		{"other case of the name", []string{version, method, "Mcp-Name: Get_City"}, -32020},
		{"encoded other name", []string{version, method, encoded("delete_notes")}, -32020},
		{"not base64", []string{version, method, "Mcp-Name: =?base64?***?="}, -32020},
		{"encoded twice", []string{version, method, encoded("=?base64?Z2V0X2NpdHk=?=")}, -32020},
		{"two names", []string{version, method, name, "Mcp-Name: delete_notes"}, -32020},
		{"two names, the other first", []string{version, method, "Mcp-Name: delete_notes", name}, -32020},
		{"two names in one line", []string{version, method, "Mcp-Name: get_city, delete_notes"}, -32020},
		{"two methods", []string{version, method, name, "Mcp-Method: tools/list"}, -32020},
		{"two versions", []string{version, method, name, "MCP-Protocol-Version: 2025-11-25"}, -32020},
	} {
		a := harness.Post(t, s.URL, body, test.headers...)
		switch {
		case test.code == 0 && (a.Status != http.StatusOK || a.Field("result") == nil):
			t.Errorf("%s: want an answer: %v", test.name, a)
		case test.code != 0 && (a.Status != http.StatusBadRequest || a.Code() != test.code || fmt.Sprint(a.Field("id")) != "6"):
			t.Errorf("%s: want 400, %d and the id: %v", test.name, test.code, a)
		}
	}
	read := harness.ModernBody("6", "resources/read", fmt.Sprintf(`"uri":"city://%d"`, harness.Berlin))
	if a := harness.Post(t, s.URL, read, harness.ModernHeaders("resources/read", "city://1")...); a.Status != http.StatusBadRequest || a.Code() != -32020 {
		t.Errorf("resources/read with another uri: want 400 and -32020: %v", a)
	}
}

// TestParamHeaders calls a tool that has an argument repeated in a header.
func TestParamHeaders(t *testing.T) {
	t.Parallel()
	s := harness.Work(t, "")
	call := func(text string, headers ...string) harness.Answer {
		body := harness.ModernBody("1", "tools/call", fmt.Sprintf(`"name":"echo","arguments":{"text":%q}`, text))
		return harness.Post(t, s.URL, body, append(harness.ModernHeaders("tools/call", "echo"), headers...)...)
	}
	encoded := "Mcp-Param-Text: =?base64?" + base64.StdEncoding.EncodeToString([]byte("Zürich\n")) + "?="
	if a := call("x", "Mcp-Param-Text: x"); a.Status != http.StatusOK || a.Field("result", "structuredContent", "rows", 0, "text") != "x" {
		t.Errorf("equal: %v", a)
	}
	if a := call("Zürich\n", encoded); a.Status != http.StatusOK || a.Field("result", "structuredContent", "rows", 0, "text") != "Zürich\n" {
		t.Errorf("equal, encoded: %v", a)
	}
	for _, headers := range [][]string{{}, {"Mcp-Param-Text: y"}, {encoded}, {"Mcp-Param-Text: =?base64?*?="}, {"Mcp-Param-Text: x", "Mcp-Param-Text: y"}} {
		if a := call("x", headers...); a.Status != http.StatusBadRequest || a.Code() != -32020 {
			t.Errorf("%q: want 400 and -32020: %v", headers, a)
		}
	}
}

// TestSessions uses sessions that do not exist, that are missing and that have ended.
func TestSessions(t *testing.T) {
	t.Parallel()
	url := harness.Shared(t).URL
	const list = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	do := func(method, body string, headers ...string) harness.Answer {
		t.Helper()
		a, err := harness.Do(t.Context(), method, url, strings.NewReader(body), headers...)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, revision := range []string{"2025-03-26", "2025-06-18", "2025-11-25"} {
		session := harness.Initialize(t, url, revision, "{}")
		if session.ID == "" {
			t.Fatalf("%s: no session id", revision)
		}
		if a := session.Post(t, list); a.Status != http.StatusOK || a.Field("result", "tools") == nil {
			t.Errorf("%s: tools/list: %v", revision, a)
		}
		if a := do("POST", list, "MCP-Protocol-Version: "+revision); a.Status != http.StatusBadRequest {
			t.Errorf("%s: without a session: want 400: %v", revision, a)
		}
		other := "Mcp-Session-Id: " + strings.Repeat("A", len(session.ID))
		for _, method := range []string{"POST", "GET", "DELETE"} {
			if a := do(method, list, other, "MCP-Protocol-Version: "+revision); a.Status != http.StatusNotFound {
				t.Errorf("%s: %s with an unknown session: want 404: %v", revision, method, a)
			}
		}
		if a := session.Post(t, list, "-MCP-Protocol-Version", "MCP-Protocol-Version: 1999-01-01"); a.Status != http.StatusBadRequest {
			t.Errorf("%s: another version: want 400: %v", revision, a)
		}
		if a := do("DELETE", "", session.Headers()...); a.Status/100 != 2 {
			t.Errorf("%s: DELETE: %v", revision, a)
		}
		if a := session.Post(t, list); a.Status != http.StatusNotFound {
			t.Errorf("%s: after DELETE: want 404: %v", revision, a)
		}
	}
	for _, method := range []string{"GET", "DELETE"} {
		if a := do(method, "", "MCP-Protocol-Version: 2026-07-28"); a.Status != http.StatusMethodNotAllowed {
			t.Errorf("modern %s: want 405: %v", method, a)
		}
	}
	if a := do("PUT", list); a.Status != http.StatusMethodNotAllowed {
		t.Errorf("PUT: want 405: %v", a)
	}
	if a := do("POST", list, "Content-Type: text/plain"); a.Status != http.StatusUnsupportedMediaType {
		t.Errorf("text/plain: want 415: %v", a)
	}
	if a := harness.Post(t, url+"/no_such_toolset", harness.ModernBody("1", "tools/list", ""), harness.ModernHeaders("tools/list", "")...); a.Status != http.StatusNotFound {
		t.Errorf("an unknown toolset: want 404: %v", a)
	}
	geo := harness.Post(t, url+"/geo", harness.ModernBody("1", "tools/list", ""), harness.ModernHeaders("tools/list", "")...)
	if tools, _ := geo.Field("result", "tools").([]any); len(tools) != 4 {
		t.Errorf("the toolset geo: want 4 tools: %v", geo)
	}
	if a := harness.CallModern(t, url+"/geo", "list_notes", `{"city_id":1}`); a.Code() != -32602 {
		t.Errorf("a tool outside its toolset: want -32602: %v", a)
	}
}

// TestBatches sends arrays of messages, which only 2025-03-26 has.
func TestBatches(t *testing.T) {
	t.Parallel()
	url := harness.Shared(t).URL
	const batch = `[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}},` +
		`{"jsonrpc":"2.0","id":"b","method":"tools/list"},{"jsonrpc":"2.0","id":3,"method":"no/such"}]`
	session := harness.Initialize(t, url, "2025-03-26", "{}")
	a := session.Post(t, batch)
	seen := map[string]bool{}
	collect := func(v any) {
		if m, ok := v.(map[string]any); ok {
			seen[fmt.Sprint(m["id"])] = m["error"] == nil
		}
	}
	for line := range strings.Lines(a.Body) { // a stream may bring the answers one by one
		if data, ok := strings.CutPrefix(line, "data:"); ok {
			collect(harness.Answer{Body: data}.Field())
		}
	}
	if list, ok := a.Field().([]any); ok {
		for _, v := range list {
			collect(v)
		}
	}
	if a.Status != http.StatusOK || len(seen) != 3 || !seen["1"] || !seen["b"] || seen["3"] {
		t.Errorf("2025-03-26: want two results and one error: %v", a)
	}
	if a := session.Post(t, `[{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}]`); a.Status != http.StatusAccepted {
		t.Errorf("2025-03-26: a batch of notifications: want 202: %v", a)
	}
	if a := session.Post(t, `[]`); a.Status != http.StatusBadRequest || a.Code() != -32600 {
		t.Errorf("2025-03-26: an empty batch: want 400 and -32600: %v", a)
	}
	for _, revision := range []string{"2025-06-18", "2025-11-25"} {
		if a := harness.Initialize(t, url, revision, "{}").Post(t, batch); a.Status != http.StatusBadRequest || a.Code() != -32600 {
			t.Errorf("%s: want 400 and -32600: %v", revision, a)
		}
	}
	modern := "[" + harness.ModernBody("1", "tools/list", "") + "]"
	if a := harness.Post(t, url, modern, harness.ModernHeaders("tools/list", "")...); a.Status != http.StatusBadRequest || a.Code() != -32600 {
		t.Errorf("modern: want 400 and -32600: %v", a)
	}
	if a := session.Post(t, `[{"jsonrpc":"2.0","id":1,"method":"ping"},`+modern[1:]); a.Status != http.StatusBadRequest || a.Code() != -32600 {
		t.Errorf("2025-03-26 with a modern element: want 400 and -32600: %v", a)
	}
}

// TestHostAndOrigin plays a page that made a browser resolve its own name to this machine.
func TestHostAndOrigin(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	port := s.Host()[strings.LastIndex(s.Host(), ":"):]
	body, headers := harness.ModernBody("1", "tools/list", ""), harness.ModernHeaders("tools/list", "")
	for header, want := range map[string]int{
		"Host: evil.example":                    http.StatusForbidden,
		"Host: evil.example" + port:             http.StatusForbidden,
		"Host: 127.0.0.1.evil.example" + port:   http.StatusForbidden,
		"Host: localhost.evil.example":          http.StatusForbidden,
		"Origin: http://evil.example":           http.StatusForbidden,
		"Origin: http://127.0.0.1.evil.example": http.StatusForbidden,
		"Origin: https://evil.example" + port:   http.StatusForbidden,
		"Origin: null":                          http.StatusForbidden,
		"Host: localhost" + port:                http.StatusOK,
		"Host: 127.0.0.1" + port:                http.StatusOK,
		"Host: [::1]" + port:                    http.StatusOK,
		"Origin: http://localhost" + port:       http.StatusOK,
		"Origin: http://" + s.Host():            http.StatusOK,
	} {
		if a := harness.Post(t, s.URL, body, append([]string{header}, headers...)...); a.Status != want {
			t.Errorf("%s: want %d: %v", header, want, a)
		}
	}
	// The same for those who would open a session or a stream.
	for _, method := range []string{"GET", "DELETE", "POST"} {
		a, err := harness.Do(t.Context(), method, s.URL, strings.NewReader(""), "Origin: http://evil.example")
		if err != nil || a.Status != http.StatusForbidden {
			t.Errorf("%s from a foreign page: want 403: %v %v", method, a, err)
		}
	}
}
