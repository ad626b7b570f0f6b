package sqldb

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"millrace/internal/conf"
)

// statement is a text that has been read: what goes to the engine, and which parameter goes into which placeholder.
type statement struct {
	sql   string // with ?1… or $1…, without what follows the statement
	binds []int  // the index in Spec.Params, by placeholder
	uses  int    // of placeholders in sql
	verb  string // the main keyword in capitals: of WITH … INSERT it is INSERT
	// writes tells that the text holds something that changes rows, be it inside a WITH.
	writes bool
}

// readVerbs may begin a read-only statement. A list of what may, not of what may not: an engine's new keyword is
// refused until somebody has looked at it.
var readVerbs = map[dialect][]string{
	dialectSQLite:   {"SELECT", "VALUES", "EXPLAIN", "PRAGMA"},
	dialectPostgres: {"SELECT", "VALUES", "EXPLAIN", "TABLE", "SHOW"},
}

// sessionVerbs may begin no statement at all: they end our transaction, change the session for whoever has the
// connection next, or cannot run inside a transaction.
var sessionVerbs = []string{
	"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE", "EXECUTE", "DEALLOCATE",
	"ATTACH", "DETACH", "VACUUM", "PRAGMA", "SET", "RESET", "DISCARD", "LOCK", "COPY", "LISTEN", "UNLISTEN", "LOAD",
	"DECLARE", "FETCH", "MOVE", "CLOSE",
}

var changeVerbs = []string{"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"}

// readPragmas only read. The value says whether an argument (in parentheses) is a name to look at; of the others an
// argument would be an assignment.
var readPragmas = map[string]bool{
	"table_info": true, "table_xinfo": true, "table_list": true, "index_list": true, "index_info": true, "index_xinfo": true,
	"foreign_key_list": true, "database_list": false, "collation_list": false, "function_list": false, "module_list": false,
	"pragma_list": false, "compile_options": false, "user_version": false, "schema_version": false, "application_id": false,
	"page_count": false, "page_size": false, "freelist_count": false, "encoding": false,
}

// Translate gives a statement as the engine gets it, with $1… or ?1…, and for each of those the index in params.
func Translate(d Dialect, text string, params []Param, mode Mode) (sql string, binds []int, err error) {
	of := dialectSQLite
	if d == PostgreSQL {
		of = dialectPostgres
	}
	st, faults := parse(text, of, params, mode)
	return st.sql, st.binds, faults.Err()
}

// parser collects what the tokens of one statement say.
type parser struct {
	scanner
	params []Param
	mode   Mode
	faults conf.Faults

	out    strings.Builder
	copied int // text before this is in out
	place  []int
	uses   int

	words  []word
	equals bool // the text holds a =
	calls  bool // the text holds a (
}

// word is one keyword or identifier with what stands before it.
type word struct {
	upper string
	at    int
	depth int
	after string // the token before it: a word in capitals or a symbol
	prior string // the token before that
}

// parse reads text. Everything that is wrong with it is reported at once, with paths relative to the tool.
func parse(text string, d dialect, params []Param, mode Mode) (statement, conf.Faults) {
	p := &parser{scanner: scanner{text: text, dialect: d}, params: params, mode: mode}
	if i := strings.IndexByte(text, 0); i >= 0 {
		p.report(i, "holds a zero byte", "remove it")
	}
	if !utf8.ValidString(text) {
		p.report(0, "is not UTF-8 text", "save the file as UTF-8")
	}
	if len(p.faults) > 0 {
		return statement{}, p.faults
	}
	p.read()
	if len(p.faults) > 0 {
		return statement{}, p.faults
	}
	st := statement{sql: strings.TrimSpace(p.out.String()), binds: p.place, uses: p.uses}
	if len(p.words) == 0 {
		p.report(0, "is empty", "write a statement")
		return statement{}, p.faults
	}
	p.classify(&st)
	p.unused()
	return st, p.faults
}

// report adds a fault at a byte of the text.
func (p *parser) report(at int, message, fix string) {
	line := 1 + strings.Count(p.text[:at], "\n")
	column := 1 + utf8.RuneCountInString(p.text[strings.LastIndexByte(p.text[:at], '\n')+1:at])
	p.faults = append(p.faults, conf.Fault{
		Path: "statement", Message: fmt.Sprintf("line %d, column %d of the statement: %s", line, column, message), Fix: fix,
	})
}

func (p *parser) read() {
	var last, prior string
	for ended := false; ; {
		t := p.next()
		if t.kind == tokenBad {
			p.report(t.start, p.fault, p.fix)
			return
		}
		if t.kind == tokenEnd {
			if !ended {
				p.out.WriteString(p.text[p.copied:])
			}
			if n := len(p.brackets); n > 0 {
				p.report(len(p.text), "a "+string(p.brackets[n-1])+" is never closed", "close it")
			}
			return
		}
		text := p.text[t.start:t.end]
		if ended && text != ";" {
			p.report(t.start, "a second statement begins", "keep one statement for each tool")
			return
		}
		switch {
		case text == ";" && t.kind == tokenSymbol:
			if !ended {
				p.out.WriteString(p.text[p.copied:t.start])
			}
			ended = true
			continue
		case t.kind == tokenParam:
			p.use(t, text[1:])
		case t.kind == tokenWord:
			text = strings.ToUpper(text)
			p.words = append(p.words, word{text, t.start, len(p.brackets), last, prior})
		case t.kind == tokenSymbol:
			p.equals = p.equals || text == "="
			p.calls = p.calls || text == "("
		}
		prior, last = last, text
	}
}

