package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"millrace/e2e/harness"
)

// TestUnknownNames asks for what does not exist.
func TestUnknownNames(t *testing.T) {
	t.Parallel()
	url := harness.Shared(t).URL
	session := harness.Initialize(t, url, "2025-11-25", "{}")
	tests := []struct {
		method, header, params string
		modern, legacy         int // the codes
	}{
		{"no/such/method", "", "", -32601, -32601},
		{"", "", "", -32601, -32601},
		{"Tools/List", "", "", -32601, -32601},
		{"tools/call", "no_such_tool", `"name":"no_such_tool","arguments":{}`, -32602, -32602},
		{"tools/call", "GET_CITY", `"name":"GET_CITY","arguments":{"id":1}`, -32602, -32602},
		{"tools/list", "", `"cursor":"no such cursor"`, -32602, -32602},
		{"tools/list", "", `"cursor":7`, -32602, -32602},
		{"resources/list", "", `"cursor":"bm8gc3VjaCBjdXJzb3I="`, -32602, -32602},
		{"resources/read", "city://0", `"uri":"city://0"`, -32602, -32002},
		{"resources/read", "town://1", `"uri":"town://1"`, -32602, -32002},
		{"resources/read", "city://../../etc/passwd", `"uri":"city://../../etc/passwd"`, -32602, -32002},
		{"prompts/get", "no_such_prompt", `"name":"no_such_prompt"`, -32602, -32602},
		{"prompts/get", "plan_trip", `"name":"plan_trip"`, -32602, -32602},
		{"completion/complete", "", `"ref":{"type":"ref/prompt","name":"no_such_prompt"},"argument":{"name":"a","value":""}`, -32602, -32602},
	}
	for _, test := range tests {
		t.Run(test.method+" "+test.params, func(t *testing.T) {
			a := harness.Post(t, url, harness.ModernBody("1", test.method, test.params), harness.ModernHeaders(test.method, test.header)...)
			if a.Code() != test.modern {
				t.Errorf("modern: want code %d: %v", test.modern, a)
			}
			if test.modern == -32601 && a.Status != http.StatusNotFound {
				t.Errorf("modern: want 404: %v", a)
			}
			body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":{%s}}`, test.method, test.params)
			if a := session.Post(t, body); a.Code() != test.legacy {
				t.Errorf("legacy: want code %d: %v", test.legacy, a)
			}
		})
	}
}

// TestRemovedMethods asks in the modern era for what only legacy revisions have.
func TestRemovedMethods(t *testing.T) {
	t.Parallel()
	url := harness.Shared(t).URL
	for _, method := range []string{"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"} {
		a := harness.Post(t, url, harness.ModernBody("1", method, ""), harness.ModernHeaders(method, "")...)
		if a.Status != http.StatusNotFound || a.Code() != -32601 {
			t.Errorf("%s: want 404 and -32601: %v", method, a)
		}
	}
}

// TestWrongArguments calls a tool with arguments that do not fit. It is the model's mistake to correct, so
// the error is a result, and names the argument.
func TestWrongArguments(t *testing.T) {
	t.Parallel()
	url := harness.Shared(t).URL
	for _, test := range []struct{ tool, args, names string }{
		{"get_city", `{}`, "id"},
		{"get_city", `{"id":null}`, "id"},
		{"get_city", `{"id":"2950159"}`, "id"},
		{"get_city", `{"id":1.5}`, "id"},
		{"get_city", `{"id":true}`, "id"},
		{"get_city", `{"id":[1]}`, "id"},
		{"get_city", `{"id":0}`, "id"},
		{"get_city", `{"id":9223372036854775808}`, "id"},
		{"get_city", `{"id":1e999}`, "id"},
		{"get_city", `{"id":1,"name":"x"}`, "name"},
		{"search_cities", `{"name":"B","limit":0}`, "limit"},
		{"search_cities", `{"name":"B","limit":101}`, "limit"},
		{"search_cities", `{"name":7}`, "name"},
		{"search_cities", `{"name":""}`, "name"},
		{"country_statistics", `{"country":"de"}`, "country"},
		{"nearest_cities", `{"latitude":91,"longitude":0}`, "latitude"},
		{"nearest_cities", `{"latitude":"north","longitude":0}`, "latitude"},
	} {
		a := harness.CallModern(t, url, test.tool, test.args)
		text, _ := a.Field("result", "content", 0, "text").(string)
		if want := fmt.Sprintf("argument %q", test.names); a.Field("result", "isError") != true || !strings.Contains(text, want) {
			t.Errorf("%s %s: want isError and a text with %s: %v", test.tool, test.args, want, a)
		}
	}
	for _, args := range []string{`[]`, `[1]`, `"x"`, `7`, `true`} {
		if a := harness.CallModern(t, url, "get_city", args); a.Code() != -32602 {
			t.Errorf("arguments %s: want -32602: %v", args, a)
		}
	}
	// The text goes into the statement as a value, whatever it looks like.
	a := harness.CallModern(t, url, "search_cities", `{"name":"x'; DROP TABLE cities; --"}`)
	if rows, ok := a.Field("result", "structuredContent", "rows").([]any); !ok || len(rows) != 0 {
		t.Errorf("a name with SQL in it: want no rows: %v", a)
	}
}

