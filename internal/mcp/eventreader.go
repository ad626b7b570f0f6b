package mcp

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// ErrEventTooLarge says that one server-sent event is larger than its reader takes.
var ErrEventTooLarge = errors.New("a server-sent event is larger than allowed")

// StreamEvent is one server-sent event as it was received. Its bytes are the reader's: they are gone with its next event.
type StreamEvent struct {
	Name []byte // "message" where the stream names none
	ID   []byte // of this event; nil where it brings none
	Data []byte // its data lines, joined by line feeds; nil where it has none
}

// EventReader reads server-sent events as the HTML standard has them: lines end with LF, CR or CRLF, a byte order mark may
// come first, comments and unknown fields are passed over. One event is bounded in size. It is not safe for concurrent use.
type EventReader struct {
	// Retry is what the stream last said about how long to wait before a connection is opened again; 0 for nothing.
	Retry time.Duration

	r     io.Reader
	max   int
	buf   []byte
	at    int // of buf: what is before it has been read
	begun bool
	skip  bool // the line before ended in CR: an LF right behind it belongs to it
	size  int  // of the event so far, comments included
	event StreamEvent
	name  []byte
	id    []byte
	data  []byte
}

// NewEventReader makes a reader of r whose events may have at most max bytes.
func NewEventReader(r io.Reader, max int) *EventReader {
	return &EventReader{r: r, max: max, data: []byte{}}
}

var defaultEventName = []byte("message")

// Next gives the next event that has data or an id; one without data primes a stream to be resumed from. The error is
// io.EOF where the stream ended, also in the middle of an event, ErrEventTooLarge, or the reader's.
func (e *EventReader) Next() (*StreamEvent, error) {
	e.event = StreamEvent{}
	e.name, e.data, e.size = e.name[:0], e.data[:0], 0
	hasData := false
	for {
		line, err := e.line()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			if e.size = 0; !hasData && e.event.ID == nil {
				e.name = e.name[:0]
				continue // a comment, or a name without anything
			}
			if e.event.Name = e.name; hasData {
				e.event.Data = e.data
			}
			if len(e.name) == 0 {
				e.event.Name = defaultEventName
			}
			return &e.event, nil
		}
		if e.size += len(line); e.size > e.max {
			return nil, ErrEventTooLarge
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			e.name = append(e.name[:0], value...)
		case "data":
			if hasData {
				e.data = append(e.data, '\n')
			}
			e.data, hasData = append(e.data, value...), true
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				e.id = append(e.id[:0], value...)
				e.event.ID = e.id
			}
		case "retry":
			if ms, ok := digits(value); ok {
				e.Retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

// digits reads a number of ASCII digits that is no longer than a day in milliseconds.
func digits(text []byte) (n int64, ok bool) {
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + int64(c-'0'); n > 86_400_000 {
			return 0, false
		}
	}
	return n, len(text) > 0
}

// line gives the next line without its end; it is good until the next call.
func (e *EventReader) line() ([]byte, error) {
	for from := e.at; ; {
		if e.skip && e.at < len(e.buf) {
			if e.skip = false; e.buf[e.at] == '\n' {
				e.at++
				from = max(from, e.at)
			}
		}
		if i := bytes.IndexAny(e.buf[from:], "\r\n"); i >= 0 {
			line := e.buf[e.at : from+i]
			e.skip = e.buf[from+i] == '\r'
			e.at = from + i + 1
			if !e.begun {
				e.begun = true
				line = bytes.TrimPrefix(line, []byte("\uFEFF"))
			}
			return line, nil
		}
		if len(e.buf)-e.at > e.max {
			return nil, ErrEventTooLarge
		}
		if e.at > 0 { // the rest moves to the front
			e.buf = e.buf[:copy(e.buf, e.buf[e.at:])]
			e.at = 0
		}
		from = len(e.buf)
		if len(e.buf) == cap(e.buf) {
			grown := make([]byte, len(e.buf), max(4096, 2*cap(e.buf)))
			copy(grown, e.buf)
			e.buf = grown
		}
		n, err := e.r.Read(e.buf[len(e.buf):cap(e.buf)])
		e.buf = e.buf[:len(e.buf)+n]
		if err != nil && n == 0 {
			return nil, err
		}
	}
}
