package jwt

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"
)

// Limits of the cache of verified tokens.
const (
	// CacheTime is how long a verified token is believed without looking at its signature again, if it does not expire before.
	CacheTime = 5 * time.Minute
	// CacheBytes bounds the tokens kept, counted by their text; what is parsed of them is some times as large. Beyond it, what
	// was not asked for in the longest time goes first.
	CacheBytes = 4 << 20

	cacheShards = 64
	// Each shard keeps two generations: when the younger one is full, the older one goes.
	generationBytes = CacheBytes / cacheShards / 2
	// entryBytes is what an entry counts beside its token.
	entryBytes = 256
)

// entry is a token that was verified at one location.
type entry struct {
	text     string
	location int
	found    Found
	rule     *Rule
	keys     []Key // as Keys gave them
	until    time.Time
}

// cache holds entries by a hash of token and location with a seed of its own, and compares both in full.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]shard
}

type shard struct {
	mu         sync.Mutex
	young, old map[uint64]*entry // mu
	bytes      int               // mu; of young
}

func newCache() *cache { return &cache{seed: maphash.MakeSeed()} }

func (c *cache) hash(text string, location int) uint64 {
	return maphash.String(c.seed, text) + uint64(location)*0x9e3779b97f4a7c15
}

// get gives the entry of a token at a location that still holds.
func (c *cache) get(text string, location int, now time.Time) *entry {
	h := c.hash(text, location)
	s := &c.shards[h%cacheShards]
	s.mu.Lock()
	e, young := s.young[h], true
	if e == nil {
		e, young = s.old[h], false
	}
	if e == nil || e.location != location || e.text != text || !now.Before(e.until) {
		s.mu.Unlock()
		return nil
	}
	if !young {
		s.add(h, e)
	}
	s.mu.Unlock()
	if e.rule.Keys == nil || !same(e.rule.Keys.Keys(), e.keys) {
		return nil
	}
	return e
}

// put keeps an entry. Its text may be borrowed.
func (c *cache) put(e entry) {
	e.text = strings.Clone(e.text)
	h := c.hash(e.text, e.location)
	s := &c.shards[h%cacheShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(h, &e)
}

func (s *shard) add(h uint64, e *entry) {
	size := len(e.text) + entryBytes
	if old := s.young[h]; old != nil {
		s.bytes -= len(old.text) + entryBytes
	}
	if s.young == nil || s.bytes+size > generationBytes {
		s.old, s.young, s.bytes = s.young, map[uint64]*entry{}, 0
	}
	s.young[h] = e
	s.bytes += size
}
