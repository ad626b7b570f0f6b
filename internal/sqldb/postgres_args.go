package sqldb

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgtype"

	"millrace/internal/mcp"
)

// bind writes the arguments in text form, as the types that the server found for the placeholders want them.
func (q *pgQuery) bind(c *pgConn, st *pgStmt, args []mcp.Value) error {
	// values point into buf for what it holds; texts stay where they are.
	c.values, c.buf = c.values[:0], slices.Grow(c.buf[:0], 32*len(q.statement.binds))
	for i, arg := range q.statement.binds {
		v := &args[arg]
		from := len(c.buf)
		switch v.Kind {
		case mcp.KindNull:
			c.values = append(c.values, nil)
			continue
		case mcp.KindInt:
			c.buf = strconv.AppendInt(c.buf, v.Int, 10)
		case mcp.KindBool:
			c.buf = strconv.AppendBool(c.buf, v.Bool())
		case mcp.KindFloat:
			c.buf = strconv.AppendFloat(c.buf, v.Float, floatFormat(v.Float), -1, 64)
		case mcp.KindText:
			if slices.Contains(v.Text, 0) {
				clear(c.values)
				return &mcp.ToolError{Kind: kindSQL, Message: fmt.Sprintf("%s: argument %q holds a zero character, which PostgreSQL cannot store; leave it out",
					q.spec.Name, q.spec.Params[arg].Name)}
			}
			text := v.Text
			if text == nil {
				text = []byte{} // nil would be NULL
			}
			c.values = append(c.values, text)
			continue
		case mcp.KindJSON:
			text := v.Text
			if i < len(st.description.ParamOIDs) && q.source.typeOf(st.description.ParamOIDs[i]).kind == pgArray {
				text = arrayLiteral(nil, v.Text)
			}
			c.values = append(c.values, text)
			continue
		}
		c.values = append(c.values, c.buf[from:len(c.buf):len(c.buf)])
	}
	return nil
}

// floatFormat is how a number is written for any of the server's types.
func floatFormat(f float64) byte {
	if f > -1e15 && f < 1e15 { // 'g' writes 2e+06, which no integer type reads
		return 'f'
	}
	return 'g'
}

// paramTypes are the placeholders' types by the tool's file, for a statement from which the server cannot tell them.
func (q *pgQuery) paramTypes() []uint32 {
	oids := make([]uint32, len(q.statement.binds))
	for i, arg := range q.statement.binds {
		if q.forMany && arg == q.keys {
			continue // its CAST says
		}
		switch q.spec.Params[arg].Type {
		case "integer":
			oids[i] = pgtype.Int8OID
		case "number":
			oids[i] = pgtype.Float8OID
		case "boolean":
			oids[i] = pgtype.BoolOID
		case "array", "object":
			oids[i] = pgtype.JSONBOID
		default:
			oids[i] = pgtype.TextOID
		}
	}
	return oids
}

// arrayLiteral turns a JSON array into PostgreSQL's form of it.
func arrayLiteral(dst, array []byte) []byte {
	dst = append(dst, '{')
	first := true
	mcp.Elements(array, func(v []byte) bool {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		switch v[0] {
		case '[':
			dst = arrayLiteral(dst, v)
		case 'n':
			dst = append(dst, "NULL"...)
		case '"', '{':
			text, isText := mcp.Text(v)
			if !isText {
				text = v
			}
			dst = append(dst, '"')
			for _, b := range text {
				if b == '"' || b == '\\' {
					dst = append(dst, '\\')
				}
				dst = append(dst, b)
			}
			dst = append(dst, '"')
		default:
			dst = append(dst, v...)
		}
		return true
	})
	return append(dst, '}')
}
