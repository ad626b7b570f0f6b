package mcp

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// manyKeysObject is an object of n different keys, each with a nested object of its own.
func manyKeysObject(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":{"k0":1}`, i)
	}
	return "{" + strings.TrimPrefix(b.String(), ",") + "}"
}

// places are where a value can stand in a message: each is walked by a function of its own.
var places = []string{
	`{"jsonrpc":"2.0","id":1,"method":"ping","x":%s}`,
	`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":%s}}`,
	`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"arguments":{"x":%s}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"x":%s}}}`,
	`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":[[{"y":%s}]]}}`,
	`{"jsonrpc":"2.0","id":1,"method":5,"x":%s}`,
	`[%s]`,
	`%s`,
}

func TestScanMalformedValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ value, want string }{
		{`tru`, ""}, {`True`, ""}, {`nul`, ""}, {`NaN`, ""}, {`Infinity`, ""}, {`-Infinity`, ""},
		{`01`, ""}, {`-`, ""}, {`+1`, ""}, {`.5`, ""}, {`1.`, ""}, {`1e`, ""}, {`1e+`, ""}, {`0x10`, ""}, {`--1`, ""}, {`1_0`, ""},
		{`'a'`, ""}, {`a`, ""}, {`/**/1`, ""}, {`1//`, ""}, {"\x00", ""}, {"\ufeff1", ""}, {"\u00a01", ""}, {"\v1", ""},
		{`[1,]`, "trailing comma"}, {`[,1]`, ""}, {`[1,,2]`, ""}, {`[1 2]`, ""}, {`[1}`, ""}, {`[1:2]`, ""},
		{`{"a":1,}`, "trailing comma"}, {`{,"a":1}`, ""}, {`{"a":1,,"b":2}`, ""}, {`{"a":1 "b":2}`, ""}, {`{"a":1]`, ""},
		{`{"a"}`, "expected a colon"}, {`{"a",1}`, "expected a colon"}, {`{"a":}`, ""}, {`{a:1}`, "expected a key"},
		{`{1:1}`, "expected a key"}, {`{null:1}`, "expected a key"}, {`{"a"::1}`, ""},
		{`{"name":1,"name":1}`, "duplicate key"}, {`{"na\u006de":1,"name":2}`, "duplicate key"},
		{`{"name":1,"na\u006De":2}`, "duplicate key"}, {`{"é":1,"\u00E9":2}`, "duplicate key"},
		{`{"😀":1,"\ud83d\ude00":2}`, "duplicate key"}, {`{"/":1,"\/":2}`, "duplicate key"}, {`{"":1,"":2}`, "duplicate key"},
		{`{"a":{"b":1,"c":[{"d":1,"d":2}]}}`, "duplicate key"}, {`{"a":{"b":1},"c":{"b":1},"a":0}`, "duplicate key"},
		{"\"\x01\"", "control character"}, {"\"\n\"", "control character"}, {"\"12345678\t\"", "control character"},
		{"\"\x1f2345678\"", "control character"}, {"{\"\x00\":1}", "control character"},
		{"\"\x80\"", "invalid UTF-8"}, {"\"\xff\"", "invalid UTF-8"}, {"\"\xc3\"", "invalid UTF-8"}, {"\"\xc0\xaf\"", "invalid UTF-8"},
		{"\"\xed\xa0\x80\"", "invalid UTF-8"}, {"\"\xf4\x90\x80\x80\"", "invalid UTF-8"}, {"\"12345678\xe2\x82\"", "invalid UTF-8"},
		{"{\"\xff\":1}", "invalid UTF-8"},
		{`"\ud800"`, "bad escape"}, {`"\udc00"`, "bad escape"}, {`"\ud800\ud800"`, "bad escape"}, {`"\ud800x\udc00"`, "bad escape"},
		{`"\ud83d\u0041"`, "bad escape"}, {`"\ud83d\n12345"`, "bad escape"}, {`{"\udfff":1}`, "bad escape"},
		{`"\a"`, "bad escape"}, {`"\u12"`, "bad escape"}, {`"\u12g4"`, "bad escape"}, {`"\U0041"`, "bad escape"}, {`"\'"`, "bad escape"},
		{`"a`, ""}, {`"a\"`, ""}, {`"\`, ""}, {`"12345678`, ""}, {`"\ud83d\ude0`, ""},
	} {
		for _, place := range places {
			in := fmt.Sprintf(place, c.value)
			var r Request
			err := r.Scan([]byte(in))
			if err == nil || err.Code != CodeParse || !strings.Contains(err.Message, c.want) || r.ID != nil {
				t.Errorf("Scan(%q): %v, id %q; want a parse error with %q", in, err, r.ID, c.want)
			}
			if Valid([]byte(in)) {
				t.Errorf("Valid(%q)", in)
			}
		}
	}
}

func TestScanDuplicateEnvelope(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		`{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"ping"}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","id":2}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","\u0069d":2}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","method":"ping"}`,
		`{"jsonrpc":"2.0","id":1,"method":5,"method":"ping"}`,
		`{"jsonrpc":"2.0","id":1,"method":5,"x":1,"x":1}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{},"params":{}}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{},"params":null}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"name":"a","na\u006de":"b"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{},"_meta":{}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken":1,"progressToken":1}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"arguments":{"a":1,"a":1}}}`,
	} {
		var r Request
		if err := r.Scan([]byte(in)); err == nil || !strings.Contains(err.Message, "duplicate key") {
			t.Errorf("Scan(%s): %v", in, err)
		}
	}
}

