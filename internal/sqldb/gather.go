package sqldb

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// gathering says how the rows of several servers become one result: in which order, and how many.
type gathering struct {
	order   []orderItem
	limit   int      // of rows; -1 for none
	limitBy int      // the parameter that says the limit; -1 for none
	end     int      // of the statement in its text
	calls   []string // functions that are called where an aggregate would make one row of each server's; the database knows which are
}

// orderItem is one item of ORDER BY: a column of the result, by name or by its place from 1.
type orderItem struct {
	name       string
	place      int
	descending bool
	nullsFirst bool
}

// aggregates are the functions that make one row of many. Of several servers each would give one of its own.
var aggregates = []string{"COUNT", "SUM", "AVG", "MIN", "MAX", "ARRAY_AGG", "STRING_AGG", "JSON_AGG", "JSONB_AGG", "JSON_OBJECT_AGG", "JSONB_OBJECT_AGG",
	"JSON_ARRAYAGG", "JSON_OBJECTAGG", "BOOL_AND", "BOOL_OR", "EVERY", "BIT_AND", "BIT_OR", "STDDEV", "STDDEV_POP", "STDDEV_SAMP", "VARIANCE", "VAR_POP", "VAR_SAMP", "PERCENTILE_CONT",
	"PERCENTILE_DISC", "MODE", "XMLAGG"}

// clauses may follow ORDER BY, and end it.
var clauses = []string{"LIMIT", "OFFSET", "FETCH", "FOR", "WINDOW", "ORDER", "HAVING", "GROUP", "UNION", "INTERSECT", "EXCEPT"}

// piece is a token with where it stands: depth is of the brackets around it, inner of those among them that hold a statement of their own.
type piece struct {
	token
	upper        string
	depth, inner int
}

// gatherer reads a statement that runs on all servers.
type gatherer struct {
	*parser
	tables, keys []string
	pieces       []piece
}

// parseGather reads, of a statement that parse accepts, what follows from its running on several servers, each of which has a part of the
// rows of tables, and refuses what would mean something else there. keys are the columns by which the tables are split, in the order of tables.
func parseGather(text string, params []Param, tables, keys []string) (*gathering, conf.Faults) {
	g := &gatherer{parser: &parser{scanner: scanner{text: text, dialect: dialectPostgres}, params: params}, tables: tables, keys: keys}
	g.cut()
	out := &gathering{limit: -1, limitBy: -1, end: g.pieces[len(g.pieces)-1].end}
	begin := 0
	for i, p := range g.pieces {
		if p.kind != tokenWord || p.depth > 0 {
			continue
		}
		switch p.upper {
		case "UNION", "INTERSECT", "EXCEPT":
			if p.upper != "UNION" || !g.is(i+1, "ALL") {
				g.refuse(p, p.upper+" compares the rows of each server alone", "use UNION ALL, or "+nameKey)
			}
			g.branch(begin, i, out)
			if begin = i + 1; g.is(begin, "ALL") {
				begin++
			}
		case "ORDER":
			if g.is(i+1, "BY") {
				out.order = g.items(i + 2)
			}
		case "LIMIT":
			g.bound(i+1, out)
		case "OFFSET", "FETCH":
			g.refuse(p, p.upper+" counts the rows of each server", "use LIMIT, and a condition on what was seen last in the place of an offset")
		}
	}
	g.branch(begin, len(g.pieces), out)
	return out, g.faults
}

const nameKey = "add shard: {by: PARAMETER}"

