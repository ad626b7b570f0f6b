package sqldb

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"
)

// maxValue bounds one value or row of SQLite: what the engine would otherwise build in memory, up to a gigabyte, before
// a result's own bounds can cut it.
const maxValue = 64 << 20

// keepBound is the size of a bound text above which it is not kept in the statement after the run.
const keepBound = 64 << 10

// The page cache of a connection. The first ones of the readers, which carry the load, have hotCache: it saves a system
// call or two for each look-up (0.9 µs of 6.7 on a table of 130,000 rows). All of them with that much would be 480 MiB.
const (
	hotCache  = 8 << 20
	coldCache = 1 << 20
)

// openWait is how long opening a connection waits for locks of other processes.
const openWait = time.Second

// sqliteConn is one connection with its prepared statements. It belongs to whoever got it from the pool.
type sqliteConn struct {
	place

	conn  *sqlite.Conn
	mode  Mode
	stmts []*sqliteStmt // by sqliteQuery.number; nil where not prepared yet

	begin, commit, rollback *sqlite.Stmt // of the writer

	once sqliteOnce // nil where not prepared yet

	// own tells the authorizer that the statement is ours and not a tool's.
	own bool
	// reprepared is set by the authorizer: the engine prepared a statement anew because the schema had changed.
	reprepared bool
	scratch    []byte

	// interrupt stops what runs when it is closed. The wrapper needs a goroutine for each channel, so one channel serves
	// until it has been used.
	interrupt chan struct{}
}

// sqliteStmt is a prepared statement and its columns.
type sqliteStmt struct {
	stmt *sqlite.Stmt
	cols []sqliteColumn
}

// oneAtATime is held while a connection is opened and while one is closed. The driver keeps authorizers and busy handlers
// by the engine's address of the connection, and forgets a closed connection's once that address may be another's already:
// that one would then have no authorizer, which ends the process when it next prepares a statement.
var oneAtATime sync.Mutex

// openSQLite opens a connection to a file that exists.
func openSQLite(path string, mode Mode, cache int) (*sqliteConn, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open %s: %w; create the database or correct sqlite.path", path, errors.Unwrap(err))
	} else if info.IsDir() {
		return nil, fmt.Errorf("open %s: is a directory; give the path of the database file in sqlite.path", path)
	}
	oneAtATime.Lock()
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	oneAtATime.Unlock()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	c := &sqliteConn{conn: conn, mode: mode}
	c.own = true
	err = c.setUp(cache)
	c.own = false
	if err != nil {
		c.close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return c, nil
}

// setUp makes a new connection ready: what it may do, how it waits, how it is stopped.
func (c *sqliteConn) setUp(cache int) (err error) {
	conn := c.conn
	conn.SetBusyTimeout(openWait)
	conn.Limit(sqlite.LimitLength, maxValue)
	// The driver's SetDefensive is not for use (v1.4.2): it passes one argument where the engine takes two, and the engine
	// then writes to wherever what stood in that memory before points. authorize refuses the pragmas it is against.
	// Readers do not block the writer in WAL. A file that cannot be changed, or is locked now, is read as it is.
	if journal, err := c.pragma("journal_mode"); err != nil {
		return err
	} else if journal != "wal" {
		_, _ = c.pragma("journal_mode=wal")
	}
	pragmas := []string{"trusted_schema=0", "synchronous=full", "cache_size=-" + strconv.Itoa(cache>>10)}
	if c.mode == ReadOnly {
		pragmas = append(pragmas, "query_only=1")
	}
	for _, pragma := range pragmas {
		if _, err := c.pragma(pragma); err != nil {
			return err
		}
	}
	if c.mode == ReadWrite {
		for text, stmt := range map[string]**sqlite.Stmt{
			"BEGIN IMMEDIATE": &c.begin, "COMMIT": &c.commit, "ROLLBACK": &c.rollback,
		} {
			if *stmt, err = conn.Prepare(text); err != nil {
				return err
			}
		}
	}
	if err := conn.SetAuthorizer(sqlite.AuthorizeFunc(c.authorize)); err != nil {
		return err
	}
	// Waiting for another process's lock ends with the interrupt, not with a time-out of its own.
	conn.SetBlockOnBusy()
	c.interrupt = make(chan struct{})
	conn.SetInterrupt(c.interrupt)
	return nil
}

