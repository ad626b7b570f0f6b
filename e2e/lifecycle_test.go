package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/e2e/harness"
)

// listTools is the tools that a server lists now.
func listTools(t *testing.T, s *harness.Server) string {
	t.Helper()
	a := harness.Post(t, s.URL, harness.ModernBody("1", "tools/list", ""), harness.ModernHeaders("tools/list", "")...)
	if a.Status != http.StatusOK {
		t.Fatalf("tools/list: %v", a)
	}
	return a.Message()
}

func awaitTool(t *testing.T, s *harness.Server, name string) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, "the list has "+name, func() error {
		if tools := listTools(t, s); !strings.Contains(tools, `"`+name+`"`) {
			return fmt.Errorf("%.300s", tools)
		}
		return nil
	})
}

// TestReload edits the file that is served: a good one is taken, a faulty one is refused and the old one goes on.
func TestReload(t *testing.T) {
	t.Parallel()
	config, env := harness.DemoConfig(t)
	s := harness.Start(t, harness.Options{Config: config, Env: env})
	harness.AddTool(t, config, "e2e_first")
	awaitTool(t, s, "e2e_first")

	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	// Written in place, as some editors do, and with a fault in it.
	if err := os.WriteFile(config, []byte(string(good)+"tols: []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 20*time.Second, "the log names the fault", func() error {
		if !strings.Contains(s.Output(), "tols") {
			return fmt.Errorf("the log has nothing of it")
		}
		return nil
	})
	if tools := listTools(t, s); !strings.Contains(tools, "e2e_first") {
		t.Errorf("the old file does not go on serving: %s", tools)
	}
	harness.Replace(t, config, string(good))
	harness.AddTool(t, config, "e2e_second")
	awaitTool(t, s, "e2e_second")

	// A listener cannot change while it runs, and the log says so.
	harness.Replace(t, config, string(good)+"listen: {max_body: 1MiB}\n")
	harness.Eventually(t, 20*time.Second, "the log says that a restart is needed", func() error {
		if !strings.Contains(s.Output(), "restart") {
			return fmt.Errorf("the log has nothing of it")
		}
		return nil
	})
	if tools := listTools(t, s); !strings.Contains(tools, "e2e_second") {
		t.Errorf("the old file does not go on serving: %s", tools)
	}
}

// TestReloadOnSignal asks for reloads of a file that is as it was, which only the signal can bring, while callers are served.
func TestReloadOnSignal(t *testing.T) {
	t.Parallel()
	config, env := harness.DemoConfig(t)
	s := harness.Start(t, harness.Options{Config: config, Env: env})
	for i := range 10 {
		s.Signal(t, syscall.SIGHUP)
		if a := harness.CallModern(t, s.URL, "get_city", fmt.Sprintf(`{"id":%d}`, harness.Berlin)); a.Status != http.StatusOK {
			t.Fatalf("a call during reloads: %v", a)
		}
		harness.Eventually(t, 20*time.Second, "the log answers the signal", func() error {
			if n := strings.Count(s.Output(), "configuration unchanged"); n != i+1 {
				return fmt.Errorf("%d signals, %d answers", i+1, n)
			}
			return nil
		})
	}
	// A signal and the watcher may both see one change; it is taken all the same.
	harness.AddTool(t, config, "e2e_hup")
	s.Signal(t, syscall.SIGHUP)
	awaitTool(t, s, "e2e_hup")
}