// branch reads one SELECT: one of several between UNION ALL.
func (g *gatherer) branch(begin, end int, out *gathering) {
	if begin >= end {
		return // the database says so
	}
	first, from := g.pieces[begin], -1
	switch first.upper {
	case "TABLE":
		from = begin
	case "WITH", "SELECT":
		for i := begin; i < end && from < 0; i++ {
			if p := g.pieces[i]; p.depth == 0 && p.upper == "FROM" && p.kind == tokenWord && !g.is(i-1, "DISTINCT") {
				from = i
			} else if p.depth == 0 && first.upper == "WITH" && g.isTable(p) && (g.is(i+1, "AS") || g.is(i+1, "(")) {
				g.refuse(p, "WITH gives a table's name to something else", "give it another name")
			}
		}
	default:
		g.refuse(first, first.upper+" would answer once for each server", "write a SELECT, or "+nameKey)
		return
	}
	if from >= 0 && g.is(from+1, "ONLY") {
		from++
	}
	if from < 0 || from+1 >= end || !g.isTable(g.pieces[from+1]) || g.is(from+2, ".") || g.is(from+2, "(") {
		g.refuse(first, "it does not begin FROM one of the source's tables, and what else it reads every server has", "write one of "+strings.Join(g.tables, ", ")+" first in FROM, without its schema, or "+nameKey)
		return
	}
	grouped := g.grouped(begin, end, g.named(from, end))
	for i := begin; i < end; i++ {
		p := g.pieces[i]
		if p.inner > 0 || p.kind != tokenWord && p.kind != tokenQuoted {
			continue
		}
		name := g.identifier(p)
		switch isWord := p.kind == tokenWord; {
		case isWord && p.upper == "OVER" && g.is(i-1, ")"):
			g.refuse(p, "a window sees the rows of one server", nameKey)
		case isWord && p.depth == 0 && p.upper == "DISTINCT" && !g.is(i-1, "IS") && !g.is(i-1, "NOT"):
			g.refuse(p, "DISTINCT is of the rows of each server", "group by the shard key, or "+nameKey)
		case isWord && p.depth == 0 && (p.upper == "RIGHT" || p.upper == "FULL") && (g.is(i+1, "JOIN") || g.is(i+1, "OUTER")):
			g.refuse(p, p.upper+" JOIN gives rows that no server has a match for, and another may", "use LEFT JOIN, or "+nameKey)
		case isWord && p.depth == 0 && p.upper == "HAVING" && !grouped:
			g.refuse(p, "HAVING without GROUP BY is of the rows of each server", "group by the shard key, or "+nameKey)
		case grouped || !g.is(i+1, "("):
		case slices.Contains(aggregates, strings.ToUpper(name)):
			g.refuse(p, name+"(…) would be of the rows of each server, and several answers come back", "group by the shard key, or "+nameKey)
		case !slices.Contains(out.calls, name):
			out.calls = append(out.calls, name)
		}
	}
}

func (g *gatherer) isTable(p piece) bool {
	return (p.kind == tokenWord || p.kind == tokenQuoted) && slices.Contains(g.tables, g.identifier(p))
}

// afterTable are words that may follow a table's name, and are no name for it.
var afterTable = []string{"ON", "USING", "WHERE", "JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR", "UNION", "INTERSECT", "EXCEPT", "TABLESAMPLE"}

// named gives the key columns of the tables in FROM by the names that they have there. Those behind LEFT JOIN have none where a row has no match, and
// such rows are on all servers.
func (g *gatherer) named(from, end int) map[string]string {
	out := map[string]string{}
	for i := from + 1; i < end; i++ {
		p := g.pieces[i]
		if p.depth == 0 && p.kind == tokenWord && (p.upper == "WHERE" || slices.Contains(clauses, p.upper)) {
			break
		}
		if g.is(i-1, "JOIN") && (g.is(i-2, "LEFT") || g.is(i-2, "OUTER")) {
			continue
		}
		if p.depth > 0 || !g.isTable(p) || !g.is(i-1, "FROM") && !g.is(i-1, "JOIN") && !g.is(i-1, ",") && !g.is(i-1, "ONLY") && !g.is(i-1, "TABLE") {
			continue
		}
		name, key := g.identifier(p), g.keys[slices.Index(g.tables, g.identifier(p))]
		next := i + 1
		if g.is(next, "AS") {
			next++
		}
		if next < end && (g.pieces[next].kind == tokenQuoted || g.pieces[next].kind == tokenWord && !slices.Contains(afterTable, g.pieces[next].upper)) {
			name = g.identifier(g.pieces[next])
		}
		out[name] = key
	}
	return out
}

