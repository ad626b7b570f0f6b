package front

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestOriginPolicy(t *testing.T) {
	loopback := newOriginPolicy(Config{Address: "127.0.0.1:8080", AllowedHosts: []string{"mcp.example"}, AllowedOrigins: []string{"https://app.example"}})
	v6 := newOriginPolicy(Config{Address: "[::1]:8080"})
	open := newOriginPolicy(Config{Address: ":8443"})
	public := newOriginPolicy(Config{Address: "192.0.2.7:443", AllowedHosts: []string{"mcp.example", "alt.example:8443"},
		AllowedOrigins: []string{"https://app.example", "http://app.example:3000"}})
	const yes, no = true, false
	for _, c := range []struct {
		name         string
		p            *originPolicy
		host, origin string
		ok           bool
	}{
		{"own", loopback, "127.0.0.1:8080", "", yes},
		{"without port", loopback, "127.0.0.1", "", yes},
		{"localhost", loopback, "localhost:8080", "", yes},
		{"case", loopback, "LocalHost:8080", "", yes},
		{"v6", loopback, "[::1]:8080", "", yes},
		{"v6 without port", loopback, "[::1]", "", yes},
		{"forwarded port", loopback, "localhost:19999", "", yes},
		{"allowed host", loopback, "mcp.example", "", yes},
		{"allowed host, any port", loopback, "MCP.example:443", "", yes},
		{"v6 listener", v6, "localhost:8080", "", yes},
		{"rebound", loopback, "evil.example:8080", "", no},
		{"rebound, prefix", loopback, "localhost.evil.example", "", no},
		{"rebound, prefix of address", loopback, "127.0.0.1.evil.example:8080", "", no},
		{"rebound, both say so", loopback, "evil.example:8080", "http://evil.example:8080", no},
		{"folds to it", loopback, "localhoſt", "", no},
		{"control character", loopback, "\x0clocalhost", "", no},
		{"trailing dot", loopback, "localhost.", "", no},
		{"absent", loopback, "", "", no},
		{"port alone", loopback, ":8080", "", no},
		{"port is a name", loopback, "localhost:evil", "", no},
		{"userinfo", loopback, "localhost@evil.example", "", no},
		{"two ports", loopback, "localhost:80:80", "", no},
		{"v6 unclosed", loopback, "[::1", "", no},
		{"v6 with tail", loopback, "[::1]evil.example", "", no},
		{"v6 bare", loopback, "::1", "", no},

		{"page of this machine", loopback, "127.0.0.1:8080", "http://localhost:6274", yes},
		{"page of this machine, https", loopback, "127.0.0.1:8080", "https://127.0.0.1", yes},
		{"page of this machine, v6", loopback, "127.0.0.1:8080", "http://[::1]:3000", yes},
		{"allowed page", loopback, "127.0.0.1:8080", "https://app.example", yes},
		{"allowed page, other scheme", loopback, "127.0.0.1:8080", "http://app.example", no},
		{"allowed page, other port", loopback, "127.0.0.1:8080", "https://app.example:444", no},
		{"other page", loopback, "127.0.0.1:8080", "https://evil.example", no},
		{"prefix of a page", loopback, "127.0.0.1:8080", "http://localhost.evil.example", no},
		{"sandboxed page", loopback, "127.0.0.1:8080", "null", no},
		{"extension", loopback, "127.0.0.1:8080", "chrome-extension://localhost", no},
		{"path", loopback, "127.0.0.1:8080", "http://localhost/x", no},
		{"good page, bad host", loopback, "evil.example", "http://localhost:6274", no},

		{"any host", open, "whatever.example", "", yes},
		{"no host", open, "", "", yes},
		{"no page", open, "whatever.example", "https://whatever.example", no},
		{"no page of that machine", open, "localhost:8443", "http://localhost:3000", no},
		{"public, own", public, "192.0.2.7", "", yes},
		{"public, allowed", public, "mcp.example:443", "", yes},
		{"public, allowed with port", public, "alt.example:8443", "", yes},
		{"public, other port", public, "alt.example", "", no},
		{"public, other", public, "localhost", "", no},
		{"public, page", public, "mcp.example", "http://app.example:3000", yes},
		{"public, page in capitals", public, "mcp.example", "HTTP://app.example:3000", no},
		{"public, same origin", public, "mcp.example", "https://mcp.example", no},
	} {
		t.Run(c.name, func(t *testing.T) {
			cors, ok := c.p.check(c.host, c.origin)
			want := c.origin
			if !c.ok {
				want = ""
			}
			if ok != c.ok || cors != want {
				t.Errorf("host %q, origin %q: %q, %v; want %q, %v", c.host, c.origin, cors, ok, want, c.ok)
			}
		})
	}
}

