package front

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"millrace/internal/mcp"
)

func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		accept, withGzip, withZstd string
		refused                    bool // identity
	}{
		{"", "", "", false},
		{"gzip", "gzip", "gzip", false},
		{"GZIP", "gzip", "gzip", false},
		{"x-gzip", "gzip", "gzip", false},
		{"zstd", "", "zstd", false},
		{"gzip, deflate", "gzip", "gzip", false},
		{"gzip, deflate, br, zstd", "gzip", "zstd", false},
		{"br", "", "", false},
		{"identity", "", "", false},
		{"identity, gzip", "gzip", "gzip", false},
		{"*", "gzip", "zstd", false},
		{"*;q=0", "", "", true},
		{"*;q=0, gzip", "gzip", "gzip", true},
		{"gzip;q=0", "", "", false},
		{"gzip;q=0, *", "", "zstd", false},
		{"gzip;q=0.5, zstd;q=0.4", "gzip", "gzip", false},
		{"gzip;q=0.4, zstd;q=0.5", "gzip", "zstd", false},
		{"gzip;q=0.001", "gzip", "gzip", false},
		{"gzip;q=0.5, identity", "", "", false},
		{"gzip;q=0.5, identity;q=0.5", "gzip", "gzip", false},
		{"gzip;q=0.1, zstd, identity;q=0.5", "", "zstd", false},
		{"identity;q=0", "", "", true},
		{"identity;q=0, *", "gzip", "zstd", true},
		{"*;q=0, identity;q=0.1", "", "", false},
		{" gzip\t; Q=1.000 ,", "gzip", "gzip", false},
		{"gzip;q=1.001", "", "", false},
		{"gzip;q=2", "", "", false},
		{"gzip;q=", "", "", false},
		{"gzip;q=0.", "", "", false},
		{"gzip;q=0.0001", "", "", false},
		{"gzip;q=0,5", "", "", false},
		{"gzip;level=9", "", "", false},
		{"gzip zstd", "", "", false},
		{"zſtd", "", "", false},
		{",,;,;;q", "", "", false},
	} {
		for configured, want := range map[string]string{compressGzip: c.withGzip, compressZstd: c.withZstd} {
			if got, refused := negotiate(c.accept, configured); got != want || refused != c.refused {
				t.Errorf("%q with %s: %q, refused %v; want %q, %v", c.accept, configured, got, refused, want, c.refused)
			}
		}
	}
}

func TestEncode(t *testing.T) {
	big := bytes.Repeat([]byte(`{"id":3,"name":"Springfield"},`), 1000)
	small := []byte(`{"jsonrpc":"2.0","id":1,"result":{}}`)
	for _, c := range []struct {
		configured, accept string
		body               []byte
		want               string
	}{
		{compressGzip, "gzip", big, "gzip"},
		{compressZstd, "zstd, gzip", big, "zstd"},
		{compressZstd, "gzip, deflate", big, "gzip"},
		{compressNone, "gzip", big, ""},
		{compressGzip, "", big, ""},
		{compressGzip, "br", big, ""},
		{compressGzip, "gzip", small, ""},
		{compressGzip, "gzip;q=0.5", small, ""},
		{compressGzip, "gzip, identity;q=0", small, "gzip"},
		{compressGzip, "gzip", nil, ""},
		{compressGzip, "gzip", incompressible(8 << 10), ""},
		{compressZstd, "zstd", incompressible(8 << 10), ""},
	} {
		cfg := DefaultConfig()
		cfg.Compression = c.configured
		comp := newCompressor(cfg)
		for range 2 { // the second time with used encoders
			out, encoding := comp.encode([]byte("kept"), c.accept, c.body, part{})
			if encoding != c.want {
				t.Fatalf("%s, %q, %d bytes: encoding %q, want %q", c.configured, c.accept, len(c.body), encoding, c.want)
			}
			if encoding == "" {
				if !bytes.Equal(out, c.body) {
					t.Errorf("%s, %q: the body changed", c.configured, c.accept)
				}
			} else if !bytes.HasPrefix(out, []byte("kept")) || !bytes.Equal(decode(t, encoding, out[4:]), c.body) {
				t.Errorf("%s, %q: what came out is another body", c.configured, c.accept)
			}
		}
	}
}

