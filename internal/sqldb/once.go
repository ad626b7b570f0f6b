package sqldb

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/mcp"
)

// Once makes a write happen once. The same again, on whatever server of Millrace, gives the first answer and changes nothing. Whether it is the
// same is decided in the transaction of the write: the key is a row that goes in before the statement and gets the answer behind it, so
// that both are there or neither, and another that comes meanwhile waits.
type Once struct {
	Key       [32]byte      // SHA-256 of whose it is, of which tool, and of what the caller gave
	Arguments [32]byte      // of the call
	TTL       time.Duration // how long the answer is kept
}

// onceTable has the keys. InstallOnce makes it, and nothing else does.
const onceTable = "millrace_idempotency"

// onceSQL are the statements around a write, in their order. remember's answer is what recall reads.
type onceSQL struct{ create, claim, look, remember, sweep string }

var onceStatements = map[Dialect]onceSQL{
	PostgreSQL: {
		create: `CREATE TABLE IF NOT EXISTS millrace_idempotency (key text PRIMARY KEY, arguments text NOT NULL, answer text, expires timestamptz NOT NULL)`,
		claim: `INSERT INTO millrace_idempotency AS i (key, arguments, expires) VALUES ($1, $2, now() + make_interval(secs => $3))
			ON CONFLICT (key) DO UPDATE SET arguments = excluded.arguments, expires = excluded.expires, answer = NULL WHERE i.expires <= now()`,
		look:     `SELECT arguments, answer FROM millrace_idempotency WHERE key = $1`,
		remember: `UPDATE millrace_idempotency SET answer = $2 WHERE key = $1`,
		sweep:    `DELETE FROM millrace_idempotency WHERE key IN (SELECT key FROM millrace_idempotency WHERE expires <= now() LIMIT 1000 FOR UPDATE SKIP LOCKED)`, // one that is claimed anew meanwhile stays
	},
	SQLite: {
		// Without a rowid: the write's last_insert_rowid() must not be ours.
		create: `CREATE TABLE IF NOT EXISTS millrace_idempotency (key text PRIMARY KEY, arguments text NOT NULL, answer text, expires integer NOT NULL) WITHOUT ROWID`,
		claim: `INSERT INTO millrace_idempotency AS i (key, arguments, expires) VALUES (?1, ?2, unixepoch() + ?3)
			ON CONFLICT (key) DO UPDATE SET arguments = excluded.arguments, expires = excluded.expires, answer = NULL WHERE i.expires <= unixepoch()`,
		look:     `SELECT arguments, answer FROM millrace_idempotency WHERE key = ?1`,
		remember: `UPDATE millrace_idempotency SET answer = ?2 WHERE key = ?1`,
		sweep:    `DELETE FROM millrace_idempotency WHERE key IN (SELECT key FROM millrace_idempotency WHERE expires <= unixepoch() LIMIT 1000)`,
	},
}

// InstallOnce makes the table of keys in a database, where it is not there; RemoveOnce takes it away, with all that it remembers.
func InstallOnce(ctx context.Context, s Source) error {
	return s.Script(ctx, append(patience(s), onceStatements[s.Dialect()].create,
		`CREATE INDEX IF NOT EXISTS millrace_idempotency_expires ON millrace_idempotency (expires)`))
}

// patience bounds how long writes wait behind a script that waits for a lock.
func patience(s Source) []string {
	if s.Dialect() == PostgreSQL {
		return []string{"SET LOCAL lock_timeout = '5s'"}
	}
	return nil
}

// RemoveOnce: see InstallOnce.
func RemoveOnce(ctx context.Context, s Source) error {
	return s.Script(ctx, append(patience(s), "DROP TABLE IF EXISTS "+onceTable))
}

func (o *Once) key() string       { return hex.EncodeToString(o.Key[:]) }
func (o *Once) arguments() string { return hex.EncodeToString(o.Arguments[:]) }

// seconds is the TTL, rounded up: SQLite knows no shorter ones.
func (o *Once) seconds() int64 { return int64((o.TTL + time.Second - 1) / time.Second) }

// outcomeText is Outcome as it is remembered.
type outcomeText struct {
	Rows      int64 `json:"rows"`
	Affected  int64 `json:"affected"`
	Truncated bool  `json:"truncated,omitempty"`
}

