package shards

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/sqldb"
)

const (
	// pageChanges is how many changes are taken over at a time; fewChanges are few enough to stop writers for the rest of them, and after
	// mostRounds they are stopped for however many there are.
	pageChanges = 1000
	fewChanges  = 50
	mostRounds  = 100
	// lockPatience is how long writes of a shard may wait behind a move that waits for those before them; after lockTries it is given up.
	lockPatience = "2s"
	lockTries    = 10
	// replicaPatience is for how long a move waits for the replicas to know that the shards have left.
	replicaPatience = 5 * time.Second
)

// The SQLSTATEs after which a switch is tried again.
const (
	deadlock         = "40P01"
	lockNotAvailable = "55P03"
)

// Moved says what one move did.
type Moved struct {
	From, To string
	Shards   []int
	Rows     int64
	Changes  int64         // that were made while the rows were copied
	Paused   time.Duration // for how long writes of those shards waited at the switch at most, those behind the lock that it waited for included
	Lagging  bool          // a replica did not say in time that it knows
}

// staging is the table that a move fills.
func staging(table string) string { return quote(short("millrace_arriving_", table)) }

// Move takes shards to a server, from wherever they are, those of one server at a time. What a move that was interrupted has left is brought to
// an end first. step, where set, is called before each step with its name, and ends the move where it gives an error: it is for tests.
func (s *Servers) Move(ctx context.Context, shards []int, to string, step func(string) error) (done []Moved, err error) {
	b, err := s.named(to)
	if err != nil {
		return nil, err
	}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	if err := s.reserve(ctx); err != nil {
		return nil, err
	}
	for _, o := range s.all {
		if err := o.guarded(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.recover(ctx); err != nil {
		return nil, err
	}
	st, err := s.settled(ctx)
	if err != nil {
		return nil, err
	}
	from := map[string][]int{}
	for _, shard := range shards {
		owner, err := st.owner(shard)
		if err != nil {
			return nil, err
		}
		if owner == "" {
			return nil, fmt.Errorf("shard %d is on no server", shard)
		}
		if owner != to {
			from[owner] = append(from[owner], shard)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		a, err := s.named(name)
		if err != nil {
			return done, err
		}
		m := &move{Moved: Moved{From: name, To: to, Shards: from[name]}, a: a, b: b, step: step}
		if err := m.run(ctx); err != nil {
			return done, fmt.Errorf("from %s to %s: %w", name, to, err)
		}
		done = append(done, m.Moved)
	}
	return done, nil
}

// reserve keeps others from moving shards until the connections end.
func (s *Servers) reserve(ctx context.Context) error {
	for _, o := range s.all {
		if err := o.reserve(ctx); err != nil {
			return fmt.Errorf("server %s: %w", o.name, err)
		}
	}
	return nil
}

func (o *server) reserve(ctx context.Context) error {
	r := query(ctx, o.conn, "SELECT pg_try_advisory_lock($1, $2)", strconv.Itoa(lockClass+1), strconv.Itoa(moveLock))
	if r.err != nil {
		return r.err
	}
	if r.rows[0][0] != "t" {
		return errReserved
	}
	o.reserved = true
	return nil
}

// sessionPatience is for how long a server may take to see that a connection of ours has ended.
const sessionPatience = 10 * time.Second

// reserveAgain is for a new connection in the place of one that broke, whose session may not have ended there yet.
func (o *server) reserveAgain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sessionPatience)
	defer cancel()
	for {
		err := o.reserve(ctx)
		if !errors.Is(err, errReserved) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// errReserved is of a server where somebody else moves shards.
var errReserved = errors.New("another move is under way")

// move takes shards from a to b.
type move struct {
	Moved
	a, b    *server
	step    func(string) error
	locking time.Time // when lock began to keep writers waiting
}

func (m *move) at(name string) error {
	if m.step == nil {
		return nil
	}
	return m.step(name)
}

func (m *move) run(ctx context.Context) (err error) {
	left := false // a has given them up
	defer func() {
		if err == nil || left {
			return
		}
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if failed := errors.Join(m.a.stay(undo, m.Shards), m.b.drop(undo, m.Shards)); failed != nil {
			err = fmt.Errorf("%w; the shards are where they were, and what was copied is removed by the next move (%v)", err, failed)
		}
	}()
	if err := m.prepare(ctx); err != nil {
		return err
	}
	if err := m.copyAll(ctx); err != nil {
		return err
	}
	for range mostRounds {
		n, err := m.catchUp(ctx)
		if err != nil {
			return err
		}
		if n < fewChanges {
			break
		}
	}
	if err := m.at("switch"); err != nil {
		return err
	}
	if !m.b.replicasKnow(ctx) { // the last changes are few, and writers are to wait for those alone
		return errReplicas(m.b)
	}
	for try := 1; ; try++ {
		left, err = m.change(ctx)
		var server *pgconn.PgError
		if !errors.As(err, &server) || server.Code != deadlock && server.Code != lockNotAvailable || left || try == lockTries { // others lock rows first, and then the shard
			return err
		}
	}
}

func errReplicas(o *server) error {
	return fmt.Errorf("the replicas of %s do not show within %s that they have the rows, and one that took its place would not have them: see that they follow, and that the user may see it (GRANT pg_read_all_stats)", o.name, replicaPatience)
}

// prepare makes room on b, and has a write down what changes from now on.
func (m *move) prepare(ctx context.Context) error {
	statements := []string{fmt.Sprintf("INSERT INTO %s (shard, state) SELECT n, 'arriving' FROM unnest(%s) n", sqldb.ShardTable, list(m.Shards))}
	for _, t := range m.b.tables {
		var primary []string
		for _, i := range t.primary {
			primary = append(primary, t.columns[i])
		}
		statements = append(statements, "DROP TABLE IF EXISTS "+staging(t.plain), "CREATE TABLE "+staging(t.plain)+" AS SELECT "+strings.Join(t.columns, ", ")+" FROM "+t.name+" WHERE false",
			"ALTER TABLE "+staging(t.plain)+" ADD PRIMARY KEY ("+strings.Join(primary, ", ")+")")
	}
	if err := m.b.tx(ctx, statements...); err != nil {
		return err
	}
	if err := m.at("leaving"); err != nil {
		return err
	}
	if err := m.lock(ctx); err != nil { // what had begun before has ended then, and is in the copy
		return err
	}
	if err := m.a.turn(ctx, m.Shards, "UPDATE "+sqldb.ShardTable+" SET state = 'leaving' WHERE state = 'here' AND"); err != nil {
		return err
	}
	return m.a.exec(ctx, "DELETE FROM millrace_shard_changes WHERE shard = ANY ("+list(m.Shards)+")", "COMMIT")
}

// lock begins a transaction on a in which nobody else writes the shards. It does not wait for long: those who come later wait behind it.
func (m *move) lock(ctx context.Context) error {
	slices.Sort(m.Shards)
	for try := 1; ; try++ {
		m.locking = time.Now()
		err := m.a.exec(ctx, "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE", "SET LOCAL statement_timeout = '"+lockPatience+"'",
			fmt.Sprintf("SELECT pg_advisory_xact_lock(%d, n) FROM unnest(%s) n", lockClass, list(m.Shards)), "SET LOCAL statement_timeout = 0")
		if err == nil {
			return nil
		}
		if m.a.conn.IsClosed() {
			return err
		}
		_ = m.a.exec(context.WithoutCancel(ctx), "ROLLBACK")
		if try == lockTries || ctx.Err() != nil {
			return fmt.Errorf("transactions that write the shards do not end: %w", err)
		}
		select { // let those through that have waited
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// copyAll copies the rows as they are at one moment.
func (m *move) copyAll(ctx context.Context) error {
	if err := m.a.exec(ctx, "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return err
	}
	for i, t := range m.a.tables {
		if err := m.at("copy " + t.plain); err != nil {
			_ = m.a.exec(ctx, "ROLLBACK")
			return err
		}
		n, err := m.copyRows(ctx, i, t.of(m.Shards))
		if err != nil {
			_ = m.a.exec(context.WithoutCancel(ctx), "ROLLBACK")
			return fmt.Errorf("table %s: %w", t.plain, err)
		}
		m.Rows += n
	}
	return m.a.exec(ctx, "COMMIT")
}

// copyRows copies the rows of table i that fit a condition into what b has for them.
func (m *move) copyRows(ctx context.Context, i int, condition string) (int64, error) {
	t := m.a.tables[i]
	columns := strings.Join(t.columns, ", ")
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() { // ends with the pipe, which CopyFrom reads to its end or closes below
		_, err := m.a.conn.CopyTo(ctx, w, "COPY (SELECT "+columns+" FROM "+t.name+" WHERE "+condition+") TO STDOUT")
		_ = w.CloseWithError(err)
		sent <- err
	}()
	tag, err := m.b.conn.CopyFrom(ctx, r, "COPY "+staging(t.plain)+" ("+columns+") FROM STDIN")
	_ = r.CloseWithError(errors.New("the other server takes no more"))
	return tag.RowsAffected(), errors.Join(<-sent, err)
}

// catchUp takes over changes that were written down, a page of them, and tells how many there were.
func (m *move) catchUp(ctx context.Context) (int, error) {
	r := query(ctx, m.a.conn, "SELECT id, tab, pk::text FROM millrace_shard_changes WHERE shard = ANY ("+list(m.Shards)+") ORDER BY id LIMIT "+strconv.Itoa(pageChanges))
	if r.err != nil || len(r.rows) == 0 {
		return 0, r.err
	}
	var ids []string
	changed := map[string][]string{}
	for _, row := range r.rows {
		ids = append(ids, row[0])
		if !slices.Contains(changed[row[1]], row[2]) {
			changed[row[1]] = append(changed[row[1]], row[2])
		}
	}
	for i, t := range m.a.tables {
		if keys := changed[t.plain]; len(keys) > 0 {
			if err := m.replace(ctx, i, keys); err != nil {
				return 0, fmt.Errorf("table %s: %w", t.plain, err)
			}
		}
	}
	m.Changes += int64(len(ids))
	// Behind what was done with them: what is interrupted in between is done once more.
	return len(ids), query(ctx, m.a.conn, "DELETE FROM millrace_shard_changes WHERE id = ANY ($1::bigint[])", "{"+strings.Join(ids, ",")+"}").err
}

// replace has b have, of rows of table i by their primary keys, what a has now.
func (m *move) replace(ctx context.Context, i int, keys []string) error {
	t := m.a.tables[i]
	var columns, values []string
	for n, c := range t.primary {
		columns = append(columns, t.columns[c])
		values = append(values, fmt.Sprintf("(k.pk::text[])[%d]::%s", n+1, t.types[c]))
	}
	which := "(" + strings.Join(columns, ", ") + ") IN (SELECT " + strings.Join(values, ", ") + " FROM unnest(" + literal(arrayLiteral(keys)) + "::text[]) k(pk))"
	if err := m.b.exec(ctx, "BEGIN", "DELETE FROM "+staging(t.plain)+" WHERE "+which); err != nil {
		return err
	}
	if _, err := m.copyRows(ctx, i, which+" AND "+t.of(m.Shards)); err != nil {
		_ = m.b.exec(context.WithoutCancel(ctx), "ROLLBACK")
		return err
	}
	return m.b.exec(ctx, "COMMIT")
}

// change is the moment of a move. Writes of the shards wait while the last changes are taken over, b takes the rows in, and a gives them up;
// then a's transaction ends before b's does, so that no shard is ever on both. left tells that a's has: from then on there is no way back.
func (m *move) change(ctx context.Context) (left bool, err error) {
	defer func() {
		for _, o := range []*server{m.a, m.b} {
			if !o.conn.IsClosed() && o.conn.TxStatus() != 'I' {
				_ = o.exec(context.WithoutCancel(ctx), "ROLLBACK")
			}
		}
	}()
	if err := m.lock(ctx); err != nil {
		return false, err
	}
	defer func() { m.Paused = max(m.Paused, time.Since(m.locking)) }() // the one before the rollback, if it comes to that
	for n := 1; n > 0; {
		if n, err = m.catchUp(ctx); err != nil {
			return false, err
		}
	}
	if err := m.at("arrived"); err != nil {
		return false, err
	}
	if err := m.b.turn(ctx, m.Shards, "UPDATE "+sqldb.ShardTable+" SET state = 'arrived' WHERE state IN ('arriving', 'arrived') AND"); err != nil {
		return false, err
	}
	if !m.b.replicasKnow(ctx) {
		return false, errReplicas(m.b)
	}
	come, err := m.b.takeIn(ctx, m.Shards)
	if err != nil {
		return false, err
	}
	gone, err := m.a.giveUp(ctx, m.Shards)
	if err != nil {
		return false, err
	}
	if !slices.Equal(come, gone) {
		return false, fmt.Errorf("%v rows of the tables would be on %s, and %v rows be gone from %s: does a trigger, a rule or a policy keep some back?", come, m.b.name, gone, m.a.name)
	}
	if err := m.at("leave"); err != nil {
		return false, err
	}
	for _, o := range []*server{m.a, m.b} {
		if o.conn.IsClosed() || o.conn.TxStatus() != 'T' {
			return false, fmt.Errorf("server %s: the connection broke", o.name)
		}
	}
	// From here on nothing stops it halfway.
	ctx = context.WithoutCancel(ctx)
	if err := m.a.exec(ctx, "COMMIT"); err != nil {
		return true, fmt.Errorf("whether %s has given the shards up is unknown, run the move again: %w", m.a.name, err)
	}
	m.Lagging = !m.a.replicasKnow(ctx)
	if err := m.at("here"); err != nil {
		return true, err
	}
	if err := m.b.exec(ctx, "COMMIT"); err != nil {
		return true, fmt.Errorf("the shards have left %s and are not served on %s yet, run the move again: %w", m.a.name, m.b.name, err)
	}
	m.Paused = max(m.Paused, time.Since(m.locking))
	m.locking = time.Now() // nobody waits for what is left
	return true, m.b.forget(ctx)
}

// quietly begins a transaction, if none is open, whose changes are a move's: the rows are what they were. The tables stay as they were when the
// move began, or it ends here.
func (o *server) quietly(ctx context.Context) error {
	var statements []string
	if o.conn.TxStatus() == 'I' {
		statements = append(statements, "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE")
	}
	statements = append(statements, "SELECT set_config('millrace.moving', 'yes', true)", "SET LOCAL lock_timeout = '"+lockPatience+"'")
	if o.role {
		statements = append(statements, "SET LOCAL session_replication_role = replica")
	}
	for _, t := range o.tables {
		statements = append(statements, "LOCK TABLE "+t.name+" IN ACCESS SHARE MODE")
	}
	if err := o.exec(ctx, statements...); err != nil { // what follows waits no longer for rows either
		return err
	}
	if err := o.guarded(ctx); err != nil {
		return err
	}
	for i, t := range o.tables {
		now, err := o.table(ctx, o.spread[i], o.keyType)
		if err != nil {
			return err
		}
		if !now.like(t) {
			return fmt.Errorf("table %s has been changed on %s since the move began: begin it again", t.plain, o.name)
		}
	}
	return nil
}

// takeIn has shards that have arrived be here, in a transaction that stays open. It gives the number of rows by table.
func (o *server) takeIn(ctx context.Context, shards []int) (rows []int64, err error) {
	if err := o.quietly(ctx); err != nil {
		return nil, err
	}
	for _, t := range o.tables {
		columns := strings.Join(t.columns, ", ")
		r := query(ctx, o.conn, "INSERT INTO "+t.name+" ("+columns+") OVERRIDING SYSTEM VALUE SELECT "+columns+" FROM "+staging(t.plain))
		if r.err != nil {
			return nil, fmt.Errorf("server %s: table %s: %w", o.name, t.plain, r.err)
		}
		rows = append(rows, r.affected)
	}
	if err := o.turn(ctx, shards, "UPDATE "+sqldb.ShardTable+" SET state = 'here' WHERE state = 'arrived' AND"); err != nil {
		return nil, err
	}
	return rows, o.exec(ctx, raise, "SET CONSTRAINTS ALL IMMEDIATE")
}

// giveUp is the same for shards that leave, in the transaction that is open.
func (o *server) giveUp(ctx context.Context, shards []int) (rows []int64, err error) {
	if err := o.quietly(ctx); err != nil {
		return nil, err
	}
	rows = make([]int64, len(o.tables))
	for i, t := range slices.Backward(o.tables) {
		r := query(ctx, o.conn, "DELETE FROM "+t.name+" WHERE "+t.of(shards))
		if r.err != nil {
			return nil, fmt.Errorf("server %s: table %s: %w", o.name, t.plain, r.err)
		}
		rows[i] = r.affected
		if r = query(ctx, o.conn, "SELECT EXISTS (SELECT FROM "+t.name+" WHERE "+t.of(shards)+")"); r.err != nil {
			return nil, fmt.Errorf("server %s: table %s: %w", o.name, t.plain, r.err)
		} else if r.rows[0][0] == "t" {
			return nil, fmt.Errorf("server %s: table %s keeps rows that are deleted: does a trigger or a rule do that?", o.name, t.plain)
		}
	}
	if err := o.turn(ctx, shards, "DELETE FROM "+sqldb.ShardTable+" WHERE state = 'leaving' AND"); err != nil {
		return nil, err
	}
	return rows, o.exec(ctx, "DELETE FROM millrace_shard_changes WHERE shard = ANY ("+list(shards)+")", raise,
		"SET CONSTRAINTS ALL IMMEDIATE")
}

// turn changes the map, where it is as it was left.
func (o *server) turn(ctx context.Context, shards []int, statement string) error {
	r := query(ctx, o.conn, statement+" shard = ANY ("+list(shards)+")")
	if r.err == nil && r.affected != int64(len(shards)) {
		r.err = errors.New("somebody else has changed the map of shards meanwhile")
	}
	if r.err != nil {
		return fmt.Errorf("server %s: %w", o.name, r.err)
	}
	return nil
}

// replicasKnow waits until as many that follow as the file names have what was committed by now: one that is promoted must know what has come and
// what has gone.
func (o *server) replicasKnow(ctx context.Context) bool {
	if o.others == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, replicaPatience)
	defer cancel()
	r := query(ctx, o.conn, "SELECT pg_current_wal_flush_lsn()") // what was committed has been flushed
	for r.err == nil {
		// Where the user may not see how far they are that is NULL, and as good as far behind.
		know := query(ctx, o.conn, `SELECT count(*) >= $2 FROM pg_stat_replication r WHERE replay_lsn >= $1::pg_lsn
			AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')`, r.rows[0][0], strconv.Itoa(o.others))
		if know.err == nil && know.rows[0][0] == "t" {
			return true
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// stay ends a move from here that was not finished.
func (o *server) stay(ctx context.Context, shards []int) error {
	return o.tx(ctx, "UPDATE "+sqldb.ShardTable+" SET state = 'here' WHERE state = 'leaving' AND shard = ANY ("+list(shards)+")",
		"DELETE FROM millrace_shard_changes WHERE shard = ANY ("+list(shards)+")")
}

// drop ends a move to here that was not finished.
func (o *server) drop(ctx context.Context, shards []int) error {
	if err := o.tx(ctx, "DELETE FROM "+sqldb.ShardTable+" WHERE state IN ('arriving', 'arrived') AND shard = ANY ("+list(shards)+")"); err != nil {
		return err
	}
	return o.forget(ctx)
}

// forget removes what a move has copied.
func (o *server) forget(ctx context.Context) error {
	var statements []string
	for _, t := range o.tables {
		statements = append(statements, "DROP TABLE IF EXISTS "+staging(t.plain))
	}
	return o.tx(ctx, statements...)
}

// recover brings to an end what a move has left that was interrupted: shards that have left where they were, and arrived, are here; all others
// stay where they were.
func (s *Servers) recover(ctx context.Context) error {
	st, err := s.status(ctx)
	if err != nil {
		return err
	}
	for _, o := range s.all {
		var come, unfinished, stay []int
		for _, shard := range slices.Sorted(maps.Keys(st[o.name])) {
			owner, err := st.owner(shard)
			switch state := st[o.name][shard]; {
			case err != nil:
				return err
			case state == leaving:
				stay = append(stay, shard)
			case state == arrived && owner == "":
				come = append(come, shard)
			case state == arriving && owner == "":
				return fmt.Errorf("shard %d is on no server, and not all of it is on %s", shard, o.name)
			case state != here:
				unfinished = append(unfinished, shard)
			}
		}
		if len(come) > 0 {
			_, err := o.takeIn(ctx, come)
			if err == nil {
				err = o.exec(ctx, "COMMIT")
			}
			if err != nil {
				return fmt.Errorf("shards %s have left where they were: %w", ranges(come), err)
			}
			if err := o.forget(ctx); err != nil {
				return err
			}
		}
		if len(stay) > 0 {
			if err := o.stay(ctx, stay); err != nil {
				return err
			}
		}
		if len(unfinished) > 0 {
			if err := o.drop(ctx, unfinished); err != nil {
				return err
			}
		}
	}
	return nil
}
