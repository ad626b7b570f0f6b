package e2e

import (
	"encoding/json"
	"fmt"
	"os"
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
		`3:\d+`,     // addres
		`4:\d+`,     // a duration without a unit
		`8:\d+`,     // a name with a space
		`9:\d+`,     // a source that does not exist
		`1[12]:\d+`, // a parameter that the statement does not have, an unknown type
		`1[67]:\d+`, // a read-only tool that writes
		`18:\d+`,    // a toolset with an unknown tool
		`address`,   // did you mean
		`demo`,      // did you mean
		`integer`,   // what it may be
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
		if at := regexp.MustCompile(fmt.Sprintf(`\b(%d|%d):\d+`, test.line, test.line+1)); !at.MatchString(out + errs) {
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
		{[]string{"call", "get_city"}, "id", false},
		{[]string{"call", "get_city", "id=x"}, "id", false},
		{[]string{"call", "get_city", "nonsense"}, "nonsense", false},
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
	for _, args := range [][]string{
		{"no-such-command"},
		{"serve", "--no-such-flag"},
		{"serve", "--config", filepath.Join(t.TempDir(), "missing.yaml")},
		{"serve", "--config", good, "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"}, // no keys, and not on loopback
		{"serve", "--config", good, "--listen", taken.Host(), "--admin", "127.0.0.1:0"},
		{"check"},
	} {
		out, errs, code := harness.Run(t, env, args...)
		if code == 0 || errs+out == "" {
			t.Errorf("%q: code %d\n%s%s", args, code, out, errs)
		}
	}
	if _, errs, _ := harness.Run(t, env, "serve", "--config", good, "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"); !strings.Contains(errs, "insecure") {
		t.Errorf("the refusal to listen beyond loopback without keys does not name --insecure: %s", errs)
	}
}

// TestStartFails says what is wrong with the file, as check does.
func TestStartFails(t *testing.T) {
	t.Parallel()
	file := harness.WriteConfig(t, "version: 1\ntols: []\n")
	out, errs, code := harness.Run(t, nil, "serve", "--config", file, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	if code == 0 || !strings.Contains(out+errs, "2:1") || !strings.Contains(out+errs, "tools") {
		t.Errorf("code %d\n%s%s", code, out, errs)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
