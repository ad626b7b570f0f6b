package app

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// checked gives what Check says of a file with this text, with DIR in it standing for the file's directory.
func checked(t *testing.T, text string, connect bool, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		writeFile(t, filepath.Join(dir, name), content)
	}
	file := filepath.Join(dir, "m.yaml")
	writeFile(t, file, strings.ReplaceAll(text, "DIR", dir))
	faults, err := Check(t.Context(), file, connect)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		if f.File == "" || f.Line == 0 || f.Fix == "" {
			t.Errorf("a fault without its place or fix: %#v", f)
		}
	}
	return strings.ReplaceAll(faults.String(), dir+"/", "")
}

// TestCheckOpensFiles: what a start would find wrong with the files of the configuration, check finds.
func TestCheckOpensFiles(t *testing.T) {
	t.Parallel()
	got := checked(t, `version: 1
listen:
  address: "127.0.0.1:0"
  tls: {cert_file: DIR/cert.pem, key_file: DIR/key.pem}
admin:
  token_file: DIR/token
auth:
  keys_file: DIR/none.yaml
  state_key_file: DIR/short
`, false, map[string]string{"cert.pem": "no certificate", "key.pem": "", "token": " \n", "short": "0123"})
	for i, want := range []string{
		"m.yaml:4:3: listen.tls: TLS certificate cert.pem with key key.pem: ",
		"m.yaml:6:15: admin.token_file: token is empty; ",
		"m.yaml:8:14: auth.keys_file: open none.yaml: no such file",
		"m.yaml:9:19: auth.state_key_file: short has 4 bytes",
	} {
		if lines := strings.Split(got, "\n"); len(lines) != 4 || !strings.HasPrefix(lines[i], want) {
			t.Errorf("got\n%s\nwant %s", got, want)
		}
	}
	// The same words when it is served.
	file := filepath.Join(t.TempDir(), "m.yaml")
	for text, want := range map[string]string{
		"auth: {keys_file: /nowhere}":      ":4:19: auth.keys_file: open /nowhere",
		"auth: {state_key_file: /nowhere}": ":4:24: auth.state_key_file: open /nowhere",
	} {
		writeFile(t, file, head+text+"\n")
		_, err := New(t.Context(), Options{File: file, Log: slog.New(slog.DiscardHandler), Out: io.Discard})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", text, err, want)
		}
	}
	// A fault within the keys file stands at its own line.
	got = checked(t, "version: 1\nauth: {keys_file: DIR/keys.yaml}\n", false, map[string]string{"keys.yaml": "keys:\n  - {name: a, sha256: b}\n"})
	if !strings.HasPrefix(got, "keys.yaml:2:23: keys[0].sha256: ") || strings.Contains(got, "\n") {
		t.Errorf("got %s", got)
	}
}

// TestCheckOfEverySource: neither a source that is down nor a fault elsewhere hides what another database refuses.
func TestCheckOfEverySource(t *testing.T) {
	t.Parallel()
	r := start(t, one)
	db := filepath.Join(filepath.Dir(r.file), "test.db")
	tool := func(name, source, statement string) string {
		return "  - {name: " + name + ", source: " + source + ", description: d, statement: " + statement + ", annotations: {readOnlyHint: true}}\n"
	}
	got := checked(t, "version: 1\nunknown: 5\nsources:\n  a: {sqlite: {path: DIR/none.db}}\n  b: {sqlite: {path: "+db+"}}\ntools:\n"+
		tool("lost", "a", "SELECT 1")+tool("wrong", "b", "SELECT * FROM absent")+tool("two", "b", "SELECT 1; SELECT 2")+tool("right", "b", "SELECT i FROM n"), true, nil)
	lines := strings.Split(got, "\n")
	for i, want := range []string{"m.yaml:2:1: unknown: ", "m.yaml:4:3: sources.a: ", "m.yaml:8:57: tools[1].statement: wrong: the statement failed: SQL logic error: no such table: absent; ", "m.yaml:9:55: tools[2].statement: "} {
		if len(lines) != 4 || !strings.HasPrefix(lines[i], want) {
			t.Errorf("got\n%s\nwant %s", got, want)
		}
	}
}

// TestRefusedStatementIsLogged: at the start, and once more for a generation that changes something else.
func TestRefusedStatementIsLogged(t *testing.T) {
	t.Parallel()
	r := start(t, one+"  - {name: wrong, source: db, description: d, statement: SELECT * FROM absent, annotations: {readOnlyHint: true}}\n")
	const want = "tools[1].statement: wrong: the statement failed: SQL logic error: no such table: absent; mend the statement, or the tables of source db"
	for i := range 2 {
		if got := strings.Count(r.log.String(), want); got != i+1 || !strings.Contains(r.log.String(), "millrace.yaml:7:") {
			t.Errorf("generation %d: told %d times\n%s", i, got, r.log)
		}
		r.edit("One.", "Another.")
		r.Reload()
	}
}

// TestAddressInUse names the key or the flag, with what to do.
func TestAddressInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	file := filepath.Join(t.TempDir(), "m.yaml")
	for _, c := range []struct{ listen, admin, probes, flag, want string }{
		{taken, "127.0.0.1:0", "", "", "m.yaml:2:19: listen.address: cannot listen on " + taken + ": bind: address already in use; see which program has the port (ss -ltnp) and stop it, or give another address with --listen"},
		{"127.0.0.1:0", taken, "", "", "m.yaml:3:18: admin.address: cannot listen on " + taken + ": bind: address already in use; see which program has the port (ss -ltnp) and stop it, or give another address with --admin"},
		{"127.0.0.1:0", "127.0.0.1:0", taken, "", "m.yaml:4:19: probes.address: cannot listen on " + taken + ": bind: address already in use; see which program has the port (ss -ltnp) and stop it, or give another address"},
		{"127.0.0.1:0", "127.0.0.1:0", "", taken, "--listen " + taken + ": cannot listen on " + taken},
		{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:1", "127.0.0.1:1", "probes.address: 127.0.0.1:1 is taken by listen.address"},
	} {
		writeFile(t, file, fmt.Sprintf("version: 1\nlisten: {address: %q}\nadmin: {address: %q}\nprobes: {address: %q}\n", c.listen, c.admin, c.probes))
		_, err := New(t.Context(), Options{File: file, Listen: c.flag, Log: slog.New(slog.DiscardHandler), Out: io.Discard})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v; want %s", err, c.want)
		}
	}
}
