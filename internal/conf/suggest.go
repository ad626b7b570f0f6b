package conf

import (
	"strconv"
	"strings"
)

// Nearest is the one of known that is nearest to got within two edits or a third of its length, or "". Case and the
// difference of - and _ count nothing, so maxBytes finds max_bytes.
func Nearest(got string, known []string) string {
	if len(got) > 64 {
		return ""
	}
	fold := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }
	g := fold(got)
	best, least := "", max(2, len(g)/3)+1
	for _, k := range known {
		// A word that shares no letter with what was written is a guess, not a hint.
		if d := distance(g, fold(k)); d < least && d < max(len(g), len(k)) {
			best, least = k, d
		}
	}
	return best
}

// distance counts the single-byte edits between two short words (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d++
			}
			diagonal = row[j+1]
			row[j+1] = min(d, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// fixFor says what to write in place of got.
func fixFor(got string, known []string, otherwise string) string {
	if s := Nearest(got, known); s != "" {
		return "did you mean " + strconv.Quote(s) + "?"
	}
	return otherwise
}

// listOf is a short list for a message.
func listOf(words []string) string {
	const most = 24
	if len(words) > most {
		return strings.Join(words[:most], ", ") + ", …"
	}
	return strings.Join(words, ", ")
}
