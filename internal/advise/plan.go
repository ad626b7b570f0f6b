package advise

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
)

// plan is a node of what EXPLAIN (FORMAT JSON, VERBOSE) gives. With VERBOSE each column in an expression has its table's alias before it.
type plan struct {
	Node       string   `json:"Node Type"`
	Operation  string   `json:"Operation"` // of a ModifyTable
	Relation   string   `json:"Relation Name"`
	Schema     string   `json:"Schema"`
	Alias      string   `json:"Alias"`
	Index      string   `json:"Index Name"`
	Rows       float64  `json:"Plan Rows"`
	Cost       float64  `json:"Total Cost"`
	Filter     string   `json:"Filter"`
	IndexCond  string   `json:"Index Cond"`
	Recheck    string   `json:"Recheck Cond"`
	JoinFilter string   `json:"Join Filter"`
	HashCond   string   `json:"Hash Cond"`
	MergeCond  string   `json:"Merge Cond"`
	SortKey    []string `json:"Sort Key"`
	Plans      []*plan  `json:"Plans"`
}

func readPlan(text string) (*plan, error) {
	var got []struct{ Plan *plan }
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		return nil, err
	}
	if len(got) != 1 || got[0].Plan == nil {
		return nil, errors.New("EXPLAIN gave no plan")
	}
	return got[0].Plan, nil
}

// walk calls f for each node, parents first.
func (p *plan) walk(f func(*plan)) {
	f(p)
	for _, c := range p.Plans {
		c.walk(f)
	}
}

// isFull tells whether a node reads all rows of its table.
func (p *plan) isFull() bool { return p.Node == "Seq Scan" && p.Relation != "" }

// access is what a statement asks of one table, under one alias.
type access struct {
	schema, relation, alias string
	prefix                  *regexp.Regexp // of its columns
	full                    bool           // it is read from end to end
	rows                    float64
	equal, joined           []string // expressions on its columns, each as an index takes it
	ranged, liked           []string
	sorted                  []string // with DESC where it is so; of one Sort that rests on this table alone
	either                  [][]string
}

// accesses collects what a plan shows.
func (p *plan) accesses(types func(schema, relation, column string) string) []*access {
	var out []*access
	p.walk(func(n *plan) {
		if n.Relation == "" || slices.ContainsFunc(out, func(a *access) bool { return a.alias == n.Alias }) {
			return
		}
		a := &access{schema: n.Schema, relation: n.Relation, alias: n.Alias, prefix: ofAlias(n.Alias), full: n.isFull(), rows: n.Rows}
		if n.Node != "ModifyTable" {
			out = append(out, a)
		}
	})
	for _, a := range out {
		isText := func(column string) bool {
			switch types(a.schema, a.relation, column) {
			case "text", "varchar", "bpchar", "name", "citext":
				return true
			}
			return false
		}
		p.walk(func(n *plan) {
			for _, condition := range []string{n.Filter, n.IndexCond, n.Recheck, n.JoinFilter, n.HashCond, n.MergeCond} {
				if len(condition) > longestCondition {
					continue
				}
				for _, c := range split(condition, " AND ") {
					a.take(c, isText)
				}
			}
			var keys []string
			for _, key := range n.SortKey {
				of, ok := a.own(strings.TrimSuffix(key, " DESC"), isText)
				if !ok || len(key) > longestCondition {
					keys = nil
					break
				}
				if strings.HasSuffix(key, " DESC") {
					of += " DESC"
				}
				keys = append(keys, of)
			}
			if len(keys) > 0 && len(keys) <= mostTerms && a.sorted == nil {
				a.sorted = keys
			}
		})
	}
	return out
}

// take adds what one clause says of the table.
func (a *access) take(clause string, isText func(column string) bool) {
	clause = unwrap(clause)
	if arms := split(clause, " OR "); len(arms) > mostTerms {
		return
	} else if len(arms) > 1 {
		var each []string
		for _, arm := range arms {
			one := access{alias: a.alias, prefix: a.prefix}
			for _, c := range split(arm, " AND ") {
				one.take(c, isText)
			}
			if len(one.equal)+len(one.ranged) == 0 {
				return // one arm needs all rows
			}
			each = append(each, append(one.equal, one.ranged...)[0])
		}
		if len(a.either) < mostTerms {
			a.either = append(a.either, each)
		}
		return
	}
	if left, ok := strings.CutSuffix(clause, " IS NULL"); ok {
		if e, ok := a.own(left, isText); ok {
			add(&a.equal, e)
		}
		return
	}
	left, operator, right := cutOperator(clause)
	if operator == "" {
		if e, ok := a.own(strings.TrimPrefix(clause, "NOT "), isText); ok && plainColumn.MatchString(e) {
			add(&a.equal, e)
		}
		return
	}
	for _, side := range [2][2]string{{left, right}, {right, left}} {
		e, ok := a.own(side[0], isText)
		if !ok || a.mentions(side[1]) {
			continue
		}
		switch operator {
		case "=":
			if anyColumn.MatchString(literals.ReplaceAllString(side[1], "")) {
				add(&a.joined, e)
			} else {
				add(&a.equal, e)
			}
		case "<", ">", "<=", ">=":
			add(&a.ranged, e)
		case "~~":
			if side[0] == left {
				add(&a.liked, e)
			}
		}
	}
}

