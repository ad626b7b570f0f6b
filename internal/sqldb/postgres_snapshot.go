package sqldb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// pgSnapshot runs its parts side by side, all of them on what one transaction sees. The first connection takes the snapshot and exports it;
// others join where the pool has them to spare. None is waited for: calls that each hold a connection while they wait for another's would
// wait for each other.
type pgSnapshot struct {
	source *postgresSource
	name   string
	params int
	names  []string
	parts  []*pgQuery
	locks  bool // one of them may take the session's advisory locks
	span   time.Duration
	limit  limit
}

// serverQuery is a query on one of several servers.
type serverQuery interface {
	Query
	bounds(x *Execution) bounds // of a run
	locking() bool              // it may take the session's advisory locks
}

func (q *pgQuery) bounds(x *Execution) bounds { return runBounds(q.span, q.limit, x) }

func (q *pgQuery) locking() bool { return q.locks }

func (q *pgSnapshot) bounds(x *Execution) bounds { return runBounds(q.span, q.limit, x) }

func (q *pgSnapshot) locking() bool { return q.locks }

func newPgSnapshot(s *postgresSource, all *Spec) (Query, error) {
	q := &pgSnapshot{source: s, name: all.Name, params: len(all.Params), names: partNames(all)}
	var err error
	if q.parts, err = compileParts(all, dialectPostgres, s.compileOne); err != nil {
		return nil, err
	}
	for _, p := range q.parts {
		q.locks = q.locks || p.locks
	}
	q.span, q.limit = queryTimeout(s.cfg.QueryTimeout.Std(), all.Timeout)
	return q, nil
}

// Describe implements Query: a column for each part.
func (q *pgSnapshot) Describe(ctx context.Context) ([]Column, error) {
	return describeParts(ctx, q.names, q.parts)
}

// Run implements Query.
func (q *pgSnapshot) Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error) {
	if err := ctx.Err(); err != nil {
		return dst, Outcome{}, err
	}
	if len(x.Args) != q.params {
		return dst, Outcome{}, fmt.Errorf("%s: %d arguments for %d parameters", q.name, len(x.Args), q.params)
	}
	if s := q.parts[0].settings; s != nil {
		if err := s.refuse(q.name, x.Caller); err != nil {
			return dst, Outcome{}, err
		}
	}
	own := x.together()
	b := runBounds(q.span, q.limit, own)
	// As with one statement alone, once; but each of them may have outgrown its plan on each connection.
	plans := len(q.parts) * min(len(q.parts), q.source.cfg.Parallel)
	for tries := 0; ; {
		results, again, err := q.attempt(ctx, own, &b)
		if err == nil {
			out, outcome := joinParts(dst, q.names, results)
			return out, outcome, nil
		}
		var server *pgconn.PgError
		if errors.As(err, &server) && isOutgrown(server) {
			plans--
		} else {
			tries++
		}
		if !again || tries > 1 || plans < 0 || ctx.Err() != nil {
			return dst, Outcome{}, err
		}
	}
}

// attempt is one run. again tells that another try may do better.
func (q *pgSnapshot) attempt(ctx context.Context, x *Execution, b *bounds) (results []partResult, again bool, err error) {
	ctx, cancel := context.WithCancel(ctx) // ends what runs on the first connection when another fails
	defer cancel()
	lead, err := q.source.pool.get(ctx, b.deadline)
	if err != nil {
		return nil, false, err
	}
	defer q.end(lead)
	first := q.parts[0]
	id, err := q.begin(lead, x, "")
	if err != nil {
		return nil, first.isStale(lead, err), first.failure(ctx, q.source.pool.stopped(lead), b, err)
	}
	results = make([]partResult, len(q.parts))
	var led atomic.Bool
	err = sideBySide(ctx, len(q.parts), q.source.cfg.Parallel, func(ctx context.Context, next func() (int, bool)) (err error) {
		defer func() {
			if err != nil {
				cancel()
			}
		}()
		c := lead
		if led.Swap(true) {
			var ok bool
			if c, ok = q.source.pool.spare(ctx, b.deadline); !ok {
				return nil // those that there are do it all
			}
			defer q.end(c)
			var server *pgconn.PgError
			if _, err := q.begin(c, x, id); errors.As(err, &server) && (server.Code == stateInvalidParameter || server.Code == stateUndefinedObject || server.Code == stateNotInState) {
				return nil // the first connection has failed, and ended the snapshot: it tells why
			} else if err != nil {
				return first.told(ctx, c, b, err)
			}
		}
		isSet := false
		for i, ok := next(); ok; i, ok = next() {
			p := q.parts[i]
			results[i].out, results[i].outcome, err = p.inside(c, x, isSet, c == lead)
			if errors.Is(err, errTooMany) {
				return nil // the others do the rest
			}
			if err != nil {
				return p.told(ctx, c, b, err)
			}
			isSet = true
		}
		return nil
	})
	var stale staleError
	if errors.As(err, &stale) {
		return nil, true, stale.error
	}
	return results, false, err
}

