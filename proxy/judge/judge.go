// Package judge is the reading and judging of a request: canonicalise its path, then authorize, without I/O. The live
// corridor, the explanation of a denial and the simulation of a policy all call it, so that they can't disagree.
package judge

import (
	"net/http"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
)

// Judge is how one workload reads requests. A value: copied freely, replaced with the settings it came from. The zero
// value is MERGE_SLASHES without trusted proxies.
type Judge struct {
	// Normalization is the form of the path that routing, logs and the forwarded request use.
	Normalization mesh.Normalization
	// NumTrustedProxies is how many addresses at the end of X-Forwarded-For are proxies of ours
	// (defaultConfig.gatewayTopology.numTrustedProxies, Envoy's xff_num_trusted_hops).
	NumTrustedProxies int
}

// New takes what it needs of the mesh's settings.
func New(s mesh.Settings) Judge {
	return Judge{Normalization: s.Normalization, NumTrustedProxies: s.NumTrustedProxies}
}

// Authorize canonicalises the path of a request, in h, and decides. The permit is valid only without a failure: BadPath,
// or Denied with the access log's detail.
//
// It fills req, which like s belongs to the connection and is good for judging again until their next use. Nothing is
// allocated for a clean path; the decision's Audit is set on denials too.
func (j Judge) Authorize(p *authz.Program, c *authz.Connection, h *proxy.Head, req *authz.Request, s *Scratch) (authz.Permit, authz.Decision, *proxy.Failure) {
	decoded, failure := j.canonicalise(h, s)
	if failure != nil {
		*req = authz.Request{}
		return authz.Permit{}, authz.Decision{}, failure
	}
	*req = authz.Request{
		Method:      h.Method,
		Host:        h.Authority,
		Path:        h.Path,
		DecodedPath: decoded,
		Headers:     h,
		RemoteIP:    forwardedFor(h, j.NumTrustedProxies),
	}
	permit, decision := p.Decide(c, req)
	if !decision.Allowed {
		return authz.Permit{}, decision, s.fail(proxy.Denied, decision.Detail())
	}
	return permit, decision, nil
}

// AuthorizeTCP decides over a connection whose protocol isn't read.
func (j Judge) AuthorizeTCP(p *authz.Program, c *authz.Connection) (authz.Permit, authz.Decision, *proxy.Failure) {
	permit, decision := p.Decide(c, nil)
	if !decision.Allowed {
		return authz.Permit{}, decision, proxy.Fail(proxy.Denied, decision.Detail(), nil)
	}
	return permit, decision, nil
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
