package millrace_test

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// The checkers are checked: each of these trees and texts is wrong in one way, and that must be seen.

func TestLayerFaults(t *testing.T) {
	table := map[string]int{"internal/mcp": 0, "internal/conf": 0, "internal/cache": 2, "internal/session": 2, "cmd/millrace": 7}
	for _, test := range []struct {
		name  string
		files map[string]string
		want  []string // a part of each fault, in order
	}{
		{"nothing", nil, nil},
		{"downward", map[string]string{
			"internal/mcp/a.go":   `package mcp; import "fmt"`,
			"internal/cache/a.go": `package cache; import ("fmt"; "millrace/internal/mcp"; "example.com/millrace/internal/session")`,
			"cmd/millrace/a.go":   `package main; import "millrace/internal/cache"`,
		}, nil},
		{"upward", map[string]string{
			"internal/mcp/a.go": `package mcp; import "millrace/internal/cache"`,
		}, []string{"internal/mcp/a.go (level 0) imports internal/cache (level 2)"}},
		{"sideways", map[string]string{
			"internal/cache/a.go": `package cache; import "millrace/internal/session"`,
		}, []string{"internal/cache/a.go (level 2) imports internal/session (level 2)"}},
		{"sideways under another name", map[string]string{
			"internal/cache/a.go": "package cache; import x `millrace/internal/session`",
		}, []string{"internal/session (level 2)"}},
		{"upward in a test", map[string]string{
			"internal/conf/a_test.go": `package conf_test; import ("millrace/internal/conf"; _ "millrace/internal/cache")`,
		}, []string{"internal/conf/a_test.go (level 0)"}},
		{"sideways from below", map[string]string{
			"internal/cache/disk/a.go": `package disk; import "millrace/internal/session/memory"`,
		}, []string{"internal/cache/disk/a.go (level 2) imports internal/session (level 2)"}},
		{"within one package", map[string]string{
			"internal/cache/a.go": `package cache; import "millrace/internal/cache/disk"`,
		}, nil},
		{"a package without a level", map[string]string{
			"internal/util/a.go": `package util`,
		}, []string{"internal/util has no level"}},
		{"an import without a level", map[string]string{
			"internal/cache/a.go": `package cache; import "millrace/internal/util"`,
		}, []string{"imports internal/util, which has no level"}},
		{"testdata is no package", map[string]string{
			"internal/mcp/testdata/a.go": `package x; import "millrace/internal/cache"`,
		}, nil},
		{"a file that does not parse", map[string]string{
			"internal/mcp/a.go": `package`,
		}, []string{"internal/mcp/a.go"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantParts(t, layerFaults(tree(test.files), table), test.want)
		})
	}
}

func TestArchitectureFaults(t *testing.T) {
	table := map[string]int{"internal/mcp": 0, "cmd/millrace": 7}
	const good = "| Level | Package | For |\n|---|---|---|\n| 0 | `mcp` | x |\n| 7 | `cmd/millrace` | y |\n\n- `example.com/a/v2`: why\n"
	packages := []string{"internal/mcp", "cmd/millrace"}
	for _, test := range []struct {
		name, text string
		packages   []string
		deps       []string
		want       []string
	}{
		{"as it should be", good, packages, []string{"example.com/a/v2"}, nil},
		{"a package without a row", strings.Replace(good, "| 0 | `mcp` | x |\n", "", 1), packages, nil, []string{"no row for internal/mcp"}},
		{"a wrong level", strings.Replace(good, "| 0 |", "| 1 |", 1), packages, nil, []string{"internal/mcp stands at level 1, its level is 0"}},
		{"a row without a package", good, packages[1:], nil, []string{"internal/mcp has a row and no Go file"}},
		{"two rows", good + "| 0 | `mcp` | again |\n", packages, nil, []string{"internal/mcp has two rows"}},
		{"a dependency that is not named", good, packages, []string{"example.com/a"}, []string{"does not say why example.com/a is"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantParts(t, architectureFaults(test.text, slices.Clone(test.packages), test.deps, table), test.want)
		})
	}
}

func TestDirectDependencies(t *testing.T) {
	got := directDependencies(`module millrace

go 1.26.0

require example.com/one v1.0.0

require (
	example.com/two/v2 v2.0.0
	example.com/three v0.0.0-20240606120523-5a60cdf6a761 // indirect
	example.com/four v1.0.0 // kept for a reason
)

require example.com/five v1.0.0 // indirect
`)
	if want := []string{"example.com/one", "example.com/two/v2", "example.com/four"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func tree(files map[string]string) fs.FS {
	fsys := fstest.MapFS{}
	for name, src := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(src)}
	}
	return fsys
}

func wantParts(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("fault %d is %q, want it to say %q", i, got[i], want[i])
		}
	}
}
