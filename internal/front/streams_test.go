package front

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"millrace/internal/mcp"
)

func TestModernQuestionIsBoundToItsCall(t *testing.T) {
	t.Parallel()
	_, s, _ := newTestCore(t, map[string]mcp.Handler{"confirm": confirm, "other": confirm})
	ask := func(tool, more string, headers ...string) string {
		return do(s, "POST", call("1", tool, ","+fullMeta+more), append(modernHeaders("tools/call", tool), headers...)...).Body.String()
	}
	first := ask("confirm", `,"arguments":{"a":1}`)
	_, state, ok := strings.Cut(first, `"requestState":"`)
	if state, _, _ = strings.Cut(state, `"`); !ok || !strings.Contains(first, `"resultType":"input_required"`) {
		t.Fatalf("no question: %s", first)
	}
	const yes = `,"inputResponses":{"ok":{"action":"accept"}}`
	tampered := "A" + state[1:]
	if state[0] == 'A' {
		tampered = "B" + state[1:]
	}
	for _, c := range []struct{ name, got, want string }{
		{"answered", ask("confirm", `,"arguments":{"a":1}`+yes+`,"requestState":"`+state+`"`), `"answer":{"action":"accept"},"resultType":"complete"`},
		{"no answer", ask("confirm", `,"arguments":{"a":1},"requestState":"`+state+`"`), `"input_required"`},
		{"no state", ask("confirm", `,"arguments":{"a":1}`+yes), `"input_required"`},
		{"tampered", ask("confirm", `,"arguments":{"a":1}`+yes+`,"requestState":"`+tampered+`"`), `"code":-32602`},
		{"other arguments", ask("confirm", `,"arguments":{"a":2}`+yes+`,"requestState":"`+state+`"`), `"code":-32602`},
		{"other tool", ask("other", `,"arguments":{"a":1}`+yes+`,"requestState":"`+state+`"`), `"code":-32602`},
		{"other caller", ask("confirm", `,"arguments":{"a":1}`+yes+`,"requestState":"`+state+`"`, "Authorization: Bearer b"), `"code":-32602`},
	} {
		if !strings.Contains(c.got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, c.got, c.want)
		}
	}
}

func TestLegacyQuestionSurvivesADisconnect(t *testing.T) {
	t.Parallel()
	for _, revision := range []string{"2025-06-18", "2025-11-25"} {
		_, s, _ := newTestCore(t, map[string]mcp.Handler{"confirm": confirm})
		url := live(t, s)
		sid := "Mcp-Session-Id: " + open(t, s, revision, `{"elicitation":{}}`)
		ctx, leave := context.WithCancel(t.Context())
		res := send(t, ctx, "POST", url, call("7", "confirm", ""), sid)
		es := readEvents(res.Body)
		id, data := es.next()
		if primed := data == ""; primed != (revision == "2025-11-25") {
			t.Fatalf("%s: primed is %v", revision, primed)
		} else if primed {
			id, data = es.next()
		}
		if !strings.Contains(data, `"id":"millrace-1","method":"elicitation/create","params":{"message":"Sure?"}`) {
			t.Fatalf("%s: asked %q", revision, data)
		}
		if twice := do(s, "POST", call("7", "confirm", ""), sid); twice.Code != 400 {
			t.Errorf("a running id was taken twice: %d", twice.Code)
		}
		leave()
		// Another call's question must not come with the rest of this one.
		other := send(t, t.Context(), "POST", url, call("8", "confirm", ""), sid)
		if oe := readEvents(other.Body); true {
			for _, data := oe.next(); !strings.Contains(data, "millrace-2"); _, data = oe.next() {
			}
		}
		resumed := send(t, t.Context(), "GET", url, "", sid, "Last-Event-ID: "+id)
		if w := do(s, "POST", `{"jsonrpc":"2.0","id":"millrace-1","result":{"action":"decline"}}`, sid); w.Code != 202 {
			t.Fatalf("the answer got %d", w.Code)
		}
		rest, err := io.ReadAll(resumed.Body) // ends with the call's stream
		if err != nil || !strings.Contains(string(rest), `"id":7,"result":{"content":[],"answer":{"action":"decline"}}`) || strings.Contains(string(rest), "millrace-2") {
			t.Errorf("%s: resumed with %q, %v", revision, rest, err)
		}
		do(s, "POST", `{"jsonrpc":"2.0","id":"millrace-2","error":{"code":-1,"message":"no"}}`, sid)
		if rest, _ := io.ReadAll(other.Body); !strings.Contains(string(rest), `"isError":true`) {
			t.Errorf("%s: an error response gave %q", revision, rest)
		}
	}
}

