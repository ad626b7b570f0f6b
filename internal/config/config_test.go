package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/internal/conf"
	"millrace/internal/sqldb"
)

// FuzzConfig: no file panics or goes unjudged, and none that is taken gives numbers or a hash that change by asking.
func FuzzConfig(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	const canary = "Zq7canary"
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 || strings.Contains(string(data), canary) {
			return
		}
		l, faults := Load("f.yaml", data, func(name string) (string, bool) { return canary, name != "NOPE" })
		if l == nil {
			t.Fatal("nothing is loaded")
		}
		for _, fault := range faults {
			if fault.Line < 1 || fault.Column < 1 || fault.Message == "" || fault.Fix == "" {
				t.Fatalf("incomplete: %#v", fault)
			}
		}
		if len(faults) == 0 && l.Version != 1 {
			t.Fatal("taken without its version")
		}
		if first, again := HashOf(l.Config), HashOf(l.Config); first != again {
			t.Fatal("two hashes of one configuration")
		}
		l.Numbers()
	})
}

// TestHashSeesSecrets: a password that changes makes another source, wherever in the tree it stands.
func TestHashSeesSecrets(t *testing.T) {
	t.Parallel()
	with := func(password string) Config {
		c := Default()
		source := sqldb.DefaultConfig()
		source.Postgres = &sqldb.PostgresConfig{Primary: conf.Secret("postgres://u:" + password + "@h/d")}
		c.Sources = map[string]sqldb.Config{"a": sqldb.DefaultConfig(), "b": source, "c": sqldb.DefaultConfig()}
		return c
	}
	if HashOf(with("one")) == HashOf(with("two")) {
		t.Error("two passwords, one hash")
	}
	for range 20 {
		if first, again := HashOf(with("one")), HashOf(with("one")); first != again {
			t.Fatal("the order of a map is part of the hash")
		}
	}
}
