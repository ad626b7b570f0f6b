package catalog

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// Definitions is what the configuration says about what is served.
type Definitions struct {
	Tools     []Tool
	Resources []Resource
	Prompts   []Prompt
	Toolsets  map[string][]string
	Events    []Event
}

// Source is one database with what tells it from others.
type Source struct {
	sqldb.Source
	Hash string // of its configuration
}

// Deps is what a catalog stands on.
type Deps struct {
	Sources map[string]Source // nil where it is not known which there are: nothing is said of them then
	TTL     conf.Duration     // of cached results where a tool gives none
	// Batching has the bounds of tools with batch:, and Batched counts how many calls of such a tool each statement served; nil for nobody.
	Batching sqldb.BatchingConfig
	Batched  func(tool string) func(calls int)
	// Meter gives the counters of one target; name is "" for a method as a whole.
	Meter func(method mcp.Method, name string) mcp.Meter
	// Publish tells clients that wait for events what happened.
	Publish func(...mcp.Event)
}

var (
	toolName    = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)
	toolsetName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

type builder struct {
	deps       Deps
	faults     conf.Faults
	statements []*statement     // those that compiled
	tagged     map[string]bool  // skeletons of the tags of cached results
	shared     map[string]*tool // the first of those that share results, by the name that they are kept under
}

func (b *builder) fault(path, message, fix string) {
	b.faults = append(b.faults, conf.Fault{Path: path, Message: message, Fix: fix})
}

// New compiles the definitions. It connects to nothing. After faults the catalog is good for Check alone.
func New(d Definitions, deps Deps) (*Catalog, conf.Faults) {
	b := &builder{deps: deps, tagged: map[string]bool{}, shared: map[string]*tool{}}
	c := &Catalog{
		views: map[string]*view{"": {isWhole: true, tools: map[string]*tool{}}},
		fixed: map[string]*resource{}, prompts: map[string]*prompt{},
		listPolicy: mcp.Policy{Timeout: 5 * time.Second},
	}
	for m := range c.listMeters {
		c.listMeters[m] = deps.Meter(mcp.Method(m), "")
	}
	all := c.views[""]
	for i := range d.Tools {
		t := b.tool(fmt.Sprintf("tools[%d]", i), d.Tools[i])
		if all.tools[t.Name] != nil {
			b.fault(t.path+".name", fmt.Sprintf("%q is there twice", t.Name), "rename one of them")
		}
		all.tools[t.Name] = t
		c.tools = append(c.tools, t)
	}
	var resources []*resource
	for i := range d.Resources {
		r := b.resource(fmt.Sprintf("resources[%d]", i), d.Resources[i])
		resources = append(resources, r)
		if r.template != nil {
			if slices.ContainsFunc(c.templates, func(o *resource) bool { return o.URITemplate == r.URITemplate }) {
				b.fault(fmt.Sprintf("resources[%d].uriTemplate", i), fmt.Sprintf("%q is there twice", r.URITemplate), "remove one of them")
			}
			c.templates = append(c.templates, r)
		} else {
			if c.fixed[r.URI] != nil {
				b.fault(fmt.Sprintf("resources[%d].uri", i), fmt.Sprintf("%q is there twice", r.URI), "remove one of them")
			}
			c.fixed[r.URI] = r
		}
	}
	for _, t := range c.tools {
		b.updates(t, resources)
		b.changes(t, all.tools)
	}
	for _, t := range c.tools { // what one of those that share can have changed, all can
		if first := b.shared[t.policy.Share]; first != nil {
			first.policy.Mutable = first.policy.Mutable || t.policy.Mutable
		}
	}
	for _, t := range c.tools {
		if first := b.shared[t.policy.Share]; first != nil {
			t.policy.Mutable = first.policy.Mutable
		}
	}
	for i := range d.Events {
		c.events = append(c.events, b.event(fmt.Sprintf("events[%d]", i), &d.Events[i], resources))
	}
	for i := range d.Prompts {
		p := b.prompt(fmt.Sprintf("prompts[%d]", i), d.Prompts[i])
		if c.prompts[p.Name] != nil {
			b.fault(fmt.Sprintf("prompts[%d].name", i), fmt.Sprintf("%q is there twice", p.Name), "rename one of them")
		}
		c.prompts[p.Name] = p
	}
	for _, name := range slices.Sorted(maps.Keys(d.Toolsets)) {
		at := conf.Key("toolsets", name)
		if !toolsetName.MatchString(name) {
			b.fault(at, fmt.Sprintf("%q is no name of a toolset", name), "use letters, digits, '_' and '-', at most 64: it is part of a URL")
		}
		v := &view{tools: map[string]*tool{}}
		var tools []*tool
		for i, member := range d.Toolsets[name] {
			t := all.tools[member]
			if t == nil {
				b.fault(fmt.Sprintf("%s[%d]", at, i), fmt.Sprintf("there is no tool %q", member), "name one of tools")
				continue
			}
			if v.tools[member] == nil {
				tools = append(tools, t)
			}
			v.tools[member] = t
		}
		c.views[name] = v
		c.lists(v, tools, nil)
	}
	c.statements, c.shared = b.statements, b.shared
	if len(b.faults) > 0 {
		return c, b.faults
	}
	c.lists(all, c.tools, resources)
	return c, nil
}

