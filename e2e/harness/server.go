package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Options says how a server is started. The zero value is the demo on ports of the kernel's choice.
type Options struct {
	Config string   // a file; empty means the demo
	Data   string   // where the demo's database is made; empty means a directory shared by the test binary
	Env    []string // added to the environment
	Args   []string // added to the command line
	Prefix []string // a command that runs the server, such as one that sets limits
	Make   bool     // `make run` builds and runs the server, instead of Prefix and the binary under test
}

// Server is one running `millrace serve`.
type Server struct {
	URL   string // of MCP, ending in /mcp
	Admin string // of the admin listener, without a path

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and its output is read

	mu  sync.Mutex
	out strings.Builder // what it printed on either stream, guarded by mu
}

var (
	mcpURL   = regexp.MustCompile(`https?://[^\s"'<>]+/mcp\b`)
	adminURL = regexp.MustCompile(`(?i)admin.*?(https?://[^\s"'<>/]+)`)
)

// Start starts a server, waits until it is ready and stops it when the test ends.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	s, err := launch(o)
	if err != nil {
		tb.Fatalf("start millrace: %v", err)
	}
	tb.Cleanup(func() {
		s.Kill()
		if tb.Failed() {
			tb.Logf("the server at %s printed:\n%s", s.URL, tail(s.Output(), 8000))
		}
	})
	return s
}

func launch(o Options) (*Server, error) {
	args := []string{"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}
	if o.Config != "" {
		args = append(args, "--config", o.Config)
	} else {
		if o.Data == "" {
			o.Data = filepath.Join(scratch, "data")
		}
		if err := os.MkdirAll(o.Data, 0o755); err != nil {
			return nil, err
		}
		args = append(args, "--data", o.Data)
	}
	args = append(args, o.Args...)
	command, dir := slices.Concat(o.Prefix, []string{binary, "serve"}, args), scratch
	if o.Make {
		command, dir = []string{"make", "run", "ARGS='" + strings.Join(args, "' '") + "'"}, Repository()
	}
	s := &Server{cmd: exec.Command(command[0], command[1:]...), done: make(chan struct{})}
	s.cmd.Env = append(os.Environ(), o.Env...)
	s.cmd.SysProcAttr = ownGroup()
	s.cmd.Dir = dir
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	urls := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() { s.read(stdout, urls) })
	readers.Go(func() { s.read(stderr, nil) })
	go func() {
		readers.Wait()
		_ = s.cmd.Wait()
		close(s.done)
	}()
	select {
	case <-urls:
	case <-s.done:
		return nil, fmt.Errorf("it ended with code %d:\n%s", s.cmd.ProcessState.ExitCode(), s.Output())
	case <-time.After(60 * time.Second):
		s.Kill()
		return nil, fmt.Errorf("it printed no URLs:\n%s", s.Output())
	}
	if err := s.awaitReady(); err != nil {
		s.Kill()
		return nil, err
	}
	return s, nil
}

// read keeps one stream's lines and closes urls once both URLs are known. Only the reader of stdout gets urls, and the
// URLs are written before it closes, so that those who wait for it may read them.
func (s *Server) read(r io.Reader, urls chan struct{}) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if urls != nil {
			if m := mcpURL.FindString(line); m != "" && s.URL == "" {
				s.URL = m
			}
			if m := adminURL.FindStringSubmatch(line); m != nil && s.Admin == "" {
				s.Admin = m[1]
			}
			if s.URL != "" && s.Admin != "" {
				close(urls)
				urls = nil
			}
		}
		s.mu.Lock()
		s.out.WriteString(line + "\n")
		s.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r)
}

func (s *Server) awaitReady() error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		code, body, err := s.AdminGet("/readyz")
		if err == nil && code == http.StatusOK {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready: %d %s %v\n%s", code, body, err, s.Output())
		}
		time.Sleep(10 * time.Millisecond) // the pause between two polls
	}
}

// AdminGet gets a path of the admin listener, within five seconds.
func (s *Server) AdminGet(path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Admin+path, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// Output is all that the server has printed so far.
func (s *Server) Output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// Host is the host and port of the MCP listener.
func (s *Server) Host() string {
	return strings.TrimSuffix(strings.TrimPrefix(s.URL, "http://"), "/mcp")
}

// Signal sends a signal to the server.
func (s *Server) Signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		tb.Fatalf("signal %v: %v", sig, err)
	}
}

// SignalGroup sends a signal to the server and to all that runs it or that it runs, as a terminal does.
func (s *Server) SignalGroup(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if err := syscall.Kill(-s.cmd.Process.Pid, sig); err != nil {
		tb.Fatalf("signal %v: %v", sig, err)
	}
}

// Wait waits for the end of the process and returns its exit code.
func (s *Server) Wait(tb testing.TB, d time.Duration) int {
	tb.Helper()
	select {
	case <-s.done:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(d):
		tb.Fatalf("the server has not ended within %v", d)
		return -1
	}
}

// Done is closed when the process has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Kill ends the server and whatever it started, at once.
func (s *Server) Kill() {
	killGroup(s.cmd)
	<-s.done
}

// stop ends it as an operator would, so that its files are closed.
func (s *Server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("SIGTERM: exit code %d\n%s", code, s.Output())
		}
		return nil
	case <-time.After(20 * time.Second):
		s.Kill()
		return errors.New("SIGTERM: it did not end within 20 s")
	}
}

// Memory is the resident memory of the server in bytes. Under a prefix it is that of the prefix's process.
func (s *Server) Memory(tb testing.TB) int64 {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kb), " kB"), 10, 64)
			return n << 10
		}
	}
	tb.Fatal("no VmRSS in /proc")
	return 0
}

// Sockets is how many sockets the server has open. Under a prefix it is that of the prefix's process.
func (s *Server) Sockets(tb testing.TB) int {
	tb.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	n := 0
	for _, file := range files {
		// One that was closed since has no target any more.
		if target, err := os.Readlink(filepath.Join(dir, file.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// Grown fails the test when the server's memory has grown by more than bound since it was before.
func (s *Server) Grown(tb testing.TB, before, bound int64, what string) {
	tb.Helper()
	grown := s.Memory(tb) - before
	tb.Logf("%s: %d MiB more", what, grown>>20)
	if grown > bound && !Raced() {
		tb.Errorf("%s: memory grew by %d MiB, want at most %d", what, grown>>20, bound>>20)
	}
}

func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}
