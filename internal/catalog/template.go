package catalog

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"
)

// template matches the addresses of a URI template of RFC 6570, level 1: {name} stands for one part without '/'.
type template struct {
	re   *regexp.Regexp
	vars []string
}

var variable = regexp.MustCompile(`\{([^{}]*)\}`)

func compileTemplate(text string) (*template, error) {
	t := &template{}
	var re strings.Builder
	re.WriteString("^")
	at := 0
	for _, m := range variable.FindAllStringSubmatchIndex(text, -1) {
		name := text[m[2]:m[3]]
		if !parameterName.MatchString(name) {
			return nil, fmt.Errorf("{%s} is no variable", name)
		}
		for _, other := range t.vars {
			if other == name {
				return nil, fmt.Errorf("{%s} is there twice", name)
			}
		}
		t.vars = append(t.vars, name)
		re.WriteString(regexp.QuoteMeta(text[at:m[0]]) + "([^/?#]+)")
		at = m[1]
	}
	if strings.ContainsAny(text[at:], "{}") {
		return nil, fmt.Errorf("a brace is not closed")
	}
	re.WriteString(regexp.QuoteMeta(text[at:]) + "$")
	if len(t.vars) == 0 {
		return nil, fmt.Errorf("it has no {variable}; use uri")
	}
	if u, err := url.Parse(variable.ReplaceAllString(text, "x")); err != nil || u.Scheme == "" {
		return nil, fmt.Errorf("it must begin with a scheme, like city://")
	}
	var err error
	t.re, err = regexp.Compile(re.String())
	return t, err
}

// match gives the values of the variables, in their order; nil where uri is none of the template's.
func (t *template) match(uri string) []string {
	m := t.re.FindStringSubmatch(uri)
	if m == nil {
		return nil
	}
	values := m[1:]
	for i, v := range values {
		plain, err := url.PathUnescape(v)
		if err != nil || !utf8.ValidString(plain) {
			return nil
		}
		values[i] = plain
	}
	return values
}
