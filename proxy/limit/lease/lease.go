// Package lease gives tokens of global limits from a Redis that all proxies share. A proxy takes a batch of tokens of one
// key by one script call, in the background, and hands them out one by one with one atomic operation; what it does not use
// goes back. Redis judges by its own clock: rates by GCRA, quotas by a count for the calendar day or month in UTC. What
// Redis gave is never given twice, so that the sum over all proxies stays within the limit while Redis is there; when it is
// not, Take says so at once.
package lease

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
)

// What a request and a lease keep to.
const (
	waitMax   = 5 * time.Millisecond  // a request's wait for its first token
	maxLeases = 100_000               // keys with a lease at one time
	maxID     = 256                   // bytes
	holdMin   = 20 * time.Millisecond // a refusal is held so long before Redis is asked again, less where the burst is spent faster
	holdMax   = 250 * time.Millisecond
	maxReset  = float64(365 * 24 * time.Hour)
)

// Config is what Leases work with.
type Config struct {
	Store *policy.RateLimitStore
	// ID names this proxy among those that share the store: 1 to 256 bytes, another one for each.
	ID  string
	Log *slog.Logger
	// Now is the clock, time.Now where nil. Redis' own clock decides; this one measures how long an answer is good.
	Now func() time.Time
}

// Leases is a limit.Store. Safe for concurrent use.
type Leases struct {
	cfg     Config
	options *redis.UniversalOptions
	start   time.Time
	table   table
	queue   chan order

	state    atomic.Int32 // a state
	slow     atomic.Bool  // a request waited in vain and no call has ended well since: nobody waits
	replicas atomic.Int64
	trips    atomic.Uint64
	full     atomic.Uint64
	suspect  atomic.Pointer[lease] // whose call failed last: its key's server must answer before the store is back

	mu    sync.Mutex
	err   string // redacted; guarded by mu
	since time.Time
}

// New reads the description of the store (Validate says how). It opens no connection: that is Run's.
func New(cfg Config) (*Leases, error) {
	if cfg.ID == "" || len(cfg.ID) > maxID {
		return nil, fmt.Errorf("making leases for proxy %q: its name has not 1 to %d bytes", cfg.ID, maxID)
	}
	if cfg.Store == nil {
		return nil, errors.New("making leases: no store")
	}
	options, err := address(cfg.Store)
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Leases{cfg: cfg, options: options, queue: make(chan order, queueLength)}
	l.start = l.clock()
	l.since = l.start
	l.table.seed = maphash.MakeSeed()
	l.replicas.Store(1)
	return l, nil
}

var _ limit.Store = (*Leases)(nil)

func (l *Leases) clock() time.Time {
	if l.cfg.Now != nil {
		return l.cfg.Now()
	}
	return time.Now()
}

// now is the time since New, in ns. The monotonic clock alone costs half as much as both.
func (l *Leases) now() int64 {
	if l.cfg.Now != nil {
		return int64(l.cfg.Now().Sub(l.start))
	}
	return int64(time.Since(l.start))
}

// Replicas is how many proxies share the store, this one included, as last heard; at least 1.
func (l *Leases) Replicas() int { return int(l.replicas.Load()) }

// Take is limit.Store's. A key with tokens at hand is answered with one atomic operation; else the request waits up to 5 ms
// while a batch is fetched. It does not wait when the store is known to be away, when another request waited in vain and
// nothing was heard since, or before and after Run: then ok is false. ok is false too when 100,000 keys have a lease.
func (l *Leases) Take(ctx context.Context, b *limit.Bucket, key limit.Key) (limit.Grant, bool) {
	if e := l.table.find(b, key); e != nil {
		if left, ok := l.hand(e); ok {
			if left <= e.low.Load() && !e.pending.Load() {
				l.top(e)
			}
			return l.allowed(e, left), true
		}
		if g, ok := l.held(e); ok {
			return g, true
		}
	}
	return l.ask(ctx, b, key)
}

// hand takes one token that is at hand and says how many are left.
func (l *Leases) hand(e *lease) (left int64, ok bool) {
	if e.left.Load() <= 0 {
		return 0, false
	}
	if e.Calendar != 0 && l.now() >= e.resetAt.Load() {
		return 0, false // of a window that is over
	}
	left = e.left.Add(-1)
	if left < 0 { // somebody else took the last one
		e.left.Add(1)
		return 0, false
	}
	return left, true
}

// top asks for more before the lease is dry.
func (l *Leases) top(e *lease) {
	if state(l.state.Load()) != up || l.now() < e.quietUntil.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	l.order(e)
}

func (l *Leases) allowed(e *lease, left int64) limit.Grant {
	left += e.beyond.Load()
	if e.Calendar != 0 {
		return limit.Grant{Allowed: true, Remaining: uint32(min(left, int64(e.Requests))), Reset: max(time.Duration(e.resetAt.Load()-l.now()), 0)}
	}
	left = min(left, int64(e.Burst))
	missing := float64(int64(e.Burst)-left) / float64(e.Requests) // of a period
	return limit.Grant{Allowed: true, Remaining: uint32(left), Reset: time.Duration(min(missing*float64(e.Period), maxReset))}
}

// held refuses while the last refusal stands. Of a limit that has a new token every few milliseconds, it stands a little
// longer while Redis is asked again: under a flood nobody need wait to be refused.
func (l *Leases) held(e *lease) (limit.Grant, bool) {
	now := l.now()
	if e.left.Load() > 0 || now >= e.staleUntil.Load() {
		return limit.Grant{}, false
	}
	if !e.touched.Load() {
		e.touched.Store(true)
	}
	if now >= e.quietUntil.Load() && !e.pending.Load() {
		l.top(e)
	}
	return e.refused(now), true
}

func (e *lease) refused(now int64) limit.Grant {
	retry := max(e.retryAt.Load(), e.quietUntil.Load()) - now
	return limit.Grant{Retry: max(time.Duration(retry), time.Millisecond), Reset: max(time.Duration(e.resetAt.Load()-now), 0)}
}
