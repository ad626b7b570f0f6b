package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"

	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// resource is a Resource compiled.
type resource struct {
	Resource
	template *template // nil for one with a fixed address
	table    *table
	query    sqldb.Query
	policy   mcp.Policy
	version  [16]byte
	meter    mcp.Meter
	hints    *mcp.Hints
	invoke   mcp.Handler
	listed   []byte
}

// arguments gives the values that uri has for the template's variables; ok is false where it is none of the template's.
func (r *resource) arguments(uri string, dst []mcp.Value) (values []mcp.Value, unsafe, ok bool) {
	parts := r.template.match(uri)
	if parts == nil {
		return dst[:0], false, false
	}
	dst = dst[:0]
	for i, part := range parts {
		p := &r.table.params[i]
		raw := []byte(part)
		if p.Type == "string" {
			raw = mcp.AppendText(nil, part)
		} else if !mcp.Valid(raw) {
			return dst[:0], false, false
		}
		value, risky, fault := p.decode(raw)
		if fault == nil {
			fault = p.check(value)
		}
		if fault != nil {
			return dst[:0], false, false
		}
		dst, unsafe = append(dst, value), unsafe || risky
	}
	return dst, unsafe, true
}

const noRows = `{"rows":[]}`

// read answers resources/read. The result names the address that was asked for, which is why it is an argument of the
// call like the template's variables.
func (r *resource) read(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
	args, uri := c.Args[:len(c.Args)-1], c.Args[len(c.Args)-1].Text
	buf := scratch.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= keepScratch {
			scratch.Put(buf)
		}
	}()
	out, _, err := r.query.Run(ctx, (*buf)[:0], &sqldb.Execution{Args: args, Deadline: c.Deadline, Caller: &c.Caller, Primary: r.policy.Cacheable && r.policy.Mutable})
	*buf = out[:0]
	if err != nil {
		return mcp.Result{}, err
	}
	if r.template != nil && string(out) == noRows {
		return mcp.Result{}, notFound(uri)
	}
	rows := len(out)
	out = append(out, `"contents":[{"uri":`...)
	out = mcp.AppendText(out, uri)
	out = mcp.AppendText(append(out, `,"mimeType":`...), r.MimeType)
	out = mcp.AppendText(append(out, `,"text":`...), out[:rows])
	out = append(out, `}]`...)
	*buf = out[:0]
	found := mcp.RowsMany
	if string(out[:rows]) == noRows {
		found = mcp.RowsNone
	}
	return mcp.Result{Fields: bytes.Clone(out[rows:]), Hints: r.hints, Rows: found}, nil
}

// notFound is the error for an address that leads nowhere, or to what the caller may not see.
func notFound(uri []byte) *mcp.Error {
	data := append(mcp.AppendText([]byte(`{"uri":`), uri), '}')
	return &mcp.Error{Code: mcp.CodeResourceNotFound, Message: "resource not found", Data: data}
}

func (r *resource) line() []byte {
	key, at := "uri", r.URI
	if r.template != nil {
		key, at = "uriTemplate", r.URITemplate
	}
	out := mcp.AppendText(append(append([]byte(`{"`), key...), `":`...), at)
	out = mcp.AppendText(append(out, `,"name":`...), r.Name)
	for _, f := range []struct{ key, value string }{{"title", r.Title}, {"description", r.Description}, {"mimeType", r.MimeType}} {
		if f.value != "" {
			out = mcp.AppendText(append(append(append(out, `,"`...), f.key...), `":`...), f.value)
		}
	}
	return append(out, '}')
}

// prompt is a Prompt compiled.
type prompt struct {
	Prompt
	meter    mcp.Meter
	policy   mcp.Policy
	complete map[string]*completer
	listed   []byte
}

// completer suggests values of one argument.
type completer struct {
	values []string
	query  sqldb.Query
	policy mcp.Policy
}

