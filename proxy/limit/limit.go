// Package limit counts requests against RateLimitPolicies (policy.signet.dev/v1alpha1): local limits by GCRA in one atomic
// word, keyed ones in a table of fixed size, global ones by leases of tokens that a Store gives. No I/O, no goroutine; the
// clock is a parameter.
package limit

import (
	"context"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// Store gives tokens of global limits. Implemented by proxy/limit/lease. Safe for concurrent use.
type Store interface {
	// Take decides one request against a shared limit. It waits no longer than 5 ms. ok is false when the store is away:
	// then what the rule says for that case applies.
	Take(ctx context.Context, b *Bucket, key Key) (g Grant, ok bool)
}

// Key is the hash of a rule and of what it distinguishes (identity, header value, address).
type Key [16]byte

// Bucket is the shape of one limit. Immutable.
type Bucket struct {
	// Name is stable over restarts and the same in all proxies: NAMESPACE/NAME/RULE and a hash of the limit.
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
}

// Rule is one rule of one policy, compiled. Immutable.
type Rule struct {
	Ref    *authz.RuleRef
	Bucket Bucket
	Global bool
}

// Registry keeps the state of limits over changes of configuration: a rule that did not change goes on counting.
type Registry struct{}

// NewRegistry builds an empty registry. now is the clock, time.Now where nil.
func NewRegistry(now func() time.Time) *Registry { return &Registry{} }

// SetStore changes the store of global limits; nil is no store.
func (r *Registry) SetStore(s Store) {}

// Set is the limits of one listener or route. Immutable but for its counters; safe for concurrent use. The nil *Set has no
// limits.
type Set struct{}

// Compile reads policies; an error names the policy and the field (Field gives them). State of rules that an earlier Set
// of the registry had is taken over.
func (r *Registry) Compile(policies []*mesh.Typed[*policy.RateLimitPolicy]) (*Set, error) {
	return &Set{}, nil
}

// Take counts a request against every rule that matches.
func (s *Set) Take(ctx context.Context, c *authz.Connection, r *authz.Request) Verdict {
	return Verdict{}
}

// AppendFields appends the fields ratelimit-policy and ratelimit (draft-ietf-httpapi-ratelimit-headers) of a verdict, and
// retry-after of a refusal.
func (v *Verdict) AppendFields(dst []Field) []Field { return dst }

// Field is a header field.
type Field struct{ Name, Value string }

// Trace is what one rule says of a request that is only asked about.
type Trace struct {
	Rule    *Rule
	Matched bool
	// Field and Saw are the first selector that did not match and what it saw.
	Field, Saw string
	// Key shows what the rule counts by, "" for all requests together.
	Key   string
	Grant Grant // without counting
	// Known is false where there is no state to ask (why from files).
	Known bool
}

// Explain says what each rule makes of a request, without counting it.
func (s *Set) Explain(c *authz.Connection, r *authz.Request) []Trace { return nil }
