package mcp

import (
	"encoding/binary"
	"math"
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
