package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/sqldb"
)

// channel is what PostgreSQL's triggers notify.
const channel = "millrace_events"

// postgres is a database with the outbox in one schema: the first of the source's user that is there.
type postgres struct {
	source sqldb.Source
	schema string
}

func describePostgres(ctx context.Context, source sqldb.Source) (*postgres, error) {
	got, err := rows[struct{ Name *string }](ctx, source, "SELECT CAST(current_schema() AS text) AS name")
	if err != nil {
		return nil, err
	}
	if len(got) == 0 || got[0].Name == nil {
		return nil, errors.New("no schema of the user's search_path is there; make one, or set search_path in the source's address")
	}
	return &postgres{source, *got[0].Name}, nil
}

func (p *postgres) table(name string) string { return quote(p.schema) + "." + quote(name) }

// run does not wait for a lock for long: behind one that waits, all others of the table's users would.
func (p *postgres) run(ctx context.Context, statements []string) error {
	err := p.source.Script(ctx, append([]string{"SET LOCAL lock_timeout = '5s'"}, statements...))
	if err != nil && strings.Contains(err.Error(), "55P03") {
		return fmt.Errorf("%w: a transaction has had a table in use for more than 5 s, and nothing was changed; try again when it has ended", err)
	}
	return err
}

func (p *postgres) removal() []string {
	return []string{
		fmt.Sprintf(`DO $millrace$
DECLARE r record;
BEGIN
  FOR r IN SELECT t.tgname AS name, CAST(t.tgrelid AS pg_catalog.regclass) AS rel FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      WHERE t.tgname IN ('millrace_events', 'millrace_events_truncate') AND t.tgparentid = 0 AND n.nspname = %[1]s LOOP
    EXECUTE format('DROP TRIGGER %%I ON %%s', r.name, r.rel);
  END LOOP;
  FOR r IN SELECT CAST(p.oid AS pg_catalog.regprocedure) AS f FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      WHERE p.proname LIKE 'millrace\_event\_%%' AND n.nspname = %[1]s LOOP
    EXECUTE 'DROP FUNCTION ' || r.f;
  END LOOP;
END $millrace$`, literal(p.schema)),
		"DROP TABLE IF EXISTS " + p.table("millrace_events"), "DROP TABLE IF EXISTS " + p.table("millrace_events_seen"), "DROP TABLE IF EXISTS " + p.table("millrace_events_tables"),
	}
}

// creation makes the tables. An event has the number of its transaction, since those end in another order than they, or ids, begin.
func (p *postgres) creation() []string {
	return []string{
		fmt.Sprintf(`CREATE TABLE %s (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
			at bigint NOT NULL DEFAULT extract(epoch FROM clock_timestamp()), name text NOT NULL, was jsonb, becomes jsonb)`, p.table("millrace_events")),
		fmt.Sprintf("CREATE INDEX millrace_events_tx ON %s (tx, id)", p.table("millrace_events")),
		fmt.Sprintf(createSeen, p.table("millrace_events_seen")), fmt.Sprintf(createTables, p.table("millrace_events_tables")),
	}
}

const (
	createSeen   = "CREATE TABLE %s (name text PRIMARY KEY, life text NOT NULL, seen text NOT NULL, at bigint NOT NULL)"
	createTables = "CREATE TABLE %s (name text PRIMARY KEY, columns text NOT NULL, life text NOT NULL)"
)

// triggers writes as who installed them, so that whoever may change the table need not be allowed to write events; names in the
// function are whole, so that nobody else's objects are meant by them.
func (p *postgres) triggers(_ context.Context, t *Table) ([]string, error) {
	function := p.table("millrace_event_" + t.suffix())
	large := func(column string) string {
		return fmt.Sprintf("octet_length(CAST(%s AS text)) > %d", column, mostBytes)
	}
	return []string{
		fmt.Sprintf(`CREATE FUNCTION %[1]s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $millrace$
DECLARE
  was jsonb;
  becomes jsonb;
BEGIN
  IF TG_OP IN ('UPDATE', 'DELETE') THEN was := %[4]s; END IF;
  IF TG_OP IN ('INSERT', 'UPDATE') THEN becomes := %[5]s; END IF;
  INSERT INTO %[2]s (name, was, becomes) VALUES (%[3]s, was, becomes);
  PERFORM pg_notify('`+channel+`', '');
  RETURN NULL;
END $millrace$`, function, p.table("millrace_events"), literal(t.Name), t.object("jsonb_build_object", "OLD", large), t.object("jsonb_build_object", "NEW", large)),
		fmt.Sprintf("REVOKE ALL ON FUNCTION %s() FROM PUBLIC", function),
		fmt.Sprintf("CREATE TRIGGER millrace_events AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %s()", quoteTable(t.Name), function),
		fmt.Sprintf("CREATE TRIGGER millrace_events_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s()", quoteTable(t.Name), function),
	}, nil
}

