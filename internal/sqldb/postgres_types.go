package sqldb

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"millrace/internal/mcp"
)

// pgKind is what a type's values become in JSON.
type pgKind uint8

const (
	pgText  pgKind = iota // a string: text, numeric, uuid, enums, and all that is not known
	pgSmall               // an integer that every reader holds exactly
	pgInt8
	pgFloat
	pgBool
	pgTimestamp
	pgTimestampTZ
	pgJSON
	pgBytes
	pgArray
)

// pgType is one type of the server.
type pgType struct {
	kind  pgKind
	elem  pgKind // of a pgArray
	delim byte
}

var builtinTypes = func() map[uint32]pgType {
	m := map[uint32]pgType{}
	add := func(kind pgKind, oid, array uint32) {
		m[oid] = pgType{kind: kind}
		m[array] = pgType{kind: pgArray, elem: kind, delim: ','}
	}
	add(pgSmall, pgtype.Int2OID, pgtype.Int2ArrayOID)
	add(pgSmall, pgtype.Int4OID, pgtype.Int4ArrayOID)
	add(pgInt8, pgtype.Int8OID, pgtype.Int8ArrayOID)
	add(pgSmall, pgtype.OIDOID, pgtype.OIDArrayOID)
	add(pgFloat, pgtype.Float4OID, pgtype.Float4ArrayOID)
	add(pgFloat, pgtype.Float8OID, pgtype.Float8ArrayOID)
	add(pgBool, pgtype.BoolOID, pgtype.BoolArrayOID)
	add(pgTimestamp, pgtype.TimestampOID, pgtype.TimestampArrayOID)
	add(pgTimestampTZ, pgtype.TimestamptzOID, pgtype.TimestamptzArrayOID)
	add(pgJSON, pgtype.JSONOID, pgtype.JSONArrayOID)
	add(pgJSON, pgtype.JSONBOID, pgtype.JSONBArrayOID)
	add(pgText, pgtype.TextOID, pgtype.TextArrayOID)
	add(pgText, pgtype.VarcharOID, pgtype.VarcharArrayOID)
	add(pgText, pgtype.BPCharOID, pgtype.BPCharArrayOID)
	add(pgText, pgtype.NameOID, pgtype.NameArrayOID)
	add(pgText, pgtype.NumericOID, pgtype.NumericArrayOID)
	add(pgText, pgtype.UUIDOID, pgtype.UUIDArrayOID)
	add(pgText, pgtype.DateOID, pgtype.DateArrayOID)
	add(pgText, pgtype.TimeOID, pgtype.TimeArrayOID)
	add(pgText, pgtype.TimetzOID, pgtype.TimetzArrayOID)
	add(pgText, pgtype.IntervalOID, pgtype.IntervalArrayOID)
	add(pgText, pgtype.InetOID, pgtype.InetArrayOID)
	add(pgText, pgtype.CIDROID, pgtype.CIDRArrayOID)
	m[pgtype.ByteaOID] = pgType{kind: pgBytes}
	m[pgtype.ByteaArrayOID] = pgType{kind: pgArray, elem: pgBytes, delim: ','}
	m[22], m[30] = pgType{}, pgType{} // int2vector and oidvector, which pg_type has for arrays: their text is "1 2 3"
	return m
}()

