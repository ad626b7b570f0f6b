package sqldb

import (
	"strings"
	"unicode/utf8"
)

// dialect is the SQL that a statement is written in.
type dialect uint8

const (
	dialectSQLite dialect = iota
	dialectPostgres
)

type tokenKind uint8

const (
	tokenEnd    tokenKind = iota
	tokenWord             // a keyword or a bare identifier
	tokenQuoted           // a quoted identifier
	tokenValue            // a literal: string, number, blob, dollar-quoted text
	tokenParam            // :name
	tokenSymbol           // one byte of anything else, or "::" or ":="
	tokenBad              // scanner.fault says why
)

type token struct {
	kind       tokenKind
	start, end int
}

// scanner cuts a statement into tokens as its engine does. Where it is unsure it is stricter than the engine: a
// statement that it cannot read is refused when the file is loaded. Nothing depends on it for safety, since values are
// bound and never spliced, and each engine itself refuses a second statement and a write in a read-only transaction.
type scanner struct {
	text    string
	dialect dialect
	pos     int

	brackets []byte // the open '(' and '['
	operand  bool   // the last token ends an operand, so that a colon in [ ] is a slice's
	fault    string // of tokenBad
	fix      string
}

func isWordStart(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c >= utf8.RuneSelf
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isWordPart(c byte) bool { return isWordStart(c) || isDigit(c) || c == '$' }

// next gives the next token; comments and blanks are passed over.
func (s *scanner) next() token {
	if bad, ok := s.skip(); !ok {
		return bad
	}
	start := s.pos
	if start >= len(s.text) {
		return token{tokenEnd, start, start}
	}
	c := s.text[start]
	pg := s.dialect == dialectPostgres
	switch {
	case isWordStart(c):
		for s.pos < len(s.text) && isWordPart(s.text[s.pos]) {
			s.pos++
		}
		word := s.text[start:s.pos]
		if s.pos < len(s.text) && s.text[s.pos] == '\'' {
			switch {
			case pg && strings.EqualFold(word, "e"):
				return s.quoted(start, '\'', tokenValue, true)
			case strings.EqualFold(word, "x"), pg && (strings.EqualFold(word, "b") || strings.EqualFold(word, "n")):
				return s.quoted(start, '\'', tokenValue, false)
			}
		}
		return s.emit(tokenWord, start, true)
	case isDigit(c), c == '.' && s.peek(1) >= '0' && s.peek(1) <= '9':
		s.number()
		return s.emit(tokenValue, start, true)
	case c == '\'':
		return s.quoted(start, c, tokenValue, false)
	case c == '"', c == '`' && !pg:
		return s.quoted(start, c, tokenQuoted, false)
	case c == '[' && !pg:
		i := strings.IndexByte(s.text[start:], ']')
		if i < 0 {
			return s.bad(start, "a [identifier] is never closed", "add the ]")
		}
		s.pos = start + i + 1
		return s.emit(tokenQuoted, start, true)
	case c == '$':
		return s.dollar(start)
	case c == ':':
		return s.colon(start)
	case c == '?':
		return s.question(start)
	case c == '@' && !pg && isWordStart(s.peek(1)):
		return s.bad(start, "@name is not a parameter here", "write :"+s.wordAt(start+1))
	case c == '(' || c == '[':
		s.brackets = append(s.brackets, c)
	case c == ')' || c == ']':
		want := byte('(')
		if c == ']' {
			want = '['
		}
		if n := len(s.brackets); n == 0 || s.brackets[n-1] != want {
			return s.bad(start, "a "+string(c)+" closes nothing", "remove it or open it")
		}
		s.brackets = s.brackets[:len(s.brackets)-1]
		s.pos++
		return s.emit(tokenSymbol, start, true)
	}
	s.pos++
	return s.emit(tokenSymbol, start, false)
}

func (s *scanner) emit(kind tokenKind, start int, operand bool) token {
	s.operand = operand
	return token{kind, start, s.pos}
}

func (s *scanner) bad(at int, fault, fix string) token {
	s.fault, s.fix = fault, fix
	return token{tokenBad, at, at}
}

func (s *scanner) peek(n int) byte {
	if s.pos+n < len(s.text) {
		return s.text[s.pos+n]
	}
	return 0
}

func (s *scanner) wordAt(start int) string {
	end := start
	for end < len(s.text) && isWordPart(s.text[end]) && s.text[end] != '$' {
		end++
	}
	return s.text[start:end]
}

// skip passes over blanks and comments. PostgreSQL's block comments nest and SQLite's do not.
func (s *scanner) skip() (token, bool) {
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			s.pos++
		case c == '-' && s.peek(1) == '-':
			i := strings.IndexByte(s.text[s.pos:], '\n')
			if i < 0 {
				i = len(s.text) - s.pos - 1
			}
			s.pos += i + 1
		case c == '/' && s.peek(1) == '*':
			start, depth := s.pos, 1
			s.pos += 2
			for depth > 0 {
				switch {
				case s.pos >= len(s.text):
					return s.bad(start, "a comment is never closed", "add the */"), false
				case s.text[s.pos] == '*' && s.peek(1) == '/':
					depth--
					s.pos += 2
				case s.text[s.pos] == '/' && s.peek(1) == '*' && s.dialect == dialectPostgres:
					depth++
					s.pos += 2
				default:
					s.pos++
				}
			}
		default:
			return token{}, true
		}
	}
	return token{}, true
}

