package conf

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

type level int

func (l *level) UnmarshalText(b []byte) error {
	switch string(b) {
	case "low":
		*l = 1
	case "high":
		*l = 2
	default:
		return errors.New(string(b) + " is neither low nor high")
	}
	return nil
}

type testListen struct {
	Address string   `yaml:"address"`
	HTTP2   bool     `yaml:"http2"`
	Timeout Duration `yaml:"timeout"`
	MaxBody Size     `yaml:"max_body"`
}

type testParameter struct {
	Name    string         `yaml:"name"`
	Type    string         `yaml:"type" enum:"string,integer,number"`
	Default any            `yaml:"default"`
	Items   *testParameter `yaml:"items"`
}

type testTool struct {
	Name       string          `yaml:"name"`
	Statement  string          `yaml:"statement" expand:"none"`
	Timeout    Duration        `yaml:"timeout"`
	Rows       int             `yaml:"rows"`
	Confirm    *bool           `yaml:"confirm"`
	Parameters []testParameter `yaml:"parameters"`
}

func (t *testTool) SetDefaults() { t.Timeout = Duration(5 * time.Second) }

type testInline struct {
	Inlined int `yaml:"inlined"`
}

type testConfig struct {
	Name       string               `yaml:"name" desc:"Who this is."`
	Key        Secret               `yaml:"key"`
	Listen     testListen           `yaml:"listen"`
	Mode       string               `yaml:"mode" enum:"gzip,zstd,none"`
	Modes      []string             `yaml:"modes" enum:"gzip,zstd,none"`
	Tools      []testTool           `yaml:"tools"`
	Named      map[string]*testTool `yaml:"named"`
	Labels     map[string]string    `yaml:"labels"`
	Limit      uint8                `yaml:"limit"`
	Ratio      float64              `yaml:"ratio"`
	Any        any                  `yaml:"any"`
	Level      level                `yaml:"level"`
	Exact      int64                `yaml:"exact" expand:"none"`
	testInline `yaml:",inline"`
	Hidden     string
}

func defaults() *testConfig {
	return &testConfig{
		Key:    "default-secret",
		Listen: testListen{Address: "127.0.0.1:8080", HTTP2: true, Timeout: Duration(10 * time.Second), MaxBody: 4 << 20},
	}
}

var testEnv = map[string]string{
	"PORT": "8080", "YES": "true", "EMPTY": "", "TTL": "30s", "KEY": "hunter2", "BAD": "hunter2 is bad", "NOTUTF8": "\xff",
	"INJECT": "x\nkey: y", "NEG": "-1", "ODD": "010",
}

func lookup(name string) (string, bool) { v, ok := testEnv[name]; return v, ok }

