package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
)

var shared = sync.OnceValues(func() (*Server, error) { return launch(Options{}) })

var sharedStarted bool

// Shared is the demo server of this test binary, for tests that leave nothing behind for others to trip on.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	s, err := shared()
	if err != nil {
		tb.Fatalf("start the demo: %v", err)
	}
	sharedMu.Lock()
	sharedStarted = true
	sharedMu.Unlock()
	return s
}

var sharedMu sync.Mutex // guards sharedStarted

func stopShared() {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if !sharedStarted {
		return
	}
	if s, err := shared(); err == nil {
		if err := s.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: stop the shared server:", err)
		}
	}
}

// demoDB makes the demo's database once: the server makes it at its first start and is stopped again, so that the file
// can be copied.
var demoDB = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "demo")
	s, err := launch(Options{Data: dir})
	if err != nil {
		return "", err
	}
	if err := s.stop(); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, "cities-*.db"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("want one cities-*.db in the data directory, got %q (%v)", found, err)
	}
	return found[0], nil
})

// copyDB copies the demo's database into a directory of the test's own.
func copyDB(tb testing.TB) string {
	tb.Helper()
	db, err := demoDB()
	if err != nil {
		tb.Fatalf("make the demo's database: %v", err)
	}
	data, err := os.ReadFile(db)
	if err != nil {
		tb.Fatal(err)
	}
	own := filepath.Join(tb.TempDir(), "cities.db")
	if err := os.WriteFile(own, data, 0o644); err != nil {
		tb.Fatal(err)
	}
	return own
}

// DemoConfig writes a copy of the demo's configuration into a directory of its own, for tests that edit it, and returns
// its path and the environment that names a copy of the database.
func DemoConfig(tb testing.TB) (file string, env []string) {
	tb.Helper()
	own := copyDB(tb)
	dir := filepath.Dir(own)
	yaml, err := os.ReadFile(filepath.Join(Repository(), "internal", "demo", "demo.yaml"))
	if err != nil {
		tb.Fatal(err)
	}
	file = filepath.Join(dir, "millrace.yaml")
	if err := os.WriteFile(file, yaml, 0o644); err != nil {
		tb.Fatal(err)
	}
	return file, []string{"MILLRACE_DEMO_DB=" + own}
}

// WriteConfig writes a configuration into a directory of its own and returns its path.
func WriteConfig(tb testing.TB, yaml string) string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "millrace.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o644); err != nil {
		tb.Fatal(err)
	}
	return file
}

var (
	toolsKey  = regexp.MustCompile(`(?m)^tools:[^\n]*\n((?:[ \t]*(?:#[^\n]*)?\n)*)([ \t]*)- `)
	sourceKey = regexp.MustCompile(`(?m)^sources:[^\n]*\n(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]+["']?([\w-]+)`)
)

// AddTool puts a tool of the given name at the head of a configuration's tools, by an atomic rename as editors do it.
func AddTool(tb testing.TB, file, name string) {
	tb.Helper()
	old, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	tools, source := toolsKey.FindSubmatchIndex(old), sourceKey.FindSubmatch(old)
	if tools == nil || source == nil {
		tb.Fatalf("%s has no tools or no sources to add to", file)
	}
	item := fmt.Sprintf("%s- {name: %s, source: %s, description: Added by a test., statement: SELECT 1 AS one, annotations: {readOnlyHint: true}}\n",
		old[tools[4]:tools[5]], name, source[1])
	at := tools[4]
	Replace(tb, file, string(old[:at])+item+string(old[at:]))
}

// Replace puts text in a file by an atomic rename.
func Replace(tb testing.TB, file, text string) {
	tb.Helper()
	next := file + ".next"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil {
		tb.Fatal(err)
	}
}

// Tools are the names of the demo's tools.
var Tools = []string{"add_note", "country_statistics", "delete_notes", "get_city", "list_notes", "nearest_cities", "search_cities"}

// Berlin is the GeoNames id of a city that the demo has.
const Berlin = 2950159

// cities are ids of real cities in Germany, one for each caller of FreshCity.
var cities = make(chan int, 32)

func init() {
	for _, id := range []int{
		2911298, 2867714, 2886242, 2925533, 2825297, 2934246, 2935517, 2928810, 2944388, 2879139, 2935022, 2861650,
		2910831, 2934691, 2805753, 2949186, 2946447, 2867543, 2892794, 2873891, 3247449, 2929567, 2930596, 2878234,
		2874545, 2918632, 2842647, 2925177, 2866333, 2871039, 2895044, 2844588,
	} {
		cities <- id
	}
}

// FreshCity is the id of a city that no other test of this binary writes notes on.
func FreshCity(tb testing.TB) int {
	tb.Helper()
	select {
	case id := <-cities:
		return id
	default:
		tb.Fatal("no more cities for tests that write notes: add some to harness.cities")
		return 0
	}
}
