// Package judge is the reading and judging of a request: canonicalise its path, ask authorizers, verify tokens, then
// authorize. It does no I/O of its own: authorizers, key sets and the body are what it was given. The live corridor, the
// explanation of a denial and the simulation of a policy all call it, so that they can't disagree.
package judge

import (
	"context"
	"net/http"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
)

// Judge is how one workload reads and judges requests. A value: copied freely, replaced with the settings it came from. The
// zero value is MERGE_SLASHES without trusted proxies, and denies everything.
type Judge struct {
	// Normalization is the form of the path that routing, logs and the forwarded request use.
	Normalization mesh.Normalization
	// NumTrustedProxies is how many addresses at the end of X-Forwarded-For are proxies of ours
	// (defaultConfig.gatewayTopology.numTrustedProxies, Envoy's xff_num_trusted_hops).
	NumTrustedProxies int
	// Program is what policies were compiled to; nil denies.
	Program *authz.Program
	// Tokens verifies end users' tokens; nil reads none.
	Tokens *jwt.Authenticator
}

// New takes what it needs of the mesh's settings.
func New(s mesh.Settings, p *authz.Program, tokens *jwt.Authenticator) Judge {
	return Judge{Normalization: s.Normalization, NumTrustedProxies: s.NumTrustedProxies, Program: p, Tokens: tokens}
}

// Body reads the beginning of a request's body without taking it off.
type Body interface {
	// PeekBody waits until max bytes of the body, decoded, or all of it are there; whole says which. The bytes are valid
	// until the request is forwarded.
	PeekBody(max int) (body []byte, whole bool, failure *proxy.Failure)
}

// Case is one request before its judge. It and all it points to belong to one connection.
type Case struct {
	Connection *authz.Connection
	Head       *proxy.Head
	// Request is filled by Authorize, and good for judging again until its next use.
	Request *authz.Request
	Scratch *Scratch
	// Body may be nil: then no authority gets one.
	Body     Body
	Received time.Time
}

// Verdict is what was decided. Its slices are the scratch's.
type Verdict struct {
	// Permit is valid only if the request may be forwarded.
	Permit authz.Permit
	// By denied it; nil if it is allowed, or if its path could not be read.
	By *authz.RuleRef
	// Allowing is the ALLOW rule that matched, nil where there is no ALLOW policy. Audit is the first AUDIT rule that
	// matched, on denials too.
	Allowing, Audit *authz.RuleRef
	// Shadows are the outcomes of policies in dry run.
	Shadows []authz.Shadow
	// Client are what authorities want in the response that the server gives.
	Client []authz.HeaderEdit

	found jwt.Found
}

// Authorize canonicalises the path of a request, asks the authorities whose CUSTOM rules match, verifies its tokens, and
// decides: authorizers, tokens, RegoPolicies, DENY, ALLOW. The verdict's permit is valid only without a failure: BadPath,
// BodyTooLarge, AuthorityDenied, AuthorityFailed, TokenInvalid, or Denied with the access log's detail.
//
// It changes the head as authorities and tokens ask for; what must not be forwarded is taken off by Strip. Nothing is
// allocated for a clean path where no authority and no token takes part.
func (j Judge) Authorize(ctx context.Context, k *Case) (Verdict, *proxy.Failure) {
	return j.authorize(ctx, k, nil)
}

func (j Judge) authorize(ctx context.Context, k *Case, t *Trace) (v Verdict, failure *proxy.Failure) {
	h, s := k.Head, k.Scratch
	decoded, failure := j.canonicalise(h, s)
	if failure != nil {
		*k.Request = authz.Request{}
		return v, failure
	}
	*k.Request = authz.Request{
		Method:      h.Method,
		Host:        h.Authority,
		Path:        h.Path,
		DecodedPath: decoded,
		Headers:     h,
		RemoteIP:    forwardedFor(h, j.NumTrustedProxies),
		Query:       h.Query,
		Minor:       h.Minor,
		Received:    k.Received,
	}
	if j.NumTrustedProxies > 0 {
		k.Request.ClientIP = k.Request.RemoteIP
	}
	s.shadows, s.client = s.shadows[:0], s.client[:0]
	e := j.Program.Engine()
	if e == nil {
		d := authz.Decision{}
		v.By = d.By()
		return v, s.fail(proxy.Denied, d.Detail())
	}
	handovers := e.Handovers()
	if failure = j.ask(ctx, k, &v, handovers, false, t); failure == nil {
		failure = j.authenticate(ctx, k, &v, t)
	}
	if failure == nil {
		failure = j.ask(ctx, k, &v, handovers, true, t)
	}
	if failure == nil {
		failure = j.decide(k, &v, e)
	}
	v.Shadows, v.Client = s.shadows, s.client
	return v, failure
}

