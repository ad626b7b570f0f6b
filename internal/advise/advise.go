// Package advise finds the indexes that the statements of a configuration lack, and proves what it says in the databases that they run on.
//
// It creates nothing there. On PostgreSQL it asks the planner about indexes that only the session imagines (hypopg), in a session that may not
// write; a SQLite file it copies, and builds indexes on the copy. It stands beside the server and is no part of the request path.
package advise

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/sqldb"
)

// Statement is one statement that runs on a source.
type Statement struct {
	Name   string // what a person calls it: tool get_city
	Where  string // file, line and column; empty for one that the database told of
	Text   string // with named parameters; with $1 where it has Numbered
	Params []Param
	Writes bool
	Hints  map[string]string
	// Numbered tells that it comes from pg_stat_statements: Params are not known.
	Numbered bool
	// Calls and Seconds say what it has cost, where that is known: seconds are of all calls together.
	Calls   int64
	Seconds float64
}

// Param is a parameter with a value that it may have, where the file tells one.
type Param struct {
	sqldb.Param
	Example string
}

// translate gives the statement as the engine gets it, with $1… or ?1…, and for each of those the index in Params.
func (st *Statement) translate(d sqldb.Dialect) (sql string, params []int, err error) {
	own := make([]sqldb.Param, len(st.Params))
	for i, p := range st.Params {
		own[i] = p.Param
		own[i].Unused = true
	}
	mode := sqldb.ReadOnly
	if st.Writes {
		mode = sqldb.ReadWrite
	}
	return sqldb.Translate(d, st.Text, own, mode)
}

// Source is a database with the statements that run there.
type Source struct {
	Name       string
	Config     sqldb.Config
	Statements []Statement
}

// Options bound the work.
type Options struct {
	// MaxCopy is the largest SQLite file, in bytes, that is copied.
	MaxCopy int64
	// Statements is how many of the costliest of pg_stat_statements are looked at.
	Statements int
	// Tenant and Subject are whose rows are looked at, where db_settings have the caller's.
	Tenant, Subject string
}

// Report is what was found, costliest first.
type Report struct {
	Findings []Finding `json:"findings"`
	// Notes say what could not be looked at, or not be proven, and what to do about it.
	Notes []string `json:"notes,omitempty"`
	// Looked is how many statements were looked at.
	Looked int `json:"statements"`
}

// Finding is one index that is missing.
type Finding struct {
	Source string   `json:"source"`
	Table  string   `json:"table"` // as SQL writes it
	Kinds  []string `json:"kinds"` // full scan, sort, join, foreign key
	SQL    string   `json:"sql"`   // that makes the index
	Proof  string   `json:"proof"` // hypopg, copy; empty where nothing proves it
	Unit   string   `json:"unit,omitempty"`
	Gains  []Gain   `json:"gains"`
	Rows   int64    `json:"table_rows"`
	Size   int64    `json:"size_bytes,omitempty"` // of the index, about
	Writes string   `json:"writes"`               // what it costs them

	definition string // of the index, to tell which are the same
}

// Gain is what one statement gets of an index. Before and After are in the finding's unit: of cost as the planner counts it, or milliseconds.
type Gain struct {
	Name    string  `json:"name"`
	Where   string  `json:"where,omitempty"`
	What    string  `json:"what"` // happens without the index
	Before  float64 `json:"before,omitempty"`
	After   float64 `json:"after,omitempty"`
	Calls   int64   `json:"calls,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

// The kinds of findings.
const (
	fullScan   = "full scan"
	sorting    = "sort"
	joining    = "join"
	foreignKey = "foreign key"
)

// What is worth a finding.
const (
	leastRows = 1000 // of a table: below, reading all of it is quick
	leastGain = 0.7  // of what it cost before, a statement may cost at most
)

// Run looks at all statements of the sources. A source that cannot be reached is an error; a statement that cannot be looked at is a note.
func Run(ctx context.Context, sources []Source, o Options) (*Report, error) {
	r := &Report{Findings: []Finding{}}
	for _, s := range sources {
		var err error
		if s.Config.SQLite != nil {
			err = r.sqlite(ctx, &s, o)
		} else {
			err = r.postgres(ctx, &s, o)
		}
		if err != nil {
			return nil, fmt.Errorf("source %q: %w", s.Name, err)
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(b.weight(), a.weight()) })
	return r, nil
}

func (r *Report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// weight is how much a finding matters: the seconds that would be saved where they are known, else a little for what is saved of each call.
func (f *Finding) weight() float64 {
	sum := 0.0
	for _, g := range f.Gains {
		share := 0.5
		if g.Before > 0 {
			share = 1 - g.After/g.Before
		}
		sum += share * (g.Seconds + 1e-6)
	}
	return sum
}

// add keeps a finding, or what it adds to one of the same index.
func (r *Report) add(f Finding) {
	if printable(f.SQL) != f.SQL {
		r.note("source %s: an index of table %s is missing, whose name has control characters: its SQL is not printed", f.Source, printable(f.Table))
		return
	}
	for i := range r.Findings {
		if have := &r.Findings[i]; have.Source == f.Source && have.definition == f.definition {
			have.Gains = append(have.Gains, f.Gains...)
			for _, k := range f.Kinds {
				if !slices.Contains(have.Kinds, k) {
					have.Kinds = append(have.Kinds, k)
				}
			}
			return
		}
	}
	r.Findings = append(r.Findings, f)
}

// indexName is a name for an index that needs no quotes and fits into 63 bytes, and that isTaken does not know.
func indexName(table string, columns []string, isTaken func(name string) (bool, error)) (string, error) {
	plain := func(s string) string {
		return strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_':
				return r
			case r >= 'A' && r <= 'Z':
				return r + 'a' - 'A'
			}
			return '_'
		}, s)
	}
	name := plain(table)
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = "t" + name
	}
	for _, c := range columns {
		name += "_" + strings.Trim(plain(c), "_")
	}
	for strings.Contains(name, "__") {
		name = strings.ReplaceAll(name, "__", "_")
	}
	name = name[:min(len(name), 55)]
	for n := 1; ; n++ {
		full := name + "_idx"
		if n > 1 {
			full += strconv.Itoa(n)
		}
		if taken, err := isTaken(full); err != nil || !taken {
			return full, err
		}
	}
}
