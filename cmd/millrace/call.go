package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"millrace/internal/mcp"
)

type callCmd struct {
	Tool      string        `arg:"" help:"The tool's name."`
	Arguments []string      `arg:"" optional:"" help:"Its arguments, as NAME=VALUE."`
	URL       string        `help:"The server's endpoint." default:"http://127.0.0.1:8080/mcp"`
	Key       string        `help:"The API key." env:"MILLRACE_KEY"`
	Timeout   time.Duration `help:"How long to wait." default:"30s"`
	Yes       bool          `help:"Answer yes where the tool asks to confirm." short:"y"`
	JSON      bool          `help:"Print the whole result instead of its rows."`
}

// answer is what of a JSON-RPC response matters here.
type answer struct {
	Result *struct {
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
		Tools []struct {
			Name        string `json:"name"`
			InputSchema struct {
				Properties map[string]struct {
					Type string `json:"type"`
				} `json:"properties"`
			} `json:"inputSchema"`
		} `json:"tools"`
		NextCursor string `json:"nextCursor"`
	} `json:"result"`
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
	raw []byte
}

func (c *callCmd) Run() error {
	types, err := c.types()
	if err != nil {
		return err
	}
	arguments := map[string]json.RawMessage{}
	for _, pair := range c.Arguments {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("argument %q: write NAME=VALUE", pair)
		}
		switch types[name] {
		case "integer", "number", "boolean", "array", "object":
			if !mcp.Valid([]byte(value)) {
				return fmt.Errorf("argument %q: %q is no JSON of type %s", name, value, types[name])
			}
			arguments[name] = json.RawMessage(value)
		default:
			arguments[name] = mcp.AppendText(nil, value)
		}
	}
	params := map[string]any{"name": c.Tool, "arguments": arguments}
	for {
		a, err := c.post("tools/call", c.Tool, params)
		if err != nil {
			return err
		}
		r := a.Result
		if r.ResultType != "input_required" {
			return c.print(a)
		}
		responses := map[string]any{}
		for key, q := range r.InputRequests {
			yes, err := c.confirm(q.Params.Message)
			if err != nil {
				return err
			}
			if yes {
				responses[key] = map[string]any{"action": "accept", "content": map[string]any{"confirm": true}}
			} else {
				responses[key] = map[string]any{"action": "decline"}
			}
		}
		params["inputResponses"], params["requestState"] = responses, r.RequestState
	}
}

func (c *callCmd) confirm(question string) (bool, error) {
	if c.Yes {
		return true, nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return false, fmt.Errorf("the tool asks: %s; run it on a terminal, or with --yes", question)
	}
	fmt.Fprintf(os.Stderr, "%s [y/N] ", question)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	line = strings.ToLower(strings.TrimSpace(line))
	return line == "y" || line == "yes", nil
}

func (c *callCmd) print(a *answer) error {
	if c.JSON {
		var out bytes.Buffer
		if err := json.Indent(&out, []byte(mcp.Member(a.raw, "result")), "", "  "); err != nil {
			return err
		}
		fmt.Println(out.String())
	} else if a.Result.StructuredContent != nil && !a.Result.IsError {
		var out bytes.Buffer
		if err := json.Indent(&out, a.Result.StructuredContent, "", "  "); err != nil {
			return err
		}
		fmt.Println(out.String())
	} else if !a.Result.IsError {
		for _, t := range a.Result.Content {
			fmt.Println(t.Text)
		}
	}
	if a.Result.IsError {
		text := "the tool failed"
		if len(a.Result.Content) > 0 {
			text = a.Result.Content[0].Text
		}
		return errors.New(text)
	}
	return nil
}

// types gives the types of the tool's arguments, by its schema.
func (c *callCmd) types() (map[string]string, error) {
	params := map[string]any{}
	for {
		a, err := c.post("tools/list", "", params)
		if err != nil {
			return nil, err
		}
		for _, t := range a.Result.Tools {
			if t.Name == c.Tool {
				types := map[string]string{}
				for name, p := range t.InputSchema.Properties {
					types[name] = p.Type
				}
				return types, nil
			}
		}
		if a.Result.NextCursor == "" {
			return nil, fmt.Errorf("the server has no tool %q for this caller", c.Tool)
		}
		params["cursor"] = a.Result.NextCursor
	}
}

func (c *callCmd) post(method, name string, params map[string]any) (*answer, error) {
	params["_meta"] = map[string]any{
		"io.modelcontextprotocol/protocolVersion":    mcp.Modern.String(),
		"io.modelcontextprotocol/clientInfo":         map[string]any{"name": "millrace call", "version": version},
		"io.modelcontextprotocol/clientCapabilities": map[string]any{"elicitation": map[string]any{"form": map[string]any{}}},
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range map[string]string{"Content-Type": "application/json", "Accept": "application/json",
		"MCP-Protocol-Version": mcp.Modern.String(), "Mcp-Method": method, "Mcp-Name": mcp.EncodeHeader(name)} {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	client := http.Client{Timeout: c.Timeout}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w; is 'millrace serve' running there?", err)
	}
	defer resp.Body.Close()
	a := &answer{}
	if a.raw, err = io.ReadAll(io.LimitReader(resp.Body, 256<<20)); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if err := json.Unmarshal(a.raw, a); err != nil || a.Result == nil && a.Error == nil {
		return nil, fmt.Errorf("%s answered %s with something that is no MCP message", c.URL, resp.Status)
	}
	if a.Error != nil {
		return nil, fmt.Errorf("%s (%d)", a.Error.Message, a.Error.Code)
	}
	return a, nil
}
