package mcp

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// few draws texts out of so small a set, made of the bytes that lengths and kinds are written with, that equal ones and
// ones that are each other's prefixes are common.
var few = rapid.StringOfN(rapid.SampledFrom([]rune{0, 1, 2, 4, 'a'}), 0, 3, -1)

func drawValue(t *rapid.T) Value {
	switch k := Kind(rapid.IntRange(0, int(KindJSON)).Draw(t, "kind")); k {
	case KindBool:
		return Value{Kind: k, Int: rapid.Int64Range(0, 1).Draw(t, "bool")}
	case KindInt:
		return Value{Kind: k, Int: rapid.OneOf(rapid.Int64Range(-1, 2), rapid.Int64()).Draw(t, "int")}
	case KindFloat:
		return Value{Kind: k, Float: rapid.OneOf(rapid.SampledFrom([]float64{0, math.Copysign(0, -1), 1}), rapid.Float64()).Draw(t, "float")}
	case KindText, KindJSON:
		return Value{Kind: k, Text: []byte(few.Draw(t, "text"))}
	default:
		return Value{Kind: k}
	}
}

func drawCall(t *rapid.T) *Call {
	p := NewPrincipal(few.Draw(t, "tenant"), few.Draw(t, "subject"), rapid.SliceOfN(few, 0, 3).Draw(t, "scopes"))
	return &Call{
		Caller:  Caller{Principal: p, Session: few.Draw(t, "session")},
		Target:  few.Draw(t, "target"),
		Version: [16]byte{rapid.Byte().Draw(t, "version") % 2},
		Policy:  &Policy{Scope: Scope(rapid.IntRange(0, 2).Draw(t, "scope"))},
		Args:    rapid.SliceOfN(rapid.Custom(drawValue), 0, 3).Draw(t, "args"),
	}
}

// identity is the key's specification, in words: what two calls must agree about to share a result.
func identity(c *Call) string {
	var b strings.Builder
	p := c.Caller.Principal
	switch c.Policy.Scope {
	case ScopePrivate:
		fmt.Fprintf(&b, "private %q %q %q", p.Tenant, p.Subject, p.Scopes)
	case ScopeTenant:
		fmt.Fprintf(&b, "tenant %q %q", p.Tenant, p.Scopes)
	case ScopePublic:
		fmt.Fprintf(&b, "public")
	}
	fmt.Fprintf(&b, " %q %x", c.Target, c.Version)
	for _, v := range c.Args {
		fmt.Fprintf(&b, " %d:%d:%v:%q", v.Kind, v.Int, v.Float+0, v.Text) // -0 + 0 is 0
	}
	return b.String()
}

// Two calls have one key exactly if they have one identity.
func TestKeyIsIdentity(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawCall(t), drawCall(t)
		if rapid.Bool().Draw(t, "near") { // two independent draws are seldom alike: let them differ in a field or two
			c := *a
			switch rapid.IntRange(0, 6).Draw(t, "field") {
			case 0:
				c.Caller = b.Caller
			case 1:
				c.Policy = b.Policy
			case 2:
				c.Target = b.Target
			case 3:
				c.Version = b.Version
			case 4:
				c.Args = b.Args
			case 5:
				c.Caller = Caller{Principal: NewPrincipal(a.Caller.Tenant, b.Caller.Subject, a.Caller.Scopes)}
			}
			b = &c
		}
		if same := bytes.Equal(a.Key(), b.Key()); same != (identity(a) == identity(b)) {
			t.Fatalf("keys equal: %v\n%s\n%s", same, identity(a), identity(b))
		}
	})
}

func TestKeyScopes(t *testing.T) {
	t.Parallel()
	key := func(s Scope, tenant, subject, session string, scopes ...string) string {
		c := Call{
			Caller: Caller{Principal: NewPrincipal(tenant, subject, scopes), Session: session},
			Policy: &Policy{Scope: s}, Target: "t",
			Request: &Request{Meta: Meta{ProtocolVersion: []byte(session)}},
		}
		return string(c.Key())
	}
	base := []string{key(ScopePrivate, "acme", "ann", "s", "read"), key(ScopeTenant, "acme", "ann", "s", "read"), key(ScopePublic, "acme", "ann", "s", "read")}
	for _, c := range []struct {
		name            string
		tenant, subject string
		scopes          []string
		same            [3]bool // by Scope
	}{
		{"nothing but the session", "acme", "ann", []string{"read"}, [3]bool{true, true, true}},
		{"scopes given twice", "acme", "ann", []string{"read", "read"}, [3]bool{true, true, true}},
		{"the subject", "acme", "bob", []string{"read"}, [3]bool{false, true, true}},
		{"the tenant", "other", "ann", []string{"read"}, [3]bool{false, false, true}},
		{"a scope more", "acme", "ann", []string{"write", "read"}, [3]bool{false, false, true}},
		{"a scope less", "acme", "ann", nil, [3]bool{false, false, true}},
	} {
		for s := ScopePrivate; s <= ScopePublic; s++ {
			if same := key(s, c.tenant, c.subject, "another", c.scopes...) == base[s]; same != c.same[s] {
				t.Errorf("%s differs, at scope %s: equal is %v", c.name, s, same)
			}
		}
	}
}

