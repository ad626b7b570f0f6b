package conf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzParse: no input panics, runs away, or gives a fault that says nothing; and no value of a variable is ever shown.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	const canary = "Zq7canary"
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Contains(string(data), canary) {
			return
		}
		d, faults := Parse("f.yaml", data, func(name string) (string, bool) { return canary, name != "NOPE" })
		if d == nil {
			t.Fatal("no document")
		}
		v := defaults()
		faults = append(faults, d.Decode(v)...)
		var anything struct {
			Any any `yaml:"any"`
		}
		faults = append(faults, d.Decode(&anything)...)
		for _, x := range faults {
			if x.Line < 1 || x.Column < 1 || x.Message == "" || x.Fix == "" || x.File != "f.yaml" || !utf8.ValidString(x.Error()) {
				t.Fatalf("incomplete: %#v", x)
			}
			if x.Path != "" {
				if p := d.Position(x.Path); p.Line < 1 || p.Column < 1 {
					t.Fatalf("no position of %s", x.Path)
				}
			}
		}
		if s := faults.Error(); strings.Contains(s, canary) || strings.Contains(s, "\x00") {
			t.Fatalf("shows a value: %s", s)
		}
	})
}
