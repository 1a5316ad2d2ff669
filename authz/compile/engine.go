package compile

import (
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
)

// phases are the rules by action, for HTTP requests or for TCP connections.
type phases struct{ audit, deny, allow set }

// engine is a compiled set of policies. Immutable.
type engine struct {
	http, tcp phases
	// restricts is true when there is an ALLOW policy, even one without rules.
	restricts bool

	handovers []authz.Handover
	// customs are the rules of handovers, by position.
	customs []*ruleSet
	// shadows are the policies in dry run, CUSTOM aside.
	shadows []*translated
	// judged are the policies that act and have no handover, by action; only Explain reads them.
	judged [3][]*translated // AUDIT, DENY, ALLOW
}

// add takes one set; sets come in the order in which they are judged.
func (e *engine) add(k setKey, s *ruleSet) {
	switch k.action {
	case security.AuthorizationPolicy_CUSTOM:
		e.handovers = append(e.handovers, authz.Handover{Custom: k.custom, DryRun: k.dryRun})
		e.customs = append(e.customs, s)
	case security.AuthorizationPolicy_AUDIT:
		e.http.audit, e.tcp.audit, e.judged[0] = s.http, s.tcp, s.policies
	case security.AuthorizationPolicy_DENY:
		e.http.deny, e.tcp.deny, e.judged[1] = s.http, s.tcp, s.policies
	default: // accept lets no action but these through
		e.http.allow, e.tcp.allow, e.judged[2], e.restricts = s.http, s.tcp, s.policies, true
	}
}

// Judge implements authz.Engine. It doesn't allocate, save for a host of more than maxHost bytes or a request principal of
// more than maxPrincipal.
func (e *engine) Judge(c *authz.Connection, r *authz.Request) authz.Decision {
	var f facts
	f.read(c, r)
	p := &e.http
	if r == nil {
		p = &e.tcp
	}

	f.wide = true
	d := authz.Decision{Audit: p.audit.first(&f)}
	if d.Rule = p.deny.first(&f); d.Rule != nil {
		d.Reason = authz.DenyMatched
		return d
	}
	if !e.restricts {
		d.Allowed, d.Reason = true, authz.NoAllowPolicy
		return d
	}
	f.wide = false
	if d.Rule = p.allow.first(&f); d.Rule != nil {
		d.Allowed, d.Reason = true, authz.AllowMatched
		return d
	}
	d.Reason = authz.NoAllow
	return d
}

// Handovers implements authz.Engine. The slice must not be modified.
func (e *engine) Handovers() []authz.Handover { return e.handovers }

// Handover implements authz.Engine. It allocates as little as Judge.
func (e *engine) Handover(i int, c *authz.Connection, r *authz.Request) *authz.RuleRef {
	f := facts{wide: true}
	f.read(c, r)
	return e.customs[i].first(&f, r == nil)
}

// DryRuns implements authz.Engine.
func (e *engine) DryRuns() bool { return len(e.shadows) > 0 }

// DryRun implements authz.Engine: one Shadow for each policy, whose Rule has the number -1 if none of its rules matches.
func (e *engine) DryRun(dst []authz.Shadow, c *authz.Connection, r *authz.Request) []authz.Shadow {
	if len(e.shadows) == 0 {
		return dst
	}
	var f facts
	f.read(c, r)
	for _, p := range e.shadows {
		f.wide = p.wide()
		matched := p.alone.first(&f, r == nil)
		s := authz.Shadow{Rule: matched}
		switch {
		case matched == nil:
			s.Rule, s.Denied = p.whole, p.action == security.AuthorizationPolicy_ALLOW
		case p.action == security.AuthorizationPolicy_DENY:
			s.Denied = true
		}
		dst = append(dst, s)
	}
	return dst
}

// first is the first rule that matches a request, or a TCP connection.
func (s *ruleSet) first(f *facts, tcp bool) *authz.RuleRef {
	if tcp {
		return s.tcp.first(f)
	}
	return s.http.first(f)
}
