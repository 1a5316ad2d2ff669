//go:build !race

package forward

const raceAllocations = 0
