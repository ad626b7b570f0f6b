package app

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(at+".new", at); err != nil {
		t.Fatal(err)
	}
}

func keyLine(name, key string) string {
	return fmt.Sprintf("  - {name: %s, sha256: %x}\n", name, sha256.Sum256([]byte(key)))
}

// TestKeysFileElsewhere edits a keys_file in a directory of its own, through a link, and where the link leads later.
func TestKeysFileElsewhere(t *testing.T) {
	t.Parallel()
	dir, other, link := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "keys.yaml")
	writeFile(t, filepath.Join(dir, "k1"), "keys:\n"+keyLine("first", "first-key"))
	symlink(t, filepath.Join(dir, "k1"), link)
	r := start(t, "auth: {keys_file: "+link+"}\n"+one)
	taken := func(key string) func() bool {
		return func() bool { return strings.Contains(r.call("one", "Authorization: Bearer "+key), `"v":1`) }
	}
	r.await("the first key", taken("first-key"))
	writeFile(t, filepath.Join(dir, "k1"), "keys:\n"+keyLine("second", "second-key"))
	r.await("the second key", taken("second-key"))
	writeFile(t, filepath.Join(other, "k2"), "keys:\n"+keyLine("third", "third-key"))
	symlink(t, filepath.Join(other, "k2"), link)
	r.await("the third key", taken("third-key"))
	writeFile(t, filepath.Join(other, "k2"), "keys:\n"+keyLine("fourth", "fourth-key"))
	r.await("the fourth key", taken("fourth-key"))

	// What is the same is not built again, and who asked hears so.
	before := r.current.Load()
	r.Reload()
	if r.current.Load() != before || strings.Count(r.log.String(), "configuration unchanged") != 1 {
		t.Errorf("nothing has changed, and the log says\n%s", r.log)
	}
}

// TestKeysFileThatIsRefused: mending the keys file is enough, although no generation has read it.
func TestKeysFileThatIsRefused(t *testing.T) {
	t.Parallel()
	keys := filepath.Join(t.TempDir(), "keys.yaml")
	r := start(t, one)
	r.edit("tools:", "auth: {keys_file: "+keys+"}\ntools:")
	r.await("refusal", func() bool { return strings.Contains(r.log.String(), "auth.keys_file") })
	writeFile(t, keys, "keys:\n"+keyLine("first", "first-key"))
	r.await("the key", func() bool { return !r.current.Load().keys.Open() })
}

// TestLinkedFile edits a configuration in place where a link leads to.
func TestLinkedFile(t *testing.T) {
	t.Parallel()
	var text, target string
	r := start(t, one, func(o *Options) {
		data, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		text, target = string(data), filepath.Join(t.TempDir(), "other-name.yaml")
		writeFile(t, target, text)
		o.File = filepath.Join(t.TempDir(), "millrace.yaml")
		symlink(t, target, o.File)
	})
	at := r.hub.Now()
	writeFile(t, target, text+two)
	r.changed(at)
}

// TestRevertedFile: who takes a faulty change back is told that all is as it was, without asking.
func TestRevertedFile(t *testing.T) {
	t.Parallel()
	r := start(t, one)
	r.edit("version: 1", "version: 9")
	r.await("refusal", func() bool { return strings.Contains(r.log.String(), "version: is 9") })
	r.edit("version: 9", "version: 1")
	r.await("good news", func() bool { return strings.Contains(r.log.String(), "configuration unchanged") })
}

func TestWalk(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"v/..1", "real"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, dir+"/v/..1/f", "")
	writeFile(t, dir+"/real/g", "")
	for at, to := range map[string]string{"v/..data": "..1", "v/f": "..data/f", "abs": dir + "/real", "up": "v/../abs/g", "loop": "loop", "lost": "real/none"} {
		symlink(t, to, filepath.Join(dir, at))
	}
	for name, want := range map[string]string{
		"real/g":       "real/g",
		"v/f":          "v/f v/..data v/..1/f", // as Kubernetes mounts a ConfigMap
		"abs/g":        "abs real/g",
		"up":           "up abs real/g",
		"lost":         "lost real/none",
		"none/at/all":  "none",
		"real/g/below": "real/g",
		"loop":         strings.TrimSpace(strings.Repeat("loop ", 41)),
	} {
		var got []string
		err := walk(filepath.Join(dir, name), func(path string) error {
			rel, err := filepath.Rel(dir, path)
			got = append(got, rel)
			return err
		})
		if !slices.Equal(got, strings.Fields(want)) || (err != nil) != (name == "loop") {
			t.Errorf("%s: %q, %v; want %s", name, got, err, want)
		}
	}
}
