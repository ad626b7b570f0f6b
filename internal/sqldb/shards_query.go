package sqldb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"millrace/internal/mcp"
)

// shardedQuery is a statement on the servers of a sharded source.
type shardedQuery struct {
	source *sharded
	spec   Spec
	on     []Query // by server
	span   time.Duration
	limit  limit
}

// Describe implements Query, on whichever server answers: they are alike.
func (q *shardedQuery) Describe(ctx context.Context) (columns []Column, err error) {
	for _, on := range q.on {
		if columns, err = on.Describe(ctx); err == nil || !isUnavailable(err) {
			return columns, err
		}
	}
	return nil, err
}

// execution is what the servers get of a run.
func (q *shardedQuery) execution(x *Execution) (own *Execution, b bounds) {
	own = x.together()
	own.Primary = true
	return own, runBounds(q.span, q.limit, own)
}

// keyedQuery runs on the server of one key.
type keyedQuery struct{ shardedQuery }

// Run implements Query. Where the shard has moved nothing was done, and it is run where it is now.
func (q *keyedQuery) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	by := *q.spec.Shard
	key, err := q.source.key(q.spec.Name, &q.spec.Params[by], &x.Args[by])
	if err != nil {
		return dst, Outcome{}, err
	}
	own, b := q.execution(x)
	own.shard = ShardOf(key)
	for {
		m, server, err := q.source.locate(ctx, &b, own.shard)
		if err != nil {
			return dst, Outcome{}, err
		}
		own.epoch = m.epochs[server]
		out, outcome, err := q.on[server].Run(ctx, dst, own)
		if !errors.Is(err, errMoved) {
			return out, outcome, err
		}
		if err := q.source.look(ctx, m); err != nil {
			return dst, Outcome{}, err
		}
	}
}

// scatteredQuery runs on all servers and puts their rows together.
type scatteredQuery struct {
	shardedQuery
	*gathering
	order atomic.Pointer[[]comparer] // once it is known, and with it that the statement is fit
}

// Describe implements Query.
func (q *scatteredQuery) Describe(ctx context.Context) ([]Column, error) {
	columns, err := q.shardedQuery.Describe(ctx)
	if err == nil && q.order.Load() == nil {
		_, err = q.compare(ctx, columns, nil, q.source.Widest() == mcp.ScopePublic)
	}
	return columns, err
}

// Run implements Query. All rows are of one moment of the map of shards: where that has changed meanwhile it begins anew.
func (q *scatteredQuery) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	order, err := q.ordered(ctx, x.Caller)
	if err != nil {
		return dst, Outcome{}, err
	}
	own, b := q.execution(x)
	for {
		m, err := q.source.whole(ctx, &b)
		if err != nil {
			return dst, Outcome{}, err
		}
		on := m.having()
		parts := make([]part, len(on))
		err = sideBySide(ctx, len(on), mostScattered, func(ctx context.Context, next func() (int, bool)) error {
			for i, ok := next(); ok; i, ok = next() {
				run := *own
				run.epoch = m.epochs[on[i]]
				out, _, err := q.on[on[i]].Run(ctx, make([]byte, 0, 4<<10), &run)
				if err != nil {
					return err
				}
				parts[i] = splitRows(out)
			}
			return nil
		})
		switch {
		case errors.Is(err, errMoved):
			if err := q.source.look(ctx, m); err != nil {
				return dst, Outcome{}, err
			}
		case err != nil:
			return dst, Outcome{}, err
		default:
			out, outcome, err := gather(dst, parts, order, q.most(x), q.spec.MaxRows, q.spec.MaxBytes)
			if err != nil {
				err = sqlFailure(q.spec.Name, err.Error(), err)
			}
			return out, outcome, err
		}
	}
}

// ordered gives how the rows are put in order.
func (q *scatteredQuery) ordered(ctx context.Context, caller *mcp.Caller) ([]comparer, error) {
	if known := q.order.Load(); known != nil {
		return *known, nil
	}
	var columns []Column
	if len(q.gathering.order) > 0 {
		var err error
		if columns, err = q.shardedQuery.Describe(ctx); err != nil {
			return nil, err
		}
	}
	return q.compare(ctx, columns, caller, true)
}

