package conf

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// expansion is one scalar's text with its variables put in.
type expansion struct {
	text string
	vars []string // as written, such as ${PORT:-80}; empty when nothing was expanded
}

// expand puts the values of variables into text. A problem names the variable and never a value.
func expand(text string, lookup func(string) (string, bool), fault func(message, fix string)) expansion {
	if !strings.Contains(text, "${") {
		return expansion{text: text}
	}
	var e expansion
	var b strings.Builder
	for len(text) > 0 {
		i := strings.Index(text, "${")
		if i < 0 {
			break
		}
		if i > 0 && text[i-1] == '$' {
			b.WriteString(text[:i-1])
			b.WriteString("${")
			text = text[i+2:]
			continue
		}
		b.WriteString(text[:i])
		text = text[i+2:]
		end := strings.IndexByte(text, '}')
		if end < 0 {
			fault("a ${ is never closed", "add the }, or write $${ for a literal ${")
			break
		}
		inner := text[:end]
		text = text[end+1:]
		name, op, rest := splitVariable(inner)
		switch {
		case strings.Contains(inner, "${"):
			fault("a variable stands inside another", "give the default as plain text")
			continue
		case name == "" || (op == "" && rest != ""):
			fault(fmt.Sprintf("${%s} names no variable", shorten(inner)),
				"write ${NAME}, ${NAME:-default} or ${NAME:?message}, or $${ for a literal ${")
			continue
		}
		e.vars = append(e.vars, "${"+name+"}")
		value, set := lookup(name)
		switch {
		case op == ":-" && value == "":
			value = rest
		case op == ":?" && value == "":
			message := "must be set"
			if rest != "" {
				message += ": " + rest
			}
			fault("the environment variable "+name+" "+message, "set "+name)
		case !set:
			fault("the environment variable "+name+" is not set", "set "+name+", or give a default: ${"+name+":-default}")
		case len(value) > MaxBytes:
			fault("the value of ${"+name+"} is too long", fmt.Sprintf("give at most %d bytes", MaxBytes))
			value = ""
		case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
			fault("the value of ${"+name+"} is not UTF-8 text", "set "+name+" to text")
		}
		b.WriteString(value)
		if b.Len() > MaxBytes {
			fault("the expanded value is too long", fmt.Sprintf("give at most %d bytes", MaxBytes))
			break
		}
	}
	b.WriteString(text)
	e.text = b.String()
	return e
}

// splitVariable splits what stands between the braces into the name, ":-" or ":?", and the rest.
func splitVariable(inner string) (name, op, rest string) {
	n := 0
	for n < len(inner) && (inner[n] == '_' || inner[n]|0x20 >= 'a' && inner[n]|0x20 <= 'z' || n > 0 && inner[n] >= '0' && inner[n] <= '9') {
		n++
	}
	name, rest = inner[:n], inner[n:]
	if strings.HasPrefix(rest, ":-") || strings.HasPrefix(rest, ":?") {
		op, rest = rest[:2], rest[2:]
	}
	return name, op, rest
}

// shorten cuts text to what a message can hold.
func shorten(s string) string {
	const most = 40
	n := 0
	for i := range s {
		if n++; n > most {
			return s[:i] + "…"
		}
	}
	return s
}
