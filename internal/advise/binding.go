package advise

import (
	"regexp"
	"strings"
)

// binding says what a parameter is compared with in a statement: a column, by name alone, and how. Both are empty where the text does not show
// it; the operator is LIMIT or OFFSET where it is one of those.
type binding struct{ column, operator string }

const (
	columnPattern   = `(?:["\w]+\.)*"?(\w+)"?`
	operatorPattern = `(=|<>|!=|<=|>=|<|>|\bI?LIKE\b|\bGLOB\b|\bIN\b|\bBETWEEN\b|@>|&&)`
)

var (
	// lower(t.column)::text = lower(CAST(:name AS text)), column = ANY(:name), column IN (:name, column BETWEEN :name
	columnFirst = regexp.MustCompile(`(?i)` + columnPattern + `\)?(?:::\w+)?\s*` + operatorPattern + `\s*(?:ANY|ALL|ARRAY)?\s*(?:\(|\w+\()*\s*$`)
	// BETWEEN :other AND :name
	columnBetween = regexp.MustCompile(`(?i)` + columnPattern + `\)?\s+BETWEEN\s+[:$]\w+\s+AND\s+$`)
	// :name = t.column
	columnLast = regexp.MustCompile(`(?i)^(?:::\w+)?\)*\s*` + operatorPattern + `\s*(?:ANY\s*)?\(*(?:\w+\()?` + columnPattern)
	bounding   = regexp.MustCompile(`(?i)\b(LIMIT|OFFSET)\s*\(*$`)
)

// near is how far around a parameter its comparison is looked for.
const near = 200

var mirrored = map[string]string{"<": ">", ">": "<", "<=": ">=", ">=": "<="}

// bindingOf reads what the parameter that is written as name (:id, $1) is compared with. It is a guess for values to try with: nothing rests on
// it but how close to life they are.
func bindingOf(text, name string) binding {
	for rest, at := text, 0; ; {
		i := strings.Index(rest, name)
		if i < 0 {
			return binding{}
		}
		before, after := text[:at+i], text[at+i+len(name):]
		at, rest = at+i+len(name), after
		before, after = before[max(0, len(before)-near):], after[:min(near, len(after))]
		if after != "" && (after[0] == '_' || after[0] >= '0' && after[0] <= '9' || after[0]|0x20 >= 'a' && after[0]|0x20 <= 'z') {
			continue // of a longer name
		}
		if m := bounding.FindStringSubmatch(before); m != nil {
			return binding{operator: strings.ToUpper(m[1])}
		}
		if m := columnBetween.FindStringSubmatch(before); m != nil {
			return binding{m[1], "<="}
		}
		if m := columnFirst.FindStringSubmatch(before); m != nil {
			operator := strings.ToUpper(m[2])
			if operator == "BETWEEN" {
				operator = ">="
			}
			return binding{m[1], operator}
		}
		if m := columnLast.FindStringSubmatch(after); m != nil {
			operator := strings.ToUpper(m[1])
			if other, ok := mirrored[operator]; ok {
				operator = other
			}
			if !strings.EqualFold(m[2], "null") {
				return binding{m[2], operator}
			}
		}
	}
}

// places gives where in the order of each column's values the values lie that are tried, from 0 to 1: a range is not to be everything.
func places(all []binding) []float64 {
	out := make([]float64, len(all))
	for i, b := range all {
		out[i] = 0.5
		switch b.operator {
		case ">", ">=":
			out[i] = 0.95
		case "<", "<=":
			out[i] = 0.05
			for _, other := range all {
				if other.column == b.column && strings.HasPrefix(other.operator, ">") {
					out[i] = 0.96
				}
			}
		}
	}
	return out
}
