package outbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
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

// Listener hears of changes: of those of one transaction in their order, of others in any. It may hear of one twice, after a
// failure.
type Listener interface {
	Changed([]Change)
	// Missed is told that changes were missed: anything may have changed.
	Missed()
	// Settled tells whether what was heard has had its effect: how far that was is kept for another life only then.
	Settled() bool
}

// Position is how far a follower has told: of all that had ended at Seen, which it read at At.
type Position struct {
	Life string // of the outbox, and of the database that it is in
	Seen string
	At   time.Time
}

// Follower follows the outbox of one source.
type Follower struct {
	Source   sqldb.Source
	Name     string // of who follows: how far it came is kept under it
	Tables   []Table
	Listener Listener
	Log      *slog.Logger
	From     Position // where it begins, if that is known better than by what was kept; the zero value where not
	Read     func()   // is called when all has been told that there was; nil for nobody

	journal            journal
	tables, kept, keep sqldb.Query
	mu                 sync.Mutex // guards at
	at                 Position
	news               bool      // something was told since the position was kept
	keptAt             time.Time // when that was
	most               int       // pages that are read in a row
	old                string    // where it was when it last removed what is old
	refused            bool      // removing it failed, and that was told
}

// How it is followed.
const (
	pageRows   = 1000
	mostPages  = 100              // in a row: who is further behind is told that changes were missed
	again      = time.Second      // after what failed
	lookEvery  = 10 * time.Second // whether there is something that nobody woke it for
	keepLatest = time.Hour        // how far it came is kept at least so often
	pruneEvery = 10 * time.Minute
	pruneRows  = 10_000
	keepEvents = 24 * time.Hour
	// mostAway is how old a position may be: with room for clocks, and for what was not kept at once.
	mostAway = keepEvents - 2*keepLatest
)

// journal is a dialect's outbox. Positions are texts of its own.
type journal interface {
	// position is behind all that is committed now, in the present life of the outbox and of the database that it is in.
	position(ctx context.Context) (seen, life string, err error)
	// behind tells whether a position is of the time before another.
	behind(seen, now string) bool
	// between tells what is between two positions, in so many pages at most, or errTooMany.
	between(ctx context.Context, seen, now string, pages int, tell func([]Change)) error
	// prune removes some events from before a time, in seconds since 1970, and a position. It gives their number.
	prune(ctx context.Context, seen string, before int64) (int, error)
}

var errTooMany = errors.New("there are too many events")

// compiler compiles queries until one cannot be.
type compiler struct {
	source sqldb.Source
	err    error
}

func (c *compiler) query(text string, mode sqldb.Mode, params ...sqldb.Param) sqldb.Query {
	q, err := c.source.Compile(sqldb.Spec{Name: "events", Text: text, Params: params, Mode: mode, MaxBytes: 64 << 20, Timeout: queryTime, Own: true})
	c.err = errors.Join(c.err, err)
	return q
}

func text(name string) sqldb.Param    { return sqldb.Param{Name: name, Type: "string"} }
func integer(name string) sqldb.Param { return sqldb.Param{Name: name, Type: "integer"} }

const (
	selectTables = `SELECT name, columns FROM millrace_events_tables`
	selectKept   = `SELECT life, seen, at FROM millrace_events_seen WHERE name = :name`
	keepSeen     = `INSERT INTO millrace_events_seen (name, life, seen, at) VALUES (:name, :life, :seen, :at) ON CONFLICT (name) DO UPDATE SET life = excluded.life, seen = excluded.seen, at = excluded.at`
)

func (f *Follower) compile() error {
	c := &compiler{source: f.Source}
	if f.Source.Dialect() == sqldb.PostgreSQL {
		f.journal = newPostgresJournal(c)
	} else {
		f.journal = newSQLiteJournal(c)
	}
	f.tables = c.query(selectTables, sqldb.ReadOnly)
	f.kept = c.query(selectKept, sqldb.ReadOnly, text("name"))
	f.keep = c.query(keepSeen, sqldb.ReadWrite, text("name"), text("life"), text("seen"), integer("at"))
	return c.err
}

// run runs a query and gives its rows, all of them.
func run[T any](ctx context.Context, q sqldb.Query, args ...any) ([]T, error) {
	x := sqldb.Execution{Deadline: time.Now().Add(queryTime), Primary: true}
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
	var got struct {
		Rows      []T
		Truncated bool
	}
	if err := json.Unmarshal(out, &got); err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	if got.Truncated {
		return nil, errTooMany
	}
	return got.Rows, nil
}

type positioned struct{ Seen, Life string }

// one gives the row of a query that always has one.
func one(got []positioned, err error) (seen, life string, _ error) {
	if err != nil || len(got) == 0 {
		return "", "", errors.Join(err, errEmpty)
	}
	return got[0].Seen, got[0].Life, nil
}

// errEmpty says that a query that always gives a row gave none.
var errEmpty = errors.New("the outbox gave no position")

type event struct {
	Tx           string
	ID           json.Number
	Name         string
	Was, Becomes json.RawMessage
	id           int64
}

