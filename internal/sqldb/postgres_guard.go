package sqldb

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// What a server of a sharded source has beside the tables: package shards makes it, and a move changes it. The epoch of a server rises with
// each shard that comes or goes, in the transaction in which that does.
const (
	// ShardEntered is the function by which a write enters its shard: it keeps the shard from leaving until the transaction ends, and fails
	// where the epoch is not the one that it is given.
	ShardEntered = "millrace_shard_enter"
	// ShardTable has the shards that are on a server, and ShardEpoch its epoch, in one row.
	ShardTable = "millrace_shards"
	ShardEpoch = "millrace_shard_epoch"
	// ShardTrigger is of each table that is spread.
	ShardTrigger = "millrace_shard_row"
	// StateMoved is the SQLSTATE of a write that is refused since shards have come or gone. Nothing was done.
	StateMoved = "MR001"
	// StateOtherShard is that of a write that touches rows of another shard than its own, or of one that is elsewhere.
	StateOtherShard = "MR002"
)

// stateUndefinedFunction is of a database where package shards has made nothing.
const stateUndefinedFunction = "42883"

// The statements of a guard, by Mode, and their names on a connection. A read takes its snapshot with the guard: what it finds is of the epoch
// that the guard gives.
var (
	guardSQL   = [2]string{ReadOnly: "SELECT epoch FROM " + ShardEpoch, ReadWrite: "SELECT " + ShardEntered + "($1, $2)"}
	guardNames = [2]string{ReadOnly: "millrace_guard0", ReadWrite: "millrace_guard1"}
)

// errMoved is of a server that has not the shards that it was thought to have.
var errMoved = errors.New("shards have moved")

// prepareGuard prepares what checks the epoch before a statement.
func (c *pgConn) prepareGuard(ctx context.Context, m Mode) error {
	if c.guards[m] {
		return nil
	}
	_, err := c.conn.Prepare(ctx, guardNames[m], guardSQL[m], nil)
	c.guards[m] = err == nil
	return err
}

// sendGuard queues the check, as the first in a transaction.
func (q *pgQuery) sendGuard(c *pgConn, x *Execution, out *queued) {
	if !q.spec.guarded {
		return
	}
	var values [][]byte
	if q.spec.Mode == ReadWrite {
		values = [][]byte{strconv.AppendInt(nil, int64(x.shard), 10), strconv.AppendInt(nil, x.epoch, 10)}
	} else {
		out.guard = out.commands
	}
	c.send(guardNames[q.spec.Mode], values, nil, 0)
	out.commands++
}

// guardFailure says what the errors of a guard, and of what it guards, mean; nil for any other.
func (q *pgQuery) guardFailure(server *pgconn.PgError) error {
	switch server.Code {
	case StateMoved:
		return errMoved
	case StateOtherShard:
		return sqlFailure(q.spec.Name, "the write is refused, and nothing was changed: "+server.Message+"; a write changes rows of the shard of its key alone, since no transaction spans servers", server)
	case stateUndefinedFunction, stateUndefinedTable:
		return sqlFailure(q.spec.Name, "a server of the source has no map of shards, or the statement names what is not there: "+server.Message+"; 'millrace install SOURCE' makes the map", server)
	}
	return nil
}