// pragma runs one PRAGMA and gives the first value of its answer.
func (c *sqliteConn) pragma(text string) (string, error) {
	stmt, _, err := c.conn.PrepareTransient("PRAGMA " + text)
	if err != nil {
		return "", err
	}
	defer stmt.Finalize()
	row, err := stmt.Step()
	if err != nil || !row {
		return "", err
	}
	return stmt.ColumnText(0), nil
}

// transact runs BEGIN or ROLLBACK on a reader, which has neither prepared.
func (c *sqliteConn) transact(text string) error {
	c.own = true
	defer func() { c.own = false }()
	stmt, _, err := c.conn.PrepareTransient(text)
	if err != nil {
		return err
	}
	defer stmt.Finalize()
	_, err = stmt.Step()
	return err
}

// stop implements pooled.
func (c *sqliteConn) stop() { close(c.interrupt) }

// late implements pooled.
func (c *sqliteConn) late() {}

// renew implements pooled. Changing the channel waits for the goroutine of the old one.
func (c *sqliteConn) renew() {
	c.interrupt = make(chan struct{})
	c.conn.SetInterrupt(c.interrupt)
}

func (c *sqliteConn) close() {
	oneAtATime.Lock()
	defer oneAtATime.Unlock()
	_ = c.conn.Close()
}

// authorize is asked by the engine about everything that a statement is going to do, while it is prepared. Together with
// query_only (which holds at run time) it makes a reader that cannot write; either alone would.
func (c *sqliteConn) authorize(a sqlite.Action) sqlite.AuthResult {
	if c.own {
		return sqlite.AuthResultOK
	}
	c.reprepared = true
	allowed := false
	switch a.Type() {
	case sqlite.OpSelect, sqlite.OpRead, sqlite.OpRecursive, sqlite.OpFunction:
		// The engine itself refuses load_extension unless a program turns it on.
		allowed = true
	case sqlite.OpPragma:
		// As a table-valued function, pragma_table_info('cities') say, or in a statement that parse let through.
		takes, known := readPragmas[strings.ToLower(a.Pragma())]
		allowed = known && (takes || a.PragmaArg() == "")
	case sqlite.OpAttach, sqlite.OpDetach, sqlite.OpTransaction, sqlite.OpSavepoint:
	default:
		allowed = c.mode == ReadWrite
	}
	if allowed {
		return sqlite.AuthResultOK
	}
	return sqlite.AuthResultDeny
}

// stmt gives the query's prepared statement, preparing it on its first use here.
func (c *sqliteConn) stmt(q *sqliteQuery) (*sqliteStmt, error) {
	if q.number < len(c.stmts) {
		if st := c.stmts[q.number]; st != nil {
			return st, nil
		}
	}
	stmt, err := c.conn.Prepare(q.statement.sql)
	if err != nil {
		return nil, err
	}
	cols, err := sqliteColumns(stmt)
	if err != nil {
		_ = stmt.Finalize()
		return nil, err
	}
	if n := q.number + 1 - len(c.stmts); n > 0 {
		c.stmts = slices.Grow(c.stmts, n)[:q.number+1]
	}
	st := &sqliteStmt{stmt, cols}
	c.stmts[q.number] = st
	c.reprepared = false
	return st, nil
}

// step takes one step. The engine prepares a statement by itself anew when the schema has changed, which only shows in
// that it asks the authorizer again; the columns are then read again.
func (c *sqliteConn) step(st *sqliteStmt) (bool, error) {
	row, err := st.stmt.Step()
	if c.reprepared && err == nil {
		c.reprepared = false
		cols, err := sqliteColumns(st.stmt)
		if err != nil {
			c.reprepared = true // the next run is to be told the same
			_ = st.stmt.Reset()
			return false, err
		}
		st.cols = cols
	}
	return row, err
}
