package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"millrace/internal/client"
	"millrace/internal/conf"
	"millrace/internal/mcp"
)

type callCmd struct {
	Tool      string        `arg:"" help:"The tool's name."`
	Arguments []string      `arg:"" optional:"" help:"Its arguments, as NAME=VALUE."`
	URL       string        `help:"The server's endpoint." default:"http://127.0.0.1:8080/mcp"`
	Key       string        `help:"The API key." env:"MILLRACE_KEY"`
	Timeout   time.Duration `help:"How long to wait." default:"30s"`
	Yes       bool          `help:"Answer yes where the tool asks to confirm." short:"y"`
	Once      string        `help:"The call's idempotency key, for a tool with idempotency: the same key again gives the first answer." name:"idempotency-key"`
	JSON      bool          `help:"Print the whole result instead of its rows."`

	session *client.Session
}

// result is what of a result matters here.
type result struct {
	ResultType string `json:"resultType"`
	IsError    bool   `json:"isError"`
	Content    []struct {
		Text string `json:"text"`
	} `json:"content"`
	StructuredContent json.RawMessage `json:"structuredContent"`
	RequestState      string          `json:"requestState"`
	InputRequests     map[string]struct {
		Params struct {
			Message string `json:"message"`
		} `json:"params"`
	} `json:"inputRequests"`
	Tools      []listedTool `json:"tools"`
	NextCursor string       `json:"nextCursor"`

	raw []byte
}

// listedTool is what of a tool's listing matters here.
type listedTool struct {
	Name        string `json:"name"`
	InputSchema struct {
		Properties map[string]struct {
			Type   string `json:"type"`
			Header string `json:"x-mcp-header"`
		} `json:"properties"`
	} `json:"inputSchema"`
}

func (c *callCmd) Run() error {
	ctx, stop := untilSignal()
	defer stop()
	s, err := client.Open(ctx, client.Config{URL: c.URL, Key: conf.Secret(c.Key), Timeout: c.Timeout, Name: "millrace call", Version: version,
		Capabilities: []byte(`{"elicitation":{"form":{}}}`)})
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w; is 'millrace serve' running there?", err)
	}
	if err != nil {
		return err
	}
	defer s.Close()
	c.session = s
	tool, err := c.find(ctx)
	if err != nil {
		return err
	}
	arguments := map[string]json.RawMessage{}
	var headers []client.Header
	for _, pair := range c.Arguments {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("argument %q: write NAME=VALUE", pair)
		}
		p := tool.InputSchema.Properties[name]
		switch p.Type {
		case "integer", "number", "boolean", "array", "object":
			if !mcp.Valid([]byte(value)) {
				return fmt.Errorf("argument %q: %q is no JSON of type %s", name, value, p.Type)
			}
			arguments[name] = json.RawMessage(value)
		default:
			arguments[name] = mcp.AppendText(nil, value)
		}
		if p.Header != "" {
			headers = append(headers, client.Header{Name: "Mcp-Param-" + p.Header, Value: value})
		}
	}
	params := map[string]any{"name": c.Tool, "arguments": arguments}
	for range mostQuestions {
		a, err := c.request(ctx, "tools/call", c.Tool, params, headers)
		if err != nil {
			return err
		}
		if a.ResultType != "input_required" {
			return c.print(a)
		}
		responses := map[string]any{}
		for key, q := range a.InputRequests {
			if responses[key], err = c.answer(ctx, q.Params.Message); err != nil {
				return err
			}
		}
		params["inputResponses"], params["requestState"] = responses, a.RequestState
	}
	return errors.New("the tool asks without end")
}

// mostQuestions is how often one call may ask its user.
const mostQuestions = 10

// answer puts a question to the user and gives the client's answer.
func (c *callCmd) answer(ctx context.Context, question string) (map[string]any, error) {
	yes, err := c.confirm(ctx, question)
	if err != nil || !yes {
		return map[string]any{"action": "decline"}, err
	}
	return map[string]any{"action": "accept", "content": map[string]any{"confirm": true}}, nil
}

func (c *callCmd) confirm(ctx context.Context, question string) (bool, error) {
	if c.Yes {
		return true, nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return false, fmt.Errorf("the tool asks: %s; run it on a terminal, or with --yes", question)
	}
	fmt.Fprintf(os.Stderr, "%s [y/N] ", question)
	typed := make(chan string, 1)
	go func() { // ends with the line, or with the program
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n') // without one it is no
		typed <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case line := <-typed:
		return line == "y" || line == "yes", nil
	case <-ctx.Done():
		return false, errors.New("interrupted; nothing was confirmed")
	}
}

func (c *callCmd) print(r *result) error {
	text := r.raw
	switch {
	case c.JSON:
	case r.IsError:
		text = nil
	case r.StructuredContent != nil:
		text = r.StructuredContent
	default:
		text = nil
		for _, t := range r.Content {
			fmt.Println(t.Text)
		}
	}
	if text != nil {
		var out bytes.Buffer
		if err := json.Indent(&out, text, "", "  "); err != nil {
			return err
		}
		fmt.Println(out.String())
	}
	if r.IsError {
		if len(r.Content) > 0 {
			return errors.New(r.Content[0].Text)
		}
		return errors.New("the tool failed")
	}
	return nil
}

// find gives the tool as the server lists it.
func (c *callCmd) find(ctx context.Context) (*listedTool, error) {
	params := map[string]any{}
	for {
		r, err := c.request(ctx, "tools/list", "", params, nil)
		if err != nil {
			return nil, err
		}
		for i := range r.Tools {
			if r.Tools[i].Name == c.Tool {
				return &r.Tools[i], nil
			}
		}
		if r.NextCursor == "" || r.NextCursor == params["cursor"] {
			return nil, fmt.Errorf("the server has no tool %q for this caller", c.Tool)
		}
		params["cursor"] = r.NextCursor
	}
}

// request sends one request. A server of a legacy revision puts its questions while the call runs.
func (c *callCmd) request(ctx context.Context, method, name string, params map[string]any, headers []client.Header) (*result, error) {
	raw, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	var failed error
	var meta []byte
	if c.Once != "" && method == "tools/call" {
		meta = mcp.AppendText([]byte(`"millrace/idempotencyKey":`), c.Once)
	}
	call := &client.Call{Method: method, Name: name, Params: raw[1 : len(raw)-1], Meta: meta, Headers: headers, Ask: func(method string, params []byte) ([]byte, *mcp.Error) {
		if method != "elicitation/create" {
			return nil, mcp.Errorf(mcp.CodeMethodNotFound, "only questions to the user are answered")
		}
		text, _ := mcp.Text(mcp.Member(params, "message"))
		var reply map[string]any
		if reply, failed = c.answer(ctx, string(text)); failed != nil {
			return nil, mcp.Errorf(mcp.CodeInternal, "the user cannot be asked")
		}
		out, err := json.Marshal(reply)
		if err != nil {
			return nil, mcp.Errorf(mcp.CodeInternal, "%v", err)
		}
		return out, nil
	}}
	var a client.Answer
	err = c.session.Call(ctx, call, &a)
	switch {
	case failed != nil:
		return nil, failed
	case err != nil:
		return nil, fmt.Errorf("%s: %w", c.URL, err)
	case a.Error != nil:
		return nil, a.Error
	}
	r := &result{raw: a.Result}
	if err := json.Unmarshal(a.Result, r); err != nil {
		return nil, fmt.Errorf("%s answered %s with a result of another shape: %w", c.URL, method, err)
	}
	return r, nil
}
