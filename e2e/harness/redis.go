package harness

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// Redis is a real Redis of the test's own.
type Redis struct {
	Port int

	tb  testing.TB
	dir string
	cmd *exec.Cmd
}

// NewRedis starts one. It fails the test where Redis is missing.
func NewRedis(tb testing.TB) *Redis {
	tb.Helper()
	r := &Redis{tb: tb, dir: tb.TempDir(), Port: FreePort(tb)}
	r.Start()
	return r
}

// Addr is where clients connect.
func (r *Redis) Addr() string { return "127.0.0.1:" + strconv.Itoa(r.Port) }

// Start starts the server, after Stop too, and waits until it answers.
func (r *Redis) Start() {
	r.tb.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		if program, err = exec.LookPath("valkey-server"); err != nil {
			r.tb.Fatal("Redis is missing: install Debian's package redis-server")
		}
	}
	var out bytes.Buffer
	r.cmd = exec.Command(program, "--port", strconv.Itoa(r.Port), "--bind", "127.0.0.1", "--save", "", "--dir", r.dir)
	r.cmd.Stdout, r.cmd.Stderr = &out, &out
	if err := r.cmd.Start(); err != nil {
		r.tb.Fatal(err)
	}
	r.tb.Cleanup(r.Stop)
	Eventually(r.tb, 10*time.Second, "Redis answers", func() error {
		conn, err := net.DialTimeout("tcp", r.Addr(), time.Second)
		if err != nil {
			return fmt.Errorf("%w: %s", err, tail(out.String(), 1000))
		}
		return conn.Close()
	})
}

// Stop ends the server at once, with all that it held.
func (r *Redis) Stop() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	r.cmd = nil
}
