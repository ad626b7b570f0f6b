package telemetry

import (
	"io"
	"log/slog"
)

// NewLogger makes the program's logger: text with the time of day where a person reads it on a terminal, one JSON object
// a line with full time stamps everywhere else.
func NewLogger(w io.Writer, terminal bool, level slog.Level) *slog.Logger {
	if !terminal {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
				a.Value = slog.StringValue(a.Value.Time().Format("15:04:05.000"))
			}
			return a
		},
	}))
}
