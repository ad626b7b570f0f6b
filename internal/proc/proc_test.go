//go:build linux

package proc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// With parentMode set the test binary starts a process, says that it has, and waits to be killed.
const parentMode = "MILLRACE_TEST_PROC_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentMode) == "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("sleep", "1000")
	cmd.Stdout = os.Stdout // is open for as long as it lives
	Group(cmd)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(cmd.Process.Pid)
	io.Copy(io.Discard, os.Stdin) // its end comes with the test's, if the kill does not
}

// A process that was started in a Group does not outlive the one that started it, even one that is killed.
func TestGroupEndsWithItsParent(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), parentMode+"=1")
	in, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	parent.Stdout = write
	if err := errors.Join(parent.Start(), write.Close(), out.SetReadDeadline(time.Now().Add(20*time.Second))); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the process did not begin")
	}
	child, err := strconv.Atoi(lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()                       // it was killed
	if lines.Scan() || lines.Err() != nil { // returns once nobody has the pipe open any more
		t.Errorf("the process that it had started lives: %v", lines.Err())
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
}
