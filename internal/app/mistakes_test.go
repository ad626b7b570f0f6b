package app

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what is said about each mistake anew")

// TestMistakes: each file of config's testdata holds a mistake, and beside it stands what a person is told about it.
func TestMistakes(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../config/testdata/*.yaml")
	if err != nil || len(files) < 15 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			t.Parallel()
			faults, err := Check(t.Context(), file, false)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(faults.String(), file, name) + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			for _, f := range faults {
				if f.Line == 0 || f.Column == 0 || f.Fix == "" {
					t.Errorf("a fault without its place or fix: %v", f)
				}
			}
		})
	}
}
