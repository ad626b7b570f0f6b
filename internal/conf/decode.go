package conf

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
)

var (
	durationType  = reflect.TypeFor[Duration]()
	sizeType      = reflect.TypeFor[Size]()
	secretType    = reflect.TypeFor[Secret]()
	anyType       = reflect.TypeFor[any]()
	unmarshalType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// Decode fills v, a pointer to a struct, and reports every fault. What v holds for keys that the file does not name stays;
// a list or map that the file names replaces what v holds. An explicit null is a fault everywhere but in a field of type
// any. After a fault v is filled in part and must not be used. Decode panics on a v that it cannot ever fill.
//
// In a field of type any, a scalar without quotes is read as null, bool, int64, uint64 (only beyond int64), float64 or
// string, after its variables are expanded; one with quotes is a string.
func (d *Document) Decode(v any) Faults {
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Pointer || r.IsNil() || r.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("conf: Decode needs a pointer to a struct, not %T", v))
	}
	if d.root == nil {
		return nil
	}
	dec := decoder{doc: d, fieldsOf: map[reflect.Type][]field{}}
	dec.value(d.root, r.Elem(), "", rules{})
	return d.named(dec.faults.capped())
}

// rules are what a field's tags say; they hold for everything below the field.
type rules struct {
	literal bool // expand:"none"
	enum    []string
}

type decoder struct {
	doc      *Document
	faults   Faults
	fieldsOf map[reflect.Type][]field
	expanded int // bytes so far
}

func (d *decoder) fault(pos Position, path, message, fix string) {
	if len(d.faults) <= maxFaults {
		d.faults = append(d.faults, Fault{Path: path, Message: message, Fix: fix, Line: pos.Line, Column: pos.Column})
	}
}

// value decodes n into v, which can be set.
func (d *decoder) value(n *node, v reflect.Value, path string, r rules) {
	t := v.Type()
	if t.Kind() == reflect.Pointer {
		fresh := newValue(t.Elem())
		if !v.IsNil() {
			fresh.Elem().Set(v.Elem()) // a default may be shared: it is never written through
		}
		d.value(n, fresh.Elem(), path, r)
		v.Set(fresh)
		return
	}
	if isText(t) {
		d.text(n, v, path, r)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		d.structure(n, v, path, r)
	case reflect.Map:
		d.mapping(n, v, path, r)
	case reflect.Slice:
		d.list(n, v, path, r)
	case reflect.Interface:
		mustBeAny(t)
		if x := d.anything(n, path, r); x != nil {
			v.Set(reflect.ValueOf(x))
		} else {
			v.SetZero()
		}
	default:
		d.scalar(n, v, path, r)
	}
}

// isText tells whether values of t are written as a string.
func isText(t reflect.Type) bool {
	return t == secretType || t.Kind() == reflect.String || reflect.PointerTo(t).Implements(unmarshalType)
}

func mustBeAny(t reflect.Type) {
	if t != anyType {
		panic(fmt.Sprintf("conf: a field cannot be of type %s", t))
	}
}

// newValue is a pointer to a new t with its defaults.
func newValue(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if def, ok := p.Interface().(Defaulter); ok {
		def.SetDefaults()
	}
	return p
}

// is tells whether n is of the kind that is wanted there, and reports it otherwise.
func (d *decoder) is(n *node, want kind, path, fix string) bool {
	switch {
	case n.kind == want:
		return true
	case n.null():
		empty := [...]string{"write one", "write {}", "write []"}[want]
		d.fault(n.pos, path, "has no value", empty+", or remove the key")
	default:
		d.fault(n.pos, path, "must be "+want.String()+", not "+n.kind.String(), fix)
	}
	return false
}

func (d *decoder) structure(n *node, v reflect.Value, path string, r rules) {
	fields, ok := d.fieldsOf[v.Type()]
	if !ok {
		fields = fieldsOf(v.Type(), nil)
		d.fieldsOf[v.Type()] = fields
	}
	if !d.is(n, mapKind, path, "its keys are "+listOf(names(fields))) {
		return
	}
next:
	for _, e := range n.entries {
		for _, f := range fields {
			if f.name == e.key {
				d.value(e.val, v.FieldByIndex(f.index), Key(path, e.key), rules{r.literal || f.literal, f.enum})
				continue next
			}
		}
		known := names(fields)
		d.fault(e.pos, Key(path, e.key), "is not a known key", fixFor(e.key, known, "remove it; the keys here are "+listOf(known)))
	}
}

func (d *decoder) mapping(n *node, v reflect.Value, path string, r rules) {
	t := v.Type()
	if t.Key().Kind() != reflect.String {
		panic(fmt.Sprintf("conf: the keys of %s are not strings", t))
	}
	if !d.is(n, mapKind, path, "write name: value pairs") {
		return
	}
	m := reflect.MakeMapWithSize(t, len(n.entries))
	for _, e := range n.entries {
		elem := newValue(t.Elem()).Elem()
		d.value(e.val, elem, Key(path, e.key), r)
		m.SetMapIndex(reflect.ValueOf(e.key).Convert(t.Key()), elem)
	}
	v.Set(m)
}

func (d *decoder) list(n *node, v reflect.Value, path string, r rules) {
	fix := "put - before each element"
	if n.kind == scalarKind {
		fix = "put it in [ ]"
	}
	if !d.is(n, listKind, path, fix) {
		return
	}
	s := reflect.MakeSlice(v.Type(), 0, len(n.items))
	for i, item := range n.items {
		elem := newValue(v.Type().Elem()).Elem()
		d.value(item, elem, Index(path, i), r)
		s = reflect.Append(s, elem)
	}
	v.Set(s)
}

// field is one configurable field of a struct.
type field struct {
	name     string
	index    []int
	desc     string
	enum     []string
	literal  bool
	required bool
}

// fieldsOf lists the configurable fields of t in the order of the source.
func fieldsOf(t reflect.Type, index []int) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		at := append(append([]int(nil), index...), i)
		inline := strings.Contains(","+options+",", ",inline,")
		if !f.IsExported() && !(f.Anonymous && inline) || name == "-" || name == "" && !inline {
			continue
		}
		if inline {
			out = append(out, fieldsOf(f.Type, at)...)
			continue
		}
		x := field{name: name, index: at, desc: f.Tag.Get("desc"), literal: f.Tag.Get("expand") == "none", required: f.Tag.Get("required") == "true"}
		if e := f.Tag.Get("enum"); e != "" {
			x.enum = strings.Split(e, ",")
		}
		out = append(out, x)
	}
	return out
}

func names(fs []field) []string {
	out := make([]string, len(fs))
	for i, f := range fs {
		out[i] = f.name
	}
	return out
}
