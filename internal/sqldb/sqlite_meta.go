package sqldb

import (
	"fmt"
	"reflect"
	"strings"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
	"zombiezen.com/go/sqlite"
)

// declared is what a column's declared type makes of its values; everything else goes by storage class.
type declared uint8

const (
	declaredNone declared = iota
	declaredInteger
	declaredReal
	declaredText
	declaredBoolean
	declaredDateTime
	declaredDate
	declaredJSON
	declaredDecimal
)

// sqliteColumn is one column of a prepared statement.
type sqliteColumn struct {
	name     string
	prefix   []byte // columnPrefix
	declared declared
}

// sqliteColumns reads the columns of a statement as they are now.
//
// The wrapper has no call for a column's declared type, and keeps the names of the first preparation in a map that
// loses the first of two equal ones. The engine underneath has both; its handles are read by reflection. The rejected
// way, PRAGMA table_xinfo by table and column name, is wrong for SELECT active AS enabled.
func sqliteColumns(stmt *sqlite.Stmt) ([]sqliteColumn, error) {
	tls, handle, err := sqliteHandles(stmt)
	if err != nil {
		return nil, err
	}
	cols := make([]sqliteColumn, lib.Xsqlite3_column_count(tls, handle))
	seen := make(map[string]bool, len(cols))
	for i := range cols {
		name := strings.ToValidUTF8(libc.GoString(lib.Xsqlite3_column_name(tls, handle, int32(i))), "\uFFFD")
		if seen[name] {
			return nil, fmt.Errorf("two columns are called %q; give one of them another name with AS", name)
		}
		seen[name] = true
		decl := ""
		if p := lib.Xsqlite3_column_decltype(tls, handle, int32(i)); p != 0 {
			decl = libc.GoString(p)
		}
		cols[i] = sqliteColumn{name, columnPrefix(i, name), declaredType(decl)}
	}
	return cols, nil
}

// sqliteHandles finds the engine's handles in a wrapped statement. It reads, and never writes, two unexported fields; the
// test TestSQLiteDeclaredTypes fails when a new version of the wrapper names them otherwise.
func sqliteHandles(stmt *sqlite.Stmt) (*libc.TLS, uintptr, error) {
	v := reflect.ValueOf(stmt).Elem()
	handle, conn := v.FieldByName("stmt"), v.FieldByName("conn")
	if !handle.IsValid() || handle.Kind() != reflect.Uintptr || !conn.IsValid() || conn.Kind() != reflect.Pointer {
		return nil, 0, fmt.Errorf("zombiezen.com/go/sqlite keeps its statement's handles elsewhere")
	}
	tls := conn.Elem().FieldByName("tls")
	if !tls.IsValid() || tls.Type() != reflect.TypeFor[*libc.TLS]() {
		return nil, 0, fmt.Errorf("zombiezen.com/go/sqlite keeps its thread's handle elsewhere")
	}
	return (*libc.TLS)(tls.UnsafePointer()), uintptr(handle.Uint()), nil
}

// declaredType reads a declared type, VARCHAR(20) say, by the names that people use; after those by SQLite's rules of
// affinity (https://www.sqlite.org/datatype3.html, 3.1), which never change a value here and only tell the schema.
func declaredType(decl string) declared {
	decl = strings.ToUpper(decl)
	base, _, _ := strings.Cut(decl, "(")
	base, _, _ = strings.Cut(strings.TrimSpace(base), " ")
	switch base {
	case "":
		return declaredNone
	case "BOOL", "BOOLEAN":
		return declaredBoolean
	case "DATE":
		return declaredDate
	case "DATETIME", "TIMESTAMP", "TIMESTAMPTZ":
		return declaredDateTime
	case "JSON", "JSONB":
		return declaredJSON
	case "DECIMAL", "NUMERIC":
		return declaredDecimal
	}
	switch {
	case strings.Contains(decl, "INT"):
		return declaredInteger
	case strings.Contains(decl, "CHAR"), strings.Contains(decl, "CLOB"), strings.Contains(decl, "TEXT"):
		return declaredText
	case strings.Contains(decl, "REAL"), strings.Contains(decl, "FLOA"), strings.Contains(decl, "DOUB"):
		return declaredReal
	}
	return declaredNone
}

// schema is as tight as SQLite allows: it checks no types, so an INTEGER column may hold text.
func (d declared) schema() []byte {
	switch d {
	case declaredInteger, declaredReal:
		return []byte(`{"type":["number","string","null"]}`)
	case declaredText, declaredDecimal:
		return []byte(`{"type":["string","null"]}`)
	case declaredBoolean:
		return []byte(`{"type":["boolean","string","null"]}`)
	case declaredDate, declaredDateTime:
		return []byte(`{"type":["string","number","null"]}`)
	}
	return []byte(`{}`)
}
