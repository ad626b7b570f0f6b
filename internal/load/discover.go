package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/jsonschema-go/jsonschema"

	"millrace/internal/client"
	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/schema"
)

// listed is what of a server's lists matters here.
type listed struct {
	Tools      []listedTool `json:"tools"`
	Resources  []struct{ URI string }
	NextCursor string `json:"nextCursor"`
}

type listedTool struct {
	Name        string `json:"name"`
	InputSchema struct {
		Properties map[string]property `json:"properties"`
		Required   []string            `json:"required"`
	} `json:"inputSchema"`
	OutputSchema json.RawMessage `json:"outputSchema"`
	Annotations  struct {
		ReadOnly bool `json:"readOnlyHint"`
	} `json:"annotations"`
}

type property struct {
	Type      any      `json:"type"`
	Header    string   `json:"x-mcp-header"`
	Minimum   *float64 `json:"minimum"`
	Maximum   *float64 `json:"maximum"`
	MinLength int      `json:"minLength"`
	Pattern   string   `json:"pattern"`
	Enum      []any    `json:"enum"`
	Examples  []any    `json:"examples"`
	Const     any      `json:"const"`
	Default   any      `json:"default"`
}

// Bounds of what is listed.
const (
	mostPages = 100
	mostFound = 50 // of tools, and of resources, that become operations: each has histograms of its own
	mostItems = 10_000
)

// list gives all pages of a list.
func list(ctx context.Context, s *client.Session, method string) (all listed, err error) {
	var a client.Answer
	cursor := ""
	for range mostPages {
		call := client.Call{Method: method}
		if cursor != "" {
			call.Params = mcp.AppendText([]byte(`"cursor":`), cursor)
		}
		if err := s.Call(ctx, &call, &a); err != nil {
			return all, fmt.Errorf("%s: %w", method, err)
		}
		if a.Error != nil {
			return all, fmt.Errorf("%s: %w", method, a.Error)
		}
		var page listed
		if err := json.Unmarshal(a.Result, &page); err != nil {
			return all, fmt.Errorf("%s: the server's answer is not what the protocol says: %w", method, err)
		}
		all.Tools = append(all.Tools, page.Tools...)
		all.Resources = append(all.Resources, page.Resources...)
		if page.NextCursor == "" || len(all.Tools)+len(all.Resources) > mostItems {
			return all, nil
		}
		cursor = page.NextCursor
	}
	return all, fmt.Errorf("%s: the list has more than %d pages", method, mostPages)
}

// prepare makes a scenario's operations; where it has none, from what the server offers. notes are for the user.
func prepare(ctx context.Context, s *Scenario, session *client.Session) (operations []*operation, notes []string, err error) {
	tools := listed{}
	if needsTools(s) {
		if tools, err = list(ctx, session, "tools/list"); err != nil {
			return nil, nil, err
		}
	}
	if len(s.Operations) == 0 {
		return discover(ctx, s, session, tools.Tools)
	}
	for _, cfg := range s.Operations {
		o, err := newOperation(cfg)
		if err != nil {
			return nil, nil, err
		}
		if cfg.Tool != "" {
			i := slices.IndexFunc(tools.Tools, func(t listedTool) bool { return t.Name == cfg.Tool })
			switch {
			case i >= 0:
				o.adopt(&tools.Tools[i])
			case cfg.Expect.Error == "":
				return nil, nil, fmt.Errorf("operation %s: the server has no tool %q; it has %s", o.Name, cfg.Tool, names(tools.Tools))
			}
		}
		operations = append(operations, o)
	}
	return operations, nil, nil
}

func needsTools(s *Scenario) bool {
	return len(s.Operations) == 0 || slices.ContainsFunc(s.Operations, func(o OperationConfig) bool { return o.Tool != "" })
}

