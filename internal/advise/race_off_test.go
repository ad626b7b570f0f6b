//go:build !race

package advise

// raceEnabled tells that SQLite, which is written in Go here, takes many times as long.
const raceEnabled = false