// paged tells pages of events, each of those behind the last event of the one before. It takes them from those that are left.
func paged(left *int, read func(after *event) ([]event, error), tell func([]Change)) error {
	for after := (*event)(nil); ; {
		if *left--; *left < 0 {
			return errTooMany
		}
		got, err := read(after)
		if err != nil {
			return err
		}
		changes := make([]Change, len(got))
		for i := range got {
			e := &got[i]
			if e.id, err = e.ID.Int64(); err != nil {
				return err
			}
			changes[i] = Change{Table: e.Name, Was: object(e.Was), Becomes: object(e.Becomes)}
		}
		if len(changes) > 0 {
			tell(changes)
		}
		if len(got) < pageRows {
			return nil
		}
		after = &got[len(got)-1]
	}
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

// Position is how far it has told.
func (f *Follower) Position() Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

func (f *Follower) setPosition(at Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = at
}

// Follow tells of changes until ctx ends. While the database is away it tries again; what was committed meanwhile is told then.
func (f *Follower) Follow(ctx context.Context) {
	if err := f.compile(); err != nil {
		f.Log.Error("events of a source cannot be followed", "error", err)
		return
	}
	f.setPosition(f.From)
	told := ""
	for ctx.Err() == nil {
		wake := make(chan struct{}, 1)
		watching, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		var work sync.WaitGroup
		work.Go(func() {
			ended <- f.Source.Watch(watching, channel, func() {
				select {
				case wake <- struct{}{}:
				default:
				}
			})
		})
		err := f.listen(ctx, wake, ended, func() {
			if told != "" {
				told = ""
				f.Log.Info("events of a source are followed again", "follower", f.Name)
			}
		})
		stop()
		work.Wait()
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
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	f.save(last, true)
}

// listen reads the outbox each time that it is woken. It ends with an error, or ctx.
func (f *Follower) listen(ctx context.Context, wake <-chan struct{}, ended <-chan error, well func()) error {
	look, prune := time.NewTicker(lookEvery), time.NewTicker(pruneEvery)
	defer look.Stop()
	defer prune.Stop()
	begun := false
	for {
		looks := false
		select {
		case <-wake:
		case <-look.C:
			looks = true
		case <-prune.C:
			f.forget(ctx)
			continue
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		if !begun { // what is there may be another outbox than before the connection broke
			if err := f.begin(ctx); err != nil {
				return err
			}
			begun = true
		}
		if err := f.read(ctx); err != nil {
			return err
		}
		well()
		if looks {
			f.save(ctx, false)
		}
	}
}

// begin finds where to go on.
func (f *Follower) begin(ctx context.Context) error {
	got, err := run[struct{ Name, Columns string }](ctx, f.tables)
	if err != nil {
		return fmt.Errorf("%w; have you run 'millrace events install'?", err)
	}
	installed := map[string][]string{}
	for _, t := range got {
		var columns []string
		if err := json.Unmarshal([]byte(t.Columns), &columns); err != nil {
			return fmt.Errorf("read the outbox: %w", err)
		}
		installed[t.Name] = columns
	}
	for _, t := range f.Tables {
		columns, ok := installed[t.Name]
		if !ok || slices.ContainsFunc(t.Columns, func(c string) bool { return !slices.Contains(columns, c) }) {
			return fmt.Errorf("the triggers of table %s do not tell what this configuration asks for; run 'millrace events install'", t.Name)
		}
	}
	now := time.Now()
	seen, life, err := f.journal.position(ctx)
	if err != nil {
		return err
	}
	good := func(p Position) bool {
		return p.Life == life && now.Sub(p.At) < mostAway && f.journal.behind(p.Seen, seen)
	}
	at := f.Position()
	if !good(at) {
		if at, err = f.stored(ctx); err != nil {
			return err
		}
	}
	if !good(at) {
		// Nobody followed before, or not for a long time, or the database is another one: it can have changed in any way.
		at = Position{life, seen, now}
		f.Listener.Missed()
		f.news = true
	}
	f.setPosition(at)
	return nil
}

// stored is the position that was kept, the zero value for none.
func (f *Follower) stored(ctx context.Context) (Position, error) {
	got, err := run[struct {
		Life, Seen string
		At         json.Number
	}](ctx, f.kept, f.Name)
	if err != nil || len(got) == 0 {
		return Position{}, err
	}
	at, err := got[0].At.Int64()
	return Position{got[0].Life, got[0].Seen, time.Unix(at, 0)}, err
}

// read tells of all events that are there and have not been told.
func (f *Follower) read(ctx context.Context) error {
	at, now := f.Position(), time.Now()
	seen, life, err := f.journal.position(ctx)
	if err != nil {
		return err
	}
	if life != at.Life || !f.journal.behind(at.Seen, seen) {
		return errOther
	}
	err = f.journal.between(ctx, at.Seen, seen, cmp.Or(f.most, mostPages), func(changes []Change) {
		f.news = true
		f.Listener.Changed(changes)
	})
	if errors.Is(err, errTooMany) {
		f.news, err = true, nil
		f.Listener.Missed()
	}
	if err != nil {
		return err
	}
	f.setPosition(Position{at.Life, seen, now})
	if f.Read != nil {
		f.Read()
	}
	return nil
}

// errOther has what is there looked at again.
var errOther = errors.New("the outbox is not the one it was")

// save keeps how far it came, for its next life, where that has changed, or it was long ago.
func (f *Follower) save(ctx context.Context, last bool) {
	at := f.Position()
	if at.Seen == "" || !f.news && (last || time.Since(f.keptAt) < keepLatest) || !f.Listener.Settled() {
		return
	}
	if _, err := run[struct{}](ctx, f.keep, f.Name, at.Life, at.Seen, at.At.Unix()); err == nil {
		f.news, f.keptAt = false, time.Now()
	}
}

// forget removes events that are old, and that it had read when it last did: others have read them since, or are away. Who is for
// longer than a day has missed them, and knows by the age of its position.
func (f *Follower) forget(ctx context.Context) {
	seen := f.old
	if f.old = f.Position().Seen; seen == "" {
		return
	}
	for {
		n, err := f.journal.prune(ctx, seen, time.Now().Add(-keepEvents).Unix())
		if err != nil && !f.refused && ctx.Err() == nil {
			f.refused = true
			f.Log.Warn("old events of a source cannot be removed: millrace_events grows until they can", "error", err)
		}
		if err != nil || n < pruneRows {
			return
		}
	}
}
