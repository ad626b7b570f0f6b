package advise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// copied is a copy of a SQLite file that indexes are built on, with two that have no rows: one tells which index the planner would take, the
// other what the planner is asked for.
type copied struct {
	full, empty, spy *sqlite.Conn
	seen             map[string]*access // by table: what the spy was asked for
	tables           map[string]*table
	samples          map[string][]any // by table and column
	done             <-chan struct{}  // of the context: what runs on the copy ends with it
	stop             func()
}

// newCopy copies a file. What it holds of others' writes is as they had it at one moment.
func newCopy(ctx context.Context, path string) (made *copied, err error) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("millrace-advise-%d-", os.Getpid()))
	if err != nil {
		return nil, err
	}
	c := &copied{seen: map[string]*access{}, tables: map[string]*table{}, samples: map[string][]any{}, done: ctx.Done()}
	c.stop = func() {
		for _, conn := range []*sqlite.Conn{c.full, c.empty, c.spy} {
			if conn != nil {
				_ = conn.Close()
			}
		}
		_ = os.RemoveAll(dir)
	}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	original, err := sqlite.OpenConn(path, sqlite.OpenReadOnly) // so that it does not tidy up after a server that was killed, either
	if err != nil {
		return nil, err
	}
	original.SetInterrupt(ctx.Done())
	file := filepath.Join(dir, "copy.db")
	err = sqlitex.Execute(original, "VACUUM INTO ?", &sqlitex.ExecOptions{Args: []any{file}})
	if err = errors.Join(err, original.Close()); err != nil {
		return nil, fmt.Errorf("copy the file: %w", err)
	}
	if c.full, err = sqlite.OpenConn(file, sqlite.OpenReadWrite); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir); err != nil { // the file lives while it is open, and no longer, however this process ends
		return nil, err
	}
	for _, pragma := range []string{"PRAGMA trusted_schema=0", "PRAGMA synchronous=off", "PRAGMA journal_mode=memory", "PRAGMA cache_size=-65536"} {
		if err := sqlitex.ExecuteTransient(c.full, pragma, nil); err != nil {
			return nil, err
		}
	}
	if c.empty, err = sqlite.OpenConn(":memory:"); err != nil {
		return nil, err
	}
	if c.spy, err = sqlite.OpenConn(":memory:"); err != nil {
		return nil, err
	}
	c.full.SetInterrupt(c.done)
	return c, c.learn()
}

// texts gives a query's rows.
func texts(conn *sqlite.Conn, query string, args ...any) (rows [][]string, err error) {
	err = sqlitex.ExecuteTransient(conn, query, &sqlitex.ExecOptions{Args: args, ResultFunc: func(st *sqlite.Stmt) error {
		row := make([]string, st.ColumnCount())
		for i := range row {
			row[i] = st.ColumnText(i)
		}
		rows = append(rows, row)
		return nil
	}})
	return rows, err
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// learn makes the tables of the copy in the databases without rows.
func (c *copied) learn() error {
	if err := c.spy.SetModule("millrace_spy", &sqlite.Module{Connect: c.connect, UseConnectAsCreate: true}); err != nil {
		return err
	}
	objects, err := texts(c.full, "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND sql NOT LIKE 'CREATE VIRTUAL%' AND type IN ('table', 'index', 'view') ORDER BY type = 'view', type = 'index', rowid")
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := sqlitex.ExecuteTransient(c.empty, o[2], nil); err != nil {
			return fmt.Errorf("%s %s: %w", o[0], o[1], err)
		}
		switch o[0] {
		case "view":
			if err := sqlitex.ExecuteTransient(c.spy, o[2], nil); err != nil {
				return fmt.Errorf("view %s: %w", o[1], err)
			}
		case "table":
			t := &table{name: quote(o[1]), own: o[1], types: map[string]string{}, spread: map[string]float64{}}
			n, err := texts(c.full, "SELECT count(*), (SELECT count(*) FROM pragma_index_list(?)) FROM "+t.name, o[1])
			if err != nil {
				return err
			}
			t.rows, _ = strconv.ParseFloat(n[0][0], 64)
			t.indexes, _ = strconv.Atoi(n[0][1])
			list, err := texts(c.full, `SELECT name FROM pragma_index_list(?) WHERE NOT partial`, o[1])
			if err != nil {
				return err
			}
			for _, index := range list {
				keys, err := texts(c.full, "SELECT name, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno", index[0])
				if err != nil {
					return err
				}
				var columns []string // an expression has no name, and is none of a candidate's
				for _, key := range keys {
					column := quote(key[0])
					if key[1] == "NOCASE" {
						column += nocase
					}
					columns = append(columns, column)
				}
				t.have = append(t.have, columns)
			}
			c.tables[o[1]] = t
			if err := sqlitex.ExecuteTransient(c.spy, "CREATE VIRTUAL TABLE "+t.name+" USING millrace_spy", nil); err != nil {
				return fmt.Errorf("table %s: %w", o[1], err)
			}
		}
	}
	stats, err := texts(c.full, "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'")
	if err != nil || stats[0][0] == "0" {
		return err
	}
	rows, err := texts(c.full, "SELECT tbl, idx, stat FROM sqlite_stat1")
	if err != nil {
		return err
	}
	if err := sqlitex.ExecuteTransient(c.empty, "ANALYZE", nil); err != nil { // makes the table
		return err
	}
	for _, row := range rows {
		if err := sqlitex.Execute(c.empty, "INSERT INTO sqlite_stat1 VALUES (?, nullif(?, ''), ?)", &sqlitex.ExecOptions{Args: []any{row[0], row[1], row[2]}}); err != nil {
			return err
		}
	}
	return sqlitex.ExecuteTransient(c.empty, "ANALYZE sqlite_schema", nil) // reads it
}

