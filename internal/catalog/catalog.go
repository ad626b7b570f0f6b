package catalog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/internal/mcp"
)

// view is what one endpoint serves: everything, or one toolset.
type view struct {
	tools   map[string]*tool
	lists   [mcp.MethodCount]mcp.Handler
	isWhole bool
}

// Catalog is what is served. It is immutable and safe for concurrent use; make it with New.
type Catalog struct {
	views     map[string]*view // "" is everything
	tools     []*tool          // by name
	fixed     map[string]*resource
	templates []*resource
	prompts   map[string]*prompt

	shared     map[string]*tool // the first of those that share results, by the name that they are kept under
	statements []*statement
	events     []*rowEvent

	listPolicy mcp.Policy
	listMeters [mcp.MethodCount]mcp.Meter
}

// listTTL is how long clients may keep a list before they ask again; changes are announced.
const listTTL = time.Minute

// Has tells whether the catalog has a toolset of this name; "" always.
func (c *Catalog) Has(toolset string) bool { return c.views[toolset] != nil }

// Resolve fills call with what req asks for at the endpoint of toolset: who calls is in call already. headers are the
// request's where its Mcp-Param-* headers have to agree with its arguments, else nil. The error is a *mcp.Error, or a
// *mcp.ToolError for arguments that do not fit.
func (c *Catalog) Resolve(toolset string, headers map[string][]string, req *mcp.Request, call *mcp.Call) error {
	v := c.views[toolset]
	if v == nil { // a reload has taken it away since the endpoint was found
		return mcp.Errorf(mcp.CodeInvalidParams, "unknown toolset %q", clip([]byte(toolset)))
	}
	call.Request = req
	switch req.Method {
	case mcp.ToolsCall:
		if req.Name == nil {
			return mcp.Errorf(mcp.CodeInvalidParams, "params.name is missing: which tool?")
		}
		t := v.tools[string(req.Name)]
		if t == nil || !call.Caller.Has(t.RequireScopes) {
			// The same answer for a tool that is not there and one that this caller may not see.
			return mcp.Errorf(mcp.CodeInvalidParams, "unknown tool %q", clip(req.Name))
		}
		call.Target, call.Version, call.Policy, call.Meter, call.Invoke = t.Name, t.version, &t.policy, t.meter, t.invoke
		var err error
		call.Args, call.NoStore, err = t.table.decode(req.Arguments, call.Args)
		if headers != nil {
			if fault := t.table.checkHeaders(headers, call.Args, req.Arguments); fault != nil {
				return fault
			}
		}
		if err != nil {
			return &mcp.ToolError{Kind: "arguments", Message: fmt.Sprintf("tool %q: %v", t.Name, err)}
		}
		return nil
	case mcp.ResourcesRead:
		return c.resolveRead(v, req, call)
	case mcp.PromptsGet:
		if req.Name == nil {
			return mcp.Errorf(mcp.CodeInvalidParams, "params.name is missing: which prompt?")
		}
		p := c.prompts[string(req.Name)]
		if p == nil || !v.isWhole || !call.Caller.Has(p.RequireScopes) {
			return mcp.Errorf(mcp.CodeInvalidParams, "unknown prompt %q", clip(req.Name))
		}
		call.Target, call.Policy, call.Meter, call.Invoke = p.Name, &p.policy, p.meter, p.get
		var err error
		if call.Args, err = p.decode(req.Arguments, call.Args); err != nil {
			return mcp.Errorf(mcp.CodeInvalidParams, "prompt %q: %v", p.Name, err)
		}
		return nil
	case mcp.CompletionComplete:
		return c.resolveCompletion(v, req, call)
	default:
		h := v.lists[req.Method]
		if h == nil {
			return mcp.Errorf(mcp.CodeMethodNotFound, "unknown method %q", clip(req.MethodName))
		}
		call.Policy, call.Meter, call.Invoke = &c.listPolicy, c.listMeters[req.Method], h
		return nil
	}
}

// clip bounds a client's text in a message.
func clip(text []byte) string {
	if len(text) > 100 {
		return string(text[:100]) + "…"
	}
	return string(text)
}

// maxURI bounds the address of a resource, in bytes.
const maxURI = 8192

func (c *Catalog) resolveRead(v *view, req *mcp.Request, call *mcp.Call) error {
	if req.URI == nil {
		return mcp.Errorf(mcp.CodeInvalidParams, "params.uri is missing: which resource?")
	}
	if len(req.URI) > maxURI {
		return mcp.Errorf(mcp.CodeInvalidParams, "params.uri is longer than %d bytes", maxURI)
	}
	if !v.isWhole {
		return notFound(req.URI)
	}
	uri := string(req.URI)
	r, ok := c.fixed[uri], true
	call.Args = call.Args[:0]
	if r == nil || !call.Caller.Has(r.RequireScopes) {
		// What the caller may not see is as good as absent: it hides no template behind it.
		for _, r = range c.templates {
			if ok = call.Caller.Has(r.RequireScopes); ok {
				if call.Args, call.NoStore, ok = r.arguments(uri, call.Args); ok {
					break
				}
			}
		}
	}
	if r == nil || !ok || !call.Caller.Has(r.RequireScopes) {
		return notFound(req.URI)
	}
	call.Target, call.Version, call.Policy, call.Meter, call.Invoke = r.Name, r.version, &r.policy, r.meter, r.invoke
	call.Args = append(call.Args, mcp.Value{Kind: mcp.KindText, Text: req.URI})
	return nil
}

