//go:build !race

package sqldb

// raceEnabled tells that allocations are counted differently.
const raceEnabled = false
