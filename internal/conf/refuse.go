package conf

import (
	"fmt"

	"github.com/goccy/go-yaml/token"
)

// refuse reports what a configuration may not hold, and what the parser could not bear: it recurses without bound, once
// a level and once a key, so depth and number of keys are bounded before it runs.
func (b *builder) refuse(tokens token.Tokens) {
	type frame struct{ column, keys int } // column 0 is a flow collection
	var frames []frame
	begun, ended := false, false
	for _, tk := range tokens {
		if tk.Type == token.CommentType {
			continue
		}
		pos := tokenPosition(tk, Position{1, 1})
		if len(b.faults) > maxFaults {
			return
		}
		if ended || begun && tk.Type == token.DocumentHeaderType {
			b.fault(pos, "", "a second document begins here", "keep one document in a file")
			return
		}
		begun = true
		column := 0
		switch tk.Type {
		case token.AnchorType:
			b.fault(pos, "", "anchors (&name) are not read", "write the value out where it is used")
		case token.AliasType:
			b.fault(pos, "", "aliases (*name) are not read", "write the value out, or put it in quotes if it begins with *")
		case token.MergeKeyType:
			b.fault(pos, "", "merge keys (<<) are not read", "write the keys out")
		case token.TagType:
			b.fault(pos, "", "tags (!name) are not read", "remove it, or put the value in quotes if it begins with !")
		case token.DirectiveType:
			b.fault(pos, "", "directives (%NAME) are not read", "remove the line")
			return // its words are not YAML
		case token.MappingKeyType:
			b.fault(pos, "", "complex keys (?) are not read", "write key: value")
		case token.DocumentEndType:
			ended = true
		case token.MappingStartType, token.SequenceStartType:
			frames = append(frames, frame{})
		case token.MappingEndType, token.SequenceEndType:
			for len(frames) > 0 && frames[len(frames)-1].column > 0 {
				frames = frames[:len(frames)-1]
			}
			if len(frames) > 0 {
				frames = frames[:len(frames)-1]
			}
		case token.SequenceEntryType:
			column = pos.Column
		case token.MappingValueType:
			column = pos.Column
			if tk.Prev != nil && isScalar(tk.Prev) && tk.Prev.Position.Line == pos.Line {
				column = max(tk.Prev.Position.Column, 1)
			}
		}
		if column > 0 {
			for len(frames) > 0 && frames[len(frames)-1].column > column {
				frames = frames[:len(frames)-1]
			}
			if len(frames) == 0 || frames[len(frames)-1].column < column && frames[len(frames)-1].column > 0 {
				frames = append(frames, frame{column: column})
			}
			top := &frames[len(frames)-1]
			if tk.Type == token.MappingValueType {
				top.keys++
			}
			if top.keys > maxKeys {
				b.fault(pos, "", fmt.Sprintf("one mapping has more than %d keys", maxKeys), "split it")
				return
			}
		}
		// Each level of the tree takes one frame here, or two.
		if len(frames) > 2*MaxDepth {
			b.fault(pos, "", fmt.Sprintf("is nested more than %d levels deep", MaxDepth), "nest it less")
			return
		}
	}
}

// isScalar tells whether tk is the text of a value or key.
func isScalar(tk *token.Token) bool {
	switch tk.Type {
	case token.StringType, token.SingleQuoteType, token.DoubleQuoteType, token.NullType, token.BoolType,
		token.IntegerType, token.BinaryIntegerType, token.OctetIntegerType, token.HexIntegerType,
		token.FloatType, token.InfinityType, token.NanType:
		return true
	}
	return false
}
