package catalog

import (
	"cmp"
	"errors"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/gowebpki/jcs"

	"millrace/internal/mcp"
)

// maxSafe is the greatest integer that every JSON implementation holds exactly.
const maxSafe = 1 << 53

const notANumber = "is no number"

// parseInteger reads a JSON number that is an integer, exactly: 5, 5.0 and 5e0 are the same one.
func parseInteger(raw []byte) (n int64, problem string) {
	if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, notANumber
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n, ""
	} else if errors.Is(err, strconv.ErrRange) {
		return 0, "is beyond 64 bits"
	}
	// A fraction or an exponent. The exponent is bounded before any arithmetic: 1e-999999999 must cost nothing.
	mantissa, exponent, _ := strings.Cut(strings.ToLower(string(raw)), "e")
	if strings.Trim(mantissa, "-0.") == "" {
		return 0, ""
	}
	power := 0
	if exponent != "" {
		var err error
		if power, err = strconv.Atoi(exponent); err != nil || power > 40 || power < -40 {
			if exponent[0] == '-' {
				return 0, "must be an integer"
			}
			return 0, "is beyond 64 bits"
		}
	}
	if len(mantissa) > 64 {
		return 0, "has too many digits"
	}
	r, ok := new(big.Rat).SetString(string(raw))
	if !ok || !r.IsInt() {
		return 0, "must be an integer"
	}
	if !r.Num().IsInt64() {
		return 0, "is beyond 64 bits"
	}
	return r.Num().Int64(), ""
}

// canonical gives a nested value by RFC 8785, so that one value has one text. A value with a number that JSON
// implementations round keeps the client's own text, and is not exact: two different ones could canonicalise alike.
func canonical(raw []byte) (text []byte, exact bool) {
	if hasRounded(raw) {
		return slices.Clone(raw), false
	}
	text, err := jcs.Transform(raw)
	if err != nil {
		return slices.Clone(raw), false
	}
	return text, true
}

// hasRounded tells whether a double would lose a number of raw, valid JSON: its shortest text has other digits, or it is
// beyond the integers that a double tells apart. It walks the bytes once, however deep they are nested.
func hasRounded(raw []byte) bool {
	for i := 0; i < len(raw); {
		switch c := raw[i]; {
		case c == '"':
			for i++; raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
			i++
		case c == '-' || c >= '0' && c <= '9':
			start := i
			for i < len(raw) && strings.IndexByte("+-.eE0123456789", raw[i]) >= 0 {
				i++
			}
			text := string(raw[start:i])
			f, err := strconv.ParseFloat(text, 64)
			if err != nil || math.Abs(f) >= maxSafe || digits(text) != digits(strconv.FormatFloat(f, 'e', -1, 64)) {
				return true
			}
		default:
			i++
		}
	}
	return false
}

// digits gives the significant digits of a number's text: "12" of -0.0120e7.
func digits(text string) string {
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		text = text[:i]
	}
	return strings.Trim(strings.Replace(text, ".", "", 1), "-0")
}

// compare holds a number against a bound, exactly: an integer beyond 2^53 is not rounded first.
func compare(v mcp.Value, bound float64) int {
	if v.Kind == mcp.KindFloat {
		return cmp.Compare(v.Float, bound)
	}
	if f := float64(v.Int); f != bound || math.Abs(f) < maxSafe {
		return cmp.Compare(f, bound)
	}
	if bound >= 1<<63 {
		return -1
	}
	return cmp.Compare(v.Int, int64(bound))
}
