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
	long := strings.Repeat("x", 200)
	r, err := New(Config{Keys: []Key{{Name: "web", SHA256: strings.ToUpper(hash(secret)), Tenant: "acme", Scopes: []string{"write", "read"}},
		{Name: "long", SHA256: hash(long)}}})
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]string{
		"Bearer " + secret: "web", "bearer " + secret: "web", "BEARER " + secret: "web", "Bearer " + long: "long",
		"": "", "Bearer": "", "Bearer ": "", "Basic " + secret: "", secret: "", "Bearer  " + secret: "", "Bearer " + secret + " ": "",
		"Bearer " + hash(secret): "", "Bearer " + strings.Repeat("y", 5000): "",
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
	r, err := New(Config{Keys: []Key{{Name: "web", SHA256: hash(secret)}}})
	if err != nil {
		t.Fatal(err)
	}
	header := "Bearer " + secret
	if n := testing.AllocsPerRun(1000, func() {
		if _, ok := r.Find(header); !ok {
			t.Fatal("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
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

func TestValidate(t *testing.T) {
	t.Parallel()
	c := Config{Keys: []Key{{SHA256: hash("a")}, {Name: "b", SHA256: "zz"}, {Name: "c", SHA256: hash("a")}}}
	faults := c.Validate()
	if len(faults) != 3 || faults[0].Path != "keys[0]" || faults[1].Path != "keys[1].sha256" || faults[2].Path != "keys[2].sha256" {
		t.Errorf("got %v", faults)
	}
}
