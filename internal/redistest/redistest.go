// Package redistest starts a real Redis or Valkey for tests: a server of its own in a temporary folder, on a loopback port.
package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Server is a running Redis.
type Server struct {
	Port int
	// Options are added to the command line at the next start: name and value, one after the other.
	Options []string

	dir, program string
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
		return nil, errors.New("Redis is missing: install Debian's package redis-server")
	}
	dir, err := os.MkdirTemp("", "millrace-redis-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	s := &Server{Port: l.Addr().(*net.TCPAddr).Port, Options: options, dir: dir, program: program}
	l.Close()
	if err := s.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

// Start starts the server, after Kill too, and waits until it answers.
func (s *Server) Start() error {
	s.cmd = exec.Command(s.program, append([]string{"--port", strconv.Itoa(s.Port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir}, s.Options...)...)
	s.cmd.Dir = s.dir
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
			return fmt.Errorf("Redis did not start: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *Server) ping() error {
	conn, err := net.DialTimeout("tcp", s.Addr(), time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "+PONG") && !strings.HasPrefix(line, "-NOAUTH") {
		return fmt.Errorf("PING was answered with %q", line)
	}
	return nil
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
