package mcp

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

const (
	sentinelStart = "=?base64?"
	sentinelEnd   = "?="
)

// DecodeHeader gives the text that the value of an Mcp-Name or Mcp-Param-* header stands for: itself, or what its
// base64 form holds. It is false for a malformed one, and for bytes that are no UTF-8.
func DecodeHeader(v string) (string, bool) {
	if !strings.HasPrefix(v, sentinelStart) || !strings.HasSuffix(v, sentinelEnd) ||
		len(v) < len(sentinelStart)+len(sentinelEnd) {
		return v, utf8.ValidString(v)
	}
	text, err := base64.StdEncoding.Strict().DecodeString(v[len(sentinelStart) : len(v)-len(sentinelEnd)])
	if err != nil || !utf8.Valid(text) {
		return "", false
	}
	return string(text), true
}

// EncodeHeader gives the form in which text may travel in an Mcp-Name or Mcp-Param-* header: itself where it is
// visible ASCII with inner spaces and no look-alike of the sentinel, else base64.
func EncodeHeader(text string) string {
	safe := text == strings.TrimSpace(text) && !strings.HasPrefix(text, sentinelStart)
	for i := 0; safe && i < len(text); i++ {
		safe = text[i] >= 0x20 && text[i] < 0x7F
	}
	if safe {
		return text
	}
	return sentinelStart + base64.StdEncoding.EncodeToString([]byte(text)) + sentinelEnd
}
