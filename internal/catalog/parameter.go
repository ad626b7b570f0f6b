package catalog

import (
	"encoding/json"
	"fmt"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/jsonschema-go/jsonschema"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// parameter is a Parameter compiled: decoding an argument looks nothing up and allocates nothing but escaped texts.
type parameter struct {
	Parameter
	def    mcp.Value
	hasDef bool
	enum   []mcp.Value
	re     *regexp.Regexp
	nested *jsonschema.Resolved // of arrays and objects
	header string               // canonical name of its Mcp-Param-* header, "" for none
}

// table decodes the arguments of one target.
type table struct {
	params  []parameter
	headers bool // some parameter has a header
}

// argumentError says which argument is wrong and why.
type argumentError struct{ name, problem string }

func (e *argumentError) Error() string { return fmt.Sprintf("argument %q %s", e.name, e.problem) }

// compileTable checks the parameters of one target and compiles them. path is where they stand in the file.
func compileTable(path string, list []Parameter) (*table, conf.Faults) {
	t := &table{params: make([]parameter, len(list))}
	var faults conf.Faults
	fault := func(at, message, fix string) {
		faults = append(faults, conf.Fault{Path: at, Message: message, Fix: fix})
	}
	names, headers := map[string]bool{}, map[string]bool{}
	for i, c := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		p := &t.params[i]
		p.Parameter = c
		switch {
		case !parameterName.MatchString(c.Name):
			fault(at+".name", fmt.Sprintf("%q is no name of a parameter", c.Name), "use a letter or '_', then letters, digits and '_', at most 64")
		case names[c.Name]:
			fault(at+".name", fmt.Sprintf("%q is there twice", c.Name), "rename one of them")
		}
		names[c.Name] = true
		if _, ok := kinds[c.Type]; !ok {
			fault(at+".type", fmt.Sprintf("%q is no type", c.Type), "use string, integer, number, boolean, array or object")
			continue
		}
		number, text := c.Type == "integer" || c.Type == "number", c.Type == "string"
		for key, misplaced := range map[string]bool{
			"minimum": c.Minimum != nil && !number, "maximum": c.Maximum != nil && !number,
			"minLength": c.MinLength != nil && !text, "maxLength": c.MaxLength != nil && !text, "pattern": c.Pattern != "" && !text,
			"items": c.Items != nil && c.Type != "array", "properties": c.Properties != nil && c.Type != "object",
		} {
			if misplaced {
				fault(at+"."+key, "does not go with type "+c.Type, "remove it, or change the type")
			}
		}
		if c.Minimum != nil && c.Maximum != nil && *c.Minimum > *c.Maximum {
			fault(at+".maximum", "is less than minimum", "swap them")
		}
		if c.MinLength != nil && c.MaxLength != nil && *c.MinLength > *c.MaxLength {
			fault(at+".maxLength", "is less than minLength", "swap them")
		}
		if c.Pattern != "" {
			var err error
			if p.re, err = regexp.Compile(c.Pattern); err != nil {
				fault(at+".pattern", err.Error(), "write a regular expression of RE2")
			}
		}
		if c.Header != "" {
			p.header = textproto.CanonicalMIMEHeaderKey("Mcp-Param-" + c.Header)
			t.headers = true
			switch {
			case !token.MatchString(c.Header):
				fault(at+".header", fmt.Sprintf("%q is no name of a header", c.Header), "use letters, digits and '-'")
			case c.Type != "string" && c.Type != "integer" && c.Type != "boolean":
				fault(at+".header", "does not go with type "+c.Type, "only strings, integers and booleans travel in headers")
			case headers[p.header]:
				fault(at+".header", fmt.Sprintf("%q is there twice; case does not matter", c.Header), "rename one of them")
			}
			headers[p.header] = true
		}
		if c.Type == "array" || c.Type == "object" {
			var err error
			if p.nested, err = compileSchema(p.schema()); err != nil {
				p.nested = nil
				fault(at, err.Error(), "write a JSON Schema (draft 2020-12)")
			}
		}
		for j, v := range c.Enum {
			value, err := p.literal(v)
			fix := "give a value of type " + c.Type
			p.enum = append(p.enum, value)
			if err == nil && (p.nested != nil || value.Kind != mcp.KindJSON) { // else its schema's fault has been told
				err, fix = p.check(value), "remove it, or mend the bounds: no call could use it"
			}
			if err != nil {
				fault(fmt.Sprintf("%s.enum[%d]", at, j), err.problem, fix)
			}
		}
		if c.Default != nil {
			value, err := p.literal(c.Default)
			if err == nil && (p.nested != nil || value.Kind != mcp.KindJSON) { // else its schema's fault has been told
				err = p.check(value)
			}
			if err != nil {
				fault(at+".default", err.problem, "give a value that the parameter itself would accept")
			}
			p.def, p.hasDef = value, true
			if c.Required {
				fault(at+".default", "goes not with required: true", "remove one of the two")
			}
		}
	}
	return t, faults
}

