package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"millrace/e2e/harness"
)

// TestCheck lets `millrace check` read a good file and one with many faults.
func TestCheck(t *testing.T) {
	t.Parallel()
	good, env := harness.DemoConfig(t)
	if out, errs, code := harness.Run(t, env, "check", good); code != 0 {
		t.Errorf("the demo's file: code %d\n%s%s", code, out, errs)
	}
	broken := harness.WriteConfig(t, `version: 1
listen:
  addres: 127.0.0.1:8080
  body_timeout: 30
sources:
  demo: {sqlite: {path: demo.db}}
tools:
  - name: get city
    source: dmeo
    description: One city.
    statement: SELECT * FROM cities WHERE id = :idd
    parameters: [{name: id, type: integr, description: GeoNames id}]
  - name: twice
    source: demo
    description: Deletes.
    statement: DELETE FROM cities
    annotations: {readOnlyHint: true}
toolsets: {geo: [no_such_tool]}
`)
	out, errs, code := harness.Run(t, nil, "check", broken)
	report := out + errs
	if code != 1 {
		t.Errorf("a broken file: code %d, want 1", code)
	}
	for _, want := range []string{
		`:3:3: listen\.addres: .*"address"`,
		`:4:17: listen\.body_timeout: .*30s`,
		`:8:11: tools\[0\]\.name: `,
		`:9:13: tools\[0\]\.source: .*demo`,
		`:12:35: tools\[0\]\.parameters\[0\]\.type: .*"integer"`,
		`:16:16: tools\[1\]\.statement: .*DELETE`,
		`:18:18: toolsets\.geo\[0\]: .*"no_such_tool"`,
		`has 7 faults`,
	} {
		if !regexp.MustCompile(want).MatchString(report) {
			t.Errorf("the report has nothing that matches %q", want)
		}
	}
	if t.Failed() {
		t.Logf("the report:\n%s", report)
	}
}

// TestCheckEach gives `millrace check` one mistake at a time: each is reported at its line.
func TestCheckEach(t *testing.T) {
	t.Parallel()
	const head = "version: 1\nsources:\n  demo: {sqlite: {path: demo.db}}\n"
	for name, test := range map[string]struct {
		yaml string
		line int
	}{
		"not YAML":              {"version: 1\nsources: [\n", 2},
		"no version":            {"sources: {}\n", 1},
		"another version":       {"version: 2\n", 1},
		"unknown key":           {head + "tols: []\n", 4},
		"key twice":             {head + "listen: {}\nlisten: {}\n", 5},
		"second document":       {head + "---\nversion: 1\n", 4},
		"wrong type":            {head + "tools: yes\n", 4},
		"address without port":  {head + "listen: {address: localhost}\n", 4},
		"size without unit":     {head + "listen: {max_body: lots}\n", 4},
		"required variable":     {head + "auth: {keys_file: \"${MILLRACE_E2E_UNSET:?set it}\"}\n", 4},
		"statement of two":      {head + "tools:\n  - {name: a, source: demo, description: d, statement: SELECT 1; SELECT 2}\n", 5},
		"tool without a source": {head + "tools:\n  - {name: a, description: d, statement: SELECT 1}\n", 5},
	} {
		file := harness.WriteConfig(t, test.yaml)
		out, errs, code := harness.Run(t, nil, "check", file)
		if code != 1 {
			t.Errorf("%s: code %d, want 1\n%s%s", name, code, out, errs)
			continue
		}
		if at := regexp.MustCompile(fmt.Sprintf(`yaml:%d:\d+: `, test.line)); !at.MatchString(out + errs) {
			t.Errorf("%s: not reported at line %d:\n%s%s", name, test.line, out, errs)
		}
	}
	if _, errs, code := harness.Run(t, nil, "check", filepath.Join(t.TempDir(), "missing.yaml")); code == 0 || errs == "" {
		t.Errorf("a missing file: code %d, %q", code, errs)
	}
}

