package cache

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/internal/mcp"
)

func newTestSeal(t testing.TB, secret string) *seal {
	t.Helper()
	var key []byte
	if secret != "" {
		key = []byte(secret)
	}
	s, err := newSeal(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var (
	oneSecret   = strings.Repeat("a", 32)
	otherSecret = strings.Repeat("b", 32)
)

// What is closed is opened as it was.
func TestSealKeepsEntries(t *testing.T) {
	t.Parallel()
	text := rapid.String()
	rapid.Check(t, func(rt *rapid.T) {
		s := newTestSeal(t, rapid.SampledFrom([]string{"", oneSecret}).Draw(rt, "secret"))
		length := func(name string) time.Duration { return time.Duration(rapid.Int64Range(0, 1<<60).Draw(rt, name)) }
		e := &Entry{Key: text.Draw(rt, "key"), Target: text.Draw(rt, "target"), Born: time.Unix(0, rapid.Int64Range(0, 1<<61).Draw(rt, "born")), TTL: length("ttl"), Cost: length("cost"),
			StaleRevalidate: length("stale"), StaleError: length("stale error"), Result: mcp.Result{Fields: []byte(text.Draw(rt, "fields")), Rows: mcp.RowsOne}}
		e.Args = rapid.IntRange(0, len(e.Key)).Draw(rt, "args")
		if meta := text.Draw(rt, "meta"); meta != "" {
			e.Result.Meta = []byte(meta)
		}
		if rapid.Bool().Draw(rt, "hints") {
			e.Result.Hints = &mcp.Hints{TTL: length("hint"), Scope: mcp.ScopeTenant}
		}
		under := &sight{run: "r", versions: [][2]uint64{{1, 1 << 60}, {stripes - 1, 0}}}
		data, err := s.close(e, under, "name")
		if err != nil {
			rt.Fatal(err)
		}
		got, seen, ok := s.open(data, "name")
		if !ok || !reflect.DeepEqual(got, e) || !reflect.DeepEqual(seen, under) {
			rt.Fatalf("%+v, %+v, %t; want %+v, %+v", got, seen, ok, e, under)
		}
	})
}

// Who reads Redis learns nothing, and who writes to it can plant nothing: not a changed entry, not one of another name, not one
// without the secret.
func TestSealIsKept(t *testing.T) {
	t.Parallel()
	e := &Entry{Key: "the key of a call", Target: "get_secret", Born: time.Unix(1, 0), TTL: time.Hour, Result: mcp.Result{Fields: []byte("what nobody may read")}}
	under := &sight{run: "the run", versions: [][2]uint64{{1, 2}}}
	for _, secret := range []string{"", oneSecret} {
		s := newTestSeal(t, secret)
		data, err := s.close(e, under, "name")
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.close(e, under, "name")
		if err != nil {
			t.Fatal(err)
		}
		if secret != "" && (bytes.Contains(data, []byte("read")) || bytes.Contains(data, []byte("secret")) || bytes.Contains(data, []byte("call")) || bytes.Equal(data, again)) {
			t.Errorf("the entry shows in %q", data)
		}
		for i := range data {
			changed := bytes.Clone(data)
			changed[i] ^= 1
			if _, _, ok := s.open(changed, "name"); ok {
				t.Errorf("secret %q: a change of byte %d passes", secret, i)
			}
			if _, _, ok := s.open(data[:i], "name"); ok {
				t.Errorf("secret %q: the first %d bytes pass", secret, i)
			}
		}
		if _, _, ok := s.open(data, "another"); ok {
			t.Errorf("secret %q: it passes under another name", secret)
		}
		for _, other := range []string{"", oneSecret, otherSecret} {
			if _, _, ok := newTestSeal(t, other).open(data, "name"); ok != (other == secret) {
				t.Errorf("closed with %q and opened with %q: %t", secret, other, ok)
			}
		}
	}
	if newTestSeal(t, oneSecret).name("k") == newTestSeal(t, otherSecret).name("k") || newTestSeal(t, oneSecret).name("k") == newTestSeal(t, "").name("k") {
		t.Error("a name can be guessed without the secret")
	}
	if _, err := newSeal([]byte("short")); err == nil {
		t.Error("a short secret passes")
	}
}

// FuzzSealed opens what others have written.
func FuzzSealed(f *testing.F) {
	plain, secret := newTestSeal(f, ""), newTestSeal(f, oneSecret)
	for _, s := range []*seal{plain, secret} {
		data, err := s.close(&Entry{Key: "key", Args: 3, Result: mcp.Result{Fields: []byte("x"), Hints: &mcp.Hints{}}}, &sight{run: "r", versions: [][2]uint64{{1, 2}}}, "name")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[9:])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, under, ok := parseEntry(data); ok && !bytes.Equal(appendEntry(nil, e, under), data) {
			if again, _, ok := parseEntry(appendEntry(nil, e, under)); !ok || again.Key != e.Key || string(again.Result.Fields) != string(e.Result.Fields) {
				t.Errorf("%q is not read as it is written", data)
			}
		}
		plain.open(data, "name")
		if _, _, ok := secret.open(data, "another name"); ok {
			t.Errorf("%q was never sealed", data)
		}
	})
}
