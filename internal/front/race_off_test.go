//go:build !race

package front

// raceDetector: it makes pools forget, so counts of allocations mean nothing under it.
const raceDetector = false
