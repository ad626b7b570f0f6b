package advise

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// WriteText writes the report for a person: each finding with its proof, its price, and the SQL.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for i := range r.Findings {
		f := &r.Findings[i]
		fmt.Fprintf(&b, "%d. %s: %s of %s rows, in source %s\n", i+1, strings.Join(f.Kinds, ", "), printable(f.Table), count(float64(f.Rows)), f.Source)
		for _, g := range f.Gains {
			b.WriteString("   " + printable(g.Name))
			if g.Where != "" {
				b.WriteString(" (" + g.Where + ")")
			}
			fmt.Fprintf(&b, ": %s%s\n", printable(g.What), g.measured(f.Unit))
		}
		switch f.Proof {
		case "hypopg":
			b.WriteString("   proof: the planner, with the index imagined (hypopg)\n")
		case "copy":
			b.WriteString("   proof: timed on a copy of the file, with the index built\n")
		default:
			b.WriteString("   no proof: try it on a copy of the database first\n")
		}
		if f.Size > 0 {
			fmt.Fprintf(&b, "   size: about %s\n", bytesText(f.Size))
		}
		fmt.Fprintf(&b, "   writes: %s\n\n   %s\n\n", f.Writes, f.SQL)
	}
	if r.Looked == 0 {
		b.WriteString("no statement could be looked at\n")
	} else if len(r.Findings) == 0 {
		fmt.Fprintf(&b, "statements looked at: %d; no index is missing\n", r.Looked)
	} else {
		fmt.Fprintf(&b, "statements looked at: %d. Nothing was created: run what you want of the SQL (--sql prints it alone)\n", r.Looked)
	}
	for _, n := range r.Notes {
		b.WriteString("note: " + printable(n) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteSQL writes the SQL that makes the indexes, each with what it is for.
func (r *Report) WriteSQL(w io.Writer) error {
	var b strings.Builder
	for i := range r.Findings {
		f := &r.Findings[i]
		fmt.Fprintf(&b, "-- source %s: %s\n", printable(f.Source), strings.Join(f.Kinds, ", "))
		for _, g := range f.Gains {
			fmt.Fprintf(&b, "-- %s: %s%s\n", printable(g.Name), printable(g.What), g.measured(f.Unit))
		}
		if f.Proof == "" {
			b.WriteString("-- not proven\n")
		}
		b.WriteString(f.SQL + "\n\n")
	}
	for _, n := range r.Notes {
		b.WriteString("-- note: " + printable(n) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// measured says what of a statement's time or cost is left, and what it has taken.
func (g *Gain) measured(unit string) string {
	out := ""
	if g.Before > 0 {
		digits := 0
		if unit == "ms" {
			digits = 2
		}
		out = fmt.Sprintf("; %s %s instead of %s", strconv.FormatFloat(g.After, 'f', digits, 64), unit, strconv.FormatFloat(g.Before, 'f', digits, 64))
	}
	if g.Calls > 0 {
		out += fmt.Sprintf("; %s calls took %.1f s so far", count(float64(g.Calls)), g.Seconds)
	}
	return out
}

func bytesText(n int64) string {
	switch {
	case n >= 10<<20:
		return strconv.FormatInt(n>>20, 10) + " MiB"
	case n >= 10<<10:
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// printable takes from statements that others wrote what a terminal would obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
