package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/e2e/harness"
)

// TestMakeRun runs `make run`, calls a tool of the demo and ends it as Ctrl-C does.
func TestMakeRun(t *testing.T) {
	t.Parallel()
	build := filepath.Join(harness.Repository(), ".build")
	if _, err := os.Stat(build); errors.Is(err, fs.ErrNotExist) { // or it is of somebody's own `make run`
		t.Cleanup(func() { _ = os.RemoveAll(build) })
	}
	data := t.TempDir()
	s := harness.Start(t, harness.Options{Make: true, Data: data})
	if found, err := filepath.Glob(filepath.Join(data, "cities-*.db")); err != nil || len(found) != 1 {
		t.Errorf("ARGS did not reach the server: its data directory has %q, %v", found, err)
	}
	a := harness.CallModern(t, s.URL, "get_city", fmt.Sprintf(`{"id":%d}`, harness.Berlin))
	if a.Field("result", "structuredContent", "rows", 0, "name") != "Berlin" {
		t.Errorf("get_city: %v", a)
	}
	s.SignalGroup(t, syscall.SIGINT)
	// make itself ends by the signal, which is no exit code. Of a recipe that fails it says so: "make: *** … Error 1".
	if code := s.Wait(t, 20*time.Second); code != -1 {
		t.Errorf("make ended with code %d before its signal", code)
	}
	if out := s.Output(); !strings.Contains(out, "stopping") || strings.Contains(out, "***") {
		t.Errorf("not a clean end:\n%s", out)
	}
	if _, _, err := s.AdminGet("/healthz"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the server has outlived make: %v", err)
	}
}
