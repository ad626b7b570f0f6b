package mcp

import (
	"strings"
	"testing"
)

func TestAppendText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"", `""`}, {"plain", `"plain"`}, {"a\"b\\c/d", `"a\"b\\c/d"`}, {"\n\r\t", `"\n\r\t"`},
		{"\x00\x1f\b\f\x7f", `"\u0000\u001f\u0008\u000c` + "\x7f" + `"`}, {"é€😀", `"é€😀"`}, {"\u2028", "\"\u2028\""},
		{"\xff", `"` + "\ufffd" + `"`}, {"a\xc3", `"a` + "\ufffd" + `"`}, {"\xed\xa0\x80", `"` + strings.Repeat("\ufffd", 3) + `"`},
		{"\xe2\x82", `"` + strings.Repeat("\ufffd", 2) + `"`}, {"\ufffd\xffa", `"` + "\ufffd\ufffd" + `a"`},
	} {
		if got := string(AppendText([]byte("x"), c.in)); got != "x"+c.want {
			t.Errorf("AppendText(%q): %s, want %s", c.in, got[1:], c.want)
		}
		if got := string(AppendText(nil, []byte(c.in))); got != c.want {
			t.Errorf("AppendText of bytes %q: %s, want %s", c.in, got, c.want)
		}
	}
}

func TestAppendInt(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", -1: "-1", 1 << 62: "4611686018427387904", -1 << 63: "-9223372036854775808"} {
		if got := string(AppendInt(nil, n)); got != want {
			t.Errorf("AppendInt(%d): %s", n, got)
		}
	}
}

func TestHeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, header string }{
		{"", ""}, {"city_by_id", "city_by_id"}, {"a b", "a b"}, {"city://1?x=%20", "city://1?x=%20"},
		{" a", "=?base64?IGE=?="}, {"a ", "=?base64?YSA=?="}, {"a\tb", "=?base64?YQli?="}, {"a\r\nX: y", "=?base64?YQ0KWDogeQ==?="},
		{"é", "=?base64?w6k=?="}, {"\x00", "=?base64?AA==?="}, {"\x7f", "=?base64?fw==?="}, {"=?base64?YQ==?=", "=?base64?PT9iYXNlNjQ/WVE9PT89?="},
		{"=?base64?", "=?base64?PT9iYXNlNjQ/?="}, {"=?utf-8?x?=", "=?utf-8?x?="},
	} {
		if got := EncodeHeader(c.text); got != c.header {
			t.Errorf("EncodeHeader(%q): %q, want %q", c.text, got, c.header)
		}
		if got, ok := DecodeHeader(c.header); !ok || got != c.text {
			t.Errorf("DecodeHeader(%q): %q %v, want %q", c.header, got, ok, c.text)
		}
	}
	for _, c := range []struct{ header, text string }{
		{"=?base64??=", ""}, {"é", "é"}, {"=?base64?YQ==", "=?base64?YQ=="}, {"=?base64?=", "=?base64?="}, {"=?BASE64?YQ==?=", "=?BASE64?YQ==?="},
	} {
		if got, ok := DecodeHeader(c.header); !ok || got != c.text {
			t.Errorf("DecodeHeader(%q): %q %v, want %q", c.header, got, ok, c.text)
		}
	}
	for _, bad := range []string{
		"=?base64?YQ?=", "=?base64?YQ=?=", "=?base64?YR==?=", "=?base64?Y!==?=", "=?base64?_w==?=", "=?base64?/w==?=", "=?base64? YQ==?=",
		"\xff", "a\xc3",
	} {
		if got, ok := DecodeHeader(bad); ok {
			t.Errorf("DecodeHeader(%q): %q", bad, got)
		}
	}
}

func TestAppendEvent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ id, event, data, want string }{
		{"", "", `{"a":1}`, "data: {\"a\":1}\n\n"},
		{"s-1", "message", `{}`, "id: s-1\nevent: message\ndata: {}\n\n"},
		{"s-1", "", "", "id: s-1\ndata: \n\n"},
		{"", "", "a\nb\rc\r\nd\n", "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"},
		{"", "", "\n\nid: 2\n\ndata: x", "data: \ndata: \ndata: id: 2\ndata: \ndata: data: x\n\n"},
		{"1\ndata: x", "m\rid: 2", "{}", "data: {}\n\n"},
		{"1\x00", "", "{}", "data: {}\n\n"},
	} {
		if got := string(AppendEvent(nil, c.id, c.event, []byte(c.data))); got != c.want {
			t.Errorf("AppendEvent(%q, %q, %q): %q, want %q", c.id, c.event, c.data, got, c.want)
		}
	}
}
