package conf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestDuration(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := Duration(rapid.Int64Min(0).Draw(t, "d"))
		var back Duration
		if b, err := d.MarshalText(); err != nil || back.UnmarshalText(b) != nil || back != d {
			t.Fatalf("%s is read as %s", d, back)
		}
	})
	for in, want := range map[string]string{"60s": "1m", "90m": "1h30m", "0s": "0s", "1500ms": "1.5s", "3600s": "1h", "10m": "10m", "1h10m0s": "1h10m", "3605s": "1h0m5s"} {
		var d Duration
		if err := d.UnmarshalText([]byte(in)); err != nil || d.String() != want {
			t.Errorf("%s: %s, %v", in, d, err)
		}
	}
	for _, in := range []string{"", "5", "-5s", "+5s", "5 s", ".5s", "5.s", "1d", "s", "99999999999h", "0", "1h-5m", "5S"} {
		var d Duration
		if err := d.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q is taken for %s", in, d)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.Int64Min(0).Draw(t, "s"))
		var back Size
		if b, err := s.MarshalText(); err != nil || back.UnmarshalText(b) != nil || back != s {
			t.Fatalf("%s is read as %s", s, back)
		}
	})
	for in, want := range map[string]Size{"0B": 0, "64KiB": 64 << 10, "4MiB": 4 << 20, "10MB": 10e6, "1GiB": 1 << 30, "2TB": 2e12, "8388607TiB": 8388607 << 40} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err != nil || s != want || s.String() != in {
			t.Errorf("%s: %d, %v", in, s, err)
		}
	}
	for _, in := range []string{"", "5", "-5B", "5 B", "1.5KB", "5kb", "KB", "8388608TiB", "99999999999999999999B", "5BB", "5PiB"} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q is taken for %s", in, s)
		}
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	s := Secret("hunter2")
	v := struct {
		S Secret
		P *Secret
		L []Secret
		M map[string]Secret
	}{s, &s, []Secret{s}, map[string]Secret{"k": s}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %10s"} {
		fmt.Fprintf(&out, strings.Replace(verb, "%T ", "", 1)+"\n", s)
		fmt.Fprintf(&out, verb[:2]+"\n", v)
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("m", "s", s, "v", v)
	}
	v.P = nil
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	if text := out.String(); strings.Contains(text, "hunter2") || strings.Contains(text, fmt.Sprintf("%x", "hunter2")) {
		t.Error(text)
	}
	if s.Reveal() != "hunter2" || fmt.Sprint(s) != "***" {
		t.Error("Reveal or String differs")
	}
}