func (s *postgresSource) typeOf(oid uint32) pgType {
	if t, ok := builtinTypes[oid]; ok {
		return t
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.types[oid]
}

// learnTypes asks the server about the types of a statement that builtinTypes has not: arrays of rarer types and of the
// server's own, and domains, which the protocol gives as what they stand on already, but not inside arrays.
func (s *postgresSource) learnTypes(ctx context.Context, conn *pgconn.PgConn, d *pgconn.StatementDescription) error {
	var unknown []string
	s.mu.Lock()
	look := func(oid uint32) {
		_, builtin := builtinTypes[oid]
		if _, known := s.types[oid]; !known && !builtin {
			unknown = append(unknown, strconv.FormatUint(uint64(oid), 10))
		}
	}
	for _, oid := range d.ParamOIDs {
		look(oid)
	}
	for _, f := range d.Fields {
		look(f.DataTypeOID)
	}
	s.mu.Unlock()
	if len(unknown) == 0 {
		return nil
	}
	results, err := conn.Exec(ctx, `SELECT t.oid, CASE WHEN e.typtype = 'd' THEN e.typbasetype ELSE e.oid END, t.typbasetype, e.typdelim
		FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
		WHERE t.oid IN (`+strings.Join(unknown, ",")+`)`).ReadAll()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range results[0].Rows {
		oid := parseOID(row[0])
		if row[1] != nil {
			elem := builtinTypes[parseOID(row[1])]
			s.types[oid] = pgType{kind: pgArray, elem: elem.kind, delim: row[3][0]}
		} else {
			s.types[oid] = builtinTypes[parseOID(row[2])]
		}
	}
	return nil
}

func parseOID(text []byte) uint32 {
	n, err := strconv.ParseUint(string(text), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// schema gives the JSON Schema of the type's values.
func (t pgType) schema() []byte {
	switch t.kind {
	case pgSmall:
		return []byte(`{"type":["integer","null"]}`)
	case pgInt8:
		return []byte(`{"type":["integer","string","null"]}`)
	case pgFloat:
		return []byte(`{"type":["number","null"]}`)
	case pgBool:
		return []byte(`{"type":["boolean","null"]}`)
	case pgJSON:
		return []byte(`{}`)
	case pgArray:
		return []byte(`{"type":["array","null"]}`)
	case pgTimestampTZ:
		return []byte(`{"type":["string","null"],"format":"date-time"}`)
	}
	return []byte(`{"type":["string","null"]}`)
}

// appendPgRow encodes one row. It tells whether the result may go on.
func appendPgRow(r *rows, st *pgStmt, values [][]byte) bool {
	if len(st.columns) == 0 {
		r.dst = append(r.dst, '{')
	}
	for i := range st.columns {
		col := &st.columns[i]
		r.dst = append(r.dst, col.prefix...)
		if i >= len(values) || values[i] == nil {
			r.dst = append(r.dst, "null"...)
			continue
		}
		if len(values[i]) > r.room() {
			r.dropRow()
			return false
		}
		if col.typ.kind == pgArray {
			r.dst = appendPgArray(r.dst, col.typ, values[i])
			continue
		}
		if col.typ.kind == pgBytes {
			r.dst = appendBase64(r.dst, values[i]) // came in binary form
			continue
		}
		r.dst = appendPgValue(r.dst, col.typ.kind, values[i])
	}
	r.dst = append(r.dst, '}')
	return r.endRow()
}

// appendPgValue encodes a value from the server's text form.
func appendPgValue(dst []byte, kind pgKind, v []byte) []byte {
	switch kind {
	case pgSmall:
		return append(dst, v...)
	case pgInt8:
		if len(v) <= 15 {
			return append(dst, v...)
		}
		n, err := strconv.ParseInt(string(v), 10, 64)
		if err != nil {
			return mcp.AppendText(dst, v)
		}
		return appendInt(dst, n)
	case pgFloat:
		switch string(v) {
		case "NaN", "Infinity", "-Infinity":
			return append(dst, "null"...)
		case "-0":
			return append(dst, '0')
		}
		return append(dst, v...)
	case pgBool:
		return appendBool(dst, len(v) > 0 && v[0] == 't')
	case pgTimestamp, pgTimestampTZ:
		return appendPgTime(dst, v, kind == pgTimestampTZ)
	case pgJSON:
		return appendJSON(dst, v)
	case pgBytes:
		if raw, err := hex.DecodeString(strings.TrimPrefix(string(v), `\x`)); err == nil {
			return appendBase64(dst, raw)
		}
	}
	return mcp.AppendText(dst, v)
}

// appendPgTime turns "2026-01-02 03:04:05.6+00" into ISO 8601, with a zone into RFC 3339 in UTC. infinity and years
// before Christ, which neither has, stay as they are.
func appendPgTime(dst, v []byte, zoned bool) []byte {
	if len(v) < len("2006-01-02 15:04:05") || v[10] != ' ' || bytes.HasSuffix(v, []byte("BC")) {
		return mcp.AppendText(dst, v)
	}
	if zoned && !bytes.HasSuffix(v, []byte("+00")) {
		for _, layout := range []string{"2006-01-02 15:04:05.999999-07", "2006-01-02 15:04:05.999999-07:00", "2006-01-02 15:04:05.999999-07:00:00"} {
			if t, err := time.Parse(layout, string(v)); err == nil {
				return append(t.UTC().AppendFormat(append(dst, '"'), time.RFC3339Nano), '"')
			}
		}
		return mcp.AppendText(dst, v)
	}
	dst = append(append(append(dst, '"'), v[:10]...), 'T')
	if zoned {
		dst = append(append(dst, v[11:len(v)-3]...), 'Z')
	} else {
		dst = append(dst, v[11:]...)
	}
	return append(dst, '"')
}

// maxArrayDepth is how many dimensions PostgreSQL has.
const maxArrayDepth = 6

// appendPgArray turns an array's text form, {1,NULL,{"a b"}}, into JSON. Text of another form becomes a string.
func appendPgArray(dst []byte, t pgType, v []byte) []byte {
	body := v
	if len(body) > 0 && body[0] == '[' { // bounds other than 1: [0:2]={…}
		if i := bytes.IndexByte(body, '='); i >= 0 {
			body = body[i+1:]
		}
	}
	out, rest, err := arrayLevel(dst, t, body, 0)
	if err != nil || len(rest) > 0 {
		return mcp.AppendText(dst, v)
	}
	return out
}

func arrayLevel(dst []byte, t pgType, v []byte, depth int) (out, rest []byte, err error) {
	malformed := fmt.Errorf("malformed array")
	if len(v) == 0 || v[0] != '{' || depth > maxArrayDepth {
		return nil, nil, malformed
	}
	v = v[1:]
	dst = append(dst, '[')
	if len(v) > 0 && v[0] == '}' {
		return append(dst, ']'), v[1:], nil
	}
	for {
		switch {
		case len(v) == 0:
			return nil, nil, malformed
		case v[0] == '{':
			if dst, v, err = arrayLevel(dst, t, v, depth+1); err != nil {
				return nil, nil, err
			}
		case v[0] == '"':
			var elem []byte
			i := 1
			for ; i < len(v) && v[i] != '"'; i++ {
				if v[i] == '\\' && i+1 < len(v) {
					i++
				}
				elem = append(elem, v[i])
			}
			if i >= len(v) {
				return nil, nil, malformed
			}
			dst, v = appendPgValue(dst, t.elem, elem), v[i+1:]
		default:
			end := bytes.IndexAny(v, string([]byte{t.delim, '}'}))
			if end < 0 {
				return nil, nil, malformed
			}
			if elem := v[:end]; string(elem) == "NULL" {
				dst = append(dst, "null"...)
			} else {
				dst = appendPgValue(dst, t.elem, elem)
			}
			v = v[end:]
		}
		if len(v) == 0 {
			return nil, nil, malformed
		}
		switch v[0] {
		case t.delim:
			dst, v = append(dst, ','), v[1:]
		case '}':
			return append(dst, ']'), v[1:], nil
		default:
			return nil, nil, malformed
		}
	}
}