// compile compiles one statement of one source.
func (b *builder) compile(path, source string, spec sqldb.Spec) sqldb.Query {
	if source == "" {
		b.fault(path+".source", "is missing", "name one of sources")
		return nil
	}
	src, ok := b.deps.Sources[source]
	if !ok && b.deps.Sources == nil {
		return nil
	}
	if !ok {
		fix := "add it to sources"
		if known := slices.Sorted(maps.Keys(b.deps.Sources)); len(known) > 0 {
			fix = "name one of sources: " + strings.Join(known, ", ")
		}
		b.fault(path+".source", fmt.Sprintf("there is no source %q", source), fix)
		return nil
	}
	if src.Source == nil {
		return nil // its own fault has been told
	}
	if strings.TrimSpace(spec.Text) == "" && len(spec.Parts) == 0 {
		b.fault(path+".statement", "is missing", "write one SQL statement")
		return nil
	}
	q, err := src.Compile(spec)
	if told := (conf.Faults)(nil); errors.As(err, &told) {
		for _, f := range told {
			b.fault(path+"."+cmp.Or(f.Path, "statement"), f.Message, f.Fix)
		}
	} else if err != nil {
		b.fault(path+".statement", err.Error(), "mend the statement")
	} else {
		at := path + ".statement"
		if len(spec.Parts) > 0 {
			at += "s"
		}
		b.statements = append(b.statements, &statement{path: at, source: source, query: q})
	}
	return q
}

// mostParts bounds the statements of one tool.
const mostParts = 32

// parts gives `statements:` of a tool, in the order of their names.
func (b *builder) parts(path string, t *Tool) (out []sqldb.Part) {
	at := path + ".statements"
	switch {
	case len(t.Statements) > 0 && t.Statement != "":
		b.fault(at, "are there beside statement", "keep one of the two")
	case len(t.Statements) == 0 && t.Snapshot:
		b.fault(path+".snapshot", "goes with statements: one alone reads what was there at one moment anyway", "remove it")
	case len(t.Statements) > mostParts:
		b.fault(at, fmt.Sprintf("are %d", len(t.Statements)), fmt.Sprintf("give %d at most", mostParts))
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(t.Statements)) {
		if !parameterName.MatchString(name) {
			b.fault(conf.Key(at, name), fmt.Sprintf("%q is no name of a statement", name), "use a letter or '_', then letters, digits and '_': it is a member of the result")
		}
		out = append(out, sqldb.Part{Name: name, Text: t.Statements[name]})
	}
	return out
}

func specParams(t *table) []sqldb.Param {
	params := make([]sqldb.Param, len(t.params))
	for i := range t.params {
		params[i] = sqldb.Param{Name: t.params[i].Name, Type: t.params[i].Type}
	}
	return params
}

