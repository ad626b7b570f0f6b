// Package demo carries what Millrace serves when it is given no configuration: cities of the world with their GeoNames
// ids, and the tools on them. It makes the database once, at first start; it is no part of the request path.
//
// The rows come from GeoNames (https://www.geonames.org) under CC BY 4.0. scripts/make-cities makes cities.tsv.zst.
package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"zombiezen.com/go/sqlite"
)

// YAML is the demo's configuration. It names its database as ${MILLRACE_DEMO_DB}, which must expand to the path that
// Prepare gave. Not to be changed.
//
//go:embed demo.yaml
var YAML []byte

//go:embed cities.tsv.zst
var all []byte

//go:embed schema.sql
var schema string

//go:embed indexes.sql
var indexes string

// columns is the first line of the data, and the order of the fields of every other one.
const columns = "id\tname\tcountry\tadmin\tfeature\tpopulation\tlatitude\tlongitude"

const insert = `INSERT INTO cities (id, name, country, admin, feature, population, latitude, longitude) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`

// need is the free space that messages ask for: the database takes 16 MB, and its log grows with the notes.
const need = "32 MB"

// Prepare gives the path of the demo's database in dir, and makes both when they are not there. The name carries a hash
// of data and schema, so that another version of Millrace makes a database of its own and never meets this one's.
//
// Any number of processes may call it at once for one dir: the first makes the database, the others wait for it or
// for ctx. The database appears under its name when it is complete and on disk; a process that is killed while it makes it
// leaves only a temporary file, which the next one removes.
func Prepare(ctx context.Context, dir string) (dbPath string, err error) {
	return prepare(ctx, dir, all)
}

// prepare is Prepare with the compressed cities as an argument: tests take a few.
func prepare(ctx context.Context, dir string, data []byte) (dbPath string, err error) {
	path := filepath.Join(dir, name(data))
	defer func() {
		if err != nil {
			dbPath, err = "", fmt.Errorf("make the demo's database %s: %w", path, advise(err, dir))
		}
	}()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if ok, err := exists(path); ok || err != nil {
		return path, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, path+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if ok, err := exists(path); ok || err != nil { // made while this one waited
		return path, err
	}
	return path, publish(ctx, path, data)
}

// name is the file name of the database of this data and schema.
func name(data []byte) string {
	h := sha256.New()
	h.Write(data)
	h.Write([]byte(schema))
	h.Write([]byte(indexes))
	h.Write([]byte(insert))
	return "cities-" + hex.EncodeToString(h.Sum(nil)[:6]) + ".db"
}

// exists says whether the database is there; what is there and is none is an error, never overwritten.
func exists(path string) (bool, error) {
	const magic = "SQLite format 3\x00"
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, len(magic))
	if n, _ := f.Read(head); string(head[:n]) != magic {
		return false, errors.New("what is there is not an SQLite database: move it away, and start again")
	}
	return true, nil
}

// lock waits for the lock on path and holds it until unlock. The kernel releases it when its process ends, however it ends.
// The file stays: to remove it would let two processes hold locks on two files of one name.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the process that is making it: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// publish builds the database beside path and moves it there. The caller holds the lock.
//
// The lock is why a rename is safe: without it the later of two processes would put its file in place of one that the
// earlier has opened and keeps a write-ahead log for.
func publish(ctx context.Context, path string, data []byte) error {
	tmp := path + ".tmp"
	// Beside a killed process's own remains, a log without its database would be played into the new one.
	for _, old := range []string{tmp, tmp + "-wal", tmp + "-shm", tmp + "-journal", path + "-wal", path + "-shm"} {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	err := build(ctx, tmp, data)
	if err == nil {
		err = toDisk(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		for _, end := range []string{"", "-wal", "-shm"} {
			os.Remove(tmp + end)
		}
		return err
	}
	return toDisk(filepath.Dir(path))
}

// build makes the database at path. A half-built one is thrown away, so nothing is journaled or synced on the way.
func build(ctx context.Context, path string, data []byte) (err error) {
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	conn.SetInterrupt(ctx.Done())

	steps := []func() error{
		script(conn, `PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY`),
		script(conn, `BEGIN`),
		script(conn, schema),
		func() error { return load(conn, data) },
		script(conn, indexes),
		script(conn, `COMMIT`),
		script(conn, `PRAGMA locking_mode = NORMAL; PRAGMA journal_mode = WAL`), // kept in the file's header
	}
	for _, step := range steps {
		if err := step(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
	return nil
}

// script runs statements outside of sqlitex.ExecuteScript, which would put them in a savepoint: pragmas want none.
func script(conn *sqlite.Conn, statements string) func() error {
	return func() error {
		for rest := statements; strings.TrimSpace(rest) != ""; {
			stmt, trailing, err := conn.PrepareTransient(rest)
			if err != nil {
				return err
			}
			rest = rest[len(rest)-trailing:]
			if stmt == nil { // a comment at the end
				continue
			}
			for more := true; more && err == nil; {
				more, err = stmt.Step()
			}
			if err := errors.Join(err, stmt.Finalize()); err != nil {
				return err
			}
		}
		return nil
	}
}

// load inserts every line of data.
func load(conn *sqlite.Conn, data []byte) error {
	zr, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("read the cities: %w", err)
	}
	defer zr.Close()
	stmt, err := conn.Prepare(insert)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(zr)
	if !lines.Scan() || lines.Text() != columns {
		return fmt.Errorf("read the cities: the first line is %q, not the columns", lines.Text())
	}
	for n := 2; lines.Scan(); n++ {
		if err := bind(stmt, lines.Text()); err != nil {
			return fmt.Errorf("read the cities: line %d: %w", n, err)
		}
		if _, err := stmt.Step(); err != nil {
			return err
		}
		if err := stmt.Reset(); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the cities: %w", err)
	}
	return nil
}

// bind sets the parameters of insert to the fields of one line.
func bind(stmt *sqlite.Stmt, line string) error {
	i := 0
	for field := range strings.SplitSeq(line, "\t") {
		i++
		switch i {
		case 1, 6:
			v, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return err
			}
			stmt.BindInt64(i, v)
		case 7, 8:
			v, err := strconv.ParseFloat(field, 64)
			if err != nil {
				return err
			}
			stmt.BindFloat(i, v)
		default:
			stmt.BindText(i, field)
		}
	}
	if want := strings.Count(columns, "\t") + 1; i != want {
		return fmt.Errorf("%d fields, not %d", i, want)
	}
	return nil
}

// toDisk brings a file or directory to the disk.
func toDisk(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// advise adds to an error what a person can do about it.
func advise(err error, dir string) error {
	code := sqlite.ErrCode(err)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), code.ToPrimary() == sqlite.ResultFull:
		return fmt.Errorf("the disk is full (%w): free %s in %s, or choose another directory", err, need, dir)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), code.ToPrimary() == sqlite.ResultReadOnly, code.ToPrimary() == sqlite.ResultCantOpen:
		return fmt.Errorf("%s cannot be written (%w): give this user the right to write there, or choose another directory", dir, err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("%s is not a directory (%w): choose another", dir, err)
	case errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.ENOSYS):
		return fmt.Errorf("the file system of %s has no locks (%w): choose a directory on a local disk", dir, err)
	case code.ToPrimary() == sqlite.ResultIOErr:
		return fmt.Errorf("%w: see that the disk of %s works and has %s free, or choose another directory", err, dir, need)
	}
	return err
}
