package mcp

import (
	"bytes"
	"unicode/utf8"
)

// Members calls f with each key (unescaped) and value of a JSON object that has been found valid before, until f
// gives false. It does nothing when object is no object.
func Members(object []byte, f func(key, value []byte) bool) {
	s := scanner{b: object, trusted: true}
	if s.peek() != '{' {
		return
	}
	s.open()
	for first := true; s.next(first, '}'); first = false {
		name, ok := s.key()
		if !ok {
			return
		}
		if v, ok := s.extent(); !ok || !f(name, v) {
			return
		}
	}
}

// Member gives the value of one key of a JSON object that has been found valid before, nil where it is not there.
func Member(object []byte, key string) (value []byte) {
	Members(object, func(k, v []byte) bool {
		if string(k) == key {
			value = v
			return false
		}
		return true
	})
	return value
}

// Elements calls f with each value of a JSON array that has been found valid before, until f gives false. It does
// nothing when array is no array.
func Elements(array []byte, f func(value []byte) bool) {
	s := scanner{b: array, trusted: true}
	if s.peek() != '[' {
		return
	}
	s.open()
	for first := true; s.next(first, ']'); first = false {
		if v, ok := s.extent(); !ok || !f(v) {
			return
		}
	}
}

// Text gives the text of a JSON string that has been found valid before; false where the value is no string.
func Text(value []byte) ([]byte, bool) {
	if len(value) < 2 || value[0] != '"' {
		return nil, false
	}
	return Unescape(value[1 : len(value)-1]), true
}

// Unescape gives the text that a string's raw content (between the quotes, already found valid) stands for. It returns
// raw itself where nothing is escaped.
func Unescape(raw []byte) []byte {
	at := bytes.IndexByte(raw, '\\')
	if at < 0 {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for {
		out = append(out, raw[:at]...)
		raw = raw[at:]
		switch raw[1] {
		case 'u':
			r, n := hex4(raw[2:]), 6
			if r >= 0xD800 && r <= 0xDFFF {
				r, n = (r-0xD800)<<10+(hex4(raw[8:])-0xDC00)+0x10000, 12
			}
			out, raw = utf8.AppendRune(out, r), raw[n:]
		case 'b':
			out, raw = append(out, '\b'), raw[2:]
		case 'f':
			out, raw = append(out, '\f'), raw[2:]
		case 'n':
			out, raw = append(out, '\n'), raw[2:]
		case 'r':
			out, raw = append(out, '\r'), raw[2:]
		case 't':
			out, raw = append(out, '\t'), raw[2:]
		default:
			out, raw = append(out, raw[1]), raw[2:]
		}
		if at = bytes.IndexByte(raw, '\\'); at < 0 {
			return append(out, raw...)
		}
	}
}
