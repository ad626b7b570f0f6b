package mcp

import (
	"fmt"
	"slices"
	"testing"
)

func TestMembers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want []string
	}{
		{` { "a" : 1 , "b\n\u00e9":[ 1,{"x":"}"} ] , "":{"a":2} } `, []string{`a 1`, "b\né [ 1,{\"x\":\"}\"} ]", ` {"a":2}`}},
		{`{}`, nil}, {`[]`, nil}, {`[{"a":1}]`, nil}, {`"a"`, nil}, {`1`, nil}, {`null`, nil}, {``, nil}, {` `, nil},
		// Not valid, against the contract: whatever comes, no panic.
		{`{"a":1,`, []string{`a 1`}}, {`{"a"`, nil}, {`{"a":`, nil}, {`{"a":tru}`, nil}, {`{1:1}`, nil}, {`{`, nil},
	} {
		var got []string
		Members([]byte(c.in), func(k, v []byte) bool {
			got = append(got, fmt.Sprintf("%s %s", k, v))
			return true
		})
		if !slices.Equal(got, c.want) {
			t.Errorf("Members(%s): %q, want %q", c.in, got, c.want)
		}
	}
	calls := 0
	Members([]byte(`{"a":1,"b":2}`), func(_, _ []byte) bool { calls++; return false })
	if calls != 1 {
		t.Errorf("%d calls after false", calls)
	}
}

func TestMember(t *testing.T) {
	t.Parallel()
	object := []byte(`{"a":{"b":1},"b":null,"\u0063":"x"}`)
	for key, want := range map[string]string{"a": `{"b":1}`, "b": `null`, "c": `"x"`, "d": "", "": ""} {
		if got := Member(object, key); string(got) != want || (got == nil) != (want == "") {
			t.Errorf("Member(%q): %q, want %q", key, got, want)
		}
	}
}

func TestElements(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want []string
	}{
		{` [ 1 , "]" , [2] , {"a":[3]} , null ] `, []string{`1`, `"]"`, `[2]`, `{"a":[3]}`, `null`}},
		{`[]`, nil}, {`{}`, nil}, {`{"a":[1]}`, nil}, {`"["`, nil}, {``, nil}, {`[`, nil}, {`[1,`, []string{`1`}}, {`[tru]`, nil},
	} {
		var got []string
		Elements([]byte(c.in), func(v []byte) bool {
			got = append(got, string(v))
			return true
		})
		if !slices.Equal(got, c.want) {
			t.Errorf("Elements(%s): %q, want %q", c.in, got, c.want)
		}
	}
	calls := 0
	Elements([]byte(`[1,2]`), func([]byte) bool { calls++; return false })
	if calls != 1 {
		t.Errorf("%d calls after false", calls)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in, want string
		ok       bool
	}{
		{`""`, "", true}, {`"a"`, "a", true}, {`"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t", true},
		{`"\u0000\u00e9\u20AC\uD83d\uDe00x"`, "\x00é€😀x", true}, {`"é\u0041é"`, "éAé", true}, {`"\\u0041"`, `\u0041`, true},
		{`"\ufffd\uffff"`, "\ufffd\uffff", true}, {`1`, "", false}, {`null`, "", false}, {`{"a":"b"}`, "", false}, {``, "", false}, {`"`, "", false},
	} {
		got, ok := Text([]byte(c.in))
		if string(got) != c.want || ok != c.ok || ok && got == nil {
			t.Errorf("Text(%s): %q %v, want %q %v", c.in, got, ok, c.want, c.ok)
		}
	}
}

// A reader of arguments costs nothing: not even nested objects are copied or kept.
func TestMembersAllocateNothing(t *testing.T) {
	data := []byte(`{"a":{"b":[{"c":1,"d":"x"}]},"e":"text","f":[1,2,3]}`)
	count := 0
	each := func(_, _ []byte) bool { count++; return true }
	if n := testing.AllocsPerRun(100, func() { Members(data, each) }); n != 0 || count == 0 {
		t.Errorf("%v allocations, %d members", n, count)
	}
}
