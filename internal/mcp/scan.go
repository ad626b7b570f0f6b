package mcp

import (
	"bytes"
	"unicode/utf8"
)

// MaxDepth is how deeply objects and arrays of a message may nest.
const MaxDepth = 100

// scanner walks one JSON text, once, and is as strict as RFC 8259 and RFC 7493 allow: a duplicate key at any depth,
// invalid UTF-8, a lone surrogate, a control character in a string or a byte after the value is an error. A message
// that two readers could read in two ways must not pass: a header is checked against one reading and another server
// may act on the other.
//
// Values are not decoded; the walk gives their extent. That costs a third of a tokenising decoder (0.35 µs for a call
// of 350 bytes). FuzzScan holds it against encoding/json/v2's semantics.
type scanner struct {
	b     []byte
	p     int
	depth int
	// keys is a stack of the keys seen in the objects that are open, each object's on top of its parent's.
	keys [][]byte
	err  string // what is wrong at p, "" for nothing
}

// fail notes the first fault; it always gives false so that callers can return it.
func (s *scanner) fail(msg string) bool {
	if s.err == "" {
		s.err = msg
	}
	return false
}

func (s *scanner) space() {
	for s.p < len(s.b) {
		switch s.b[s.p] {
		case ' ', '\t', '\n', '\r':
			s.p++
		default:
			return
		}
	}
}

// peek gives the next byte that is no space, 0 at the end.
func (s *scanner) peek() byte {
	if s.p < len(s.b) {
		if c := s.b[s.p]; c > ' ' {
			return c
		}
		s.space()
		if s.p < len(s.b) {
			return s.b[s.p]
		}
	}
	return 0
}

// value walks one value of any kind.
func (s *scanner) value() bool {
	switch c := s.peek(); c {
	case '"':
		_, _, ok := s.text()
		return ok
	case '{':
		return s.object()
	case '[':
		return s.array()
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return s.number()
	case 0:
		if s.p >= len(s.b) {
			return s.fail("unexpected end")
		}
	}
	return s.fail("unexpected character")
}

func (s *scanner) literal(word string) bool {
	if len(s.b)-s.p < len(word) || string(s.b[s.p:s.p+len(word)]) != word {
		return s.fail("unexpected character")
	}
	s.p += len(word)
	return true
}

func (s *scanner) digits() bool {
	start := s.p
	for s.p < len(s.b) && s.b[s.p]-'0' <= 9 {
		s.p++
	}
	return s.p > start || s.fail("malformed number")
}

func (s *scanner) number() bool {
	if s.b[s.p] == '-' {
		s.p++
	}
	if s.p < len(s.b) && s.b[s.p] == '0' {
		s.p++
	} else if !s.digits() {
		return false
	}
	if s.p < len(s.b) && s.b[s.p] == '.' {
		s.p++
		if !s.digits() {
			return false
		}
	}
	if s.p < len(s.b) && s.b[s.p]|0x20 == 'e' {
		s.p++
		if s.p < len(s.b) && (s.b[s.p] == '+' || s.b[s.p] == '-') {
			s.p++
		}
		return s.digits()
	}
	return true
}

// plain marks the bytes that a string may hold as they are: no quote, no backslash, no control, no non-ASCII.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// text walks a string that starts at p; raw is what stands between the quotes.
func (s *scanner) text() (raw []byte, escaped, ok bool) {
	b, p := s.b, s.p+1
	start := p
	for {
		for p < len(b) && plain[b[p]] {
			p++
		}
		if p >= len(b) {
			s.p = p
			return nil, false, s.fail("unterminated string")
		}
		switch c := b[p]; {
		case c == '"':
			s.p = p + 1
			return b[start:p], escaped, true
		case c == '\\':
			escaped = true
			n := escapeLength(b[p:])
			if n == 0 {
				s.p = p
				return nil, false, s.fail("bad escape in string")
			}
			p += n
		case c < 0x20:
			s.p = p
			return nil, false, s.fail("control character in string")
		default:
			r, n := utf8.DecodeRune(b[p:])
			if r == utf8.RuneError && n == 1 {
				s.p = p
				return nil, false, s.fail("invalid UTF-8")
			}
			p += n
		}
	}
}

