package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/google/jsonschema-go/jsonschema"

	"millrace/internal/client"
	"millrace/internal/mcp"
)

// operation is one kind of request, made ready. Its methods are safe for concurrent use.
type operation struct {
	OperationConfig
	method string
	args   arguments
	uri    []string // of a resource or subscription: texts between which arguments stand
	before []byte   // params up to what changes
	output *jsonschema.Resolved
	tries  atomic.Uint64 // answers that were right so far but for the schema
}

// newOperation makes an operation of a valid config.
func newOperation(cfg OperationConfig) (*operation, error) {
	o := &operation{OperationConfig: cfg}
	if o.Name == "" {
		o.Name = o.describe()
	}
	o.Name = clip(o.Name) // it may be a server's text
	var err error
	if o.args, err = newArguments(cfg.Arguments); err != nil {
		return nil, fmt.Errorf("operation %s: %w", o.Name, err)
	}
	switch {
	case cfg.Tool != "":
		o.method = "tools/call"
		o.before = append(mcp.AppendText([]byte(`"name":`), cfg.Tool), `,"arguments":{`...)
	case cfg.Prompt != "":
		o.method = "prompts/get"
		o.before = append(mcp.AppendText([]byte(`"name":`), cfg.Prompt), `,"arguments":{`...)
	case cfg.Resource != "":
		o.method = "resources/read"
		o.uri, err = o.template(cfg.Resource)
	case cfg.Subscribe != "":
		o.uri, err = o.template(cfg.Subscribe)
	case cfg.List != "":
		o.method = map[string]string{"tools": "tools/list", "resources": "resources/list", "templates": "resources/templates/list", "prompts": "prompts/list"}[cfg.List]
	case cfg.Complete != "":
		o.method = "completion/complete"
		if uri, name, ok := strings.Cut(cfg.Complete, "#"); ok {
			o.before = append(mcp.AppendText([]byte(`"ref":{"type":"ref/resource","uri":`), uri), `},"argument":{"name":`...)
			o.before = mcp.AppendText(o.before, name)
		} else {
			prompt, name, _ := strings.Cut(cfg.Complete, "/")
			o.before = append(mcp.AppendText([]byte(`"ref":{"type":"ref/prompt","name":`), prompt), `},"argument":{"name":`...)
			o.before = mcp.AppendText(o.before, name)
		}
		o.before = append(o.before, ',')
		if len(o.args) == 0 {
			o.args, err = newArguments(map[string]any{"value": ""})
		} else if len(o.args) > 1 || o.args[0].name != "value" {
			err = errors.New("a completion has the one argument value")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("operation %s: %w", o.Name, err)
	}
	return o, nil
}

// template cuts a URI at its arguments; args are put into the order in which they stand there.
func (o *operation) template(uri string) (parts []string, err error) {
	args := o.args
	o.args = nil
	for {
		before, rest, found := strings.Cut(uri, "{")
		parts = append(parts, before)
		if !found {
			return parts, nil
		}
		name, after, closed := strings.Cut(rest, "}")
		i := 0
		for i < len(args) && args[i].name != name {
			i++
		}
		if !closed || i == len(args) {
			return nil, fmt.Errorf("the URI holds {%s}, and no argument is called so", name)
		}
		o.args = append(o.args, args[i])
		uri = after
	}
}

// request is what a worker reuses from one request to the next.
type request struct {
	call   client.Call
	answer client.Answer
	params []byte
	text   []byte
}

// build writes the request of o into q.
func (o *operation) build(q *request, rev mcp.Revision, r *rand.Rand) {
	q.call = client.Call{Method: o.method, Headers: q.call.Headers[:0]}
	q.params = append(q.params[:0], o.before...)
	switch {
	case o.Ping:
		q.call.Method = pingMethod(rev)
		return
	case o.List != "":
		return
	case o.uri != nil:
		q.text = o.appendURI(q.text[:0], r)
		q.call.Name = string(q.text)
		q.params = mcp.AppendText(append(q.params, `"uri":`...), q.text)
	case o.Complete != "":
		q.params = append(o.args.append(q.params, r), '}')
	default:
		q.call.Name = o.Tool + o.Prompt
		if rev.IsModern() && o.hasHeaders() {
			q.params = o.withHeaders(q, r)
		} else {
			q.params = o.args.append(q.params, r)
		}
		q.params = append(q.params, '}')
	}
	q.call.Params = q.params
}

// appendURI writes a URI. The text of an argument stands in it percent-encoded.
func (o *operation) appendURI(dst []byte, r *rand.Rand) []byte {
	for i, part := range o.uri {
		dst = append(dst, part...)
		if i < len(o.args) {
			start := len(dst)
			dst = o.args[i].value.append(dst, r)
			if text, ok := mcp.Text(dst[start:]); ok {
				dst = appendEscaped(dst[:start], string(text))
			}
		}
	}
	return dst
}

func appendEscaped(dst []byte, text string) []byte {
	for i := range len(text) {
		c := text[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			dst = append(dst, c)
		} else {
			dst = fmt.Appendf(dst, "%%%02X", c)
		}
	}
	return dst
}

func (o *operation) hasHeaders() bool {
	for i := range o.args {
		if o.args[i].header != "" {
			return true
		}
	}
	return false
}

// withHeaders writes the arguments, and those that the tool wants in a header there too.
func (o *operation) withHeaders(q *request, r *rand.Rand) []byte {
	dst := q.params
	for i := range o.args {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, o.args[i].prefix...)
		start := len(dst)
		dst = o.args[i].value.append(dst, r)
		if h := o.args[i].header; h != "" && string(dst[start:]) != "null" {
			text := dst[start:]
			if t, ok := mcp.Text(text); ok {
				text = t
			}
			q.call.Headers = append(q.call.Headers, client.Header{Name: h, Value: string(text)})
		}
	}
	return dst
}

