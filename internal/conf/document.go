package conf

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Position is a place in a file, counted from 1; columns count characters.
type Position struct{ Line, Column int }

// A Document is one parsed file. It does not change after Parse, so it may be used from many goroutines.
type Document struct {
	file   string
	lookup func(string) (string, bool)
	root   *node // nil where the file could not be read at all
}

// Parse reads one strict YAML document. file only names it in faults; lookup gives the values of variables (os.LookupEnv,
// say) and nil means that none is set. The Document is never nil: after a fault it holds what could be read, so that Decode
// can report its own faults beside those of Parse; such a configuration must not be used.
func Parse(file string, data []byte, lookup func(string) (string, bool)) (*Document, Faults) {
	if lookup == nil {
		lookup = func(string) (string, bool) { return "", false }
	}
	d := &Document{file: file, lookup: lookup}
	root, faults := parse(data)
	d.root = root
	return d, d.named(faults.capped())
}

// Read tells whether there is anything that Decode could read: false after a mistake of syntax.
func (d *Document) Read() bool { return d.root != nil }

// Position of a path, or of its nearest existing ancestor.
func (d *Document) Position(path string) Position {
	if d.root == nil {
		return Position{1, 1}
	}
	n, _ := d.root.find(path)
	return n.pos
}

// Locate gives every fault that has only a Path its line and column, and sorts them. It changes no fault of fs itself.
func (d *Document) Locate(fs Faults) Faults {
	out := make(Faults, len(fs))
	for i, f := range fs {
		if f.Line == 0 {
			p := d.Position(f.Path)
			f.Line, f.Column = p.Line, p.Column
		}
		out[i] = f
	}
	return d.named(out).capped()
}

// named fills the file of fs in place.
func (d *Document) named(fs Faults) Faults {
	for i := range fs {
		if fs[i].File == "" {
			fs[i].File = d.file
		}
	}
	return fs
}

func parse(data []byte) (root *node, faults Faults) {
	src, fault := clean(data)
	if fault != nil {
		return nil, Faults{*fault}
	}
	b := builder{seen: make(map[*token.Token]bool)}
	defer func() {
		// The parser panics on some malformed input.
		if recover() != nil {
			b.fault(Position{1, 1}, "", "is not YAML that can be read", "simplify it, or look for an unclosed quote or bracket")
			root, faults = nil, b.faults
		}
	}()
	tokens := lexer.Tokenize(src)
	b.refuse(tokens)
	if len(b.faults) > 0 {
		return nil, b.faults
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		b.syntax(err, src)
		return nil, b.faults
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			b.fault(positionOf(doc.Body, Position{}), "", "a second document begins here", "keep one document in a file")
			return nil, b.faults
		}
		body = doc.Body
	}
	if body == nil {
		return &node{kind: mapKind, pos: Position{1, 1}}, nil
	}
	root = b.build(body, "", Position{}, 0)
	// What the parser dropped in silence would be a setting that silently does not hold.
	for _, tk := range tokens {
		if isScalar(tk) && !b.seen[tk] && len(b.faults) == 0 {
			b.fault(tokenPosition(tk, Position{}), "", "this text belongs to no key", "mend the indentation, or put it in quotes")
			return nil, b.faults
		}
	}
	return root, b.faults
}

// clean checks the bytes, and drops the byte order mark and carriage returns.
func clean(data []byte) (string, *Fault) {
	if len(data) > MaxBytes {
		return "", &Fault{Line: 1, Column: 1, Message: fmt.Sprintf("the file has %d bytes", len(data)),
			Fix: fmt.Sprintf("keep it under %d", MaxBytes)}
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	data = bytes.ReplaceAll(data, []byte("\r"), []byte("\n"))
	line, column := 1, 1
	filled := 0 // the last line with text
	for rest := data; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		message := ""
		switch {
		case r == utf8.RuneError && n <= 1:
			message = "this byte is not UTF-8"
		case r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r == 0xfeff || r == 0xfffe || r == 0xffff:
			message = fmt.Sprintf("the control character %U stands here", r)
		}
		if message != "" {
			return "", &Fault{Line: line, Column: column, Message: message, Fix: "save the file as UTF-8 text without it"}
		}
		if r > ' ' {
			filled = line
		}
		if line-filled > maxBlank {
			return "", &Fault{Line: line, Column: 1, Message: fmt.Sprintf("more than %d lines on end are empty", maxBlank), Fix: "remove them"}
		}
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
		rest = rest[n:]
	}
	return string(data), nil
}

// syntax reports the parser's own error with a hint from the line where it stands.
func (b *builder) syntax(err error, src string) {
	pos, message := Position{1, 1}, "is not valid YAML"
	// The error type lives in an internal package of the parser.
	if e, ok := err.(interface {
		GetMessage() string
		GetToken() *token.Token
	}); ok {
		pos, message = tokenPosition(e.GetToken(), pos), e.GetMessage()
	}
	b.fault(pos, "", "not valid YAML: "+strings.ReplaceAll(message, "\t", `\t`), syntaxFix(pos, src))
}

func syntaxFix(pos Position, src string) string {
	lines := strings.Split(src, "\n")
	if pos.Line > len(lines) {
		return "look at the line before it too"
	}
	line := lines[pos.Line-1]
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	switch {
	case strings.Contains(indent, "\t"):
		return "indent with spaces, not tabs"
	case strings.Contains(line, "${"):
		return `put quotes around the value with ${…}`
	case strings.HasPrefix(strings.TrimSpace(line), "-") || strings.Count(line, ":") < 2:
		return "look at the indentation, quotes and brackets here and on the line before"
	}
	return "put quotes around a value that holds a colon, or begin a new line"
}