// TestSchema prints the JSON Schema of the file.
func TestSchema(t *testing.T) {
	t.Parallel()
	out, errs, code := harness.Run(t, nil, "schema")
	var schema struct {
		Properties map[string]any
	}
	if err := json.Unmarshal([]byte(out), &schema); err != nil || code != 0 {
		t.Fatalf("schema: code %d, %v\n%s", code, err, errs)
	}
	for _, key := range []string{"version", "listen", "sources", "tools", "resources", "prompts", "toolsets"} {
		if schema.Properties[key] == nil {
			t.Errorf("the schema has no %q", key)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if out, errs, code := harness.Run(t, nil, "version"); code != 0 || !strings.Contains(out, "millrace") {
		t.Errorf("version: code %d, %q %q", code, out, errs)
	}
}

// TestCall calls tools of a running server from the shell.
func TestCall(t *testing.T) {
	t.Parallel()
	url := harness.Shared(t).URL
	for _, test := range []struct {
		args []string
		want string
		ok   bool
	}{
		{[]string{"call", "get_city", fmt.Sprintf("id=%d", harness.Berlin)}, "Berlin", true},
		{[]string{"call", "search_cities", "name=Zür", "limit=1"}, "Zürich", true},
		{[]string{"call", "nearest_cities", "latitude=52.52", "longitude=13.41", "limit=1"}, "distance_km", true},
		{[]string{"call", "no_such_tool"}, "no_such_tool", false},
		{[]string{"call", "get_city"}, `argument "id" is required`, false},
		{[]string{"call", "get_city", "id=x"}, `argument "id"`, false},
		{[]string{"call", "get_city", "nonsense"}, "NAME=VALUE", false},
	} {
		out, errs, code := harness.Run(t, nil, append(test.args, "--url", url)...)
		if (code == 0) != test.ok || !strings.Contains(out+errs, test.want) {
			t.Errorf("%q: code %d, want %q in\n%s%s", test.args, code, test.want, out, errs)
		}
	}
	down := fmt.Sprintf("http://127.0.0.1:%d/mcp", harness.FreePort(t))
	if _, errs, code := harness.Run(t, nil, "call", "get_city", "id=1", "--url", down); code == 0 || errs == "" {
		t.Errorf("where nobody listens: code %d, %q", code, errs)
	}
}

// TestBadCommandLines are refused with a hint, and no server starts.
func TestBadCommandLines(t *testing.T) {
	t.Parallel()
	good, env := harness.DemoConfig(t)
	taken := harness.Shared(t)
	for _, test := range []struct {
		args []string
		hint string
	}{
		{[]string{"no-such-command"}, "no-such-command"},
		{[]string{"serve", "--no-such-flag"}, "unknown flag --no-such-flag"},
		{[]string{"serve", "--config", filepath.Join(t.TempDir(), "missing.yaml")}, "no such file"},
		{[]string{"serve", "--config", good, "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"}, "--insecure"}, // no keys, and not on loopback
		{[]string{"serve", "--config", good, "--listen", taken.Host(), "--admin", "127.0.0.1:0"}, "address already in use"},
		{[]string{"check"}, `expected "<file>"`},
	} {
		out, errs, code := harness.Run(t, env, test.args...)
		if code <= 0 || !strings.Contains(errs, test.hint) {
			t.Errorf("%q: code %d, want %q in\n%s%s", test.args, code, test.hint, out, errs)
		}
		if strings.Contains(out, "serves MCP") {
			t.Errorf("%q: a server has started:\n%s", test.args, out)
		}
	}
}

// TestStartFails says what is wrong with the file, as check does.
func TestStartFails(t *testing.T) {
	t.Parallel()
	file := harness.WriteConfig(t, "version: 1\ntols: []\n")
	out, errs, code := harness.Run(t, nil, "serve", "--config", file, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	if code == 0 || !strings.Contains(errs, `yaml:2:1: tols: is not a known key; did you mean "tools"?`) {
		t.Errorf("code %d\n%s%s", code, out, errs)
	}
}
