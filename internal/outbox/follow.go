package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// Change is what became of one row. Was is null for a row that is new, Becomes for one that is gone; both are for a table of which
// nothing is known but that it changed.
type Change struct {
	Table        string
	Was, Becomes json.RawMessage // objects of the columns that Table names
}

// Listener hears of changes, in the order of their transactions where those followed each other.
type Listener interface {
	Changed([]Change)
	// Missed is told that changes were missed: anything may have changed.
	Missed()
}

// Follower follows the outbox of one source.
type Follower struct {
	Source   sqldb.Source
	Name     string // of who follows: how far it came is kept under it
	Tables   []Table
	Listener Listener
	Log      *slog.Logger

	page, end, tables, seen, save, prune sqldb.Query

	last  int64 // the greatest id that has been read
	gaps  []gap // ids below it that have not been
	saved int64
}

// gap is ids that were given and are not there, from and to included: their transactions have not ended, or were rolled back.
type gap struct {
	from, to int64
	// until is the first transaction that cannot have been given one of them: a transaction has its own number before the
	// trigger takes an id, since it has changed the row.
	until int64
}

// How it is followed.
const (
	pageRows   = 1000
	again      = time.Second      // after what failed
	saveEvery  = 10 * time.Second // how far it came
	pruneEvery = 10 * time.Minute
	keepEvents = 24 * time.Hour
	mostGaps   = 10_000
)

// nobody's name: what has been removed is kept under it.
const prunedName = "\x01pruned"

// The queries. A page has the oldest transaction that goes on, the next one to come, and the events behind :id or in :gaps.
var (
	selectPage = map[sqldb.Dialect]string{
		sqldb.PostgreSQL: `SELECT h.oldest AS oldest, h.next AS next, e.id AS id, e.name AS name, e.was AS was, e.becomes AS becomes
			FROM (SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS oldest, CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next) AS h
			LEFT JOIN (SELECT v.id, v.name, v.was, v.becomes FROM jsonb_array_elements(CAST(:gaps AS jsonb)) AS g
					JOIN millrace_events AS v ON v.id BETWEEN CAST(g ->> 0 AS bigint) AND CAST(g ->> 1 AS bigint)
				UNION ALL (SELECT id, name, was, becomes FROM millrace_events WHERE id > :id ORDER BY id LIMIT 1000)) AS e ON true ORDER BY e.id`,
		sqldb.SQLite: `SELECT 0 AS oldest, 0 AS next, id, name, json(was) AS was, json(becomes) AS becomes FROM millrace_events WHERE id > :id AND :gaps = '[]' ORDER BY id LIMIT 1000`,
	}
	selectLast = map[sqldb.Dialect]string{
		sqldb.PostgreSQL: `SELECT coalesce(max(id), 0) AS id FROM millrace_events`,
		sqldb.SQLite:     `SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'millrace_events'), 0) AS id`,
	}
	saveSeen = map[sqldb.Dialect]string{
		sqldb.PostgreSQL: `INSERT INTO millrace_events_seen (name, id) VALUES (:name, :id) ON CONFLICT (name) DO UPDATE SET id = excluded.id`,
		sqldb.SQLite:     `INSERT INTO millrace_events_seen (name, id) VALUES (:name, :id) ON CONFLICT (name) DO UPDATE SET id = excluded.id`,
	}
)

const (
	selectSeen  = `SELECT id FROM millrace_events_seen WHERE name = :name`
	deleteOld   = `DELETE FROM millrace_events WHERE id < :id AND at < :at RETURNING id`
	selectNames = `SELECT name, columns FROM millrace_events_tables`
)

type event struct {
	Oldest, Next json.Number
	ID           *json.Number
	Name         string
	Was, Becomes json.RawMessage
}

