// Package conf is the strict YAML machinery on which every package's Config stands.
//
// It reads one document, decodes it into a tree of structs tagged `yaml:"name"`, and reports every fault at once, each
// with its path, line, column and what to write instead. It also derives the JSON Schema of the same tree, so that what
// an editor underlines and what the program refuses are one rule.
//
// It is not a general YAML library. What a reader could misread is refused: anchors, aliases, merge keys, tags,
// directives, complex keys, duplicate and unknown keys, a second document, tabs as indentation, numbers that YAML
// versions read differently (010, 1_000, 0x1F). It holds no key of Millrace's own file; those live in the Config beside
// the code that enforces them, and package config puts them into one tree.
//
// Its place: level 0. It imports no other package of Millrace and is used at load only, never while a request runs.
//
// # Targets
//
// Decode fills structs, pointers to structs, slices, maps with string keys, strings, bools, integers, floats, [Duration],
// [Size], [Secret], any, and every type whose pointer implements [encoding.TextUnmarshaler] (read from a
// string; what follows "; " in its error is the fix). These struct tags count:
//
//   - yaml:"name" names the key; a field without the tag, or with "-", is not configurable; ",inline" lifts the keys of a
//     struct field into its parent
//   - desc:"…" is the description in the schema
//   - enum:"a,b" lists the allowed strings; of a slice or map, those of its elements
//   - required:"true" lists the key as required in the schema; that it is there is for the Config's Validate to see
//   - expand:"none" leaves ${…} alone in that field and in all below it
//
// # Variables
//
// ${VAR}, ${VAR:-default} and ${VAR:?message} are expanded inside parsed scalar values: never in the file's text, so a value
// cannot add keys, and never in keys. As in a shell, the default and the message stand in for an empty value too. $${ is a
// literal ${. A dollar without a brace is left alone. A value that came out of a variable never stands in a fault.
package conf

// Limits of one document. They are far above any real file and keep a mistaken one from costing more than a message.
const (
	MaxBytes  = 4 << 20 // of the file, and of what its variables expand to
	MaxDepth  = 32      // of nesting
	maxKeys   = 10_000  // of one mapping: the parser copies a block mapping once for each of its keys
	maxBlank  = 1000    // empty lines on end: the parser's time grows with their square at the end of a | block
	maxFaults = 1000    // of one call
)

// A Defaulter sets the defaults of a value that Decode makes: an element of a list or map, or what a nil pointer is to
// point at. Values that exist before Decode carry their defaults themselves.
type Defaulter interface{ SetDefaults() }