// TestMeta sends modern requests whose _meta is not what it must be.
func TestMeta(t *testing.T) {
	t.Parallel()
	url := harness.Shared(t).URL
	const version, caps = `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`, `"io.modelcontextprotocol/clientCapabilities":{}`
	for _, test := range []struct {
		name, meta string
		codes      []int
	}{
		{"no _meta", ``, []int{-32602}},
		{"empty", `"_meta":{}`, []int{-32602}},
		{"no version", `"_meta":{` + caps + `}`, []int{-32602}},
		{"no capabilities", `"_meta":{` + version + `}`, []int{-32602}},
		{"version a number", `"_meta":{"io.modelcontextprotocol/protocolVersion":2026,` + caps + `}`, []int{-32602}},
		{"capabilities an array", `"_meta":{` + version + `,"io.modelcontextprotocol/clientCapabilities":[]}`, []int{-32602}},
		{"_meta an array", `"_meta":[]`, []int{-32602, -32600}},
		{"another version than the header's", `"_meta":{"io.modelcontextprotocol/protocolVersion":"2025-11-25",` + caps + `}`, []int{-32020, -32022}},
	} {
		body := fmt.Sprintf(`{"jsonrpc":"2.0","id":42,"method":"tools/list","params":{%s}}`, test.meta)
		a := harness.Post(t, url, body, harness.ModernHeaders("tools/list", "")...)
		if a.Status != http.StatusBadRequest || !slices.Contains(test.codes, a.Code()) || a.Field("id") != json.Number("42") {
			t.Errorf("%s: want 400, a code of %v and the id: %v", test.name, test.codes, a)
		}
	}
	body := strings.ReplaceAll(harness.ModernBody("42", "tools/list", ""), harness.Modern, "2099-01-01")
	a := harness.Post(t, url, body, "MCP-Protocol-Version: 2099-01-01", "Mcp-Method: tools/list")
	supported, _ := a.Field("error", "data", "supported").([]any)
	if a.Status != http.StatusBadRequest || a.Code() != -32022 || !slices.Contains(supported, any(harness.Modern)) || a.Field("error", "data", "requested") != "2099-01-01" {
		t.Errorf("version of the future: want 400, -32022 and what is supported: %v", a)
	}
}

// TestUndeclaredCapability calls a tool that must ask, from a client that cannot be asked.
func TestUndeclaredCapability(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	city := harness.FreshCity(t)
	if a := harness.CallModern(t, s.URL, "add_note", fmt.Sprintf(`{"city_id":%d,"text":"Stays."}`, city)); a.Status != http.StatusOK {
		t.Fatal(a)
	}
	args := fmt.Sprintf(`{"city_id":%d}`, city)
	body := strings.Replace(harness.ModernBody("5", "tools/call", `"name":"delete_notes","arguments":`+args), `{"elicitation":{}}`, `{}`, 1)
	a := harness.Post(t, s.URL, body, harness.ModernHeaders("tools/call", "delete_notes")...)
	required, _ := a.Field("error", "data", "requiredCapabilities").(map[string]any)
	if a.Status != http.StatusBadRequest || a.Code() != -32021 || required["elicitation"] == nil {
		t.Errorf("modern: want 400, -32021 and requiredCapabilities.elicitation: %v", a)
	}
	session := harness.Initialize(t, s.URL, "2025-11-25", "{}")
	if a := session.Call(t, "delete_notes", args); a.Field("result", "isError") != true && a.Field("error") == nil {
		t.Errorf("legacy: want an error: %v", a)
	}
	a = harness.CallModern(t, s.URL, "list_notes", args)
	if rows, _ := a.Field("result", "structuredContent", "rows").([]any); len(rows) != 1 {
		t.Errorf("the note is gone: %v", a)
	}
}
