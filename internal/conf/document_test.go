package conf

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the .want files anew; read what changes")

// TestMistakes holds what a user sees for each mistake: testdata/NAME.yaml and NAME.want.
func TestMistakes(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			d, faults := Parse(filepath.Base(file), data, lookup)
			faults = append(faults, d.Decode(defaults())...)
			if faults.Err() == nil {
				t.Fatal("no fault")
			}
			got := faults.Error() + "\n"
			if strings.Contains(got, "hunter2 ") || strings.HasPrefix(filepath.Base(file), "variable") && strings.Contains(got, "hunter2") {
				t.Errorf("a secret is shown:\n%s", got)
			}
			for _, f := range faults {
				if f.Line < 1 || f.Column < 1 || f.Fix == "" || f.Message == "" {
					t.Errorf("incomplete: %#v", f)
				}
			}
			name := strings.TrimSuffix(file, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func TestPosition(t *testing.T) {
	t.Parallel()
	d, faults := Parse("f.yaml", []byte(`
listen:
  address: x
tools:
  - name: a
    parameters:
      - name: id
        type:   integer
  - {name: b, parameters: [{type: string}]}
labels:
  app.tenant: t
  app: u
  "a[0]": |
    v
  "": w
`), nil)
	if faults != nil {
		t.Fatal(faults)
	}
	for path, want := range map[string]Position{
		"":                            {2, 1},
		"nothing":                     {2, 1},
		"listen":                      {2, 1},
		"listen.address":              {3, 12},
		"listen.adress":               {2, 1},
		"tools":                       {4, 1},
		"tools[0]":                    {5, 5},
		"tools[0].name":               {5, 11},
		"tools[0].parameters[0].type": {8, 17},
		"tools[0].parameters[0].enum": {7, 9},
		"tools[0].parameters[7]":      {6, 5},
		"tools[1]":                    {9, 5},
		"tools[1].parameters[0].type": {9, 35},
		"tools[2].name":               {4, 1},
		"tools[-1]":                   {4, 1},
		"tools[x":                     {4, 1},
		"labels.app.tenant":           {11, 15},
		"labels.app":                  {12, 8},
		"labels.app.x":                {12, 8},
		`labels["a[0]"]`:              {13, 11},
		`labels[""]`:                  {15, 7},
		"[0]":                         {2, 1},
	} {
		if got := d.Position(path); got != want {
			t.Errorf("%s: %v, not %v", path, got, want)
		}
	}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	d, _ := Parse("f.yaml", []byte("a: 1\nb: {c: 2}\n"), nil)
	in := Faults{{Path: "b.c", Message: "is odd"}, {Path: "a", Message: "is late", Fix: "hurry"}, {Path: "x", Message: "is seen", Line: 9}}
	before := append(Faults(nil), in...)
	got := d.Locate(in).Error()
	want := "f.yaml:1:4: a: is late; hurry\nf.yaml:2:8: b.c: is odd\nf.yaml:9: x: is seen"
	if got != want || !reflect.DeepEqual(in, before) {
		t.Errorf("got\n%s\nand %v", got, in)
	}
	if Faults(nil).Err() != nil || d.Locate(nil) != nil {
		t.Error("no faults are an error")
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	var keys strings.Builder
	for i := range maxKeys + 1 {
		fmt.Fprintf(&keys, "k%d: v\n", i)
	}
	for name, c := range map[string]struct{ yaml, want string }{
		"size":         {strings.Repeat("#", MaxBytes+1), "bytes"},
		"flow depth":   {strings.Repeat("[", MaxBytes/8), "levels deep"},
		"map depth":    {strings.Repeat("{a: ", MaxBytes/16), "levels deep"},
		"list depth":   {strings.Repeat("- ", MaxBytes/8), "levels deep"},
		"tags":         {strings.Repeat("!a ", MaxBytes/16), "tags"},
		"anchors":      {"a: &a [x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\n", "anchors"},
		"blank":        {"any: |\n  x\n" + strings.Repeat("  \n", MaxBytes/4), "lines on end"},
		"keys":         {keys.String(), "more than 10000 keys"},
		"flow keys":    {"[" + strings.ReplaceAll(keys.String(), "\n", ",\n") + "]", "more than 10000 keys"},
		"many faults":  {strings.Repeat("- *a\n", 5000), "more than 1000 faults"},
		"many unknown": {"any: 5\ntools:\n" + strings.Repeat("- {a: 1}\n", 5000), "more than 1000 faults"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, faults := Parse("f", []byte(c.yaml), nil)
			faults = append(faults, d.Decode(defaults())...)
			if text := faults.Error(); !strings.Contains(text, c.want) || len(faults) > maxFaults+1 {
				t.Errorf("%d faults: %.300s", len(faults), text)
			}
		})
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	known := []string{"address", "max_body", "ttl", "stale_while_revalidate"}
	for got, want := range map[string]string{
		"adress": "address", "Address": "address", "maxBody": "max_body", "max-body": "max_body", "tll": "ttl", "xyz": "",
		"stale_while_revaldte": "stale_while_revalidate", "": "", strings.Repeat("a", 1000): "", "q": "",
	} {
		if s := Nearest(got, known); s != want {
			t.Errorf("%s: %q, not %q", got, s, want)
		}
	}
}
