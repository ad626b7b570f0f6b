// Package outbox tells what others change in a database: triggers write each change into a table there, and whoever follows
// it hears of every change that was committed, also of those from while it was away.
package outbox

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/internal/sqldb"
)

// Table is a table whose changes are told, with the columns that are told of its rows.
type Table struct {
	Name    string // as SQL has it, perhaps with a schema
	Columns []string
}

// quote writes an identifier.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// quoteTable writes the name of a table: parts of it that a dot parts are identifiers of their own.
func quoteTable(name string) string {
	parts := strings.Split(name, ".")
	for i := range parts {
		parts[i] = quote(parts[i])
	}
	return strings.Join(parts, ".")
}

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// suffix tells the triggers of tables apart.
func (t *Table) suffix() string {
	sum := sha256.Sum256([]byte(t.Name))
	return hex.EncodeToString(sum[:6])
}

// mostBytes are told of a column. A row with more is told as one of which nothing is known: an event must always fit.
const mostBytes = 1000

// object is the expression of a row's columns as JSON: function makes an object, and large is the condition on a column that is
// not to be told.
func (t *Table) object(function, row string, large func(column string) string) string {
	if len(t.Columns) == 0 {
		return function + "()"
	}
	var pairs, tooLarge []string
	for _, c := range t.Columns {
		column := row + "." + quote(c)
		pairs = append(pairs, literal(c)+", "+column)
		tooLarge = append(tooLarge, large(column))
	}
	return fmt.Sprintf("CASE WHEN %s THEN '{}' ELSE %s(%s) END", strings.Join(tooLarge, " OR "), function, strings.Join(pairs, ", "))
}

// columns is how the outbox remembers what its triggers tell of a table.
func (t *Table) columns() string {
	sorted := slices.Sorted(slices.Values(t.Columns))
	text, _ := json.Marshal(slices.Compact(sorted)) // texts always have JSON
	return string(text)
}

// check is a statement that fails where a column is not there.
func (t *Table) check() string {
	columns := []string{"1"}
	for _, c := range t.Columns {
		columns = append(columns, "t."+quote(c))
	}
	return fmt.Sprintf("SELECT %s FROM %s AS t WHERE 1 = 0", strings.Join(columns, ", "), quoteTable(t.Name))
}

// Install makes the outbox and the triggers of tables, in place of those that were there, all or nothing. Who followed begins
// anew: the outbox has another life.
func Install(ctx context.Context, source sqldb.Source, tables []Table) error {
	d, err := describe(ctx, source)
	if err != nil {
		return err
	}
	statements := append(d.removal(), d.creation()...)
	life := make([]byte, 12)
	_, _ = rand.Read(life) // never fails
	for i := range tables {
		t := &tables[i]
		made, err := d.triggers(ctx, t)
		if err != nil {
			return err
		}
		statements = append(append(statements, t.check()), made...)
		statements = append(statements, fmt.Sprintf("INSERT INTO %s (name, columns, life) VALUES (%s, %s, %s)",
			d.table("millrace_events_tables"), literal(t.Name), literal(t.columns()), literal(hex.EncodeToString(life))))
	}
	return d.run(ctx, statements)
}

// Remove takes away all that Install made.
func Remove(ctx context.Context, source sqldb.Source) error {
	d, err := describe(ctx, source)
	if err != nil {
		return err
	}
	return d.run(ctx, d.removal())
}

// database is what Install needs to know of one.
type database interface {
	table(name string) string // of the outbox, as statements name it
	removal() []string
	creation() []string
	triggers(ctx context.Context, t *Table) ([]string, error)
	run(ctx context.Context, statements []string) error
}

func describe(ctx context.Context, source sqldb.Source) (database, error) {
	if source.Dialect() == sqldb.PostgreSQL {
		return describePostgres(ctx, source)
	}
	return describeSQLite(ctx, source)
}

// queryTime bounds each query of this package.
const queryTime = 10 * time.Second

// rows runs a query that is needed once.
func rows[T any](ctx context.Context, source sqldb.Source, text string) ([]T, error) {
	q, err := source.Compile(sqldb.Spec{Name: "events", Text: text, Mode: sqldb.ReadOnly, Timeout: queryTime, Own: true})
	if err != nil {
		return nil, err
	}
	return run[T](ctx, q)
}
