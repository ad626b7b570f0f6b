package advise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/sqldb"
)

// session is a connection that may not write. What it asks of the server ends after statementLimit.
type session struct {
	conn   *pgconn.PgConn
	base   [][2]string       // the source's settings
	hypo   string            // the schema of hypopg, quoted; "" where it is not installed
	tables map[string]*table // by qualified name
	names  map[string]string // of indexes that are proposed, with schema: their definitions
}

const (
	connectLimit   = 10 * time.Second
	statementLimit = 30 * time.Second
	lockLimit      = 2 * time.Second
)

// table is what is known of a table.
type table struct {
	name    string // with its schema, as SQL writes it
	schema  string
	own     string // without the schema, as it is
	rows    float64
	types   map[string]string // of columns
	spread  map[string]float64
	writes  string
	indexes int
	have    [][]string // columns of its indexes; of SQLite
}

func openSession(ctx context.Context, cfg *sqldb.Config, o Options) (*session, error) {
	config, err := pgconn.ParseConfig(cfg.Postgres.Primary.Reveal())
	if err != nil {
		return nil, errors.New("postgres.primary is not a connection URL")
	}
	config.RuntimeParams["application_name"] = "millrace advise"
	config.RuntimeParams["client_encoding"] = "UTF8"
	config.RuntimeParams["default_transaction_read_only"] = "on"
	config.RuntimeParams["lock_timeout"] = strconv.FormatInt(lockLimit.Milliseconds(), 10)
	config.RuntimeParams["statement_timeout"] = strconv.FormatInt(statementLimit.Milliseconds(), 10)
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("the database cannot be reached: %w", withoutURL(err))
	}
	s := &session{conn: conn, tables: map[string]*table{}, names: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(cfg.Settings)) {
		v := cfg.Settings[name]
		switch v {
		case "$tenant":
			v = o.Tenant
		case "$subject":
			v = o.Subject
		}
		s.base = append(s.base, [2]string{name, v})
	}
	rows, err := s.query(ctx, "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'hypopg'")
	if err != nil {
		s.close()
		return nil, err
	}
	if len(rows) > 0 {
		s.hypo = rows[0][0] + "."
	}
	return s, nil
}

// withoutURL is the server's word, where it is one: the driver's own text names user and host.
func withoutURL(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return fmt.Errorf("it refused the connection (SQLSTATE %s)", server.Code)
	}
	return errors.New("see that it is up, and the address right")
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// query gives rows as texts, with nothing for NULL.
func (s *session) query(ctx context.Context, sql string, args ...string) ([][]string, error) {
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	r := s.conn.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	if r.Err != nil {
		return nil, r.Err
	}
	rows := make([][]string, len(r.Rows))
	for i, row := range r.Rows {
		for _, v := range row {
			rows[i] = append(rows[i], string(v))
		}
	}
	return rows, nil
}

// explain plans a statement as its look says. It is prepared anew each time: a plan that the server keeps may rest on an index that was only
// imagined. It does so in a transaction that reads only and is rolled back: planning runs functions that call themselves immutable, whoever wrote them,
// and what those set for the session must not outlive it.
func (s *session) explain(ctx context.Context, l *look) (p *plan, err error) {
	for _, text := range []string{"DEALLOCATE ALL", "BEGIN TRANSACTION READ ONLY"} {
		if _, err := s.query(ctx, text); err != nil {
			return nil, err
		}
	}
	defer func() {
		if _, failed := s.query(context.WithoutCancel(ctx), "ROLLBACK"); err == nil && failed != nil {
			p, err = nil, failed
		}
	}()
	settings, role := [][2]string{{"plan_cache_mode", l.mode}}, [][2]string(nil)
	for _, v := range s.base {
		if strings.EqualFold(v[0], "role") { // last: it may not be allowed to set the others
			role = append(role, v)
			continue
		}
		settings = append(settings, v)
	}
	for _, name := range slices.Sorted(maps.Keys(l.hints())) {
		settings = append(settings, [2]string{name, l.hints()[name]})
	}
	for _, v := range append(settings, role...) {
		if _, err := s.query(ctx, "SELECT set_config($1, $2, true)", v[0], v[1]); err != nil {
			return nil, err
		}
	}
	if _, err := s.query(ctx, "PREPARE millrace_advise AS "+l.sql); err != nil {
		return nil, err
	}
	rows, err := s.query(ctx, "EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE millrace_advise"+l.args)
	if err != nil {
		return nil, err
	}
	text := ""
	for _, row := range rows {
		text += row[0] + "\n"
	}
	return readPlan(text)
}

