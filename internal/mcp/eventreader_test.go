package mcp

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// readEvents reads a stream to its end, as text.
func readEvents(r io.Reader, most int) (events []string, retry time.Duration, err error) {
	er := NewEventReader(r, most)
	for {
		e, err := er.Next()
		if err != nil {
			return events, er.Retry, err
		}
		id := "-"
		if e.ID != nil {
			id = string(e.ID)
		}
		events = append(events, fmt.Sprintf("%s %s %q", e.Name, id, e.Data))
	}
}

func TestEventReader(t *testing.T) {
	for _, c := range []struct{ name, stream, want string }{
		{"none", "", ""},
		{"one", "data: {}\n\n", `message - "{}"`},
		{"without a blank", "data:{}\n\n", `message - "{}"`},
		{"only the first blank goes", "data:  x\n\n", `message - " x"`},
		{"named, with an id", "id: 7\nevent: endpoint\ndata: /x\n\n", `endpoint 7 "/x"`},
		{"priming", "id: 1\ndata: \n\n", `message 1 ""`},
		{"an id alone", "id: 1\n\n", `message 1 ""`},
		{"an id counts for its event alone", "id: 1\ndata: a\n\ndata: b\n\n", `message 1 "a"|message - "b"`},
		{"an id with a zero byte", "id: a\x00b\ndata: x\n\n", `message - "x"`},
		{"data of several lines", "data: a\ndata:\ndata: b\n\n", `message - "a\n\nb"`},
		{"comments", ": keep-alive\n\n: x\ndata: a\n\n:\n\n", `message - "a"`},
		{"unknown fields", "foo: bar\ndata\ndata: a\n\n", `message - "\na"`},
		{"a name without data is no event", "event: x\n\ndata: a\n\n", `message - "a"`},
		{"CR", "data: a\rdata: b\r\r", `message - "a\nb"`},
		{"CRLF", "data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", `message - "a\nb"|message - "c"`},
		{"mixed", "data: a\n\r\ndata: b\r\n\n", `message - "a"|message - "b"`},
		{"byte order mark", "\uFEFFdata: a\n\n", `message - "a"`},
		{"cut off", "data: a\n\ndata: b\n", `message - "a"`},
	} {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(c.stream), "byte by byte": iotest.OneByteReader(strings.NewReader(c.stream)),
			"with its end": iotest.DataErrReader(strings.NewReader(c.stream))} {
			events, _, err := readEvents(r, 1000)
			if got := strings.Join(events, "|"); got != c.want || err != io.EOF {
				t.Errorf("%s, %s: %s, %v; want %s", c.name, name, got, err, c.want)
			}
		}
	}
}

func TestEventReaderRetry(t *testing.T) {
	for value, want := range map[string]time.Duration{"1500": 1500 * time.Millisecond, "": 0, "-1": 0, "1.5": 0, "999999999999999999999": 0} {
		if _, got, _ := readEvents(strings.NewReader("retry: "+value+"\n\n"), 100); got != want {
			t.Errorf("retry %q gave %v, want %v", value, got, want)
		}
	}
}

// endless gives the same byte without end.
type endless byte

func (b endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

func TestEventReaderIsBounded(t *testing.T) {
	for name, r := range map[string]io.Reader{
		"a line without end":     io.MultiReader(strings.NewReader("data: "), endless('x')),
		"lines without end":      io.MultiReader(strings.NewReader(strings.Repeat("data: xxxxxxxxxxxxxxxxxxxx\n", 100)), endless('x')),
		"a comment without end":  io.MultiReader(strings.NewReader(":"), endless('x')),
		"comments with no event": strings.NewReader(strings.Repeat(": xxxxxxxxxxxxxxxxxxxx\n", 100)),
	} {
		if _, _, err := readEvents(r, 1000); !errors.Is(err, ErrEventTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if events, _, err := readEvents(strings.NewReader("data: "+strings.Repeat("x", 900)+"\n\n"), 1000); len(events) != 1 || err != io.EOF {
		t.Errorf("%d events, %v", len(events), err)
	}
}
