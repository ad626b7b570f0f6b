package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"millrace/e2e/harness"
)

// step is one command of the tour with the output that the README shows for it; want is empty where it shows none.
type step struct{ command, want string }

var (
	tour  = regexp.MustCompile(`(?s)<!-- tour -->(.*?)<!-- /tour -->`)
	block = regexp.MustCompile("(?ms)^```(sh|text|json)\n(.*?)^```")
)

// TestTour runs the README's tour as a reader would type it. Its first command is `make run`, which builds and serves the
// demo: here the binary that is built already serves it, on ports of its own.
func TestTour(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join(harness.Repository(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	steps := readTour(t, string(readme))
	if len(steps) < 2 || steps[0].command != "make run" {
		t.Fatalf("the tour must start with `make run` and go on: %q", steps)
	}
	s := harness.Start(t, harness.Options{Data: t.TempDir()})
	ports := strings.NewReplacer("127.0.0.1:8080", s.Host(), "127.0.0.1:9090", strings.TrimPrefix(s.Admin, "http://"))
	back := strings.NewReplacer(s.Host(), "127.0.0.1:8080", strings.TrimPrefix(s.Admin, "http://"), "127.0.0.1:9090")
	if steps[0].want != "" { // it may still be printing
		harness.Eventually(t, 10*time.Second, "what make run prints", func() error {
			if got := back.Replace(s.Output()); !matches(steps[0].want, got) {
				return fmt.Errorf("it printed\n%s\nthe README shows\n%s", got, steps[0].want)
			}
			return nil
		})
	}
	dir := t.TempDir()
	for _, step := range steps[1:] {
		cmd := exec.Command("sh", "-c", withURL(ports.Replace(step.command), s.URL))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(harness.Binary())+":"+os.Getenv("PATH"))
		harness.Detach(cmd)
		out, errs, err := harness.Output(cmd, 60*time.Second)
		if err != nil {
			t.Errorf("%s: %v\n%s%s", step.command, err, out, errs)
			continue
		}
		if got := back.Replace(string(out)); step.want != "" && !matches(step.want, got) {
			t.Errorf("%s printed\n%s\nthe README shows\n%s", step.command, got, step.want)
		}
	}
}

// withURL gives `millrace call` the server that the reader's would find at its usual address.
func withURL(command, url string) string {
	lines := strings.Split(command, "\n")
	for i, line := range lines {
		if strings.HasPrefix(strings.TrimSpace(line), "millrace call ") && !strings.Contains(line, "--url") {
			lines[i] = fmt.Sprintf("%s --url %s", line, url)
		}
	}
	return strings.Join(lines, "\n")
}

func readTour(t *testing.T, readme string) []step {
	t.Helper()
	section := tour.FindStringSubmatch(readme)
	if section == nil {
		t.Fatal("README.md has no <!-- tour --> … <!-- /tour -->")
	}
	var steps []step
	for _, m := range block.FindAllStringSubmatch(section[1], -1) {
		text := strings.TrimSpace(m[2])
		switch {
		case m[1] == "sh":
			steps = append(steps, step{command: text})
		case len(steps) == 0 || steps[len(steps)-1].want != "":
			t.Fatalf("the output %q follows no command", text)
		default:
			steps[len(steps)-1].want = text
		}
	}
	return steps
}

// matches compares an output with what the README shows, where … stands for anything; space at the ends of lines and of
// the whole does not count.
func matches(want, got string) bool {
	parts := strings.Split(trimLines(want), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`(?s)^` + strings.Join(parts, `.*?`) + `$`).MatchString(trimLines(got))
}

func trimLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \t\r")
	}
	return strings.Join(lines, "\n")
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		want, got string
		ok        bool
	}{
		{"a", "a\n", true},
		{"a", "ab", false},
		{"a…c", "a\nb\nc", true},
		{"…", "anything", true},
		{"a.c", "abc", false},
		{"a …", "a 7 ms", true},
	} {
		if matches(test.want, test.got) != test.ok {
			t.Errorf("matches(%q, %q) is %v", test.want, test.got, !test.ok)
		}
	}
}
