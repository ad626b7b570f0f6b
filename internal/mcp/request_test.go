package mcp

import (
	"fmt"
	"strings"
	"testing"
)

// show gives what was read of a message, in one line, "" for what is absent and "!" for what is there and empty.
func show(r *Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", [...]string{"request", "notification", "response"}[r.Kind], r.Method)
	field := func(name string, v []byte) {
		if v != nil {
			fmt.Fprintf(&b, " %s=%s", name, v)
		}
	}
	field("id", r.ID)
	field("name", r.Name)
	field("uri", r.URI)
	field("cursor", r.Cursor)
	field("arguments", r.Arguments)
	field("inputResponses", r.InputResponses)
	field("state", r.RequestState)
	field("version", r.Meta.ProtocolVersion)
	field("capabilities", r.Meta.ClientCapabilities)
	field("info", r.Meta.ClientInfo)
	field("level", r.Meta.LogLevel)
	field("token", r.Meta.ProgressToken)
	field("trace", r.Meta.TraceParent)
	if r.Meta.TimeoutMs != 0 {
		fmt.Fprintf(&b, " timeout=%d", r.Meta.TimeoutMs)
	}
	field("result", r.Result)
	field("error", r.Error)
	return b.String()
}

func TestScanGood(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		// Kinds.
		{`{"jsonrpc":"2.0","id":1,"method":"ping"}`, `request ping id=1`},
		{" \t\r\n{ \"jsonrpc\" : \"2.0\" , \"id\" : 1 , \"method\" : \"ping\" } \n", `request ping id=1`},
		{`{"method":"ping","id":1,"jsonrpc":"2.0","extra":[{"a":1},{"a":2}]}`, `request ping id=1`},
		{`{"jsonrpc":"2.0","method":"notifications/initialized"}`, `notification notifications/initialized`},
		{`{"jsonrpc":"2.0","id":1,"method":"what/ever"}`, `request unknown id=1`},
		{`{"jsonrpc":"2.0","id":1,"method":""}`, `request unknown id=1`},
		{`{"jsonrpc":"2\u002e0","id":1,"method":"tools\/c\u0061ll"}`, `request tools/call id=1`},
		{`{"jsonrpc":"2.0","id":1,"result":{"a":1}}`, `response unknown id=1 result={"a":1}`},
		{`{"jsonrpc":"2.0","id":"x","error":{"code":1}}`, `response unknown id="x" error={"code":1}`},
		{`{"jsonrpc":"2.0","id":null,"error":{}}`, `response unknown error={}`},
		{`{"jsonrpc":"2.0","error":{}}`, `response unknown error={}`},
		{`{"jsonrpc":"2.0","id":1,"result":{},"params":7}`, `response unknown id=1 result={}`},

		// Ids go back as they came.
		{`{"jsonrpc":"2.0","id":0,"method":"ping"}`, `request ping id=0`},
		{`{"jsonrpc":"2.0","id":-0,"method":"ping"}`, `request ping id=-0`},
		{`{"jsonrpc":"2.0","id":-12,"method":"ping"}`, `request ping id=-12`},
		{`{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"ping"}`,
			`request ping id=123456789012345678901234567890`},
		{`{"jsonrpc":"2.0","id":"","method":"ping"}`, `request ping id=""`},
		{`{"jsonrpc":"2.0","id":"a\"\\\u00e9\ud83d\ude00é","method":"ping"}`,
			`request ping id="a\"\\\u00e9\ud83d\ude00é"`},
		{`{"jsonrpc":"2.0","id":"` + strings.Repeat("x", MaxIDBytes-2) + `","method":"ping"}`,
			`request ping id="` + strings.Repeat("x", MaxIDBytes-2) + `"`},

		// Fields of params.
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":[1, 2]}}}`,
			`request tools/call id=1 name=a arguments={"x":[1, 2]}`},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\u0061me":"\u0061\n"}}`,
			"request tools/call id=1 name=a\n"},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"inputResponses":{"q":{}},"requestState":"s\/"}}`,
			`request tools/call id=1 inputResponses={"q":{}} state=s/`},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":""}}`, `request tools/list id=1 cursor=`},
		{`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"city://1"}}`,
			`request resources/read id=1 uri=city://1`},
		{`{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}`, `request ping id=1`},
		{`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":{"name":1},"b":[{"name":2}]}}`, `request ping id=1`},
		{`{"jsonrpc":"2.0","id":1,"method":"ping","name":1,"uri":2,"_meta":3}`, `request ping id=1`},
		{`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{}}}`, `request ping id=1`},
		{callMessage, `request tools/call id="a3f1c2-42" name=city_by_id arguments={"id":2950159} version=2026-07-28 ` +
			`capabilities={"elicitation":{}} info={"name":"claude-code","version":"2.1.4"} token=42`},
		{`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/logLevel":"info",` +
			`"traceparent":"00-1","progressToken":"t","millrace/timeoutMs":250,"other":null}}}`,
			`request ping id=1 level=info token="t" trace=00-1 timeout=250`},
	} {
		var r Request
		if err := r.Scan([]byte(c.in)); err != nil {
			t.Errorf("Scan(%.200s): %v", c.in, err)
		} else if got := show(&r); got != c.want {
			t.Errorf("Scan(%.200s)\n got %.300s\nwant %.300s", c.in, got, c.want)
		}
	}
}