func TestCheckRequestRefusesTwoOrigins(t *testing.T) {
	p := newOriginPolicy(DefaultConfig())
	for _, c := range []struct {
		origins []string
		ok      bool
	}{
		{nil, true},
		{[]string{"http://localhost:1"}, true},
		{[]string{"http://localhost:1", "https://evil.example"}, false},
		{[]string{"http://localhost:1", "http://localhost:1"}, false},
		{[]string{""}, false},
	} {
		r := httptest.NewRequest("POST", "http://127.0.0.1:8080/mcp", nil)
		if c.origins != nil {
			r.Header["Origin"] = c.origins
		}
		if _, ok := p.checkRequest(r); ok != c.ok {
			t.Errorf("%q: %v", c.origins, ok)
		}
	}
}

func TestPreflight(t *testing.T) {
	r := httptest.NewRequest("OPTIONS", "http://127.0.0.1:8080/mcp", nil)
	r.Header["Access-Control-Request-Headers"] = []string{"content-type,mcp-param-city , x-evil", "Mcp-Param-Zone,mcp-param-a\tb"}
	w := httptest.NewRecorder()
	preflight(w, r, "http://localhost:6274")
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin":  "http://localhost:6274",
		"Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
		"Access-Control-Allow-Headers": corsHeaders + ", mcp-param-city, mcp-param-zone",
		"Access-Control-Max-Age":       "7200",
		"Vary":                         "Origin, Access-Control-Request-Headers",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if w.Code != http.StatusNoContent {
		t.Errorf("status %d", w.Code)
	}

	plain := httptest.NewRecorder()
	preflight(plain, httptest.NewRequest("OPTIONS", "/mcp", nil), "")
	if h := plain.Header(); h.Get("Allow") != corsMethods || h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("without Origin: %v", h)
	}
}

func TestAllowOrigin(t *testing.T) {
	h := http.Header{"Vary": {"Accept-Encoding"}}
	allowOrigin(h, "")
	if len(h) != 1 {
		t.Errorf("without Origin: %v", h)
	}
	allowOrigin(h, "https://app.example")
	if h.Get("Access-Control-Allow-Origin") != "https://app.example" || h.Get("Access-Control-Expose-Headers") != "Mcp-Session-Id" ||
		len(h["Vary"]) != 2 || h.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("with Origin: %v", h)
	}
}

func TestOriginCheckDoesNotAllocate(t *testing.T) {
	p := newOriginPolicy(DefaultConfig())
	if n := testing.AllocsPerRun(100, func() {
		if _, ok := p.check("127.0.0.1:8080", ""); !ok {
			t.Error("refused")
		}
		if _, ok := p.check("localhost:8080", "http://localhost:6274"); !ok {
			t.Error("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkOriginCheck(b *testing.B) {
	p := newOriginPolicy(DefaultConfig())
	b.ReportAllocs()
	for b.Loop() {
		p.check("127.0.0.1:8080", "")
	}
}

func FuzzHost(f *testing.F) {
	for _, s := range []string{"", "localhost", "127.0.0.1:8080", "[::1]:1", "[", "]:", "a:b:c", "evil.example:80"} {
		f.Add(s)
	}
	p := newOriginPolicy(Config{Address: "127.0.0.1:8080"})
	f.Fuzz(func(t *testing.T, host string) {
		if _, ok := p.check(host, ""); !ok {
			return
		}
		name, _, _ := splitHost(host)
		switch asciiLower(name) {
		case "localhost", "127.0.0.1", "::1":
		default:
			t.Errorf("%q was let through", host)
		}
	})
}
