package mcp

import (
	"fmt"
	"strings"
	"testing"
)

// callMessage is a modern tools/call as clients send it, of about 350 bytes.
const callMessage = `{"jsonrpc":"2.0","id":"a3f1c2-42","method":"tools/call","params":{"name":"city_by_id","arguments":{"id":2950159},` +
	`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}},` +
	`"io.modelcontextprotocol/clientInfo":{"name":"claude-code","version":"2.1.4"},"progressToken":42}}}`

func BenchmarkScanCall(b *testing.B) {
	data := []byte(callMessage)
	b.Run("sequential", func(b *testing.B) {
		var r Request
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			r.Reset()
			if err := r.Scan(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			var r Request
			for pb.Next() {
				r.Reset()
				if err := r.Scan(data); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkScanHostile shows that no shape of message costs far more for a byte than another does.
func BenchmarkScanHostile(b *testing.B) {
	const size = 1 << 20
	fill := func(unit func(i int) string) string {
		var s strings.Builder
		for i := 0; s.Len() < size; i++ {
			s.WriteString(unit(i))
		}
		return strings.TrimSuffix(s.String(), ",")
	}
	keys := func(n int) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, `"%02d":1,`, i)
		}
		return "{" + strings.TrimSuffix(s.String(), ",") + "},"
	}
	for _, c := range []struct{ name, text string }{
		{"text", `"` + fill(func(int) string { return "abcdefgh" }) + `"`},
		{"escapes", `"` + fill(func(int) string { return `\u00e9` }) + `"`},
		{"escaped keys", "{" + fill(func(i int) string { return fmt.Sprintf(`"\u0061%x":1,`, i) }) + "}"},
		{"one huge object", "{" + fill(func(i int) string { return fmt.Sprintf(`"%x":1,`, i) }) + "}"},
		{"objects of 23 keys", "[" + fill(func(int) string { return keys(23) }) + "]"},
		{"objects of 25 keys", "[" + fill(func(int) string { return keys(25) }) + "]"},
		{"deep arrays", "[" + fill(func(int) string { return strings.Repeat("[", 90) + strings.Repeat("]", 90) + "," }) + "]"},
	} {
		data := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":` + c.text + `}}}`)
		b.Run(c.name, func(b *testing.B) {
			var r Request
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				r.Reset()
				if err := r.Scan(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
