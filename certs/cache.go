package certs

import (
	"container/list"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"sync"
	"time"

	"github.com/signet-mesh/signet/identity"
)

// verifiedKey names everything that was presented, under one generation of what we trust.
type verifiedKey struct {
	chain      [sha256.Size]byte
	generation uint64
}

func keyOf(chain []*x509.Certificate, generation uint64) verifiedKey {
	h := sha256.New()
	var size [8]byte
	for _, c := range chain {
		binary.BigEndian.PutUint64(size[:], uint64(len(c.Raw)))
		h.Write(size[:])
		h.Write(c.Raw)
	}
	k := verifiedKey{generation: generation}
	h.Sum(k.chain[:0])
	return k
}

// verifiedCache remembers outcomes of path validation, the least recently used forgotten first. It answers only while a
// validation would come out the same: same bytes, same bundle, inside the validity of every certificate of the path.
// Safe for concurrent use.
type verifiedCache struct {
	limit int

	mu      sync.Mutex
	entries map[verifiedKey]*list.Element // values are *cacheEntry
	order   *list.List                    // most recently used first
}

type cacheEntry struct {
	key     verifiedKey
	outcome verified
}

func newVerifiedCache(limit int) *verifiedCache {
	return &verifiedCache{limit: limit, entries: map[verifiedKey]*list.Element{}, order: list.New()}
}

func (c *verifiedCache) get(key verifiedKey, snapshot *Snapshot, now time.Time) (identity.ID, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok {
		return identity.ID{}, false
	}
	o := e.Value.(*cacheEntry).outcome
	if snapshot.Bundles[o.id.TrustDomain()] != o.bundle || now.Before(o.notBefore) || now.After(o.notAfter) {
		c.order.Remove(e)
		delete(c.entries, key)
		return identity.ID{}, false
	}
	c.order.MoveToFront(e)
	return o.id, true
}

func (c *verifiedCache) put(key verifiedKey, outcome verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[key]; ok {
		e.Value.(*cacheEntry).outcome = outcome
		c.order.MoveToFront(e)
		return
	}
	c.entries[key] = c.order.PushFront(&cacheEntry{key, outcome})
	if c.order.Len() > c.limit {
		oldest := c.order.Back()
		c.order.Remove(oldest)
		delete(c.entries, oldest.Value.(*cacheEntry).key)
	}
}