// version is the hash of a definition and its source: part of every key, so that a changed one shares nothing with the
// old.
func (b *builder) version(path string, definition any, source string) [16]byte {
	data, err := json.Marshal(definition)
	if err != nil {
		b.fault(path, "holds a value that JSON has not: "+err.Error(), "give finite numbers, texts, lists and mappings")
	}
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s", b.deps.Sources[source].Hash, data))
	return [16]byte(h[:16])
}

func (b *builder) bounds(path string, timeout conf.Duration, rows int, size conf.Size) {
	if timeout <= 0 {
		b.fault(path+".timeout", "must be longer than nothing", "write 5s")
	}
	if rows < 1 {
		b.fault(path+".max_rows", fmt.Sprintf("is %d", rows), "give 1 or more")
	}
	if size < 64 || size > 1<<30 {
		b.fault(path+".max_bytes", fmt.Sprintf("is %d bytes", int64(size)), "give 64B to 1GiB")
	}
}

func (b *builder) tool(path string, d Tool) *tool {
	t := &tool{Tool: d, path: path, publish: b.deps.Publish, meter: b.deps.Meter(mcp.ToolsCall, d.Name)}
	if !toolName.MatchString(d.Name) {
		b.fault(path+".name", fmt.Sprintf("%q is no name of a tool", d.Name), "use letters, digits, '_', '-' and '.', at most 128")
	}
	if d.Description == "" {
		b.fault(path+".description", "is missing", "say what the tool does and when to use it: agents choose by it")
	}
	b.bounds(path, d.Timeout, d.MaxRows, d.MaxBytes)
	var faults conf.Faults
	t.table, faults = compileTable(path+".parameters", d.Parameters)
	b.faults = append(b.faults, faults...)
	mode := sqldb.ReadWrite
	if d.Annotations.ReadOnlyHint {
		mode = sqldb.ReadOnly
	}
	t.policy = mcp.Policy{Timeout: d.Timeout.Std(), MaxBytes: int(d.MaxBytes)}
	b.cachePolicy(&t.policy, path+".cache", d.Source, d.Cache, t.table.params)
	if tags := t.policy.Tags; t.policy.Cacheable {
		t.policy.Tags = func(args []mcp.Value) []string {
			var out []string
			if tags != nil {
				out = tags(args)
			}
			return append(out, t.rowTag(args)) // whether or not another tool writes it now: a reload may bring one
		}
	}
	if d.Cache != nil && mode == sqldb.ReadWrite {
		b.fault(path+".cache", "goes with read-only tools only", "add annotations: {readOnlyHint: true}, or remove cache")
	}
	t.invoke = t.run
	if d.Confirm != "" {
		if mode == sqldb.ReadOnly {
			b.fault(path+".confirm", "goes with writes only", "remove it: a read-only tool changes nothing")
		}
		t.invoke = t.askFirst
	}
	if d.Output != nil {
		if s, err := compileSchema(d.Output); err != nil {
			b.fault(path+".output", err.Error(), "write a JSON Schema (draft 2020-12) with type: object")
		} else if s.Schema().Type != "object" {
			b.fault(path+".output", "is no schema of an object, which a structured result always is", "write type: object")
		}
	}
	t.keyAt = b.idempotency(path, &d)
	params := specParams(t.table)
	if t.keyAt >= 0 {
		params[t.keyAt].Unused = true
	}
	t.query = b.compile(path, d.Source, sqldb.Spec{Name: d.Name, Text: d.Statement, Parts: b.parts(path, &d), Snapshot: d.Snapshot && len(d.Statements) > 0, Params: params, Mode: mode, Batch: b.batch(path, &d), Shard: b.shard(path, d.Source, d.Shard, d.Parameters), Once: d.Idempotency != nil && mode == sqldb.ReadWrite,
		MaxRows: d.MaxRows, MaxBytes: int(d.MaxBytes), Timeout: d.Timeout.Std(), Hints: d.Hints})
	if t.query != nil {
		b.statements[len(b.statements)-1].tool = t
	}
	t.version = b.version(path, []any{d, t.policy.TTL}, d.Source)
	if b.share(t); t.policy.Share != "" {
		t.version = b.version(path, append([]any{t.policy.Share}, t.asked()...), d.Source)
	}
	line, err := t.line(nil, false)
	if err != nil {
		b.fault(path, err.Error(), "use plain values in schemas")
	}
	t.listed.Store(&line)
	return t
}

