package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/e2e/harness"
)

// TestDatabaseDown starts with a database that is not there, brings it up, takes it away and brings it back.
func TestDatabaseDown(t *testing.T) {
	t.Parallel()
	pg := harness.NewPostgres(t)
	config, env := harness.WorkConfig(t, "")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	yaml := strings.Replace(string(text), "sources:\n", "sources:\n  shop: {postgres: {primary: \""+pg.URL()+"\"}, pool: {wait: 1s}}\n", 1) + `
  - name: answer
    source: shop
    description: Gives the answer.
    statement: SELECT 42 AS answer
    annotations: {readOnlyHint: true}
`
	harness.Replace(t, config, yaml)
	s := harness.Start(t, harness.Options{Config: config, Env: env}) // which waits until it is ready
	down := func() error {
		a := harness.CallModern(t, s.URL, "answer", `{}`)
		message, _ := a.Field("result", "content", 0, "text").(string)
		if a.Status != http.StatusOK || a.Field("result", "isError") != true || message == "" {
			return fmt.Errorf("want isError with a text: %v", a)
		}
		if strings.Contains(a.Message(), "millrace@") || strings.Contains(a.Message(), fmt.Sprint(pg.Port)) {
			return fmt.Errorf("the error tells the client where the database is: %v", a)
		}
		if code, body, err := s.AdminGet("/readyz"); code != http.StatusOK {
			return fmt.Errorf("readiness with one source down: %d %s %v", code, body, err)
		}
		echo := harness.Post(t, s.URL, harness.ModernBody("1", "tools/call", `"name":"count_notes","arguments":{}`), harness.ModernHeaders("tools/call", "count_notes")...)
		if echo.Field("result", "structuredContent", "rows", 0, "notes") == nil {
			return fmt.Errorf("the other source: %v", echo)
		}
		return nil
	}
	up := func() error {
		if a := harness.CallModern(t, s.URL, "answer", `{}`); fmt.Sprint(a.Field("result", "structuredContent", "rows", 0, "answer")) != "42" {
			return fmt.Errorf("%v", a)
		}
		return nil
	}
	if err := down(); err != nil {
		t.Fatalf("before PostgreSQL is up: %v", err)
	}
	pg.Start()
	harness.Eventually(t, 30*time.Second, "the tool works once PostgreSQL is up", up)
	pg.Stop()
	harness.Eventually(t, 30*time.Second, "the tool fails clearly once PostgreSQL is gone", down)
	pg.Start()
	harness.Eventually(t, 30*time.Second, "the tool works once PostgreSQL is back", up)
}

// TestDiskFull writes until the disk is full: writes fail clearly, reads go on, and nothing that was acknowledged is lost.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	config, env := harness.WorkConfig(t, "")
	db := strings.TrimPrefix(env[0], "WORK_DB=")
	small := filepath.Join(filepath.Dir(db), "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(db)
	if err != nil {
		t.Fatal(err)
	}
	// A small disk in a mount namespace of the server's own; where that is not allowed, a limit on the size of its files.
	var prefix []string
	if exec.Command("unshare", "-m", "true").Run() == nil {
		script := fmt.Sprintf(`mount -t tmpfs -o size=%d none "$0" && cp "$1" "$0/" && shift && exec "$@"`, info.Size()+8<<20)
		prefix = []string{"unshare", "-m", "sh", "-c", script, small, db}
		env = []string{"WORK_DB=" + filepath.Join(small, filepath.Base(db))}
	} else {
		prefix = []string{"prlimit", fmt.Sprintf("--fsize=%d", info.Size()+8<<20)}
	}
	s := harness.Start(t, harness.Options{Config: config, Env: env, Prefix: prefix})
	written := 0
	var refused harness.Answer
	for written < 100 && refused.Body == "" {
		a := harness.CallModern(t, s.URL, "fill", `{"bytes":1000000}`)
		switch {
		case a.Status != http.StatusOK || a.Field("result") == nil:
			t.Fatalf("a write: want a result, good or bad: %v", a)
		case a.Field("result", "isError") == true:
			refused = a
		default:
			written++
		}
	}
	if refused.Body == "" || written == 0 {
		t.Fatalf("%d MB were written without an error", written)
	}
	if message, _ := refused.Field("result", "content", 0, "text").(string); !strings.Contains(strings.ToLower(message), "full") && !strings.Contains(strings.ToLower(message), "space") && !strings.Contains(strings.ToLower(message), "disk") {
		t.Errorf("the error does not say what is wrong: %v", refused)
	}
	a := harness.CallModern(t, s.URL, "count_notes", `{}`)
	if got := fmt.Sprint(a.Field("result", "structuredContent", "rows", 0, "notes")); got != fmt.Sprint(written) {
		t.Errorf("%s notes can be read, %d were acknowledged: %v", got, written, a)
	}
}

// TestHugeResult asks for 100 MB, in many rows and in one, from a tool with the default bound and from one with a bound of
// 64 MiB: each ends with a notice, and the server's memory stays bounded.
func TestHugeResult(t *testing.T) {
	t.Parallel()
	s := harness.Work(t, "")
	before := s.Memory(t)
	for range 3 {
		for tool, args := range map[string]string{"rows": `{"n":100000,"width":1000}`, "big": `{"bytes":100000000}`} {
			a := harness.CallModern(t, s.URL, tool, args)
			if a.Status != http.StatusOK || len(a.Body) > 4<<20 {
				t.Fatalf("%s %s: %d bytes: %v", tool, args, len(a.Body), a)
			}
			truncated := a.Field("result", "structuredContent", "truncated") == true
			if !truncated && a.Field("result", "isError") != true {
				t.Errorf("%s %s: neither a notice nor an error: %v", tool, args, a)
			}
		}
	}
	s.Grown(t, before, 300<<20, "results bounded at 1 MiB")
	a := harness.CallModern(t, s.URL, "long", `{"n":200000,"width":1000}`)
	if a.Field("result", "structuredContent", "truncated") != true || len(a.Body) < 32<<20 {
		t.Errorf("long: want some 64 MiB, twice as text, and a notice: %d bytes", len(a.Body))
	}
	s.Grown(t, before, 1000<<20, "a result bounded at 64 MiB")
	a = harness.CallModern(t, s.URL, "count_notes", `{}`)
	if a.Field("result", "structuredContent", "rows") == nil {
		t.Errorf("afterwards: %v", a)
	}
}
