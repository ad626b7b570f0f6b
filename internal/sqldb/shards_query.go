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

// parseShards reads the answer of a server's shards.
func parseShards(out []byte) (epoch int64, shards []int, err error) {
	var got struct {
		Rows []struct {
			Epoch  int64
			Shards []int
		}
	}
	if err := json.Unmarshal(out, &got); err != nil || len(got.Rows) != 1 {
		return -1, nil, fmt.Errorf("the map of shards is not readable: %.80q", out)
	}
	for _, shard := range got.Rows[0].Shards {
		if shard < 0 || shard >= ShardCount {
			return -1, nil, fmt.Errorf("the map of shards has a shard %d", shard)
		}
	}
	return got.Rows[0].Epoch, got.Rows[0].Shards, nil
}

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
	order atomic.Pointer[[]comparer] // once it is known
}

// Describe implements Query.
func (q *scatteredQuery) Describe(ctx context.Context) ([]Column, error) {
	columns, err := q.shardedQuery.Describe(ctx)
	if err == nil {
		_, err = q.compare(ctx, columns)
	}
	return columns, err
}

// Run implements Query. All rows are of one moment of the map of shards: where that has changed meanwhile it begins anew.
func (q *scatteredQuery) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	order, err := q.compare(ctx, nil)
	if err != nil {
		return dst, Outcome{}, err
	}
	own, b := q.execution(x)
	for {
		m, err := q.source.whole(ctx, &b)
		if err != nil {
			return dst, Outcome{}, err
		}
		parts := make([]part, len(q.on))
		err = sideBySide(ctx, len(q.on), mostScattered, func(ctx context.Context, next func() (int, bool)) error {
			for i, ok := next(); ok; i, ok = next() {
				run := *own
				run.epoch = m.epochs[i]
				out, _, err := q.on[i].Run(ctx, nil, &run)
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

// compare gives how the rows are put in order. columns are those of the result, nil where they are not known yet.
func (q *scatteredQuery) compare(ctx context.Context, columns []Column) ([]comparer, error) {
	if len(q.gathering.order) == 0 {
		return nil, nil
	}
	if known := q.order.Load(); known != nil {
		return *known, nil
	}
	if columns == nil {
		var err error
		if columns, err = q.shardedQuery.Describe(ctx); err != nil {
			return nil, err
		}
	}
	order, err := comparers(q.spec.Name, q.gathering.order, columns)
	if err == nil {
		err = q.collations(ctx, order, columns)
	}
	if err != nil {
		return nil, err
	}
	q.order.Store(&order)
	return order, nil
}

// collations has each server say under which collation it compares the texts that rows are ordered by: only that of bytes is known here.
func (q *scatteredQuery) collations(ctx context.Context, order []comparer, columns []Column) error {
	text := "SELECT (SELECT datcollate FROM pg_catalog.pg_database WHERE datname = current_database()) AS base"
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
	// The statement itself is not run: no row of it is joined.
	text += " FROM (\n" + q.spec.Text[:q.end] + "\n) q RIGHT JOIN (SELECT 1) one ON false"
	spec := Spec{Name: q.spec.Name, Text: text, Params: q.spec.Params, Own: true}
	for i := range q.source.servers {
		ask, err := q.source.servers[i].Compile(spec)
		if err != nil {
			return err
		}
		out, _, err := ask.Run(ctx, nil, &Execution{Args: make([]mcp.Value, len(spec.Params)), Primary: true})
		if err != nil {
			return err
		}
		var got struct{ Rows []map[string]*string }
		if err := json.Unmarshal(out, &got); err != nil || len(got.Rows) != 1 {
			return fmt.Errorf("%s: the collations are not readable: %.80q", q.spec.Name, out)
		}
		for n, name := range names {
			collation := got.Rows[0]["c"+strconv.Itoa(n+1)]
			if collation != nil && *collation == `"default"` {
				collation = got.Rows[0]["base"]
			}
			if collation == nil || !slices.Contains([]string{"C", "POSIX", "ucs_basic"}, strings.Trim(*collation, `"`)) {
				return sqlFailure(q.spec.Name, fmt.Sprintf(`it is ordered by %q, a text under a collation of the database's own; rows of several servers are put in order by bytes: select it as (%[1]s COLLATE "C") AS %[1]s`, name), nil)
			}
		}
	}
	return nil
}
