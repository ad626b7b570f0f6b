package harness

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Postgres is a real PostgreSQL of the test's own, on a port that is closed until Start.
type Postgres struct {
	Port int

	tb  testing.TB
	bin string // directory of the programs
	dir string // of the cluster
	as  *syscall.Credential
	cmd *exec.Cmd
}

// NewPostgres makes a cluster and picks a port, and starts nothing yet. It fails the test where PostgreSQL is missing.
func NewPostgres(tb testing.TB) *Postgres {
	tb.Helper()
	bin := programs()
	if bin == "" {
		tb.Fatal("PostgreSQL is missing: install Debian's package postgresql")
	}
	dir, err := os.MkdirTemp("", "millrace-pg-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &Postgres{tb: tb, bin: bin, dir: filepath.Join(dir, "data"), Port: FreePort(tb)}
	if os.Geteuid() == 0 { // initdb refuses root
		p.as = account(tb, "postgres")
		if err := os.Chown(dir, int(p.as.Uid), int(p.as.Gid)); err != nil {
			tb.Fatal(err)
		}
	}
	initdb := p.command("initdb", "-D", p.dir, "-U", "millrace", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
	if out, err := initdb.CombinedOutput(); err != nil {
		tb.Fatalf("initdb: %v\n%s", err, out)
	}
	return p
}

// programs is the directory of PostgreSQL's programs: the newest of Debian's, which are not in the path, or the path's.
func programs() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append([]string{path}, found...)
	}
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

func account(tb testing.TB, name string) *syscall.Credential {
	tb.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		tb.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir = filepath.Dir(p.dir)
	cmd.SysProcAttr = ownGroup()
	cmd.SysProcAttr.Credential = p.as
	return cmd
}

// URL is where clients connect.
func (p *Postgres) URL() string {
	return fmt.Sprintf("postgres://millrace@127.0.0.1:%d/postgres?sslmode=disable", p.Port)
}

// Start starts the server and waits until it takes connections.
func (p *Postgres) Start() {
	p.tb.Helper()
	var out bytes.Buffer
	p.cmd = p.command("postgres", "-D", p.dir, "-p", strconv.Itoa(p.Port), "-h", "127.0.0.1", "-k", "", "-F", "-c", "shared_buffers=16MB")
	p.cmd.Stdout, p.cmd.Stderr = &out, &out
	if err := p.cmd.Start(); err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(p.Stop)
	Eventually(p.tb, 30*time.Second, "PostgreSQL answers", func() error {
		ready, err := p.command("pg_isready", "-h", "127.0.0.1", "-p", strconv.Itoa(p.Port)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s%s", err, ready, tail(out.String(), 1000))
		}
		return nil
	})
}

// Run runs a statement with psql.
func (p *Postgres) Run(statement string) {
	p.tb.Helper()
	if out, err := p.command("psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", p.URL(), "-c", statement).CombinedOutput(); err != nil {
		p.tb.Fatalf("psql: %v\n%s", err, out)
	}
}

// Stop stops the server at once, connections or none.
func (p *Postgres) Stop() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	kill := time.AfterFunc(5*time.Second, func() { killGroup(p.cmd) })
	_ = p.cmd.Wait()
	kill.Stop()
	p.cmd = nil
}

// FreePort is a port of the loopback address that nothing listens on.
func FreePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