// get renders the prompt with the arguments of c.Args, which follow the order of Prompt.Arguments.
func (p *prompt) get(_ context.Context, c *mcp.Call) (mcp.Result, error) {
	pairs := make([]string, 0, 2*len(c.Args))
	for i, v := range c.Args {
		pairs = append(pairs, "{"+p.Arguments[i].Name+"}", string(v.Text))
	}
	fill := strings.NewReplacer(pairs...) // one pass: a value that looks like {another} stays as it is
	out := []byte{}
	if p.Description != "" {
		out = append(mcp.AppendText(append(out, `"description":`...), p.Description), ',')
	}
	out = append(out, `"messages":[`...)
	for i, m := range p.Messages {
		if i > 0 {
			out = append(out, ',')
		}
		out = mcp.AppendText(append(out, `{"role":`...), m.Role)
		out = mcp.AppendText(append(out, `,"content":{"type":"text","text":`...), fill.Replace(m.Text))
		out = append(out, `}}`...)
	}
	return mcp.Result{Fields: append(out, ']')}, nil
}

// decode reads prompts/get's arguments, all of them strings.
func (p *prompt) decode(raw []byte, dst []mcp.Value) ([]mcp.Value, error) {
	dst = dst[:0]
	for range p.Arguments {
		dst = append(dst, mcp.Value{})
	}
	var fault *argumentError
	if raw != nil {
		mcp.Members(raw, func(key, value []byte) bool {
			for i, a := range p.Arguments {
				if a.Name != string(key) {
					continue
				}
				text, ok := mcp.Text(value)
				if !ok {
					fault = &argumentError{a.Name, "must be a string"}
					return false
				}
				dst[i] = mcp.Value{Kind: mcp.KindText, Text: text}
				return true
			}
			fault = &argumentError{string(key), "is unknown"}
			return false
		})
	}
	if fault != nil {
		return dst, fault
	}
	for i, a := range p.Arguments {
		if a.Required && dst[i].Kind == mcp.KindNull {
			return dst, &argumentError{a.Name, "is required"}
		}
	}
	return dst, nil
}

func (p *prompt) line() ([]byte, error) {
	type argument struct {
		Name        string `json:"name"`
		Description string `json:"description,omitempty"`
		Required    bool   `json:"required,omitempty"`
	}
	line := struct {
		Name        string     `json:"name"`
		Title       string     `json:"title,omitempty"`
		Description string     `json:"description,omitempty"`
		Arguments   []argument `json:"arguments,omitempty"`
	}{Name: p.Name, Title: p.Title, Description: p.Description}
	for _, a := range p.Arguments {
		line.Arguments = append(line.Arguments, argument{a.Name, a.Description, a.Required})
	}
	return json.Marshal(line)
}

// mostCompletions is the most suggestions that one answer may hold (specification, completion).
const mostCompletions = 100

// suggest answers completion/complete; the only argument is what was typed.
func (k *completer) suggest(ctx context.Context, c *mcp.Call) (mcp.Result, error) {
	typed := c.Args[0].Text
	var values []string
	more := false
	if k.query == nil {
		for _, v := range k.values {
			if strings.HasPrefix(strings.ToLower(v), strings.ToLower(string(typed))) {
				values = append(values, v)
			}
		}
		more = len(values) > mostCompletions
		values = values[:min(len(values), mostCompletions)]
	} else {
		out, outcome, err := k.query.Run(ctx, nil, &sqldb.Execution{Args: c.Args, Deadline: c.Deadline, Caller: &c.Caller})
		if err != nil {
			return mcp.Result{}, err
		}
		more = outcome.Truncated
		mcp.Elements(mcp.Member(out, "rows"), func(row []byte) bool {
			mcp.Members(row, func(_, v []byte) bool {
				if text, ok := mcp.Text(v); ok {
					values = append(values, string(text))
				} else if string(v) != "null" {
					values = append(values, string(v))
				}
				return false // the first column alone
			})
			return true
		})
	}
	return completions(values, more), nil
}

func completions(values []string, more bool) mcp.Result {
	out := []byte(`"completion":{"values":[`)
	for i, v := range values {
		if i > 0 {
			out = append(out, ',')
		}
		out = mcp.AppendText(out, v)
	}
	out = append(out, `],"hasMore":`...)
	if more {
		return mcp.Result{Fields: append(out, `true}`...)}
	}
	out = mcp.AppendInt(append(out, `false,"total":`...), int64(len(values)))
	return mcp.Result{Fields: append(out, '}')}
}
