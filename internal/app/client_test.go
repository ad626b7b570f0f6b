package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/internal/client"
	"millrace/internal/mcp"
)

const watchedFile = `
tools:
  - {name: add, source: db, description: Add one., statement: "INSERT INTO n VALUES (:i)", parameters: [{name: i, type: integer, description: i, required: true}], updates: ["n://{i}"]}
  - {name: sure, source: db, description: Add one., statement: "INSERT INTO n VALUES (:i)", parameters: [{name: i, type: integer, description: i, required: true}], confirm: "Add {n}?"}
resources:
  - {uriTemplate: "n://{i}", name: n, source: db, statement: "SELECT i FROM n WHERE i = :i", parameters: [{name: i, type: integer}]}
`

// everyRevision opens a session of our own client in each revision, found out and named, over HTTP/1.1 and HTTP/2.
func everyRevision(t *testing.T, url string, f func(t *testing.T, s *client.Session)) {
	for rev := mcp.RevisionNone; rev <= mcp.Modern; rev++ {
		for _, http2 := range []bool{false, true} {
			if http2 && rev == mcp.Revision20241105 {
				continue // its event stream is carried over HTTP/1.1
			}
			t.Run(fmt.Sprintf("%s HTTP/2 %v", rev, http2), func(t *testing.T) {
				s, err := client.Open(t.Context(), client.Config{URL: url, Revision: rev, HTTP2: http2, Timeout: 10 * time.Second,
					Capabilities: []byte(`{"elicitation":{}}`)})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if want := max(rev, mcp.RevisionNone); rev != mcp.RevisionNone && s.Revision() != want || rev == mcp.RevisionNone && s.Revision() != mcp.Modern {
					t.Errorf("it speaks %s, want %s", s.Revision(), rev)
				}
				f(t, s)
			})
		}
	}
}

func TestClientInEveryRevision(t *testing.T) {
	t.Parallel()
	r := start(t, watchedFile)
	everyRevision(t, r.url, func(t *testing.T, s *client.Session) {
		var a client.Answer
		for range 3 {
			if err := s.Call(t.Context(), &client.Call{Method: "tools/call", Name: "add", Params: []byte(`"name":"add","arguments":{"i":5}`)}, &a); err != nil ||
				!strings.Contains(string(a.Result), `"rows_affected":1`) {
				t.Fatalf("%s, %v, %v", a.Result, a.Error, err)
			}
		}
		if err := s.Call(t.Context(), &client.Call{Method: "tools/call", Name: "none", Params: []byte(`"name":"none"`)}, &a); err != nil || a.Error == nil || a.Error.Code != mcp.CodeInvalidParams {
			t.Errorf("an unknown tool: %v, %v", a.Error, err)
		}
		if rev := s.Revision(); rev < mcp.Revision20250618 {
			return // forms came later
		} else if rev.IsModern() {
			if err := s.Call(t.Context(), &client.Call{Method: "tools/call", Name: "sure", Params: []byte(`"name":"sure","arguments":{"i":6}`)}, &a); err != nil ||
				!strings.Contains(string(a.Result), `"resultType":"input_required"`) {
				t.Errorf("asked with %s, %v", a.Result, err)
			}
			return
		}
		asked := 0
		call := &client.Call{Method: "tools/call", Name: "sure", Params: []byte(`"name":"sure","arguments":{"i":6}`), Ask: func(method string, params []byte) ([]byte, *mcp.Error) {
			if asked++; method != "elicitation/create" || !strings.Contains(string(params), "Add 1?") {
				t.Errorf("asked %s %s", method, params)
			}
			return []byte(`{"action":"accept","content":{"confirm":true}}`), nil
		}}
		if err := s.Call(t.Context(), call, &a); err != nil || asked != 1 || !strings.Contains(string(a.Result), `"rows_affected":1`) {
			t.Errorf("asked %d times: %s, %v, %v", asked, a.Result, a.Error, err)
		}
	})
}

// Whoever watches a resource hears of the writes that name it, and of no other.
func TestWatchersHearOfWrites(t *testing.T) {
	t.Parallel()
	r := start(t, watchedFile)
	everyRevision(t, r.url, func(t *testing.T, s *client.Session) {
		if s.Revision() == mcp.Revision20241105 {
			return // its notifications come with calls; e2e has it
		}
		heard := make(chan string, 100)
		hear := func(m []byte) { heard <- string(m) }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		if s.Revision().IsModern() {
			go func() {
				ended <- s.Call(ctx, &client.Call{Method: "subscriptions/listen", Deadline: time.Now().Add(time.Minute), Notify: hear,
					Params: []byte(`"notifications":{"resourceSubscriptions":["n://7","other://1"]}`)}, new(client.Answer))
			}()
			if got := <-heard; !strings.Contains(got, `"notifications":{"resourceSubscriptions":["n://7"]}`) {
				t.Errorf("acknowledged %s", got)
			}
		} else {
			var a client.Answer
			if err := s.Call(t.Context(), &client.Call{Method: "resources/subscribe", Params: []byte(`"uri":"n://7"`)}, &a); err != nil || a.Error != nil {
				t.Fatal(a.Error, err)
			}
			go func() { ended <- s.Listen(ctx, hear) }()
		}
		var a client.Answer
		for _, i := range []string{"8", "7"} {
			if err := s.Call(t.Context(), &client.Call{Method: "tools/call", Name: "add", Params: []byte(`"name":"add","arguments":{"i":` + i + `}`)}, &a); err != nil || a.Error != nil {
				t.Fatal(a.Error, err)
			}
		}
		if got := <-heard; !strings.Contains(got, `"method":"notifications/resources/updated"`) || !strings.Contains(got, `"uri":"n://7"`) {
			t.Errorf("heard %s", got)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the stream ended with %v", err)
		}
	})
}
