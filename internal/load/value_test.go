package load

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func draw(t *testing.T, v any, n int) map[string]int {
	t.Helper()
	made, err := newValue(v)
	if err != nil {
		t.Fatal(err)
	}
	out, r := map[string]int{}, rand.New(rand.NewPCG(1, 2))
	for range n {
		out[string(made.append(nil, r))]++
	}
	return out
}

func TestValues(t *testing.T) {
	t.Parallel()
	if got := draw(t, map[string]any{"a": 1, "b": []any{"x"}}, 1); got[`{"a":1,"b":["x"]}`] != 1 {
		t.Errorf("a literal gave %v", got)
	}
	if got := draw(t, map[string]any{"sequence": []any{int64(5), int64(7)}}, 6); got["5"] != 2 || got["6"] != 2 || got["7"] != 2 {
		t.Errorf("sequence gave %v", got)
	}
	if got := draw(t, map[string]any{"choice": []any{"a", nil, 3}}, 3000); len(got) != 3 || got[`"a"`] < 900 || got["null"] < 900 {
		t.Errorf("choice gave %v", got)
	}
	if got := draw(t, map[string]any{"uniform": []any{int64(-1), int64(2)}}, 4000); len(got) != 4 || got["-1"] < 900 || got["2"] < 900 {
		t.Errorf("uniform gave %v", got)
	}
	for text := range draw(t, map[string]any{"uniform": []any{0.5, 1.5}}, 100) {
		if f, err := strconv.ParseFloat(text, 64); err != nil || f < 0.5 || f > 1.5 {
			t.Errorf("uniform gave %s", text)
		}
	}
	file := filepath.Join(t.TempDir(), "values")
	if err := os.WriteFile(file, []byte("12\n\nZürich\n{\"a\":1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := draw(t, map[string]any{"file": file}, 100); len(got) != 3 || got["12"] == 0 || got[`"Zürich"`] == 0 || got[`{"a":1}`] == 0 {
		t.Errorf("file gave %v", got)
	}
}

// What a pattern makes it matches.
func TestPattern(t *testing.T) {
	t.Parallel()
	for _, p := range []string{`^[A-Z]{2}$`, `^(cat|dog)s?-\d+$`, `^\w+@[a-z.]+$`, `^x*y{3,}.?$`, `^[^a-z]$`, `^[é-ü]$`, `^$`} {
		re := regexp.MustCompile(p)
		for text := range draw(t, map[string]any{"pattern": p}, 200) {
			var s string
			if err := json.Unmarshal([]byte(text), &s); err != nil || !re.MatchString(s) {
				t.Errorf("%s made %s, %v", p, text, err)
			}
		}
	}
	if n := len(draw(t, map[string]any{"pattern": `^[A-Z]{2}$`}, 2000)); n < 500 {
		t.Errorf("2000 draws of two letters gave %d texts", n)
	}
	for text := range draw(t, map[string]any{"pattern": `(a+b+c+){300}`}, 1) { // thousands
		if len(text) > 3*mostRunes {
			t.Errorf("a text of %d bytes", len(text))
		}
	}
}

// The k-th value of a Zipf distribution comes as often as k to the power of minus the exponent says, below 1 too.
func TestZipf(t *testing.T) {
	t.Parallel()
	const n = 200_000
	for _, exponent := range []float64{0.8, 1, 1.3} {
		got := draw(t, map[string]any{"zipf": []any{int64(10), int64(1009)}, "exponent": exponent}, n)
		sum := 0.0
		for k := range 1000 {
			sum += math.Pow(float64(k+1), -exponent)
		}
		for _, k := range []int{0, 1, 9} {
			want := n * math.Pow(float64(k+1), -exponent) / sum
			if have := float64(got[strconv.Itoa(10+k)]); math.Abs(have-want) > 5*math.Sqrt(want) {
				t.Errorf("exponent %v: value %d came %v times, want %.0f", exponent, k, have, want)
			}
		}
	}
}

func TestValuesThatCannotBe(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]any{
		"no two bounds":          map[string]any{"uniform": []any{int64(1)}},
		"lower one comes first":  map[string]any{"uniform": []any{int64(2), int64(1)}},
		"no whole numbers":       map[string]any{"sequence": []any{"a", "b"}},
		"no exponent":            map[string]any{"zipf": []any{int64(1), int64(2)}},
		"above 0 and at most 10": map[string]any{"zipf": []any{int64(1), int64(2)}, "exponent": -1.0},
		"1 to 1000000 values":    map[string]any{"zipf": []any{int64(1), int64(2_000_000)}, "exponent": 1.0},
		"no list of values":      map[string]any{"choice": []any{}},
		"no such file":           map[string]any{"file": "/no/such/file"},
		"is no file of at most":  map[string]any{"file": os.TempDir()},
	} {
		if _, err := newValue(v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", v, err, want)
		}
	}
}
