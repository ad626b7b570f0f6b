package millrace_test

import (
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// levels says who may import whom: a package imports only packages of lower levels, never one of its own. What crosses
// between siblings is a type of mcp, or an interface that its user declares and app connects. ARCHITECTURE.md says
// what each of the packages that exist is for; the others wait for the work that needs them.
var levels = map[string]int{
	"internal/mcp":       0,
	"internal/conf":      0,
	"internal/telemetry": 0,
	"internal/proc":      -1, // below the servers of tests, which end with the test
	"internal/schema":    0,
	"internal/pgtest":    0,
	"internal/polltest":  0,
	"internal/redistest": 0,
	"internal/client":    1,
	"internal/sqldb":     1,
	"internal/redis":     1,
	"internal/identity":  1,
	"internal/hub":       1,
	"internal/demo":      1,
	"internal/advise":    2,
	"internal/cache":     2,
	"internal/outbox":    2,
	"internal/session":   2,
	"internal/shards":    2,
	"internal/admit":     2,
	"internal/cluster":   2,
	"internal/upstream":  2,
	"internal/watch":     2,
	"internal/load":      2,
	"internal/catalog":   3,
	"internal/front":     3,
	"internal/admin":     4,
	"internal/config":    5,
	"internal/app":       6,
	"cmd/millrace":       7,
}

// module is the path that go.mod gives this module.
const module = "millrace"

func TestLayers(t *testing.T) {
	for _, fault := range layerFaults(os.DirFS("."), levels) {
		t.Error(fault)
	}
}

func TestArchitectureNamesEveryPackageAndDependency(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	exist, faults := imports(os.DirFS("."))
	faults = append(faults, architectureFaults(string(text), slices.Collect(maps.Keys(exist)), directDependencies(string(mod)), levels)...)
	for _, fault := range faults {
		t.Error(fault)
	}
}

// layerFaults gives one line for each import in fsys that breaks the table, and for each package that it lacks.
func layerFaults(fsys fs.FS, levels map[string]int) []string {
	packages, faults := imports(fsys)
	for _, pkg := range slices.Sorted(maps.Keys(packages)) {
		own, ok := levels[pkg]
		if !ok {
			faults = append(faults, fmt.Sprintf("%s has no level: give it one in layers_test.go and a row in ARCHITECTURE.md", pkg))
			continue
		}
		for _, i := range packages[pkg] {
			level, ok := levels[i.pkg]
			switch {
			case !ok:
				faults = append(faults, fmt.Sprintf("%s imports %s, which has no level", i.file, i.pkg))
			case level >= own:
				faults = append(faults, fmt.Sprintf("%s (level %d) imports %s (level %d): imports go strictly downward", i.file, own, i.pkg, level))
			}
		}
	}
	return faults
}

// An imported is one import of a package of this module, in one file.
type imported struct{ file, pkg string }

// imports gives the packages below internal/ and cmd/ and what each imports of this module, tests included. A package
// below another, such as internal/cache/x, counts as part of the upper one, so what it imports of that is left out.
func imports(fsys fs.FS) (packages map[string][]imported, faults []string) {
	packages = map[string][]imported{}
	for _, root := range []string{"internal", "cmd"} {
		err := fs.WalkDir(fsys, root, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				if name == root && errors.Is(err, fs.ErrNotExist) {
					return fs.SkipAll
				}
				return err
			}
			if d.IsDir() {
				if d.Name() == "testdata" || d.Name() == "node_modules" {
					return fs.SkipDir
				}
				return nil
			}
			if path.Ext(name) != ".go" {
				return nil
			}
			src, err := fs.ReadFile(fsys, name)
			if err != nil {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
			if err != nil {
				return err
			}
			own := family(path.Dir(name))
			if _, ok := packages[own]; !ok {
				packages[own] = nil // it exists, even where it imports nothing
			}
			for _, spec := range file.Imports {
				p, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
				}
				rest, ok := strings.CutPrefix(p, module+"/")
				if ok && family(rest) != own {
					packages[own] = append(packages[own], imported{name, family(rest)})
				}
			}
			return nil
		})
		if err != nil {
			faults = append(faults, err.Error())
		}
	}
	return packages, faults
}

// family gives the package of the table that the folder dir belongs to: its first two elements.
func family(dir string) string {
	parts := strings.SplitN(dir, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

var (
	rowPattern     = regexp.MustCompile("(?m)^\\| *(-?[0-9]+) *\\| *`([a-z/]+)` *\\|")
	requirePattern = regexp.MustCompile(`(?m)^(?:require)?[ \t]+([^\s(]+\.[^\s(]+)[ \t]+v\S+[ \t]*(//.*)?$`)
)

// directDependencies gives the modules that a go.mod requires and does not mark as indirect.
func directDependencies(mod string) []string {
	var direct []string
	for _, m := range requirePattern.FindAllStringSubmatch(mod, -1) {
		if !strings.Contains(m[2], "indirect") {
			direct = append(direct, m[1])
		}
	}
	return direct
}

// architectureFaults compares what ARCHITECTURE.md says with what is there: one row `| LEVEL | NAME |` for each package,
// with its level, and no row more; and the path of each direct dependency.
func architectureFaults(text string, packages, dependencies []string, levels map[string]int) []string {
	var faults []string
	rows := map[string]int{}
	for _, m := range rowPattern.FindAllStringSubmatch(text, -1) {
		pkg := m[2]
		if !strings.Contains(pkg, "/") {
			pkg = "internal/" + pkg
		}
		if _, ok := rows[pkg]; ok {
			faults = append(faults, fmt.Sprintf("ARCHITECTURE.md: %s has two rows", pkg))
		}
		rows[pkg], _ = strconv.Atoi(m[1])
	}
	slices.Sort(packages)
	for _, pkg := range packages {
		level, ok := rows[pkg]
		switch {
		case !ok:
			faults = append(faults, fmt.Sprintf("ARCHITECTURE.md: no row for %s", pkg))
		case level != levels[pkg]:
			faults = append(faults, fmt.Sprintf("ARCHITECTURE.md: %s stands at level %d, its level is %d", pkg, level, levels[pkg]))
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(rows)) {
		if !slices.Contains(packages, pkg) {
			faults = append(faults, fmt.Sprintf("ARCHITECTURE.md: %s has a row and no Go file", pkg))
		}
	}
	for _, dep := range dependencies {
		if !strings.Contains(text, "`"+dep+"`") {
			faults = append(faults, fmt.Sprintf("ARCHITECTURE.md: does not say why %s is a dependency", dep))
		}
	}
	return faults
}