func names(tools []listedTool) string {
	var out []string
	for i, t := range tools {
		if i == 20 {
			out = append(out, "…")
			break
		}
		out = append(out, clip(t.Name))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// adopt takes over what the tool's listing says: arguments that go into headers, and the schema of its results.
func (o *operation) adopt(t *listedTool) {
	for i := range o.args {
		if h := t.InputSchema.Properties[o.args[i].name].Header; h != "" {
			o.args[i].header = "Mcp-Param-" + h
		}
	}
	if len(t.OutputSchema) == 0 {
		return
	}
	var s jsonschema.Schema
	if json.Unmarshal(t.OutputSchema, &s) == nil {
		if output, err := schema.Resolve(&s); err == nil { // nothing is held against one that is no schema
			o.output = output
		}
	}
}

// discover makes operations of what reads only and can be called with what its schema says.
func discover(ctx context.Context, s *Scenario, session *client.Session, tools []listedTool) (operations []*operation, notes []string, err error) {
	shares := [3]float64{0, 1, 0} // of reads, calls, subscriptions
	if s.mixed {
		shares = [3]float64{0.7, 0.2, mixedHolds}
	}
	var calls, reads, holds []OperationConfig
	for i := range tools {
		t := &tools[i]
		if !t.Annotations.ReadOnly {
			continue
		}
		if len(calls) == mostFound {
			notes = append(notes, fmt.Sprintf("of the tools only the first %d are called", mostFound))
			break
		}
		cfg := OperationConfig{Tool: t.Name, Arguments: map[string]any{}}
		cfg.SetDefaults()
		for _, name := range t.InputSchema.Required {
			p := t.InputSchema.Properties[name]
			cfg.Arguments[name] = p.sample()
		}
		if err := try(ctx, session, cfg, t); err != nil {
			notes = append(notes, fmt.Sprintf("tool %s is left out: %s", clip(t.Name), clip(err.Error())))
			continue
		}
		calls = append(calls, cfg)
	}
	if s.mixed {
		resources, err := list(ctx, session, "resources/list")
		if err != nil {
			notes = append(notes, "no resource is read: "+clip(err.Error()))
		}
		for _, r := range resources.Resources {
			read, hold := OperationConfig{Resource: r.URI}, OperationConfig{Subscribe: r.URI}
			read.SetDefaults()
			hold.SetDefaults()
			hold.Hold = conf.Duration(s.mixedHold())
			if strings.Contains(r.URI, "{") {
				continue
			}
			if len(reads) == mostFound {
				notes = append(notes, fmt.Sprintf("of the resources only the first %d are read", mostFound))
				break
			}
			if err := try(ctx, session, read, nil); err != nil {
				notes = append(notes, fmt.Sprintf("resource %s is left out: %s", clip(r.URI), clip(err.Error())))
				continue
			}
			reads, holds = append(reads, read), append(holds, hold)
		}
	}
	for i, group := range [][]OperationConfig{reads, calls, holds} {
		for _, cfg := range group {
			cfg.Weight = shares[i] / float64(len(group))
			o, err := newOperation(cfg)
			if err != nil {
				return nil, nil, err
			}
			if j := slices.IndexFunc(tools, func(t listedTool) bool { return t.Name == cfg.Tool }); j >= 0 {
				o.adopt(&tools[j])
			}
			operations = append(operations, o)
		}
		if s.mixed && len(group) == 0 {
			notes = append(notes, []string{"the server has no resource to read", "the server has no tool to call", "the server has no resource to subscribe to"}[i])
		}
	}
	if len(operations) == 0 {
		return nil, nil, fmt.Errorf("nothing was found that could be asked for without knowing more: no tool of the server (%s) says readOnlyHint "+
			"and can be called with what its schema says; name one with --tool NAME --arguments JSON, or write a scenario\n%s", names(tools), strings.Join(notes, "\n"))
	}
	return operations, notes, nil
}

// mixedHolds is the share of subscriptions in a mixed load.
const mixedHolds = 0.1

// mixedHold is how long a mixed load's subscriptions last: a second, or less where they would take more than half of the
// places for what is in flight at a time, and leave none to the rest.
func (s *Scenario) mixedHold() time.Duration {
	most := 0.0
	for i := range s.Phases {
		most = max(most, s.Phases[i].Rate)
	}
	if most == 0 {
		return time.Second
	}
	return min(time.Second, time.Duration(float64(s.MaxInFlight)/2/(mixedHolds*most)*float64(time.Second)))
}

// try makes the request of an operation a few times, to see whether what was guessed is right.
func try(ctx context.Context, session *client.Session, cfg OperationConfig, t *listedTool) error {
	o, err := newOperation(cfg)
	if err != nil {
		return err
	}
	if t != nil {
		o.adopt(t)
	}
	var q request
	for i := range 3 {
		o.build(&q, session.Revision(), rand.New(rand.NewPCG(uint64(i), 0)))
		err := session.Call(ctx, &q.call, &q.answer)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		kind := o.judge(&q.answer, err)
		switch {
		case kind == kindTool:
			text, _ := mcp.Text(mcp.Member(first(mcp.Member(q.answer.Result, "content")), "text"))
			return fmt.Errorf("it answers with an error: %s", text)
		case kind != "" && err != nil:
			return err
		case kind != "" && q.answer.Error != nil:
			return q.answer.Error
		case kind != "":
			return errors.New(kind)
		}
	}
	return nil
}

func first(array []byte) (out []byte) {
	mcp.Elements(array, func(v []byte) bool {
		out = v
		return false
	})
	return out
}

// clip shortens what a server said, and takes out what would do more than be seen on a terminal.
func clip(text string) string {
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, text)
}

// sample gives what makes values of a property. Where its schema says little, values are few, small and plain.
func (p *property) sample() any {
	switch {
	case p.Const != nil:
		return map[string]any{"choice": []any{p.Const}} // as it stands: a server does not name our files
	case len(p.Enum) > 0:
		return map[string]any{"choice": p.Enum}
	case len(p.Examples) > 0:
		return map[string]any{"choice": p.Examples}
	case p.Default != nil:
		return map[string]any{"choice": []any{p.Default}}
	}
	kind, _ := p.Type.(string)
	if several, ok := p.Type.([]any); ok && len(several) > 0 {
		kind, _ = several[0].(string)
	}
	low, high := 1.0, 100.0
	if p.Minimum != nil {
		low, high = *p.Minimum, max(*p.Minimum+99, high)
	}
	if p.Maximum != nil {
		high = *p.Maximum
		low = min(low, high)
	}
	switch kind {
	case "integer":
		return map[string]any{"uniform": []any{int64(low), int64(high)}}
	case "number":
		if low == high {
			return low
		}
		return map[string]any{"uniform": []any{low + 0.0, high + 1e-9}}
	case "boolean":
		return map[string]any{"choice": []any{true, false}}
	case "array":
		return []any{}
	case "object":
		return map[string]any{}
	}
	if p.Pattern != "" {
		if _, err := newPattern(p.Pattern); err == nil {
			return map[string]any{"pattern": p.Pattern}
		}
	}
	letters := make([]any, 26)
	for i := range letters {
		letters[i] = strings.Repeat(string(rune('a'+i)), max(1, min(p.MinLength, 1000)))
	}
	return map[string]any{"choice": letters}
}
