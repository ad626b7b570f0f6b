package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// update is an address that a successful write has changed what stands at.
type update struct{ parts []updatePart }

// updatePart is text as it stands, or else the value of an argument.
type updatePart struct {
	text string
	arg  int // index in the tool's parameters; -1 for text
}

// skeleton is an address whose variables have lost their names: what a template and an update of its resources share.
func skeleton(address string) string { return variable.ReplaceAllString(address, "{}") }

// updates compiles `updates:` of a tool, and checks that each names a resource that clients can read anew.
func (b *builder) updates(t *tool, resources []*resource) {
	for i, address := range t.Updates {
		path := fmt.Sprintf("%s.updates[%d]", t.path, i)
		if t.Annotations.ReadOnlyHint {
			b.fault(path, "goes with writes only", "remove it: a read-only tool changes nothing")
		}
		known := false
		for _, r := range resources {
			if skeleton(r.URI+r.URITemplate) != skeleton(address) {
				continue
			}
			known = true
			if r.Cache != nil {
				b.fault(path, fmt.Sprintf("resource %q is cached: who is told to read it again would get the old content", r.Name),
					"remove cache from the resource, or this line")
			}
		}
		if !known {
			b.fault(path, fmt.Sprintf("no resource has an address like %q", address), "write one of resources, with parameters of this tool for its variables")
		}
		var u update
		at := 0
		for _, m := range variable.FindAllStringSubmatchIndex(address, -1) {
			arg := slices.IndexFunc(t.table.params, func(p parameter) bool { return p.Name == address[m[2]:m[3]] })
			switch {
			case arg < 0:
				b.fault(path, fmt.Sprintf("the tool has no parameter %q", address[m[2]:m[3]]), "name one of its parameters")
				continue
			case t.table.params[arg].Type == "array" || t.table.params[arg].Type == "object":
				b.fault(path, fmt.Sprintf("parameter %q is of type %s, which is no part of an address", address[m[2]:m[3]], t.table.params[arg].Type),
					"name one that is a string, number or boolean")
			}
			u.parts = append(u.parts, updatePart{address[at:m[0]], -1}, updatePart{arg: arg})
			at = m[1]
		}
		u.parts = append(u.parts, updatePart{address[at:], -1})
		t.updates = append(t.updates, u)
	}
}

// address gives the resource's address for a call's arguments; false where an argument is null.
func (u *update) address(args []mcp.Value) (string, bool) {
	var b strings.Builder
	for _, p := range u.parts {
		if p.arg < 0 {
			b.WriteString(p.text)
			continue
		}
		v := &args[p.arg]
		switch v.Kind {
		case mcp.KindBool:
			b.WriteString(strconv.FormatBool(v.Bool()))
		case mcp.KindInt:
			b.WriteString(strconv.FormatInt(v.Int, 10))
		case mcp.KindFloat:
			b.WriteString(strconv.FormatFloat(v.Float, 'g', -1, 64))
		case mcp.KindText:
			escape(&b, v.Text)
		default:
			return "", false
		}
	}
	return b.String(), true
}

// escape writes text as RFC 6570 expands a variable: all but unreserved characters percent-encoded.
func escape(b *strings.Builder, text []byte) {
	for _, c := range text {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(b, "%%%02X", c)
		}
	}
}

// tell tells those that watch what a write has changed, or may have: err is what came of it.
func (t *tool) tell(args []mcp.Value, err error) {
	if err != nil && !errors.Is(err, sqldb.ErrUnknownFate) {
		return
	}
	for i := range t.updates {
		if uri, ok := t.updates[i].address(args); ok {
			t.publish(mcp.Event{Kind: mcp.ResourceUpdated, URI: uri})
		}
	}
}