var (
	parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	token         = regexp.MustCompile("^[A-Za-z0-9-]{1,64}$")
	kinds         = map[string]mcp.Kind{"string": mcp.KindText, "integer": mcp.KindInt, "number": mcp.KindFloat,
		"boolean": mcp.KindBool, "array": mcp.KindJSON, "object": mcp.KindJSON}
)

// schema gives the parameter's JSON Schema as a tree for encoding/json.
func (p *parameter) schema() map[string]any {
	s := map[string]any{"type": p.Type}
	set := func(key string, value any, given bool) {
		if given {
			s[key] = value
		}
	}
	set("description", p.Description, p.Description != "")
	set("default", p.Default, p.Default != nil)
	set("enum", p.Enum, len(p.Enum) > 0)
	set("minimum", p.Minimum, p.Minimum != nil)
	set("maximum", p.Maximum, p.Maximum != nil)
	set("minLength", p.MinLength, p.MinLength != nil)
	set("maxLength", p.MaxLength, p.MaxLength != nil)
	set("pattern", p.Pattern, p.Pattern != "")
	set("items", p.Items, p.Items != nil)
	set("properties", p.Properties, p.Properties != nil)
	set("x-mcp-header", p.Header, p.Header != "")
	return s
}

// literal turns a value of the file into one of the parameter's type.
func (p *parameter) literal(v any) (mcp.Value, *argumentError) {
	data, err := json.Marshal(v)
	if err != nil {
		return mcp.Value{}, &argumentError{p.Name, err.Error()}
	}
	value, _, fault := p.decode(data)
	return value, fault
}

// decode turns one argument, valid JSON, into a value. unsafe tells that it cannot be part of a key.
func (p *parameter) decode(raw []byte) (v mcp.Value, unsafe bool, err *argumentError) {
	switch p.Type {
	case "string":
		text, ok := mcp.Text(raw)
		if !ok {
			return v, false, p.wrong(raw)
		}
		return mcp.Value{Kind: mcp.KindText, Text: text}, false, nil
	case "integer":
		n, problem := parseInteger(raw)
		if problem != "" {
			if problem == notANumber {
				return v, false, p.wrong(raw)
			}
			return v, false, &argumentError{p.Name, problem}
		}
		return mcp.Value{Kind: mcp.KindInt, Int: n}, false, nil
	case "number":
		if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
			return v, false, p.wrong(raw)
		}
		f, perr := strconv.ParseFloat(string(raw), 64)
		if perr != nil {
			return v, false, &argumentError{p.Name, "is beyond the range of a 64-bit float"}
		}
		return mcp.Value{Kind: mcp.KindFloat, Float: f}, false, nil
	case "boolean":
		switch raw[0] {
		case 't':
			return mcp.Value{Kind: mcp.KindBool, Int: 1}, false, nil
		case 'f':
			return mcp.Value{Kind: mcp.KindBool}, false, nil
		}
		return v, false, p.wrong(raw)
	default:
		if p.Type == "array" && raw[0] != '[' || p.Type == "object" && raw[0] != '{' {
			return v, false, p.wrong(raw)
		}
		text, exact := canonical(raw)
		return mcp.Value{Kind: mcp.KindJSON, Text: text}, !exact, nil
	}
}

func (p *parameter) wrong(raw []byte) *argumentError {
	got := "a number"
	switch raw[0] {
	case '"':
		got = "a string"
	case '{':
		got = "an object"
	case '[':
		got = "an array"
	case 't', 'f':
		got = "a boolean"
	case 'n':
		got = "null"
	}
	article := "a "
	if strings.ContainsRune("aeiou", rune(p.Type[0])) {
		article = "an "
	}
	return &argumentError{p.Name, "must be " + article + p.Type + ", not " + got}
}