func TestDecode(t *testing.T) {
	t.Parallel()
	yes := true
	for name, c := range map[string]struct {
		yaml string
		want func(*testConfig)
	}{
		"nothing":          {"", func(*testConfig) {}},
		"only a comment":   {"# here\n", func(*testConfig) {}},
		"header and end":   {"---\nname: a\n...\n", func(c *testConfig) { c.Name = "a" }},
		"bom and crlf":     {"\ufeffname: |\r\n  a\r\n  b\r\nlimit: 3\r\n", func(c *testConfig) { c.Name, c.Limit = "a\nb\n", 3 }},
		"defaults stay":    {"listen: {address: x}", func(c *testConfig) { c.Listen.Address = "x" }},
		"an empty mapping": {"listen: {}", func(*testConfig) {}},
		"literal and folded": {"name: |-\n  a: ${PORT}\n  b\nmode: zstd # why\nany: >\n  x\n  y\n", func(c *testConfig) {
			c.Name, c.Mode, c.Any = "a: 8080\nb", "zstd", "x y\n"
		}},
		"quotes": {`{name: 'a ''b''', key: "c\td\u00e9"}`, func(c *testConfig) { c.Name, c.Key = "a 'b'", "c\tdé" }},
		"numbers": {"exact: -9223372036854775808\nratio: -1.5e-3\nlimit: 255\ninlined: 4", func(c *testConfig) {
			c.Exact, c.Ratio, c.Limit, c.Inlined = math.MinInt64, -0.0015, 255, 4
		}},
		"whole ratio": {"ratio: 2", func(c *testConfig) { c.Ratio = 2 }},
		"elements have defaults": {"tools:\n- name: a\n  confirm: true\n- {timeout: 1s}\nnamed:\n  b: {rows: 2}", func(c *testConfig) {
			c.Tools = []testTool{{Name: "a", Timeout: Duration(5 * time.Second), Confirm: &yes}, {Timeout: Duration(time.Second)}}
			c.Named = map[string]*testTool{"b": {Rows: 2, Timeout: Duration(5 * time.Second)}}
		}},
		"empty list": {"tools: []\nlabels: {}", func(c *testConfig) { c.Tools, c.Labels = []testTool{}, map[string]string{} }},
		"any": {"any: {a: 1, b: 18446744073709551615, c: 1.0, d: 'x', e: true, f: null, g: [~, -3, 1e3], h: 2001-01-01, i: '5', j: }",
			func(c *testConfig) {
				c.Any = map[string]any{"a": int64(1), "b": uint64(math.MaxUint64), "c": 1.0, "d": "x", "e": true, "f": nil,
					"g": []any{nil, int64(-3), 1000.0}, "h": "2001-01-01", "i": "5", "j": nil}
			}},
		"any expands": {"any: [\"${PORT}\", \"x${PORT}\", \"a${EMPTY}\"]", func(c *testConfig) { c.Any = []any{"8080", "x8080", "a"} }},
		"any in block": {"any:\n- ${PORT}\n- ${YES}\n- ${EMPTY}\n- ${ODD}", func(c *testConfig) {
			c.Any = []any{int64(8080), true, "", "010"}
		}},
		"keys stay": {"labels: {\"${PORT}\": \"${PORT}\", 5: x, true: y, a.b: z}", func(c *testConfig) {
			c.Labels = map[string]string{"${PORT}": "8080", "5": "x", "true": "y", "a.b": "z"}
		}},
		"expansion": {"name: a${PORT}b${NONE:-c d}${EMPTY}$${PORT}$tenant$5$\nexact: 5\nratio: ${PORT}\nlimit: ${NONE:-7}\nlisten:\n  http2: ${YES}\n  timeout: ${TTL}\n  address: ${EMPTY}",
			func(c *testConfig) {
				c.Name, c.Exact, c.Ratio, c.Limit = "a8080bc d${PORT}$tenant$5$", 5, 8080, 7
				c.Listen.Timeout, c.Listen.Address = Duration(30*time.Second), ""
			}},
		"empty takes the default": {"name: ${EMPTY:-x}${PORT:?needed}", func(c *testConfig) { c.Name = "x8080" }},
		"a value adds no key":     {"name: ${INJECT}", func(c *testConfig) { c.Name = "x\nkey: y" }},
		"statements stay": {"tools: [{statement: \"SELECT '${PORT}$${X}'\"}]", func(c *testConfig) {
			c.Tools = []testTool{{Statement: "SELECT '${PORT}$${X}'", Timeout: Duration(5 * time.Second)}}
		}},
		"older booleans are strings": {"name: on\nlabels: {a: yes, b: off, c: 1.2.3, d: 10:20}", func(c *testConfig) {
			c.Name, c.Labels = "on", map[string]string{"a": "yes", "b": "off", "c": "1.2.3", "d": "10:20"}
		}},
		"text": {"level: high", func(c *testConfig) { c.Level = 2 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, want := defaults(), defaults()
			c.want(want)
			d, faults := Parse("f.yaml", []byte(c.yaml), lookup)
			if faults = append(faults, d.Decode(got)...); len(faults) > 0 {
				t.Fatal(faults)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestDecodeLeavesSharedDefaultsAlone(t *testing.T) {
	t.Parallel()
	no := false
	shared := testTool{Confirm: &no}
	v := struct {
		Tool testTool `yaml:"tool"`
	}{shared}
	d, _ := Parse("", []byte("tool: {confirm: true}"), nil)
	if f := d.Decode(&v); f != nil || no || !*v.Tool.Confirm {
		t.Errorf("faults %v, default now %v, value %v", f, no, *v.Tool.Confirm)
	}
}

func TestDecodePanicsOnBadTargets(t *testing.T) {
	t.Parallel()
	var unit struct {
		D time.Duration `yaml:"d"`
	}
	for _, v := range []any{nil, 5, testConfig{}, (*testConfig)(nil), &unit} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%T is taken", v)
				}
			}()
			d, _ := Parse("", []byte("d: 5"), nil)
			d.Decode(v)
		}()
	}
}

func TestExpandedTextIsBounded(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 1<<20)
	d, _ := Parse("f", []byte("modes: ["+strings.Repeat(`"${A}",`, 100)+"]"), func(string) (string, bool) { return big, true })
	if f := d.Decode(defaults()); len(f) == 0 || !strings.Contains(f.Error(), "too much text") || strings.Contains(f.Error(), "xx") {
		t.Errorf("%.300v", f)
	}
}
