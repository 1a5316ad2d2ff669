// Package compile turns AuthorizationPolicies into an authz.Program with Istio's meaning (security.istio.io/v1).
//
// DENY is judged first; then a workload without ALLOW policies allows, and one with them allows what any of their rules
// matches. AUDIT only marks. A rule is (OR of from) AND (OR of to) AND (AND of when); the fields of one source or
// operation are ANDed, their values ORed, and a notX field is NOT of the OR.
//
// Where a request can be read in two ways, the safe reading counts: DENY and AUDIT match if any reading (of the path, of
// a repeated header) does, ALLOW only if all do, and a negative field is the mirror image. A positive field never
// matches an absent attribute; a negative one always does (as in Istio).
//
// A pattern of a path is compared as written with the path that is forwarded, and decoded with its decoded reading. Hosts
// are compared without regard to case and as the request names them, like Istio, so that an ALLOW of hosts: [a.example]
// does not match a.example:8080; where any reading counts, also without the port and without a trailing dot. All other
// strings are case-sensitive. Identities are compared by their parsed parts; an ID that is not /ns/NS/sa/SA has neither namespace nor service account.
//
// On a connection whose protocol isn't read (a nil request) an ALLOW rule with an HTTP field never matches; DENY and
// AUDIT rules lose those fields and match on what is left.
package compile

import (
	"cmp"
	"fmt"
	"slices"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
)

// Options are what the meaning of a policy depends on besides its own text.
type Options struct {
	// TrustDomain is the mesh's own; in principals cluster.local points to it.
	TrustDomain string
	// Aliases are MeshConfig's trustDomainAliases: a principal of the trust domain or of any alias is expanded to all of
	// them.
	Aliases []string
	// RootNamespace is whose policies come first in order (istio-system).
	RootNamespace string
	// Provider resolves provider.name of a CUSTOM policy of that namespace. The same authority is the same pointer: its
	// policies are one Handover. nil, for the function or its result, means that the provider does not exist: what
	// matches is denied.
	Provider func(namespace, name string) *authz.Custom
}

// Compile builds the indexed program of one workload from the policies that select it: those of its own namespace and of
// the root namespace, in any order. The rule that a decision names is the first that matches in the order root
// namespace, namespace, policy name, rule. The error names the policy and the field. Policies are not retained.
func Compile(policies []*mesh.Typed[*security.AuthorizationPolicy], o Options) (*authz.Program, error) {
	e, err := build(policies, o, linearBelow)
	if err != nil {
		return nil, err
	}
	return authz.NewProgram(e), nil
}

// CompileLinear builds a program that asks every rule in order. It is the oracle that tests hold Compile's against; the
// two share what a rule means and differ in how rules are found.
func CompileLinear(policies []*mesh.Typed[*security.AuthorizationPolicy], o Options) (*authz.Program, error) {
	e, err := build(policies, o, 0)
	if err != nil {
		return nil, err
	}
	return authz.NewProgram(e), nil
}

// linearBelow is the number of rules from which an index pays.
const linearBelow = 4

// phases are the rules by action, for HTTP requests or for TCP connections.
type phases struct{ audit, deny, allow set }

type engine struct {
	http, tcp phases
	// restricts is true when there is an ALLOW policy, even one without rules.
	restricts bool
}

func build(policies []*mesh.Typed[*security.AuthorizationPolicy], o Options, threshold int) (*engine, error) {
	for i, p := range policies {
		if p == nil || p.Spec == nil {
			return nil, fmt.Errorf("compiling AuthorizationPolicy %d of %d: there is no spec", i+1, len(policies))
		}
	}
	ordered := slices.Clone(policies)
	slices.SortStableFunc(ordered, func(a, b *mesh.Typed[*security.AuthorizationPolicy]) int {
		return cmp.Or(
			cmp.Compare(rank(a.Namespace, o.RootNamespace), rank(b.Namespace, o.RootNamespace)),
			cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name))
	})

	e, order := &engine{}, 0
	var audit, deny, allow []*rule
	for _, p := range ordered {
		t := translator{policy: p, options: o}
		rules, err := t.rules()
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			r.order = order
			order++
		}
		switch p.Spec.GetAction() {
		case security.AuthorizationPolicy_DENY:
			deny = append(deny, rules...)
		case security.AuthorizationPolicy_AUDIT:
			audit = append(audit, rules...)
		default: // translator.rules lets no action but these through
			allow, e.restricts = append(allow, rules...), true
		}
	}
	e.http = phases{newSet(audit, threshold), newSet(deny, threshold), newSet(allow, threshold)}
	e.tcp = phases{newSet(widened(audit), threshold), newSet(widened(deny), threshold), newSet(narrowed(allow), threshold)}
	return e, nil
}

func rank(namespace, root string) int {
	if namespace == root {
		return 0
	}
	return 1
}

// Judge implements authz.Engine. It doesn't allocate, save for a host of more than maxHost bytes.
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

// Handovers implements authz.Engine.
func (e *engine) Handovers() []authz.Handover { return nil }

// Handover implements authz.Engine.
func (e *engine) Handover(int, *authz.Connection, *authz.Request) *authz.RuleRef { return nil }

// DryRuns implements authz.Engine.
func (e *engine) DryRuns() bool { return false }

// DryRun implements authz.Engine.
func (e *engine) DryRun(dst []authz.Shadow, _ *authz.Connection, _ *authz.Request) []authz.Shadow {
	return dst
}

// Explain implements authz.Engine.
func (e *engine) Explain(*authz.Connection, *authz.Request) []authz.PolicyTrace { return nil }
