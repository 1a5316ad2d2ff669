package compile

import (
	"cmp"
	"slices"
	"strings"

	meshconfig "istio.io/api/mesh/v1alpha1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	policies "github.com/signet-mesh/signet/authz/compile"
	"github.com/signet-mesh/signet/authz/rego"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// authorizer is the state of compiling one workload's policies.
type authorizer struct {
	*compiler
	customs map[string]*authz.Custom
	err     error
}

// program compiles the policies. An error names the policy that is at fault.
func (c *compiler) program() (*authz.Program, error) {
	a := &authorizer{compiler: c, customs: map[string]*authz.Custom{}}
	o := policies.Options{TrustDomain: c.view.TrustDomain, Aliases: c.view.Mesh.TrustDomainAliases,
		RootNamespace: c.view.Mesh.RootNamespace, Provider: a.provider}
	all := c.view.Authorization
	for _, r := range c.view.RequestAuthentication {
		if r.Quarantined() {
			all = append(slices.Clip(all), denyAll(&r.Meta))
		}
	}
	p, err := c.parts.Policies(workloadKey(c.view.Self)).Compile(all, o)
	if a.err != nil {
		return nil, a.err
	}
	if err == nil {
		return p, nil
	}
	for i, one := range all {
		if _, alone := policies.Compile(all[i:i+1], o); alone != nil {
			field, cause := policies.Field(alone)
			return nil, &Fault{one.Key, field, cause}
		}
	}
	return nil, err
}

// denyAll stands for a refused object whose absence would let callers in.
func denyAll(m *mesh.Meta) *mesh.Typed[*security.AuthorizationPolicy] {
	return &mesh.Typed[*security.AuthorizationPolicy]{Meta: *m,
		Spec: &security.AuthorizationPolicy{Action: security.AuthorizationPolicy_DENY, Rules: []*security.Rule{{}}}}
}

// provider resolves provider.name of a CUSTOM policy. One that can't be built is an error of the object it is.
func (a *authorizer) provider(namespace, name string) *authz.Custom {
	ext, regoPolicy := a.view.Provider(namespace, name)
	switch {
	case ext != nil:
		return a.keep("ExtensionProvider/"+name, func() *authz.Custom { return a.external(ext) })
	case regoPolicy != nil:
		return a.keep(regoPolicy.Namespace+"/"+regoPolicy.Name, func() *authz.Custom { return a.rego(regoPolicy) })
	}
	return a.keep("unresolved/"+name, func() *authz.Custom {
		a.warnings = append(a.warnings, "provider \""+name+"\" of a CUSTOM policy in namespace "+namespace+" does not exist: what it matches is denied")
		return &authz.Custom{Ref: authz.NewRef("ExtensionProvider", "", name, -1), AfterToken: true}
	})
}

func (a *authorizer) keep(key string, build func() *authz.Custom) *authz.Custom {
	if c := a.customs[key]; c != nil {
		return c
	}
	c := build()
	a.customs[key] = c
	return c
}

func (a *authorizer) external(p *meshconfig.MeshConfig_ExtensionProvider) *authz.Custom {
	out := &authz.Custom{Ref: authz.NewRef("ExtensionProvider", "", p.Name, -1)}
	authority, err := a.parts.ExtAuthz(p, a.authorizerCluster(p))
	if err != nil {
		a.fail(mesh.Key{Kind: mesh.KindConfigMap, Namespace: a.view.Mesh.RootNamespace, Name: "istio"}, "data.mesh.extensionProviders", err)
		return out
	}
	out.Authority = authority
	return out
}

// authorizerCluster is a cluster of the provider's own, for the port that it names; "" if its service does not exist. It is
// not the one that the workload's programs use: what its namespace imports or defines must not lead a check elsewhere.
func (a *authorizer) authorizerCluster(p *meshconfig.MeshConfig_ExtensionProvider) string {
	s := a.view.Authorizers[p.Name]
	_, number := mesh.ProviderService(p)
	if s == nil {
		return ""
	}
	for i := range s.Ports {
		if s.Ports[i].Number != number {
			continue
		}
		name, shared := "authorizer|"+p.Name, a.specs
		a.specs = map[string]upstream.Spec{}
		err := a.portClusters(s, i, a.destinationRule(s))
		spec := a.specs[ClusterName(number, "", s.Host)]
		a.specs = shared
		if err != nil {
			a.err = cmp.Or(a.err, err)
			return ""
		}
		spec.Name = name
		a.specs[name] = spec
		return name
	}
	return ""
}

func (a *authorizer) rego(p *mesh.Typed[*policy.RegoPolicy]) *authz.Custom {
	out := &authz.Custom{Ref: authz.NewRef(mesh.KindRegoPolicy, p.Namespace, p.Name, -1), AfterToken: true}
	if p.Quarantined() {
		return out
	}
	authority, err := a.parts.Rego(p, a.view)
	if err != nil {
		field, cause := rego.Field(err)
		a.fail(p.Key, strings.TrimSuffix("spec."+field, "."), cause)
		return out
	}
	out.Authority = authority
	return out
}

func (a *authorizer) fail(key mesh.Key, field string, cause error) {
	if a.err == nil {
		a.err = &Fault{key, field, cause}
	}
}

// tokens compiles the RequestAuthentications; nil if there are none.
func (c *compiler) tokens() (*jwt.Authenticator, error) {
	var rules []jwt.Rule
	for _, r := range c.view.RequestAuthentication {
		if r.Quarantined() {
			continue
		}
		for i, j := range r.Spec.GetJwtRules() {
			keys, err := c.parts.Keys(&r.Meta, j)
			if err != nil {
				return nil, of(&r.Meta, item("spec.jwtRules", i)+".jwks", err)
			}
			rules = append(rules, jwtRule(&r.Meta, i, j, keys))
		}
	}
	if len(rules) == 0 {
		return nil, nil
	}
	return jwt.New(rules), nil
}

func jwtRule(m *mesh.Meta, i int, j *security.JWTRule, keys jwt.Keys) jwt.Rule {
	out := jwt.Rule{Namespace: m.Namespace, Name: m.Name, Index: i, Issuer: j.Issuer, Audiences: j.Audiences, Keys: keys,
		Params: j.FromParams, Cookies: j.FromCookies, Forward: j.ForwardOriginalToken, PayloadHeader: strings.ToLower(j.OutputPayloadToHeader)}
	for _, h := range j.FromHeaders {
		out.Headers = append(out.Headers, jwt.HeaderLocation{Name: strings.ToLower(h.Name), Prefix: h.Prefix})
	}
	for _, h := range j.OutputClaimToHeaders {
		out.ClaimHeaders = append(out.ClaimHeaders, jwt.ClaimHeader{Header: strings.ToLower(h.Header), Claim: h.Claim})
	}
	return out
}