// check holds a value against the parameter's bounds.
func (p *parameter) check(v mcp.Value) *argumentError {
	if len(p.enum) > 0 && !slices.ContainsFunc(p.enum, func(e mcp.Value) bool {
		return string(e.AppendKey(nil)) == string(v.AppendKey(nil))
	}) {
		allowed, _ := json.Marshal(p.Enum)
		return &argumentError{p.Name, "must be one of " + string(allowed)}
	}
	switch v.Kind {
	case mcp.KindInt, mcp.KindFloat:
		if p.Minimum != nil && compare(v, *p.Minimum) < 0 {
			return &argumentError{p.Name, "must be at least " + strconv.FormatFloat(*p.Minimum, 'g', -1, 64)}
		}
		if p.Maximum != nil && compare(v, *p.Maximum) > 0 {
			return &argumentError{p.Name, "must be at most " + strconv.FormatFloat(*p.Maximum, 'g', -1, 64)}
		}
	case mcp.KindText:
		if p.MinLength != nil || p.MaxLength != nil {
			n := utf8.RuneCount(v.Text)
			if p.MinLength != nil && n < *p.MinLength {
				return &argumentError{p.Name, fmt.Sprintf("must have at least %d characters", *p.MinLength)}
			}
			if p.MaxLength != nil && n > *p.MaxLength {
				return &argumentError{p.Name, fmt.Sprintf("must have at most %d characters", *p.MaxLength)}
			}
		}
		if p.re != nil && !p.re.Match(v.Text) {
			return &argumentError{p.Name, "must match " + p.Pattern}
		}
	case mcp.KindJSON:
		var tree any
		if err := json.Unmarshal(v.Text, &tree); err != nil {
			return &argumentError{p.Name, "is no JSON"}
		}
		if err := p.nested.Validate(tree); err != nil {
			return &argumentError{p.Name, "does not fit its schema: " + err.Error()}
		}
	}
	return nil
}

// decode fills dst with the values of all parameters, in their order. raw is a valid JSON object or nil.
func (t *table) decode(raw []byte, dst []mcp.Value) (values []mcp.Value, unsafe bool, err error) {
	dst = slices.Grow(dst[:0], len(t.params))[:len(t.params)]
	clear(dst)
	var fault *argumentError
	if raw != nil {
		mcp.Members(raw, func(key, value []byte) bool {
			at := -1
			for i := range t.params {
				if t.params[i].Name == string(key) {
					at = i
					break
				}
			}
			if at < 0 {
				fault = &argumentError{clip(key), "is unknown" + t.names()}
				return false
			}
			p := &t.params[at]
			if value[0] == 'n' && !p.Required {
				return true // null is as good as absent
			}
			v, risky, wrong := p.decode(value)
			if wrong == nil {
				wrong = p.check(v)
			}
			dst[at], unsafe, fault = v, unsafe || risky, wrong
			return fault == nil
		})
	}
	if fault != nil {
		return dst, unsafe, fault
	}
	for i := range t.params {
		if p := &t.params[i]; dst[i].Kind == mcp.KindNull {
			if p.Required {
				return dst, unsafe, &argumentError{p.Name, "is required: " + p.Type + describe(p.Description)}
			}
			if p.hasDef {
				dst[i] = p.def
			}
		}
	}
	return dst, unsafe, nil
}

func describe(text string) string {
	if text == "" {
		return ""
	}
	return ", " + text
}

// names tells which parameters there are.
func (t *table) names() string {
	if len(t.params) == 0 {
		return "; the tool takes none"
	}
	names := make([]string, len(t.params))
	for i := range t.params {
		names[i] = t.params[i].Name
	}
	return "; the tool takes " + strings.Join(names, ", ")
}

// checkHeaders holds the Mcp-Param-* headers of a modern request against the arguments. Headers of other names are
// somebody else's.
func (t *table) checkHeaders(headers map[string][]string, values []mcp.Value, raw []byte) *mcp.Error {
	if !t.headers {
		return nil
	}
	for i := range t.params {
		p := &t.params[i]
		if p.header == "" {
			continue
		}
		got := headers[p.header]
		given := mcp.Member(raw, p.Name)
		if given == nil || given[0] == 'n' {
			if len(got) > 0 {
				return mcp.Errorf(mcp.CodeHeaderMismatch, "header %s is there but argument %q is not", p.header, p.Name)
			}
			continue
		}
		if len(got) != 1 {
			return mcp.Errorf(mcp.CodeHeaderMismatch, "header %s must be there once, for argument %q; it is there %d times", p.header, p.Name, len(got))
		}
		text, ok := mcp.DecodeHeader(got[0])
		if ok {
			switch v := values[i]; v.Kind {
			case mcp.KindText:
				ok = text == string(v.Text)
			case mcp.KindInt:
				n, problem := int64(0), notANumber
				if mcp.Valid([]byte(text)) {
					n, problem = parseInteger([]byte(strings.TrimSpace(text)))
				}
				ok = problem == "" && n == v.Int
			case mcp.KindBool:
				ok = text == strconv.FormatBool(v.Bool())
			}
		}
		if !ok {
			return mcp.Errorf(mcp.CodeHeaderMismatch, "header %s differs from argument %q", p.header, p.Name)
		}
	}
	return nil
}