func TestCancellation(t *testing.T) {
	t.Parallel()
	started, ended := make(chan struct{}), make(chan error)
	_, s, _ := newTestCore(t, map[string]mcp.Handler{"wait": func(ctx context.Context, _ *mcp.Call) (mcp.Result, error) {
		started <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return mcp.Result{}, ctx.Err()
	}})
	url := live(t, s)
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		r, _ := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(call("1", "wait", ","+fullMeta)))
		r.Header.Set("Content-Type", "application/json")
		for _, h := range modernHeaders("tools/call", "wait") {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Set(name, value)
		}
		if res, err := http.DefaultClient.Do(r); err == nil {
			res.Body.Close()
		}
	}()
	<-started
	leave()
	if err := <-ended; err != context.Canceled {
		t.Errorf("a modern client that left: %v", err)
	}
	sid := "Mcp-Session-Id: " + open(t, s, "2025-11-25", `{}`)
	for _, end := range []func(){
		func() {
			do(s, "POST", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}`, sid)
		},
		func() { do(s, "DELETE", "", sid) },
	} {
		answer := make(chan int)
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			w := do(s, "POST", call("5", "wait", ""), sid)
			answer <- w.Code
		}()
		<-started
		end()
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "cancelled") && !strings.Contains(err.Error(), "ended") {
			t.Errorf("cause %v", err)
		}
		if code := <-answer; code != 202 {
			t.Errorf("a cancelled request got %d", code)
		}
		leave()
		<-ctx.Done()
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	_, s, _ := newTestCore(t, map[string]mcp.Handler{"work": func(_ context.Context, c *mcp.Call) (mcp.Result, error) {
		if c.Notify != nil {
			for _, p := range []float64{0, 1, 1, 0.5, 2} {
				c.Notify.Progress(p, 2, "")
			}
			c.Notify.Log(mcp.LogDebug, "l", "quiet")
			c.Notify.Log(mcp.LogError, "l", "loud")
		}
		return mcp.Result{Fields: []byte(`"content":[]`)}, nil
	}})
	withToken := strings.Replace(plainMeta, `{`, `{"progressToken":"p","io.modelcontextprotocol/logLevel":"info",`, 1)
	body := do(s, "POST", call("1", "work", ","+withToken), modernHeaders("tools/call", "work")...).Body.String()
	if n := strings.Count(body, "notifications/progress"); n != 3 || strings.Contains(body, "quiet") || !strings.Contains(body, "loud") || strings.Contains(body, "\nid:") {
		t.Errorf("%d progress notifications in %s", n, body)
	}
	for _, more := range [][]string{{}, {"Accept: ", "Accept: application/json"}} {
		meta := plainMeta
		if len(more) > 0 {
			meta = withToken
		}
		body = do(s, "POST", call("1", "work", ","+meta), append(modernHeaders("tools/call", "work"), more...)...).Body.String()
		if strings.Contains(body, "notifications") {
			t.Errorf("not asked for, or not to be taken: %s", body)
		}
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	core, s, _ := newTestCore(t, nil)
	url := live(t, s)
	var headers = modernHeaders("subscriptions/listen", "")
	body := `{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{` + plainMeta +
		`,"notifications":{"toolsListChanged":true,"resourceSubscriptions":["city://1","city://none"]}}}`
	es := readEvents(send(t, t.Context(), "POST", url, body, headers...).Body)
	if _, data := es.next(); !strings.Contains(data, `acknowledged","params":{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["city://1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":"L"}`) {
		t.Fatalf("acknowledged %s", data)
	}
	core.Hub.Publish(mcp.Event{Kind: mcp.PromptsChanged}, mcp.Event{Kind: mcp.ResourceUpdated, URI: "city://2"},
		mcp.Event{Kind: mcp.ResourceUpdated, URI: "city://1"}, mcp.Event{Kind: mcp.ToolsChanged})
	for _, want := range []string{`"uri":"city://1","_meta":{"io.modelcontextprotocol/subscriptionId":"L"}`, `tools/list_changed`} {
		if _, data := es.next(); !strings.Contains(data, want) {
			t.Errorf("got %s, want %s", data, want)
		}
	}
	core.Drain()
	if _, data := es.next(); !strings.Contains(data, `"id":"L","result":{"resultType":"complete"`) {
		t.Errorf("ended with %s", data)
	}
}

func TestStandaloneStreamIsTakenOver(t *testing.T) {
	t.Parallel()
	core, s, _ := newTestCore(t, nil)
	url := live(t, s)
	sid := "Mcp-Session-Id: " + open(t, s, "2025-11-25", `{}`)
	do(s, "POST", `{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"city://1"}}`, sid)
	first := readEvents(send(t, t.Context(), "GET", url, "", sid).Body)
	first.next() // primes
	second := readEvents(send(t, t.Context(), "GET", url, "", sid).Body)
	second.next()
	if id, data := first.next(); id+data != "" {
		t.Errorf("the first stream went on with %s", data)
	}
	core.Hub.Publish(mcp.Event{Kind: mcp.ResourceUpdated, URI: "city://2"}, mcp.Event{Kind: mcp.ResourceUpdated, URI: "city://1"})
	if _, data := second.next(); !strings.Contains(data, `{"uri":"city://1"}`) {
		t.Errorf("the second stream got %s", data)
	}
	do(s, "DELETE", "", sid)
	if _, data := second.next(); data != "" {
		t.Errorf("after the session: %s", data)
	}
}

func TestHTTPAndSSE(t *testing.T) {
	t.Parallel()
	core, s, _ := newTestCore(t, map[string]mcp.Handler{"echo": echo})
	url := live(t, s)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	es := readEvents(send(t, ctx, "GET", url, "").Body)
	_, endpoint := es.next()
	post := strings.TrimSuffix(url, "/mcp") + endpoint
	for _, c := range []struct{ body, want string }{
		{`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}`, `"protocolVersion":"2024-11-05"`},
		{call("2", "echo", ""), `"id":2,"result"`},
		{`[` + call("3", "echo", "") + `]`, `[{"jsonrpc":"2.0","id":3,"result"`},
	} {
		if res := send(t, t.Context(), "POST", post, c.body); res.StatusCode != 202 {
			t.Fatalf("%s got %d", c.body, res.StatusCode)
		}
		if _, data := es.next(); !strings.Contains(data, c.want) {
			t.Errorf("got %s, want %s", data, c.want)
		}
	}
	_, id, _ := strings.Cut(endpoint, "=")
	sess, ok := core.Sessions.Get(t.Context(), id, mcp.Anonymous)
	if !ok {
		t.Fatal("no session")
	}
	leave()
	<-sess.Ended()
	if res := send(t, t.Context(), "POST", post, call("4", "echo", "")); res.StatusCode != 404 {
		t.Errorf("without the stream: %d", res.StatusCode)
	}
}

// stdio runs ServeStdio; say writes a line, hear reads one, end closes the input and gives what ServeStdio gave.
func stdio(t *testing.T, c *Core) (say func(string), hear func() string, end func() error) {
	in, toServer := io.Pipe()
	fromServer, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- c.ServeStdio(context.Background(), in, out, 100_000)
		out.Close()
	}()
	lines := bufio.NewScanner(fromServer)
	lines.Buffer(nil, 1<<20)
	say = func(line string) { io.WriteString(toServer, line+"\n") }
	hear = func() string {
		lines.Scan()
		if s := lines.Text(); s == "" || mcp.Valid([]byte(s)) {
			return s
		}
		t.Errorf("no JSON: %s", lines.Text())
		return ""
	}
	return say, hear, func() error { toServer.Close(); return <-done }
}

func TestStdio(t *testing.T) {
	t.Parallel()
	core, _, _ := newTestCore(t, map[string]mcp.Handler{"confirm": confirm, "echo": echo})
	say, hear, end := stdio(t, core)
	expect := func(line, want string) {
		t.Helper()
		say(line)
		if got := hear(); !strings.Contains(got, want) {
			t.Fatalf("%.200s gave %s, want %s", line, got, want)
		}
	}
	expect(`[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]`, `initialize first`)
	expect(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, `initialize first`)
	expect(strings.Repeat("x", 300_000), `longer than 100000 bytes`)
	expect(call("1", "echo", ","+plainMeta), `"resultType":"complete"`)
	expect(`{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{`+plainMeta+`,"notifications":{"toolsListChanged":true}}}`, "acknowledged")
	say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"L"}}`)
	expect(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}}}}`, `"protocolVersion":"2025-11-25"`)
	// More questions than may be at work: whoever waits for the user leaves room for others, and for the answers.
	for range stdioWorkers + 1 {
		expect(call(`"q`+requestID()+`"`, "confirm", ""), "elicitation/create")
	}
	say(`{"jsonrpc":"2.0","id":"millrace-1","result":{"action":"accept"}}`)
	if got := hear(); !strings.Contains(got, `"answer":{"action":"accept"}`) {
		t.Errorf("answered %s", got)
	}
	// The end of input ends the questions, which nobody can answer any more, each with an answer of its own.
	ended := make(chan error)
	go func() { ended <- end() }()
	for range stdioWorkers {
		if got := hear(); !strings.Contains(got, "The client left") {
			t.Fatalf("at the end: %s", got)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
