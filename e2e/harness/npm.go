package harness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// peers installs what package-lock.json pins, once, under a lock that other test binaries wait for.
var peers = sync.OnceValue(func() error {
	lock := filepath.Join(Module(), "package-lock.json")
	f, err := os.Open(lock)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock, err)
	}
	text, err := os.ReadFile(lock)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	stamp, want := filepath.Join(Module(), "node_modules", ".installed"), hex.EncodeToString(sum[:])
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund")
	npm.Dir = Module()
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if out, err := exec.Command(nodeBinary(), "--version").CombinedOutput(); err != nil || !bytes.HasPrefix(out, []byte("v22.")) {
		return fmt.Errorf("node of the npm package: %q %v", out, err)
	}
	return os.WriteFile(stamp, []byte(want), 0o644)
})

func nodeBinary() string { return filepath.Join(Module(), "node_modules", "node", "bin", "node") }

// Peers installs the npm packages if that was not done yet. A peer that cannot be installed fails the test: a peer that
// is skipped proves nothing.
func Peers(tb testing.TB) {
	tb.Helper()
	if err := peers(); err != nil {
		tb.Fatalf("install the peers: %v", err)
	}
}

// Node prepares a command that runs a script of the e2e module, or of a package in it, with Node 22. It gets a home of
// its own, so that a peer neither reads nor leaves settings of the person who runs the tests.
func Node(tb testing.TB, script string, args ...string) *exec.Cmd {
	tb.Helper()
	Peers(tb)
	cmd := exec.Command(nodeBinary(), append([]string{filepath.Join(Module(), script)}, args...)...)
	home := tb.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "NO_COLOR=1", "MCP_REMOTE_CONFIG_DIR="+home, "MCP_INSPECTOR_SECRET_STORE=memory")
	cmd.Dir = home
	cmd.SysProcAttr = ownGroup()
	return cmd
}

// Output runs a prepared command to its end, at most d, and returns its streams. A run that ends otherwise than with
// code 0 is an error.
func Output(cmd *exec.Cmd, d time.Duration) (stdout, stderr []byte, err error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	kill := time.AfterFunc(d, func() { killGroup(cmd) })
	defer kill.Stop()
	err = cmd.Wait()
	return out.Bytes(), errs.Bytes(), err
}

// Log is a writer whose text is logged when the test has failed.
func Log(tb testing.TB) io.Writer {
	l := new(failureLog)
	tb.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if tb.Failed() {
			tb.Log(tail(l.text.String(), 8000))
		}
	})
	return l
}

type failureLog struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *failureLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// Detach makes a command die with the tests, also when they are killed.
func Detach(cmd *exec.Cmd) { cmd.SysProcAttr = ownGroup() }

// OnEnd kills a started command and all its children when the test ends.
func OnEnd(tb testing.TB, cmd *exec.Cmd) {
	tb.Cleanup(func() {
		killGroup(cmd)
		_ = cmd.Wait()
	})
}
