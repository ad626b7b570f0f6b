package mcp

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The corpora are in testdata/fuzz, by the name of the target.

// readStrictly is the reference: it tells whether data is one strict JSON value, and how deeply it nests.
func readStrictly(data []byte) (depth int, ok bool) {
	d := jsontext.NewDecoder(bytes.NewReader(data), jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
	values := 0
	for {
		_, err := d.ReadToken()
		if errors.Is(err, io.EOF) {
			return depth, values == 1
		}
		if err != nil {
			return depth, false
		}
		depth = max(depth, d.StackDepth())
		if d.StackDepth() == 0 {
			values++
		}
	}
}

// decoded is a JSON object as the reference decodes it, nil where the value is none.
type decoded map[string]jsontext.Value

func decode(t *testing.T, v jsontext.Value) decoded {
	if v.Kind() != '{' {
		return nil
	}
	object := decoded{}
	if err := json.Unmarshal(v, &object); err != nil {
		t.Fatalf("the reference refuses %q: %v", v, err)
	}
	return object
}

// text gives the text under key, nil where there is none.
func (d decoded) text(t *testing.T, key string) []byte {
	v, ok := d[key]
	if !ok || v.Kind() != '"' {
		return nil
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		t.Fatalf("the reference refuses %q: %v", v, err)
	}
	return append([]byte{}, s...)
}

// raw gives the bytes of the value under key, nil where there is none of one of the kinds (all, if none is named).
func (d decoded) raw(key, kinds string) []byte {
	if v, ok := d[key]; ok && (kinds == "" || strings.IndexByte(kinds, byte(v.Kind())) >= 0) {
		return v
	}
	return nil
}

// FuzzScan holds the scanner against a decoder that somebody else wrote: both must accept the same messages, and read
// the same out of them.
func FuzzScan(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		depth, strict := readStrictly(data)
		if depth > MaxDepth {
			return // the reference stops elsewhere
		}
		var r Request
		fault := r.Scan(data)
		if accepted := fault == nil || fault.Code != CodeParse; accepted != strict || Valid(data) != strict {
			t.Fatalf("accepted %v, valid %v, the reference %v: %v", accepted, Valid(data), strict, fault)
		}
		if batch, err := ScanBatch(data); strict && IsBatch(data) && err == nil {
			checkBatch(t, data, batch)
		}
		if !strict {
			return
		}
		message := decode(t, bytes.TrimSpace(data))
		if fault != nil {
			if r.ID != nil && !bytes.Equal(r.ID, message["id"]) {
				t.Fatalf("id %q, want %q", r.ID, message["id"])
			}
			return
		}
		checkFields(t, &r, message)
	})
}

func checkFields(t *testing.T, r *Request, message decoded) {
	params := decode(t, message.raw("params", "{"))
	meta := decode(t, params.raw("_meta", "{"))
	if version := message.text(t, "jsonrpc"); string(version) != "2.0" {
		t.Errorf("accepted version %q", version)
	}
	for _, c := range []struct {
		name      string
		got, want []byte
	}{
		{"id", r.ID, message.raw("id", `"0`)},
		{"method", r.MethodName, message.text(t, "method")},
		{"params", r.Params, message.raw("params", "{")},
		{"result", r.Result, message.raw("result", "")},
		{"error", r.Error, message.raw("error", "")},
		{"name", r.Name, params.text(t, "name")},
		{"uri", r.URI, params.text(t, "uri")},
		{"cursor", r.Cursor, params.text(t, "cursor")},
		{"requestState", r.RequestState, params.text(t, "requestState")},
		{"arguments", r.Arguments, params.raw("arguments", "{")},
		{"inputResponses", r.InputResponses, params.raw("inputResponses", "{")},
		{"_meta", r.Meta.Raw, params.raw("_meta", "{")},
		{"protocolVersion", r.Meta.ProtocolVersion, meta.text(t, "io.modelcontextprotocol/protocolVersion")},
		{"clientCapabilities", r.Meta.ClientCapabilities, meta.raw("io.modelcontextprotocol/clientCapabilities", "{")},
		{"clientInfo", r.Meta.ClientInfo, meta.raw("io.modelcontextprotocol/clientInfo", "{")},
		{"logLevel", r.Meta.LogLevel, meta.text(t, "io.modelcontextprotocol/logLevel")},
		{"progressToken", r.Meta.ProgressToken, meta.raw("progressToken", `"0`)},
		{"traceparent", r.Meta.TraceParent, meta.text(t, "traceparent")},
	} {
		if !bytes.Equal(c.got, c.want) || (c.got == nil) != (c.want == nil) {
			t.Errorf("%s: %q, the reference %q", c.name, c.got, c.want)
		}
	}
	var timeout int64
	if v := meta.raw("millrace/timeoutMs", ""); v != nil {
		if err := json.Unmarshal(v, &timeout); err != nil {
			t.Errorf("timeoutMs %s: %v", v, err)
		}
	}
	if r.Meta.TimeoutMs != timeout {
		t.Errorf("timeoutMs: %d, the reference %d", r.Meta.TimeoutMs, timeout)
	}
	_, hasMethod := message["method"]
	_, hasID := message["id"]
	if kind := map[[2]bool]MessageKind{{true, true}: KindRequest, {true, false}: KindNotification}; hasMethod && r.Kind != kind[[2]bool{hasMethod, hasID}] ||
		hasMethod == (r.Kind == KindResponse) {
		t.Errorf("kind %d, method %v, id %v", r.Kind, hasMethod, hasID)
	}
	checkMembers(t, r.Arguments)
}

