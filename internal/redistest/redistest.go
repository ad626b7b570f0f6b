// Package redistest starts a real Redis or Valkey for tests: a server of its own in a temporary folder, on a loopback port.
package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"millrace/internal/proc"
)

// Server is a running Redis.
type Server struct {
	Port int
	// Options are added to the command line at the next start: name and value, one after the other.
	Options []string

	dir, program string
	sentinel     string // its configuration file, for one that is a Sentinel
	cmd          *exec.Cmd
}

// Addr gives the server's address.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.Port) }

// New starts a server with these options. Stop must be called. The error says what to install where Redis is missing.
func New(options ...string) (*Server, error) {
	var program string
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		return nil, errors.New("there is no Redis: install Debian's package redis-server")
	}
	dir, err := os.MkdirTemp("", "millrace-redis-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	s := &Server{Port: port, Options: options, dir: dir, program: program}
	if err := s.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

// Start starts the server, after Kill too, and waits until it answers.
func (s *Server) Start() error {
	s.cmd = exec.Command(s.program, append([]string{"--port", strconv.Itoa(s.Port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir}, s.Options...)...)
	if s.sentinel != "" {
		s.cmd = exec.Command(s.program, s.sentinel, "--sentinel")
	}
	s.cmd.Dir = s.dir
	proc.Group(s.cmd) // a test that is killed leaves nobody
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for until := time.Now().Add(10 * time.Second); ; {
		err := s.ping()
		if err == nil {
			return nil
		}
		if time.Now().After(until) {
			s.Kill()
			return fmt.Errorf("start Redis: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *Server) ping() error {
	line, err := s.Command("PING")
	if err != nil && strings.HasPrefix(err.Error(), "-NOAUTH") {
		return nil
	}
	if err == nil && line != "+PONG" {
		return fmt.Errorf("PING was answered with %q", line)
	}
	return err
}

// NewCluster starts servers of a cluster, each of which has an equal share of the slots. Stop must be called on each.
func NewCluster(n int) (servers []*Server, err error) {
	defer func() {
		if err != nil {
			for _, s := range servers {
				s.Stop()
			}
		}
	}()
	const slots = 16384
	for i := range n {
		bus, err := freePort()
		if err != nil {
			return servers, err
		}
		s, err := New("--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--cluster-node-timeout", "2000")
		if err != nil {
			return servers, err
		}
		servers = append(servers, s)
		if _, err := s.Command(fmt.Sprintf("CLUSTER ADDSLOTSRANGE %d %d", i*slots/n, (i+1)*slots/n-1)); err != nil {
			return servers, err
		}
		if i > 0 {
			if _, err := s.Command(fmt.Sprintf("CLUSTER MEET 127.0.0.1 %d %s", servers[0].Port, servers[0].Options[3])); err != nil {
				return servers, err
			}
		}
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		agreed := 0
		for _, s := range servers {
			if info, err := s.Command("CLUSTER INFO"); err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", n)) {
				agreed++
			}
		}
		if agreed == n {
			return servers, nil
		}
		if time.Now().After(until) {
			return servers, errors.New("the cluster did not come together")
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Command runs a command, its words separated by blanks, and gives the first line of the answer, or the text of a bulk.
func (s *Server) Command(words string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.Addr(), time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte(words + "\r\n")); err != nil {
		return "", err
	}
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "-") {
		return "", errors.New(line)
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(line, "$")); err == nil && n > 0 && line[0] == '$' {
		text := make([]byte, n)
		_, err := io.ReadFull(r, text)
		return string(text), err
	}
	return line, nil
}

// NewSentinel starts a Sentinel that watches master under the name "main". Its file is its own.
func NewSentinel(master *Server) (*Server, error) {
	dir, err := os.MkdirTemp("", "millrace-redis-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	file := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nsentinel monitor main 127.0.0.1 %d 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n", port, dir, master.Port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	s := &Server{Port: port, dir: dir, program: master.program, sentinel: file}
	if err := s.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

// Kill ends the server at once, with all that it held.
func (s *Server) Kill() {
	s.cmd.Process.Kill() //nolint:errcheck // it may have ended by itself
	s.cmd.Wait()         //nolint:errcheck // ended by the signal
}

// Freeze stops the server where it is: connections stay, and nothing is answered until Thaw.
func (s *Server) Freeze() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets it go on.
func (s *Server) Thaw() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// Stop ends the server and removes its data.
func (s *Server) Stop() {
	s.Kill()
	os.RemoveAll(s.dir)
}
