package conf

import (
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
)

// form is what a plain (unquoted) scalar is read as. The parser's own reading is not used: it takes 010 for eight and
// 1e3 for a string, and rounds what does not fit.
type form int

const (
	formString form = iota
	formNull
	formBool
	formInt
	formFloat
	formOdd // a number in one version of YAML and something else in another
)

var (
	intRE   = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	floatRE = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)
	oddRE   = regexp.MustCompile(`^[-+]?(0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|` +
		`\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$`)
)

func formOf(text string) form {
	switch text {
	case "", "~", "null", "Null", "NULL":
		return formNull
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return formBool
	}
	switch {
	case intRE.MatchString(text):
		return formInt
	case floatRE.MatchString(text):
		return formFloat
	case oddRE.MatchString(text):
		return formOdd
	}
	return formString
}

// plainNumber is what to write instead of a formOdd number.
func plainNumber(text string) string {
	s := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(text, "+"), "_", ""))
	body := strings.TrimPrefix(s, "-")
	switch {
	case strings.HasSuffix(body, "inf"), strings.HasSuffix(body, "nan"):
		return "write a finite number"
	case strings.HasPrefix(body, "0x"), strings.HasPrefix(body, "0o"), strings.HasPrefix(body, "0b"):
		if n, ok := new(big.Int).SetString(s, 0); ok && n.BitLen() <= 64 {
			return "write " + n.String()
		}
	case isDigits(body):
		body = strings.TrimLeft(body, "0")
		if body != "" && len(body) <= 20 {
			if s[0] == '-' {
				body = "-" + body
			}
			return "write " + body
		}
	}
	return "write it in plain decimal digits"
}

// number reads a formInt or formFloat text exactly: int64, else uint64, else float64. It fails where that would round an
// integer or reach infinity.
func number(text string) (any, bool) {
	if intRE.MatchString(text) {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n, true
		}
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			return n, true
		}
		return nil, false
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil && !math.IsInf(f, 0)
}