// nocase follows a column of an index that serves LIKE.
const nocase = " COLLATE NOCASE"

// hasIndex tells whether an index that is there begins with the columns: one more could only be luck in measuring. Its collation may be the
// column's own.
func (t *table) hasIndex(columns []string) bool {
	return slices.ContainsFunc(t.have, func(have []string) bool {
		return len(have) >= len(columns) && slices.EqualFunc(have[:len(columns)], columns, func(has, wants string) bool {
			has, wants = strings.TrimSuffix(has, " DESC"), strings.TrimSuffix(wants, " DESC")
			return has == wants || has == wants+nocase
		})
	})
}

// spyTable notes what the planner asks of a table.
type spyTable struct {
	c       *copied
	name    string
	columns []string
}

func (c *copied) connect(_ *sqlite.Conn, o *sqlite.VTableConnectOptions) (sqlite.VTable, *sqlite.VTableConfig, error) {
	t := &spyTable{c: c, name: o.VTableName}
	rows, err := texts(c.full, "SELECT name, type FROM pragma_table_xinfo(?)", o.VTableName)
	if err != nil {
		return nil, nil, err
	}
	declared := make([]string, len(rows))
	for i, row := range rows {
		t.columns = append(t.columns, row[0])
		declared[i] = quote(row[0]) + " " + row[1]
	}
	return t, &sqlite.VTableConfig{Declaration: "CREATE TABLE x(" + strings.Join(declared, ", ") + ")", AllowIndirect: true}, nil
}

// BestIndex implements sqlite.VTable.
func (t *spyTable) BestIndex(in *sqlite.IndexInputs) (*sqlite.IndexOutputs, error) {
	a := t.c.seen[t.name]
	if a == nil {
		a = &access{relation: t.name}
		t.c.seen[t.name] = a
	}
	for _, k := range in.Constraints {
		if k.Column < 0 || k.Column >= len(t.columns) {
			continue // the row's number
		}
		column := quote(t.columns[k.Column])
		switch k.Op {
		case sqlite.IndexConstraintEq, sqlite.IndexConstraintIs, sqlite.IndexConstraintIsNull:
			add(&a.equal, column)
		case sqlite.IndexConstraintGT, sqlite.IndexConstraintGE, sqlite.IndexConstraintLT, sqlite.IndexConstraintLE:
			add(&a.ranged, column)
		case sqlite.IndexConstraintLike:
			add(&a.liked, column)
		}
	}
	var sorted []string
	for _, by := range in.OrderBy {
		if by.Column < 0 || by.Column >= len(t.columns) {
			break
		}
		column := quote(t.columns[by.Column])
		if by.Desc {
			column += " DESC"
		}
		sorted = append(sorted, column)
	}
	if len(sorted) > 0 && a.sorted == nil {
		a.sorted = sorted
	}
	return &sqlite.IndexOutputs{EstimatedCost: 1e6}, nil
}

var errSpy = errors.New("a statement ran where it was only to be planned")

// Open implements sqlite.VTable.
func (t *spyTable) Open() (sqlite.VTableCursor, error) { return nil, errSpy }

// Disconnect implements sqlite.VTable.
func (t *spyTable) Disconnect() error { return nil }

// Destroy implements sqlite.VTable.
func (t *spyTable) Destroy() error { return nil }

// Update implements sqlite.WritableVTable.
func (t *spyTable) Update(sqlite.VTableUpdateParams) (int64, error) { return 0, errSpy }

// DeleteRow implements sqlite.WritableVTable.
func (t *spyTable) DeleteRow(sqlite.Value) error { return errSpy }
