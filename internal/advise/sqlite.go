package advise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"millrace/internal/sqldb"
)

// How statements are timed on the copy.
const (
	timedRuns  = 3                      // of each set of values: the quickest counts
	timedRows  = 1000                   // of a result, as max_rows is where nobody sets it
	timedLimit = 20 * time.Second       // for one run
	slowRun    = time.Second            // what takes longer is timed once, with one set of values
	leastTime  = 200 * time.Microsecond // a statement that is quicker lacks nothing
	mostTried  = 8                      // indexes that are built for one table of one statement
)

// sqlite looks at the statements of a source on SQLite.
func (r *Report) sqlite(ctx context.Context, src *Source, o Options) error {
	path := src.Config.SQLite.Path
	size := int64(0)
	for _, file := range []string{path, path + "-wal"} {
		info, err := os.Stat(file)
		if err != nil && (file == path || !os.IsNotExist(err)) {
			return err
		}
		if err == nil {
			size += info.Size()
		}
	}
	if o.MaxCopy > 0 && size > o.MaxCopy {
		r.note("source %s: %s has %d MiB and was not copied: allow it with --max-copy, and see that the folder for temporary files ($TMPDIR) has room", src.Name, path, size>>20)
		return nil
	}
	c, err := newCopy(ctx, path)
	if err != nil {
		return err
	}
	defer c.stop()
	var built []*builtIndex
	var looks []*timed
	for i := range src.Statements {
		st := &src.Statements[i]
		l, err := c.look(ctx, st)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.note("%s: %s cannot be tried: %v", st.Where, st.Name, err)
			continue
		}
		if r.Looked++; l != nil {
			looks = append(looks, l)
		}
	}
	for _, l := range looks {
		var err error
		if l.steps, err = steps(c.empty, l.sql); err == nil { // with what others are to get
			l.latest, err = c.time(ctx, l)
		}
		for n := 0; n < 3 && err == nil; n++ { // one statement may lack several
			var better *builtIndex
			if better, err = c.improve(ctx, l); better == nil {
				break
			}
			built = append(built, better)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.note("%s: %s was not looked at to its end: %v", l.st.Where, l.st.Name, err)
		}
	}
	return c.tell(ctx, r, src, looks, built)
}

// timed is one statement with values to try.
type timed struct {
	st     *Statement
	sql    string
	runs   int     // of each set of values
	values [][]any // sets of them
	asks   map[string]*access
	first  time.Duration
	latest time.Duration
	steps  []string // of the plan
}

var (
	words     = regexp.MustCompile(`\w+`)
	leading   = regexp.MustCompile(`^(?s:\s|--[^\n]*\n|/\*.*?\*/)+`) // of comments
	returning = regexp.MustCompile(`(?is)\sRETURNING\s.*$`)
)

// look times a statement as it is; nil for one that is quick enough, or inserts.
func (c *copied) look(ctx context.Context, st *Statement) (*timed, error) {
	sql, params, err := st.translate(sqldb.SQLite)
	if err != nil {
		return nil, err
	}
	verb := strings.ToUpper(words.FindString(leading.ReplaceAllString(sql, "")))
	if verb == "INSERT" || verb == "REPLACE" || verb == "PRAGMA" || verb == "EXPLAIN" {
		return nil, nil
	}
	l := &timed{st: st, sql: sql, runs: timedRuns}
	clear(c.seen)
	spied, _, err := c.spy.PrepareTransient(returning.ReplaceAllString(sql, "")) // tables that only tell what they are asked for return nothing
	if err != nil {
		return nil, fmt.Errorf("it cannot be planned apart: %w", err)
	}
	_ = spied.Finalize()
	l.asks = map[string]*access{}
	for name, a := range c.seen {
		l.asks[name] = a
	}
	if l.values, err = c.values(l, params); err != nil {
		return nil, err
	}
	if l.first, err = c.time(ctx, &timed{sql: sql, runs: 1, values: l.values[:1]}); err != nil {
		return nil, err
	}
	if l.first > slowRun {
		l.runs, l.values = 1, l.values[:1]
	} else if l.first, err = c.time(ctx, l); err != nil {
		return nil, err
	}
	if l.first < leastTime {
		return nil, nil
	}
	return l, nil
}