// longestCondition bounds what is read of one condition: a longer one is a list of constants or a machine's, and reading it takes the square of
// its length.
const longestCondition = 10_000

// mostTerms bounds what is tried of one list: behind it stand statements that no index mends.
const mostTerms = 8

func add(list *[]string, e string) {
	if len(*list) < mostTerms && !slices.Contains(*list, e) {
		*list = append(*list, e)
	}
}

var (
	plainColumn = regexp.MustCompile(`^(\w+|"[^"]+")$`)
	castColumn  = regexp.MustCompile(`^\(?(\w+|"[^"]+")\)?::(?:text|character varying|bpchar|name|citext)$`)
	anyColumn   = regexp.MustCompile(`(?:\w|")\.[\w"]`)
	literals    = regexp.MustCompile(`'(?:[^']|'')*'(?:::[\w ]+(?:\[\])?)?`)
)

// ofAlias matches what stands before a column of that alias, with what is before that.
func ofAlias(alias string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(strings.ToValidUTF8(alias, "\uFFFD")) // as JSON has it
	return regexp.MustCompile(`(^|[^\w"$.])(?:` + quoted + `|"` + quoted + `")\.`)
}

// mentions tells whether an expression has a column of the table.
func (a *access) mentions(expression string) bool {
	return a.prefix.MatchString(literals.ReplaceAllString(expression, ""))
}

// own gives an expression that rests on this table alone as an index takes it: a column by its name, anything else in parentheses.
func (a *access) own(expression string, isText func(column string) bool) (string, bool) {
	expression = unwrap(expression)
	if !a.mentions(expression) {
		return "", false
	}
	stripped := a.prefix.ReplaceAllString(expression, "$1")
	stripped = unwrap(stripped)
	if strings.Contains(stripped, "SubPlan") || strings.Contains(stripped, "$") || anyColumn.MatchString(literals.ReplaceAllString(stripped, "")) {
		return "", false // something else is in it
	}
	if plainColumn.MatchString(stripped) {
		return stripped, true
	}
	if m := castColumn.FindStringSubmatch(stripped); m != nil && isText(strings.Trim(m[1], `"`)) {
		return m[1], true // stored the same
	}
	return "(" + stripped + ")", true
}

// unwrap takes away the parentheses around an expression.
func unwrap(s string) string {
	s = strings.TrimSpace(s)
	for len(s) > 1 && s[0] == '(' && closing(s) == len(s)-1 {
		s = strings.TrimSpace(s[1 : len(s)-1])
	}
	return s
}

// closing is where the parenthesis ends with which s begins; -1 for nowhere.
func closing(s string) int {
	end := -1
	scan(s, func(i, depth int) bool {
		if depth == 0 && s[i] == ')' {
			end = i
			return false
		}
		return true
	})
	return end
}

// scan calls f for each byte outside of quotes with the depth of parentheses behind it, until f is false.
func scan(s string, f func(i, depth int) bool) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '\'', '"':
			for i++; i < len(s) && s[i] != c; i++ {
			}
			continue
		case '(', '[':
			depth++
		case ')', ']':
			depth--
		}
		if !f(i, depth) {
			return
		}
	}
}

// split cuts an expression at a word that joins its parts.
func split(s, word string) (out []string) {
	s = unwrap(s)
	from := 0
	scan(s, func(i, depth int) bool {
		if depth == 0 && i >= from && strings.HasPrefix(s[i:], word) {
			out = append(out, s[from:i])
			from = i + len(word)
		}
		return true
	})
	if s == "" {
		return nil
	}
	return append(out, s[from:])
}

// cutOperator cuts a comparison.
func cutOperator(s string) (left, operator, right string) {
	scan(s, func(i, depth int) bool {
		if depth != 0 || s[i] != ' ' {
			return true
		}
		for _, o := range []string{"<=", ">=", "<>", "~~*", "!~~", "~~", "=", "<", ">", "@>", "&&", "~", "?"} {
			if strings.HasPrefix(s[i+1:], o+" ") {
				left, operator, right = s[:i], o, s[i+2+len(o):]
				return false
			}
		}
		return true
	})
	return left, operator, strings.TrimPrefix(right, "ANY ")
}
