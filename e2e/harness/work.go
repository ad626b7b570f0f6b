package harness

import "testing"

// workTools are tools that do what the demo's do not: take long, answer at length, write as much as they are told.
// They stand on the demo's database.
const workTools = `
sources:
  work: {sqlite: {path: "${WORK_DB}"}, query_timeout: 60s}
tools:
  - name: echo
    source: work
    description: Gives back its argument, which travels in a header too.
    statement: SELECT :text AS text
    parameters: [{name: text, type: string, description: Any text., required: true, header: Text}]
    annotations: {readOnlyHint: true}
  - name: rows
    source: work
    description: Gives n rows of the given width.
    statement: |
      WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < :n)
      SELECT i, printf('%.*c', :width, 'x') AS data FROM c
    parameters: [{name: n, type: integer, description: How many., required: true}, {name: width, type: integer, description: How wide., required: true}]
    annotations: {readOnlyHint: true}
    timeout: 60s
    max_rows: 10000000
  - name: big
    source: work
    description: Gives one value of the given number of bytes.
    statement: SELECT hex(zeroblob(:bytes / 2)) AS data
    parameters: [{name: bytes, type: integer, description: How many., required: true}]
    annotations: {readOnlyHint: true}
    timeout: 60s
  - name: long
    source: work
    description: Gives n rows of the given width, up to a bound of 64 MiB.
    statement: |
      WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < :n)
      SELECT i, printf('%.*c', :width, 'x') AS data FROM c
    parameters: [{name: n, type: integer, description: How many., required: true}, {name: width, type: integer, description: How wide., required: true}]
    annotations: {readOnlyHint: true}
    timeout: 60s
    max_rows: 10000000
    max_bytes: 64MiB
  - name: slow
    source: work
    description: Counts to n, which takes its time.
    statement: |
      WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < :n) SELECT count(*) AS n FROM c
    parameters: [{name: n, type: integer, description: How far., required: true}]
    annotations: {readOnlyHint: true}
    timeout: 60s
  - name: fill
    source: work
    description: Writes a note of the given size.
    statement: INSERT INTO notes (city_id, text) VALUES (2950159, printf('%.*c', :bytes, 'x'))
    parameters: [{name: bytes, type: integer, description: How many bytes., required: true}]
  - name: count_notes
    source: work
    description: Counts the notes.
    statement: SELECT count(*) AS notes FROM notes
    annotations: {readOnlyHint: true}
`

// WorkConfig writes a configuration with tools that the demo does not have: echo, rows, big, long, slow, fill and
// count_notes. extra is put before them: settings of their own at the top level of the file.
func WorkConfig(tb testing.TB, extra string) (file string, env []string) {
	tb.Helper()
	return WriteConfig(tb, "version: 1\n"+extra+workTools), []string{"WORK_DB=" + copyDB(tb)}
}

// Work starts a server of WorkConfig.
func Work(tb testing.TB, extra string) *Server {
	tb.Helper()
	file, env := WorkConfig(tb, extra)
	return Start(tb, Options{Config: file, Env: env})
}
