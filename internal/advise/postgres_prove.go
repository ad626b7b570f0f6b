package advise

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// leastSaved is what a statement must save, in the planner's cost, for an index to be worth its writes: a few pages read at random.
const leastSaved = 20

// unprovenShare is what share of a table's rows a statement may want, where nothing proves that an index helps.
const unprovenShare = 0.05

// imagined is an index that only the session has.
type imagined struct {
	candidate
	oid, name string
	kinds     []string
	whats     map[*look]string
}

// imagine makes an index that only this session's planner sees. It fails where there can be none, as on a function that is not immutable.
func (s *session) imagine(ctx context.Context, c candidate) (*imagined, error) {
	rows, err := s.query(ctx, "SELECT indexrelid::text, indexname FROM "+s.hypo+"hypopg_create_index($1)", "CREATE INDEX ON "+c.definition())
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("hypopg made %d indexes", len(rows))
	}
	return &imagined{candidate: c, oid: rows[0][0], name: rows[0][1], whats: map[*look]string{}}, nil
}

func (s *session) forget(ctx context.Context, all ...*imagined) error {
	for _, i := range all {
		if _, err := s.query(ctx, "SELECT "+s.hypo+"hypopg_drop_index($1::text::oid)", i.oid); err != nil {
			return err
		}
	}
	return nil
}

// uses tells whether a plan rests on the index.
func (p *plan) uses(i *imagined) (yes bool) {
	p.walk(func(n *plan) { yes = yes || n.Index == i.name })
	return yes
}

func (p *plan) sorts() (yes bool) {
	p.walk(func(n *plan) { yes = yes || n.Node == "Sort" || n.Node == "Incremental Sort" })
	return yes
}

// postgres looks at the statements of a source on PostgreSQL.
func (r *Report) postgres(ctx context.Context, src *Source, o Options) error {
	s, err := openSession(ctx, &src.Config, o)
	if err != nil {
		return err
	}
	defer s.close()
	statements := slices.Clone(src.Statements)
	if o.Statements > 0 {
		if statements, err = s.counted(ctx, statements, o.Statements); err != nil {
			r.note("source %s: pg_stat_statements cannot be read (%v): only the file's statements were looked at", src.Name, err)
		}
	}
	var looks []*look
	for i := range statements {
		st := &statements[i]
		l, err := s.look(ctx, st)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if !st.Numbered {
				r.note("%s: %s cannot be explained: %v", st.Where, st.Name, err)
			}
			continue
		}
		r.Looked++
		looks = append(looks, l)
		keys, err := s.references(ctx, l)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.note("%s: foreign keys on the table of %s cannot be looked at: %v", st.Where, st.Name, err)
		}
		looks = append(looks, keys...)
	}
	slices.SortStableFunc(looks, func(a, b *look) int { return cmp.Compare(b.latest.Cost, a.latest.Cost) })
	if s.hypo == "" {
		r.note("source %s: the extension hypopg is not installed in the database, so nothing proves that an index helps; for that install Debian's postgresql-NN-hypopg, and let its owner run CREATE EXTENSION hypopg", src.Name)
		return s.guess(ctx, r, src, looks)
	}
	var kept []*imagined
	for _, l := range looks {
		latest, err := s.explain(ctx, l) // with what others are to get
		if err == nil {
			l.latest = latest
		}
		for n := 0; n < 4 && err == nil; n++ { // one statement may lack several
			var better []*imagined
			if better, err = s.improve(ctx, l); better == nil {
				break
			}
			kept = append(kept, better...)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.note("%s: %s was not looked at to its end: %v", l.st.Where, l.st.Name, err)
		}
	}
	if kept, err = s.thin(ctx, looks, kept); err != nil {
		return err
	}
	return s.tell(ctx, r, src, looks, kept)
}

