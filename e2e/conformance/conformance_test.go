// Package conformance runs the official conformance suite against the demo and holds Millrace to every scenario that
// needs no tools made for the suite.
package conformance

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/e2e/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// scenarios are those of a revision that need no fixture. All others of the suite call tools, prompts or resources that
// only a server made for the suite has.
var scenarios = map[string][]string{
	"2025-11-25": {
		"server-initialize", "ping", "server-session-lifecycle", "dns-rebinding-protection", "server-sse-multiple-streams",
		"logging-set-level", "tools-list", "resources-list", "prompts-list",
	},
	"2026-07-28": {
		"server-stateless", "caching", "http-header-validation", "dns-rebinding-protection", "server-sse-multiple-streams",
		"tools-list", "resources-list", "prompts-list", "sep-2164-resource-not-found",
		"input-required-result-unsupported-methods",
	},
}

// check is one line of a scenario's checks.json.
type check struct {
	ID           string          `json:"id"`
	Status       string          `json:"status"`
	ErrorMessage string          `json:"errorMessage"`
	Details      json.RawMessage `json:"details"`
}

// passed says that a check of the scenario itself has succeeded. The one of the wire is added to every scenario, whatever
// came of it.
func passed(c check) bool { return c.Status == "SUCCESS" && c.ID != "wire-schema-valid" }

func TestConformance(t *testing.T) {
	for _, revision := range slices.Sorted(maps.Keys(scenarios)) {
		t.Run(revision, func(t *testing.T) {
			t.Parallel()
			expected := expectedFailures(t, "expected-failures-"+revision+".yaml")
			s := harness.Start(t, harness.Options{Data: filepath.Join(harness.Scratch(), "conformance-"+revision)})
			results := runSuite(t, s, "--requirements", revision)
			seen := map[string]bool{}
			for _, scenario := range scenarios[revision] {
				t.Run(scenario, func(t *testing.T) {
					checks := results[scenario]
					if !slices.ContainsFunc(checks, passed) {
						t.Errorf("none of its %d checks has passed: what is skipped or only told proves nothing", len(checks))
					}
					for _, c := range checks {
						key := scenario + ":" + c.ID
						switch {
						case c.Status == "SUCCESS" || c.Status == "INFO":
						case c.Status == "SKIPPED":
							t.Logf("%s was skipped: %s", c.ID, c.ErrorMessage)
						case expected[key] != "":
							seen[key] = true
						default:
							t.Errorf("%s: %s: %s\n%s", c.Status, c.ID, c.ErrorMessage, c.Details)
						}
					}
				})
			}
			for key, tool := range expected {
				if !seen[key] && !t.Failed() {
					t.Errorf("%s did not fail for want of %s: take it off the list", key, tool)
				}
			}
		})
	}
}

var outputName = regexp.MustCompile(`^server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z$`)

// TestParamHeaders runs the one scenario that needs a tool with an argument in a header, and no particular tool.
func TestParamHeaders(t *testing.T) {
	t.Parallel()
	const scenario = "http-custom-header-server-validation"
	results := runSuite(t, harness.Work(t, ""), "--scenario", scenario, "--spec-version", "2026-07-28")
	if !slices.ContainsFunc(results[scenario], passed) {
		t.Fatalf("no check of this scenario has passed: %v", results)
	}
	for _, c := range results[scenario] {
		if c.Status != "SUCCESS" && c.Status != "INFO" {
			t.Errorf("%s: %s: %s\n%s", c.Status, c.ID, c.ErrorMessage, c.Details)
		}
	}
}

// runSuite runs a part of the suite and returns the checks of each scenario. The suite's exit code says only
// that something failed, so the checks are what counts.
func runSuite(t *testing.T, s *harness.Server, what ...string) map[string][]check {
	t.Helper()
	dir := t.TempDir()
	cmd := harness.Node(t, "node_modules/@modelcontextprotocol/conformance/dist/index.js",
		append([]string{"server", "--url", s.URL, "-o", dir}, what...)...)
	out, errs, err := harness.Output(cmd, 3*time.Minute)
	results := map[string][]check{}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil || len(entries) == 0 {
		t.Fatalf("the suite left no results: %v %v\n%s%s", err, readErr, out, errs)
	}
	for _, entry := range entries {
		name := outputName.FindStringSubmatch(entry.Name())
		if name == nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name(), "checks.json"))
		if err != nil {
			t.Fatal(err)
		}
		var checks []check
		if err := json.Unmarshal(text, &checks); err != nil {
			t.Fatalf("%s: %v", entry.Name(), err)
		}
		results[name[1]] = append(results[name[1]], checks...)
	}
	return results
}

var expectation = regexp.MustCompile(`^  - ([\w-]+:[\w-]+) # needs fixture tool (\w+)$`)

// expectedFailures reads one file and refuses an entry that cites anything but a missing fixture tool.
func expectedFailures(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	expected := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "server:") {
			continue
		}
		m := expectation.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("%s: %q: an entry must read `  - SCENARIO:CHECK-ID # needs fixture tool NAME`", file, line)
		}
		expected[m[1]] = m[2]
	}
	return expected
}