// escapeLength gives the length of the escape at the start of b, both halves of a surrogate pair included, 0 for a
// malformed one or a lone surrogate.
func escapeLength(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		r := hex4(b[2:])
		switch {
		case r < 0 || r >= 0xDC00 && r <= 0xDFFF:
			return 0
		case r < 0xD800 || r > 0xDFFF:
			return 6
		}
		if len(b) < 12 || b[6] != '\\' || b[7] != 'u' {
			return 0
		}
		if low := hex4(b[8:]); low >= 0xDC00 && low <= 0xDFFF {
			return 12
		}
	}
	return 0
}

// hex4 reads four hexadecimal digits, -1 where there are none.
func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return r
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

// open enters an object or array.
func (s *scanner) open() bool {
	s.p++
	s.depth++
	return s.depth <= MaxDepth || s.fail("nested too deeply")
}

// next stands before a member or element. first tells whether none came yet. It gives false at the closing bracket,
// which it consumes, and on a fault.
func (s *scanner) next(first bool, closing byte) bool {
	c := s.peek()
	if c == closing {
		s.p++
		s.depth--
		return false
	}
	if first {
		return true
	}
	if c != ',' {
		return s.fail("expected a comma or a closing bracket")
	}
	s.p++
	if s.peek() == closing {
		return s.fail("trailing comma")
	}
	return true
}

// manyKeys is from how many keys on an object gets an index of them; below, a linear look back is faster.
const manyKeys = 24

// key walks a member's name and its colon. base is where the object's keys start in s.keys, seen its index.
func (s *scanner) key(base int, seen *map[string]struct{}) (name []byte, ok bool) {
	if s.peek() != '"' {
		return nil, s.fail("expected a key")
	}
	start := s.p
	name, escaped, ok := s.text()
	if !ok {
		return nil, false
	}
	if escaped {
		name = Unescape(name)
	}
	if s.peek() != ':' {
		return nil, s.fail("expected a colon")
	}
	s.p++
	own := s.keys[base:]
	if len(own) < manyKeys {
		for _, k := range own {
			if string(k) == string(name) {
				s.p = start
				return nil, s.fail("duplicate key")
			}
		}
	} else {
		if *seen == nil {
			*seen = make(map[string]struct{}, 4*manyKeys)
			for _, k := range own {
				(*seen)[string(k)] = struct{}{}
			}
		}
		if _, twice := (*seen)[string(name)]; twice {
			s.p = start
			return nil, s.fail("duplicate key")
		}
		(*seen)[string(name)] = struct{}{}
		return name, true // the index has it: the stack need not
	}
	s.keys = append(s.keys, name)
	return name, true
}

func (s *scanner) object() bool {
	if !s.open() {
		return false
	}
	base := len(s.keys)
	var seen map[string]struct{}
	for first := true; s.next(first, '}'); first = false {
		if _, ok := s.key(base, &seen); !ok || !s.value() {
			return false
		}
	}
	s.keys = s.keys[:base]
	return s.err == ""
}

func (s *scanner) array() bool {
	if !s.open() {
		return false
	}
	for first := true; s.next(first, ']'); first = false {
		if !s.value() {
			return false
		}
	}
	return s.err == ""
}

// extent walks one value and gives its bytes.
func (s *scanner) extent() ([]byte, bool) {
	s.peek()
	start := s.p
	ok := s.value()
	return s.b[start:s.p], ok
}

// end checks that nothing but space follows.
func (s *scanner) end() bool {
	s.space()
	return s.p == len(s.b) || s.fail("bytes after the end of the message")
}

// Valid tells whether data is one strict JSON value, as deep as messages may be.
func Valid(data []byte) bool {
	s := scanner{b: data}
	return s.value() && s.end()
}

// Members calls f with each key (unescaped) and value of a JSON object that has been found valid before, until f
// gives false. It does nothing when object is no object.
func Members(object []byte, f func(key, value []byte) bool) {
	s := scanner{b: object}
	if s.peek() != '{' {
		return
	}
	s.open()
	for first := true; s.next(first, '}'); first = false {
		if s.peek() != '"' {
			return
		}
		name, escaped, ok := s.text()
		if !ok {
			return
		}
		if escaped {
			name = Unescape(name)
		}
		if s.peek() != ':' {
			return
		}
		s.p++
		v, ok := s.extent()
		if !ok || !f(name, v) {
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
	s := scanner{b: array}
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