func (c *Catalog) resolveCompletion(v *view, req *mcp.Request, call *mcp.Call) error {
	call.Policy, call.Meter = &c.listPolicy, c.listMeters[req.Method]
	ref, argument := mcp.Member(req.Params, "ref"), mcp.Member(req.Params, "argument")
	kind, _ := mcp.Text(mcp.Member(ref, "type"))
	name, named := mcp.Text(mcp.Member(argument, "name"))
	value, valued := mcp.Text(mcp.Member(argument, "value"))
	if !named || !valued {
		return mcp.Errorf(mcp.CodeInvalidParams, "params.argument must have a name and a value, both strings")
	}
	empty := func(context.Context, *mcp.Call) (mcp.Result, error) { return completions(nil, false), nil }
	switch string(kind) {
	case "ref/prompt":
		promptName, _ := mcp.Text(mcp.Member(ref, "name"))
		p := c.prompts[string(promptName)]
		if p == nil || !v.isWhole || !call.Caller.Has(p.RequireScopes) {
			return mcp.Errorf(mcp.CodeInvalidParams, "unknown prompt %q", clip(promptName))
		}
		if !slices.ContainsFunc(p.Arguments, func(a PromptArgument) bool { return a.Name == string(name) }) {
			return mcp.Errorf(mcp.CodeInvalidParams, "prompt %q has no argument %q", p.Name, clip(name))
		}
		call.Invoke = empty
		if k := p.complete[string(name)]; k != nil {
			call.Policy, call.Invoke = &k.policy, k.suggest
		}
		call.Args = append(call.Args[:0], mcp.Value{Kind: mcp.KindText, Text: value})
	case "ref/resource":
		uri, _ := mcp.Text(mcp.Member(ref, "uri"))
		known := slices.ContainsFunc(c.templates, func(r *resource) bool {
			return r.URITemplate == string(uri) && call.Caller.Has(r.RequireScopes)
		})
		if !known || !v.isWhole {
			return notFound(uri)
		}
		call.Invoke = empty
	default:
		return mcp.Errorf(mcp.CodeInvalidParams, "params.ref.type must be ref/prompt or ref/resource")
	}
	return nil
}

// Signatures gives what tells the lists of tools, prompts and resources from those of another catalog.
func (c *Catalog) Signatures() (out [3]string) {
	var tools, prompts, resources []string
	for _, t := range c.tools {
		tools = append(tools, string(*t.listed.Load())+strings.Join(t.RequireScopes, ","))
	}
	for name, v := range c.views {
		for member := range v.tools {
			tools = append(tools, name+"\x00"+member)
		}
	}
	for _, p := range c.prompts {
		prompts = append(prompts, string(p.listed)+strings.Join(p.RequireScopes, ","))
	}
	for _, r := range c.fixed {
		resources = append(resources, string(r.listed)+strings.Join(r.RequireScopes, ","))
	}
	for _, r := range c.templates {
		resources = append(resources, string(r.listed)+strings.Join(r.RequireScopes, ","))
	}
	for i, lines := range [][]string{tools, prompts, resources} {
		slices.Sort(lines)
		sum := sha256.Sum256([]byte(strings.Join(lines, "\x00")))
		out[i] = string(sum[:])
	}
	return out
}

// lists makes the handlers of a view's lists.
func (c *Catalog) lists(v *view, tools []*tool, resources []*resource) {
	hints := &mcp.Hints{TTL: listTTL, Scope: mcp.ScopePrivate}
	entries := make([]entry, len(tools))
	for i, t := range tools {
		entries[i] = entry{t.Name, t.RequireScopes, func() []byte { return *t.listed.Load() }}
	}
	v.lists[mcp.ToolsList] = list("tools", sorted(entries), hints)
	var fixed, templates, prompts []entry
	if v.isWhole {
		for _, r := range resources {
			e := entry{r.Name + "\x00" + r.URI + r.URITemplate, r.RequireScopes, func() []byte { return r.listed }}
			if r.template != nil {
				templates = append(templates, e)
			} else {
				fixed = append(fixed, e)
			}
		}
		for _, p := range c.prompts {
			prompts = append(prompts, entry{p.Name, p.RequireScopes, func() []byte { return p.listed }})
		}
	}
	v.lists[mcp.ResourcesList] = list("resources", sorted(fixed), hints)
	v.lists[mcp.ResourceTemplatesList] = list("resourceTemplates", sorted(templates), hints)
	v.lists[mcp.PromptsList] = list("prompts", sorted(prompts), hints)
}

func sorted(entries []entry) []entry {
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	return entries
}

// Kept is the name under which the results of a tool or resource are kept.
func (c *Catalog) Kept(target string) string {
	if t := c.views[""].tools[target]; t != nil {
		return t.kept()
	}
	return target
}

// Recall gives the call of a tool or resource by what a key holds of it, without a caller: to make it again. It is nil for a
// target that is not served in this version.
func (c *Catalog) Recall(target string, version [16]byte, args []mcp.Value) *mcp.Call {
	t := c.views[""].tools[target]
	if t == nil {
		t = c.shared[target]
	}
	if t != nil && t.version == version && len(args) == len(t.table.params) {
		return &mcp.Call{Target: t.Name, Version: version, Policy: &t.policy, Meter: t.meter, Invoke: t.invoke, Args: args}
	}
	again := func(r *resource) *mcp.Call {
		if r.Name != target || r.version != version || len(args) != len(r.table.params)+1 {
			return nil
		}
		return &mcp.Call{Target: r.Name, Version: version, Policy: &r.policy, Meter: r.meter, Invoke: r.invoke, Args: args}
	}
	for _, r := range c.fixed {
		if call := again(r); call != nil {
			return call
		}
	}
	for _, r := range c.templates {
		if call := again(r); call != nil {
			return call
		}
	}
	return nil
}
