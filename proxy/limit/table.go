package limit

import (
	"sync"
	"sync/atomic"
)

// MaxKeys is how many keys (identities, header values, addresses) a rule with a Distinct selector counts by at a time, of
// 16 bytes each. The table grows by doubling as keys come and never shrinks; a bucket that is full again gives its slot to
// the next key.
//
// When the slots that a key may have are all taken, the key nearest to a full bucket is forgotten and the newcomer inherits
// what that one had used. A forgotten key that comes back inherits likewise, and what there is to inherit never gets less:
// so no key gets more than its limit, however many keys are made up to push others out.
const MaxKeys = 1 << 20

const (
	shardBits  = 6
	shardCount = 1 << shardBits
	groupSlots = 8 // two lines of a cache
)

// slot is the state of one key. The tag is its hash, 0 for none.
type slot struct {
	tag   atomic.Uint64
	state atomic.Int64
}

// table is an open-addressed hash table. A key has two groups of slots that it may be in, chosen by two parts of its hash;
// the hash is seeded in each process, so nobody can choose keys that meet.
//
// Requests of a known key read tag and state and compare-and-swap the state, without a lock. Everything else happens under
// the shard's lock, and freezes a state before it leaves its slot: a swap that was under way fails, and looks again.
type table struct {
	max    int // slots of one shard
	shards [shardCount]shard
}

type shard struct {
	slots     atomic.Pointer[[]slot]
	mu        sync.Mutex
	taken     atomic.Int64  // slots with a tag
	evictions atomic.Uint64 // written under mu
	_         [24]byte
}

func newTable(keys int) *table { return &table{max: max(keys/shardCount, groupSlots)} }

// take moves the state of a key.
func (t *table) take(hash uint64, s *shape, now moment, m motion) Grant {
	hash = max(hash, 1)
	sh := &t.shards[hash>>(64-shardBits)]
	if slots := sh.slots.Load(); slots != nil {
		if g, ok := move(*slots, hash, s, now, m); ok {
			return g
		}
	}
	return t.admit(sh, hash, s, now, m)
}

// peek is the state of a key, and whether it has one.
func (t *table) peek(hash uint64) (int64, bool) {
	hash = max(hash, 1)
	slots := t.shards[hash>>(64-shardBits)].slots.Load()
	if slots == nil {
		return fresh, false
	}
	at := find(*slots, hash)
	if at == nil {
		return fresh, false
	}
	state := at.state.Load()
	return state, state != frozen && at.tag.Load() == hash
}

// move is take for a key that has a slot. ok is false if it has none, or loses it meanwhile.
func move(slots []slot, hash uint64, s *shape, now moment, m motion) (g Grant, ok bool) {
	at := find(slots, hash)
	if at == nil {
		return Grant{}, false
	}
	for {
		old := at.state.Load()
		if old == frozen || at.tag.Load() != hash {
			return Grant{}, false
		}
		next, g := s.step(old, now, m)
		if !g.Allowed || next == old || at.state.CompareAndSwap(old, next) {
			return g, true
		}
	}
}

// groups are where a key may be, as positions of the first slot of each.
func groups(n int, hash uint64) (int, int) {
	mask := uint64(n/groupSlots - 1)
	return int(hash&mask) * groupSlots, int(hash>>29&mask) * groupSlots
}

func find(slots []slot, hash uint64) *slot {
	a, b := groups(len(slots), hash)
	for i := range groupSlots {
		if slots[a+i].tag.Load() == hash {
			return &slots[a+i]
		}
	}
	for i := range groupSlots {
		if slots[b+i].tag.Load() == hash {
			return &slots[b+i]
		}
	}
	return nil
}

// admit gives a key a slot: a free one, one of a larger table, or that of the key nearest to a full bucket.
func (t *table) admit(sh *shard, hash uint64, s *shape, now moment, m motion) Grant {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for {
		var slots []slot
		if p := sh.slots.Load(); p != nil {
			slots = *p
		}
		if len(slots) == 0 {
			sh.grow(s, now)
			continue
		}
		if g, ok := move(slots, hash, s, now, m); ok {
			return g
		}
		at, free := choose(slots, hash, s, now)
		if !free && len(slots) < t.max {
			sh.grow(s, now)
			continue
		}
		if g, ok := sh.give(at, free, hash, s, now, m); ok {
			return g
		}
	}
}

// choose is the slot for a newcomer: a free one in the group that has more of them, else (free is false) the one with the
// least state.
func choose(slots []slot, hash uint64, s *shape, now moment) (at *slot, free bool) {
	a, b := groups(len(slots), hash)
	least := int64(0)
	most := 0
	for _, group := range [2]int{a, b} {
		count := 0
		var open *slot
		for i := range groupSlots {
			c := &slots[group+i]
			state := c.state.Load()
			switch {
			case c.tag.Load() == 0 || s.expired(state, now):
				count++
				open = c
			case !free && (at == nil || state < least):
				at, least = c, state
			}
		}
		if count > most {
			at, free, most = open, true, count
		}
	}
	return at, free
}

// give hands a slot to a new key. ok is false if its old key was asked for meanwhile. A refusal leaves it where it is.
func (sh *shard) give(at *slot, free bool, hash uint64, s *shape, now moment, m motion) (g Grant, ok bool) {
	old := at.state.Load()
	empty := at.tag.Load() == 0
	if free && !empty && !s.expired(old, now) {
		return Grant{}, false
	}
	start := old
	if free {
		start = fresh
	}
	next, g := s.step(start, now, m)
	if !g.Allowed {
		return g, true
	}
	if !at.state.CompareAndSwap(old, frozen) {
		return Grant{}, false
	}
	at.tag.Store(hash)
	at.state.Store(next)
	if empty {
		sh.taken.Add(1)
	}
	if !free {
		sh.evictions.Add(1)
	}
	return g, true
}

// grow doubles a shard's slots. What was in a group goes to one of the two that it becomes, so there is always room.
func (sh *shard) grow(s *shape, now moment) {
	p := sh.slots.Load()
	if p == nil {
		slots := make([]slot, groupSlots)
		sh.slots.Store(&slots)
		return
	}
	old := *p
	slots := make([]slot, 2*len(old))
	taken := int64(0)
	for i := range old {
		state, tag := old[i].state.Swap(frozen), old[i].tag.Load()
		if tag == 0 || s.expired(state, now) {
			continue
		}
		first, second := groups(len(slots), tag)
		if a, _ := groups(len(old), tag); a != i/groupSlots*groupSlots {
			first = second
		}
		for slots[first].tag.Load() != 0 {
			first++
		}
		slots[first].tag.Store(tag)
		slots[first].state.Store(state)
		taken++
	}
	sh.taken.Store(taken)
	sh.slots.Store(&slots)
}

// size is how many slots are taken, how many there are, and how many keys were forgotten.
func (t *table) size() (keys, slots int, evictions uint64) {
	for i := range t.shards {
		sh := &t.shards[i]
		keys += int(sh.taken.Load())
		evictions += sh.evictions.Load()
		if p := sh.slots.Load(); p != nil {
			slots += len(*p)
		}
	}
	return keys, slots, evictions
}
