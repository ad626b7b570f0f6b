// Package harness starts what the end-to-end tests drive: the millrace binary, built once for each test binary, and
// peers from npm. It knows Millrace only by its command line and its wire, and never imports it.
package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	binary  string // the built binary, set once in Main before any test runs
	scratch string // a directory of this test binary, removed when Main ends
)

// Main builds the binary, runs the tests and stops what they share. MILLRACE_E2E_BIN names a binary to test instead of
// building one; MILLRACE_E2E_RACE=1 builds with the race detector.
func Main(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "millrace-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	raiseFiles()
	defer stopShared()
	return m.Run()
}

func build(dir string) error {
	if ready := os.Getenv("MILLRACE_E2E_BIN"); ready != "" {
		abs, err := filepath.Abs(ready)
		binary = abs
		return err
	}
	binary = filepath.Join(dir, "millrace")
	args := []string{"build", "-o", binary}
	if Raced() {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/millrace")...)
	build.Dir = Repository()
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build ./cmd/millrace: %w\n%s", err, out)
	}
	return nil
}

// Raced says that the binary has the race detector in it: it takes ten times the time and memory, so that bounds on either
// mean nothing, and work is cut down.
func Raced() bool { return os.Getenv("MILLRACE_E2E_RACE") != "" }

// Binary is the path of the millrace under test.
func Binary() string { return binary }

// Scratch is a directory that lives as long as the test binary.
func Scratch() string { return scratch }

// Module is the directory of the e2e module.
var Module = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	for err == nil {
		text, _ := os.ReadFile(filepath.Join(dir, "go.mod"))
		if bytes.HasPrefix(text, []byte("module millrace/e2e")) {
			return dir
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	panic("e2e tests must run inside the e2e module")
})

// Repository is the directory of the product's module.
func Repository() string { return filepath.Dir(Module()) }

// manyFiles is a limit of open files that is enough for every test.
const manyFiles = 16384

// raiseFiles lifts the soft limit of open files to the hard one, and both where that is not enough and this process may:
// servers inherit it.
func raiseFiles() {
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim) != nil {
		return
	}
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: lim.Max, Max: lim.Max})
	if lim.Max < manyFiles {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: manyFiles, Max: manyFiles})
	}
}

// OpenFiles is how many files this process may have open, and a server that it starts.
func OpenFiles(tb testing.TB) int {
	tb.Helper()
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		tb.Fatal(err)
	}
	return int(min(lim.Cur, 1<<30)) // there may be no limit
}

// Eventually polls until check returns nil, and fails the test with its last error after d.
func Eventually(tb testing.TB, d time.Duration, what string, check func() error) {
	tb.Helper()
	deadline := time.Now().Add(d)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %v: %v", what, d, err)
		}
		time.Sleep(10 * time.Millisecond) // the pause between two polls
	}
}

// Run runs the binary to its end and returns what it printed and its exit code.
func Run(tb testing.TB, env []string, args ...string) (stdout, stderr string, code int) {
	tb.Helper()
	return RunIn(tb, tb.TempDir(), env, args...)
}

// RunIn is Run in a working directory.
func RunIn(tb testing.TB, dir string, env []string, args ...string) (stdout, stderr string, code int) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), binary, args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start millrace %q: %v", args, err)
	}
	kill := time.AfterFunc(60*time.Second, func() { killGroup(cmd) })
	defer kill.Stop()
	_ = cmd.Wait()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}
