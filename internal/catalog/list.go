package catalog

import (
	"context"
	"encoding/base64"
	"strings"

	"millrace/internal/mcp"
)

// pageSize is how many entries one page of a list holds.
const pageSize = 100

// entry is one line of a list: encoded beforehand, in the order of its name.
type entry struct {
	name   string
	scopes []string
	json   func() []byte
}

// cursorMark begins every cursor, so that a text that is none is told from one.
const cursorMark = "after:"

func encodeCursor(name string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(cursorMark + name))
}

// decodeCursor gives the name behind which a page begins. "" is a cursor as well: the beginning.
func decodeCursor(cursor []byte) (after string, ok bool) {
	if len(cursor) == 0 {
		return "", true
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(string(cursor))
	if err != nil {
		return "", false
	}
	return strings.CutPrefix(string(text), cursorMark)
}

// list answers one page of what the caller may see. A cursor names the last entry of the page before, so a list that
// changes between two pages neither repeats nor skips what was there all along.
func list(key string, entries []entry, hints *mcp.Hints) mcp.Handler {
	return func(_ context.Context, c *mcp.Call) (mcp.Result, error) {
		after, ok := decodeCursor(c.Request.Cursor)
		if !ok {
			return mcp.Result{}, mcp.Errorf(mcp.CodeInvalidParams, "unknown cursor: take nextCursor of the page before")
		}
		out := append(append([]byte{'"'}, key...), `":[`...)
		count, next := 0, ""
		last := ""
		for i := range entries {
			e := &entries[i]
			if e.name <= after && after != "" || !c.Caller.Has(e.scopes) {
				continue
			}
			if count == pageSize {
				next = encodeCursor(last)
				break
			}
			if count++; count > 1 {
				out = append(out, ',')
			}
			out, last = append(out, e.json()...), e.name
		}
		out = append(out, ']')
		if next != "" {
			out = mcp.AppendText(append(out, `,"nextCursor":`...), next)
		}
		return mcp.Result{Fields: out, Hints: hints}, nil
	}
}
