package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/mcp"
)

// The test binary is the server of these tests too: with this variable set it speaks over its standard input and output.
const serverMode = "MILLRACE_TEST_SERVER"

// serveStdio is a server of one of several kinds, good and bad.
func serveStdio(mode string) {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	for lines.Scan() {
		var m mcp.Request
		fault := m.Scan(lines.Bytes())
		if fault == nil && string(m.ID) == `"q"` && mode == "asks" { // the call's id is the second, after initialize's
			say(`{"jsonrpc":"2.0","id":2,"result":%s}`, m.Result)
		}
		if fault != nil || m.Kind != mcp.KindRequest {
			continue
		}
		switch {
		case mode == "leaves":
			return
		case mode == "silent":
		case mode == "leaves a child": // that holds its output open
			child := exec.Command("sleep", "1000")
			child.Stdout = os.Stdout
			if child.Start() != nil {
				return
			}
			select {}
		case mode == "closes": // its output, and lives on
			os.Stdout.Close()
		case mode == "babbles":
			say("not JSON")
		case mode == "endless":
			fmt.Print(strings.Repeat("x", 300_000))
		case m.Method == mcp.ServerDiscover && mode == "modern":
			say(`{"jsonrpc":"2.0","id":%s,"result":{"supportedVersions":["2026-07-28"]}}`, m.ID)
		case m.Method == mcp.ServerDiscover:
			say(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"?"}}`, m.ID)
		case m.Method == mcp.Initialize:
			say(`{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25"}}`, m.ID)
		case m.Method == mcp.ToolsCall && mode == "asks":
			say(`{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}`)
		default:
			say(`{"jsonrpc":"2.0","method":"notifications/message","params":{}}`)
			say(`{"jsonrpc":"2.0","id":"x","method":"ping"}`)
			say(`{"jsonrpc":"2.0","id":%s,"result":{"echo":%s}}`, m.ID, m.ID)
		}
	}
}

func command(ctx context.Context, t *testing.T, mode string, rev mcp.Revision) (*Session, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env, cmd.Stderr = append(os.Environ(), serverMode+"="+mode), io.Discard
	return OpenCommand(ctx, cmd, Config{Revision: rev, Timeout: 10 * time.Second, MaxBytes: 100_000})
}

func TestCommand(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]mcp.Revision{"modern": mcp.Modern, "legacy": mcp.Revision20251125} {
		s, err := command(t.Context(), t, mode, mcp.RevisionNone)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		if s.Revision() != want {
			t.Errorf("%s speaks %s, want %s", mode, s.Revision(), want)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				var a Answer
				for range 20 {
					if err := s.Call(t.Context(), &Call{Method: "tools/call", Notify: func([]byte) {}}, &a); err != nil || !strings.Contains(string(a.Result), `{"echo":`) {
						t.Errorf("%s: %s, %v", mode, a.Result, err)
						return
					}
				}
			})
		}
		wg.Wait()
		s.Close()
	}
}

// However a process misbehaves, its calls end in time, and it is gone when the session is closed.
func TestBadCommands(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]error{"leaves": ErrLeft, "closes": ErrLeft, "babbles": ErrProtocol, "endless": ErrProtocol, "silent": context.DeadlineExceeded, "leaves a child": context.DeadlineExceeded} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s, err := command(t.Context(), t, mode, mcp.Modern)
			if err != nil {
				t.Fatal(err)
			}
			call := &Call{Method: "tools/call"}
			if want == context.DeadlineExceeded {
				call.Deadline = time.Now().Add(50 * time.Millisecond)
			}
			if err := s.Call(t.Context(), call, new(Answer)); !errors.Is(err, want) {
				t.Errorf("gave %v, want %v", err, want)
			}
			s.Close()
			if err := s.Call(t.Context(), &Call{Method: "tools/call"}, new(Answer)); !errors.Is(err, want) && !errors.Is(err, ErrLeft) {
				t.Errorf("after it: %v", err)
			}
		})
	}
	if _, err := OpenCommand(t.Context(), exec.Command("/no/such/program"), Config{}); err == nil {
		t.Error("a program that is not there was started")
	}
}

// A user who thinks holds up the call that asked, and no other.
func TestAskingHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s, err := command(t.Context(), t, "asks", mcp.Revision20251125)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	asked, answer, ended := make(chan struct{}), make(chan struct{}), make(chan string, 1)
	go func() {
		var a Answer
		err := s.Call(t.Context(), &Call{Method: "tools/call", Ask: func(string, []byte) ([]byte, *mcp.Error) {
			close(asked)
			<-answer
			return []byte(`{"action":"accept"}`), nil
		}}, &a)
		ended <- fmt.Sprintf("%s %v", a.Result, err)
	}()
	<-asked
	var a Answer
	if err := s.Call(t.Context(), &Call{Method: "tools/list"}, &a); err != nil || !strings.Contains(string(a.Result), "echo") {
		t.Errorf("while a user was asked, another call gave %s, %v", a.Result, err)
	}
	close(answer)
	if got := <-ended; got != `{"action":"accept"} <nil>` {
		t.Errorf("the call that asked gave %s", got)
	}
}
