package conf

import (
	"errors"
	"regexp"
	"strings"
	"time"
)

const durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`

var durationRE = regexp.MustCompile(durationPattern)

// Duration is a span of time of zero or more that carries its unit: "30s", "1h30m", "250ms".
type Duration time.Duration

// Std is d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is d in the fewest units: 90s is "1m30s", 60s is "1m".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration with its unit.
func (d *Duration) UnmarshalText(b []byte) error {
	v, problem, fix := parseDuration(string(b))
	if problem != "" {
		return errors.New("duration " + problem + "; " + fix)
	}
	*d = v
	return nil
}

// parseDuration gives what is wrong without the text, which may be secret; the fix may repeat the number.
func parseDuration(s string) (d Duration, problem, fix string) {
	if !durationRE.MatchString(s) {
		switch {
		case s == "":
			return 0, "is empty", "write a number with its unit, such as 30s"
		case durationRE.MatchString(s + "s"):
			return 0, "has no unit", "write " + s + "s"
		case strings.HasPrefix(s, "-"):
			return 0, "is negative", "write a duration of 0s or more"
		}
		return 0, "is not a duration", "write a number with its unit (ns, us, ms, s, m, h), such as 30s or 1h30m"
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return 0, "is too long", "write at most 2562047h"
	}
	return Duration(v), "", ""
}