// batch compiles `batch:` of a tool; nil where there is none, or a faulty one.
func (b *builder) batch(path string, t *Tool) *sqldb.Batch {
	if t.Batch == nil {
		return nil
	}
	path += ".batch"
	out := &sqldb.Batch{BatchingConfig: b.deps.Batching, By: slices.IndexFunc(t.Parameters, func(p Parameter) bool { return p.Name == t.Batch.By })}
	if src := b.deps.Sources[t.Source].Source; src != nil && src.Dialect() != sqldb.PostgreSQL {
		b.fault(path, "goes with PostgreSQL only: SQLite answers in this process, where there is no way to share", "remove it")
		return nil
	}
	if len(t.Statements) > 0 {
		b.fault(path, "goes with one statement only", "remove it, or make the statement that calls are to share a tool of its own")
		return nil
	}
	if !t.Annotations.ReadOnlyHint {
		b.fault(path, "goes with read-only tools only: each write is a transaction of its own", "remove it")
		return nil
	}
	if out.By < 0 || t.Parameters[out.By].Type == "array" || t.Parameters[out.By].Type == "object" {
		b.fault(path+".by", fmt.Sprintf("the tool has no parameter %q that is a string, number, integer or boolean", t.Batch.By), "name one that it has")
		return nil
	}
	if b.deps.Batched != nil {
		out.Observe = b.deps.Batched(t.Name)
	}
	return out
}

// shard compiles `shard:` of a tool or resource; nil where there is none, or a faulty one.
func (b *builder) shard(path, source string, s *ShardPolicy, params []Parameter) *int {
	if s == nil {
		return nil
	}
	path += ".shard"
	if src := b.deps.Sources[source].Source; src != nil && !src.Sharded() {
		b.fault(path, fmt.Sprintf("goes with a source that has shards, and source %q is one database", source), "remove it")
		return nil
	}
	at := slices.IndexFunc(params, func(p Parameter) bool { return p.Name == s.By })
	if at < 0 {
		b.fault(path+".by", fmt.Sprintf("there is no parameter %q", s.By), "name one of parameters")
		return nil
	}
	return &at
}

