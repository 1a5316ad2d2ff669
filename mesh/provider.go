package mesh

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	meshconfig "istio.io/api/mesh/v1alpha1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh/policy"
)

// DryRunAnnotation is Istio's: with the value "true" an AuthorizationPolicy is judged and counted, and decides nothing.
const DryRunAnnotation = "istio.io/dry-run"

// DryRun reports whether the object is an AuthorizationPolicy that only rehearses.
func (m *Meta) DryRun() bool {
	return m.Kind == KindAuthorizationPolicy && m.Annotations[DryRunAnnotation] == "true"
}

// Provider is what provider.name of a CUSTOM policy of that namespace means: an ext_authz provider of MeshConfig, else the
// RegoPolicy of that name in the policy's namespace, else in the root namespace. Both are nil when there is none: then what
// the policy matches is denied.
func (v *View) Provider(namespace, name string) (ext *meshconfig.MeshConfig_ExtensionProvider, rego *Typed[*policy.RegoPolicy]) {
	return provider(&v.Mesh, v.Rego, namespace, name)
}

func provider(s *Settings, rego []*Typed[*policy.RegoPolicy], namespace, name string) (*meshconfig.MeshConfig_ExtensionProvider, *Typed[*policy.RegoPolicy]) {
	if ext := s.Providers[name]; ext != nil || name == "" {
		return ext, nil
	}
	for _, ns := range []string{namespace, s.RootNamespace} {
		i := slices.IndexFunc(rego, func(r *Typed[*policy.RegoPolicy]) bool { return r.Namespace == ns && r.Name == name })
		if i >= 0 {
			return nil, rego[i]
		}
	}
	return nil, nil
}

// readProviders are the providers that authorize, by name. Of the two spellings of one list only includeRequestHeadersInCheck
// is left.
func readProviders(c *meshconfig.MeshConfig) map[string]*meshconfig.MeshConfig_ExtensionProvider {
	var out map[string]*meshconfig.MeshConfig_ExtensionProvider
	for _, p := range c.GetExtensionProviders() {
		http := p.GetEnvoyExtAuthzHttp()
		if http == nil && p.GetEnvoyExtAuthzGrpc() == nil {
			continue
		}
		//lint:ignore SA1019 deprecated, and still written
		if old := http.GetIncludeHeadersInCheck(); len(old) > 0 {
			p = proto.CloneOf(p)
			http = p.GetEnvoyExtAuthzHttp()
			http.IncludeRequestHeadersInCheck = append(http.IncludeRequestHeadersInCheck, old...)
			//lint:ignore SA1019 as above
			http.IncludeHeadersInCheck = nil
		}
		if out == nil {
			out = make(map[string]*meshconfig.MeshConfig_ExtensionProvider)
		}
		out[p.GetName()] = p
	}
	return out
}

// ProviderService is the service ([NAMESPACE/]HOST) and the port that an ext_authz provider asks.
func ProviderService(p *meshconfig.MeshConfig_ExtensionProvider) (service string, port uint32) {
	if h := p.GetEnvoyExtAuthzHttp(); h != nil {
		return h.GetService(), h.GetPort()
	}
	return p.GetEnvoyExtAuthzGrpc().GetService(), p.GetEnvoyExtAuthzGrpc().GetPort()
}

// authorizer is the service that a provider asks, whoever may see it; why is what is wrong if there is none. Without a
// namespace the host must be defined in one namespace only; of one namespace a Service of Kubernetes counts, else the older ServiceEntry. candidates are all
// that the provider may mean, so that who is told of them all comes to the same end.
func (w *world) authorizer(p *meshconfig.MeshConfig_ExtensionProvider) (s *Service, candidates []*Service, why string) {
	service, port := ProviderService(p)
	namespace, host, two := strings.Cut(service, "/")
	if !two {
		host = service
	}
	for _, have := range w.index.hosts[strings.ToLower(host)] {
		if !two || have.Namespace == namespace {
			candidates = append(candidates, have.Service)
		}
	}
	if len(candidates) == 0 {
		return nil, nil, "no ServiceEntry defines it"
	}
	s = candidates[0]
	for _, other := range candidates {
		if other.Namespace != s.Namespace {
			return nil, candidates, "is defined in the namespaces " + s.Namespace + " and " + other.Namespace + ": write NAMESPACE/HOST"
		}
	}
	if !slices.ContainsFunc(s.Ports, func(have ServicePort) bool { return have.Number == port }) {
		return nil, candidates, "it has no such port"
	}
	return s, candidates, ""
}

// customs are the CUSTOM policies among some.
func customs(policies []*Typed[*security.AuthorizationPolicy]) []*Typed[*security.AuthorizationPolicy] {
	var out []*Typed[*security.AuthorizationPolicy]
	for _, p := range policies {
		if p.Spec.GetAction() == security.AuthorizationPolicy_CUSTOM {
			out = append(out, p)
		}
	}
	return out
}
