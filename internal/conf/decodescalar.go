package conf

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// expand gives the text of a scalar with its variables. It is not ok when a fault was reported.
func (d *decoder) expand(n *node, path string, r rules) (e expansion, ok bool) {
	if r.literal {
		return expansion{text: n.text}, true
	}
	ok = true
	e = expand(n.text, d.doc.lookup, func(message, fix string) {
		ok = false
		d.fault(n.pos, path, message, fix)
	})
	if len(e.vars) > 0 {
		if d.expanded += len(e.text); d.expanded > MaxBytes {
			ok = false
			d.fault(n.pos, path, "the variables of this file expand to too much text",
				fmt.Sprintf("keep all of it under %d bytes", MaxBytes))
		}
	}
	return e, ok
}

// shown names the value of a scalar in a message: never one that came out of a variable, never a secret.
func shown(n *node, e expansion, t reflect.Type) string {
	switch {
	case len(e.vars) > 0:
		return "the value of " + strings.Join(e.vars, " and ")
	case t == secretType:
		return "this value"
	case n.plain && formOf(n.text) != formString:
		return shorten(n.text)
	}
	return strconv.Quote(shorten(n.text))
}

// mismatch reports a scalar that is not what is wanted. fix may repeat the value: it is left out where that may not be shown.
func (d *decoder) mismatch(n *node, e expansion, t reflect.Type, path, want, fix string) {
	if len(e.vars) > 0 {
		d.fault(n.pos, path, "must be "+want+", which "+shown(n, e, t)+" is not", "set it to "+want)
		return
	}
	d.fault(n.pos, path, "must be "+want+", not "+shown(n, e, t), fix)
}

// text decodes what is written as a string: string, Secret, Duration, Size and every TextUnmarshaler.
func (d *decoder) text(n *node, v reflect.Value, path string, r rules) {
	if !d.is(n, scalarKind, path, "write a string") {
		return
	}
	e, ok := d.expand(n, path, r)
	if !ok {
		return
	}
	t := v.Type()
	bare := n.plain && len(e.vars) == 0 // what stands there is what the reader sees, without quotes
	if bare && n.null() {
		d.fault(n.pos, path, "has no value", `write one ("" is the empty string), or remove the key`)
		return
	}
	var problem, fix string
	switch t {
	case durationType:
		var x Duration
		x, problem, fix = parseDuration(e.text)
		v.SetInt(int64(x))
		if len(e.vars) > 0 {
			fix = "set it to a number with its unit, such as 30s"
		}
	case sizeType:
		var x Size
		x, problem, fix = parseSize(e.text)
		v.SetInt(int64(x))
		if len(e.vars) > 0 {
			fix = "set it to a number with its unit, such as 64KiB"
		}
	default:
		if f := formOf(n.text); bare && f != formString {
			given, fix := "the number "+shown(n, e, t), "write "+strconv.Quote(n.text)
			if f == formBool {
				given = "the truth value " + n.text
			}
			if t == secretType {
				given, fix = "a number or truth value", "put it in quotes"
			}
			d.fault(n.pos, path, "must be a string, not "+given, fix)
			return
		}
		if len(r.enum) > 0 && !slices.Contains(r.enum, e.text) {
			fix = "write one of " + listOf(r.enum)
			if len(e.vars) == 0 {
				fix = fixFor(e.text, r.enum, fix)
			}
			d.fault(n.pos, path, shown(n, e, t)+" is not one of "+listOf(r.enum), fix)
			return
		}
		if u, isText := v.Addr().Interface().(encoding.TextUnmarshaler); isText {
			if err := u.UnmarshalText([]byte(e.text)); err != nil {
				var hint bool
				if problem, fix, hint = strings.Cut("is refused: "+err.Error(), "; "); !hint {
					fix = "write another value"
				}
				if len(e.vars) > 0 { // the error may repeat it
					problem, fix = "is refused", "set it to a value that this key takes"
				}
			}
		} else {
			v.SetString(e.text)
		}
	}
	if problem != "" {
		d.fault(n.pos, path, shown(n, e, t)+" "+problem, fix)
	}
}

