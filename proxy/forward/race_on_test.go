//go:build race

package forward

// raceAllocations is what the race detector adds to an exchange: it makes sync.Pool forget at random.
const raceAllocations = 8
