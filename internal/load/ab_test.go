package load

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/internal/mcp"
)

// With serverMode set the test binary is an MCP server of these tests: what it says is the address, and how much a call costs, in
// hashes of a page.
const serverMode = "MILLRACE_TEST_LOAD_SERVER"

func serveAlone(mode string) error {
	address, text, _ := strings.Cut(mode, " ")
	work, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	srv := &http.Server{Handler: &server{methods: map[string]int{}, call: func(http.ResponseWriter, *http.Request, *mcp.Request) string {
		// Work, and not a pause: on a machine that is busy it takes longer by the same factor for both servers.
		page := make([]byte, 4096)
		for range work {
			sum := sha256.Sum256(page)
			copy(page, sum[:])
		}
		return right
	}}}
	context.AfterFunc(ctx, func() { srv.Close() })
	if err := srv.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// alternating is an AB of two test servers.
func alternating(t *testing.T, a, b string) *AB {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	command := func(work string) string { return fmt.Sprintf("env '%s=%s %s' '%s'", serverMode, address, work, self) }
	s := scenario(PhaseConfig{Kind: "sustain", Duration: seconds(0.5), Users: 4})
	return &AB{Commands: [2]string{command(a), command(b)}, Threshold: 0.2, Rounds: 4, Output: io.Discard,
		Options: Options{Endpoint: Endpoint{URL: "http://" + address + "/mcp"}, Scenario: s, Note: func(text string) { t.Log(text) }}}
}

// A server that is much slower is found, in the fewest rounds.
func TestAB(t *testing.T) {
	t.Parallel()
	ab := alternating(t, "100", "10000")
	ab.Keep = t.TempDir()
	c, err := ab.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !c.Regressed() || c.Rounds != 4 {
		t.Errorf("%d rounds, %+v", c.Rounds, c.Changes)
	}
	for _, ch := range c.Changes {
		if ch.Figure == "latency.p50" && (ch.Outcome != Worse || ch.Ratio < 3) {
			t.Errorf("%+v", ch)
		}
	}
	if run, err := ReadRun(ab.Keep + "/04-B.json"); err != nil || run.Server == nil || run.Seed != 4 {
		t.Errorf("the last run of B: %v", err)
	}
}

func TestABThatCannotBe(t *testing.T) {
	t.Parallel()
	ab := alternating(t, "x", "100")
	if _, err := ab.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "round 1, server A: it ended before it answered: exit status 1") {
		t.Errorf("a server that ends: %v", err)
	}
	ab.Rounds = 2
	if _, err := ab.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "at least 3") {
		t.Errorf("two rounds: %v", err)
	}
	ab = alternating(t, "100", "100")
	l, err := net.Listen("tcp", strings.TrimSuffix(strings.TrimPrefix(ab.Endpoint.URL, "http://"), "/mcp"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := ab.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "something listens at") {
		t.Errorf("an address in use: %v", err)
	}
	l.Close()
	ab.Commands[0] = "sleep 1000"
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := ab.Run(ctx); err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("a server that never answers: %v", err)
	}
}

func TestLooks(t *testing.T) {
	t.Parallel()
	for most, want := range map[int]string{3: "[3]", 4: "[4]", 5: "[4 5]", 16: "[4 8 16]", 20: "[4 8 16 20]"} {
		if got := fmt.Sprint((&AB{Rounds: most}).looks()); got != want {
			t.Errorf("%d rounds: looks after %s, want %s", most, got, want)
		}
	}
}
