package main

import (
	"fmt"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// The rows that are served. Keys of one table have one number of digits, as keys wants it.
var (
	itemKeys     = keys{randomKeys, 100_000, 100_000}
	payloadKeys  = keys{cycleKeys, 100, 64}
	distinctFrom = 1_000_000
)

const (
	smallPayload = 100
	largePayload = 4096
)

// payload is the stored text that makes {"rows":[{"v":"…"}]} exactly size bytes long.
func payload(key, size int) string {
	head := payloadText(key)
	return head + strings.Repeat("x", size-len(`{"rows":[{"v":""}]}`)-len(head))
}

// payloadText begins every payload and every echoed message.
func payloadText(key int) string { return fmt.Sprintf("payload %d ", key) }

// itemName is the name of an item in both databases.
func itemName(key int) string { return fmt.Sprintf("item %d", key) }

// makeSQLite writes the database that Millrace and the peers read.
func makeSQLite(path string) (err error) {
	conn, err := sqlite.OpenConn(path)
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	defer conn.Close()
	defer sqlitex.Save(conn)(&err)
	if err := sqlitex.ExecuteScript(conn, `
		CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL, value INTEGER NOT NULL);
		CREATE TABLE small (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
		CREATE TABLE large (id INTEGER PRIMARY KEY, body TEXT NOT NULL);`, nil); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	insert := func(statement string, args ...any) error {
		return sqlitex.Execute(conn, statement, &sqlitex.ExecOptions{Args: args})
	}
	for id := itemKeys.first; id < itemKeys.first+itemKeys.count; id++ {
		if err := insert("INSERT INTO items VALUES (?, ?, ?)", id, itemName(id), 7*id); err != nil {
			return fmt.Errorf("fill items: %w", err)
		}
	}
	for id := payloadKeys.first; id < payloadKeys.first+payloadKeys.count; id++ {
		if err := insert("INSERT INTO small VALUES (?, ?)", id, payload(id, smallPayload)); err != nil {
			return fmt.Errorf("fill small: %w", err)
		}
		if err := insert("INSERT INTO large VALUES (?, ?)", id, payload(id, largePayload)); err != nil {
			return fmt.Errorf("fill large: %w", err)
		}
	}
	return nil
}