// scalar decodes bools and numbers.
func (d *decoder) scalar(n *node, v reflect.Value, path string, r rules) {
	if !d.is(n, scalarKind, path, "write a single value") {
		return
	}
	e, ok := d.expand(n, path, r)
	if !ok {
		return
	}
	t := v.Type()
	if t == reflect.TypeFor[time.Duration]() {
		panic("conf: a field of type time.Duration has no unit in the file; use conf.Duration")
	}
	s := e.text
	quoted := false
	if len(e.vars) > 0 {
		s = strings.TrimSpace(s)
	} else if n.null() {
		d.fault(n.pos, path, "has no value", "write one, or remove the key")
		return
	} else {
		quoted = !n.plain
	}
	f := formOf(s)
	unquote := func(want string, fits bool) bool { // a quoted 5 is a string
		if quoted && fits {
			d.mismatch(n, e, t, path, want, "remove the quotes")
		}
		return quoted && fits
	}
	switch t.Kind() {
	case reflect.Bool:
		const want = "true or false"
		switch {
		case unquote(want, f == formBool):
		case f == formBool:
			v.SetBool(s[0] == 't' || s[0] == 'T')
		default:
			d.mismatch(n, e, t, path, want, "write "+boolMeant(s))
		}
	case reflect.Float32, reflect.Float64:
		const want = "a number"
		x, err := strconv.ParseFloat(s, 64)
		switch {
		case unquote(want, f == formInt || f == formFloat):
		case f == formOdd:
			d.mismatch(n, e, t, path, "a number in plain decimal digits", plainNumber(s))
		case f != formInt && f != formFloat:
			d.mismatch(n, e, t, path, want, "write a number")
		case err != nil || math.IsInf(x, 0) || v.OverflowFloat(x):
			d.mismatch(n, e, t, path, "a number that fits 64 bits", "write a smaller one")
		default:
			v.SetFloat(x)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		const want = "a whole number"
		switch {
		case unquote(want, f == formInt):
		case f == formOdd:
			d.mismatch(n, e, t, path, "a whole number in plain decimal digits", plainNumber(s))
		case f != formInt:
			d.mismatch(n, e, t, path, want, "write a whole number, without a unit or a fraction")
		case !setInt(v, s):
			low, high := intRange(t)
			d.mismatch(n, e, t, path, "a whole number from "+low+" to "+high, "write a number within that")
		}
	default:
		panic(fmt.Sprintf("conf: a field cannot be of type %s", t))
	}
}

// boolMeant guesses what a word of older YAML was to say.
func boolMeant(s string) string {
	switch strings.ToLower(s) {
	case "yes", "y", "on", "1":
		return "true"
	case "no", "n", "off", "0":
		return "false"
	}
	return "true or false"
}

func setInt(v reflect.Value, s string) bool {
	if v.CanUint() {
		if s == "-0" {
			s = "0"
		}
		x, err := strconv.ParseUint(s, 10, v.Type().Bits())
		v.SetUint(x)
		return err == nil
	}
	x, err := strconv.ParseInt(s, 10, v.Type().Bits())
	v.SetInt(x)
	return err == nil
}

func intRange(t reflect.Type) (low, high string) {
	bits := t.Bits()
	if k := t.Kind(); k >= reflect.Uint && k <= reflect.Uint64 {
		return "0", strconv.FormatUint(math.MaxUint64>>(64-bits), 10)
	}
	return strconv.FormatInt(math.MinInt64>>(64-bits), 10), strconv.FormatInt(math.MaxInt64>>(64-bits), 10)
}

// anything decodes n as it stands.
func (d *decoder) anything(n *node, path string, r rules) any {
	switch n.kind {
	case mapKind:
		m := make(map[string]any, len(n.entries))
		for _, e := range n.entries {
			m[e.key] = d.anything(e.val, Key(path, e.key), r)
		}
		return m
	case listKind:
		s := make([]any, len(n.items))
		for i, item := range n.items {
			s[i] = d.anything(item, Index(path, i), r)
		}
		return s
	}
	e, ok := d.expand(n, path, r)
	if !ok {
		return nil
	}
	f := formOf(e.text)
	if !n.plain || len(e.vars) > 0 && (e.text == "" || f == formOdd) {
		return e.text
	}
	switch f {
	case formNull:
		return nil
	case formBool:
		return e.text[0] == 't' || e.text[0] == 'T'
	case formOdd:
		d.fault(n.pos, path, n.text+" is read differently by different versions of YAML", plainNumber(n.text)+", or put it in quotes")
		return nil
	case formInt, formFloat:
		x, fits := number(e.text)
		if !fits {
			d.fault(n.pos, path, shown(n, e, anyType)+" does not fit 64 bits", "put it in quotes")
		}
		return x
	}
	return e.text
}
