package sqldb

import (
	"bytes"
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgtype"

	"millrace/internal/mcp"
)

// comparer compares the values of one column as PostgreSQL does.
type comparer struct {
	orderItem
	kind orderKind
}

// orderKind is how values of a type compare. Types that are not here cannot be gathered in order.
type orderKind uint8

const (
	orderInteger orderKind = iota + 1
	orderNumeric
	orderBool
	orderText // by bytes: UUIDs, times, and text under the collation "C"
	orderDate // and timestamps: ISO 8601, which is in order by bytes from year 1 to 9999
)

var orderKinds = map[uint32]orderKind{
	pgtype.Int2OID: orderInteger, pgtype.Int4OID: orderInteger, pgtype.Int8OID: orderInteger, pgtype.OIDOID: orderInteger,
	pgtype.NumericOID: orderNumeric, pgtype.BoolOID: orderBool,
	pgtype.TextOID: orderText, pgtype.VarcharOID: orderText, pgtype.NameOID: orderText, pgtype.UUIDOID: orderText,
	pgtype.TimeOID: orderText, pgtype.DateOID: orderDate, pgtype.TimestampOID: orderDate, pgtype.TimestamptzOID: orderDate,
}

// collated are the types whose order depends on a collation.
var collated = []uint32{pgtype.TextOID, pgtype.VarcharOID, pgtype.NameOID}

// comparers finds the columns of an ORDER BY in a result.
func comparers(tool string, order []orderItem, columns []Column) ([]comparer, error) {
	var out []comparer
	for _, item := range order {
		i := item.place - 1
		if item.name != "" {
			i = slices.IndexFunc(columns, func(c Column) bool { return c.Name == item.name })
		}
		if i < 0 || i >= len(columns) {
			return nil, sqlFailure(tool, fmt.Sprintf("it is ordered by %s, which is no column of its result; rows of several servers are put in order by what they hold: add it to the columns",
				cmp.Or(item.name, strconv.Itoa(item.place))), nil)
		}
		kind, ok := orderKinds[columns[i].oid]
		if oid := columns[i].oid; oid == pgtype.Float4OID || oid == pgtype.Float8OID { // NaN and infinities are null in JSON
			return nil, sqlFailure(tool, fmt.Sprintf("it is ordered by %q, a floating-point number, which cannot be put in order over several servers; select CAST(%[1]s AS numeric) AS %[1]s", columns[i].Name), nil)
		}
		if !ok {
			return nil, sqlFailure(tool, fmt.Sprintf("it is ordered by %q, whose type cannot be put in order over several servers; order by an integer, a numeric, a boolean, a date, a time, a timestamp, a uuid or text", columns[i].Name), nil)
		}
		item.name, item.place = columns[i].Name, i
		out = append(out, comparer{item, kind})
	}
	return out, nil
}

// orderKey is one value that is compared.
type orderKey struct {
	null bool
	n    int64    // of integers and booleans
	d    *big.Rat // of numerics; nil for one that is no number, which comes last
	text []byte
}

// key reads a row's value.
func (c *comparer) key(row []byte) (k orderKey, err error) {
	raw := mcp.Member(row, c.name)
	if len(raw) == 0 || string(raw) == "null" {
		k.null = true
		return k, nil
	}
	text := raw
	if inside, ok := mcp.Text(raw); ok {
		text = inside
	}
	switch c.kind {
	case orderInteger:
		k.n, err = strconv.ParseInt(string(text), 10, 64)
	case orderNumeric:
		switch string(text) {
		case "NaN":
		case "Infinity", "-Infinity":
			err = fmt.Errorf("an infinite number cannot be put in order over several servers")
		default:
			var ok bool
			if k.d, ok = new(big.Rat).SetString(string(text)); !ok {
				err = fmt.Errorf("%.40q is no number", text)
			}
		}
	case orderBool:
		if string(text) == "true" {
			k.n = 1
		}
	case orderText:
		k.text = text
	case orderDate:
		if k.text = bytes.TrimSuffix(text, []byte("Z")); len(k.text) < 10 || k.text[4] != '-' || k.text[len(k.text)-1] > '9' { // …:00Z is before …:00.5Z
			err = fmt.Errorf("%q cannot be put in order over several servers: it is no date from year 1 to 9999", text)
		}
	}
	return k, err
}

// compareKeys compares two rows by what they are ordered by.
func compareKeys(a, b []orderKey, order []comparer) int {
	for i := range order {
		o, x, y := &order[i], &a[i], &b[i]
		var c int
		switch {
		case x.null || y.null:
			if x.null == y.null {
				continue
			}
			if c = 1; x.null == o.nullsFirst {
				c = -1
			}
			return c
		case o.kind == orderNumeric:
			switch {
			case x.d == nil || y.d == nil:
				c = cmp.Compare(btoi(x.d == nil), btoi(y.d == nil))
			default:
				c = x.d.Cmp(y.d)
			}
		case o.kind == orderText, o.kind == orderDate:
			c = bytes.Compare(x.text, y.text)
		default:
			c = cmp.Compare(x.n, y.n)
		}
		if o.descending {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