// snapshot is which transactions had ended at one moment: a position in PostgreSQL. https://www.postgresql.org/docs/current/functions-info.html
type snapshot struct {
	text    string
	max     uint64   // the first that had not begun
	running []uint64 // those before max that had not ended
}

func parseSnapshot(text string) (s snapshot, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, fmt.Errorf("%q is no snapshot", text)
	}
	s.text = text
	if s.max, err = strconv.ParseUint(parts[1], 10, 63); err != nil {
		return s, fmt.Errorf("%q is no snapshot", text)
	}
	for part := range strings.SplitSeq(parts[2], ",") {
		if part == "" {
			continue
		}
		x, err := strconv.ParseUint(part, 10, 63)
		if err != nil {
			return s, fmt.Errorf("%q is no snapshot", text)
		}
		s.running = append(s.running, x)
	}
	return s, nil
}

func (s *snapshot) ended(tx uint64) bool { return tx < s.max && !slices.Contains(s.running, tx) }

// postgresJournal reads the events of transactions that ended between two snapshots: each is read once, whatever order they
// end in.
type postgresJournal struct {
	now, page, of, old sqldb.Query
}

// The queries. Texts become snapshots in subqueries, once for each query.
const (
	// The timeline is another after a failover or a restore: what was lost in it nobody knows.
	postgresNow = `SELECT CAST(pg_current_snapshot() AS text) AS seen, coalesce((SELECT min(life) FROM millrace_events_tables), '') || '/' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS life`
	// The events behind :id of transaction :tx, and of those after it up to :last, that had ended in :upto.
	postgresPage = `SELECT CAST(tx AS text) AS tx, id, name, was, becomes FROM millrace_events
		WHERE (tx, id) > ((SELECT CAST(CAST(:tx AS text) AS xid8)), :id) AND tx <= (SELECT CAST(CAST(:last AS text) AS xid8))
		AND pg_visible_in_snapshot(tx, (SELECT CAST(CAST(:upto AS text) AS pg_snapshot))) ORDER BY tx, id LIMIT 1000`
	postgresOf  = `SELECT DISTINCT CAST(tx AS text) AS tx FROM millrace_events WHERE tx = ANY ((SELECT CAST(string_to_array(CAST(:list AS text), ',') AS xid8[]))::xid8[])`
	postgresOld = `DELETE FROM millrace_events WHERE id IN (SELECT o.id FROM (SELECT id, at, tx FROM millrace_events ORDER BY id LIMIT 10000) AS o
		WHERE o.at < :at AND pg_visible_in_snapshot(o.tx, (SELECT CAST(CAST(:seen AS text) AS pg_snapshot)))) RETURNING id`
)

func newPostgresJournal(c *compiler) *postgresJournal {
	return &postgresJournal{now: c.query(postgresNow, sqldb.ReadOnly), page: c.query(postgresPage, sqldb.ReadOnly, text("tx"), integer("id"), text("last"), text("upto")),
		of: c.query(postgresOf, sqldb.ReadOnly, text("list")), old: c.query(postgresOld, sqldb.ReadWrite, integer("at"), text("seen"))}
}

func (j *postgresJournal) position(ctx context.Context) (seen, life string, err error) {
	return one(run[positioned](ctx, j.now))
}

func (j *postgresJournal) behind(seen, now string) bool {
	s, err := parseSnapshot(seen)
	n, err2 := parseSnapshot(now)
	return err == nil && err2 == nil && s.max <= n.max
}

func (j *postgresJournal) between(ctx context.Context, seen, now string, pages int, tell func([]Change)) error {
	from, err := parseSnapshot(seen)
	to, err2 := parseSnapshot(now)
	if err = errors.Join(err, err2); err != nil {
		return err
	}
	var ended []string
	for _, tx := range from.running {
		if to.ended(tx) {
			ended = append(ended, strconv.FormatUint(tx, 10))
		}
	}
	if len(ended) > 0 { // few of them have events
		got, err := run[struct{ Tx string }](ctx, j.of, strings.Join(ended, ","))
		if err != nil {
			return err
		}
		for _, g := range got {
			if err := j.within(ctx, g.Tx, g.Tx, &to, &pages, tell); err != nil {
				return err
			}
		}
	}
	if from.max >= to.max {
		return nil
	}
	return j.within(ctx, strconv.FormatUint(from.max, 10), strconv.FormatUint(to.max-1, 10), &to, &pages, tell)
}

// within tells the events of the transactions from first to last that had ended in to.
func (j *postgresJournal) within(ctx context.Context, first, last string, to *snapshot, left *int, tell func([]Change)) error {
	return paged(left, func(after *event) ([]event, error) {
		tx, id := first, int64(0)
		if after != nil {
			tx, id = after.Tx, after.id
		}
		return run[event](ctx, j.page, tx, id, last, to.text)
	}, tell)
}

func (j *postgresJournal) prune(ctx context.Context, seen string, before int64) (int, error) {
	got, err := run[struct{ ID json.Number }](ctx, j.old, before, seen)
	return len(got), err
}
