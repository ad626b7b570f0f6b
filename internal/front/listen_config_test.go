package front

import (
	"testing"

	"millrace/internal/conf"
)

func TestConfigFaults(t *testing.T) {
	if faults := DefaultConfig().Validate(); len(faults) > 0 {
		t.Errorf("the defaults: %v", faults)
	}
	for _, c := range []struct {
		name, want string
		set        func(*Config)
	}{
		{"address without port", `address: "localhost" is not host:port; write host:port, such as 127.0.0.1:8080`, func(c *Config) { c.Address = "localhost" }},
		{"port out of range", `address: "70000" is not a port from 0 to 65535; write host:port, such as 127.0.0.1:8080`, func(c *Config) { c.Address = ":70000" }},
		{"host with a scheme", `allowed_hosts[1]: "https://x" is not a host; write a name as it stands in a Host header, such as mcp.example.com or mcp.example.com:8443`,
			func(c *Config) { c.AllowedHosts = []string{"ok", "https://x"} }},
		{"every origin", "allowed_origins[0]: every web page in the world could call this server in the name of whoever reads it; list the origins of the pages that may call",
			func(c *Config) { c.AllowedOrigins = []string{"*"} }},
		{"null", "allowed_origins[0]: sandboxed pages of every site send the origin null; list the origins of the pages that may call", func(c *Config) { c.AllowedOrigins = []string{"null"} }},
		{"origin with a path", `allowed_origins[0]: "https://x.example/" is not how browsers write an origin; write https://x.example`, func(c *Config) { c.AllowedOrigins = []string{"https://x.example/"} }},
		{"origin in capitals", `allowed_origins[0]: "https://X.example" is not how browsers write an origin; write https://x.example`, func(c *Config) { c.AllowedOrigins = []string{"https://X.example"} }},
		{"origin with the usual port", `allowed_origins[0]: "https://x.example:443" has the port that browsers leave out; write https://x.example`, func(c *Config) { c.AllowedOrigins = []string{"https://x.example:443"} }},
		{"origin without scheme", `allowed_origins[0]: "x.example" is not an origin; write scheme://host[:port], such as https://app.example.com`, func(c *Config) { c.AllowedOrigins = []string{"x.example"} }},
		{"certificate alone", "tls.cert_file: has no key; add tls.key_file", func(c *Config) { c.TLS.CertFile = "x" }},
		{"key alone", "tls.key_file: has no certificate; add tls.cert_file", func(c *Config) { c.TLS.KeyFile = "x" }},
		{"authorities alone", "tls.client_ca_file: client certificates need TLS; add tls.cert_file and tls.key_file", func(c *Config) { c.TLS.ClientCAFile = "x" }},
		{"no idle time-out", "idle_timeout: a client that goes silent would be waited for without end; write a duration above 0s", func(c *Config) { c.IdleTimeout = 0 }},
		{"body before header", "body_timeout: 1s is shorter than header_timeout (10s), which it includes; write 10s or more", func(c *Config) { c.BodyTimeout = 1e9 }},
		{"compression", `compression: "brotli" is not one of gzip, zstd, none; write gzip, zstd or none`, func(c *Config) { c.Compression = "brotli" }},
		{"no body", "max_body: no request would fit; write a size such as 4MiB", func(c *Config) { c.MaxBody = 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := DefaultConfig()
			c.set(&cfg)
			if got := cfg.Validate().String(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestConfigReadsTheFile(t *testing.T) {
	cfg := DefaultConfig()
	doc, faults := conf.Parse("x.yaml", []byte("tcp_buffer: 64KiB\ntls: {cert_file: a, key_file: b}\nallowed_hosts: [x.example]\ncompress_above: 1KiB\n"), nil)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if faults := doc.Decode(&cfg); len(faults) > 0 {
		t.Fatal(faults)
	}
	if cfg.TCPBuffer != 64<<10 || cfg.TLS.KeyFile != "b" || cfg.AllowedHosts[0] != "x.example" || cfg.CompressAbove != 1<<10 || !cfg.HTTP2 {
		t.Errorf("%+v", cfg)
	}
}

func TestBufferSize(t *testing.T) {
	for text, want := range map[string]BufferSize{"auto": 0, "64KiB": 64 << 10, "1KiB": -1, "1GiB": -1, "x": -1, "": -1} {
		got := BufferSize(1)
		err := got.UnmarshalText([]byte(text))
		if (want < 0) != (err != nil) || want >= 0 && got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if want >= 0 && got.String() != text {
			t.Errorf("%q prints as %q", text, got)
		}
	}
}
