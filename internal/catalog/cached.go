package catalog

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"millrace/internal/conf"
	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// negativeTTL is how long a result without a row is fresh where the file does not say.
const negativeTTL = 5 * time.Second

// mostTags bounds the tags of one result, and those that one write makes void.
const mostTags = 32

// cachePolicy turns `cache:` at path into the policy's fields.
func (b *builder) cachePolicy(p *mcp.Policy, path, source string, c *CachePolicy, params []parameter) {
	if c == nil {
		return
	}
	scope, ok := mcp.ParseScope(c.Scope)
	if !ok {
		b.fault(path+".scope", fmt.Sprintf("%q is no scope", c.Scope), "use private, tenant or public")
	}
	if may := b.widest(source); ok && scope > may {
		b.fault(path+".scope", fmt.Sprintf("is %s, but what source %q gives depends on the caller's %s (db_settings)", scope, source, map[mcp.Scope]string{
			mcp.ScopePrivate: "$subject", mcp.ScopeTenant: "$tenant"}[may]), "write "+may.String())
	}
	ttl := b.deps.TTL
	if c.TTL != nil {
		ttl = *c.TTL
	}
	p.Cacheable, p.Scope, p.TTL = ttl > 0, scope, ttl.Std()
	p.StaleRevalidate, p.StaleError, p.Negative = c.StaleWhileRevalidate.Std(), c.StaleIfError.Std(), negativeTTL
	if c.NegativeTTL != nil {
		p.Negative = c.NegativeTTL.Std()
	}
	if tags := b.tags(path+".tags", c.Tags, params); len(tags) > 0 {
		p.Tags = func(args []mcp.Value) []string { return fill(tags, args) }
		p.Mutable = true
		for _, text := range c.Tags {
			b.tagged[skeleton(text)] = true
		}
	}
}

// widest is the widest scope in which a source's results may be shared.
func (b *builder) widest(source string) mcp.Scope {
	if src := b.deps.Sources[source].Source; src != nil {
		return src.Widest()
	}
	return mcp.ScopePublic // its own fault has been told
}

// tags compiles a list of tags.
func (b *builder) tags(path string, texts []string, params []parameter) (out []phrase) {
	if len(texts) > mostTags {
		b.fault(path, fmt.Sprintf("has %d tags", len(texts)), fmt.Sprintf("give %d at most", mostTags))
		return nil
	}
	for i, text := range texts {
		at := conf.Index(path, i)
		if text == "" || text[0] < ' ' {
			b.fault(at, "is empty or begins with a control character", "write for example city:{id}")
			continue
		}
		out = append(out, b.phrase(at, text, params))
	}
	return out
}

// fill gives the tags for a call's arguments.
func fill(tags []phrase, args []mcp.Value) []string {
	out := make([]string, len(tags))
	for i := range tags {
		out[i] = tags[i].text(args)
	}
	return out
}

// rowTag is the tag of the row that a tool reads for its arguments. No tag of a file begins with its first byte.
func (t *tool) rowTag(args []mcp.Value) string {
	tag := append([]byte("\x00row\x00"), t.kept()...)
	tag = append(tag, 0)
	for _, v := range args[:len(t.table.params)] {
		tag = v.AppendKey(tag)
	}
	return string(tag)
}

// kept is the name under which the tool's results are kept.
func (t *tool) kept() string {
	if t.policy.Share != "" {
		return t.policy.Share
	}
	return t.Name
}

// sharePrefix stands before the name of a query whose results tools share. No tool's name has a colon.
const sharePrefix = "query:"