// A field given and empty is not a field that is absent.
func TestScanEmptyIsPresent(t *testing.T) {
	t.Parallel()
	var r Request
	if err := r.Scan([]byte(`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"cursor":"","name":"","arguments":{}}}`)); err != nil {
		t.Fatal(err)
	}
	if r.Cursor == nil || r.Name == nil || r.Arguments == nil || r.URI != nil || r.Meta.Raw != nil || r.Params == nil {
		t.Errorf("got %+v", r)
	}
}

func TestScanInvalid(t *testing.T) {
	t.Parallel()
	call := func(params string) string {
		return `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":` + params + `}`
	}
	meta := func(member string) string { return call(`{"_meta":{` + member + `}}`) }
	id := func(id string) string { return `{"jsonrpc":"2.0","id":` + id + `,"method":"ping"}` }
	for _, c := range []struct {
		in   string
		code Code
		id   string
		want string
	}{
		{`[]`, CodeInvalidRequest, "", "must be a JSON object"},
		{`"x"`, CodeInvalidRequest, "", "must be a JSON object"},
		{`null`, CodeInvalidRequest, "", "must be a JSON object"},
		{`{}`, CodeInvalidRequest, "", "jsonrpc"},
		{`{"jsonrpc":"2.0"}`, CodeInvalidRequest, "", "method is missing"},
		{`{"jsonrpc":"2.0","id":7}`, CodeInvalidRequest, "7", "method is missing"},
		{`{"id":7,"method":"ping"}`, CodeInvalidRequest, "7", "jsonrpc"},
		{`{"jsonrpc":"1.0","id":7,"method":"ping"}`, CodeInvalidRequest, "7", "jsonrpc"},
		{`{"jsonrpc":2.0,"id":7,"method":"ping"}`, CodeInvalidRequest, "7", "jsonrpc"},
		{`{"JSONRPC":"2.0","id":7,"method":"ping"}`, CodeInvalidRequest, "7", "jsonrpc"},

		// The id is known wherever it stands.
		{`{"jsonrpc":"2.0","id":7,"method":5}`, CodeInvalidRequest, "7", "method must be a string"},
		{`{"jsonrpc":"2.0","method":5,"id":7}`, CodeInvalidRequest, "7", "method must be a string"},
		{`{"jsonrpc":"2.0","id":{},"method":5}`, CodeInvalidRequest, "", "id must be"},
		{`{"jsonrpc":"2.0","id":7,"method":null}`, CodeInvalidRequest, "7", "method must be a string"},
		{`{"jsonrpc":"2.0","id":7,"method":["ping"]}`, CodeInvalidRequest, "7", "method must be a string"},

		{id("null"), CodeInvalidRequest, "", "id must be"},
		{id("true"), CodeInvalidRequest, "", "id must be"},
		{id("{}"), CodeInvalidRequest, "", "id must be"},
		{id("[1]"), CodeInvalidRequest, "", "id must be"},
		{id("1.0"), CodeInvalidRequest, "", "id must be"},
		{id("1e3"), CodeInvalidRequest, "", "id must be"},
		{id("1E3"), CodeInvalidRequest, "", "id must be"},
		{id("-1.5"), CodeInvalidRequest, "", "id must be"},
		{id(strings.Repeat("9", MaxIDBytes+1)), CodeInvalidRequest, "", "id must be"},
		{id(`"` + strings.Repeat("x", MaxIDBytes-1) + `"`), CodeInvalidRequest, "", "id must be"},

		{`{"jsonrpc":"2.0","id":7,"result":{},"error":{}}`, CodeInvalidRequest, "7", "not both"},
		{`{"jsonrpc":"2.0","id":7,"result":{},"method":"ping"}`, CodeInvalidRequest, "7", "no result"},
		{`{"jsonrpc":"2.0","id":7,"result":5}`, CodeInvalidRequest, "7", "result must be an object"},
		{`{"jsonrpc":"2.0","id":7,"error":null}`, CodeInvalidRequest, "7", "error must be an object"},
		{`{"jsonrpc":"2.0","result":{}}`, CodeInvalidRequest, "", "needs the id"},
		{`{"jsonrpc":"2.0","id":null,"result":{}}`, CodeInvalidRequest, "", "id must be"},
		{`{"jsonrpc":"2.0","id":1.5,"error":{}}`, CodeInvalidRequest, "", "id must be"},

		{call(`[]`), CodeInvalidParams, "7", "params must be an object"},
		{call(`null`), CodeInvalidParams, "7", "params must be an object"},
		{call(`"{}"`), CodeInvalidParams, "7", "params must be an object"},
		{call(`{"name":5}`), CodeInvalidParams, "7", "params.name is of the wrong type"},
		{call(`{"name":null}`), CodeInvalidParams, "7", "params.name"},
		{call(`{"n\u0061me":["a"]}`), CodeInvalidParams, "7", "params.name"},
		{call(`{"uri":{}}`), CodeInvalidParams, "7", "params.uri"},
		{call(`{"cursor":0}`), CodeInvalidParams, "7", "params.cursor"},
		{call(`{"requestState":{}}`), CodeInvalidParams, "7", "params.requestState"},
		{call(`{"arguments":[]}`), CodeInvalidParams, "7", "params.arguments"},
		{call(`{"arguments":"{}"}`), CodeInvalidParams, "7", "params.arguments"},
		{call(`{"arguments":null}`), CodeInvalidParams, "7", "params.arguments"},
		{call(`{"inputResponses":[]}`), CodeInvalidParams, "7", "params.inputResponses"},
		{call(`{"_meta":[]}`), CodeInvalidParams, "7", "params._meta is of the wrong type"},
		{call(`{"_meta":null,"name":"a"}`), CodeInvalidParams, "7", "params._meta"},
		{meta(`"io.modelcontextprotocol/protocolVersion":20260728`), CodeInvalidParams, "7", "protocolVersion"},
		{meta(`"io.modelcontextprotocol/clientCapabilities":[]`), CodeInvalidParams, "7", "clientCapabilities"},
		{meta(`"io.modelcontextprotocol/clientInfo":"me"`), CodeInvalidParams, "7", "clientInfo"},
		{meta(`"io.modelcontextprotocol/logLevel":3`), CodeInvalidParams, "7", "logLevel"},
		{meta(`"progressToken":null`), CodeInvalidParams, "7", "progressToken"},
		{meta(`"progressToken":{}`), CodeInvalidParams, "7", "progressToken"},
		{meta(`"progressToken":"` + strings.Repeat("x", MaxIDBytes) + `"`), CodeInvalidParams, "7", "progressToken"},
		{meta(`"traceparent":1`), CodeInvalidParams, "7", "traceparent"},
		{meta(`"millrace/timeoutMs":"5"`), CodeInvalidParams, "7", "timeoutMs"},
		{meta(`"millrace/timeoutMs":0`), CodeInvalidParams, "7", "timeoutMs"},
		{meta(`"millrace/timeoutMs":-1`), CodeInvalidParams, "7", "timeoutMs"},
		{meta(`"millrace/timeoutMs":1.5`), CodeInvalidParams, "7", "timeoutMs"},
		{meta(`"millrace/timeoutMs":9223372036854775808`), CodeInvalidParams, "7", "timeoutMs"},
	} {
		var r Request
		err := r.Scan([]byte(c.in))
		if err == nil {
			t.Errorf("Scan(%.200s): no error", c.in)
			continue
		}
		if err.Code != c.code || !strings.Contains(err.Message, c.want) || string(r.ID) != c.id {
			t.Errorf("Scan(%.200s): %v, id %q; want code %d, id %q, %q", c.in, err, r.ID, c.code, c.id, c.want)
		}
	}
}