// The error names the byte where the second of two like keys stands, on both sides of manyKeys.
func TestScanManyKeys(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 3*manyKeys; n++ {
		good := manyKeysObject(n)
		for _, place := range places {
			in := fmt.Sprintf(place, good)
			if !Valid([]byte(in)) {
				t.Fatalf("%d keys: %s is not valid", n, in)
			}
		}
		for i := range n {
			for _, twin := range []string{fmt.Sprintf(`"k%d"`, i), fmt.Sprintf(`"\u006b%d"`, i)} {
				bad := strings.TrimSuffix(good, "}") + "," + twin + `:1}`
				var r Request
				want := fmt.Sprintf("at byte %d: duplicate key", len(good))
				if err := r.Scan([]byte(bad)); err == nil || !strings.HasSuffix(err.Message, want) {
					t.Fatalf("%d keys, the %dth twice: %v", n, i, err)
				}
			}
		}
	}
}

// Keys whose hashes are equal are told apart, or found to be one, by their names.
func TestScanEqualHashes(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 2 * manyKeys} {
		for _, c := range []struct {
			names []string
			ok    bool
		}{
			{[]string{"b", "a", "c"}, true}, {[]string{"a", "b", "a"}, false}, {[]string{"a", "b", `\u0061`}, false},
		} {
			s := scanner{}
			for i := range n - len(c.names) {
				c.names = append(c.names, fmt.Sprintf("x%d", i))
			}
			for _, name := range c.names {
				s.keys = append(s.keys, key{hash: 1, start: len(s.b)})
				s.b = append(append(append(s.b, '"'), name...), '"')
			}
			rand.Shuffle(n, func(i, j int) { s.keys[i], s.keys[j] = s.keys[j], s.keys[i] })
			if got := s.leave(0); got != c.ok {
				t.Errorf("%q: %v", c.names, got)
			}
		}
	}
}

func TestScanDepth(t *testing.T) {
	t.Parallel()
	nest := func(open, end string, n int) string { return strings.Repeat(open, n) + "0" + strings.Repeat(end, n) }
	for _, place := range []struct {
		format string
		depth  int // of the place itself
	}{
		{`%s`, 0}, {`{"x":%s}`, 1}, {`{"params":%s}`, 1}, {`{"params":{"arguments":%s}}`, 2}, {`{"params":{"_meta":{"x":%s}}}`, 3},
		{`{"method":5,"x":%s}`, 1}, {`[[],%s]`, 1}, {`{"a":{"b":{"c":[]}},"x":%s}`, 1},
	} {
		for _, kind := range [][2]string{{"[", "]"}, {`{"x":`, "}"}} {
			for _, extra := range []int{0, 1, 1000, 100_000} {
				in := fmt.Sprintf(place.format, nest(kind[0], kind[1], MaxDepth-place.depth+extra))
				var r Request
				err := r.Scan([]byte(in))
				deep := err != nil && strings.Contains(err.Message, "nested too deeply")
				if deep != (extra > 0) || Valid([]byte(in)) == deep {
					t.Errorf("%.40s… of depth %d: %v", in, MaxDepth+extra, err)
				}
			}
		}
	}
}

// Every proper prefix of a message is refused, and every message with a byte more, but for space.
func TestScanTruncated(t *testing.T) {
	t.Parallel()
	for _, message := range []string{
		callMessage,
		`{"jsonrpc":"2.0","id":"\ud83d\ude00é","method":"tools/call","params":{"name":"\u0061\n","arguments":{"a":[-1.5e+10,true,null]}}}`,
		`{"x":` + manyKeysObject(2*manyKeys) + `}`,
	} {
		for n := range len(message) {
			var r Request
			if err := r.Scan([]byte(message[:n])); err == nil || err.Code != CodeParse || r.ID != nil {
				t.Errorf("Scan(%s): %v", message[:n], err)
			}
		}
		for _, tail := range []string{"x", "{}", ",", "]", "}", "\x00", "\n\n1", " null", "\ufeff"} {
			var r Request
			if err := r.Scan([]byte(message + tail)); err == nil || err.Code != CodeParse {
				t.Errorf("with %q behind: %v", tail, err)
			}
		}
	}
}

// The eight-byte step and the table must agree about every byte at every place of a word.
func TestSpecial(t *testing.T) {
	t.Parallel()
	for at := range 24 {
		for c := range 256 {
			text := []byte(strings.Repeat("~", 24))
			text[at] = byte(c)
			in := append(append([]byte{'"'}, text...), '"')
			s := scanner{b: in}
			raw, escaped, ok := s.text()
			if plain[c] != (ok && !escaped && len(raw) == 24 && s.p == len(in)) && c != '"' {
				t.Errorf("byte %#x at %d: %q %v %v", c, at, raw, escaped, ok)
			}
			if c == '"' && string(raw) != string(text[:at]) {
				t.Errorf("quote at %d: %q", at, raw)
			}
		}
	}
}
