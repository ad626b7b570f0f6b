package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// rowEvent is an entry of `events:`, compiled.
type rowEvent struct {
	Event
	columns       []parameter // that its texts name
	tags, updates []phrase
}

var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]{0,62}(\.[A-Za-z_][A-Za-z0-9_$]{0,62})?$`)

func (b *builder) event(path string, d *Event, resources []*resource) *rowEvent {
	e := &rowEvent{Event: *d}
	if src, ok := b.deps.Sources[d.Source]; !ok && b.deps.Sources != nil {
		b.fault(path+".source", fmt.Sprintf("there is no source %q", d.Source), "name one of sources")
	} else if src.Source != nil && src.Sharded() {
		b.fault(path+".source", fmt.Sprintf("source %q is spread over servers, and events are of one database", d.Source), "name each of its servers as a source of its own, with events")
	}
	if !tableName.MatchString(d.Table) {
		b.fault(path+".table", fmt.Sprintf("%q is no name of a table", d.Table), "write it as it was created, with its schema in front where that is another than the source's: name, or schema.name")
	}
	if len(d.Tags)+len(d.Updates) == 0 {
		b.fault(path, "says of nothing what a change means", "name tags, or updates, or remove it")
	}
	for _, text := range slices.Concat(d.Tags, d.Updates) {
		for _, m := range variable.FindAllStringSubmatch(text, -1) {
			if !slices.ContainsFunc(e.columns, func(p parameter) bool { return p.Name == m[1] }) {
				e.columns = append(e.columns, parameter{Parameter: Parameter{Name: m[1], Type: "string"}})
			}
		}
	}
	e.tags = b.tags(path+".tags", d.Tags, e.columns)
	for i, text := range d.Tags {
		if !b.tagged[skeleton(text)] {
			b.fault(conf.Index(path+".tags", i), fmt.Sprintf("no cached tool or resource has a tag like %q", text),
				"write it into cache.tags of what rests on the table, with parameters of that tool")
		}
	}
	for i, address := range d.Updates {
		at := conf.Index(path+".updates", i)
		known := false
		for _, r := range resources {
			if skeleton(r.URI+r.URITemplate) != skeleton(address) {
				continue
			}
			known = true
			if r.Cache != nil && !slices.ContainsFunc(r.Cache.Tags, func(own string) bool {
				return slices.ContainsFunc(d.Tags, func(tag string) bool { return skeleton(tag) == skeleton(own) })
			}) {
				b.fault(at, fmt.Sprintf("resource %q is cached, and no tag here makes it void: who is told to read it again would get the old content", r.Name),
					"name one of its cache.tags in tags")
			}
		}
		if !known {
			b.fault(at, fmt.Sprintf("no resource has an address like %q", address), "write one of resources, with columns of the table for its variables")
		}
		e.updates = append(e.updates, b.phrase(at, address, e.columns))
	}
	return e
}

// EventTable is a table whose changes are followed, with the columns that must be known of its rows.
type EventTable struct {
	Name    string
	Columns []string
}

// EventTables gives the tables that are followed in a source, each once.
func (c *Catalog) EventTables(source string) (out []EventTable) {
	for _, e := range c.events {
		if e.Source != source {
			continue
		}
		i := slices.IndexFunc(out, func(t EventTable) bool { return t.Name == e.Table })
		if i < 0 {
			i = len(out)
			out = append(out, EventTable{Name: e.Table})
		}
		for _, p := range e.columns {
			if !slices.Contains(out[i].Columns, p.Name) {
				out[i].Columns = append(out[i].Columns, p.Name)
			}
		}
	}
	return out
}

// Changed gives the tags that a change of a row makes void, and the addresses of the resources that it changes. rows are the row
// as it was and as it is now, JSON objects. known is false where that cannot be told: then anything may have changed.
func (c *Catalog) Changed(source, table string, rows ...json.RawMessage) (tags, updates []string, known bool) {
	some := false
	for _, row := range rows {
		if row == nil {
			continue
		}
		some = true
		for _, e := range c.events {
			if e.Source != source || e.Table != table {
				continue
			}
			args, ok := e.values(row)
			if !ok {
				return nil, nil, false
			}
			tags = append(tags, fill(e.tags, args)...)
			for _, u := range e.updates {
				if uri, ok := u.address(args); ok {
					updates = append(updates, uri)
				}
			}
		}
	}
	return tags, updates, some
}

// same tells whether a number of the database is the float: where it is not, a tag of it would not be that of the tool's parameter.
func same(f float64, text string) bool {
	own, ok := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
	exact, ok2 := new(big.Rat).SetString(text)
	return ok && ok2 && own.Cmp(exact) == 0
}

// values gives the columns of a row in the order of the event's; false where one is missing or has no one text.
func (e *rowEvent) values(row json.RawMessage) ([]mcp.Value, bool) {
	d := json.NewDecoder(bytes.NewReader(row))
	d.UseNumber()
	var columns map[string]any
	if d.Decode(&columns) != nil {
		return nil, false
	}
	out := make([]mcp.Value, len(e.columns))
	for i := range e.columns {
		v, ok := columns[e.columns[i].Name]
		if !ok {
			return nil, false
		}
		switch v := v.(type) {
		case nil:
		case bool:
			out[i].Kind = mcp.KindBool
			if v {
				out[i].Int = 1
			}
		case string:
			out[i] = mcp.Value{Kind: mcp.KindText, Text: []byte(v)}
		case json.Number:
			if n, err := v.Int64(); err == nil {
				out[i] = mcp.Value{Kind: mcp.KindInt, Int: n}
			} else if f, err := v.Float64(); err == nil && same(f, v.String()) {
				out[i] = mcp.Value{Kind: mcp.KindFloat, Float: f}
			} else {
				return nil, false
			}
		default:
			return nil, false
		}
	}
	return out, true
}