// answerOf is what is remembered of a run: its outcome, and on the next line what it returned.
func answerOf(o Outcome, returned []byte) ([]byte, error) {
	head, err := json.Marshal(outcomeText{o.Rows, o.Affected, o.Truncated})
	if err != nil {
		return nil, err
	}
	return append(append(head, '\n'), returned...), nil
}

// recall judges what look has found under a key, and appends the first answer to dst: claimed tells that there is none, and the row is this
// call's now.
func (o *Once) recall(name string, dst []byte, arguments string, answer []byte) (out []byte, outcome Outcome, claimed bool, err error) {
	if answer == nil {
		return dst, outcome, true, nil
	}
	if arguments != o.arguments() {
		return dst, outcome, false, &mcp.ToolError{Kind: kindConflict,
			Message: name + ": the idempotency key was used before with other arguments; nothing was changed; use a new key for another call"}
	}
	head, body, _ := bytes.Cut(answer, []byte{'\n'})
	var text outcomeText
	if err := json.Unmarshal(head, &text); err != nil {
		return dst, outcome, false, fmt.Errorf("%s: what %s holds is not readable: %w", name, onceTable, err)
	}
	return append(dst, body...), Outcome{Rows: text.Rows, Affected: text.Affected, Truncated: text.Truncated, Repeated: true}, false, nil
}

// turns lets calls of one key wait for each other here: in the database each would wait with a connection, and the place of another write.
type turns struct {
	mu sync.Mutex // guards by
	by map[[32]byte]*turn
}

type turn struct {
	free chan struct{} // holds something while nobody has the turn
	want int           // who has it or waits for it
}

// take waits for the turn of a key, but no longer than until deadline. The caller must call done.
func (t *turns) take(ctx context.Context, deadline time.Time, key [32]byte) (done func(), err error) {
	t.mu.Lock()
	own := t.by[key]
	if own == nil {
		if t.by == nil {
			t.by = map[[32]byte]*turn{}
		}
		own = &turn{free: make(chan struct{}, 1)}
		own.free <- struct{}{}
		t.by[key] = own
	}
	own.want++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.want--; own.want == 0 {
			delete(t.by, key)
		}
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	select {
	case <-own.free:
		return func() { own.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// errExpired says that a key expired, and was removed, while it was looked at.
var errExpired = errors.New("the key has expired")

func errSwept(name string) error {
	return &mcp.ToolError{Kind: kindOverloaded, Cause: errExpired, Meta: []byte(`"millrace/retryAfterMs":100`), Message: name + ": the idempotency key has just expired; nothing was changed; try again"}
}

// errNotInstalled says that the table is not there.
func errNotInstalled(name, source string, cause error) error {
	return sqlFailure(name, fmt.Sprintf("source %q has no table of idempotency keys; run 'millrace install %s --config FILE'", source, source), cause)
}

// sweepEvery is how often a process that writes removes the keys that have expired.
const sweepEvery = time.Minute

// sweeper removes keys that have expired.
type sweeper struct {
	last   atomic.Int64 // when it began last, in nanoseconds since 1970
	busy   atomic.Bool
	failed atomic.Bool // the last time: told once
}

// sweep removes them, now and then, behind a write of s.
func (w *sweeper) sweep(s Source, name string, log *slog.Logger) {
	now := time.Now().UnixNano()
	if was := w.last.Load(); now-was < int64(sweepEvery) || !w.last.CompareAndSwap(was, now) || !w.busy.CompareAndSwap(false, true) {
		return
	}
	go func() { // ends by its deadline; its source waits for it when it is closed
		defer w.busy.Store(false)
		q, err := s.Compile(Spec{Name: onceTable, Text: onceStatements[s.Dialect()].sweep, Mode: ReadWrite, Own: true})
		for more := int64(1000); err == nil && more == 1000; { // what fails now is done in the next round
			var outcome Outcome
			_, outcome, err = q.Run(context.Background(), nil, &Execution{Deadline: time.Now().Add(5 * time.Second)})
			more = outcome.Affected
		}
		if failed := err != nil; w.failed.Swap(failed) != failed && failed {
			log.Warn("idempotency keys that have expired cannot be removed; may the source's user delete from "+onceTable+"?", "source", name, "error", err)
		}
	}()
}
