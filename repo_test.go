package millrace_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// maxLines is where a Go file has a second thing in it that wants a file of its own.
const maxLines = 700

// forbidden is what no file may hold: places that exist on one machine only, and hosts that a mirror may stand for. They
// are put together here so that this file does not hold them.
var forbidden = []string{
	"/work/" + "main",
	"/work/" + "shared",
	"proxy." + "golang.org",
	"registry." + "npmjs.org",
	"deb." + "debian.org",
}

func TestTrackedFiles(t *testing.T) {
	if _, err := os.Stat(".git"); err != nil {
		t.Skipf("not a clone of the repository: %v", err)
	}
	out, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	names := strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
	if len(names) == 0 {
		t.Fatal("git lists no files")
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed and not yet committed
		}
		if err != nil {
			t.Error(err)
			continue
		}
		for _, fault := range fileFaults(name, data) {
			t.Error(fault)
		}
	}
}

func TestFileFaults(t *testing.T) {
	long := []byte(strings.Repeat("\n", maxLines+1))
	for _, test := range []struct {
		name string
		data []byte
		want []string
	}{
		{"a.md", []byte("see https://go.dev"), nil},
		{"a.md", []byte("cd " + forbidden[0]), []string{"a.md:1: holds"}},
		{"package-lock.json", []byte("{\n\"resolved\": \"https://" + forbidden[3] + "/x\"}"), []string{"package-lock.json:2: holds"}},
		{"internal/mcp/a.go", long[1:], nil},
		{"internal/mcp/a.go", long, []string{"701 lines"}},
		{"internal/mcp/testdata/a.go", long, nil},
		{"a.sql", long, nil},
	} {
		wantParts(t, fileFaults(test.name, test.data), test.want)
	}
}

// fileFaults gives one line for each thing in the file that should not be there.
func fileFaults(name string, data []byte) []string {
	var faults []string
	for _, f := range forbidden {
		if i := bytes.Index(data, []byte(f)); i >= 0 {
			faults = append(faults, fmt.Sprintf("%s:%d: holds %q", name, 1+bytes.Count(data[:i], []byte("\n")), f))
		}
	}
	inTestdata := slices.Contains(strings.Split(name, "/"), "testdata")
	if lines := bytes.Count(data, []byte("\n")); path.Ext(name) == ".go" && !inTestdata && lines > maxLines {
		faults = append(faults, fmt.Sprintf("%s has %d lines: past %d, look for the second thing in it", name, lines, maxLines))
	}
	return faults
}
