// Package compile turns AuthorizationPolicies into an authz.Program with Istio's meaning (security.istio.io/v1).
//
// DENY is judged first; then a workload without ALLOW policies allows, and one with them allows what any of their rules
// matches. AUDIT only marks. CUSTOM hands what it matches to a provider (authz.Handover). A policy in dry run
// (istio.io/dry-run) has no effect but an authz.Shadow, or as CUSTOM a Handover marked so.
//
// A rule is (OR of from) AND (OR of to) AND (AND of when); the fields of one source or operation are ANDed, their values
// ORed, and a notX field is NOT of the OR.
//
// Where a request can be read in two ways, the safe reading counts: DENY, AUDIT and CUSTOM match if any reading (of the path,
// of a repeated header) does, ALLOW only if all do, and a negative field is the mirror image. A positive field never
// matches an absent attribute; a negative one always does (as in Istio).
//
// A pattern of a path is compared as written with the path that is forwarded, and decoded with its decoded reading. Hosts
// are compared without regard to case and as the request names them, like Istio, so that an ALLOW of hosts: [a.example]
// does not match a.example:8080; where any reading counts, also without the port and without a trailing dot. All other
// strings are case-sensitive. Identities are compared by their parsed parts; an ID that is not /ns/NS/sa/SA has neither
// namespace nor service account.
//
// Fields of a verified token (requestPrincipals, request.auth.*) are absent without one. A list matches if any of its
// elements does, for notValues too. Claims are strings and lists of strings, scope and permission words between spaces; a
// number or a boolean is compared by its JSON text, and an object with '*', only where any reading counts.
//
// On a connection whose protocol isn't read (a nil request) an ALLOW rule with an HTTP field or one of a token never
// matches; DENY, AUDIT and CUSTOM rules lose those fields and match on what is left.
package compile

import (
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
	// policies are one Handover. nil, for the function or its result, means that the provider does not exist: it stands
	// among the Handovers without an Authority, after tokens are verified, and what matches is denied.
	Provider func(namespace, name string) *authz.Custom
}

// Compile builds the indexed program of one workload from the policies that select it: those of its own namespace and of
// the root namespace, in any order. The rule that a decision names is the first that matches in the order root
// namespace, namespace, policy name, rule. The error names the policy and the field. Specs are retained.
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

// build compiles once. A threshold of 0 makes no index.
func build(policies []*mesh.Typed[*security.AuthorizationPolicy], o Options, threshold int) (*engine, error) {
	once := &Cache{threshold: threshold}
	return once.compile(policies, o)
}