// What an earlier message left must not show through, and a big one's stack must not stay.
func TestRequestReset(t *testing.T) {
	t.Parallel()
	var r Request
	if err := r.Scan([]byte(callMessage)); err != nil {
		t.Fatal(err)
	}
	if r.Reset(); cap(r.keys) == 0 {
		t.Error("a small stack was not kept")
	}
	if err := r.Scan([]byte(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)); err != nil || show(&r) != "request ping id=1" {
		t.Errorf("%v: %s", err, show(&r))
	}
	r.Reset()
	if err := r.Scan([]byte(`{"jsonrpc":"2.0","id":1,"method":"ping","x":` + manyKeysObject(10*keptKeys) + `}`)); err != nil {
		t.Fatal(err)
	}
	if r.Reset(); cap(r.keys) > keptKeys {
		t.Errorf("a stack of %d keys was kept", cap(r.keys))
	}
}

func TestScanBatch(t *testing.T) {
	t.Parallel()
	list := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`{"a":1} , `, n), ", ") + "]" }
	for _, c := range []struct {
		in   string
		n    int
		code Code
	}{
		{list(1), 1, 0},
		{" \n" + list(MaxBatch) + " ", MaxBatch, 0},
		{list(MaxBatch + 1), 0, CodeInvalidRequest},
		{list(50 * MaxBatch), 0, CodeInvalidRequest},
		{`[]`, 0, CodeInvalidRequest},
		{`[ ]`, 0, CodeInvalidRequest},
		{`[1,"a",null,[{}]]`, 4, 0}, // each is refused when it is scanned itself
		{`[{"a":1},]`, 0, CodeParse},
		{`[{"a":1}`, 0, CodeParse},
		{`[{"a":1}]]`, 0, CodeParse},
		{`[{"a":1,"a":2}]`, 0, CodeParse},
		{`[{"a":1} {"a":1}]`, 0, CodeParse},
		{`[`, 0, CodeParse},
	} {
		got, err := ScanBatch([]byte(c.in))
		switch {
		case !IsBatch([]byte(c.in)):
			t.Errorf("IsBatch(%.60s) is false", c.in)
		case err != nil && err.Code != c.code || err == nil && c.code != 0 || len(got) != c.n:
			t.Errorf("ScanBatch(%.60s): %d messages, %v; want %d, code %d", c.in, len(got), err, c.n, c.code)
		case c.n > 0 && string(got[0]) != `{"a":1}` && string(got[0]) != "1":
			t.Errorf("ScanBatch(%.60s): first is %s", c.in, got[0])
		}
	}
	for _, in := range []string{"", " ", "{}", `"["`, "1"} {
		if IsBatch([]byte(in)) {
			t.Errorf("IsBatch(%q)", in)
		}
	}
}

func TestScanAllocatesNothing(t *testing.T) {
	data := []byte(callMessage)
	var r Request
	if n := testing.AllocsPerRun(100, func() {
		r.Reset()
		if err := r.Scan(data); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
