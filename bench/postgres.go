package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// startPostgres makes a private server with the items in it and returns its URL.
func startPostgres(ctx context.Context, m *machine) (string, error) {
	return startDatabase(ctx, m, "postgres", []string{
		"CREATE TABLE items (id integer PRIMARY KEY, name text NOT NULL, value integer NOT NULL)",
		fmt.Sprintf("INSERT INTO items SELECT i, 'item ' || i, 7 * i FROM generate_series(%d, %d) i", itemKeys.first, itemKeys.first+itemKeys.count-1),
		"VACUUM ANALYZE items",
	})
}

// startDatabase makes a private server of PostgreSQL, runs statements on it and returns its URL. It shares the load tool's cores, since
// only the tool server's own CPU is measured.
func startDatabase(ctx context.Context, m *machine, name string, statements []string) (string, error) {
	bin, err := postgresFolder()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(m.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	cred, err := postgresUser(dir)
	if err != nil {
		return "", err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	initdb.Dir = dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := initdb.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, clip(out))
	}
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	url := "postgres://postgres@" + addr + "/postgres?sslmode=disable"
	var conn *pgx.Conn
	_, err = m.start(ctx, name, addr, []string{filepath.Join(bin, "postgres"), "-D", dir, "-p", port,
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=400"},
		startOptions{dir: dir, credential: cred, onLoadCPUs: true, quit: syscall.SIGINT, ready: func(ctx context.Context) (err error) {
			conn, err = pgx.Connect(ctx, url)
			return err
		}})
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return "", fmt.Errorf("fill PostgreSQL: %w", err)
		}
	}
	return url, nil
}

// execute runs one statement.
func execute(ctx context.Context, url, statement string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// postgresFolder finds the newest PostgreSQL: Debian keeps its binaries out of PATH.
func postgresFolder() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", fmt.Errorf("PostgreSQL is missing: install Debian's package postgresql, or leave its rows out with --only")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// postgresUser returns whom to run as and gives them the folder: initdb refuses root.
func postgresUser(dir string) (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("run PostgreSQL as another user than root: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
