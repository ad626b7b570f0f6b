package load

import (
	"math/rand/v2"
	"regexp/syntax"
	"unicode"

	"millrace/internal/mcp"
)

// pattern is a text that a regular expression matches.
type pattern struct{ re *syntax.Regexp }

// mostRepeats bounds what is without bound in a pattern, and mostRunes the text.
const (
	mostRepeats = 8
	mostRunes   = 1000
)

// newPattern makes one. A schema's patterns are ECMAScript's; what Go reads differently is found when the server is tried.
func newPattern(expression string) (value, error) {
	re, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, err
	}
	return pattern{re}, nil
}

func (p pattern) append(dst []byte, r *rand.Rand) []byte {
	var text []rune
	write(p.re, r, &text)
	return mcp.AppendText(dst, string(text))
}

// write adds a match of re. What only looks at its place, such as ^, adds nothing.
func write(re *syntax.Regexp, r *rand.Rand, out *[]rune) {
	if len(*out) > mostRunes {
		return
	}
	repeat := func(low, high int) {
		if high < 0 {
			high = max(low, mostRepeats)
		}
		for range low + r.IntN(high-low+1) {
			write(re.Sub[0], r, out)
		}
	}
	switch re.Op {
	case syntax.OpLiteral:
		*out = append(*out, re.Rune...)
	case syntax.OpCharClass:
		*out = append(*out, pick(re.Rune, r))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		*out = append(*out, rune('a'+r.IntN(26)))
	case syntax.OpCapture:
		write(re.Sub[0], r, out)
	case syntax.OpStar:
		repeat(0, -1)
	case syntax.OpPlus:
		repeat(1, -1)
	case syntax.OpQuest:
		repeat(0, 1)
	case syntax.OpRepeat:
		repeat(re.Min, re.Max)
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			write(sub, r, out)
		}
	case syntax.OpAlternate:
		write(re.Sub[r.IntN(len(re.Sub))], r, out)
	}
}

// pick gives a rune of a class, which is pairs of bounds; a printable one of ASCII where there is one.
func pick(class []rune, r *rand.Rand) rune {
	var plain []rune
	for i := 0; i+1 < len(class); i += 2 {
		for c := max(class[i], ' '+1); c <= min(class[i+1], unicode.MaxASCII-1); c++ {
			plain = append(plain, c)
		}
	}
	if len(plain) > 0 {
		return plain[r.IntN(len(plain))]
	}
	if len(class) == 0 {
		return 'a' // of a class of nothing, which matches nothing
	}
	return class[0]
}
