package app

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/internal/config"
	"millrace/internal/mcp"
)

func (r *running) metrics() string {
	r.t.Helper()
	resp, err := http.Get("http://" + r.adminListener[0].Addr().String() + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

// TestRefusedReloadLeavesNoTrace: what was built for a file that is refused in the end is not what the metrics show.
func TestRefusedReloadLeavesNoTrace(t *testing.T) {
	t.Parallel()
	const keys = "auth: {keys: [{name: k, sha256: \"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\", tenant: t}]}\n" // of "secret"
	r := start(t, keys+one)
	hash := r.current.Load().loaded.Hash
	if got := r.call("one", "Authorization: Bearer secret"); !strings.Contains(got, `"v":1`) {
		t.Fatal(got)
	}
	r.edit(keys, "cache: {l1: {size: 77}}\n")
	r.edit("name: one", "name: other")
	r.edit("query_timeout: 60s", "query_timeout: 50s")
	r.Reload()
	for range 2 { // refused late, then early
		if !strings.Contains(r.log.String(), "no API keys any more") {
			t.Fatalf("not refused: %s", r.log)
		}
		text := r.metrics()
		for _, want := range []string{`millrace_config_info{hash="` + hash + `"} 1`, `{key="cache.l1.size"} 1000`, `tool="one"`,
			`millrace_cache_entries{level="l1"} 1`, `millrace_db_connections{role="reader",source="db",state="idle"} `} {
			if !strings.Contains(text, want) {
				t.Errorf("the metrics have no %s", want)
			}
		}
		if strings.Contains(text, `tool="other"`) || strings.Contains(text, `role="reader",source="db",state="idle"} 0`) {
			t.Error("the metrics show what was refused")
		}
		r.edit("SELECT 1 AS v", "DELETE FROM n")
		r.Reload()
	}
}

// TestDegradedIsOfNow: a source that a reload has taken away is no concern any more.
func TestDegradedIsOfNow(t *testing.T) {
	t.Parallel()
	r := start(t, one)
	gone := "sources: {gone: {sqlite: {path: /nowhere/at/all.db}}, "
	r.edit("sources: {", gone)
	r.Reload()
	r.await("degraded source", func() bool { return fmt.Sprint(r.health.Ready().Degraded) == "[source gone]" })
	if !r.health.Ready().Ready {
		t.Error("not ready with one source down")
	}
	r.edit(gone, "sources: {")
	r.Reload()
	if s := r.health.Ready(); len(s.Degraded) > 0 {
		t.Errorf("still degraded: %v", s.Degraded)
	}
}

// changed waits until a changed list of tools is told to those who listen.
func (r *running) changed(at uint64) (next uint64) {
	r.t.Helper()
	r.await("list_changed", func() bool {
		events, n, _, _ := r.hub.Since(at)
		next = n
		for _, e := range events {
			if e.Kind == mcp.ToolsChanged {
				return true
			}
		}
		return false
	})
	return next
}

// TestFileChange changes the file while others in its directory are written all the time, as a database there is.
func TestFileChange(t *testing.T) {
	t.Parallel()
	r := start(t, one)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(settle / 5)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				f, err := os.OpenFile(filepath.Join(filepath.Dir(r.file), "busy"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err == nil {
					f.WriteString("x")
					f.Close()
				}
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	at := r.hub.Now()
	r.edit("\ntools:\n", "\ntools:\n"+two)
	at = r.changed(at)
	if got := r.call("two"); !strings.Contains(got, `"v":2`) {
		t.Error(got)
	}
	r.edit("version: 1", "version: 9")
	r.await("refusal", func() bool { return strings.Contains(r.log.String(), "version: is 9") })
	if got := r.call("two"); !strings.Contains(got, `"v":2`) {
		t.Error(got)
	}
	if events, _, _, _ := r.hub.Since(at); len(events) > 0 {
		t.Errorf("a refused file changed lists: %v", events)
	}
}

// TestSymlinkSwap replaces the directory behind the file's symbolic link, as a ConfigMap's update does.
func TestSymlinkSwap(t *testing.T) {
	t.Parallel()
	var volume string
	write := func(version, text string) {
		dir := filepath.Join(volume, version)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "millrace.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(version, filepath.Join(volume, "..next")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(volume, "..next"), filepath.Join(volume, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	var text string
	r := start(t, one, func(o *Options) {
		data, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		volume, text = t.TempDir(), string(data)
		write("..1", text)
		o.File = filepath.Join(volume, "millrace.yaml")
		if err := os.Symlink("..data/millrace.yaml", o.File); err != nil {
			t.Fatal(err)
		}
	})
	at := r.hub.Now()
	write("..2", text+two)
	r.changed(at)
	if got := r.call("two"); !strings.Contains(got, `"v":2`) {
		t.Error(got)
	}
}

// TestStoppedServerDoesNotReload: a signal that comes too late opens nothing that nobody would close.
func TestStoppedServerDoesNotReload(t *testing.T) {
	t.Parallel()
	r := start(t, one)
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	old := r.current.Load()
	r.edit("name: one", "name: other")
	r.Reload()
	if r.current.Load() != old || len(r.sources.open) > 0 {
		t.Error("it reloaded")
	}
}

// TestFailingStart: what New opened before it failed is closed again.
func TestFailingStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	file := filepath.Join(t.TempDir(), "millrace.yaml")
	// A password in a URL that is wrong elsewhere, to see that no error shows it.
	text := "version: 1\nlisten: {address: \"" + address + "\"}\nadmin: {address: \"" + taken.Addr().String() + "\"}\n"
	for _, c := range []struct{ more, want string }{
		{"", "address already in use"},
		{"auth: {state_key_file: /nowhere}\n", "state_key_file"},
		{"sources: {pg: {postgres: {primary: \"postgres://u:Zq7canary@[::1:5432/db\"}}}\n", "primary"},
		{"sources: {pg: {postgres: {primary: \"postgres://u:Zq7canary@127.0.0.1:1/db\"}, pool: {size: Zq7}}}\n", "pool.size"},
	} {
		if err := os.WriteFile(file, []byte(text+c.more), 0o600); err != nil {
			t.Fatal(err)
		}
		log := &buffer{}
		_, err := New(t.Context(), Options{File: file, Log: slog.New(slog.NewTextHandler(log, nil)), Out: io.Discard})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error()+log.String(), "Zq7canary") {
			t.Errorf("%q: %v\n%s", c.more, err, log)
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Errorf("%q: the listener is still open: %v", c.more, err)
			continue
		}
		l.Close()
	}
}

// TestEveryNumberIsShown: each number of the default configuration, found in the tree rather than listed here.
func TestEveryNumberIsShown(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	defaults := config.Default()
	numbers := defaults.Numbers()
	if len(numbers) < 10 {
		t.Fatalf("only %v", numbers)
	}
	text := r.metrics()
	for key := range numbers {
		if !strings.Contains(text, fmt.Sprintf("millrace_config_value{key=%q} ", key)) {
			t.Errorf("%s is not shown", key)
		}
	}
}