func TestVaries(t *testing.T) {
	cfg := DefaultConfig()
	comp := newCompressor(cfg)
	if comp.varies(4096) || !comp.varies(4097) {
		t.Error("compress_above is not the last size that goes out as it is")
	}
	cfg.Compression = compressNone
	if newCompressor(cfg).varies(1 << 20) {
		t.Error("varies without compression")
	}
}

func TestEncodersAreShared(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Compression = compressZstd
	comp := newCompressor(cfg)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			body := bytes.Repeat(fmt.Appendf(nil, "row %d;", g), 2000)
			for i := range 20 {
				accept := []string{"gzip", "zstd"}[i%2]
				out, encoding := comp.encode(nil, accept, body, part{})
				if encoding != accept || !bytes.Equal(decode(t, encoding, out), body) {
					t.Errorf("%s: another body came out", accept)
				}
			}
		})
	}
	wg.Wait()
}

// incompressible gives bytes without any pattern.
func incompressible(n int) []byte {
	out := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range out {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out[i] = byte(x)
	}
	return out
}

func decode(t *testing.T, encoding string, b []byte) []byte {
	t.Helper()
	var r io.Reader
	switch encoding {
	case compressGzip:
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Error(err)
			return nil
		}
		r = z
	case compressZstd:
		z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Error(err)
			return nil
		}
		defer z.Close()
		r = z
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return out
}

func BenchmarkEncode(b *testing.B) {
	var body []byte
	for i := range 200 {
		body = fmt.Appendf(body, `{"id":%d,"name":"City %d","country":"DE","population":%d,"lat":%d.%d},`, 2000000+i*37, i, i*i*97%100000, i%90, i*7919%10000)
	}
	for _, coding := range []string{compressGzip, compressZstd} {
		cfg := DefaultConfig()
		cfg.Compression = coding
		c := newCompressor(cfg)
		b.Run(coding, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			var out []byte
			for b.Loop() {
				out, _ = c.encode(out[:0], "gzip, zstd", body, part{})
			}
			b.ReportMetric(float64(len(out))/float64(len(body)), "ratio")
		})
	}
	b.Run("small", func(b *testing.B) {
		c := newCompressor(DefaultConfig())
		b.ReportAllocs()
		for b.Loop() {
			c.encode(nil, "gzip, deflate, br", body[:100], part{})
		}
	})
}

// FuzzNegotiate holds negotiate against a plain reading of RFC 9110.
func FuzzNegotiate(f *testing.F) {
	for _, s := range []string{"", "gzip", "gzip;q=0, *", "zstd;q=0.5,gzip;q=0.4", "*;q=0", "identity;q=0", ";;q=1,", "gzip; q=1.000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		for _, configured := range []string{compressGzip, compressZstd} {
			got, refused := negotiate(accept, configured)
			want, wantRefused := plainNegotiate(accept, configured)
			if got != want || refused != wantRefused {
				t.Errorf("%q with %s: %q, %v; want %q, %v", accept, configured, got, refused, want, wantRefused)
			}
		}
	})
}

func plainNegotiate(accept, configured string) (string, bool) {
	q := map[string]float64{}
	for _, part := range strings.Split(accept, ",") {
		fields := strings.Split(part, ";")
		weight := 1.0
		if len(fields) > 2 {
			continue
		}
		if len(fields) == 2 {
			p := strings.ToLower(strings.Trim(fields[1], " \t"))
			text, found := strings.CutPrefix(p, "q=")
			v, err := strconv.ParseFloat(text, 64)
			if !found || err != nil || v > 1 || v < 0 || len(text) > 5 || strings.Trim(text, "0123456789.") != "" ||
				strings.HasPrefix(text, ".") {
				continue
			}
			if whole, _, _ := strings.Cut(text, "."); len(whole) != 1 {
				continue
			}
			weight = v
		}
		name := asciiLower(strings.Trim(fields[0], " \t"))
		if name == "x-gzip" {
			name = "gzip"
		}
		if old, ok := q[name]; !ok || weight > old {
			q[name] = weight
		}
	}
	of := func(name string) float64 {
		if v, ok := q[name]; ok {
			return v
		}
		return q["*"]
	}
	identity, named := q["identity"]
	star, starred := q["*"]
	refused := named && identity == 0 || !named && starred && star == 0
	best, coding := of("gzip"), "gzip"
	if z := of("zstd"); configured == compressZstd && z > 0 && z >= best {
		best, coding = z, "zstd"
	}
	if best == 0 || named && identity > best {
		return "", refused
	}
	return coding, refused
}