// grouped tells whether a SELECT has GROUP BY, and refuses one without a shard key, of whose groups several servers may have rows.
func (g *gatherer) grouped(begin, end int, keys map[string]string) bool {
	for i := begin; i < end; i++ {
		p := g.pieces[i]
		if p.depth > 0 || p.kind != tokenWord || p.upper != "GROUP" || !g.is(i+1, "BY") {
			continue
		}
		byKey, item := false, []piece{}
		ends := func() {
			switch {
			case len(item) == 1 && (item[0].kind == tokenWord || item[0].kind == tokenQuoted):
				for _, key := range keys { // a column of a table comes before one of the result
					byKey = byKey || key == g.identifier(item[0])
				}
			case len(item) == 3 && item[1].upper == ".":
				key, ok := keys[g.identifier(item[0])]
				byKey = byKey || ok && key == g.identifier(item[2])
			}
			item = item[:0]
		}
		for _, p := range g.pieces[i+2 : end] {
			if p.depth == 0 && p.kind == tokenWord && slices.Contains(clauses, p.upper) {
				break
			}
			if p.depth == 0 && p.upper == "," {
				ends()
				continue
			}
			item = append(item, p)
		}
		if ends(); !byKey {
			g.refuse(p, "a group may have rows on several servers", "group by the shard key too, as a column by itself, or "+nameKey)
		}
		return true
	}
	return false
}

// cut reads the tokens. The text has been read before, and found to be a statement.
func (g *gatherer) cut() {
	var inner []bool
	for {
		t := g.next()
		text := g.text[t.start:t.end]
		if t.kind == tokenEnd || t.kind == tokenSymbol && text == ";" {
			return
		}
		p := piece{token: t, upper: strings.ToUpper(text)}
		if n := len(g.pieces); n > 0 && g.pieces[n-1].upper == "(" && slices.Contains([]string{"SELECT", "WITH", "VALUES", "TABLE"}, p.upper) {
			inner[len(inner)-1] = true
		}
		if text == ")" || text == "]" {
			inner = inner[:len(inner)-1]
		}
		p.depth = len(inner)
		for _, is := range inner {
			if is {
				p.inner++
			}
		}
		if text == "(" || text == "[" {
			inner = append(inner, false)
		}
		g.pieces = append(g.pieces, p)
	}
}

func (g *gatherer) refuse(p piece, message, fix string) {
	g.report(p.start, message+": the statement runs on every server of the source, since the tool names no shard key", fix)
}

// is tells whether the piece of that number is that word or symbol.
func (g *gatherer) is(i int, upper string) bool {
	return i >= 0 && i < len(g.pieces) && g.pieces[i].upper == upper && g.pieces[i].kind != tokenQuoted && g.pieces[i].kind != tokenValue
}

// identifier gives a name as the database has it.
func (g *gatherer) identifier(p piece) string {
	text := g.text[p.start:p.end]
	if p.kind == tokenQuoted {
		return strings.ReplaceAll(text[1:len(text)-1], `""`, `"`)
	}
	return strings.ToLower(text)
}

// items reads what follows ORDER BY.
func (g *gatherer) items(i int) (out []orderItem) {
	const fix = "order by columns of the result: a name that AS gives, or a place, with ASC or DESC and NULLS FIRST or LAST"
	for {
		if i >= len(g.pieces) {
			g.report(len(g.text), "the ORDER BY is not ended", fix)
			return nil
		}
		p, item := g.pieces[i], orderItem{}
		switch {
		case p.kind == tokenWord, p.kind == tokenQuoted:
			item.name = g.identifier(p)
		case p.kind == tokenValue:
			item.place, _ = strconv.Atoi(p.upper)
		}
		if item.name == "" && item.place < 1 {
			g.refuse(p, "what rows are ordered by must be in the result", fix)
			return nil
		}
		i++
		if g.is(i, "ASC") || g.is(i, "DESC") {
			item.descending = g.is(i, "DESC")
			i++
		}
		item.nullsFirst = item.descending
		if g.is(i, "NULLS") && (g.is(i+1, "FIRST") || g.is(i+1, "LAST")) {
			item.nullsFirst = g.is(i+1, "FIRST")
			i += 2
		}
		out = append(out, item)
		switch {
		case i >= len(g.pieces), g.pieces[i].kind == tokenWord && slices.Contains(clauses, g.pieces[i].upper):
			return out
		case !g.is(i, ","):
			g.refuse(g.pieces[i], "what rows are ordered by must be in the result", fix)
			return nil
		}
		i++
	}
}

