// Package outbox tells what others change in a database: triggers write each change into a table there, and whoever follows
// it hears of every change that was committed, also of those from while it was away.
package outbox

import (
	"context"
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

// channel is what PostgreSQL's triggers notify.
const channel = "millrace_events"

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

// object is the expression of a row's columns as JSON.
func (t *Table) object(function, row string) string {
	var b strings.Builder
	b.WriteString(function + "(")
	for i, c := range t.Columns {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s, %s.%s", literal(c), row, quote(c))
	}
	return b.String() + ")"
}

func (t *Table) columns() string {
	sorted := slices.Sorted(slices.Values(t.Columns))
	text, _ := json.Marshal(slices.Compact(sorted)) // texts always have JSON
	return string(text)
}

// Install makes the outbox and the triggers of tables, in place of those that were there, all or nothing.
func Install(ctx context.Context, source sqldb.Source, tables []Table) error {
	statements, err := removal(ctx, source, false)
	if err != nil {
		return err
	}
	statements = append(statements, created[source.Dialect()]...)
	for i := range tables {
		t := &tables[i]
		if source.Dialect() == sqldb.PostgreSQL {
			statements = append(statements, t.postgres()...)
		} else {
			statements = append(statements, t.sqlite()...)
		}
		statements = append(statements, fmt.Sprintf("INSERT INTO millrace_events_tables (name, columns) VALUES (%s, %s)", literal(t.Name), literal(t.columns())))
	}
	return source.Script(ctx, statements)
}

// Remove takes away all that Install made.
func Remove(ctx context.Context, source sqldb.Source) error {
	statements, err := removal(ctx, source, true)
	if err != nil {
		return err
	}
	return source.Script(ctx, statements)
}

// created makes the tables. Ids are given in order; where transactions end in another, lower ones appear after higher ones.
var created = map[sqldb.Dialect][]string{
	sqldb.PostgreSQL: {
		`CREATE TABLE IF NOT EXISTS millrace_events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at bigint NOT NULL DEFAULT extract(epoch FROM clock_timestamp()), name text NOT NULL, was jsonb, becomes jsonb)`,
		createSeen, createTables,
	},
	sqldb.SQLite: {
		`CREATE TABLE IF NOT EXISTS millrace_events (id INTEGER PRIMARY KEY AUTOINCREMENT, at bigint NOT NULL DEFAULT (unixepoch()), name text NOT NULL, was text, becomes text)`,
		createSeen, createTables,
	},
}

const (
	createSeen   = `CREATE TABLE IF NOT EXISTS millrace_events_seen (name text PRIMARY KEY, id bigint NOT NULL)`
	createTables = `CREATE TABLE IF NOT EXISTS millrace_events_tables (name text PRIMARY KEY, columns text NOT NULL)`
)

// postgres makes a table's triggers. They write as who installed them, so that whoever may change the table need not be allowed
// to write events.
func (t *Table) postgres() []string {
	function := quote("millrace_event_" + t.suffix())
	return []string{
		fmt.Sprintf(`CREATE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $millrace$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    INSERT INTO millrace_events (name) VALUES (%[2]s);
  ELSIF TG_OP = 'INSERT' THEN
    INSERT INTO millrace_events (name, becomes) VALUES (%[2]s, %[4]s);
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO millrace_events (name, was) VALUES (%[2]s, %[3]s);
  ELSE
    INSERT INTO millrace_events (name, was, becomes) VALUES (%[2]s, %[3]s, %[4]s);
  END IF;
  PERFORM pg_notify('`+channel+`', '');
  RETURN NULL;
END $millrace$`, function, literal(t.Name), t.object("jsonb_build_object", "OLD"), t.object("jsonb_build_object", "NEW")),
		fmt.Sprintf("CREATE TRIGGER millrace_events AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %s()", quoteTable(t.Name), function),
		fmt.Sprintf("CREATE TRIGGER millrace_events_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s()", quoteTable(t.Name), function),
	}
}

func (t *Table) sqlite() (out []string) {
	was, becomes := t.object("json_object", "OLD"), t.object("json_object", "NEW")
	for _, on := range [][3]string{{"INSERT", "NULL", becomes}, {"UPDATE", was, becomes}, {"DELETE", was, "NULL"}} {
		out = append(out, fmt.Sprintf("CREATE TRIGGER %s AFTER %s ON %s BEGIN INSERT INTO millrace_events (name, was, becomes) VALUES (%s, %s, %s); END",
			quote("millrace_events_"+strings.ToLower(on[0])+"_"+t.suffix()), on[0], quoteTable(t.Name), literal(t.Name), on[1], on[2]))
	}
	return out
}

// removal gives the statements that take the triggers away, and with all the tables.
func removal(ctx context.Context, source sqldb.Source, all bool) (statements []string, err error) {
	if source.Dialect() == sqldb.PostgreSQL {
		statements = []string{`DO $millrace$
DECLARE r record;
BEGIN
  FOR r IN SELECT t.tgname AS name, CAST(t.tgrelid AS regclass) AS rel FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
      WHERE t.tgname IN ('millrace_events', 'millrace_events_truncate') AND p.pronamespace = CAST(current_schema() AS regnamespace) LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', r.name, r.rel);
  END LOOP;
  FOR r IN SELECT CAST(oid AS regprocedure) AS f FROM pg_catalog.pg_proc WHERE proname LIKE 'millrace\_event\_%' AND pronamespace = CAST(current_schema() AS regnamespace) LOOP
    EXECUTE 'DROP FUNCTION ' || r.f;
  END LOOP;
END $millrace$`}
	} else {
		names, err := rows[struct{ Name string }](ctx, source, `SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'millrace\_events\_%' ESCAPE '\'`)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			statements = append(statements, "DROP TRIGGER "+quote(n.Name))
		}
	}
	if all {
		return append(statements, "DROP TABLE IF EXISTS millrace_events", "DROP TABLE IF EXISTS millrace_events_seen", "DROP TABLE IF EXISTS millrace_events_tables"), nil
	}
	return append(statements, createTables, "DELETE FROM millrace_events_tables"), nil
}

// queryTime bounds each query of this package.
const queryTime = 10 * time.Second

// rows runs a query without arguments.
func rows[T any](ctx context.Context, source sqldb.Source, text string) ([]T, error) {
	q, err := source.Compile(sqldb.Spec{Name: "events", Text: text, Mode: sqldb.ReadOnly, Timeout: queryTime})
	if err != nil {
		return nil, err
	}
	return run[T](ctx, q)
}
