package front

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// bubble runs f against a whole server in memory, with a body_timeout of two seconds and synctest's time.
func bubble(t *testing.T, tools map[string]mcp.Handler, f func(t *testing.T, core *Core, h *HTTP, l *pipeListener)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.HeaderTimeout, cfg.BodyTimeout = conf.Duration(time.Second), conf.Duration(2*time.Second)
		core, h, _ := newTestCore(t, tools)
		h = NewHTTP(cfg, core, h.identify)
		l := newPipeListener()
		s := NewHTTPServer(cfg, h, slog.New(slog.DiscardHandler))
		var wg sync.WaitGroup
		wg.Go(func() { s.Serve(lazyListener{l}) })
		f(t, core, h, l)
		s.Close()
		wg.Wait()
		synctest.Wait() // Close waits for no handler
	})
}

// client gives a client of net/http for a server in memory.
func (l *pipeListener) client(t *testing.T, http2 bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!http2)
	p.SetUnencryptedHTTP2(http2)
	tr := &http.Transport{Protocols: p, DialContext: func(context.Context, string, string) (net.Conn, error) { return l.dial(), nil }}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestSlowBodyIsTold(t *testing.T) {
	bubble(t, nil, func(t *testing.T, _ *Core, _ *HTTP, l *pipeListener) {
		conn := l.dial()
		defer conn.Close()
		start := time.Now()
		io.WriteString(conn, "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != http.StatusRequestTimeout || time.Since(start) != 2*time.Second {
			t.Fatalf("%v, %v after %v, want status 408 after 2s", res, err, time.Since(start))
		}
		if body, err := io.ReadAll(res.Body); !strings.Contains(string(body), "listen.body_timeout") || err != nil {
			t.Errorf("%s, %v", body, err)
		}
	})
}

// slow takes longer than body_timeout.
func slow(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
	time.Sleep(4 * time.Second)
	return echo(ctx, c)
}

// A call, or a batch of them, may take longer than the time for a body; its answer is taken all the same.
func TestAnswersOutliveBodyTimeout(t *testing.T) {
	bubble(t, map[string]mcp.Handler{"slow": slow}, func(t *testing.T, _ *Core, h *HTTP, l *pipeListener) {
		sid := "Mcp-Session-Id: " + open(t, h, "2025-03-26", `{}`)
		calls := make([]string, 20) // more than run at a time
		for i := range calls {
			calls[i] = call(string(rune('1'+i%9))+string(rune('0'+i/9)), "slow", "")
		}
		for _, body := range []string{call("1", "slow", ""), "[" + strings.Join(calls, ",") + "]"} {
			res := sendBy(t, t.Context(), l.client(t, false), "POST", "http://localhost/mcp", body, sid)
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			if n := strings.Count(string(got), `"result":{"content":[]}`); err != nil || res.StatusCode != 200 || n != strings.Count(body, `"id"`) {
				t.Errorf("%d answers, status %d, %v", n, res.StatusCode, err)
			}
		}
	})
}

const listenBody = `{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` + plainMeta + `}}`

// An event stream lasts, also over HTTP/2, where a write's deadline resets the stream whether something is written or not.
func TestStreamsOutliveBodyTimeout(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		bubble(t, nil, func(t *testing.T, core *Core, _ *HTTP, l *pipeListener) {
			res := sendBy(t, t.Context(), l.client(t, http2), "POST", "http://localhost/mcp", listenBody, modernHeaders("subscriptions/listen", "")...)
			defer res.Body.Close()
			es := readEvents(res.Body)
			if _, data := es.next(); !strings.Contains(data, "acknowledged") {
				t.Fatalf("%s: %q", res.Proto, data)
			}
			go func() { // a pipe holds nothing: somebody has to read all the time
				time.Sleep(time.Hour)
				core.Hub.Publish(mcp.Event{Kind: mcp.ToolsChanged})
			}()
			if _, data := es.next(); !strings.Contains(data, "notifications/tools/list_changed") {
				t.Errorf("%s: %q, %v", res.Proto, data, es.Err())
			}
			core.Drain()
			if _, data := es.next(); !strings.Contains(data, `"resultType":"complete"`) {
				t.Errorf("%s: %q, %v", res.Proto, data, es.Err())
			}
		})
	}
}