// steps gives the lines of a plan.
func steps(conn *sqlite.Conn, sql string) (out []string, err error) {
	stmt, _, err := conn.PrepareTransient("EXPLAIN QUERY PLAN " + sql)
	if err != nil {
		return nil, err
	}
	defer stmt.Finalize()
	for {
		if more, err := stmt.Step(); err != nil || !more {
			return out, err
		}
		out = append(out, stmt.ColumnText(3))
	}
}

// values gives sets of values to try a statement with.
func (c *copied) values(l *timed, params []int) ([][]any, error) {
	bound := make([]binding, len(params))
	for i, n := range params {
		bound[i] = bindingOf(l.st.Text, ":"+l.st.Params[n].Name)
	}
	at := places(bound)
	sets := make([][]any, 0, 3)
	for _, shift := range []float64{0, -0.2, 0.2} {
		set := make([]any, len(params))
		for i, n := range params {
			p := l.st.Params[n]
			var v any
			var ok bool
			if v, ok = p.example(); ok {
			} else if bound[i].column != "" {
				place := at[i]
				if place == 0.5 {
					place += shift
				}
				var err error
				if v, ok, err = c.sample(l, bound[i].column, place); err != nil {
					return nil, err
				}
				if text, isText := v.(string); isText && strings.HasSuffix(bound[i].operator, "LIKE") && len(text) > 3 {
					v = text[:3]
				}
			}
			switch {
			case ok && p.Type == "array":
				v = fmt.Sprintf("[%s]", strconv.Quote(fmt.Sprint(v)))
			case ok:
			case bound[i].operator == "LIMIT":
				v = 10
			case bound[i].operator == "OFFSET":
				v = 0
			default:
				v = map[string]any{"integer": 1, "number": 1.0, "boolean": 1, "string": "a", "object": "{}", "array": "[]"}[p.Type]
			}
			set[i] = v
		}
		sets = append(sets, set)
	}
	return sets, nil
}

// example is the value that the file has for a parameter, as it is bound.
func (p Param) example() (v any, ok bool) {
	if p.Example == "" {
		return nil, false
	}
	switch p.Type {
	case "integer":
		n, err := strconv.ParseInt(p.Example, 10, 64)
		return n, err == nil
	case "number":
		n, err := strconv.ParseFloat(p.Example, 64)
		return n, err == nil
	case "boolean":
		n := 0
		if p.Example == "true" {
			n = 1
		}
		return n, true
	}
	return p.Example, true
}

// sampled is how many rows of a table values are taken from.
const sampled = 10_000

// sample gives a value of a column of one of the statement's tables.
func (c *copied) sample(l *timed, column string, place float64) (any, bool, error) {
	for _, name := range slices.Sorted(maps.Keys(c.tables)) {
		t := c.tables[name]
		if l.asks[name] == nil || t.rows == 0 {
			continue
		}
		has, err := texts(c.full, "SELECT 1 FROM pragma_table_xinfo(?) WHERE lower(name) = lower(?)", name, column)
		if err != nil {
			return nil, false, err
		}
		if len(has) == 0 {
			continue
		}
		values, err := c.valuesOf(t, column)
		if err != nil || len(values) == 0 {
			return nil, false, err
		}
		return values[min(len(values)-1, int(place*float64(len(values))))], true, nil
	}
	return nil, false, nil
}