// improve finds the index that helps a statement most, and leaves it imagined; nil for none.
func (s *session) improve(ctx context.Context, l *look) ([]*imagined, error) {
	var best []candidate
	var bestPlan *plan
	var of *access
	typeOf := func(schema, relation, column string) string {
		t, err := s.table(ctx, schema, relation)
		if err != nil {
			return ""
		}
		return t.types[column]
	}
	accesses := l.latest.accesses(typeOf)
	for _, a := range accesses {
		t, err := s.table(ctx, a.schema, a.relation)
		if err != nil {
			return nil, err
		}
		if t.name == "" || t.rows < leastRows {
			continue
		}
		for _, set := range a.candidates(t, t.patternOps) {
			made, p, err := s.try(ctx, l, set)
			if err == nil {
				err = s.forget(ctx, made...)
			}
			if err != nil {
				return nil, err
			}
			limit := min(leastGain*l.latest.Cost, l.latest.Cost-leastSaved)
			if bestPlan != nil {
				limit = min(0.9*bestPlan.Cost, bestPlan.Cost-leastSaved) // a wider one must be worth it
			}
			helps := p != nil && p.Cost <= limit
			for _, i := range made {
				helps = helps && p.uses(i)
			}
			if helps {
				best, bestPlan, of = set, p, a
			}
		}
	}
	if bestPlan == nil {
		return nil, nil
	}
	made, p, err := s.try(ctx, l, best)
	if err != nil || p == nil {
		return nil, err
	}
	for _, i := range made {
		i.kinds = l.kinds(of, i, p)
		i.whats[l] = l.what(of, i)
	}
	l.latest = p
	return made, nil
}

// try imagines indexes and plans a statement for which all is set with them; without a plan where there can be no such index.
func (s *session) try(ctx context.Context, l *look, set []candidate) (made []*imagined, p *plan, err error) {
	for _, c := range set {
		i, err := s.imagine(ctx, c)
		if err != nil {
			return made, nil, ctx.Err()
		}
		made = append(made, i)
	}
	if p, err = s.explain(ctx, l); err != nil {
		return made, nil, err
	}
	return made, p, nil
}

// kinds says what an index mends.
func (l *look) kinds(a *access, i *imagined, with *plan) (out []string) {
	switch {
	case l.kind != "":
		return []string{l.kind}
	case slices.Contains(a.joined, i.columns[0]):
		out = append(out, joining)
	case a.full && !(l.latest.sorts() && !with.sorts() && slices.Contains(a.sorted, i.columns[0])):
		out = append(out, fullScan)
	}
	if l.latest.sorts() && !with.sorts() {
		out = append(out, sorting)
	}
	if len(out) == 0 {
		out = append(out, fullScan) // of what another index gives
	}
	return out
}

// what says what happens without the index.
func (l *look) what(a *access, i *imagined) string {
	switch t := i.table; {
	case l.kind == foreignKey:
		return fmt.Sprintf("each row that is removed makes the database read all %s rows of %s, for a foreign key", count(t.rows), t.name)
	case a.full && slices.Contains(a.joined, i.columns[0]):
		return fmt.Sprintf("all %s rows of %s are read to join them", count(t.rows), t.name)
	case a.full && slices.Contains(a.sorted, i.columns[0]):
		return fmt.Sprintf("all %s rows of %s are read and sorted", count(t.rows), t.name)
	case a.full:
		return fmt.Sprintf("all %s rows of %s are read to find about %s", count(t.rows), t.name, count(a.rows))
	}
	return more(i.table.name)
}

func more(table string) string { return "more of " + table + " is read or sorted than is wanted" }