// pingMethod is the cheapest request of a revision.
func pingMethod(rev mcp.Revision) string {
	if rev.IsModern() {
		return "server/discover"
	}
	return "ping"
}

// Kinds of errors, beside "http N" and "rpc N".
const (
	kindConnection = "connection"
	kindTimeout    = "timeout"
	kindProtocol   = "protocol"
	kindTool       = "tool"
	kindWrong      = "wrong answer"
	kindAsked      = "input required"
	kindUnsent     = "unsent"
)

// judge says what became of a request: "" for a right answer, otherwise the kind of error.
func (o *operation) judge(a *client.Answer, err error) string {
	kind := ""
	switch {
	case err != nil:
		kind = kindOf(err)
	case a.Error != nil:
		kind = "rpc " + strconv.Itoa(int(a.Error.Code))
	default:
		kind = o.check(a.Result)
	}
	if o.Expect.Error != "" {
		if kind == o.Expect.Error {
			return ""
		}
		if kind == "" {
			return kindWrong
		}
	}
	return kind
}

// kindOf sorts the errors of the client.
func kindOf(err error) string {
	var status *client.StatusError
	var network net.Error
	var rpc *mcp.Error
	switch {
	case errors.As(err, &rpc):
		return "rpc " + strconv.Itoa(int(rpc.Code))
	case errors.As(err, &status):
		return "http " + strconv.Itoa(status.Status)
	case errors.Is(err, client.ErrProtocol):
		return kindProtocol
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return kindTimeout
	}
	return kindConnection // refused, reset, closed: io.EOF and all that the system says
}

// check holds a result against what the protocol, the tool's schema and the scenario say of it.
func (o *operation) check(result []byte) string {
	var content, structured, isError, kind, list []byte
	want := ""
	switch {
	case o.Resource != "":
		want = "contents"
	case o.Prompt != "":
		want = "messages"
	case o.Complete != "":
		want = "completion"
	case o.List == "templates":
		want = "resourceTemplates"
	default:
		want = o.List
	}
	mcp.Members(result, func(key, v []byte) bool {
		switch string(key) {
		case "content":
			content = v
		case "structuredContent":
			structured = v
		case "isError":
			isError = v
		case "resultType":
			kind = v
		case want:
			list = v
		}
		return true
	})
	switch {
	case string(kind) == `"input_required"`:
		return kindAsked
	case string(isError) == "true":
		return kindTool
	case o.Tool != "" && (len(content) == 0 || content[0] != '[' || o.output != nil && structured == nil):
		return kindWrong
	case want != "" && (len(list) == 0 || list[0] != '[' && list[0] != '{'):
		return kindWrong
	case o.Expect.Contains != "" && !bytes.Contains(result, []byte(o.Expect.Contains)):
		return kindWrong
	case o.output != nil && !o.fits(structured):
		return kindWrong
	}
	return ""
}

// schemaFirst and schemaEvery say which answers are held against the output schema: the library takes longer over that
// than the whole request otherwise does, and a server that answers wrongly does so more than once.
const (
	schemaFirst = 100
	schemaEvery = 100
)

func (o *operation) fits(structured []byte) bool {
	if n := o.tries.Add(1); n > schemaFirst && n%schemaEvery != 0 {
		return true
	}
	var v any
	return json.Unmarshal(structured, &v) == nil && o.output.Validate(v) == nil
}
