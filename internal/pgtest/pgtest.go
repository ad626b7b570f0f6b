// Package pgtest starts a real PostgreSQL for tests: a cluster of its own under a temporary folder, on a loopback port.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/proc"
)

// Server is a running PostgreSQL.
type Server struct {
	Port int

	dir, bin string
	options  []string // of the server, as NAME=VALUE
	as       *syscall.Credential
	cmd      *exec.Cmd
}

// URL gives the connection URL of a database.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://millrace:secret-of-the-test@127.0.0.1:%d/%s?sslmode=disable", s.Port, database)
}

// New makes a cluster and starts it. Stop must be called. The error says what to install where PostgreSQL is missing.
func New() (*Server, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); len(found) == 0 && err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		return nil, errors.New("PostgreSQL is missing: install Debian's package postgresql")
	}
	slices.Sort(found)
	dir, err := os.MkdirTemp("", "millrace-pg-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, bin: filepath.Dir(found[len(found)-1])}
	if err := errors.Join(s.place(), s.init()); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := s.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

// Replica makes a replica of the server by streaming replication, with options of its own as NAME=VALUE, and starts it. Stop must be called.
func (s *Server) Replica(options ...string) (*Server, error) {
	dir, err := os.MkdirTemp("", "millrace-pg-")
	if err != nil {
		return nil, err
	}
	r := &Server{dir: dir, bin: s.bin, options: options}
	if err = r.place(); err == nil {
		var out []byte
		if out, err = r.command("pg_basebackup", "-h", "127.0.0.1", "-p", strconv.Itoa(s.Port), "-U", "millrace", "-D", r.data(), "-R", "-X", "stream", "-c", "fast", "--no-sync").CombinedOutput(); err != nil {
			err = fmt.Errorf("pg_basebackup: %w\n%s", err, out)
		}
	}
	if err == nil {
		err = r.Start()
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return r, nil
}

// Replication is a primary with its replicas.
type Replication struct {
	Primary  *Server
	Replicas []*Server
}

// NewReplication starts a primary on which sql has been run, and a replica for each of options. Stop must be called.
func NewReplication(sql string, options ...[]string) (*Replication, error) {
	primary, err := New()
	if err != nil {
		return nil, err
	}
	r := &Replication{Primary: primary}
	err = primary.Exec("postgres", sql)
	for _, o := range options {
		if err != nil {
			break
		}
		var s *Server
		if s, err = primary.Replica(o...); err == nil {
			r.Replicas = append(r.Replicas, s)
		}
	}
	if err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

// URLs gives the connection URLs of the replicas.
func (r *Replication) URLs(database string) (out []string) {
	for _, s := range r.Replicas {
		out = append(out, s.URL(database))
	}
	return out
}

// Stop ends all of them.
func (r *Replication) Stop() {
	for _, s := range r.Replicas {
		s.Stop()
	}
	r.Primary.Stop()
}

// Freeze stops the server and its processes where they are, until Thaw: it answers nobody, and connections stay.
func (s *Server) Freeze() error { return s.signal(syscall.SIGSTOP) }

// Thaw lets a server go on that Freeze has stopped.
func (s *Server) Thaw() error { return s.signal(syscall.SIGCONT) }

// signal reaches the server and all its children: each of those has a session of its own.
func (s *Server) signal(sig syscall.Signal) error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", s.cmd.Process.Pid))
	if err != nil {
		return err
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(children)) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			return err
		}
		if err := syscall.Kill(n, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// Promote makes a primary of a replica.
func (s *Server) Promote() error {
	if out, err := s.command("pg_ctl", "promote", "-D", s.data(), "-w").CombinedOutput(); err != nil {
		return fmt.Errorf("pg_ctl promote: %w\n%s", err, out)
	}
	return nil
}

// place gives the folder to who runs the server.
func (s *Server) place() error {
	if os.Geteuid() == 0 { // initdb refuses root
		u, err := user.Lookup("postgres")
		if err != nil {
			return fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres: %w", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(s.dir, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// findPort takes a port that is free, until somebody else takes it.
func (s *Server) findPort() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	return l.Close()
}

func (s *Server) init() error {
	out, err := s.command("initdb", "-D", s.data(), "-U", "millrace", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return cmd
}

// Start starts the server after New's or Stop's end of it, and waits until it answers.
func (s *Server) Start() error {
	if s.Port == 0 {
		if err := s.findPort(); err != nil {
			return err
		}
	}
	args := []string{"-D", s.data(), "-p", strconv.Itoa(s.Port), "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=300"}
	for _, o := range s.options {
		args = append(args, "-c", o)
	}
	s.cmd = s.command("postgres", args...)
	proc.Group(s.cmd) // a test that is killed leaves nobody
	if err := s.cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		conn, err := pgconn.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			s.Kill()
			return fmt.Errorf("PostgreSQL did not start: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill ends the server at once, connections and all; its data stay.
func (s *Server) Kill() {
	s.cmd.Process.Signal(syscall.SIGQUIT) //nolint:errcheck // it may have ended by itself
	s.cmd.Wait()                          //nolint:errcheck // ended by the signal
}

// Stop ends the server and removes its data.
func (s *Server) Stop() {
	s.Kill()
	os.RemoveAll(s.dir)
}

// Exec runs SQL on a database, for setting tests up.
func (s *Server) Exec(database, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, s.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql).ReadAll()
	return err
}