func (f *Follower) compile() (err error) {
	query := func(text string, mode sqldb.Mode, params ...sqldb.Param) sqldb.Query {
		q, fault := f.Source.Compile(sqldb.Spec{Name: "events", Text: text, Params: params, Mode: mode, MaxBytes: 64 << 20, Timeout: queryTime})
		err = errors.Join(err, fault)
		return q
	}
	name, id := sqldb.Param{Name: "name", Type: "string"}, sqldb.Param{Name: "id", Type: "integer"}
	f.page = query(selectPage[f.Source.Dialect()], sqldb.ReadOnly, sqldb.Param{Name: "gaps", Type: "string"}, id)
	f.end = query(selectLast[f.Source.Dialect()], sqldb.ReadOnly)
	f.tables = query(selectNames, sqldb.ReadOnly)
	f.seen = query(selectSeen, sqldb.ReadOnly, name)
	f.save = query(saveSeen[f.Source.Dialect()], sqldb.ReadWrite, name, id)
	f.prune = query(deleteOld, sqldb.ReadWrite, id, sqldb.Param{Name: "at", Type: "integer"})
	return err
}

// run runs a query and gives its rows.
func run[T any](ctx context.Context, q sqldb.Query, args ...any) ([]T, error) {
	x := sqldb.Execution{Deadline: time.Now().Add(queryTime)}
	for _, a := range args {
		switch a := a.(type) {
		case string:
			x.Args = append(x.Args, mcp.Value{Kind: mcp.KindText, Text: []byte(a)})
		case int64:
			x.Args = append(x.Args, mcp.Value{Kind: mcp.KindInt, Int: a})
		}
	}
	ctx, cancel := context.WithDeadline(ctx, x.Deadline)
	defer cancel()
	out, _, err := q.Run(ctx, nil, &x)
	if err != nil {
		return nil, err
	}
	var got struct{ Rows []T }
	if err := json.Unmarshal(out, &got); err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	return got.Rows, nil
}