// share lets a tool keep its results with others that ask the same, `cache: {query: NAME}`. It is called when the tool's policy is complete.
func (b *builder) share(t *tool) {
	if t.Cache == nil || t.Cache.Query == "" {
		return
	}
	path := t.path + ".cache.query"
	if !toolName.MatchString(t.Cache.Query) {
		b.fault(path, fmt.Sprintf("%q is no name", t.Cache.Query), "use letters, digits, '_', '-' and '.', at most 128")
		return
	}
	if t.policy.Share = sharePrefix + t.Cache.Query; !t.policy.Cacheable {
		return
	}
	first := b.shared[t.policy.Share]
	if first == nil {
		b.shared[t.policy.Share] = t
		return
	}
	if key := t.differs(first); key != "" {
		b.fault(path, fmt.Sprintf("tool %q keeps its results under %q too, and they differ in %s", first.Name, t.Cache.Query, key), "make them the same, or give this tool another name here")
	}
}

// asked is what a result rests on, of the file: tools that share results have the same of it.
func (t *tool) asked() []any {
	type param struct{ name, typ string }
	params := make([]param, len(t.Parameters))
	for i := range params {
		params[i] = param{t.Parameters[i].Name, t.Parameters[i].Type}
	}
	policy, shard := t.policy, ""
	if t.Shard != nil {
		shard = t.Shard.By
	}
	return []any{"source", t.Source, "statement", t.Statement, "statements", t.Statements, "snapshot", t.Snapshot, "hints", t.Hints, "shard", shard, "parameters", fmt.Sprint(params), "max_rows", t.MaxRows, "max_bytes", t.MaxBytes,
		"cache.scope", policy.Scope, "cache.ttl", policy.TTL, "cache.tags", t.Cache.Tags, "cache.negative_ttl", policy.Negative,
		"cache.stale_while_revalidate", policy.StaleRevalidate, "cache.stale_if_error", policy.StaleError}
}

// differs gives the key of the file in which two tools' results would not be the same; "" for none.
func (t *tool) differs(o *tool) string {
	own, theirs := t.asked(), o.asked()
	for i := 1; i < len(own); i += 2 {
		if fmt.Sprintf("%#v", own[i]) != fmt.Sprintf("%#v", theirs[i]) {
			return own[i-1].(string)
		}
	}
	return ""
}

// changes compiles `invalidates:` and `writes:` of a tool, when every tool and resource is known.
func (b *builder) changes(t *tool, tools map[string]*tool) {
	if t.Annotations.ReadOnlyHint {
		for key, given := range map[string]bool{"invalidates": len(t.Invalidates) > 0, "writes": t.Writes != nil} {
			if given {
				b.fault(t.path+"."+key, "goes with writes only", "remove it: a read-only tool changes nothing")
			}
		}
		return
	}
	tags := b.tags(t.path+".invalidates", t.Invalidates, t.table.params)
	for i, text := range t.Invalidates {
		if !b.tagged[skeleton(text)] {
			b.fault(conf.Index(t.path+".invalidates", i), fmt.Sprintf("no cached tool or resource has a tag like %q", text),
				"write it into cache.tags of what the call changes, with parameters of that tool")
		}
	}
	through := b.writes(t, tools)
	t.through = through
	if len(tags) == 0 && through == nil {
		return
	}
	t.policy.Changes = &mcp.Changes{Tags: func(args []mcp.Value) []string {
		out := fill(tags, args)
		if through != nil {
			out = append(out, through.read.rowTag(through.args(args)))
		}
		return out
	}}
	if through != nil {
		through.read.policy.Mutable = true
		t.policy.Changes.Put = through.put
	}
}

// writeThrough says which read a write's own result is the result of.
type writeThrough struct {
	write, read *tool
	from        []int // for each parameter of the read the write's that holds its value
}

