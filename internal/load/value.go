package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"

	"millrace/internal/mcp"
)

// value makes one argument's JSON. Implementations are safe for concurrent use; what is random comes from r.
type value interface {
	append(dst []byte, r *rand.Rand) []byte
}

// mostValues bounds the table behind a Zipf distribution, and the lines of a file; mostFile the file's bytes.
const (
	mostValues = 1_000_000
	mostFile   = 256 << 20
)

// literal is the same JSON each time.
type literal []byte

func (l literal) append(dst []byte, _ *rand.Rand) []byte { return append(dst, l...) }

// uniform is an integer between two bounds, both included.
type uniform struct{ low, high int64 }

func (u uniform) append(dst []byte, r *rand.Rand) []byte {
	return strconv.AppendInt(dst, u.low+int64(r.Uint64N(uint64(u.high-u.low)+1)), 10)
}

// uniformReal is a number between two bounds.
type uniformReal struct{ low, high float64 }

func (u uniformReal) append(dst []byte, r *rand.Rand) []byte {
	return strconv.AppendFloat(dst, u.low+r.Float64()*(u.high-u.low), 'f', 6, 64)
}

// sequence counts from low to high, and begins again.
type sequence struct {
	low, high int64
	n         atomic.Uint64
}

func (s *sequence) append(dst []byte, _ *rand.Rand) []byte {
	span := uint64(s.high-s.low) + 1
	n := s.n.Add(1) - 1
	if span != 0 {
		n %= span
	}
	return strconv.AppendInt(dst, s.low+int64(n), 10)
}

// zipf is an integer from low on, of which the k-th is drawn with a weight of k to the power of minus the exponent. The
// standard library's needs an exponent above 1, and caches are looked at below it: so the distribution is a table.
type zipf struct {
	low int64
	cdf []float64
}

func newZipf(low, high int64, exponent float64) (*zipf, error) {
	n := high - low + 1
	if n < 1 || n > mostValues {
		return nil, fmt.Errorf("a Zipf distribution has 1 to %d values", mostValues)
	}
	if !(exponent > 0 && exponent <= 10) {
		return nil, errors.New("the exponent of a Zipf distribution is above 0 and at most 10")
	}
	z := &zipf{low: low, cdf: make([]float64, n)}
	sum := 0.0
	for k := range z.cdf {
		sum += math.Pow(float64(k+1), -exponent)
		z.cdf[k] = sum
	}
	return z, nil
}

func (z *zipf) append(dst []byte, r *rand.Rand) []byte {
	u := r.Float64() * z.cdf[len(z.cdf)-1]
	return strconv.AppendInt(dst, z.low+int64(sort.SearchFloat64s(z.cdf, u)), 10)
}

// choice is one of several values, each as likely.
type choice []value

func (c choice) append(dst []byte, r *rand.Rand) []byte { return c[r.IntN(len(c))].append(dst, r) }

// newValue makes a value of what stands in a scenario.
func newValue(v any) (value, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return newLiteral(v)
	}
	exponent, hasExponent := m["exponent"]
	if len(m) != 1 && !(len(m) == 2 && hasExponent) {
		return newLiteral(v)
	}
	for kind, of := range m {
		switch kind {
		case "uniform", "zipf", "sequence":
			return newRange(kind, of, exponent)
		case "pattern":
			expression, ok := of.(string)
			if !ok {
				return nil, errors.New("pattern has no regular expression")
			}
			return newPattern(expression)
		case "choice":
			list, ok := of.([]any)
			if !ok || len(list) == 0 {
				return nil, errors.New("choice has no list of values")
			}
			var c choice
			for _, e := range list {
				l, err := newLiteral(e)
				if err != nil {
					return nil, err
				}
				c = append(c, l)
			}
			return c, nil
		case "file":
			name, ok := of.(string)
			if !ok {
				return nil, errors.New("file has no name")
			}
			return newFile(name)
		}
	}
	return newLiteral(v)
}

func newLiteral(v any) (value, error) {
	b, err := json.Marshal(v)
	return literal(b), err
}

func newRange(kind string, of, exponent any) (value, error) {
	list, ok := of.([]any)
	if !ok || len(list) != 2 {
		return nil, fmt.Errorf("%s has no two bounds", kind)
	}
	low, okLow := integer(list[0])
	high, okHigh := integer(list[1])
	if !okLow || !okHigh {
		a, okA := real(list[0])
		b, okB := real(list[1])
		if kind == "uniform" && okA && okB && a < b && !math.IsInf(b-a, 0) {
			return uniformReal{a, b}, nil
		}
		return nil, fmt.Errorf("the bounds of %s are no whole numbers", kind)
	}
	if low > high {
		return nil, fmt.Errorf("the bounds of %s are %d and %d: the lower one comes first", kind, low, high)
	}
	switch kind {
	case "uniform":
		if uint64(high-low)+1 == 0 {
			return nil, errors.New("the bounds of uniform are too far apart")
		}
		return uniform{low, high}, nil
	case "sequence":
		return &sequence{low: low, high: high}, nil
	}
	e, ok := real(exponent)
	if !ok {
		return nil, errors.New("zipf has no exponent")
	}
	return newZipf(low, high, e)
}

func integer(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case int:
		return int64(n), true
	case uint64:
		return int64(n), n <= math.MaxInt64
	case json.Number:
		i, err := n.Int64()
		return i, err == nil
	}
	return 0, false
}

func real(v any) (float64, bool) {
	if n, ok := integer(v); ok {
		return float64(n), true
	}
	if n, ok := v.(json.Number); ok {
		f, err := n.Float64()
		return f, err == nil
	}
	f, ok := v.(float64)
	return f, ok
}

// newFile is one of a file's lines, each as likely. A line that is JSON is that value, any other is a text.
func newFile(name string) (value, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > mostFile {
		return nil, fmt.Errorf("%s is no file of at most %d MiB", name, mostFile>>20)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var c choice
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case mcp.Valid([]byte(line)):
			c = append(c, literal(line))
		default:
			c = append(c, literal(mcp.AppendText(nil, line)))
		}
		if len(c) > mostValues {
			return nil, fmt.Errorf("%s has more than %d lines", name, mostValues)
		}
	}
	if len(c) == 0 {
		return nil, fmt.Errorf("%s has no line with a value", name)
	}
	return c, nil
}

// arguments makes the JSON of several values by name.
type arguments []struct {
	name   string
	prefix []byte // the name as JSON and its colon
	value  value
	header string // Mcp-Param-… that carries it too; "" for none
}

func newArguments(of map[string]any) (arguments, error) {
	var out arguments
	names := make([]string, 0, len(of))
	for name := range of {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		v, err := newValue(of[name])
		if err != nil {
			return nil, fmt.Errorf("argument %s: %w", name, err)
		}
		out = append(out, struct {
			name   string
			prefix []byte
			value  value
			header string
		}{name, append(mcp.AppendText(nil, name), ':'), v, ""})
	}
	return out, nil
}

// append writes the members of an object, without its braces.
func (a arguments) append(dst []byte, r *rand.Rand) []byte {
	for i := range a {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = a[i].value.append(append(dst, a[i].prefix...), r)
	}
	return dst
}