// look is one statement that has been looked at.
type look struct {
	st     *Statement
	sql    string // with $1
	args   string // for EXECUTE
	mode   string // plan_cache_mode
	kind   string // of what comes of it, where that is not to be read from the plan
	first  *plan
	latest *plan
}

// hints gives the statement's own settings.
func (l *look) hints() map[string]string {
	if l.st == nil {
		return nil
	}
	return l.st.Hints
}

var numbered = regexp.MustCompile(`\$(\d+)`)

// look plans a statement with values for its parameters as they may come; where it does not take those, as it is planned for all.
func (s *session) look(ctx context.Context, st *Statement) (*look, error) {
	l := &look{st: st, sql: st.Text, mode: "force_generic_plan"}
	var params []int
	if !st.Numbered {
		var err error
		if l.sql, params, err = st.translate(sqldb.PostgreSQL); err != nil {
			return nil, err
		}
	} else {
		most := 0
		for _, m := range numbered.FindAllStringSubmatch(st.Text, -1) {
			n, _ := strconv.Atoi(m[1])
			most = max(most, n)
		}
		params = make([]int, most)
	}
	nulls := ""
	if len(params) > 0 {
		nulls = "(" + strings.TrimSuffix(strings.Repeat("NULL, ", len(params)), ", ") + ")"
	}
	l.args = nulls
	var err error
	if l.first, err = s.explain(ctx, l); err != nil {
		return nil, err
	}
	if values := s.values(ctx, l, params); len(params) > 0 && !slices.Contains(values, "NULL") { // of NULL the planner knows that nothing is found
		custom := *l
		custom.mode, custom.args = "force_custom_plan", "("+strings.Join(values, ", ")+")"
		if first, err := s.explain(ctx, &custom); err == nil {
			l.mode, l.args, l.first = custom.mode, custom.args, first
		}
	}
	l.latest = l.first
	return l, nil
}

// values gives literals for the parameters.
func (s *session) values(ctx context.Context, l *look, params []int) []string {
	bound := make([]binding, len(params))
	for i := range params {
		bound[i] = bindingOf(l.sql, "$"+strconv.Itoa(i+1))
	}
	at := places(bound)
	out := make([]string, len(params))
	for i, n := range params {
		var p Param
		if !l.st.Numbered {
			p = l.st.Params[n]
		}
		v, ok := p.Example, p.Example != ""
		if !ok && bound[i].column != "" {
			v, ok = s.sample(ctx, l.first, bound[i].column, at[i])
			if ok && strings.HasSuffix(bound[i].operator, "LIKE") && len(v) > 3 {
				v = v[:3]
			}
		}
		switch {
		case ok:
		case bound[i].operator == "LIMIT":
			v = "10"
		case bound[i].operator == "OFFSET":
			v = "0"
		default:
			v = map[string]string{"integer": "1", "number": "1", "boolean": "true", "string": "a", "object": "{}"}[p.Type]
		}
		if p.Type == "array" {
			v = "{" + v + "}"
		}
		if out[i] = "'" + strings.ReplaceAll(v, "'", "''") + "'"; v == "" && p.Type == "" {
			out[i] = "NULL"
		}
	}
	return out
}

// sample gives a value of a column of one of a plan's tables, as the statistics have it.
func (s *session) sample(ctx context.Context, p *plan, column string, at float64) (v string, ok bool) {
	p.walk(func(n *plan) {
		if n.Relation == "" || ok {
			return
		}
		rows, err := s.query(ctx, `SELECT COALESCE(h[1 + floor($4::float8 * (cardinality(h) - 1))::int], m[1 + cardinality(m) / 2]) FROM (
			SELECT histogram_bounds::text::text[] AS h, most_common_vals::text::text[] AS m FROM pg_stats WHERE schemaname = $1 AND tablename = $2 AND attname = $3) AS x`,
			n.Schema, n.Relation, strings.ToLower(column), strconv.FormatFloat(at, 'f', 3, 64))
		if err == nil && len(rows) == 1 && rows[0][0] != "" {
			v, ok = rows[0][0], true
		}
	})
	return v, ok
}