func checkMembers(t *testing.T, object []byte) {
	got := decoded{}
	Members(object, func(k, v []byte) bool {
		got[string(k)] = v
		if !bytes.Equal(Member(object, string(k)), v) {
			t.Errorf("Member(%q): %q, want %q", k, Member(object, string(k)), v)
		}
		return true
	})
	if want := decode(t, object); !maps.EqualFunc(got, want, func(a, b jsontext.Value) bool { return bytes.Equal(a, b) }) {
		t.Errorf("Members(%q): %q, the reference %q", object, got, want)
	}
}

func checkBatch(t *testing.T, data []byte, got [][]byte) {
	var want []jsontext.Value
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, want, func(a []byte, b jsontext.Value) bool { return bytes.Equal(a, b) }) {
		t.Errorf("batch %q, the reference %q", got, want)
	}
}

func FuzzHeader(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		if got, ok := DecodeHeader(text); ok && !utf8.ValidString(got) {
			t.Errorf("DecodeHeader(%q) is no UTF-8: %q", text, got)
		}
		header := EncodeHeader(text)
		for _, c := range []byte(header) {
			if c < 0x20 || c >= 0x7F {
				t.Fatalf("EncodeHeader(%q) has the byte %#x", text, c)
			}
		}
		if header != strings.Trim(header, " ") {
			t.Errorf("EncodeHeader(%q) = %q: its spaces would be lost", text, header)
		}
		got, ok := DecodeHeader(header)
		if utf8.ValidString(text) {
			if !ok || got != text {
				t.Errorf("DecodeHeader(%q): %q %v, want %q", header, got, ok, text)
			}
			return
		}
		if ok {
			t.Errorf("DecodeHeader(%q) took %q, which is no UTF-8", header, got)
		}
		if inner := strings.TrimSuffix(strings.TrimPrefix(header, sentinelStart), sentinelEnd); inner != base64.StdEncoding.EncodeToString([]byte(text)) {
			t.Errorf("EncodeHeader(%q): %q", text, header)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		encoded := AppendText(nil, text)
		if !Valid(encoded) {
			t.Fatalf("AppendText(%q) is not valid: %q", text, encoded)
		}
		if other := AppendText(nil, []byte(text)); !bytes.Equal(other, encoded) {
			t.Errorf("of bytes: %q, of a string: %q", other, encoded)
		}
		want := string([]rune(text)) // each bad byte becomes U+FFFD
		if got, ok := Text(encoded); !ok || string(got) != want {
			t.Errorf("Text(%q): %q %v, want %q", encoded, got, ok, want)
		}
		var reference string
		if err := json.Unmarshal(encoded, &reference); err != nil || reference != want {
			t.Errorf("the reference reads %q: %q, %v", encoded, reference, err)
		}
	})
}

// serverEvent is one event as a client gets it.
type serverEvent struct{ id, event, data string }

// parseEvents reads an event stream as the HTML standard, section 9.2.6, has it.
func parseEvents(stream string) (events []serverEvent) {
	stream = strings.TrimPrefix(stream, "\ufeff")
	stream = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(stream)
	var id, event string
	var data strings.Builder
	lines := strings.Split(stream, "\n")
	for _, line := range lines[:len(lines)-1] { // what has no line break is not yet a line
		if line == "" {
			if data.Len() > 0 {
				events = append(events, serverEvent{id, event, strings.TrimSuffix(data.String(), "\n")})
			}
			event = ""
			data.Reset()
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		case "event":
			event = value
		case "data":
			data.WriteString(value + "\n")
		}
	}
	return events
}

// FuzzEvent holds that whatever is in an event, a client gets that one event and the next one whole.
func FuzzEvent(f *testing.F) {
	f.Fuzz(func(t *testing.T, id, event string, data []byte) {
		stream := append([]byte("data: before\n\n"), KeepAlive...)
		stream = AppendEvent(stream, id, event, data)
		stream = AppendEvent(stream, "last", "message", []byte("after"))
		if strings.ContainsAny(id, "\r\n\x00") {
			id = ""
		}
		if strings.ContainsAny(event, "\r\n") {
			event = ""
		}
		text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data))
		want := []serverEvent{{"", "", "before"}, {id, event, text}, {"last", "message", "after"}}
		if got := parseEvents(string(stream)); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// FuzzEventReader lets the reader and parseEvents read the same stream.
func FuzzEventReader(f *testing.F) {
	for _, seed := range []string{"data: a\n\n", "\ufeffid: 1\r\nevent: x\rdata: a\ndata:b\n\n: c\n\n", "data\n\nid\n\n", "retry: 5\ndata: \x00\n\n"} {
		f.Add(seed, 3)
	}
	f.Fuzz(func(t *testing.T, stream string, step int) {
		var want, got []serverEvent
		for _, e := range parseEvents(stream) {
			if e.event == "" {
				e.event = "message"
			}
			want = append(want, serverEvent{"", e.event, e.data})
		}
		r := NewEventReader(&steps{stream, max(1, step%64)}, 1<<20)
		for {
			e, err := r.Next()
			if err != nil {
				break
			}
			if e.Data != nil {
				got = append(got, serverEvent{"", string(e.Name), string(e.Data)})
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// steps reads a text in pieces.
type steps struct {
	text string
	step int
}

func (s *steps) Read(p []byte) (int, error) {
	if s.text == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.step)], s.text)
	s.text = s.text[n:]
	return n, nil
}
