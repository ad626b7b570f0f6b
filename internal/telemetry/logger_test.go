package telemetry

import (
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"testing"
)

func TestLogger(t *testing.T) {
	var text, structured strings.Builder
	for _, l := range []*slog.Logger{NewLogger(&text, true, slog.LevelInfo), NewLogger(&structured, false, slog.LevelInfo)} {
		l.Debug("left out")
		l.Info("listening", "address", "127.0.0.1:8080")
	}
	if want := regexp.MustCompile(`^time=\d\d:\d\d:\d\d\.\d{3} level=INFO msg=listening address=127.0.0.1:8080\n$`); !want.MatchString(text.String()) {
		t.Errorf("on a terminal: %q", text.String())
	}
	var line struct{ Time, Level, Msg, Address string }
	if err := json.Unmarshal([]byte(structured.String()), &line); err != nil || line.Msg != "listening" || line.Address != "127.0.0.1:8080" || line.Time == "" {
		t.Errorf("elsewhere: %q, %v", structured.String(), err)
	}
}
