package app

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/advise"
	"millrace/internal/catalog"
	"millrace/internal/conf"
	"millrace/internal/config"
	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// Advise finds the indexes that the statements of a file lack, in the databases that it names. metrics are those of a running server,
// nil for none: they say which tools take the most time.
func Advise(ctx context.Context, file string, metrics []byte, o advise.Options) (*advise.Report, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	loaded, faults := config.Load(file, data, os.LookupEnv)
	if len(faults) > 0 {
		return nil, faults.Sorted()
	}
	spent := map[string]cost{}
	if metrics != nil {
		spent = costs(metrics)
	}
	bySource := map[string][]advise.Statement{}
	add := func(source, path, name, text string, params []catalog.Parameter, writes bool, hints map[string]string, c cost) {
		if strings.TrimSpace(text) == "" {
			return
		}
		st := advise.Statement{Name: name, Where: loaded.Where(path), Text: text, Writes: writes, Hints: hints, Calls: c.calls, Seconds: c.seconds}
		for i := range params {
			p := &params[i]
			example := ""
			if p.Type == "array" || p.Type == "object" { // what the columns hold is as good
			} else if p.Default != nil {
				example = fmt.Sprint(p.Default)
			} else if len(p.Enum) > 0 {
				example = fmt.Sprint(p.Enum[0])
			}
			st.Params = append(st.Params, advise.Param{Param: sqldb.Param{Name: p.Name, Type: p.Type}, Example: example})
		}
		bySource[source] = append(bySource[source], st)
	}
	for i := range loaded.Tools {
		t := &loaded.Tools[i]
		path, c := conf.Index("tools", i), spent[mcp.ToolsCall.String()+" "+t.Name]
		add(t.Source, path+".statement", "tool "+t.Name, t.Statement, t.Parameters, !t.Annotations.ReadOnlyHint, t.Hints, c)
		for _, name := range slices.Sorted(maps.Keys(t.Statements)) {
			add(t.Source, conf.Key(path+".statements", name), "tool "+t.Name+"."+name, t.Statements[name], t.Parameters, false, t.Hints, c)
		}
	}
	for i := range loaded.Resources {
		r := &loaded.Resources[i]
		params := slices.Clone(r.Parameters)
		for _, m := range templateVariable.FindAllStringSubmatch(r.URITemplate, -1) {
			if !slices.ContainsFunc(params, func(p catalog.Parameter) bool { return p.Name == m[1] }) {
				params = append(params, catalog.Parameter{Name: m[1], Type: "string"})
			}
		}
		add(r.Source, conf.Index("resources", i)+".statement", "resource "+r.Name, r.Statement, params, false, r.Hints, spent[mcp.ResourcesRead.String()+" "+r.Name])
	}
	for i := range loaded.Prompts {
		for j, a := range loaded.Prompts[i].Arguments {
			if k := a.Complete; k != nil && k.Statement != "" {
				add(k.Source, conf.Index(conf.Index("prompts", i)+".arguments", j)+".complete.statement", "completion of "+loaded.Prompts[i].Name, k.Statement,
					[]catalog.Parameter{{Name: "value", Type: "string"}}, false, nil, cost{})
			}
		}
	}
	var sources []advise.Source
	for _, name := range slices.Sorted(maps.Keys(bySource)) {
		cfg, ok := loaded.Sources[name]
		if !ok {
			return nil, fmt.Errorf("%s: there is no source %q: run millrace check %[1]s", file, name)
		}
		if cfg.Shards != nil { // they are alike, and each has its part
			cfg = cfg.Server(slices.Sorted(maps.Keys(cfg.Shards.Servers))[0])
		}
		sources = append(sources, advise.Source{Name: name, Config: cfg, Statements: bySource[name]})
	}
	return advise.Run(ctx, sources, o)
}

var templateVariable = regexp.MustCompile(`\{(\w+)\}`)

// cost is what calls of a tool or resource that came to its database took together.
type cost struct {
	calls   int64
	seconds float64
}

var operationMetric = regexp.MustCompile(`^mcp_server_operation_duration_seconds_(sum|count)\{(.*)\} (\S+)$`)

// costs reads what a server's metrics say of its tools and resources, by method and name. Hits of the cache cost the database nothing.
func costs(metrics []byte) map[string]cost {
	out := map[string]cost{}
	lines := bufio.NewScanner(bytes.NewReader(metrics))
	for lines.Scan() {
		m := operationMetric.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		labels := map[string]string{}
		for pair := range strings.SplitSeq(m[2], ",") { // no configured name has a comma
			name, value, _ := strings.Cut(pair, "=")
			labels[name] = strings.Trim(value, `"`)
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil || labels["cache"] == mcp.CacheHit.String() || labels["cache"] == mcp.CacheStale.String() {
			continue
		}
		key := labels["method"] + " " + labels["tool"]
		c := out[key]
		if m[1] == "sum" {
			c.seconds += v
		} else {
			c.calls += int64(v)
		}
		out[key] = c
	}
	return out
}
