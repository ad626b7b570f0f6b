package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"millrace/internal/sqldb"
)

// sqlite is a file with the outbox in it.
type sqlite struct {
	source sqldb.Source
	there  []string // names of the triggers that are there
}

func describeSQLite(ctx context.Context, source sqldb.Source) (*sqlite, error) {
	names, err := rows[struct{ Name string }](ctx, source, `SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'millrace\_events\_%' ESCAPE '\'`)
	if err != nil {
		return nil, err
	}
	s := &sqlite{source: source}
	for _, n := range names {
		s.there = append(s.there, n.Name)
	}
	return s, nil
}

func (s *sqlite) table(name string) string { return quote(name) }

func (s *sqlite) run(ctx context.Context, statements []string) error {
	return s.source.Script(ctx, statements)
}

func (s *sqlite) removal() (statements []string) {
	for _, name := range s.there {
		statements = append(statements, "DROP TRIGGER "+quote(name))
	}
	return append(statements, "DROP TABLE IF EXISTS millrace_events", "DROP TABLE IF EXISTS millrace_events_seen", "DROP TABLE IF EXISTS millrace_events_tables")
}

// creation makes the tables. There is one writer at a time, so ids come in the order of the transactions. The time is for every
// SQLite that writes the table, however old.
func (s *sqlite) creation() []string {
	return []string{
		`CREATE TABLE millrace_events (id INTEGER PRIMARY KEY AUTOINCREMENT, at bigint NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER)), name text NOT NULL, was text, becomes text)`,
		fmt.Sprintf(createSeen, "millrace_events_seen"), fmt.Sprintf(createTables, "millrace_events_tables"),
	}
}

func (s *sqlite) triggers(ctx context.Context, t *Table) (out []string, err error) {
	large := func(column string) string {
		return fmt.Sprintf("typeof(%s) = 'blob' OR length(CAST(%[1]s AS BLOB)) > %d", column, mostBytes)
	}
	object := func(row string) string { return t.object("json_object", row, large) }
	trigger := func(name, when, does string) {
		out = append(out, fmt.Sprintf("CREATE TRIGGER %s %s ON %s BEGIN INSERT INTO millrace_events (name, was, becomes) %s; END",
			quote("millrace_events_"+name+"_"+t.suffix()), when, quote(t.Name), does))
	}
	name := literal(t.Name)
	trigger("insert", "AFTER INSERT", fmt.Sprintf("VALUES (%s, NULL, %s)", name, object("NEW")))
	trigger("update", "AFTER UPDATE", fmt.Sprintf("VALUES (%s, %s, %s)", name, object("OLD"), object("NEW")))
	trigger("delete", "AFTER DELETE", fmt.Sprintf("VALUES (%s, %s, NULL)", name, object("OLD")))
	// REPLACE takes rows away that are in the way of the new one, and fires no trigger for them.
	conflicts, self, err := s.conflicts(ctx, t)
	if err != nil || len(conflicts) == 0 {
		return out, err
	}
	replaced := fmt.Sprintf("SELECT %s, %s, NULL FROM %s AS t WHERE (%s)", name, object("t"), quote(t.Name), strings.Join(conflicts, " OR "))
	trigger("replace", "BEFORE INSERT", replaced)
	trigger("overwrite", "BEFORE UPDATE", replaced+" AND NOT ("+self+")")
	return out, nil
}