// staleError is of an attempt after which another may do better: the first error of several counts, and that of the others is that they were
// stopped.
type staleError struct{ error }

func (q *pgQuery) told(ctx context.Context, c *pgConn, b *bounds, err error) error {
	isStale := q.isStale(c, err)
	err = q.failure(ctx, q.source.pool.stopped(c), b, err)
	if isStale {
		return staleError{err}
	}
	return err
}

// begin begins a transaction: on the snapshot of that name, or on one of its own, whose name it gives. A replica is asked before that how far
// it has come.
func (q *pgSnapshot) begin(c *pgConn, x *Execution, snapshot string) (exported string, err error) {
	defer c.abandonOnPanic()
	c.notice = x.Notice
	asks := snapshot == "" && x.after > c.replayed
	var order []int
	if asks {
		order = append(order, controlReplayed)
	}
	order = append(order, controlBeginSnapshot)
	if snapshot == "" {
		order = append(order, controlExport)
	}
	syncs := 1
	for _, control := range order {
		c.send(controlNames[control], nil, nil, 0)
		if control == controlReplayed { // a transaction of its own, whose snapshot may be from before the answer
			c.conn.Frontend().SendSync(&pgproto3.Sync{})
			syncs++
		}
	}
	if snapshot != "" { // it takes no parameter
		c.conn.Frontend().SendParse(&pgproto3.Parse{Query: "SET TRANSACTION SNAPSHOT '" + snapshot + "'"})
		c.send("", nil, nil, 0)
	}
	if err := c.sync(); err != nil {
		return "", err
	}
	behind := asks
	for done := 0; ; {
		message, failure := c.receive()
		if failure != nil {
			return "", failure
		}
		switch m := message.(type) {
		case *pgproto3.DataRow:
			if len(m.Values) != 1 || done >= len(order) {
				continue
			}
			switch order[done] {
			case controlReplayed:
				lsn, err := parseLSN(m.Values[0])
				if err == nil {
					c.replayed = max(c.replayed, lsn)
				}
				behind = lsn < x.after
			case controlExport:
				exported = string(m.Values[0])
			}
		case *pgproto3.CommandComplete:
			done++
		case *pgproto3.ErrorResponse:
			if err == nil {
				err = pgconn.ErrorResponseToPgError(m)
			}
		case *pgproto3.ReadyForQuery:
			if syncs--; syncs > 0 {
				continue
			}
			switch {
			case err != nil:
			case behind:
				err = errBehind
			case snapshot == "" && strings.Trim(exported, "0123456789ABCDEF-") != "": // it becomes part of a statement
				err = errors.New("the server's name of a snapshot is none")
			}
			return exported, err
		}
	}
}

// end ends the transaction and gives the connection back.
func (q *pgSnapshot) end(c *pgConn) {
	broken := c.isBroken()
	if !broken && c.conn.TxStatus() != 'I' {
		broken = c.run(controlRollback) != nil
	}
	if !broken && q.locks {
		broken = c.run(controlUnlock) != nil
	}
	c.notice = nil
	q.source.pool.put(c, broken || c.isBroken() || q.source.pool.stopped(c) != stopNone)
}

// inside runs the statement in the transaction that is open, and takes back what it does to settings there. isSet tells that its own, which are
// those of all parts, hold there already; leads, that the connection must live, for others to join its snapshot.
func (q *pgQuery) inside(c *pgConn, x *Execution, isSet, leads bool) ([]byte, Outcome, error) {
	defer c.abandonOnPanic()
	st, err := c.stmt(context.Background(), q)
	if err == nil {
		err = q.bind(c, st, x.Args)
	}
	if err != nil {
		return nil, Outcome{}, err
	}
	queued := queued{drained: leads}
	if !isSet {
		q.sendSettings(c, st, x, &queued)
	}
	c.send(controlNames[controlSavepoint], nil, nil, 0)
	queued.commands++
	q.sendText(c, st, &queued)
	c.send(controlNames[controlRollbackTo], nil, nil, 0)
	queued.commands++
	if err := c.sync(); err != nil {
		return nil, Outcome{}, err
	}
	out, outcome, err := q.reply(nil, c, st, x, queued)
	if errors.Is(err, errTooMany) { // the connection was given up
		return out, outcome, err
	}
	if readyErr := c.ready(); err == nil {
		err = readyErr
	}
	return out, outcome, err
}
