package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/internal/mcp"
)

func hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

const secret = "k-4f9d1c0b7a6e5d4c3b2a190807060504"

func TestFind(t *testing.T) {
	t.Parallel()
	long, greatest := strings.Repeat("x", 200), strings.Repeat("g", 4096)
	r, err := New(Config{Keys: []Key{{Name: "web", SHA256: strings.ToUpper(hash(secret)), Tenant: "acme", Scopes: []string{"write", "read"}},
		{Name: "long", SHA256: hash(long)}, {Name: "greatest", SHA256: hash(greatest)}, {Name: "beyond", SHA256: hash(greatest + "g")}}})
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]string{
		"Bearer " + secret: "web", "bearer " + secret: "web", "BEARER " + secret: "web", "Bearer " + long: "long",
		"": "", "Bearer": "", "Bearer ": "", "Basic " + secret: "", secret: "", "Bearer  " + secret: "", "Bearer " + secret + " ": "",
		"Bearer " + hash(secret): "", "Bearer " + greatest: "greatest", "Bearer " + greatest + "g": "", "Bearer\t" + secret: "", "Bearer\x00" + secret: "",
	} {
		p, ok := r.Find(header)
		if ok != (want != "") || ok && p.Subject != want {
			t.Errorf("%.40q: %v, %t", header, p, ok)
		}
	}
	p, _ := r.Find("Bearer " + secret)
	if p.Tenant != "acme" || !p.Has([]string{"read", "write"}) || p.Has([]string{"admin"}) {
		t.Errorf("got %+v", p)
	}
}

func TestWithoutKeysEverybodyIsAnonymous(t *testing.T) {
	t.Parallel()
	r, err := New(Config{})
	if err != nil || !r.Open() {
		t.Fatal(err)
	}
	if p, ok := r.Find(""); !ok || p != mcp.Anonymous {
		t.Errorf("got %v, %t", p, ok)
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	longest := strings.Repeat("x", 128)
	r, err := New(Config{Keys: []Key{{Name: "web", SHA256: hash(secret)}, {Name: "longest", SHA256: hash(longest)}}})
	if err != nil {
		t.Fatal(err)
	}
	for header, known := range map[string]bool{"Bearer " + secret: true, "Bearer " + longest: true, "Bearer unknown": false, "": false, "Bearer " + strings.Repeat("x", 1<<20): false} {
		if n := testing.AllocsPerRun(1000, func() {
			if _, ok := r.Find(header); ok != known {
				t.Fatal("found and not found are confused")
			}
		}); n != 0 {
			t.Errorf("%.20s: %v allocations", header, n)
		}
	}
}

func TestKeysFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("keys:\n  - {name: filed, sha256: " + hash("other") + "}\n")
	r, err := New(Config{KeysFile: file, Keys: []Key{{Name: "web", SHA256: hash(secret)}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{secret, "other"} {
		if _, ok := r.Find("Bearer " + key); !ok {
			t.Errorf("%s is not found", key)
		}
	}
	for text, want := range map[string]string{
		"keys:\n  - {name: again, sha256: " + hash(secret) + "}\n": `keys.yaml:2:27: keys[0].sha256: is the key of "web" too`,
		"keys:\n  - {name: x, sha256: abc}\n":                      "keys.yaml:2:23: keys[0].sha256: not a SHA-256 in hexadecimal",
		"kyes: []\n":                                               "did you mean",
	} {
		write(text)
		_, err := New(Config{KeysFile: file, Keys: []Key{{Name: "web", SHA256: hash(secret)}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	if _, err := New(Config{KeysFile: file + ".gone"}); err == nil || !strings.Contains(err.Error(), "auth.keys_file") {
		t.Errorf("a missing file: %v", err)
	}
}

// A file that was emptied must not open the server to everybody.
func TestAKeysFileWithoutKeys(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n# none yet\n", "keys: []\n", "{}\n"} {
		file := keysFileOf(t, text)
		if _, err := New(Config{KeysFile: file}); err == nil || !strings.Contains(err.Error(), "holds no key") {
			t.Errorf("%q: %v", text, err)
		}
		r, err := New(Config{KeysFile: file, Keys: []Key{{Name: "web", SHA256: hash(secret)}}})
		if err != nil || r.Open() {
			t.Errorf("%q beside a key of the configuration: %v", text, err)
		}
	}
}

func keysFileOf(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// People put keys where hashes belong. The error, which goes to logs, must not tell them on.
func TestErrorsTellNoSecrets(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"- %s\n", "%s\n", "keys:\n  - %s\n", "keys: %s\n", "keys: {a: %s}\n", "keys:\n  - {name: a, sha256: %s}\n", "keys:\n  - {name: a, key: %s}\n",
		"keys:\n  - {name: a, sha256: [%s]}\n", "keys:\n  - {name: a, sha256: %s\n", "keys:\n  - name: a\n    %s\n", "keys:\n  - {name: [%s]}\n",
	} {
		_, err := New(Config{KeysFile: keysFileOf(t, strings.Replace(text, "%s", secret, 1))})
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", text, err)
		}
	}
	c := Config{Keys: []Key{{Name: "a", SHA256: secret}, {Name: "b", SHA256: hash(secret)}, {Name: "c", SHA256: hash(secret)}}}
	if text := c.Validate().Error(); strings.Contains(text, secret) || strings.Contains(text, hash(secret)) {
		t.Error(text)
	}
	if _, err := New(c); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("without validation: %v", err)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ key, path, message string }{
		{"", "keys[0].sha256", "not a SHA-256"}, {"zz", "keys[0].sha256", "not a SHA-256"}, {hash("a")[1:], "keys[0].sha256", "not a SHA-256"},
		{hash("a") + "00", "keys[0].sha256", "not a SHA-256"}, {hash(""), "keys[0].sha256", "of nothing"},
		{strings.ToUpper(hash("")), "keys[0].sha256", "of nothing"}, {hash("a"), "", ""}, {strings.ToUpper(hash("a")), "", ""},
	} {
		faults := (&Config{Keys: []Key{{Name: "x", SHA256: c.key}}}).Validate()
		if c.path == "" && len(faults) == 0 {
			continue
		}
		if len(faults) != 1 || faults[0].Path != c.path || !strings.Contains(faults[0].Message, c.message) || faults[0].Fix == "" {
			t.Errorf("%q: %v", c.key, faults)
		}
	}
	c := Config{Keys: []Key{{SHA256: hash("a")}, {Name: "b", SHA256: "zz"}, {Name: "c", SHA256: strings.ToUpper(hash("a"))}}}
	faults := c.Validate()
	if len(faults) != 3 || faults[0].Path != "keys[0]" || faults[1].Path != "keys[1].sha256" || faults[2].Path != "keys[2].sha256" {
		t.Errorf("got %v", faults)
	}
	if faults := (&Config{}).Validate(); len(faults) != 0 {
		t.Errorf("the defaults have %v", faults)
	}
}

func BenchmarkFind(b *testing.B) {
	r, err := New(Config{Keys: []Key{{Name: "web", SHA256: hash(secret)}}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := r.Find("Bearer " + secret); !ok {
				b.Error("not found")
			}
		}
	})
}