// asciiLower lowers A to Z alone: other letters that fold to these are other names.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// A kept part is compressed once, and every answer around it is one gzip member, or zstd frame, that any reader takes.
func TestKeptParts(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.Compression = compressZstd
	c := newCompressor(cfg)
	for _, rows := range []int{500, 2000, 60_000} {
		var fields strings.Builder
		for i := range rows {
			fmt.Fprintf(&fields, `{"id":%d,"name":"item %d"},`, i, i*7)
		}
		packed, grew := &mcp.Packed{}, 0
		packed.Grew = func() { grew++ }
		for _, coding := range []string{compressGzip, compressZstd} {
			for _, around := range [][2]string{{"", ""}, {`{"jsonrpc":"2.0","id":1,"result":{`, `}}`}, {strings.Repeat("a", 1000), strings.Repeat("b", 3000)}} {
				body := []byte(around[0] + fields.String() + around[1])
				kept := part{len(around[0]), len(around[0]) + fields.Len(), packed}
				out, got := c.encode([]byte("before"), coding, body, kept)
				if got != coding || !bytes.HasPrefix(out, []byte("before")) || len(out) > len(body)/2 {
					t.Fatalf("%q: %d bytes of %d", got, len(out), len(body))
				}
				if text := decodeOne(t, coding, out[len("before"):]); !bytes.Equal(text, body) {
					t.Errorf("%s: read %d bytes of %d", coding, len(text), len(body))
				}
			}
		}
		if grew != 2 || packed.Bytes() == 0 {
			t.Errorf("packed %d times, into %d bytes", grew, packed.Bytes())
		}
	}
	var fields strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&fields, `{"id":%d,"name":"item %d"},`, i, i*7)
	}
	// Where much stands around a part, or it is small, the body goes the usual way.
	random := &mcp.Packed{}
	for _, c := range []struct {
		body []byte
		kept part
	}{{append(bytes.Repeat([]byte("x"), mostAround+1), fields.String()...), part{mostAround + 1, mostAround + 1 + fields.Len(), random}}, {[]byte(fields.String()[:100]), part{0, 100, random}}} {
		if form := newCompressor(DefaultConfig()).form(mcp.PackGzip, c.body, c.kept); form != nil {
			t.Errorf("a form of %d bytes", len(form))
		}
	}
	if random.Bytes() != 0 {
		t.Error("it was packed")
	}
}

// decodeOne reads one gzip member or zstd frame, and nothing behind it.
func decodeOne(t *testing.T, coding string, data []byte) []byte {
	t.Helper()
	from := bytes.NewReader(data)
	var text []byte
	var err error
	if coding == compressZstd {
		r, fault := zstd.NewReader(from, zstd.WithDecoderMaxWindow(8<<20))
		if fault != nil {
			t.Fatal(fault)
		}
		defer r.Close()
		text, err = io.ReadAll(r)
		if bytes.Count(data, []byte{0x28, 0xb5, 0x2f, 0xfd}) != 1 {
			t.Error("it is more than one frame")
		}
	} else {
		r, fault := gzip.NewReader(from)
		if fault != nil {
			t.Fatal(fault)
		}
		r.Multistream(false)
		text, err = io.ReadAll(r)
	}
	if err != nil || from.Len() != 0 {
		t.Errorf("%d bytes are left, %v", from.Len(), err)
	}
	return text
}

func BenchmarkKeptPart(b *testing.B) {
	cfg := DefaultConfig()
	cfg.Compression = compressZstd
	c := newCompressor(cfg)
	fields := strings.Repeat(`{"id":12345,"name":"an item","value":3.25},`, 1500)
	body := []byte(`{"jsonrpc":"2.0","id":1,"result":{` + fields + `}}`)
	for name, kept := range map[string]part{"kept": {34, 34 + len(fields), &mcp.Packed{}}, "anew": {}} {
		for _, coding := range []string{compressGzip, compressZstd} {
			b.Run(coding+" "+name, func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				var out []byte
				for b.Loop() {
					out, _ = c.encode(out[:0], coding, body, kept)
				}
			})
		}
	}
}
