package certs

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Cell is a Source that its one owner sets. The zero value is ready and holds an empty snapshot. Not to be copied.
type Cell struct {
	state atomic.Pointer[cellState]
	mu    sync.Mutex // serialises Set
}

type cellState struct {
	snapshot *Snapshot
	replaced chan struct{} // closed by the Set that replaces this state
}

// Current implements Source.
func (c *Cell) Current() *Snapshot { return c.load().snapshot }

// Watch implements Source. Snapshot and channel belong together: no replacement is missed between the two.
func (c *Cell) Watch() (*Snapshot, <-chan struct{}) {
	s := c.load()
	return s.snapshot, s.replaced
}

// Set replaces the snapshot and wakes the watchers. The map is copied. It returns the new snapshot.
func (c *Cell) Set(svid *SVID, bundles map[string]*Bundle) *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.load()
	next := &cellState{
		snapshot: &Snapshot{SVID: svid, Bundles: maps.Clone(bundles), Generation: old.snapshot.Generation + 1},
		replaced: make(chan struct{}),
	}
	c.state.Store(next)
	close(old.replaced)
	return next.snapshot
}

// load is one atomic load, save for the first call on a zero Cell.
func (c *Cell) load() *cellState {
	if s := c.state.Load(); s != nil {
		return s
	}
	c.state.CompareAndSwap(nil, &cellState{snapshot: &Snapshot{}, replaced: make(chan struct{})})
	return c.state.Load()
}
