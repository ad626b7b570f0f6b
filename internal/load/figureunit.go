package load

import (
	"math"
	"strconv"
	"strings"
)

// figureUnit is what a figure is counted in.
type figureUnit int

const (
	unitCount figureUnit = iota
	unitSeconds
	unitBytes
	unitShare // 0 to 1
	unitRate  // a second
)

// format writes a figure for people, with four digits that count.
func (u figureUnit) format(v float64) string {
	scale := func(units ...any) string { // a size and its name, from the largest
		for i := 0; i < len(units); i += 2 {
			if size := units[i].(float64); math.Abs(v) >= size || i == len(units)-2 {
				return digits(v/size) + " " + units[i+1].(string)
			}
		}
		return ""
	}
	switch {
	case math.IsNaN(v):
		return "-"
	case u == unitSeconds && v == 0:
		return "0 s"
	case u == unitSeconds:
		return scale(1.0, "s", 1e-3, "ms", 1e-6, "µs")
	case u == unitBytes:
		return scale(float64(1<<40), "TiB", float64(1<<30), "GiB", float64(1<<20), "MiB", 1024.0, "KiB", 1.0, "B")
	case u == unitShare:
		return digits(100*v) + " %"
	case u == unitRate:
		return digits(v) + "/s"
	}
	return digits(v)
}

// digits writes four digits that count, and never an exponent.
func digits(v float64) string {
	if v == 0 || math.IsInf(v, 0) {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	decimals := min(max(3-int(math.Floor(math.Log10(math.Abs(v)))), 0), 9)
	s := strconv.FormatFloat(v, 'f', decimals, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}
