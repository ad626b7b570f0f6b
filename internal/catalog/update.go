package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/mcp"
)

// phrase is a text in which values of arguments stand: an address of a resource, or a tag.
type phrase []phrasePart

// phrasePart is text as it stands, or else the value of an argument.
type phrasePart struct {
	text string
	arg  int // index in the target's parameters; -1 for text
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
		t.updates = append(t.updates, b.phrase(path, address, t.table.params))
	}
}

// phrase compiles a text with {parameters}.
func (b *builder) phrase(path, text string, params []parameter) (out phrase) {
	at := 0
	for _, m := range variable.FindAllStringSubmatchIndex(text, -1) {
		name := text[m[2]:m[3]]
		arg := slices.IndexFunc(params, func(p parameter) bool { return p.Name == name })
		switch {
		case arg < 0:
			b.fault(path, fmt.Sprintf("there is no parameter %q", name), "name one of the parameters")
			continue
		case params[arg].Type == "array" || params[arg].Type == "object":
			b.fault(path, fmt.Sprintf("parameter %q is of type %s, which has no one text", name, params[arg].Type),
				"name one that is a string, number or boolean")
		}
		out = append(out, phrasePart{text[at:m[0]], -1}, phrasePart{arg: arg})
		at = m[1]
	}
	return append(out, phrasePart{text[at:], -1})
}

// address gives the resource's address for a call's arguments; false where an argument is null.
func (p phrase) address(args []mcp.Value) (string, bool) {
	var b strings.Builder
	for _, part := range p {
		switch {
		case part.arg < 0:
			b.WriteString(part.text)
		case args[part.arg].Kind == mcp.KindNull:
			return "", false
		case args[part.arg].Kind == mcp.KindText:
			escape(&b, args[part.arg].Text)
		default:
			b.WriteString(plain(&args[part.arg]))
		}
	}
	return b.String(), true
}

// text gives the phrase for a call's arguments, with nothing where one is null. A number is the same text whatever type
// a tool has given it.
func (p phrase) text(args []mcp.Value) string {
	var b strings.Builder
	for _, part := range p {
		if part.arg < 0 {
			b.WriteString(part.text)
		} else {
			b.WriteString(plain(&args[part.arg]))
		}
	}
	return b.String()
}

func plain(v *mcp.Value) string {
	switch v.Kind {
	case mcp.KindBool:
		return strconv.FormatBool(v.Bool())
	case mcp.KindInt:
		return strconv.FormatInt(v.Int, 10)
	case mcp.KindFloat:
		if v.Float == 0 {
			return "0" // -0 is the same argument
		}
		return strconv.FormatFloat(v.Float, 'f', -1, 64)
	case mcp.KindText:
		return string(v.Text)
	}
	return ""
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
	if err != nil && !errors.Is(err, mcp.ErrUnknownFate) {
		return
	}
	for i := range t.updates {
		if uri, ok := t.updates[i].address(args); ok {
			t.publish(mcp.Event{Kind: mcp.ResourceUpdated, URI: uri})
		}
	}
}
