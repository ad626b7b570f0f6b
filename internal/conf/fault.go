package conf

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Fault is one mistake in a file, with what to do about it. Line and Column count from 1; zero is unknown. Path is
// written like tools[2].parameters[0].type and is empty for the document itself.
type Fault struct {
	Path, Message, Fix string
	Line, Column       int
	File               string // set by Parse, Decode and Locate
}

// Error returns "FILE:LINE:COL: path: message; fix" without the parts that are unknown.
func (f Fault) Error() string {
	var b strings.Builder
	at := f.File
	if f.Line > 0 {
		if at != "" {
			at += ":"
		}
		at += strconv.Itoa(f.Line)
		if f.Column > 0 {
			at += ":" + strconv.Itoa(f.Column)
		}
	}
	for _, s := range []string{at, f.Path} {
		if s != "" {
			b.WriteString(s)
			b.WriteString(": ")
		}
	}
	b.WriteString(f.Message)
	if f.Fix != "" {
		b.WriteString("; ")
		b.WriteString(f.Fix)
	}
	return b.String()
}

// Faults is a list of mistakes. As an error it must be made by [Faults.Err]: an empty list is no error.
type Faults []Fault

// Error lists every fault, one a line, sorted by line.
func (fs Faults) Error() string { return fs.String() }

// String lists every fault, one a line, sorted by line.
func (fs Faults) String() string {
	var b strings.Builder
	for i, f := range fs.Sorted() {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(f.Error())
	}
	return b.String()
}

// Err is fs as an error, nil when it is empty.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	return fs
}

// Sorted is a copy of fs in the order of the file.
func (fs Faults) Sorted() Faults {
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return fs
}

// capped is fs in order and cut to maxFaults, with a last one that says so.
func (fs Faults) capped() Faults {
	if len(fs) == 0 {
		return nil
	}
	fs = fs.Sorted()
	if len(fs) > maxFaults {
		last := fs[maxFaults]
		last.Path, last.Message, last.Fix = "", fmt.Sprintf("more than %d faults", maxFaults), "mend those above first"
		fs = append(fs[:maxFaults:maxFaults], last)
	}
	return fs
}

// Key is the path of a mapping's key, such as "listen.address" of ("listen", "address").
func Key(path, key string) string {
	if key == "" || strings.ContainsAny(key, "[]") || strconv.Quote(key) != `"`+key+`"` {
		return path + "[" + strconv.Quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// Index is the path of a list's element, such as "tools[2]" of ("tools", 2).
func Index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