func count(n float64) string {
	text := strconv.FormatFloat(n, 'f', 0, 64)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// references gives the look-ups that a DELETE makes the database do for foreign keys on its table.
func (s *session) references(ctx context.Context, l *look) (out []*look, err error) {
	if l.first.Node != "ModifyTable" || l.first.Operation != "Delete" {
		return nil, nil
	}
	rows, err := s.query(ctx, `SELECT k.conrelid::regclass::text, string_agg(format('x.%I = $%s', a.attname, n.i), ' AND ' ORDER BY n.i), count(*), min(a.attname), min(rn.nspname), min(rc.relname)
		FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace m ON m.oid = c.relnamespace JOIN pg_class rc ON rc.oid = k.conrelid JOIN pg_namespace rn ON rn.oid = rc.relnamespace,
			unnest(k.conkey) WITH ORDINALITY AS n (attnum, i) JOIN pg_attribute a ON a.attnum = n.attnum
		WHERE k.contype = 'f' AND m.nspname = $1 AND c.relname = $2 AND a.attrelid = k.conrelid GROUP BY k.oid, k.conrelid`, l.first.Schema, l.first.Relation)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		n, _ := strconv.Atoi(row[2])
		key := &look{st: l.st, kind: foreignKey, mode: "force_generic_plan", sql: "SELECT 1 FROM ONLY " + row[0] + " AS x WHERE " + row[1],
			args: "(" + strings.TrimSuffix(strings.Repeat("NULL, ", n), ", ") + ")"}
		if key.first, err = s.explain(ctx, key); err != nil {
			return nil, err
		}
		key.latest = key.first
		out = append(out, key)
	}
	return out, nil
}

// thin takes indexes away that the others make needless, narrow ones first.
func (s *session) thin(ctx context.Context, looks []*look, kept []*imagined) ([]*imagined, error) {
	slices.SortStableFunc(kept, func(a, b *imagined) int { return len(a.columns) - len(b.columns) })
	for _, i := range slices.Clone(kept) {
		if err := s.forget(ctx, i); err != nil {
			return nil, err
		}
		needed := false
		plans := map[*look]*plan{}
		for _, l := range looks {
			if !l.latest.uses(i) {
				continue
			}
			p, err := s.explain(ctx, l)
			if err != nil {
				return nil, err
			}
			plans[l] = p
			needed = needed || p.Cost > 1.1*l.latest.Cost+leastSaved/2
		}
		if !needed {
			for l, p := range plans {
				l.latest = p
				for _, other := range kept { // which tells in its place
					if what, ok := i.whats[l]; ok && other != i && p.uses(other) {
						if _, told := other.whats[l]; !told {
							other.whats[l] = what
						}
						for _, k := range i.kinds {
							if !slices.Contains(other.kinds, k) {
								other.kinds = append(other.kinds, k)
							}
						}
					}
				}
			}
			kept = slices.DeleteFunc(kept, func(o *imagined) bool { return o == i })
			continue
		}
		again, err := s.imagine(ctx, i.candidate)
		if err != nil {
			return nil, err
		}
		i.oid, i.name = again.oid, again.name
		for _, l := range looks { // plans name indexes
			if l.latest, err = s.explain(ctx, l); err != nil {
				return nil, err
			}
		}
	}
	return kept, nil
}

// tell makes findings of the indexes.
func (s *session) tell(ctx context.Context, r *Report, src *Source, looks []*look, kept []*imagined) error {
	for _, i := range kept {
		f, err := s.finding(ctx, src, i)
		if err != nil {
			return err
		}
		f.Proof, f.Unit = "hypopg", "cost"
		rows, err := s.query(ctx, "SELECT "+s.hypo+"hypopg_relation_size($1::text::oid)", i.oid)
		if err != nil {
			return err
		}
		f.Size, _ = strconv.ParseInt(rows[0][0], 10, 64)
		for _, l := range looks {
			if !l.latest.uses(i) || l.latest.Cost > leastGain*l.first.Cost {
				continue
			}
			what := i.whats[l]
			if what == "" {
				what = more(i.table.name)
			}
			f.Gains = append(f.Gains, l.gain(what, l.latest.Cost))
		}
		r.add(f)
	}
	return nil
}

func (l *look) gain(what string, after float64) Gain {
	return Gain{Name: l.st.Name, Where: l.st.Where, What: what, Before: l.first.Cost, After: after, Calls: l.st.Calls, Seconds: l.st.Seconds}
}

