package limit

import (
	"context"
	"hash/maphash"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh/policy"
)

// maxSharers bounds what a Store may say of how many proxies share a limit.
const maxSharers = 10000

// awayRetry is how long a caller is asked to wait where a limit refuses because its store can't be asked.
const awayRetry = time.Second

// keyRoom is how many bytes of a key need no allocation.
const keyRoom = 256

// standing is how a rule came to its grant.
type standing uint8

const (
	judged standing = iota
	alone           // the store is away: judged by this proxy's share
	waived          // the store is away: allowed
	away            // the store is away: refused
)

// rule is a Rule with all it takes to judge by it. Immutable but for its cell.
type rule struct {
	Rule
	field    string // spec.local.rules[0]
	clauses  []clause
	keyed    bool
	shadow   bool
	onAway   policy.OnStoreFailure // never Unset
	shape    shape
	storeKey Key // of a global rule without a Distinct selector
	fields   fieldParts
	cell     *cell
	cellKey  cellKey
	registry *Registry
}

// Take counts a request against every rule that matches, also those after one that refuses. It does not allocate unless a
// store does, an escaped query must be decoded, or what a rule counts by is longer than 256 bytes.
func (s *Set) Take(ctx context.Context, c *authz.Connection, r *authz.Request) (v Verdict) {
	if s == nil || len(s.rules) == 0 {
		return v
	}
	now := s.registry.moment(s.quotas)
	for _, rl := range s.rules {
		if !rl.matches(c, r) {
			continue
		}
		g, how := rl.take(ctx, now, c, r)
		rl.cell.counters.add(now, g, rl.shadow, how != judged)
		v.add(rl, g, how)
	}
	return v
}

// add takes a rule's word into the verdict: of those that refuse the one that asks to wait longest, else the one with the
// least left.
func (v *Verdict) add(rl *rule, g Grant, how standing) {
	switch {
	case rl.shadow:
		if !g.Allowed && v.Shadow == nil {
			v.Shadow = rl.Ref
		}
	case !g.Allowed:
		if v.Refused == nil || g.Retry > v.Retry {
			v.Refused, v.Retry, v.Tightest, v.Grant, v.StoreAway = rl.Ref, g.Retry, &rl.Rule, g, how == away
		}
	case v.Refused == nil && how != waived && (v.Tightest == nil || g.Remaining < v.Grant.Remaining):
		v.Tightest, v.Grant = &rl.Rule, g
	}
}

// Detail is the response code detail of a refusal, in Envoy's words: local_rate_limited, request_rate_limited (a global
// limit), rate_limiter_error (its store is away); "" if nothing refuses.
func (v *Verdict) Detail() string {
	switch {
	case v.Refused == nil:
		return ""
	case v.StoreAway:
		return "rate_limiter_error"
	case v.Tightest != nil && v.Tightest.Global:
		return "request_rate_limited"
	}
	return "local_rate_limited"
}

func (rl *rule) take(ctx context.Context, now moment, c *authz.Connection, r *authz.Request) (Grant, standing) {
	if rl.Global {
		return rl.takeGlobal(ctx, now, c, r)
	}
	if !rl.keyed {
		return rl.cell.move(&rl.shape, now, motion{cost: 1}), judged
	}
	var room [keyRoom]byte
	return rl.cell.keys.take(rl.hash(rl.appendKey(room[:0], c, r)), &rl.shape, now, motion{cost: 1}), judged
}

func (rl *rule) hash(key []byte) uint64 { return maphash.Bytes(rl.registry.seed, key) }

func (rl *rule) takeGlobal(ctx context.Context, now moment, c *authz.Connection, r *authz.Request) (Grant, standing) {
	if rl.shape.requests == 0 {
		return rl.cell.move(&rl.shape, now, motion{cost: 1}), judged
	}
	store := rl.registry.store.Load()
	if store == nil {
		return Grant{Retry: awayRetry, Reset: awayRetry}, away
	}
	var room [keyRoom]byte
	key, distinct := rl.storeKey, room[:0]
	if rl.keyed {
		distinct = rl.appendKey(distinct, c, r)
		key = storeKey(&rl.Bucket, distinct)
	}
	g, ok := (*store).Take(ctx, &rl.Bucket, key)
	switch {
	case ok && rl.shape.calendar != 0 && rl.onAway == policy.OnStoreFailure_Local:
		used := rl.shape.requests - min(g.Remaining, rl.shape.requests)
		rl.own(distinct, now, motion{learn: true, used: used})
		return g, judged
	case ok:
		return g, judged
	case rl.onAway == policy.OnStoreFailure_Allow:
		return Grant{Allowed: true}, waived
	case rl.onAway == policy.OnStoreFailure_Deny:
		return Grant{Retry: awayRetry, Reset: awayRetry}, away
	}
	return rl.own(distinct, now, motion{cost: sharers(*store)}), alone
}

// own moves what this proxy keeps of a global limit: its share while the store is away, and what it last knew of a quota.
func (rl *rule) own(distinct []byte, now moment, m motion) Grant {
	if !rl.keyed {
		return rl.cell.move(&rl.shape, now, m)
	}
	return rl.cell.keys.take(rl.hash(distinct), &rl.shape, now, m)
}

func sharers(s Store) int64 {
	if n, ok := s.(Sharers); ok {
		return int64(min(max(n.Replicas(), 1), maxSharers))
	}
	return 1
}

// move is step on the one state of a rule without keys.
func (c *cell) move(s *shape, now moment, m motion) Grant {
	for {
		old := c.state.Load()
		next, g := s.step(old, now, m)
		if !g.Allowed || next == old || c.state.CompareAndSwap(old, next) {
			return g
		}
	}
}