// writes compiles `writes:` of a tool; nil where there is none, or a faulty one.
func (b *builder) writes(t *tool, tools map[string]*tool) *writeThrough {
	if t.Writes == nil {
		return nil
	}
	path := t.path + ".writes"
	read := tools[t.Writes.Tool]
	switch {
	case read == nil:
		b.fault(path+".tool", fmt.Sprintf("there is no tool %q", t.Writes.Tool), "name one of tools")
		return nil
	case !read.Annotations.ReadOnlyHint || read.Cache == nil:
		b.fault(path+".tool", fmt.Sprintf("tool %q is not cached", read.Name), "give it cache:, or remove this")
		return nil
	}
	if may := b.widest(t.Source); read.policy.Scope > may {
		b.fault(path+".tool", fmt.Sprintf("tool %q is cached as %s, but what source %q gives depends on the caller (db_settings)", read.Name, read.policy.Scope, t.Source),
			"use tags and invalidates instead")
		return nil
	}
	w := &writeThrough{write: t, read: read}
	for _, name := range slices.Sorted(maps.Keys(t.Writes.With)) {
		if !slices.ContainsFunc(read.table.params, func(p parameter) bool { return p.Name == name }) {
			b.fault(conf.Key(path+".with", name), fmt.Sprintf("tool %q has no such parameter", read.Name), "name one of its parameters")
		}
	}
	for i := range read.table.params {
		p := &read.table.params[i]
		name, given := t.Writes.With[p.Name]
		at := slices.IndexFunc(t.table.params, func(own parameter) bool { return own.Name == name })
		switch {
		case !given:
			b.fault(path+".with", fmt.Sprintf("says nothing of %q: results of tool %q for its other values would stay", p.Name, read.Name),
				"name the parameter of this tool that holds its value, or use tags and invalidates instead")
		case given && at < 0:
			b.fault(conf.Key(path+".with", p.Name), fmt.Sprintf("the tool has no parameter %q", name), "name one of its parameters")
		case given && (t.table.params[at].Type != p.Type || p.Type == "array" || p.Type == "object"):
			b.fault(conf.Key(path+".with", p.Name), fmt.Sprintf("is of type %s there and %s here", p.Type, t.table.params[at].Type),
				"name one of the same type, which is a string, number or boolean")
		}
		w.from = append(w.from, at)
	}
	return w
}

// args gives the read's arguments for those of the write.
func (w *writeThrough) args(write []mcp.Value) []mcp.Value {
	out := make([]mcp.Value, len(w.from))
	for i, at := range w.from {
		out[i] = write[at]
		if p := &w.read.table.params[i]; out[i].Kind == mcp.KindNull && p.hasDef {
			out[i] = p.def
		}
	}
	return out
}

// put makes the call of the read: nil where this caller may not make it, or where it gives other columns than the write.
func (w *writeThrough) put(write *mcp.Call) *mcp.Call {
	if !write.Caller.Has(w.read.RequireScopes) || w.differ() != "" {
		return nil
	}
	args := w.args(write.Args)
	for i := range args {
		p := &w.read.table.params[i]
		if args[i].Kind == mcp.KindNull && p.Required || args[i].Kind != mcp.KindNull && p.check(args[i]) != nil {
			return nil // nobody can ask for it
		}
	}
	return &mcp.Call{Caller: write.Caller, Target: w.read.Name, Version: w.read.version, Policy: &w.read.policy, Args: args}
}

// unknown is what differ says while a database was not asked.
const unknown = "unknown"

// differ says in which way the write returns other columns than the read; "" where they are the same.
func (w *writeThrough) differ() string {
	own, theirs := w.write.columns.Load(), w.read.columns.Load()
	if own == nil || theirs == nil {
		return unknown
	}
	if !slices.EqualFunc(*own, *theirs, func(a, b sqldb.Column) bool { return a.Name == b.Name && string(a.Schema) == string(b.Schema) }) {
		return fmt.Sprintf("it returns %s and tool %q %s", columnNames(*own), w.read.Name, columnNames(*theirs))
	}
	return ""
}

func columnNames(columns []sqldb.Column) string {
	if len(columns) == 0 {
		return "no columns"
	}
	out := ""
	for i, c := range columns {
		if i > 0 {
			out += ", "
		}
		out += c.Name
	}
	return out
}
