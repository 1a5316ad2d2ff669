package lease

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/signet-mesh/signet/proxy/limit"
)

const heads = 1 << 14

// closed stands in lease.left for a lease that is no longer in the table; no number of takers brings it up to 0.
const closed = -1 << 40

// lease is the tokens at hand of one key.
type lease struct {
	limit.Bucket
	key  limit.Key
	next atomic.Pointer[lease]

	// left is the tokens at hand. A taker that finds none may have it below 0 for a moment.
	left    atomic.Int64
	low     atomic.Int64 // more is asked for when no more than this are left; -1 for never
	beyond  atomic.Int64 // tokens that Redis had beside these when it last answered
	pending atomic.Bool  // one call for more is on its way; changes under mu
	waiting atomic.Int64 // requests that wait for it
	touched atomic.Bool  // somebody asked and there was no token, since the last sweep

	// In ns since New: no call before, refused until (not before quietUntil), no token before, as new after (the end of the
	// window of a quota).
	quietUntil, staleUntil, retryAt, resetAt atomic.Int64

	mu     sync.Mutex
	ready  chan struct{} // closed when the pending call has ended; guarded by mu, like all that follows
	heard  uint64        // calls that ended well
	batch  int64         // tokens that should be at hand after a call
	asked  int64         // ns, when the last call was ordered
	window int64         // that the tokens are of, for quotas
	sent   int64         // tokens that the pending call asks for

	seen int64 // left at the last sweep; the sweeper's own
	idle int   // sweeps without a change
}

// table finds leases without a lock: chains that only the holder of mu changes, and a reader that holds a removed lease
// still finds the rest of its chain.
type table struct {
	seed  maphash.Seed
	heads [heads]atomic.Pointer[lease]
	size  atomic.Int64
	mu    sync.Mutex
}

func (t *table) head(key *limit.Key) *atomic.Pointer[lease] {
	return &t.heads[maphash.Bytes(t.seed, key[:])%heads]
}

// find is the lease of a key and a limit. When the numbers of the limit change, the tokens of the lease before are not handed
// out any more; the sweep gives them back.
func (t *table) find(b *limit.Bucket, key limit.Key) *lease {
	for e := t.head(&key).Load(); e != nil; e = e.next.Load() {
		if e.key == key && e.Bucket == *b {
			return e
		}
	}
	return nil
}

// add finds the lease of a key or makes it; nil if there are too many.
func (t *table) add(b *limit.Bucket, key limit.Key) *lease {
	if e := t.find(b, key); e != nil {
		return e
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.find(b, key); e != nil {
		return e
	}
	if t.size.Load() >= maxLeases {
		return nil
	}
	e := &lease{Bucket: *b, key: key, batch: 1}
	e.low.Store(-1)
	h := t.head(&key)
	e.next.Store(h.Load())
	h.Store(e)
	t.size.Add(1)
	return e
}

func (t *table) remove(e *lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for at := t.head(&e.key); at.Load() != nil; at = &at.Load().next {
		if at.Load() == e {
			at.Store(e.next.Load())
			t.size.Add(-1)
			return
		}
	}
}

// all visits every lease.
func (t *table) all(visit func(*lease)) {
	for i := range t.heads {
		for e := t.heads[i].Load(); e != nil; e = e.next.Load() {
			visit(e)
		}
	}
}
