package load

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// htmlClip bounds a text that others wrote, and makes visible what would turn the text around it.
func htmlClip(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), 4*htmlMaxText+4)], "�") // more than htmlMaxText runes, if it was cut
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return '�'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > htmlMaxText {
		return string(r[:htmlMaxText-1]) + "…"
	}
	return s
}

// htmlBrief cuts a text that stands in a column among figures.
func htmlBrief(s string) string {
	s = htmlClip(s)
	if r := []rune(s); len(r) > htmlMaxBrief {
		return string(r[:htmlMaxBrief-1]) + "…"
	}
	return s
}

// htmlDigits writes three digits that count, and commas between thousands.
func htmlDigits(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) || math.Abs(v) >= 1e15 {
		return htmlNothing
	}
	decimals := 0
	switch a := math.Abs(v); {
	case v == 0 || a >= 99.95:
	case a >= 9.995:
		decimals = 1
	case a >= 0.9995:
		decimals = 2
	default:
		decimals = min(2-int(math.Floor(math.Log10(a))), 9)
	}
	s := strconv.FormatFloat(v, 'f', decimals, 64)
	whole, rest, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		rest = "." + rest
	}
	return whole + rest
}

// htmlNothing stands where there is no figure.
const htmlNothing = "–"

// htmlTrim takes zeros behind the point away, of a number with or without a unit.
func htmlTrim(s string) string {
	number, unit, spaced := strings.Cut(s, " ")
	if strings.Contains(number, ".") {
		number = strings.TrimRight(strings.TrimRight(number, "0"), ".")
	}
	if spaced {
		return number + " " + unit
	}
	return number
}

func htmlCount(v float64) string { return htmlTrim(htmlDigits(v)) }

func htmlInt(n int64) string {
	if n > -1000 && n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	return htmlInt(n/1000) + fmt.Sprintf(",%03d", max(n%1000, -(n%1000)))
}

// htmlShort is a count for an axis, where room is little.
func htmlShort(v float64) string {
	for _, u := range []struct {
		from, unit float64
		name       string
	}{{1e12, 1e12, " T"}, {1e9, 1e9, " G"}, {1e6, 1e6, " M"}, {1e4, 1e3, " k"}} {
		if v >= u.from && v < 1e15 {
			return htmlCount(v/u.unit) + u.name
		}
	}
	return htmlCount(v)
}

// htmlSeconds writes a time in the unit that a person would use.
func htmlSeconds(s float64) string {
	switch a := math.Abs(s); {
	case math.IsNaN(s) || a >= 1e12:
		return htmlNothing
	case s == 0:
		return "0 s"
	case a < 0.9995e-3:
		return htmlDigits(s*1e6) + " µs"
	case a < 0.9995:
		return htmlDigits(s*1e3) + " ms"
	case a < 120:
		return htmlDigits(s) + " s"
	case a < 7200:
		m := math.Floor(math.Round(s) / 60)
		return fmt.Sprintf("%.0f min %.0f s", m, math.Round(s)-60*m)
	default:
		h := math.Floor(math.Round(s/60) / 60)
		return fmt.Sprintf("%s h %.0f min", htmlCount(h), math.Round(s/60)-60*h)
	}
}

func htmlShare(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return htmlNothing
	}
	return htmlCount(100*v) + " %"
}

func htmlBytes(v float64) string {
	base, name := htmlByteBase(v)
	s := htmlCount(v / base)
	if s == htmlNothing {
		return s
	}
	return s + " " + name
}

// htmlByteBase is the unit for an amount of bytes.
func htmlByteBase(v float64) (float64, string) {
	base, names := 1.0, []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for i := 0; ; i++ {
		if !(v >= base*1024) || i == len(names)-1 {
			return base, names[i]
		}
		base *= 1024
	}
}

func htmlRate(v float64) string {
	s := htmlCount(v)
	if s == htmlNothing {
		return s
	}
	return s + "/s"
}

// htmlOver is a/b, and NaN where that is no number.
func htmlOver(a, b float64) float64 {
	if q := a / b; b > 0 && !math.IsInf(q, 0) {
		return q
	}
	return math.NaN()
}