// TestReloadOfLinks serves a file that Kubernetes would mount: a link to a link, of which the inner one is replaced.
func TestReloadOfLinks(t *testing.T) {
	t.Parallel()
	config, env := harness.DemoConfig(t)
	dir := t.TempDir()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	version := func(name string) string {
		if err := os.Mkdir(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
		harness.Replace(t, dir+"/"+name+"/millrace.yaml", string(text))
		return dir + "/" + name + "/millrace.yaml"
	}
	link := func(to, at string) {
		if err := os.Symlink(to, dir+"/next"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+"/next", dir+"/"+at); err != nil {
			t.Fatal(err)
		}
	}
	version("one")
	link("one", "..data")
	link("..data/millrace.yaml", "millrace.yaml")
	s := harness.Start(t, harness.Options{Config: dir + "/millrace.yaml", Env: env})
	harness.AddTool(t, version("two"), "e2e_linked")
	link("two", "..data")
	awaitTool(t, s, "e2e_linked")
}

// outcome is what became of a call.
type outcome struct {
	answer harness.Answer
	err    error
}

// startSlow calls a tool that takes seconds, and tells what the call must give.
func startSlow(t *testing.T, s *harness.Server) (call <-chan outcome, n string) {
	t.Helper()
	n = "6000000"
	if harness.Raced() {
		n = "400000"
	}
	done := make(chan outcome, 1)
	go func() {
		body := harness.ModernBody("1", "tools/call", `"name":"slow","arguments":{"n":`+n+`}`)
		a, err := harness.Do(t.Context(), http.MethodPost, s.URL, strings.NewReader(body), harness.ModernHeaders("tools/call", "slow")...)
		done <- outcome{a, err}
	}()
	return done, n
}

// awaitRequests waits until n requests are in flight, open streams among them.
func awaitRequests(t *testing.T, s *harness.Server, n int) {
	t.Helper()
	want := fmt.Sprintf("mcp_server_in_flight %d", n)
	harness.Eventually(t, 10*time.Second, want, func() error {
		_, metrics, err := s.AdminGet("/metrics")
		if err != nil {
			return err
		}
		for line := range strings.Lines(metrics) {
			if strings.TrimSpace(line) == want {
				return nil
			}
		}
		return fmt.Errorf("the metrics have another number or none")
	})
}

// answered fails the test where a call of startSlow does not get its answer.
func answered(t *testing.T, call <-chan outcome, n string) {
	t.Helper()
	select {
	case o := <-call:
		if o.err != nil || fmt.Sprint(o.answer.Field("result", "structuredContent", "rows", 0, "n")) != n {
			t.Errorf("the call in flight: %v %v", o.answer, o.err)
		}
	case <-time.After(60 * time.Second):
		t.Error("the call in flight got no answer")
	}
}

// TestDrain ends the server while a call runs and a stream is open: the call gets its answer, the stream its end.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := harness.Work(t, "")
	stream := listen(t, s)
	slow, n := startSlow(t, s)
	awaitRequests(t, s, 2) // the stream is one
	s.Signal(t, syscall.SIGTERM)
	harness.Eventually(t, 10*time.Second, "readiness goes off", func() error {
		if code, _, err := s.AdminGet("/readyz"); err == nil && code == http.StatusOK {
			return fmt.Errorf("still ready")
		}
		return nil
	})
	answered(t, slow, n)
	rest, err := io.ReadAll(stream)
	if err != nil || !strings.Contains(string(rest), `"resultType":"complete"`) {
		t.Errorf("the stream ended without its answer: %q %v", rest, err)
	}
	if code := s.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// listen opens a modern subscription and returns the stream after its acknowledgement.
func listen(t *testing.T, s *harness.Server) io.Reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	body := harness.ModernBody(`"sub"`, "subscriptions/listen", `"notifications":{"toolsListChanged":true}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range append(harness.ModernHeaders("subscriptions/listen", ""), "Content-Type: application/json", "Accept: application/json, text/event-stream") {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	lines := bufio.NewReader(res.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("subscriptions/listen: %d %v", res.StatusCode, err)
		}
		if strings.Contains(line, "notifications/subscriptions/acknowledged") {
			return lines
		}
	}
}

// TestDrainIdle ends a server that has only idle connections and a legacy stream: that takes no time.
func TestDrainIdle(t *testing.T) {
	t.Parallel()
	s := harness.Work(t, "")
	session := harness.Initialize(t, s.URL, "2025-11-25", "{}")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range append(session.Headers(), "Accept: text/event-stream") {
		name, value, _ := strings.Cut(header, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req) // returns when the stream is open
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	serves(t, s)
	s.Signal(t, syscall.SIGTERM)
	if code := s.Wait(t, 15*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("the stream did not end cleanly: %v", err)
	}
}

// TestDrainUnfinished ends the server while a client has sent the head and half a body and nothing more: a call that runs
// is still answered, and the half request does not keep the server from a clean end.
func TestDrainUnfinished(t *testing.T) {
	t.Parallel()
	s := harness.Work(t, "")
	body := harness.ModernBody("1", "tools/call", `"name":"count_notes","arguments":{}`)
	half := dial(t, s)
	if _, err := io.WriteString(half, raw(s, body[:len(body)/2], len(body))); err != nil {
		t.Fatal(err)
	}
	slow, n := startSlow(t, s)
	awaitRequests(t, s, 1)
	s.Signal(t, syscall.SIGTERM)
	answered(t, slow, n)
	if code := s.Wait(t, 15*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
