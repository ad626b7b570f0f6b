package mcp

import (
	"bytes"
	"strings"
)

// AppendEvent writes one server-sent event. id and event may be "" and are left out then, as is one that holds a byte
// which would end its line or void it: they are the server's own words, and such a one is a mistake. Empty data is written as an
// empty data line, which primes a stream's id. Line breaks in data become data lines of their own, as the standard has
// it, so that no data can end the event or start another field.
func AppendEvent(dst []byte, id, event string, data []byte) []byte {
	if id != "" && !strings.ContainsAny(id, "\r\n\x00") {
		dst = append(append(append(dst, "id: "...), id...), '\n')
	}
	if event != "" && !strings.ContainsAny(event, "\r\n") {
		dst = append(append(append(dst, "event: "...), event...), '\n')
	}
	if bytes.IndexByte(data, '\n') < 0 && bytes.IndexByte(data, '\r') < 0 { // nearly always: encoded JSON has neither
		return append(append(append(dst, "data: "...), data...), '\n', '\n')
	}
	for {
		line, rest, more := data, []byte(nil), false
		if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
			line, rest, more = data[:i], data[i+1:], true
			if data[i] == '\r' && len(rest) > 0 && rest[0] == '\n' {
				rest = rest[1:]
			}
		}
		dst = append(append(append(dst, "data: "...), line...), '\n')
		if !more {
			return append(dst, '\n')
		}
		data = rest
	}
}

// KeepAlive is an event stream's comment line that shows the connection to be alive.
var KeepAlive = []byte(": keep-alive\n\n")