// Follow tells of changes until ctx ends. While the database is away it tries again; what was committed meanwhile is told then.
func (f *Follower) Follow(ctx context.Context) {
	if err := f.compile(); err != nil {
		f.Log.Error("events of a source cannot be followed", "error", err)
		return
	}
	told := ""
	begun := false
	for ctx.Err() == nil {
		wake := make(chan struct{}, 1)
		watching, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { // ends with watching
			ended <- f.Source.Watch(watching, channel, func() {
				select {
				case wake <- struct{}{}:
				default:
				}
			})
		}()
		err := f.listen(ctx, wake, ended, &begun, func() {
			if told != "" {
				told = ""
				f.Log.Info("events of a source are followed again", "follower", f.Name)
			}
		})
		stop()
		if ctx.Err() != nil {
			break
		}
		if text := err.Error(); text != told {
			told = text
			f.Log.Warn("events of a source cannot be followed: what others change there is known by time alone until they can", "error", err)
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
	if begun {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		f.keep(last)
	}
}

// listen reads the outbox each time that it is woken. It ends with an error.
func (f *Follower) listen(ctx context.Context, wake <-chan struct{}, ended <-chan error, begun *bool, well func()) error {
	save, prune := time.NewTicker(saveEvery), time.NewTicker(pruneEvery)
	defer save.Stop()
	defer prune.Stop()
	for {
		select {
		case <-wake:
			if !*begun {
				if err := f.begin(ctx); err != nil {
					return err
				}
				*begun = true
			}
			if err := f.read(ctx); err != nil {
				return err
			}
			well()
		case <-save.C:
			f.keep(ctx)
		case <-prune.C:
			f.forget(ctx)
		case err := <-ended:
			return err
		}
	}
}

// begin finds where to go on.
func (f *Follower) begin(ctx context.Context) error {
	names, err := run[struct{ Name, Columns string }](ctx, f.tables)
	if err != nil {
		return fmt.Errorf("%w; have you run 'millrace events install'?", err)
	}
	installed := map[string]string{}
	for _, n := range names {
		installed[n.Name] = n.Columns
	}
	for i := range f.Tables {
		if t := &f.Tables[i]; installed[t.Name] != t.columns() {
			return fmt.Errorf("the triggers of table %s are not those of this configuration; run 'millrace events install'", t.Name)
		}
	}
	got, err := run[struct{ ID json.Number }](ctx, f.end)
	if err != nil || len(got) == 0 {
		return errors.Join(err, errEmpty)
	}
	end, err := got[0].ID.Int64()
	if err != nil {
		return err
	}
	at, known, err := f.position(ctx, f.Name)
	if err != nil {
		return err
	}
	removed, _, err := f.position(ctx, prunedName)
	if err != nil {
		return err
	}
	// The last may be old by now, since old ones are removed, but not less than what was read.
	if !known || at < removed || at > max(end, removed) {
		// Nobody followed before, or not for a long time, or the database is another one: it can have changed in any way.
		f.Listener.Missed()
		at = max(end, removed)
	}
	f.last, f.saved = at, at
	return nil
}

// errEmpty says that a query that always gives a row gave none.
var errEmpty = errors.New("the outbox gave no position")

func (f *Follower) position(ctx context.Context, name string) (int64, bool, error) {
	got, err := run[struct{ ID json.Number }](ctx, f.seen, name)
	if err != nil || len(got) == 0 {
		return 0, false, err
	}
	at, err := got[0].ID.Int64()
	return at, true, err
}

// read tells of all events that are there and have not been told.
func (f *Follower) read(ctx context.Context) error {
	for {
		got, err := run[event](ctx, f.page, gapsText(f.gaps), f.last)
		if err != nil {
			return err
		}
		if len(got) == 0 {
			return nil // SQLite, and there is nothing
		}
		oldest, err := got[0].Oldest.Int64()
		next, err2 := got[0].Next.Int64()
		if err = errors.Join(err, err2); err != nil {
			return err
		}
		var changes []Change
		gaps, last, rows := f.gaps, f.last, 0
		for i := range got {
			e := &got[i]
			if e.ID == nil {
				continue // PostgreSQL, and there is nothing
			}
			id, err := e.ID.Int64()
			if err != nil {
				return err
			}
			changes = append(changes, Change{Table: e.Name, Was: object(e.Was), Becomes: object(e.Becomes)})
			if id <= f.last {
				gaps = without(gaps, id)
				continue
			}
			if rows++; id > last+1 && f.Source.Dialect() == sqldb.PostgreSQL {
				gaps = append(gaps, gap{last + 1, id - 1, next})
			}
			last = id
		}
		if len(changes) > 0 {
			f.Listener.Changed(changes)
		}
		f.last = last
		f.gaps = slices.DeleteFunc(gaps, func(g gap) bool { return g.until <= oldest })
		if len(f.gaps) > mostGaps {
			f.Listener.Missed()
			f.gaps = nil
		}
		if rows < pageRows {
			return nil
		}
	}
}

func gapsText(gaps []gap) string {
	list := make([][2]int64, len(gaps))
	for i, g := range gaps {
		list[i] = [2]int64{g.from, g.to}
	}
	text, _ := json.Marshal(list) // numbers always have JSON
	return string(text)
}

// without gives the gaps that are left when an id of one has come.
func without(gaps []gap, id int64) (out []gap) {
	for _, g := range gaps {
		if id < g.from || id > g.to {
			out = append(out, g)
			continue
		}
		if id > g.from {
			out = append(out, gap{g.from, id - 1, g.until})
		}
		if id < g.to {
			out = append(out, gap{id + 1, g.to, g.until})
		}
	}
	return out
}

// object gives a row's JSON, which SQLite gives as a text; nil for none.
func object(raw json.RawMessage) json.RawMessage {
	var text string
	if json.Unmarshal(raw, &text) == nil && text != "" {
		return json.RawMessage(text)
	}
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// told is up to where every event has been.
func (f *Follower) told() int64 {
	at := f.last
	for _, g := range f.gaps {
		at = min(at, g.from-1)
	}
	return at
}

// keep writes how far it came, for its next life.
func (f *Follower) keep(ctx context.Context) {
	at := f.told()
	if at == f.saved {
		return
	}
	if _, err := run[struct{}](ctx, f.save, f.Name, at); err == nil {
		f.saved = at
	}
}

// forget removes events that are old. Who was away for longer has missed them, and knows by the position that is kept.
func (f *Follower) forget(ctx context.Context) {
	got, err := run[struct{ ID json.Number }](ctx, f.prune, f.told(), time.Now().Add(-keepEvents).Unix())
	if err != nil || len(got) == 0 {
		return
	}
	last := int64(0)
	for _, r := range got {
		if id, err := r.ID.Int64(); err == nil {
			last = max(last, id)
		}
	}
	_, _ = run[struct{}](ctx, f.save, prunedName, last)
}