// A server that stops answers what runs on an HTTP+SSE session's stream, and what a resumed stream waits for.
func TestDrainAnswersOnStreams(t *testing.T) {
	started, finish := make(chan struct{}, 2), make(chan struct{})
	wait := func(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
		c.Notify.Log(mcp.LogEmergency, "test", "begun")
		started <- struct{}{}
		<-finish
		return echo(ctx, c)
	}
	core, h, _ := newTestCore(t, map[string]mcp.Handler{"wait": wait})
	url := live(t, h)
	stream := send(t, t.Context(), "GET", url, "")
	es := readEvents(stream.Body)
	_, endpoint := es.next()
	base := strings.TrimSuffix(url, "/mcp")
	for _, m := range []string{`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{}}}`, call("2", "wait", "")} {
		if res := send(t, t.Context(), "POST", base+endpoint, m); res.StatusCode != 202 {
			t.Fatal(res.Status)
		}
		if m[len(`{"jsonrpc":"2.0","id":`)] == '1' {
			es.next()
		}
	}
	sid := "Mcp-Session-Id: " + open(t, h, "2025-11-25", `{}`)
	gone, leave := context.WithCancel(t.Context())
	first := readEvents(send(t, gone, "POST", url, call("3", "wait", ""), sid).Body)
	id, _ := first.next()
	leave()
	resumed := readEvents(send(t, t.Context(), "GET", url, "", sid, "Last-Event-ID: "+id).Body)
	resumed.next() // the log message
	<-started
	<-started
	core.Drain()
	if res := send(t, t.Context(), "POST", base+endpoint, call("4", "wait", "")); res.StatusCode != 503 {
		t.Errorf("a new call while draining gave %s, want 503", res.Status)
	}
	close(finish)
	for _, c := range []struct {
		es   events
		want string
	}{{es, `"id":2,"result":{"content":[]`}, {resumed, `"id":3,"result":{"content":[]`}} {
		_, data := c.es.next()
		for strings.Contains(data, "notifications/message") {
			_, data = c.es.next()
		}
		if !strings.Contains(data, c.want) {
			t.Errorf("heard %q, %v; want %s", data, c.es.Err(), c.want)
		}
		if _, data := c.es.next(); data != "" {
			t.Errorf("the stream goes on with %q", data)
		}
	}
}

func TestStdioListenEndsInGoodOrder(t *testing.T) {
	t.Parallel()
	core, _, _ := newTestCore(t, nil)
	say, hear, end := stdio(t, core)
	say(listenBody)
	if got := hear(); !strings.Contains(got, "acknowledged") {
		t.Fatal(got)
	}
	core.Drain()
	if got := hear(); !strings.Contains(got, `"id":"l","result":{"resultType":"complete"`) {
		t.Errorf("at the end it says %s", got)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

// A stream that lasts keeps nothing of the message that opened it but its id.
func TestUnpin(t *testing.T) {
	core, _, _ := newTestCore(t, nil)
	x := core.newExchange()
	defer x.free()
	x.body = []byte(strings.Replace(listenBody, "{", "{"+strings.Repeat(" ", 1000), 1))
	if fault := x.req.Scan(x.body); fault != nil {
		t.Fatal(fault)
	}
	body := x.body
	x.unpin()
	clear(body)
	if string(x.req.ID) != `"l"` || x.req.Method != mcp.SubscriptionsListen || x.body != nil || x.req.Params != nil || x.req.Meta.Raw != nil || x.req.MethodName != nil {
		t.Errorf("kept %+v", x.req)
	}
}

func TestListenFilterIsBounded(t *testing.T) {
	_, h, _ := newTestCore(t, nil)
	var many []string
	for i := range mostFilterURIs + 1 {
		many = append(many, fmt.Sprintf(`"city://%d"`, i))
	}
	for _, uris := range []string{strings.Join(many, ","), `"city://` + strings.Repeat("x", mostFilterBytes) + `"`} {
		body := strings.Replace(listenBody, `"toolsListChanged":true`, `"resourceSubscriptions":[`+uris+`]`, 1)
		if w := do(h, "POST", body, modernHeaders("subscriptions/listen", "")...); !strings.Contains(w.Body.String(), "-32602") {
			t.Errorf("%d bytes gave %d %.200s", len(body), w.Code, w.Body)
		}
	}
}

// Answers to a question that nobody asked in this call keep it out of the cache.
func TestResponsesWithoutStateAreNotStored(t *testing.T) {
	var noStore bool
	_, h, _ := newTestCore(t, map[string]mcp.Handler{"t": func(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
		noStore = c.NoStore
		return echo(ctx, c)
	}})
	for more, want := range map[string]bool{"": false, `,"inputResponses":{"ok":{}}`: true} {
		do(h, "POST", call("1", "t", ","+plainMeta+more), modernHeaders("tools/call", "t")...)
		if noStore != want {
			t.Errorf("with %q NoStore is %v", more, noStore)
		}
	}
}
