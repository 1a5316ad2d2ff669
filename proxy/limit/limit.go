// Package limit counts requests against RateLimitPolicies (policy.signet.dev/v1alpha1): local limits by GCRA in one atomic
// word, keyed ones in a table of fixed size, global ones by leases of tokens that a Store gives. No I/O, no goroutine; the
// clock is a parameter.
//
// A rule is for a request if all of its clientSelectors are, and everything that stands in one (methods are alternatives).
// Where a request can be read in two ways, a limit applies if either reading matches. Distinct selectors give each value
// a bucket of its own: each SPIFFE ID (callers without one share one), each IPv4 address and each IPv6 /64 (each address
// within a block of /64 or less), each value of a header or parameter (requests that repeat it with different values share
// one). Values are told apart by a 64-bit hash with a secret seed in this process, by 128 bits of SHA-256 in the store.
//
// Limits by second, minute and hour let through a burst and then one request after the other at the rate, never more than
// rate x time + burst in any window. Those by day and month are quotas of a calendar day or month in UTC.
package limit

import (
	"context"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh/policy"
)

// Store gives tokens of global limits. Implemented by proxy/limit/lease. Safe for concurrent use.
type Store interface {
	// Take decides one request against a shared limit. It waits no longer than 5 ms. ok is false when the store is away:
	// then what the rule says for that case applies.
	Take(ctx context.Context, b *Bucket, key Key) (g Grant, ok bool)
}

// Sharers is what a Store may offer besides: how many proxies shared it when it was last heard of. A rule whose
// onStoreFailure is Local then takes its share; 1 without this method.
type Sharers interface{ Replicas() int }

// Key is the hash of a rule and of what it distinguishes (identity, header value, address).
type Key [16]byte

// Bucket is the shape of one limit. Immutable.
type Bucket struct {
	// Name is stable over restarts and the same in all proxies, and it outlives changes of the policy that are not about what
	// is counted: NAMESPACE/NAME/SCOPE/HASH/TWIN, of which SCOPE is local or global, HASH of the rule's selectors and unit, and
	// TWIN how many rules with the same are above it in that scope. Its place among others and its numbers are no part of it.
	Name     string
	Requests uint32
	Period   time.Duration     // of a GCRA limit; 0 for quotas
	Calendar policy.Limit_Unit // Day or Month for quotas of a calendar day or month in UTC, else 0
	Burst    uint32
}

// Grant is what became of one request against one limit.
type Grant struct {
	Allowed   bool
	Remaining uint32
	// Retry is how long to wait when it is not allowed, Reset when the limit is as new.
	Retry, Reset time.Duration
}

// Verdict is what all limits say of one request. The zero value has no limits and allows.
type Verdict struct {
	// Refused is the rule that refuses, nil if the request may go on.
	Refused *authz.RuleRef
	// Shadow is a rule in shadow mode that would have refused.
	Shadow *authz.RuleRef
	Retry  time.Duration
	// Tightest describes for the ratelimit fields the rule that refuses, else the one with the least left; nil if no rule
	// matched.
	Tightest *Rule
	Grant    Grant
	// StoreAway says that the refusal is not for the limit but because its store can't be asked: onStoreFailure is Deny, or
	// there is no store at all.
	StoreAway bool
}

// Rule is one rule of one policy, compiled. Immutable.
type Rule struct {
	// Ref numbers a policy's rules through: local ones, then global ones; -1 is a quarantined policy.
	Ref    *authz.RuleRef
	Bucket Bucket
	Global bool
	fields *fieldParts
}

// Status is what a rule has done since this process began to count by it.
type Status struct {
	Rule   *Rule
	Shadow bool
	// Allowed, Refused and Shadowed (let through although the limit was reached) add up to the requests that matched.
	Allowed, Refused, Shadowed uint64
	// Alone is how many of them were judged without the store that they should have been judged by.
	Alone uint64
	// Keys is how many slots the table of a keyed rule has taken (some may have run out), Slots how many it has now.
	Keys, Slots int
	// Evictions is how many keys were forgotten before their time, because the table was full.
	Evictions uint64
}
