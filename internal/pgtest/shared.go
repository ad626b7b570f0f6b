package pgtest

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

// started is the server of this test binary, nil while no test has needed it.
var started atomic.Pointer[Server]

// Shared gives the server that the tests of a binary share: it starts when it is first asked for, and Main ends it.
var Shared = sync.OnceValues(func() (*Server, error) {
	s, err := New()
	started.Store(s)
	return s, err
})

var databases atomic.Int64

// NewDatabase makes a database of the test's own on the shared server, and runs sql on it.
func NewDatabase(t testing.TB, sql string) (s *Server, name string) {
	t.Helper()
	s, err := Shared()
	if err != nil {
		t.Fatal(err)
	}
	plain := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}
	name = fmt.Sprintf("t%d_", databases.Add(1)) + strings.Map(plain, strings.ToLower(t.Name()))
	if err = s.Exec("postgres", "CREATE DATABASE "+name); err == nil && sql != "" {
		err = s.Exec(name, sql)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s, name
}

// Main runs the tests of a binary, ends the shared server, calls stop where it is set, and ends the process: as failed also where goroutines
// are left.
func Main(m *testing.M, stop func(), ignored ...goleak.Option) {
	code := m.Run()
	if s := started.Load(); s != nil {
		s.Stop()
	}
	if stop != nil {
		stop()
	}
	if code == 0 {
		if err := goleak.Find(ignored...); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}
