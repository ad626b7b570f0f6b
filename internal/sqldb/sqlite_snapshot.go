package sqldb

import (
	"context"
	"fmt"
	"time"
)

// sqliteSnapshot runs its parts one after the other in one transaction: another connection of SQLite cannot join it.
type sqliteSnapshot struct {
	source *sqliteSource
	name   string
	params int
	names  []string
	parts  []*sqliteQuery
	span   time.Duration
	limit  limit
}

func newSQLiteSnapshot(s *sqliteSource, all *Spec) (Query, error) {
	parts, err := compileParts(all, dialectSQLite, s.compileOne)
	if err != nil {
		return nil, err
	}
	q := &sqliteSnapshot{source: s, name: all.Name, params: len(all.Params), names: partNames(all), parts: parts}
	q.span, q.limit = queryTimeout(s.cfg.QueryTimeout.Std(), all.Timeout)
	return q, nil
}

// Describe implements Query: a column for each part.
func (q *sqliteSnapshot) Describe(ctx context.Context) ([]Column, error) {
	return describeParts(ctx, q.names, q.parts)
}

// Run implements Query.
func (q *sqliteSnapshot) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	if err := ctx.Err(); err != nil {
		return dst, Outcome{}, err
	}
	if len(x.Args) != q.params {
		return dst, Outcome{}, fmt.Errorf("%s: %d arguments for %d parameters", q.name, len(x.Args), q.params)
	}
	x = x.together()
	b := runBounds(q.span, q.limit, x)
	pool := q.source.readers
	c, err := pool.get(ctx, b.deadline)
	if err != nil {
		return dst, Outcome{}, err
	}
	broken := true
	defer func() { pool.put(c, broken) }()
	if err := c.transact("BEGIN"); err != nil {
		return dst, Outcome{}, q.parts[0].failure(ctx, pool.stopped(c), &b, err)
	}
	results := make([]partResult, len(q.parts))
	var failed *sqliteQuery
	for i, p := range q.parts {
		if results[i].out, results[i].outcome, err = p.readOn(c, nil, x); err != nil {
			failed = p
			break
		}
	}
	broken = c.transact("ROLLBACK") != nil || isBroken(err) // a stop strikes this too
	if failed != nil {
		return dst, Outcome{}, failed.failure(ctx, pool.stopped(c), &b, err)
	}
	out, outcome := joinParts(dst, q.names, results)
	return out, outcome, nil
}
