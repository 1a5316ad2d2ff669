// Package rego judges requests by RegoPolicies with OPA in process. Policies of simple forms are lowered to native code;
// all others, and a sample of those, are evaluated by OPA's topdown. Undefined, an error or a timeout is a denial.
//
// The input is opa-envoy-plugin's (attributes, parsed_path, parsed_query, parsed_body, truncated_body, source_principal,
// version), with the verified token of an end user as input.token {issuer, subject, audiences, principal, claims} and as
// Envoy's dynamic metadata (attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"], the payload under
// the issuer's name and under "payload"). Only the fields that a policy reads are built.
//
// Where a path can be read in two ways (authz.Request.DecodedPath) a policy that reads the path must allow both:
// attributes.request.http.path is first the path as it is forwarded and then the decoded one, parsed_path always decoded.
package rego

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh/policy"
)

// Config is what a Policy is built from.
type Config struct {
	Namespace, Name string
	Spec            *policy.RegoPolicy
	// Builtins are the built-in functions that the operator allows by name beside the harmless ones.
	Builtins []string
	// Workload (NAMESPACE/NAME) labels decision logs.
	Workload string
	// StateDir keeps the last good bundle over restarts; "" keeps it in memory only.
	StateDir string
	Log      *slog.Logger
}

// Bounds of spec.timeout; what it is where unset.
const (
	DefaultTimeout = 100 * time.Millisecond
	MaxTimeout     = 10 * time.Second
)

// Policy is one RegoPolicy, ready to judge. It implements authz.Authority; safe for concurrent use.
type Policy struct {
	namespace, name string
	timeout         time.Duration
	query           ast.Ref
	errUndefined    error
	capabilities    *ast.Capabilities
	log             *slog.Logger

	// current is nil until there are modules to judge by: everything is denied.
	current atomic.Pointer[snapshot]
	watches sync.Pool // of *watch
	counters
	remote
}

// errNothing is why a policy whose bundle was never activated denies.
var errNothing = errors.New("waiting for the policy's first bundle")

// New compiles a policy. The error names the field of the spec (Field) and Rego's own position. It does no I/O: a policy
// with a bundle denies until Run has one.
func New(c Config) (*Policy, error) {
	p := &Policy{namespace: c.Namespace, name: c.Name, log: c.Log}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.log = p.log.With("policy", c.Namespace+"/"+c.Name)
	var err error
	if p.timeout, err = timeoutOf(c.Spec); err != nil {
		return nil, err
	}
	if p.query, err = parseQuery(c.Spec.GetQuery()); err != nil {
		return nil, err
	}
	p.errUndefined = fmt.Errorf("evaluating %s: the result is undefined", p.query)
	if p.capabilities, err = capabilities(c.Builtins); err != nil {
		return nil, err
	}
	if err := onlyOneSource(c.Spec); err != nil {
		return nil, err
	}
	if err := p.connect(c); err != nil {
		return nil, err
	}
	if c.Spec.GetBundle() != nil {
		return p, nil
	}
	s, err := p.compile(inline(c.Spec))
	if err != nil {
		return nil, err
	}
	p.current.Store(s)
	return p, nil
}

func timeoutOf(spec *policy.RegoPolicy) (time.Duration, error) {
	if spec.GetTimeout() == nil {
		return DefaultTimeout, nil
	}
	d := spec.GetTimeout().AsDuration()
	if d <= 0 || d > MaxTimeout {
		return 0, faultf("timeout", "%q is not between 1ns and %s", d, MaxTimeout)
	}
	return d, nil
}

// Needs implements authz.Authority. A policy that reads truncated_body takes the beginning of a longer body; for others
// such a request is refused before it is judged.
func (p *Policy) Needs() authz.Needs {
	s := p.current.Load()
	if s == nil || !s.reads.body() {
		return authz.Needs{}
	}
	return authz.Needs{Body: MaxBody, Partial: s.reads.has("truncated_body")}
}

// Ask implements authz.Authority.
func (p *Policy) Ask(ctx context.Context, c *authz.Connection, r *authz.Request) authz.Answer {
	s := p.current.Load()
	if s == nil {
		p.fail(errNothing)
		return authz.Answer{Err: errNothing}
	}
	if s.native != nil && p.reporter == nil && !p.distrusted.Load() {
		if allowed, ok := p.quick(ctx, s, c, r); ok {
			return authz.Answer{Allowed: allowed}
		}
	}
	started := p.startLog()
	v := p.decide(ctx, s, c, r, false)
	if v.answer.Allowed && r != nil && r.DecodedPath != "" && s.twice {
		if other := p.decide(ctx, s, c, r, true); !other.answer.Allowed {
			v = other
		}
	}
	p.record(started, s, c, r, v)
	return v.answer
}

// verdict is one evaluation of one reading of a request.
type verdict struct {
	answer  authz.Answer
	value   ast.Value // nil if undefined, or for a lowered boolean
	decoded bool
}

// decide evaluates one reading of the request: natively where the policy was lowered, else by topdown.
func (p *Policy) decide(ctx context.Context, s *snapshot, c *authz.Connection, r *authz.Request, decoded bool) verdict {
	if s.native != nil && !p.distrusted.Load() {
		if v, ok := p.decideNative(ctx, s, c, r, decoded); ok {
			return v
		}
	}
	p.evaluations.Add(1)
	value, err := p.evaluate(ctx, s, c, r, decoded)
	answer := p.answer(value, err)
	return verdict{answer: answer, value: value, decoded: decoded}
}

// answer counts and turns a result into an Answer.
func (p *Policy) answer(value ast.Value, err error) authz.Answer {
	a := p.read(value, err)
	switch {
	case err == nil && value == nil:
		p.undefined.Add(1)
	case a.Err != nil:
		p.fail(a.Err)
	}
	return a
}

// read turns a result into an Answer. A nil value is undefined.
func (p *Policy) read(value ast.Value, err error) authz.Answer {
	var bad *badRequest
	switch {
	case errors.As(err, &bad):
		return authz.Answer{Status: 400, Err: err}
	case err != nil:
		return authz.Answer{Err: err}
	case value == nil:
		return authz.Answer{Err: p.errUndefined}
	}
	a, err := answer(value)
	if err != nil {
		return authz.Answer{Err: fmt.Errorf("reading the result of %s: %w", p.query, err)}
	}
	return a
}