// bound reads what follows LIMIT.
func (g *gatherer) bound(i int, out *gathering) {
	ok := i < len(g.pieces) && (i+1 == len(g.pieces) || g.pieces[i+1].kind == tokenWord && slices.Contains(clauses, g.pieces[i+1].upper))
	if ok {
		switch p := g.pieces[i]; {
		case p.kind == tokenParam:
			out.limitBy = slices.IndexFunc(g.params, func(q Param) bool { return ":"+q.Name == g.text[p.start:p.end] })
			ok = out.limitBy >= 0 && g.params[out.limitBy].Type == "integer"
		case p.kind == tokenValue:
			n, err := strconv.Atoi(p.upper)
			out.limit, ok = n, err == nil
		default:
			ok = g.is(i, "ALL") || g.is(i, "NULL")
		}
	}
	if !ok {
		g.refuse(g.pieces[min(i, len(g.pieces)-1)], "the LIMIT is neither a number nor a parameter that is an integer", "write LIMIT 20 or LIMIT :name")
	}
}

// most is how many rows a run may give; -1 for all.
func (g *gathering) most(x *Execution) int {
	if g.limitBy >= 0 && x.Args[g.limitBy].Kind == mcp.KindInt {
		return int(min(x.Args[g.limitBy].Int, 1<<40))
	}
	return g.limit
}

// part is what one server has given: its rows, of which the first are taken.
type part struct {
	rows      [][]byte
	truncated bool
	keys      []orderKey // of the first row
	began     bool
}

// splitRows cuts a result of this package into its rows.
func splitRows(result []byte) (p part) {
	mcp.Members(result, func(key, value []byte) bool {
		switch string(key) {
		case "rows":
			mcp.Elements(value, func(row []byte) bool {
				p.rows = append(p.rows, row)
				return true
			})
		case "truncated":
			p.truncated = true
		}
		return true
	})
	return p
}

// gather appends the rows of all parts to dst, in order, up to most of them and the bounds of one result. Where a part that was cut has no
// more rows the result ends too: nobody knows what would come next.
func gather(dst []byte, parts []part, order []comparer, most, maxRows, maxBytes int) ([]byte, Outcome, error) {
	r := beginRows(dst, maxRows, maxBytes)
	for i := range parts {
		if err := parts[i].begin(order); err != nil {
			return dst, Outcome{}, err
		}
	}
	for most < 0 || r.n < int64(most) {
		next := -1
		for i := range parts {
			p := &parts[i]
			if len(p.rows) == 0 {
				if p.truncated && len(order) > 0 {
					r.truncated = true
				}
				continue
			}
			if next < 0 || compareKeys(p.keys, parts[next].keys, order) < 0 {
				next = i
			}
		}
		if next < 0 || r.truncated || !r.beginRow() {
			break
		}
		r.dst = append(r.dst, parts[next].rows[0]...)
		if !r.endRow() {
			break
		}
		parts[next].rows = parts[next].rows[1:]
		if err := parts[next].begin(order); err != nil {
			return dst, Outcome{}, err
		}
	}
	if len(order) == 0 && (most < 0 || r.n < int64(most)) {
		r.truncated = r.truncated || slices.ContainsFunc(parts, func(p part) bool { return p.truncated })
	}
	return r.end(), Outcome{Rows: r.n, Truncated: r.truncated}, nil
}

// begin reads what the first row is ordered by. Rows that come in another order were not ordered as the database orders them.
func (p *part) begin(order []comparer) error {
	if len(p.rows) == 0 || len(order) == 0 {
		return nil
	}
	keys := make([]orderKey, len(order))
	for i := range order {
		var err error
		if keys[i], err = order[i].key(p.rows[0]); err != nil {
			return err
		}
	}
	if p.began && compareKeys(keys, p.keys, order) < 0 {
		return fmt.Errorf("the rows of a server are not in the order of its ORDER BY: %.80q", p.rows[0])
	}
	p.keys, p.began = keys, true
	return nil
}