func (b *builder) resource(path string, d Resource) *resource {
	r := &resource{Resource: d, meter: b.deps.Meter(mcp.ResourcesRead, d.Name)}
	if d.Name == "" {
		b.fault(path+".name", "is missing", "give a short name")
	}
	params := d.Parameters
	switch {
	case (d.URI == "") == (d.URITemplate == ""):
		b.fault(path, "needs either uri or uriTemplate", "give one of them")
	case d.URITemplate != "":
		var err error
		if r.template, err = compileTemplate(d.URITemplate); err != nil {
			b.fault(path+".uriTemplate", err.Error(), "write for example city://{id}")
			break
		}
		params = make([]Parameter, len(r.template.vars))
		for i, name := range r.template.vars {
			params[i] = Parameter{Name: name, Type: "string", Required: true}
		}
		for i, given := range d.Parameters {
			at := slices.Index(r.template.vars, given.Name)
			if at < 0 {
				b.fault(fmt.Sprintf("%s.parameters[%d].name", path, i), fmt.Sprintf("the template has no {%s}", given.Name), "name a variable of the template")
				continue
			}
			given.Required = true
			params[at] = given
		}
	case !strings.Contains(d.URI, ":"):
		b.fault(path+".uri", "is no URI", "begin with a scheme, like notes://all")
	case len(d.Parameters) > 0:
		b.fault(path+".parameters", "go with uriTemplate only: a fixed address has no variables", "remove them, or write uriTemplate")
	}
	if len(d.URI)+len(d.URITemplate) > maxURI {
		b.fault(path, fmt.Sprintf("its address is longer than %d bytes", maxURI), "shorten it")
	}
	b.bounds(path, d.Timeout, d.MaxRows, d.MaxBytes)
	var faults conf.Faults
	r.table, faults = compileTable(path+".parameters", params)
	b.faults = append(b.faults, faults...)
	r.policy = mcp.Policy{Timeout: d.Timeout.Std(), MaxBytes: int(d.MaxBytes)}
	b.cachePolicy(&r.policy, path+".cache", d.Source, d.Cache, r.table.params)
	if d.Cache != nil && d.Cache.Query != "" {
		b.fault(path+".cache.query", "goes with tools only: a resource's content has a form of its own", "remove it")
	}
	r.hints = &mcp.Hints{TTL: r.policy.TTL, Scope: r.policy.Scope}
	if len(d.RequireScopes) > 0 { // a shared cache on the way does not ask for scopes, as ours does
		r.hints.Scope = mcp.ScopePrivate
	}
	r.query = b.compile(path, d.Source, sqldb.Spec{Name: d.Name, Text: d.Statement, Params: specParams(r.table), Mode: sqldb.ReadOnly, Shard: b.shard(path, d.Source, d.Shard, params),
		MaxRows: d.MaxRows, MaxBytes: int(d.MaxBytes), Timeout: d.Timeout.Std(), Hints: d.Hints})
	r.version = b.version(path, []any{d, r.policy.TTL}, d.Source)
	r.listed, r.invoke = r.line(), r.read
	return r
}

func (b *builder) prompt(path string, d Prompt) *prompt {
	p := &prompt{Prompt: d, meter: b.deps.Meter(mcp.PromptsGet, d.Name), policy: mcp.Policy{Timeout: 5 * time.Second},
		complete: map[string]*completer{}}
	if !toolName.MatchString(d.Name) {
		b.fault(path+".name", fmt.Sprintf("%q is no name of a prompt", d.Name), "use letters, digits, '_', '-' and '.', at most 128")
	}
	if len(d.Messages) == 0 {
		b.fault(path+".messages", "is empty", "write at least one message")
	}
	names := map[string]bool{}
	for i, a := range d.Arguments {
		at := fmt.Sprintf("%s.arguments[%d]", path, i)
		if !parameterName.MatchString(a.Name) || names[a.Name] {
			b.fault(at+".name", fmt.Sprintf("%q is no name of an argument, or there twice", a.Name), "use a letter or '_', then letters, digits and '_'")
		}
		names[a.Name] = true
		k := a.Complete
		if k == nil {
			continue
		}
		done := &completer{values: k.Values, policy: mcp.Policy{Timeout: 2 * time.Second}}
		switch {
		case (k.Statement == "") == (len(k.Values) == 0):
			b.fault(at+".complete", "needs either statement or values", "give one of them")
		case k.Statement != "":
			done.query = b.compile(at+".complete", k.Source, sqldb.Spec{Name: d.Name, Text: k.Statement,
				Params: []sqldb.Param{{Name: "value", Type: "string"}}, Mode: sqldb.ReadOnly,
				MaxRows: mostCompletions, MaxBytes: 1 << 18, Timeout: done.policy.Timeout})
		}
		p.complete[a.Name] = done
	}
	for i, m := range d.Messages {
		at := fmt.Sprintf("%s.messages[%d]", path, i)
		if m.Role != "user" && m.Role != "assistant" {
			b.fault(at+".role", fmt.Sprintf("%q is no role", m.Role), "use user or assistant")
		}
		for _, v := range variable.FindAllStringSubmatch(m.Text, -1) {
			if parameterName.MatchString(v[1]) && !names[v[1]] {
				b.fault(at+".text", fmt.Sprintf("{%s} is no argument of the prompt", v[1]), "add it to arguments, or mend its name")
			}
		}
	}
	var err error
	if p.listed, err = p.line(); err != nil {
		b.fault(path, err.Error(), "use plain text")
	}
	return p
}