// table gives what is known of a table.
func (s *session) table(ctx context.Context, schema, relation string) (*table, error) {
	key := schema + "\x00" + relation
	if t := s.tables[key]; t != nil {
		return t, nil
	}
	t := &table{types: map[string]string{}, spread: map[string]float64{}}
	s.tables[key] = t
	if schema == "pg_catalog" || schema == "pg_toast" || schema == "information_schema" {
		return t, nil // the database's own
	}
	rows, err := s.query(ctx, `SELECT format('%I.%I', n.nspname, c.relname), a.attname, y.typname, COALESCE(st.n_distinct, 0), (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid),
			COALESCE(w.n_tup_ins, 0), COALESCE(w.n_tup_upd, 0), COALESCE(w.n_tup_hot_upd, 0), COALESCE(w.n_tup_del, 0), c.reltuples
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type y ON y.oid = a.atttypid
			LEFT JOIN pg_stats st ON st.schemaname = n.nspname AND st.tablename = c.relname AND st.attname = a.attname AND NOT st.inherited
			LEFT JOIN pg_stat_user_tables w ON w.relid = c.oid
		WHERE n.nspname = $1 AND c.relname = $2`, schema, relation)
	if err != nil || len(rows) == 0 {
		return t, err
	}
	t.name, t.schema, t.own = rows[0][0], schema, relation
	for _, row := range rows {
		t.types[row[1]] = row[2]
		t.spread[row[1]], _ = strconv.ParseFloat(row[3], 64)
	}
	t.indexes, _ = strconv.Atoi(rows[0][4])
	t.writes = fmt.Sprintf("the table has %d now; its statistics count %s inserts, %s updates (%s of them touch no index) and %s deletes", t.indexes, rows[0][5], rows[0][6], rows[0][7], rows[0][8])
	t.rows, _ = strconv.ParseFloat(rows[0][9], 64)
	if all, err := s.explain(ctx, &look{mode: "auto", sql: "SELECT FROM ONLY " + t.name}); err == nil {
		t.rows = all.Rows // as the planner counts them, also where nobody has run ANALYZE
	} else if ctx.Err() != nil {
		return t, ctx.Err()
	} // else it may not be read: a view of it may
	for column, n := range t.spread {
		if n < 0 {
			t.spread[column] = -n * t.rows
		}
	}
	return t, nil
}

// candidate is an index that may help.
type candidate struct {
	table   *table
	columns []string // as CREATE INDEX has them
}

func (c *candidate) definition() string {
	return c.table.name + " (" + strings.Join(c.columns, ", ") + ")"
}

// mostColumns bounds an index, and mostCandidates what is tried for a table of one statement.
const (
	mostColumns    = 4
	mostCandidates = 30
)

// candidates gives sets of indexes to try for a table, those of few columns first. pattern gives what stands behind a column of an index that
// serves LIKE.
func (a *access) candidates(t *table, pattern func(column string) string) [][]candidate {
	equal := slices.Clone(a.equal)
	slices.SortStableFunc(equal, func(x, y string) int { return int(math.Copysign(1, t.spread[y]-t.spread[x])) })
	var lists [][]string
	with := func(parts ...[]string) {
		var columns []string
		for _, part := range parts {
			for _, c := range part {
				if !slices.ContainsFunc(columns, func(have string) bool { return strings.TrimSuffix(have, " DESC") == strings.TrimSuffix(c, " DESC") }) {
					columns = append(columns, c)
				}
			}
		}
		if n := len(columns); n > 0 && n <= mostColumns && !slices.ContainsFunc(lists, func(l []string) bool { return slices.Equal(l, columns) }) {
			lists = append(lists, columns)
		}
	}
	bases := [][]string{nil}
	for _, e := range equal {
		bases = append(bases, []string{e})
	}
	for _, j := range a.joined {
		bases = append(bases, []string{j})
	}
	bases = append(bases, equal)
	for _, j := range a.joined {
		bases = append(bases, append([]string{j}, equal...), append(slices.Clone(equal), j))
	}
	for _, base := range bases {
		with(base)
		for _, r := range a.ranged {
			with(base, []string{r})
			with(base, a.sorted, []string{r})
		}
		with(base, a.sorted)
		for _, l := range a.liked {
			with(base, []string{l + " " + pattern(l)})
		}
	}
	slices.SortStableFunc(lists, func(x, y []string) int { return len(x) - len(y) })
	var out [][]candidate
	for _, l := range lists[:min(len(lists), mostCandidates)] {
		out = append(out, []candidate{{t, l}})
	}
	for _, arms := range a.either {
		var set []candidate
		for _, arm := range arms {
			if c := (candidate{t, []string{arm}}); !slices.ContainsFunc(set, func(o candidate) bool { return o.definition() == c.definition() }) {
				set = append(set, c)
			}
		}
		out = append(out, set)
	}
	return out
}

// patternOps is the operator class in which an index of PostgreSQL finds what LIKE begins with, whatever the collation.
func (t *table) patternOps(column string) string {
	switch typ := t.types[strings.Trim(column, `"`)]; typ {
	case "varchar", "bpchar":
		return typ + "_pattern_ops"
	}
	return "text_pattern_ops"
}