func (s *session) finding(ctx context.Context, src *Source, i *imagined) (Finding, error) {
	t := i.table
	name, err := indexName(t.own, i.columns, func(name string) (bool, error) {
		rows, err := s.query(ctx, "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2", t.schema, name)
		if key := t.schema + "." + name; err == nil && len(rows) == 0 && (s.names[key] == "" || s.names[key] == i.definition()) {
			s.names[key] = i.definition()
			return false, nil
		}
		return true, err
	})
	return Finding{Source: src.Name, Table: t.name, Kinds: i.kinds, definition: i.definition(), Rows: int64(t.rows),
		Writes: "each insert, each delete and each update of these columns has one more index to keep: " + t.writes,
		SQL:    "CREATE INDEX CONCURRENTLY " + name + " ON " + i.definition() + ";"}, err
}

// guess finds what the plans show without proof: tables that are read from end to end for a small part of their rows.
func (s *session) guess(ctx context.Context, r *Report, src *Source, looks []*look) error {
	for _, l := range looks {
		var failed error
		accesses := l.latest.accesses(func(schema, relation, column string) string {
			t, err := s.table(ctx, schema, relation)
			if err != nil {
				failed = err
				return ""
			}
			return t.types[column]
		})
		for _, a := range accesses {
			t, err := s.table(ctx, a.schema, a.relation)
			if err != nil {
				failed = err
				break
			}
			if t.name == "" || !a.full || t.rows < leastRows || a.rows > unprovenShare*t.rows {
				continue
			}
			var columns []string
			for _, part := range [][]string{a.equal, a.joined[:min(len(a.joined), 1)], a.ranged[:min(len(a.ranged), 1)]} {
				columns = append(columns, part...)
			}
			if len(columns) == 0 {
				continue
			}
			i := &imagined{candidate: candidate{t, columns[:min(len(columns), mostColumns)]}}
			i.kinds = []string{cmp.Or(l.kind, fullScan)}
			f, err := s.finding(ctx, src, i)
			if err != nil {
				return err
			}
			g := l.gain(l.what(a, i), 0)
			g.Before = 0
			f.Gains = []Gain{g}
			r.add(f)
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

// counted adds what pg_stat_statements knows: what the file's statements have cost, and the costliest others. Where it is not there,
// nothing is added. It keeps to what the source's own user has run: to plan what others wrote would run their functions in his name.
func (s *session) counted(ctx context.Context, statements []Statement, most int) ([]Statement, error) {
	rows, err := s.query(ctx, "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'pg_stat_statements'")
	if err != nil || len(rows) == 0 {
		return statements, err
	}
	rows, err = s.query(ctx, `SELECT query, calls, total_exec_time / 1000 FROM `+rows[0][0]+`.pg_stat_statements
		WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND userid = (SELECT oid FROM pg_roles WHERE rolname = session_user) AND query ~* '^\s*(SELECT|WITH|UPDATE|DELETE)\y' AND query !~* '\ypg_|LATERAL \(' ORDER BY total_exec_time DESC LIMIT 1000`)
	if err != nil {
		return statements, err
	}
	own := map[string]int{}
	for i := range statements {
		own[normal(statements[i].Text)] = i
	}
	others := 0
	for _, row := range rows {
		calls, _ := strconv.ParseInt(row[1], 10, 64)
		seconds, _ := strconv.ParseFloat(row[2], 64)
		text := strings.TrimRight(strings.TrimSpace(row[0]), "; \n")
		if i, ok := own[normal(text)]; ok {
			statements[i].Calls, statements[i].Seconds = max(statements[i].Calls, calls), max(statements[i].Seconds, seconds)
			continue
		}
		if others++; others > most {
			continue
		}
		short := strings.Join(strings.Fields(text), " ")
		if cut := []rune(short); len(cut) > 60 {
			short = string(cut[:57]) + "…"
		}
		statements = append(statements, Statement{Name: "pg_stat_statements: " + short, Text: text, Numbered: true, Calls: calls, Seconds: seconds})
	}
	return statements, nil
}

var varying = regexp.MustCompile(`'(?:[^']|'')*'|[:$]\w+|\b\d+(?:\.\d+)?\b`)

// normal gives what of a statement stays whatever its constants and parameters are called.
func normal(text string) string {
	text = varying.ReplaceAllString(strings.TrimRight(strings.TrimSpace(text), "; \n"), "?")
	return strings.ToLower(strings.Join(strings.Fields(text), ""))
}
