package front

import (
	"context"
	"strings"
	"testing"

	"millrace/internal/mcp"
)

// TestWire holds the tables of statuses and codes, era by era.
func TestWire(t *testing.T) {
	t.Parallel()
	_, s, _ := newTestCore(t, map[string]mcp.Handler{"echo": echo, "confirm": confirm,
		"panic": func(context.Context, *mcp.Call) (mcp.Result, error) { panic("planted") }})
	sid := "Mcp-Session-Id: " + open(t, s, "2025-11-25", `{}`)
	old := "Mcp-Session-Id: " + open(t, s, "2025-03-26", `{}`)
	foreign := "Mcp-Session-Id: " + open(t, s, "2025-11-25", `{}`, "Authorization: Bearer other")
	modern := func(method, name string, more ...string) []string {
		return append(modernHeaders(method, name), more...)
	}
	msg := func(method, params string) string {
		return `{"jsonrpc":"2.0","id":"a\u0062","method":"` + method + `","params":{` + params + `}}`
	}
	const ping = `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	const note = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	for _, c := range []struct {
		name, method, body string
		headers            []string
		status             int
		want               string // in the body
		not                string
	}{
		{"modern call", "POST", call("9007199254740993", "echo", ","+plainMeta), modern("tools/call", "echo"), 200, `"id":9007199254740993,"result":{"content":[],"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo"`, "ttlMs"},
		{"modern list has hints", "POST", msg("tools/list", plainMeta), modern("tools/list", ""), 200, `"resultType":"complete","ttlMs":60000,"cacheScope":"private"`, ""},
		{"discover", "POST", msg("server/discover", plainMeta), modern("server/discover", ""), 200, `"ttlMs":3600000,"cacheScope":"public"`, ""},
		{"the id's bytes", "POST", msg("tools/list", plainMeta), modern("tools/list", ""), 200, `"id":"a\u0062"`, ""},
		{"base64 name", "POST", call("1", "echo", ","+plainMeta), modern("tools/call", "=?base64?ZWNobw==?="), 200, `"complete"`, ""},
		{"bad base64 name", "POST", call("1", "echo", ","+plainMeta), modern("tools/call", "=?base64?ZWNob?="), 400, `"code":-32020`, ""},
		{"other name", "POST", call("1", "echo", ","+plainMeta), modern("tools/call", "confirm"), 400, `"code":-32020`, ""},
		{"no name", "POST", call("1", "echo", ","+plainMeta), modern("tools/call", ""), 400, `"code":-32020`, ""},
		{"two names", "POST", call("1", "echo", ","+plainMeta), modern("tools/call", "echo", "Mcp-Name: echo"), 400, `"code":-32020`, ""},
		{"uri as name", "POST", msg("resources/read", `"uri":"city://1",`+plainMeta), modern("resources/read", "city://1"), 200, `"ttlMs":0`, ""},
		{"other uri", "POST", msg("resources/read", `"uri":"city://1",`+plainMeta), modern("resources/read", "city://2"), 400, `"code":-32020`, ""},
		{"no resource", "POST", msg("resources/read", `"uri":"city://none",`+plainMeta), modern("resources/read", "city://none"), 200, `"code":-32602`, ""},
		{"no method header", "POST", msg("tools/list", plainMeta), []string{"Mcp-Protocol-Version: 2026-07-28"}, 400, `"code":-32020`, ""},
		{"method of other case", "POST", msg("tools/list", plainMeta), modern("Tools/list", ""), 400, `"code":-32020`, ""},
		{"no version header", "POST", msg("tools/list", plainMeta), []string{"Mcp-Method: tools/list"}, 400, `"code":-32020`, ""},
		{"other version header", "POST", msg("tools/list", plainMeta), []string{"Mcp-Protocol-Version: 2025-11-25", "Mcp-Method: tools/list"}, 400, `"code":-32020`, ""},
		{"unknown version", "POST", msg("tools/list", strings.Replace(plainMeta, "2026-07-28", "2099-01-01", 1)), []string{"Mcp-Protocol-Version: 2099-01-01", "Mcp-Method: tools/list"}, 400, `"code":-32022,"message":"unsupported protocol version","data":{"supported":["2026-07-28"],"requested":"2099-01-01",`, ""},
		{"no capabilities", "POST", msg("tools/list", `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}`), modern("tools/list", ""), 400, `"code":-32602`, ""},
		{"no _meta", "POST", msg("tools/list", ``), modern("tools/list", ""), 400, `"code":-32602`, ""},
		{"capability needed", "POST", call("1", "confirm", ","+plainMeta), modern("tools/call", "confirm"), 400, `"code":-32021,"message":"the client cannot ask its user, and this call needs that","data":{"requiredCapabilities":{"elicitation":`, ""},
		{"unknown tool", "POST", call("1", "none", ","+plainMeta), modern("tools/call", "none"), 200, `"code":-32602`, ""},
		{"unknown method", "POST", msg("no/such", plainMeta), modern("no/such", ""), 404, `"code":-32601`, ""},
		{"modern ping", "POST", msg("ping", plainMeta), modern("ping", ""), 404, `"code":-32601`, ""},
		{"modern setLevel", "POST", msg("logging/setLevel", plainMeta), modern("logging/setLevel", ""), 404, `"code":-32601`, ""},
		{"modern subscribe", "POST", msg("resources/subscribe", plainMeta), modern("resources/subscribe", ""), 404, `"code":-32601`, ""},
		{"modern initialize", "POST", msg("initialize", plainMeta), modern("initialize", ""), 404, `"code":-32601`, ""},
		{"initialize, modern header alone", "POST", msg("initialize", `"protocolVersion":"2025-11-25"`), modern("initialize", ""), 400, `"code":-32602`, ""},
		{"modern notification", "POST", `{"jsonrpc":"2.0","method":"notifications/initialized","params":{` + plainMeta + `}}`, modern("notifications/initialized", ""), 202, ``, "jsonrpc"},
		{"modern response", "POST", `{"jsonrpc":"2.0","id":1,"result":{}}`, modern("x", ""), 400, `"code":-32600`, ""},
		{"modern GET", "GET", "", modern("x", "", sid, "Last-Event-Id: 1-1"), 405, ``, ""},
		{"modern DELETE", "DELETE", "", modern("x", "", sid), 405, ``, ""},
		{"modern in a batch", "POST", `[` + ping + `,` + msg("tools/list", plainMeta) + `]`, []string{old}, 400, `"code":-32600`, ""},
		{"batch with modern header", "POST", `[` + ping + `]`, modern("ping", ""), 400, `"code":-32600`, ""},
		{"modern panic", "POST", call("1", "panic", ","+plainMeta), modern("tools/call", "panic"), 500, `"code":-32603`, "planted"},

		{"legacy call", "POST", call("1", "echo", ""), []string{sid}, 200, `{"jsonrpc":"2.0","id":1,"result":{"content":[]}}`, ""},
		{"legacy list", "POST", msg("tools/list", ""), []string{sid}, 200, `"result":{"tools":[]}}`, "resultType"},
		{"legacy no resource", "POST", msg("resources/read", `"uri":"city://none"`), []string{sid}, 200, `"code":-32002`, ""},
		{"legacy no elicitation", "POST", call("1", "confirm", ""), []string{sid}, 200, `"isError":true`, "32021"},
		{"legacy unknown method", "POST", msg("no/such", ""), []string{sid}, 200, `"code":-32601`, ""},
		{"legacy discover", "POST", msg("server/discover", ""), []string{sid}, 200, `"code":-32601`, ""},
		{"no session", "POST", ping, nil, 400, `"id":1,"error":{"code":-32600`, ""},
		{"unknown session", "POST", ping, []string{"Mcp-Session-Id: none"}, 404, `"code":-32600`, ""},
		{"foreign session", "POST", ping, []string{foreign}, 404, `"code":-32600`, ""},
		{"foreign session deleted", "DELETE", "", []string{foreign}, 404, ``, ""},
		{"foreign session listened to", "GET", "", []string{foreign}, 404, ``, ""},
		{"two sessions", "POST", ping, []string{sid, old}, 400, `"code":-32600`, ""},
		{"bad version", "POST", ping, []string{sid, "Mcp-Protocol-Version: 1999-01-01"}, 400, `"code":-32022`, ""},
		{"GET of bad version", "GET", "", []string{sid, "Mcp-Protocol-Version: 1999-01-01"}, 400, ``, ""},
		{"DELETE of bad version", "DELETE", "", []string{sid, "Mcp-Protocol-Version: 1999-01-01"}, 400, ``, ""},
		{"GET without session", "GET", "", []string{"Mcp-Protocol-Version: 2025-11-25"}, 400, ``, ""},
		{"GET of JSON", "GET", "", []string{sid, "Accept: ", "Accept: application/json"}, 406, ``, ""},
		{"resuming nothing", "GET", "", []string{sid, "Last-Event-Id: zz-1"}, 400, ``, ""},
		{"notification", "POST", note, []string{sid}, 202, ``, "jsonrpc"},
		{"response", "POST", `{"jsonrpc":"2.0","id":"millrace-9","result":{}}`, []string{sid}, 202, ``, "jsonrpc"},
		{"batch of a later revision", "POST", `[` + ping + `]`, []string{sid}, 400, `"code":-32600`, ""},
		{"batch", "POST", `[` + ping + `,` + note + `,7,{"jsonrpc":"2.0","id":"millrace-1","result":{}},` + call("2", "panic", "") + `]`, []string{old}, 200,
			`[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`, "planted"},
		{"batch without requests", "POST", `[` + note + `]`, []string{old}, 202, ``, "["},
		{"empty batch", "POST", `[]`, []string{old}, 400, `"code":-32600`, ""},
		{"initialize in a batch", "POST", `[` + msg("initialize", "") + `]`, []string{old}, 400, `"code":-32600`, ""},

		{"malformed", "POST", `{"jsonrpc":`, nil, 400, `"id":null,"error":{"code":-32700`, ""},
		{"wrong type", "POST", ping, []string{"Content-Type: ", "Content-Type: text/plain"}, 415, ``, ""},
		{"type that only begins so", "POST", ping, []string{"Content-Type: ", "Content-Type: application/jsonp"}, 415, ``, ""},
		{"type with charset", "POST", note, []string{sid, "Content-Type: ", "Content-Type: application/json; charset=utf-8"}, 202, ``, ""},
		{"nothing acceptable", "POST", ping, []string{"Accept: ", "Accept: text/html"}, 406, ``, ""},
		{"rebound host", "POST", ping, []string{"Host: evil.example"}, 403, ``, ""},
		{"foreign origin", "POST", ping, []string{"Origin: https://evil.example"}, 403, ``, ""},
		{"wrong method", "PUT", ping, nil, 405, ``, ""},
		{"too large", "POST", strings.Repeat(" ", 5<<20), nil, 413, ``, ""},
	} {
		w := do(s, c.method, c.body, c.headers...)
		body := w.Body.String()
		if w.Code != c.status || !strings.Contains(body, c.want) || c.not != "" && strings.Contains(body, c.not) {
			t.Errorf("%s: %d %s\nwant %d with %q, without %q", c.name, w.Code, body, c.status, c.want, c.not)
		}
		if body != "" && !mcp.Valid([]byte(body)) {
			t.Errorf("%s: the body is no JSON: %s", c.name, body)
		}
		if strings.Contains(body, `"error":{`) && !strings.Contains(body, `"requestId":"`) {
			t.Errorf("%s: no request id in %s", c.name, body)
		}
	}
	if w := do(s, "DELETE", "", sid); w.Code != 204 {
		t.Errorf("DELETE gave %d", w.Code)
	}
	if w := do(s, "POST", ping, sid); w.Code != 404 {
		t.Errorf("after DELETE: %d", w.Code)
	}
}
