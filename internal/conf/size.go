package conf

import (
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
)

const sizePattern = `^[0-9]+(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$`

var sizeRE = regexp.MustCompile(sizePattern)

// sizeUnits runs from the largest to the smallest.
var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"TB", 1e12}, {"GiB", 1 << 30}, {"GB", 1e9},
	{"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"KB", 1e3}, {"B", 1},
}

// Size is a number of bytes, zero or more, that carries its unit: "64KiB" (1024s) or "10MB" (1000s).
type Size int64

// Bytes is s as a plain number.
func (s Size) Bytes() int64 { return int64(s) }

// String is s in the largest unit that holds it exactly.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if n := int64(s) / u.bytes; n != 0 && n*u.bytes == int64(s) {
			return strconv.FormatInt(n, 10) + u.name
		}
	}
	return "0B"
}

// MarshalText writes what UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a size with its unit.
func (s *Size) UnmarshalText(b []byte) error {
	v, problem, fix := parseSize(string(b))
	if problem != "" {
		return errors.New("size " + problem + "; " + fix)
	}
	*s = v
	return nil
}

// parseSize gives what is wrong without the text, which may be secret; the fix may repeat the number.
func parseSize(text string) (size Size, problem, fix string) {
	digits := strings.TrimRight(text, "BKMGTibkmgt ")
	unit := strings.TrimSpace(text[len(digits):])
	if !sizeRE.MatchString(text) {
		switch {
		case text == "":
			return 0, "is empty", "write a number with its unit, such as 64KiB"
		case isDigits(text):
			return 0, "has no unit", "write " + text + "B, or another unit such as KiB or MiB"
		case strings.HasPrefix(text, "-"):
			return 0, "is negative", "write a size of 0B or more"
		}
		if isDigits(digits) && unit != "" {
			for _, u := range sizeUnits {
				if strings.EqualFold(unit, u.name) || strings.EqualFold(unit+"B", u.name) {
					return 0, "is not a size", "write " + digits + u.name
				}
			}
		}
		return 0, "is not a size", "write a whole number with its unit (B, KB, MB, GB, TB, KiB, MiB, GiB, TiB), such as 64KiB"
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	for _, u := range sizeUnits {
		if u.name == unit {
			if err != nil || n > math.MaxInt64/u.bytes {
				return 0, "is too large", "write less than 8388608TiB"
			}
			return Size(n * u.bytes), "", ""
		}
	}
	return 0, "is not a size", "write a whole number with its unit, such as 64KiB"
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