func TestValueKey(t *testing.T) {
	t.Parallel()
	key := func(v Value) string { return string(v.AppendKey(nil)) }
	float := func(f float64) string { return key(Value{Kind: KindFloat, Float: f}) }
	if float(math.Copysign(0, -1)) != float(0) {
		t.Error("-0 and 0 differ")
	}
	if float(1) == key(Value{Kind: KindInt, Int: 1}) {
		t.Error("1.0 as a number and 1 as an integer are one key")
	}
	if key(Value{Kind: KindText}) != key(Value{Kind: KindText, Text: []byte{}}) {
		t.Error("two empty texts differ")
	}
	// JSON has no NaN, so none gets here. Were there one, it would be a key like others, by its bits, and find itself.
	nan := math.NaN()
	if first, again := float(nan), float(nan); first != again {
		t.Error("a NaN does not find itself")
	}
}

// A caller's scopes are its own copy, sorted: their order makes no other key, and nobody can change them afterwards.
func TestNewPrincipal(t *testing.T) {
	t.Parallel()
	given := []string{"write", "read", "write"}
	p := NewPrincipal("acme", "ann", given)
	given[0] = "admin"
	if !p.Has([]string{"read", "write"}) || !p.Has(nil) || p.Has([]string{"admin"}) || p.Has([]string{"read", "admin"}) {
		t.Errorf("scopes %q", p.Scopes)
	}
	if q := NewPrincipal("acme", "ann", []string{"read", "write"}); !bytes.Equal(p.ScopeKey(ScopePrivate), q.ScopeKey(ScopePrivate)) {
		t.Error("the order of scopes makes another key")
	}
	for s := ScopePrivate; s <= ScopePublic; s++ {
		if got, ok := ParseScope(s.String()); !ok || got != s {
			t.Errorf("ParseScope(%s): %s", s, got)
		}
	}
	if _, ok := ParseScope("Public"); ok {
		t.Error("ParseScope(Public)")
	}
}

func TestCallDetach(t *testing.T) {
	t.Parallel()
	message := []byte("text and answer")
	c := &Call{
		Request: &Request{}, Caller: Caller{Principal: Anonymous}, Target: "t", Policy: &Policy{},
		Args:   []Value{{Kind: KindText, Text: message[:4]}},
		Answer: &Answer{State: message[5:8], Responses: map[string][]byte{"q": message[9:]}},
	}
	want := bytes.Clone(c.Key())
	d := c.Detach()
	clear(message)
	c.Reset()
	c.Target, c.Caller, c.Policy = "another", Caller{Principal: Anonymous}, &Policy{}
	c.Key()
	if d.Request != nil || string(d.Args[0].Text) != "text" || string(d.Answer.State) != "and" || string(d.Answer.Responses["q"]) != "answer" {
		t.Errorf("got %+v, %+v", d, d.Answer)
	}
	if !bytes.Equal(d.Key(), want) {
		t.Errorf("key %q, want %q", d.Key(), want)
	}
}

func TestCallReset(t *testing.T) {
	t.Parallel()
	c := &Call{Caller: Caller{Principal: Anonymous}, Policy: &Policy{}, Args: []Value{{Kind: KindText, Text: make([]byte, 2*keptKeyBytes)}}}
	args := c.Args
	c.Key()
	c.Reset()
	if args[0].Text != nil || cap(c.key) > keptKeyBytes || cap(c.Args) != 1 || len(c.Args) != 0 || c.Policy != nil {
		t.Errorf("after Reset: %d bytes of a text, %d of a key, %+v", len(args[0].Text), cap(c.key), c)
	}
}

// refill makes a reused call anew, as the network layer does for each request.
func refill(c *Call, p *Policy, version [16]byte) {
	c.Reset()
	c.Caller, c.Target, c.Version, c.Policy = Caller{Principal: Anonymous}, "city_by_id", version, p
	c.Args = append(c.Args, Value{Kind: KindInt, Int: 2950159}, Value{Kind: KindText, Text: argText})
}

var argText = []byte("Berlin")

func TestKeyAllocatesNothing(t *testing.T) {
	var c Call
	policy := &Policy{}
	if n := testing.AllocsPerRun(100, func() {
		refill(&c, policy, [16]byte{1})
		c.Key()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkKey(b *testing.B) {
	policy := &Policy{Scope: ScopePrivate}
	b.Run("sequential", func(b *testing.B) {
		var c Call
		b.ReportAllocs()
		for b.Loop() {
			refill(&c, policy, [16]byte{1})
			c.Key()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			var c Call
			for pb.Next() {
				refill(&c, policy, [16]byte{1})
				c.Key()
			}
		})
	})
}