// conflicts gives the conditions on which a row t is in the way of NEW, one for each unique index, and that on which it is the
// row OLD itself.
func (s *sqlite) conflicts(ctx context.Context, t *Table) (conditions []string, self string, err error) {
	key, err := rows[struct{ Name, Type string }](ctx, s.source, fmt.Sprintf("SELECT name, type FROM pragma_table_info(%s) WHERE pk > 0", literal(t.Name)))
	if err != nil {
		return nil, "", err
	}
	columns, err := rows[struct{ Index, Name, Collation *string }](ctx, s.source, fmt.Sprintf(
		`SELECT l.name AS "index", x.name AS name, x.coll AS collation FROM pragma_index_list(%s) AS l JOIN pragma_index_xinfo(l.name) AS x WHERE l."unique" AND x.key ORDER BY l.seq, x.seqno`, literal(t.Name)))
	if err != nil {
		return nil, "", err
	}
	parts := map[string][]string{}
	var order []string
	for _, c := range columns {
		if _, ok := parts[*c.Index]; !ok {
			order = append(order, *c.Index)
			parts[*c.Index] = nil
		}
		if c.Name != nil { // one of expressions has none: more rows are told than are in the way
			parts[*c.Index] = append(parts[*c.Index], fmt.Sprintf("t.%s = NEW.%[1]s COLLATE %s", quote(*c.Name), quote(*c.Collation)))
		}
	}
	for _, index := range order {
		if len(parts[index]) > 0 {
			conditions = append(conditions, strings.Join(parts[index], " AND "))
		}
	}
	var same []string
	for _, k := range key {
		same = append(same, fmt.Sprintf("t.%s IS OLD.%[1]s", quote(k.Name)))
		if len(key) == 1 && strings.EqualFold(k.Type, "INTEGER") { // it is the row's own number, which has no index
			conditions = append(conditions, fmt.Sprintf("t.%s = NEW.%[1]s", quote(k.Name)))
		}
	}
	if len(same) == 0 {
		same = append(same, "t.rowid = OLD.rowid")
	}
	return conditions, strings.Join(same, " AND "), nil
}

// sqliteJournal reads the events between two ids.
type sqliteJournal struct {
	now, page, old sqldb.Query
}

const (
	sqliteNow  = `SELECT CAST(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'millrace_events'), 0) AS text) AS seen, coalesce((SELECT min(life) FROM millrace_events_tables), '') AS life`
	sqlitePage = `SELECT '' AS tx, id, name, json(was) AS was, json(becomes) AS becomes FROM millrace_events WHERE id > :id AND id <= :last ORDER BY id LIMIT 1000`
	sqliteOld  = `DELETE FROM millrace_events WHERE id IN (SELECT o.id FROM (SELECT id, at FROM millrace_events ORDER BY id LIMIT 10000) AS o WHERE o.at < :at AND o.id <= :seen) RETURNING id`
)

func newSQLiteJournal(c *compiler) *sqliteJournal {
	return &sqliteJournal{now: c.query(sqliteNow, sqldb.ReadOnly), page: c.query(sqlitePage, sqldb.ReadOnly, integer("id"), integer("last")),
		old: c.query(sqliteOld, sqldb.ReadWrite, integer("at"), integer("seen"))}
}

func (j *sqliteJournal) position(ctx context.Context) (seen, life string, err error) {
	return one(run[positioned](ctx, j.now))
}

func (j *sqliteJournal) behind(seen, now string) bool {
	s, err := strconv.ParseInt(seen, 10, 64)
	n, err2 := strconv.ParseInt(now, 10, 64)
	return err == nil && err2 == nil && s <= n
}

func (j *sqliteJournal) between(ctx context.Context, seen, now string, pages int, tell func([]Change)) error {
	first, err := strconv.ParseInt(seen, 10, 64)
	if err != nil {
		return err
	}
	last, err := strconv.ParseInt(now, 10, 64)
	if err != nil || first >= last {
		return err
	}
	return paged(&pages, func(after *event) ([]event, error) {
		id := first
		if after != nil {
			id = after.id
		}
		return run[event](ctx, j.page, id, last)
	}, tell)
}

func (j *sqliteJournal) prune(ctx context.Context, seen string, before int64) (int, error) {
	at, err := strconv.ParseInt(seen, 10, 64)
	if err != nil {
		return 0, err
	}
	got, err := run[struct{ ID json.Number }](ctx, j.old, before, at)
	return len(got), err
}