// valuesOf gives values of a column in their order, from rows all over the table.
func (c *copied) valuesOf(t *table, column string) (values []any, err error) {
	key := t.name + "." + column
	if known, ok := c.samples[key]; ok {
		return known, nil
	}
	collect := func(from string) error {
		values = nil
		return sqlitex.ExecuteTransient(c.full, fmt.Sprintf("SELECT v FROM (SELECT %s AS v FROM %s %s) WHERE v IS NOT NULL ORDER BY 1", quote(column), t.name, from), &sqlitex.ExecOptions{ResultFunc: func(st *sqlite.Stmt) error {
			switch st.ColumnType(0) {
			case sqlite.TypeInteger:
				values = append(values, st.ColumnInt64(0))
			case sqlite.TypeFloat:
				values = append(values, st.ColumnFloat(0))
			default:
				values = append(values, st.ColumnText(0))
			}
			return nil
		}})
	}
	if err = collect(fmt.Sprintf("WHERE rowid %% %d = 0 LIMIT %d", max(1, int(t.rows)/sampled), sampled)); err != nil || len(values) == 0 { // without rowids, say
		err = collect(fmt.Sprintf("LIMIT %d", sampled))
	}
	c.samples[key] = values
	return values, err
}

var errSlow = fmt.Errorf("it takes longer than %s", timedLimit)

// time runs a statement with all its values on the copy, and gives how long they take together at best. What it writes is taken back.
func (c *copied) time(parent context.Context, l *timed) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(parent, timedLimit)
	defer cancel()
	c.full.SetInterrupt(ctx.Done())
	defer c.full.SetInterrupt(c.done)
	stmt, _, err := c.full.PrepareTransient(l.sql)
	if err != nil {
		return 0, err
	}
	defer stmt.Finalize()
	all := time.Duration(0)
	for _, set := range l.values {
		best := time.Duration(0)
		for range l.runs {
			took, err := c.once(stmt, set)
			switch {
			case err == nil:
			case parent.Err() != nil:
				return 0, parent.Err()
			case ctx.Err() != nil:
				return 0, errSlow
			default:
				return 0, err
			}
			if best == 0 || took < best {
				best = took
			}
		}
		all += best
	}
	return all / time.Duration(len(l.values)), nil
}

func (c *copied) once(stmt *sqlite.Stmt, set []any) (took time.Duration, err error) {
	for i, v := range set {
		switch v := v.(type) {
		case int:
			stmt.BindInt64(i+1, int64(v))
		case int64:
			stmt.BindInt64(i+1, v)
		case float64:
			stmt.BindFloat(i+1, v)
		case string:
			stmt.BindText(i+1, v)
		default:
			stmt.BindNull(i + 1)
		}
	}
	if err := sqlitex.ExecuteTransient(c.full, "SAVEPOINT millrace_advise", nil); err != nil {
		return 0, err
	}
	began := time.Now()
	for rows := 0; rows < timedRows; rows++ {
		var more bool
		if more, err = stmt.Step(); err != nil || !more {
			break
		}
	}
	took = time.Since(began)
	err = errors.Join(err, stmt.Reset())
	return took, errors.Join(err, sqlitex.ExecuteTransient(c.full, "ROLLBACK TO millrace_advise", nil), sqlitex.ExecuteTransient(c.full, "RELEASE millrace_advise", nil))
}

// builtIndex is an index on the copy.
type builtIndex struct {
	candidate
	name  string
	size  int64
	took  time.Duration // to build
	kinds []string
	whats map[*timed]string
}

// build builds an index in a database of the copy.
func build(conn *sqlite.Conn, name string, c candidate) error {
	return sqlitex.ExecuteTransient(conn, "CREATE INDEX "+quote(name)+" ON "+c.definition(), nil)
}

func drop(conn *sqlite.Conn, name string) error {
	return sqlitex.ExecuteTransient(conn, "DROP INDEX "+quote(name), nil)
}

// trial is the name of an index that is tried.
const trial = "millrace_advise_trial"

