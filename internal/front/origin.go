package front

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// originPolicy decides which web pages may call. Browsers send requests in the name of whoever sits before them, and a
// page can give its own name the address 127.0.0.1 (DNS rebinding): hence a check of Host, which then still carries that
// page's name, and of Origin. It is immutable.
//
//   - A loopback listener takes localhost, 127.0.0.1 and [::1] as Host, with any port (a forwarded port is another one),
//     its own address, and allowed_hosts.
//   - Any other listener takes every Host unless allowed_hosts has entries; then those and its own address.
//   - Without Origin the caller is no web page, and all is well.
//   - An Origin must be one of allowed_origins or, on a loopback listener, a page of this machine (http or https, any port):
//     tools such as the inspector are served from another port. An Origin that equals Host proves nothing on other
//     listeners, since a rebound name gives just that.
type originPolicy struct {
	loopback bool
	own      string   // the listening address's host, without brackets; "" for all interfaces
	hosts    []string // allowed_hosts
	origins  []string // allowed_origins
}

func newOriginPolicy(cfg Config) *originPolicy {
	host, _, _ := net.SplitHostPort(cfg.Address)
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = ""
	}
	return &originPolicy{loopback: IsLoopback(cfg.Address), own: host, hosts: cfg.AllowedHosts, origins: cfg.AllowedOrigins}
}

// check judges a request by its Host (or :authority) and Origin headers, "" where they are absent; a request that is not
// ok gets 403. Where cors is not empty, allowOrigin marks the answer with it. It does not allocate.
func (p *originPolicy) check(host, origin string) (cors string, ok bool) {
	if !p.hostAllowed(host) {
		return "", false
	}
	if origin == "" {
		return "", true
	}
	for _, o := range p.origins {
		if o == origin {
			return origin, true
		}
	}
	if p.loopback {
		rest, found := strings.CutPrefix(origin, "http://")
		if !found {
			rest, found = strings.CutPrefix(origin, "https://")
		}
		if found && LoopbackHost(rest) {
			return origin, true
		}
	}
	return "", false
}

// checkRequest is check on a request of net/http. A second Origin header is refused: who reads which one is anybody's
// guess.
func (p *originPolicy) checkRequest(r *http.Request) (cors string, ok bool) {
	var origin string
	if origins := r.Header["Origin"]; len(origins) > 1 {
		return "", false
	} else if len(origins) == 1 {
		origin = origins[0]
		if origin == "" {
			return "", false
		}
	}
	return p.check(r.Host, origin)
}

func (p *originPolicy) hostAllowed(host string) bool {
	if p.loopback {
		if LoopbackHost(host) {
			return true
		}
	} else if len(p.hosts) == 0 {
		return true
	}
	name, _, valid := splitHost(host)
	if !valid {
		return false
	}
	if p.own != "" && equalFold(name, p.own) {
		return true
	}
	for _, h := range p.hosts {
		if equalFold(h, host) {
			return true
		}
		// An entry without a port stands for all ports.
		if n, port, _ := splitHost(h); port == "" && equalFold(n, name) {
			return true
		}
	}
	return false
}

// LoopbackHost tells whether a Host header names this machine's loopback: localhost, 127.0.0.1 or [::1], with or without
// a port.
func LoopbackHost(host string) bool {
	name, _, ok := splitHost(host)
	return ok && (name == "127.0.0.1" || name == "::1" || equalFold(name, "localhost"))
}

// IsLoopback tells whether a listening address of the form host:port is only reached from this machine. Names other than
// localhost are not resolved and are taken for public.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if equalFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// splitHost takes a Host header apart without allocating; the name comes without brackets. Only the form is checked that
// is needed for comparing.
func splitHost(s string) (name, port string, ok bool) {
	name = s
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", false
		}
		name, s = s[1:end], s[end+1:]
		if s == "" {
			return name, "", name != ""
		}
		if s[0] != ':' {
			return "", "", false
		}
		port = s[1:]
	} else if colon := strings.IndexByte(s, ':'); colon >= 0 {
		name, port = s[:colon], s[colon+1:]
	}
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return "", "", false
		}
	}
	return name, port, name != "" && len(port) <= 5
}

// equalFold compares with A to Z folded alone. strings.EqualFold would take localhoſt for localhost.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// validHost tells whether an entry of allowed_hosts could ever match.
func validHost(s string) bool {
	name, port, ok := splitHost(s)
	if !ok || port == "" && strings.HasSuffix(s, ":") {
		return false
	}
	if strings.Contains(name, ":") {
		_, err := netip.ParseAddr(name)
		return err == nil && s[0] == '['
	}
	return !strings.ContainsAny(name, "/@*[] \t?#%") && !strings.HasPrefix(name, ".")
}

// What browser clients send and need to see.
const (
	corsMethods = "GET, POST, DELETE, OPTIONS"
	corsHeaders = "content-type, accept, authorization, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, last-event-id"
	corsExpose  = "Mcp-Session-Id"
	corsMaxAge  = "7200" // seconds; the longest that Chromium honours
	paramPrefix = "mcp-param-"
	// corsMaxParams bounds what one preflight can make us write.
	corsMaxParams = 64
)

// allowOrigin lets the page that check found read the answer. With "" it does nothing. No credentials are allowed: keys
// travel in Authorization, and there are no cookies.
func allowOrigin(h http.Header, cors string) {
	if cors == "" {
		return
	}
	h.Set("Access-Control-Allow-Origin", cors)
	h.Set("Access-Control-Expose-Headers", corsExpose)
	h.Add("Vary", "Origin")
}

// preflight answers an OPTIONS request that check has let through: a browser's question before the real request, or a
// plain one, which only learns the methods.
func preflight(w http.ResponseWriter, r *http.Request, cors string) {
	h := w.Header()
	h.Set("Allow", corsMethods)
	if cors != "" {
		h.Set("Access-Control-Allow-Origin", cors)
		h.Set("Access-Control-Allow-Methods", corsMethods)
		h.Set("Access-Control-Allow-Headers", preflightHeaders(r.Header["Access-Control-Request-Headers"]))
		h.Set("Access-Control-Max-Age", corsMaxAge)
	}
	h.Set("Vary", "Origin, Access-Control-Request-Headers")
	w.WriteHeader(http.StatusNoContent)
}

// preflightHeaders is the fixed list and, of what was asked for, the headers of tool parameters: their names come from the
// tools' schemas, so no fixed list has them.
func preflightHeaders(requested []string) string {
	var b strings.Builder
	b.WriteString(corsHeaders)
	n := 0
	for _, line := range requested {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.ToLower(strings.TrimSpace(name))
			if strings.HasPrefix(name, paramPrefix) && isToken(name) && n < corsMaxParams {
				b.WriteString(", " + name)
				n++
			}
		}
	}
	return b.String()
}

// isToken tells whether s is a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}
