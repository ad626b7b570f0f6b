package main

import (
	"fmt"
	"strconv"
	"strings"
)

// The revisions that are measured.
const (
	legacyVersion = "2025-11-25"
	modernVersion = "2026-07-28"
)

// era says which form a request takes on the wire.
type era string

const (
	legacy era = "legacy"
	modern era = "modern"
)

// idMark and keyMark stand in a request's body where each request puts its own id and key.
const (
	idMark  = "\x01"
	keyMark = "\x02"
)

// keys are the values that requests put at keyMark. All have the same number of digits, so that every request of a
// row has the same length and Content-Length can be written once.
type keys struct {
	mode  keyMode
	first int
	count int
}

type keyMode string

const (
	cycleKeys  keyMode = "cycle"  // first, first+1, …, then from the start again
	randomKeys keyMode = "random" // uniform in [first, first+count)
)

// request is a raw HTTP/1.1 request with two holes. Probes and wrk send the same bytes.
type request struct {
	addr    string
	headers [][2]string
	body    string // with one idMark and, after it, at most one keyMark
}

// idDigits is the width of every request id, keeping lengths equal.
const idDigits = 12

// firstID is the smallest request id of that width.
const firstID = 100_000_000_000

// probeID is the smallest id of a probe, beyond those of the loads.
const probeID = 190_000_000_000

// parts returns the request's bytes around the id and the key, for keys of the given width. Without a key hole the
// third part is empty and no key must be written.
func (r request) parts(keyDigits int) (head, middle, tail string) {
	before, after, _ := strings.Cut(r.body, idMark)
	middle, tail, hasKey := strings.Cut(after, keyMark)
	length := len(before) + idDigits + len(middle)
	if hasKey {
		length += keyDigits + len(tail)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "POST /mcp HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n", r.addr)
	for _, h := range r.headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", length, before)
	return b.String(), middle, tail
}

// render returns one whole request.
func (r request) render(id, key int) string {
	k := strconv.Itoa(key)
	head, middle, tail := r.parts(len(k))
	if !strings.Contains(r.body, keyMark) {
		return head + strconv.Itoa(id) + middle
	}
	return head + strconv.Itoa(id) + middle + k + tail
}

// with returns the request with one more header.
func (r request) with(name, value string) request {
	r.headers = append(append([][2]string(nil), r.headers...), [2]string{name, value})
	return r
}

// toolCall makes a tools/call request. arguments is JSON with a keyMark; session belongs to the legacy era only.
func toolCall(e era, addr, session, tool, arguments string) request {
	if e == legacy {
		r := request{addr: addr, headers: [][2]string{{"MCP-Protocol-Version", legacyVersion}}}
		if session != "" {
			r = r.with("Mcp-Session-Id", session)
		}
		r.body = `{"jsonrpc":"2.0","id":` + idMark + `,"method":"tools/call","params":{"name":"` + tool + `","arguments":` + arguments + `}}`
		return r
	}
	return request{
		addr:    addr,
		headers: [][2]string{{"MCP-Protocol-Version", modernVersion}, {"Mcp-Method", "tools/call"}, {"Mcp-Name", tool}},
		body: `{"jsonrpc":"2.0","id":` + idMark + `,"method":"tools/call","params":{"name":"` + tool + `","arguments":` + arguments +
			`,"_meta":{"io.modelcontextprotocol/protocolVersion":"` + modernVersion +
			`","io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"},"io.modelcontextprotocol/clientCapabilities":{}}}}`,
	}
}