// improve finds the index that helps a statement most, and leaves it on the copy; nil for none.
func (c *copied) improve(ctx context.Context, l *timed) (*builtIndex, error) {
	var best *candidate
	bestTime := time.Duration(0)
	for _, name := range slices.Sorted(maps.Keys(l.asks)) {
		a, t := l.asks[name], c.tables[name]
		if t == nil || t.rows < leastRows {
			continue
		}
		if err := c.spreadOf(t, append(slices.Clone(a.equal), a.ranged...)); err != nil {
			return nil, err
		}
		tried := 0
		for _, set := range a.candidates(t, func(string) string { return strings.TrimSpace(nocase) }) {
			if len(set) != 1 || tried == mostTried || t.hasIndex(set[0].columns) {
				continue // of OR each arm has been tried alone
			}
			taken, err := c.wouldTake(l, set[0])
			if err != nil {
				return nil, err
			}
			if !taken {
				continue
			}
			tried++
			if err := build(c.full, trial, set[0]); err != nil {
				return nil, err
			}
			took, err := c.time(ctx, l)
			if errors.Is(err, errSlow) {
				took, err = timedLimit, nil
			}
			if err := errors.Join(err, drop(c.full, trial)); err != nil {
				return nil, err
			}
			limit := min(time.Duration(leastGain*float64(l.latest)), l.latest-leastTime/2) // and beyond what measuring errs by
			if best != nil {
				limit = bestTime * 8 / 10 // a wider one must be worth it, and beyond what measuring errs by
			}
			if took <= limit {
				best, bestTime = &set[0], took
			}
		}
	}
	if best == nil {
		return nil, nil
	}
	b := &builtIndex{candidate: *best, whats: map[*timed]string{}}
	var err error
	if b.name, err = indexName(best.table.own, best.columns, func(name string) (bool, error) {
		rows, err := texts(c.full, "SELECT 1 FROM sqlite_schema WHERE lower(name) = ?", name)
		return len(rows) > 0, err
	}); err != nil {
		return nil, err
	}
	before, err := c.pages()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := build(c.full, b.name, *best); err != nil {
		return nil, err
	}
	b.took = time.Since(began)
	after, err := c.pages()
	if err != nil {
		return nil, err
	}
	b.size = after - before
	if err := build(c.empty, b.name, *best); err != nil {
		return nil, err
	}
	best.table.have = append(best.table.have, best.columns)
	b.kinds, b.whats[l] = l.describe(best)
	with, err := steps(c.empty, l.sql)
	if err != nil {
		return nil, err
	}
	if l.sorts(l.steps) && !l.sorts(with) {
		if len(b.kinds) > 0 && slices.Contains(l.asks[best.table.own].sorted, best.columns[0]) {
			b.kinds = nil
		}
		b.kinds = append(b.kinds, sorting)
	}
	l.steps, l.latest = with, bestTime
	return b, nil
}

// wouldTake tells whether the planner would take an index.
func (c *copied) wouldTake(l *timed, index candidate) (bool, error) {
	if err := build(c.empty, trial, index); err != nil {
		return false, err
	}
	lines, err := steps(c.empty, l.sql)
	err = errors.Join(err, drop(c.empty, trial))
	return slices.ContainsFunc(lines, func(s string) bool { return strings.Contains(s, trial) }), err
}

// pages gives how many bytes of the copy are in use.
func (c *copied) pages() (int64, error) {
	rows, err := texts(c.full, "SELECT (SELECT page_count FROM pragma_page_count) - (SELECT freelist_count FROM pragma_freelist_count), (SELECT page_size FROM pragma_page_size)")
	if err != nil {
		return 0, err
	}
	n, _ := strconv.ParseInt(rows[0][0], 10, 64)
	size, _ := strconv.ParseInt(rows[0][1], 10, 64)
	return n * size, nil
}

// spreadOf learns about how many different values columns have.
func (c *copied) spreadOf(t *table, columns []string) error {
	for _, column := range columns {
		if _, ok := t.spread[column]; ok {
			continue
		}
		rows, err := texts(c.full, fmt.Sprintf("SELECT count(DISTINCT v) FROM (SELECT %s AS v FROM %s LIMIT 10000)", column, t.name))
		if err != nil {
			return err
		}
		t.spread[column], _ = strconv.ParseFloat(rows[0][0], 64)
	}
	return nil
}

func (l *timed) sorts(steps []string) bool {
	return slices.ContainsFunc(steps, func(s string) bool { return strings.Contains(s, "TEMP B-TREE FOR ") })
}

