package conf

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a string that no printer shows: whichever way it is formatted, marshalled or logged, it is ***. Only Reveal
// gives it away. Two ways round it are Go's own: fmt calls no methods of unexported struct fields, and encoding/json none of
// string map keys. Keep a Secret in exported fields, and never make it a key.
type Secret string

const masked = "***"

// Reveal is the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String is ***.
func (s Secret) String() string { return masked }

// GoString is ***.
func (s Secret) GoString() string { return masked }

// Format writes *** for every verb.
func (s Secret) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, masked) }

// MarshalText is ***.
func (s Secret) MarshalText() ([]byte, error) { return []byte(masked), nil }

// MarshalJSON is "***".
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + masked + `"`), nil }

// LogValue is ***.
func (s Secret) LogValue() slog.Value { return slog.StringValue(masked) }
