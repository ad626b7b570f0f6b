package front

import (
	"net/http"
	"strings"

	"millrace/internal/mcp"
)

// Canonical names of the protocol's headers, as net/http stores them.
const (
	headerVersion = "Mcp-Protocol-Version"
	headerMethod  = "Mcp-Method"
	headerName    = "Mcp-Name"
	headerSession = "Mcp-Session-Id"
	headerResume  = "Last-Event-Id"
)

// httpEra finds the revision of a scanned HTTP message, and checks what that revision demands of its headers. The
// session of a legacy message is looked up. The status is HTTP's for the error.
func (c *Core) httpEra(x *exchange, h map[string][]string) (status int, fault *mcp.Error) {
	version := h[headerVersion]
	meta := &x.req.Meta
	if meta.ProtocolVersion != nil {
		return 400, c.modern(x, h)
	}
	if len(version) > 1 {
		return 400, mcp.Errorf(mcp.CodeHeaderMismatch, "header MCP-Protocol-Version is there %d times", len(version))
	}
	rev := mcp.RevisionNone
	if len(version) == 1 {
		var known bool
		if rev, known = mcp.ParseRevision(version[0]); !known {
			x.rev = mcp.Modern
			return 400, unsupported([]byte(version[0]))
		}
	}
	if rev.IsModern() {
		x.rev = mcp.Modern
		if x.req.Kind == mcp.KindResponse {
			return 400, mcp.Errorf(mcp.CodeInvalidRequest, "revision 2026-07-28 has no responses from clients")
		}
		return 400, mcp.Errorf(mcp.CodeInvalidParams, `_meta["io.modelcontextprotocol/protocolVersion"] is missing`)
	}
	if x.req.Kind == mcp.KindRequest && x.req.Method == mcp.Initialize {
		return 0, nil
	}
	id := h[headerSession]
	if len(id) != 1 || id[0] == "" {
		return 400, mcp.Errorf(mcp.CodeInvalidRequest, "header Mcp-Session-Id is missing: initialize first, or use revision 2026-07-28")
	}
	s, ok := c.Sessions.Get(x.ctx, id[0], x.principal)
	if !ok || s.Toolset != x.toolset {
		return 404, mcp.Errorf(mcp.CodeInvalidRequest, "the session does not exist, or has ended: initialize again")
	}
	x.session, x.rev = s, s.Revision()
	return 0, nil
}

// headerRevision is what the header says of a message that cannot be read itself.
func headerRevision(h map[string][]string) mcp.Revision {
	if v := h[headerVersion]; len(v) == 1 {
		rev, _ := mcp.ParseRevision(v[0])
		return rev
	}
	return mcp.RevisionNone
}

// notLegacy refuses a GET or DELETE whose version header names a revision that is not known, or has neither.
func (s *HTTP) notLegacy(w http.ResponseWriter, r *http.Request, message string) bool {
	rev := headerRevision(r.Header)
	switch {
	case rev.IsModern():
		w.Header().Set("Allow", "POST")
		s.refuse(w, http.StatusMethodNotAllowed, nil, mcp.CodeInvalidRequest, message)
	case rev == mcp.RevisionNone && len(r.Header[headerVersion]) > 0:
		s.refuse(w, http.StatusBadRequest, nil, mcp.CodeInvalidRequest, "header MCP-Protocol-Version names no revision of this server, or is there twice")
	default:
		return false
	}
	return true
}

// isJSON tells whether a Content-Type is application/json, with whatever parameters.
func isJSON(ct string) bool {
	n := len(jsonType[0])
	return len(ct) >= n && strings.EqualFold(ct[:n], jsonType[0]) && (len(ct) == n || ct[n] == ';' || ct[n] == ' ' || ct[n] == '\t')
}

// modern checks a message that says of itself that it is of a stateless revision.
func (c *Core) modern(x *exchange, h map[string][]string) *mcp.Error {
	x.rev = mcp.Modern
	meta := &x.req.Meta
	if v := h[headerVersion]; len(v) != 1 || v[0] != string(meta.ProtocolVersion) {
		return mismatch("MCP-Protocol-Version", `_meta["io.modelcontextprotocol/protocolVersion"]`, len(v))
	}
	if rev, _ := mcp.ParseRevision(meta.ProtocolVersion); !rev.IsModern() {
		return unsupported(meta.ProtocolVersion)
	}
	if x.req.Kind == mcp.KindResponse {
		return mcp.Errorf(mcp.CodeInvalidRequest, "revision 2026-07-28 has no responses from clients")
	}
	if v := h[headerMethod]; len(v) != 1 || v[0] != string(x.req.MethodName) {
		return mismatch("Mcp-Method", "method", len(v))
	}
	switch x.req.Method {
	case mcp.ToolsCall, mcp.PromptsGet:
		if fault := checkName(h, x.req.Name, "params.name"); fault != nil {
			return fault
		}
	case mcp.ResourcesRead:
		if fault := checkName(h, x.req.URI, "params.uri"); fault != nil {
			return fault
		}
	}
	x.headers = h
	return c.modernMeta(x)
}

// modernMeta checks what every modern request carries, whatever its transport.
func (c *Core) modernMeta(x *exchange) *mcp.Error {
	if x.req.Kind == mcp.KindRequest && x.req.Meta.ClientCapabilities == nil {
		return mcp.Errorf(mcp.CodeInvalidParams, `_meta["io.modelcontextprotocol/clientCapabilities"] is missing`)
	}
	return nil
}

func checkName(h map[string][]string, body []byte, field string) *mcp.Error {
	v := h[headerName]
	if len(v) != 1 {
		return mismatch("Mcp-Name", field, len(v))
	}
	if v[0] == string(body) && len(body) > 0 && body[0] != '=' {
		return nil
	}
	if name, ok := mcp.DecodeHeader(v[0]); !ok || body == nil || name != string(body) {
		return mismatch("Mcp-Name", field, 1)
	}
	return nil
}

func mismatch(header, field string, times int) *mcp.Error {
	switch times {
	case 0:
		return mcp.Errorf(mcp.CodeHeaderMismatch, "header %s is missing", header)
	case 1:
		return mcp.Errorf(mcp.CodeHeaderMismatch, "header %s differs from %s", header, field)
	}
	return mcp.Errorf(mcp.CodeHeaderMismatch, "header %s is there %d times", header, times)
}

func unsupported(requested []byte) *mcp.Error {
	data := mcp.AppendText([]byte(`{"supported":["2026-07-28"],"requested":`), clip(requested))
	return &mcp.Error{Code: mcp.CodeUnsupportedVersion, Message: "unsupported protocol version", Data: append(data, '}')}
}
