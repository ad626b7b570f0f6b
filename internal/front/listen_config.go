package front

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"millrace/internal/conf"
)

// Config is the `listen` part of the configuration. Changes to it need a restart, apart from the contents of the TLS
// files.
type Config struct {
	Address        string     `yaml:"address" desc:"host:port that serves MCP at /mcp; without keys only a loopback address is taken"`
	AllowedHosts   []string   `yaml:"allowed_hosts" desc:"values of Host to accept beside the address's own; without any, an address that is not loopback accepts every Host"`
	AllowedOrigins []string   `yaml:"allowed_origins" desc:"scheme://host[:port] of web pages that may call; pages on this machine always may where the address is loopback"`
	TLS            TLSConfig  `yaml:"tls" desc:"serve https; the files are re-read when they change"`
	HTTP2          bool       `yaml:"http2" desc:"speak HTTP/2, over TLS and in clear text, beside HTTP/1.1"`
	KeepAlive      bool       `yaml:"keep_alive" desc:"take more than one request on a connection"`
	TCPBuffer      BufferSize `yaml:"tcp_buffer" desc:"size of each connection's send and receive buffers, or auto; a fixed size turns off the kernel's tuning"`

	HeaderTimeout conf.Duration `yaml:"header_timeout" desc:"time a client has for a request's header"`
	BodyTimeout   conf.Duration `yaml:"body_timeout" desc:"time a client has for a whole request, and again for taking the answer"`
	IdleTimeout   conf.Duration `yaml:"idle_timeout" desc:"time that a connection may rest between two requests; event streams are exempt"`

	Compression   string    `yaml:"compression" enum:"gzip,zstd,none" desc:"for clients that accept it; zstd falls back to gzip; never for event streams"`
	CompressAbove conf.Size `yaml:"compress_above" desc:"size above which answers are compressed"`
	MaxBody       conf.Size `yaml:"max_body" desc:"size of the largest request"`
}

// TLSConfig names the files of TLS. Without any, the listener speaks clear text.
type TLSConfig struct {
	CertFile     string `yaml:"cert_file" desc:"PEM file with the certificate and its chain"`
	KeyFile      string `yaml:"key_file" desc:"PEM file with the certificate's key"`
	ClientCAFile string `yaml:"client_ca_file" desc:"PEM file with the authorities of client certificates; with it every client must show one"`
}

// Enabled tells whether the listener speaks TLS.
func (c TLSConfig) Enabled() bool { return c.CertFile != "" }

// BufferSize is a size in bytes; zero leaves it to the kernel ("auto").
type BufferSize conf.Size

// String is "auto" or the size.
func (b BufferSize) String() string {
	if b == 0 {
		return "auto"
	}
	return conf.Size(b).String()
}

// MarshalText writes what UnmarshalText reads.
func (b BufferSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads "auto" or a size with its unit.
func (b *BufferSize) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*b = 0
		return nil
	}
	var size conf.Size
	if err := size.UnmarshalText(text); err != nil {
		return fmt.Errorf("neither auto nor a size: %w", err)
	}
	if size < 4<<10 || size > 64<<20 {
		return errors.New("out of range; write auto or a size from 4KiB to 64MiB")
	}
	*b = BufferSize(size)
	return nil
}

// DefaultConfig is what holds where the file says nothing.
func DefaultConfig() Config {
	return Config{
		Address:       "127.0.0.1:8080",
		HTTP2:         true,
		KeepAlive:     true,
		HeaderTimeout: conf.Duration(10 * time.Second),
		BodyTimeout:   conf.Duration(30 * time.Second),
		IdleTimeout:   conf.Duration(120 * time.Second),
		Compression:   compressGzip,
		CompressAbove: 4 << 10,
		MaxBody:       4 << 20,
	}
}

// Validate reports every fault, with paths below `listen`. It opens no file.
func (c Config) Validate() conf.Faults {
	var faults conf.Faults
	fault := func(path, message, fix string) {
		faults = append(faults, conf.Fault{Path: path, Message: message, Fix: fix})
	}

	if err := checkAddress(c.Address); err != nil {
		fault("address", err.Error(), "write host:port, such as 127.0.0.1:8080")
	}
	for i, h := range c.AllowedHosts {
		if !validHost(h) {
			fault(conf.Index("allowed_hosts", i), fmt.Sprintf("%q is not a host", h), "write a name as it stands in a Host header, such as mcp.example.com or mcp.example.com:8443")
		}
	}
	for i, o := range c.AllowedOrigins {
		if message, fix := checkOrigin(o); message != "" {
			fault(conf.Index("allowed_origins", i), message, fix)
		}
	}
	switch {
	case c.TLS.CertFile != "" && c.TLS.KeyFile == "":
		fault("tls.cert_file", "has no key", "add tls.key_file")
	case c.TLS.CertFile == "" && c.TLS.KeyFile != "":
		fault("tls.key_file", "has no certificate", "add tls.cert_file")
	case c.TLS.CertFile == "" && c.TLS.ClientCAFile != "":
		fault("tls.client_ca_file", "client certificates need TLS", "add tls.cert_file and tls.key_file")
	}
	for _, t := range []struct {
		path string
		d    conf.Duration
	}{{"header_timeout", c.HeaderTimeout}, {"body_timeout", c.BodyTimeout}, {"idle_timeout", c.IdleTimeout}} {
		if t.d <= 0 {
			fault(t.path, "a client that goes silent would be waited for without end", "write a duration above 0s")
		}
	}
	if c.BodyTimeout > 0 && c.BodyTimeout < c.HeaderTimeout {
		fault("body_timeout", fmt.Sprintf("%v is shorter than header_timeout (%v), which it includes", c.BodyTimeout, c.HeaderTimeout),
			fmt.Sprintf("write %v or more", c.HeaderTimeout))
	}
	switch c.Compression {
	case compressGzip, compressZstd, compressNone:
	default:
		fault("compression", fmt.Sprintf("%q is not one of gzip, zstd, none", c.Compression), "write gzip, zstd or none")
	}
	if c.CompressAbove < 0 {
		fault("compress_above", "is negative", "write a size of 0B or more")
	}
	if c.MaxBody <= 0 {
		fault("max_body", "no request would fit", "write a size such as 4MiB")
	}
	return faults
}

func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || port[0] == '0' && n > 0 {
		return fmt.Errorf("%q is not a port from 0 to 65535", port)
	}
	return nil
}

// checkOrigin refuses what a browser never sends as Origin, since it would never match.
func checkOrigin(o string) (message, fix string) {
	switch o {
	case "*":
		return "every web page in the world could call this server in the name of whoever reads it", "list the origins of the pages that may call"
	case "null":
		return "sandboxed pages of every site send the origin null", "list the origins of the pages that may call"
	}
	u, err := url.Parse(o)
	if err != nil || u.Host == "" || u.Scheme == "" || u.User != nil {
		return fmt.Sprintf("%q is not an origin", o), "write scheme://host[:port], such as https://app.example.com"
	}
	if clean := strings.ToLower(u.Scheme + "://" + u.Host); clean != o {
		return fmt.Sprintf("%q is not how browsers write an origin", o), "write " + clean
	}
	if port := u.Port(); port == "443" && u.Scheme == "https" || port == "80" && u.Scheme == "http" {
		return fmt.Sprintf("%q has the port that browsers leave out", o), "write " + strings.TrimSuffix(o, ":"+port)
	}
	return "", ""
}
