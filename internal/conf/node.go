package conf

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

type kind int

const (
	scalarKind kind = iota
	mapKind
	listKind
)

// String is the kind as a message names it.
func (k kind) String() string { return [...]string{"a single value", "a mapping", "a list"}[k] }

// node is one value of the file. A tree of nodes is not changed after Parse.
type node struct {
	kind    kind
	pos     Position // of a scalar itself; of a mapping or list, its key, or itself where it has none
	text    string   // of a scalar, before expansion
	plain   bool     // a scalar without quotes
	entries []entry  // of a mapping, in the file's order, without duplicates
	items   []*node  // of a list
}

type entry struct {
	key string
	pos Position
	val *node
}

func (n *node) null() bool { return n.kind == scalarKind && n.plain && formOf(n.text) == formNull }

// find follows path as far as it goes and gives the node it reached and how much of path is left. A key may hold dots and
// stand in path as it is, so every key that path could begin with is tried.
func (n *node) find(path string) (at *node, left int) {
	at, left = n, len(path)
	if path == "" {
		return at, 0
	}
	try := func(next *node, rest string) bool {
		if rest != "" && rest[0] != '.' && rest[0] != '[' {
			return false
		}
		if a, l := next.find(strings.TrimPrefix(rest, ".")); l < left {
			at, left = a, l
		}
		return left == 0
	}
	for _, e := range n.entries {
		rest, ok := strings.CutPrefix(path, Key("", e.key))
		if !ok && e.key != "" {
			rest, ok = strings.CutPrefix(path, e.key)
		}
		if ok && try(e.val, rest) {
			return at, 0
		}
	}
	if number, rest, ok := strings.Cut(strings.TrimPrefix(path, "["), "]"); ok && path[0] == '[' {
		if i, err := strconv.Atoi(number); err == nil && i >= 0 && i < len(n.items) {
			// An element without a key of its own is nearer than the list even when nothing below it matches.
			try(n.items[i], rest)
		}
	}
	return at, left
}

// builder turns the parser's tree into nodes.
type builder struct {
	faults Faults
	seen   map[*token.Token]bool // every scalar token that became a value or key
}

func (b *builder) fault(pos Position, path, message, fix string) {
	if len(b.faults) <= maxFaults {
		b.faults = append(b.faults, Fault{Path: path, Message: message, Fix: fix, Line: pos.Line, Column: pos.Column})
	}
}

// build makes the node of n. at is the position of its key, zero where it has none.
func (b *builder) build(n ast.Node, path string, at Position, depth int) *node {
	if depth > MaxDepth {
		b.fault(positionOf(n, at), path, fmt.Sprintf("is nested more than %d levels deep", MaxDepth), "nest it less")
		return &node{kind: scalarKind, plain: true, pos: positionOf(n, at)}
	}
	out := &node{pos: at}
	if at == (Position{}) {
		out.pos = positionOf(n, at)
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		out.kind = mapKind
		b.entries(out, n.Values, path, depth)
	case *ast.MappingValueNode:
		out.kind = mapKind
		b.entries(out, []*ast.MappingValueNode{n}, path, depth)
	case *ast.SequenceNode:
		out.kind = listKind
		for i, v := range n.Values {
			out.items = append(out.items, b.build(v, Index(path, i), Position{}, depth+1))
		}
	case *ast.LiteralNode:
		out.pos = positionOf(n, at)
		if n.Value != nil {
			b.seen[n.Value.Token] = true
			out.text = n.Value.Value
		}
	case *ast.StringNode:
		b.seen[n.Token] = true
		out.pos, out.text = positionOf(n, at), n.Value
		out.plain = n.Token.Type == token.StringType
	case *ast.NullNode, *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		tk := n.GetToken()
		b.seen[tk] = true
		out.plain = true
		if tk.Type != token.ImplicitNullType {
			out.pos, out.text = positionOf(n, at), tk.Value
		}
	default:
		out.plain = true
		b.fault(positionOf(n, at), path, "is not understood", "write a plain value, mapping or list")
	}
	return out
}

func (b *builder) entries(out *node, values []*ast.MappingValueNode, path string, depth int) {
	first := make(map[string]Position, len(values))
	for _, v := range values {
		pos := positionOf(v.Key, out.pos)
		key, ok := b.key(v.Key)
		if !ok {
			b.fault(pos, path, "has a key that is not a word", "write the key in quotes")
			b.build(v.Value, path, pos, depth+1)
			continue
		}
		p := Key(path, key)
		val := b.build(v.Value, p, pos, depth+1)
		if at, twice := first[key]; twice {
			b.fault(pos, p, "is given twice, first on line "+strconv.Itoa(at.Line), "keep one of them")
			continue
		}
		first[key] = pos
		out.entries = append(out.entries, entry{key, pos, val})
	}
}

// key is the text of a mapping's key, which is never expanded. An empty or null key without quotes is an accident.
func (b *builder) key(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		b.seen[n.Token] = true
		return n.Value, n.Token.Type != token.StringType || formOf(n.Value) != formNull
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		tk := n.GetToken()
		b.seen[tk] = true
		return tk.Value, true
	case *ast.NullNode:
		b.seen[n.Token] = true
	}
	return "", false
}

// positionOf is where n starts, or at where the parser does not say.
func positionOf(n ast.Node, at Position) Position {
	switch v := n.(type) {
	case *ast.MappingNode: // its token is the first colon
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return positionOf(v.Values[0], at)
		}
	case *ast.MappingValueNode:
		n = v.Key
	}
	if n == nil {
		return at
	}
	return tokenPosition(n.GetToken(), at)
}

func tokenPosition(tk *token.Token, at Position) Position {
	if tk == nil || tk.Position == nil || tk.Position.Line < 1 {
		at.Line, at.Column = max(at.Line, 1), max(at.Column, 1)
		return at
	}
	return Position{tk.Position.Line, max(tk.Position.Column, 1)}
}
