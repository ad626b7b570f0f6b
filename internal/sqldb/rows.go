package sqldb

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"millrace/internal/mcp"
)

// maxExact is the largest integer up to which every integer is a JSON number that all readers understand alike.
const maxExact = 1 << 53

// rows appends one result to dst: `{"rows":[…]}` with its bounds.
type rows struct {
	dst      []byte
	start    int // of the result in dst
	maxRows  int64
	maxBytes int
	n        int64
	rowStart int // of the row being written, its comma included

	truncated bool
}

// largeResult is the size from which on a result's buffer is doubled.
const largeResult = 64 << 10

func beginRows(dst []byte, maxRows, maxBytes int) rows {
	r := rows{start: len(dst), maxRows: math.MaxInt64, maxBytes: math.MaxInt}
	if maxRows > 0 {
		r.maxRows = int64(maxRows)
	}
	if maxBytes > 0 {
		r.maxBytes = maxBytes
	}
	r.dst = append(dst, `{"rows":[`...)
	return r
}

// beginRow tells whether one more row may come. Without columns the row is {}.
func (r *rows) beginRow() bool {
	if r.n >= r.maxRows {
		r.truncated = true
		return false
	}
	r.rowStart = len(r.dst)
	// append would let a large result grow by quarters, and leave all the smaller copies to the collector.
	if n := r.rowStart; n > largeResult && cap(r.dst)-n < n/8 {
		r.dst = slices.Grow(r.dst, min(n, max(r.room(), 0)+n/8))
	}
	if r.n > 0 {
		r.dst = append(r.dst, ',')
	}
	return true
}

// room is how many bytes the result may still grow by.
func (r *rows) room() int { return r.maxBytes - (len(r.dst) - r.start) }

// endRow keeps the row, or takes it back and ends the result where the bound in bytes is passed.
func (r *rows) endRow() bool {
	if r.room() < 0 {
		r.dropRow()
		return false
	}
	r.n++
	return true
}

// dropRow takes back the row that is being written; the result is truncated.
func (r *rows) dropRow() {
	r.dst, r.truncated = r.dst[:r.rowStart], true
}

func (r *rows) end() []byte {
	if r.truncated {
		return append(r.dst, `],"truncated":true}`...)
	}
	return append(r.dst, ']', '}')
}

func appendAffected(dst []byte, n int64) []byte {
	dst = append(dst, `{"rows_affected":`...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, '}')
}

// columnPrefix is what stands before a column's value: {"name": of the first one and ,"name": of the others.
func columnPrefix(i int, name string) []byte {
	prefix := []byte{','}
	if i == 0 {
		prefix[0] = '{'
	}
	return append(mcp.AppendText(prefix, name), ':')
}

// appendInt writes v, as a string where a reader that counts in doubles could misread it.
func appendInt(dst []byte, v int64) []byte {
	if v > maxExact || v < -maxExact {
		dst = append(dst, '"')
		dst = strconv.AppendInt(dst, v, 10)
		return append(dst, '"')
	}
	return strconv.AppendInt(dst, v, 10)
}

// appendFloat writes the shortest form that reads back as f, in the manner of ECMAScript; null for NaN and infinities.
func appendFloat(dst []byte, f float64, bits int) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...)
	}
	if f == 0 {
		return append(dst, '0')
	}
	format := byte('f')
	if a := math.Abs(f); a < 1e-6 || a >= 1e21 {
		format = 'e'
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, format, -1, bits)
	if format == 'e' {
		// e-09 becomes e-9.
		if n := len(dst); n-start >= 4 && dst[n-4] == 'e' && dst[n-2] == '0' {
			dst[n-2] = dst[n-1]
			dst = dst[:n-1]
		}
	}
	return dst
}

// plain tells which bytes stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// closeText ends a JSON string whose raw bytes already stand at dst[from:], straight after the opening quote. Most text
// needs no escape and stays where the engine put it.
func closeText(dst []byte, from int) []byte {
	for i := from; i < len(dst); i++ {
		if !plain[dst[i]] {
			return closeOddText(dst, from, i)
		}
	}
	return append(dst, '"')
}

func closeOddText(dst []byte, from, i int) []byte {
	for i < len(dst) {
		c := dst[i]
		if plain[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			break
		}
		r, size := utf8.DecodeRune(dst[i:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		i += size
	}
	if i < len(dst) {
		raw := slices.Clone(dst[i:])
		dst = mcp.AppendEscaped(dst[:i], raw)
	}
	return append(dst, '"')
}

func appendBase64(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// appendJSON nests src without its blanks (a line break inside a message would end it on stdio); what is not JSON becomes a
// string.
func appendJSON(dst, src []byte) []byte {
	n := len(dst)
	out, err := jsontext.AppendFormat(dst, src, jsontext.AllowDuplicateNames(true), jsontext.PreserveRawStrings(true))
	if err != nil {
		return mcp.AppendText(dst[:n], src)
	}
	return out
}

// appendDateTime writes a stored date and time in ISO 8601: a T between the two, and in UTC where it has a zone. Text of
// another form stays as it is.
func appendDateTime(dst, s []byte) []byte {
	if len(s) < len("2006-01-02 15:04") || s[4] != '-' || s[7] != '-' || s[10] != ' ' && s[10] != 'T' || s[13] != ':' {
		return mcp.AppendText(dst, s)
	}
	from := len(dst) + 1
	dst = mcp.AppendText(dst, s)
	if len(dst) > from+10 && dst[from+10] == ' ' {
		dst[from+10] = 'T'
	}
	return appendUTC(dst, from)
}

// appendUTC turns the time that ends dst, from dst[from] to its closing quote, to UTC if it has another zone.
func appendUTC(dst []byte, from int) []byte {
	if c := dst[len(dst)-2]; c == 'Z' || len(dst)-1-from <= len("2006-01-02T15:04:05") {
		return dst
	}
	t, err := time.Parse(time.RFC3339Nano, string(dst[from:len(dst)-1]))
	if err != nil {
		return dst
	}
	dst = t.UTC().AppendFormat(dst[:from], time.RFC3339Nano)
	return append(dst, '"')
}
