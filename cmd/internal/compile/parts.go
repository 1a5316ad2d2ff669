package compile

import (
	"context"
	"errors"
	"maps"
	"net"

	meshconfig "istio.io/api/mesh/v1alpha1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	policies "github.com/signet-mesh/signet/authz/compile"
	"github.com/signet-mesh/signet/authz/extauthz"
	"github.com/signet-mesh/signet/authz/rego"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/identity/jwt/jwks"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
)

// Parts make what policies need besides the view: the things that live longer than one configuration, or reach out. Each
// is asked once for every use; whoever implements it keeps what did not change.
type Parts interface {
	// Keys is the key set of one rule of a RequestAuthentication, inline or remote.
	Keys(m *mesh.Meta, rule *security.JWTRule) (jwt.Keys, error)
	// Rego is the authority of a RegoPolicy that is not quarantined.
	Rego(p *mesh.Typed[*policy.RegoPolicy], v *mesh.View) (authz.Authority, error)
	// ExtAuthz is the authority of an extension provider whose service is the cluster of that name; "" if there is no such
	// service.
	ExtAuthz(p *meshconfig.MeshConfig_ExtensionProvider, cluster string) (authz.Authority, error)
	// Limits keeps the state of rate limits, Policies what the AuthorizationPolicies of a workload (NAMESPACE/NAME) were
	// compiled to.
	Limits() *limit.Registry
	Policies(workload string) *policies.Cache
}

// Offline are parts that reach out for nothing: remote key sets are empty, bundles are not fetched, external authorizers
// don't answer. It compiles what stands in files, and keeps no state between uses but what is compiled.
type Offline struct {
	limits   *limit.Registry
	policies map[string]*policies.Cache
	rego     map[*policy.RegoPolicy]regoResult
}

type regoResult struct {
	policy *rego.Policy
	err    error
}

// NewOffline builds offline parts. They belong to one goroutine.
func NewOffline() *Offline {
	return &Offline{limits: limit.NewOffline(), policies: map[string]*policies.Cache{}, rego: map[*policy.RegoPolicy]regoResult{}}
}

var errOffline = errors.New("nothing is asked while compiling")

// Keys implements Parts.
func (o *Offline) Keys(_ *mesh.Meta, rule *security.JWTRule) (jwt.Keys, error) {
	if rule.Jwks != "" {
		return jwks.Static([]byte(rule.Jwks))
	}
	return noKeys{}, nil
}

// Rego implements Parts.
func (o *Offline) Rego(p *mesh.Typed[*policy.RegoPolicy], v *mesh.View) (authz.Authority, error) {
	r, known := o.rego[p.Spec]
	if !known {
		r.policy, r.err = rego.New(rego.Config{Namespace: p.Namespace, Name: p.Name, Spec: p.Spec, Builtins: v.RegoBuiltins})
		if len(o.rego) > 1000 {
			clear(o.rego)
		}
		o.rego[p.Spec] = r
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.policy, nil
}

// ExtAuthz implements Parts.
func (o *Offline) ExtAuthz(p *meshconfig.MeshConfig_ExtensionProvider, _ string) (authz.Authority, error) {
	return extauthz.New(extauthz.Config{Provider: p, Dial: func(context.Context) (net.Conn, error) { return nil, errOffline }})
}

// Limits implements Parts.
func (o *Offline) Limits() *limit.Registry { return o.limits }

// Policies implements Parts.
func (o *Offline) Policies(workload string) *policies.Cache {
	c := o.policies[workload]
	if c == nil {
		c = policies.NewCache()
		o.policies[workload] = c
	}
	return c
}

// forget drops what was compiled for workloads that are gone.
func (o *Offline) forget(s *mesh.Snapshot) {
	there := map[string]bool{}
	for _, w := range s.Workloads() {
		there[workloadKey(w)] = true
	}
	maps.DeleteFunc(o.policies, func(w string, _ *policies.Cache) bool { return !there[w] })
}

// noKeys is a key set that was not fetched.
type noKeys struct{}

// Keys implements jwt.Keys.
func (noKeys) Keys() []jwt.Key { return nil }

// Refresh implements jwt.Keys.
func (noKeys) Refresh(context.Context) bool { return false }