// use puts a placeholder where the parameter's name stands. Uses of one name share a placeholder.
func (p *parser) use(t token, name string) {
	i := slices.IndexFunc(p.params, func(q Param) bool { return q.Name == name })
	if i < 0 {
		fix := "add it to parameters"
		names := make([]string, len(p.params))
		for i := range names {
			names[i] = p.params[i].Name
		}
		if near := conf.Nearest(name, names); near != "" {
			fix = "did you mean :" + near + "?"
		}
		p.report(t.start, "there is no parameter "+strconv.Quote(name), fix)
		return
	}
	n := slices.Index(p.place, i)
	if n < 0 {
		n = len(p.place)
		p.place = append(p.place, i)
	}
	p.uses++
	p.out.WriteString(p.text[p.copied:t.start])
	p.copied = t.end
	// LIMIT:n must not become LIMIT$1, which PostgreSQL reads as one identifier.
	if t.start > 0 && isWordPart(p.text[t.start-1]) {
		p.out.WriteByte(' ')
	}
	if p.dialect == dialectPostgres {
		p.out.WriteByte('$')
	} else {
		p.out.WriteByte('?')
	}
	p.out.WriteString(strconv.Itoa(n + 1))
	// The next byte cannot be a digit or a letter, or it would have been part of the name, but SQLite reads $ and @ on.
	if t.end < len(p.text) && isWordPart(p.text[t.end]) {
		p.out.WriteByte(' ')
	}
}

func (p *parser) unused() {
	for i, q := range p.params {
		if !slices.Contains(p.place, i) && !q.Unused {
			p.faults = append(p.faults, conf.Fault{
				Path:    conf.Index("parameters", i),
				Message: "the statement does not use " + strconv.Quote(q.Name),
				Fix:     "use :" + q.Name + " in the statement, or remove the parameter",
			})
		}
	}
}

// classify finds the main keyword and refuses what the mode does not allow.
func (p *parser) classify(st *statement) {
	first := p.words[0]
	st.verb = first.upper
	for i, w := range p.words {
		if st.verb == "WITH" && w.depth == 0 && w.after == ")" && slices.Contains(readVerbs[p.dialect], w.upper) {
			st.verb = w.upper
		}
		if !slices.Contains(changeVerbs, w.upper) {
			continue
		}
		// WITH x AS (DELETE FROM …) and WITH … DELETE FROM …; a column may be called "delete" all the same.
		cte := w.after == "(" && (w.prior == "AS" || w.prior == "MATERIALIZED")
		main := st.verb == "WITH" && w.depth == 0 && w.after == ")" || first.upper == "EXPLAIN" && w.depth == 0 &&
			(w.after == "EXPLAIN" || w.after == ")" || w.after == "ANALYZE" || w.after == "VERBOSE" || w.after == "PLAN")
		if i == 0 || cte || main {
			st.writes = true
			if p.mode == ReadOnly {
				p.refuse(w)
				return
			}
			if main && st.verb == "WITH" {
				st.verb = w.upper
			}
		}
	}
	if st.verb == "WITH" {
		st.verb = "SELECT"
	}
	if p.mode == ReadWrite && slices.Contains(sessionVerbs, st.verb) {
		p.report(first.at, st.verb+" has no place in a tool: each call is a transaction of its own on a shared connection",
			"remove it")
		return
	}
	if p.mode == ReadWrite {
		st.writes = st.writes || !slices.Contains(readVerbs[p.dialect], st.verb)
		return
	}
	switch {
	case !slices.Contains(readVerbs[p.dialect], st.verb):
		p.refuse(first)
	case st.verb == "PRAGMA":
		p.pragma(first)
	case p.dialect == dialectPostgres:
		p.locks()
	}
}

func (p *parser) refuse(w word) {
	p.report(w.at, w.upper+" is not allowed in a read-only tool", "remove readOnlyHint if the tool is to write, or write a SELECT")
}

// locks refuses what PostgreSQL would refuse in every read-only transaction: row locks and SELECT INTO.
func (p *parser) locks() {
	for _, w := range p.words {
		switch {
		case w.after == "FOR" && (w.upper == "UPDATE" || w.upper == "SHARE" || w.upper == "KEY" && w.depth == 0) || w.after == "NO" && w.prior == "FOR" && w.upper == "KEY":
			p.report(w.at, "FOR "+w.upper+" locks rows, which a read-only tool may not", "remove it")
		case w.upper == "INTO" && w.depth == 0:
			p.report(w.at, "SELECT INTO makes a table, which a read-only tool may not", "remove the INTO")
		}
	}
}

// pragma lets through the pragmas that look at something.
func (p *parser) pragma(first word) {
	name := ""
	for _, w := range p.words[1:] {
		if w.after == "." || name == "" {
			name = strings.ToLower(w.upper)
		}
	}
	if takes, known := readPragmas[name]; !known || p.equals || p.calls && !takes {
		p.report(first.at, "this PRAGMA may change something, which a read-only tool may not", "use one that looks at the schema, such as PRAGMA table_info(NAME)")
	}
}