// describe says what an index mends, and what happens without it. The plan calls a table by its alias.
func (l *timed) describe(c *candidate) (kinds []string, what string) {
	name := c.table.own
	called := func(s string) bool { // the step is of this table
		f := strings.Fields(s)
		if len(f) < 2 || f[0] != "SCAN" && f[0] != "SEARCH" {
			return false
		}
		return strings.EqualFold(f[1], name) || regexp.MustCompile(`(?i)\b`+regexp.QuoteMeta(name)+`"?\s+(?:AS\s+)?"?`+regexp.QuoteMeta(f[1])+`\b`).MatchString(l.sql)
	}
	loops := 0
	for _, s := range l.steps {
		isLoop := strings.HasPrefix(s, "SCAN ") || strings.HasPrefix(s, "SEARCH ")
		if called(s) {
			switch {
			case strings.Contains(s, "AUTOMATIC"):
				return []string{joining}, fmt.Sprintf("each call builds an index of all %s rows of %s to join them", count(c.table.rows), name)
			case strings.HasPrefix(s, "SCAN ") && loops > 0:
				return []string{joining}, fmt.Sprintf("all %s rows of %s are read to join them", count(c.table.rows), name)
			case strings.HasPrefix(s, "SCAN "):
				return []string{fullScan}, fmt.Sprintf("all %s rows of %s are read", count(c.table.rows), name)
			}
		}
		if isLoop {
			loops++
		}
	}
	return nil, more(name)
}

// tell makes findings of the indexes that are needed.
func (c *copied) tell(ctx context.Context, r *Report, src *Source, looks []*timed, built []*builtIndex) error {
	slices.SortStableFunc(built, func(a, b *builtIndex) int { return len(a.columns) - len(b.columns) })
	for i, b := range built { // one whose columns are the first ones of another is not needed beside that, which tells in its place
		wider := slices.IndexFunc(built[i+1:], func(o *builtIndex) bool {
			return o.table == b.table && len(o.columns) > len(b.columns) && slices.Equal(o.columns[:len(b.columns)], b.columns)
		})
		if wider < 0 {
			continue
		}
		o := built[i+1+wider]
		for _, k := range o.kinds {
			if !slices.Contains(b.kinds, k) {
				b.kinds = append(b.kinds, k)
			}
		}
		o.kinds = b.kinds
		maps.Copy(o.whats, b.whats)
		if err := errors.Join(drop(c.full, b.name), drop(c.empty, b.name)); err != nil {
			return err
		}
		built[i] = nil
	}
	plans := map[*timed][]string{}
	for _, l := range looks {
		var err error
		if l.latest, err = c.time(ctx, l); errors.Is(err, errSlow) {
			l.latest = timedLimit
		} else if err != nil {
			return err
		}
		if plans[l], err = steps(c.empty, l.sql); err != nil {
			return err
		}
	}
	for _, b := range built {
		if b == nil {
			continue
		}
		f := Finding{Source: src.Name, Table: b.table.name, Kinds: b.kinds, Proof: "copy", Unit: "ms", Rows: int64(b.table.rows), Size: b.size, definition: b.definition(),
			SQL: "CREATE INDEX " + b.name + " ON " + b.definition() + ";",
			Writes: fmt.Sprintf("each insert, each delete and each update of these columns has one more index to keep: the table has %d now; building it took %s, %.1f µs a row",
				b.table.indexes, b.took.Round(time.Millisecond), float64(b.took.Nanoseconds())/1000/b.table.rows)}
		for _, l := range looks {
			if l.latest > time.Duration(leastGain*float64(l.first)) || !slices.ContainsFunc(plans[l], func(s string) bool { return strings.Contains(s+" ", " "+b.name+" ") }) {
				continue
			}
			what := b.whats[l]
			if what == "" {
				_, what = l.describe(&b.candidate)
			}
			f.Gains = append(f.Gains, Gain{Name: l.st.Name, Where: l.st.Where, What: what, Before: l.first.Seconds() * 1000, After: l.latest.Seconds() * 1000, Calls: l.st.Calls, Seconds: l.st.Seconds})
		}
		if len(f.Gains) > 0 {
			if len(f.Kinds) == 0 {
				f.Kinds = []string{fullScan}
			}
			r.add(f)
		}
	}
	return nil
}