// quoted reads to the closing quote; a doubled quote stands for itself. s.pos is at the opening one.
func (s *scanner) quoted(start int, quote byte, kind tokenKind, backslash bool) token {
	for s.pos++; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; {
		case c == '\\' && backslash:
			s.pos++
		case c == quote && s.peek(1) == quote:
			s.pos++
		case c == quote:
			s.pos++
			return s.emit(kind, start, true)
		}
	}
	return s.bad(start, "a "+string(quote)+" is never closed", "add the closing "+string(quote))
}

func (s *scanner) number() {
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		switch {
		case isWordPart(c) || c == '.':
			s.pos++
			if c|0x20 == 'e' && (s.peek(0) == '-' || s.peek(0) == '+') && isDigit(s.peek(1)) {
				s.pos++
			}
		default:
			return
		}
	}
}

// dollar reads PostgreSQL's $tag$…$tag$.
func (s *scanner) dollar(start int) token {
	if isDigit(s.peek(1)) {
		return s.bad(start, "$"+s.wordAt(start+1)+" is a positional placeholder", "name the parameter: :name")
	}
	if s.dialect == dialectSQLite {
		if isWordStart(s.peek(1)) {
			return s.bad(start, "$name is not a parameter here", asParameter(s.wordAt(start+1)))
		}
		return s.bad(start, "a $ stands alone", "remove it")
	}
	end := start + 1 + len(s.wordAt(start+1))
	if end >= len(s.text) || s.text[end] != '$' {
		if word := s.wordAt(start + 1); isWordStart(s.peek(1)) {
			return s.bad(start, "$"+word+" is not a parameter here", asParameter(word))
		}
		return s.bad(start, "a $ opens no quoted text", "write $tag$ … $tag$, or name a parameter :name")
	}
	tag := s.text[start : end+1]
	i := strings.Index(s.text[end+1:], tag)
	if i < 0 {
		return s.bad(start, tag+" is never closed", "add the second "+tag)
	}
	s.pos = end + 1 + i + len(tag)
	return s.emit(tokenValue, start, true)
}

func asParameter(word string) string {
	return "write :" + word + ", and add " + word + " to parameters"
}

// colon tells parameters from casts, named arguments (:=) and slices. In PostgreSQL's [ ], a colon after an operand
// separates a slice's bounds: in a[1:n] n is a column, a[:n] takes the element that the parameter n says, and a slice to
// a parameter is a[1: :n].
func (s *scanner) colon(start int) token {
	pg := s.dialect == dialectPostgres
	n := s.peek(1)
	if pg && (n == ':' || n == '=') {
		s.pos += 2
		return s.emit(tokenSymbol, start, false)
	}
	slice := pg && len(s.brackets) > 0 && s.brackets[len(s.brackets)-1] == '['
	if slice && s.operand || slice && !isWordStart(n) {
		s.pos++
		return s.emit(tokenSymbol, start, false)
	}
	if !isWordStart(n) {
		return s.bad(start, "a : names no parameter", "write :name, beginning with a letter")
	}
	s.pos = start + 1 + len(s.wordAt(start+1))
	return s.emit(tokenParam, start, true)
}

// question refuses placeholders. In PostgreSQL ?, ?| and ?& are operators of jsonb: only one that has nothing to its
// right must be meant as a placeholder.
func (s *scanner) question(start int) token {
	if s.dialect == dialectPostgres {
		n := s.peek(1)
		rest := strings.TrimLeft(s.text[start+1:], " \t\r\n")
		if n == '|' || n == '&' || !isDigit(n) && rest != "" && !strings.ContainsRune("),;", rune(rest[0])) {
			s.pos++
			return s.emit(tokenSymbol, start, false)
		}
	}
	return s.bad(start, "? is a positional placeholder", "name the parameter: :name")
}