// compare finds how rows of these columns are put in order, having asked the databases what the text of the statement does not tell. Where
// db_settings depend on the caller, and there is none, what needs them is not asked: whole is false then.
func (q *scatteredQuery) compare(ctx context.Context, columns []Column, caller *mcp.Caller, whole bool) ([]comparer, error) {
	order, err := comparers(q.spec.Name, q.gathering.order, columns)
	if err == nil {
		err = q.functions(ctx)
	}
	if err == nil && whole {
		err = q.collations(ctx, order, columns, caller)
	}
	if err != nil {
		return nil, err
	}
	if whole {
		q.order.Store(&order)
	}
	return order, nil
}

// ask runs a statement on a server, and gives the columns of its one row.
func (q *scatteredQuery) ask(ctx context.Context, server int, spec Spec, args []mcp.Value, caller *mcp.Caller) (map[string]*string, error) {
	spec.Name = q.spec.Name
	ask, err := q.source.servers[server].Compile(spec)
	if err != nil {
		return nil, err
	}
	out, _, err := ask.Run(ctx, nil, &Execution{Args: args, Primary: true, Caller: caller})
	if err != nil {
		return nil, err
	}
	var got struct{ Rows []map[string]*string }
	if err := json.Unmarshal(out, &got); err != nil || len(got.Rows) != 1 {
		return nil, fmt.Errorf("%s: the database's answer is not readable: %.80q", q.spec.Name, out)
	}
	return got.Rows[0], nil
}

// functions refuses aggregates that are known to the database alone.
func (q *scatteredQuery) functions(ctx context.Context) error {
	if len(q.calls) == 0 {
		return nil
	}
	names, err := json.Marshal(q.calls)
	if err != nil {
		return err
	}
	for i := range q.source.servers {
		found, err := q.ask(ctx, i, Spec{Text: "SELECT min(proname)::text AS name FROM pg_catalog.pg_proc WHERE prokind IN ('a', 'w') AND proname IN (SELECT pg_catalog.jsonb_array_elements_text(CAST(:names AS jsonb)))",
			Params: []Param{{Name: "names", Type: "string"}}, Own: true}, []mcp.Value{{Kind: mcp.KindText, Text: names}}, nil)
		if isUnavailable(err) && i+1 < len(q.source.servers) {
			continue // they are alike
		}
		if err != nil {
			return err
		}
		if name := found["name"]; name != nil {
			return sqlFailure(q.spec.Name, *name+"(…) is of the rows of each server, and several answers would come back; group by the shard key, or add shard: {by: PARAMETER}", nil)
		}
		return nil
	}
	return nil
}

// collations has each server say under which collation it compares the texts that rows are ordered by: only that of bytes is known here.
func (q *scatteredQuery) collations(ctx context.Context, order []comparer, columns []Column, caller *mcp.Caller) error {
	// Before version 15 every database had the C library's collations.
	text := "SELECT (SELECT CASE WHEN coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' THEN datcollate END FROM pg_catalog.pg_database d WHERE datname = current_database()) AS base"
	var names []string
	for _, o := range order {
		if slices.Contains(collated, columns[o.place].oid) {
			names = append(names, o.name)
			text += `, pg_catalog.pg_collation_for(q."` + strings.ReplaceAll(o.name, `"`, `""`) + `") AS c` + strconv.Itoa(len(names))
		}
	}
	if len(names) == 0 {
		return nil
	}
	// The statement itself is not run, since no row of it is joined; but it is planned, for which its settings may be needed.
	text += " FROM (\n" + q.spec.Text[:q.end] + "\n) q RIGHT JOIN (SELECT 1) one ON false"
	for i := range q.source.servers {
		found, err := q.ask(ctx, i, Spec{Text: text, Params: q.spec.Params, Hints: q.spec.Hints}, make([]mcp.Value, len(q.spec.Params)), caller)
		if err != nil {
			return err
		}
		for n, name := range names {
			collation := found["c"+strconv.Itoa(n+1)]
			if collation != nil && *collation == `"default"` {
				collation = found["base"]
			}
			if collation == nil || !slices.Contains([]string{"C", "POSIX", "ucs_basic"}, strings.Trim(*collation, `"`)) {
				return sqlFailure(q.spec.Name, fmt.Sprintf(`it is ordered by %q, a text under a collation of the database's own; rows of several servers are put in order by bytes: select it as (%[1]s COLLATE "C") AS %[1]s`, name), nil)
			}
		}
	}
	return nil
}
