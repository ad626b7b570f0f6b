package mcp

import (
	"encoding/binary"
	"math"
	"strconv"
)

// Kind says what a Value holds.
type Kind uint8

// The kinds of an argument after decoding.
const (
	KindNull Kind = iota
	KindBool
	KindInt
	KindFloat
	KindText
	KindJSON // an array or object: its JSON text, canonical by RFC 8785 where it was given, else as in the file
)

// Value is one decoded, defaulted and validated argument. Text is only valid while its Call is (Call.Detach copies).
type Value struct {
	Kind  Kind
	Int   int64 // KindInt; KindBool as 0 or 1
	Float float64
	Text  []byte // KindText: the unescaped UTF-8; KindJSON: JSON text
}

// Bool gives the value of a KindBool.
func (v Value) Bool() bool { return v.Int != 0 }

// AppendKey writes the value so that different values, of whatever kind, give different bytes.
func (v Value) AppendKey(dst []byte) []byte {
	dst = append(dst, byte(v.Kind))
	switch v.Kind {
	case KindBool:
		dst = append(dst, byte(v.Int))
	case KindInt:
		dst = binary.LittleEndian.AppendUint64(dst, uint64(v.Int))
	case KindFloat:
		f := v.Float
		if f == 0 {
			f = 0 // -0 and 0 are one argument
		}
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(f))
	case KindText, KindJSON:
		dst = appendKeyText(dst, v.Text)
	}
	return dst
}

// ParseValues reads values that AppendKey wrote one after the other. It is for people to look at: ok is false for bytes that
// are no values.
func ParseValues(key []byte) (values []Value, ok bool) {
	for len(key) > 0 {
		v := Value{Kind: Kind(key[0])}
		key = key[1:]
		switch v.Kind {
		case KindNull:
		case KindBool:
			if len(key) < 1 {
				return nil, false
			}
			v.Int, key = int64(key[0]), key[1:]
		case KindInt, KindFloat:
			if len(key) < 8 {
				return nil, false
			}
			bits := binary.LittleEndian.Uint64(key)
			if v.Kind == KindInt {
				v.Int = int64(bits)
			} else {
				v.Float = math.Float64frombits(bits)
			}
			key = key[8:]
		case KindText, KindJSON:
			n, size := binary.Uvarint(key)
			if size <= 0 || n > uint64(len(key)-size) {
				return nil, false
			}
			v.Text, key = key[size:size+int(n)], key[size+int(n):]
		default:
			return nil, false
		}
		values = append(values, v)
	}
	return values, true
}

// Append writes the value as JSON.
func (v Value) Append(dst []byte) []byte {
	switch v.Kind {
	case KindBool:
		return strconv.AppendBool(dst, v.Bool())
	case KindInt:
		return strconv.AppendInt(dst, v.Int, 10)
	case KindFloat:
		if math.IsNaN(v.Float) || math.IsInf(v.Float, 0) {
			return append(dst, "null"...)
		}
		return strconv.AppendFloat(dst, v.Float, 'g', -1, 64)
	case KindText:
		return AppendText(dst, v.Text)
	case KindJSON:
		return append(dst, v.Text...)
	}
	return append(dst, "null"...)
}
