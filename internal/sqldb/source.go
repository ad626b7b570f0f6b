// Package sqldb runs the statements of tools on SQLite and PostgreSQL: pools, prepared statements, read-only
// guarantees, and rows streamed from the driver into encoded JSON.
//
// It knows nothing of the protocol's methods or of caches: it takes decoded arguments and appends encoded rows. It
// stands at the end of the request path, behind the cache.
package sqldb

import (
	"context"
	"time"

	"millrace/internal/mcp"
)

// Mode says whether a statement may write.
type Mode uint8

// A ReadOnly statement cannot write, whatever it does; a ReadWrite one runs in a transaction of its own.
const (
	ReadOnly Mode = iota
	ReadWrite
)

// Dialect tells how a database writes what not all write alike.
type Dialect uint8

// The databases that there are.
const (
	SQLite Dialect = iota
	PostgreSQL
)

// Source is one database. Its methods are safe for concurrent use. It connects when first needed and by itself again
// after a failure: a database that is down fails the statements that need it and nothing else.
type Source interface {
	// Compile turns a statement's text into a Query. It finds what can be found without a connection: unknown or
	// unused parameters, a second statement, a write in a read-only statement. The error says where in the text.
	Compile(spec Spec) (Query, error)
	// Ping connects if need be and says whether the database answers.
	Ping(ctx context.Context) error
	// Watch calls woke once connected, and each time that something may have been committed: on PostgreSQL when channel is notified, on
	// SQLite when another connection has changed the file. It does so on a connection of its own until ctx ends or that breaks,
	// and gives the error that it ended with.
	Watch(ctx context.Context, channel string, woke func()) error
	// Script runs statements that set something up, all of them or none, as the source's user.
	Script(ctx context.Context, statements []string) error
	// Dialect says how the database writes SQL.
	Dialect() Dialect
	// Sharded tells whether the source is spread over servers: then statements have Spec.Shard, or run on all of them.
	Sharded() bool
	// Widest is the widest scope in which results of its statements may be shared: they depend on the caller where db_settings do.
	Widest() mcp.Scope
	// Stats gives the pool's figures now.
	Stats() []PoolStats
	// Close waits for running statements, then closes every connection.
	Close() error
}

// Spec is one statement as the configuration has it.
type Spec struct {
	Name string // of the tool, for errors and metrics
	Text string // with named parameters, :name
	// Parts are the statements of a ReadOnly Spec, instead of Text, that run side by side and give one object, with a member for each.
	// Snapshot has all of them read what was there at one moment.
	Parts    []Part
	Snapshot bool
	Params   []Param
	Mode     Mode
	MaxRows  int // 0 for no bound
	MaxBytes int // of the encoded rows; 0 for no bound
	Timeout  time.Duration
	// Hints are settings of the planner for this statement, by name; PostgreSQL alone has any.
	Hints map[string]string
	// Batch lets concurrent runs of a ReadOnly statement share statements, on PostgreSQL; nil for not.
	Batch *Batch
	// Once tells that runs of this ReadWrite statement may have Execution.Once.
	Once bool
	// Shard is, on a sharded source, the parameter that says which shard the statement is for; nil for all of them, which only reads may be for.
	Shard *int
	// Own tells that the statement is one of Millrace's own: it runs as the source's user, without its db_settings.
	Own bool

	guarded bool // it runs only in the epoch of Execution.epoch, of a server of a sharded source
}

// Param is a parameter that the statement may name. Order is that of Execution.Args.
type Param struct {
	Name string
	Type string // string, integer, number, boolean, array, object
	// Unused lets the statement do without it.
	Unused bool
}

// Query is a compiled statement.
type Query interface {
	// Run executes the statement once and appends its outcome to dst as one JSON object: `{"rows":[…]}` with
	// `"truncated":true` where a bound ended it, or `{"rows_affected":n}`. dst comes back also on an error. Errors meant
	// for the caller are *mcp.ToolError, with every other detail in their cause.
	Run(ctx context.Context, dst []byte, x *Execution) ([]byte, Outcome, error)
	// Describe gives the statement's columns, connecting if need be; none for a statement that returns no rows.
	Describe(ctx context.Context) ([]Column, error)
}

// Execution is one run of a Query.
type Execution struct {
	Args     []mcp.Value // one for each Spec.Params, in their order
	Deadline time.Time   // zero for the source's query timeout alone
	// Confirm, where set, is asked with the number of rows that a ReadWrite statement affected, before the commit. When
	// it returns false the transaction is rolled back and Outcome.RolledBack is set. It must not block.
	Confirm func(rows int64) bool
	// Caller is whose own writes a read must see, where there are replicas, and whose names are in the source's db_settings; nil for nobody.
	Caller *mcp.Caller
	// Everybody says of a write that others are told of it: they must read it too.
	Everybody bool
	// Primary keeps a read from the replicas: what it finds must be as new as all that anybody was told to be written.
	Primary bool
	// Once, where set, lets a ReadWrite statement happen once.
	Once *Once
	// Progress, where set, is told the number of rows encoded so far, now and then.
	Progress func(rows int64)
	// Notice, where set, is told what the database says beside its rows (RAISE NOTICE).
	Notice func(severity, message string)

	passengers []*passenger // whose rows the statement of a batch gives
	began      time.Time    // of the first attempt, where there may be several; zero for now
	epoch      int64        // of the server, where the statement is guarded, and the shard that a write is for
	shard      int
	after      uint64 // a read on a replica that has not replayed the log up to there gives errBehind
	committed  uint64 // where the log was after the commit, on a source that asks; 0 where that is not known
}

// Outcome says what a run did.
type Outcome struct {
	Rows       int64 // returned
	Affected   int64 // changed
	Truncated  bool
	RolledBack bool
	Removed    bool // the rows that are returned are gone: it was a DELETE
	Repeated   bool // nothing was done: it is the answer of the first run of Execution.Once
	Replica    int  // that the read ran on, from 1; 0 for the primary
}

// Column is one column of a statement's rows.
type Column struct {
	Name string
	// Part has, where the Query has several statements, the columns of the one of that name, which has no Schema then.
	Part []Column
	// Schema is the JSON Schema of its values, encoded; always allows null.
	Schema []byte

	oid uint32 // of its type on PostgreSQL
}

// PoolStats is a pool's figures at one moment.
type PoolStats struct {
	Role                      string // primary, replica1 and so on, reader, writer
	Open, Busy, Idle, Waiting int
	Size, Overflow            int
	WaitCount                 int64
	WaitDuration              time.Duration
	Server                    *ServerStats // of a source with replicas; nil for none
}

// ServerStats says how one of several servers stands.
type ServerStats struct {
	Key     string // where it is in the file: primary, replicas[0]
	Primary bool
	Serves  bool          // it takes what such a server takes
	Lag     time.Duration // of a replica: how far it is behind the primary, at most; less than zero where that is not known
}