// decide is DENY and ALLOW, and the policies in dry run.
func (j Judge) decide(k *Case, v *Verdict, e authz.Engine) *proxy.Failure {
	if e.DryRuns() {
		k.Scratch.shadows = e.DryRun(k.Scratch.shadows, k.Connection, k.Request)
	}
	permit, decision := j.Program.Decide(k.Connection, k.Request)
	v.Audit = decision.Audit
	if !decision.Allowed {
		v.By = decision.By()
		return k.Scratch.fail(proxy.Denied, decision.Detail())
	}
	v.Permit, v.Allowing = permit, decision.Rule
	return nil
}

// AuthorizeTCP decides over a connection whose protocol isn't read.
func (j Judge) AuthorizeTCP(ctx context.Context, c *authz.Connection, s *Scratch) (Verdict, *proxy.Failure) {
	var v Verdict
	k := Case{Connection: c, Scratch: s}
	s.shadows, s.client = s.shadows[:0], s.client[:0]
	e := j.Program.Engine()
	if e == nil {
		d := authz.Decision{}
		v.By = d.By()
		return v, proxy.Fail(proxy.Denied, d.Detail(), nil)
	}
	handovers := e.Handovers()
	failure := j.ask(ctx, &k, &v, handovers, false, nil)
	if failure == nil {
		failure = j.ask(ctx, &k, &v, handovers, true, nil)
	}
	if failure == nil {
		failure = j.decide(&k, &v, e)
	}
	v.Shadows = s.shadows
	return v, failure
}

// Again judges what is in flight when the program changed: DENY and ALLOW, and the RegoPolicies that don't read bodies. An
// external authorizer and the verification of a token stand as they were. r is nil for TCP. by is nil for going on.
func (j Judge) Again(ctx context.Context, c *authz.Connection, r *authz.Request) (by *authz.RuleRef, detail string) {
	e := j.Program.Engine()
	if e == nil {
		d := authz.Decision{}
		return d.By(), d.Detail()
	}
	for i, h := range e.Handovers() {
		if h.DryRun {
			continue
		}
		a := h.Custom.Authority
		rule := e.Handover(i, c, r)
		if rule == nil || a != nil && (!h.Custom.AfterToken || a.Needs().Body > 0) {
			continue
		}
		if a == nil || !a.Ask(ctx, c, r).Allowed {
			return h.Custom.Ref, deniedBy(h.Custom.Ref)
		}
	}
	if _, d := j.Program.Decide(c, r); !d.Allowed {
		return d.By(), d.Detail()
	}
	return nil, ""
}

// Canonicalise makes h.Path canonical: all that the outbound corridor judges, since the server's side authorizes.
func (j Judge) Canonicalise(h *proxy.Head, s *Scratch) *proxy.Failure {
	_, failure := j.canonicalise(h, s)
	return failure
}

// canonicalise writes the canonical path into the head, whose arena holds it, and returns the decoded reading. CONNECT
// has no path, and '*' is a target of OPTIONS only (RFC 9112 section 3.2).
func (j Judge) canonicalise(h *proxy.Head, s *Scratch) (decoded string, failure *proxy.Failure) {
	switch {
	case h.Path == "" && h.Method == http.MethodConnect:
		return "", nil
	case h.Path == "*" && h.Method == http.MethodOptions:
		return "*", nil
	}
	canonical, decoded, failure := Canonical(h.Path, j.Normalization, s)
	if failure != nil {
		return "", failure
	}
	if canonical != h.Path {
		same := canonical == decoded
		h.Path = h.Intern(s.canonical)
		if same {
			decoded = h.Path
		}
	}
	return decoded, nil
}
