package mesh

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/signet-mesh/signet/mesh/policy"
)

// judging selects what decides about requests to a workload: its policies, and whom the CUSTOM ones among them ask.
func (w *world) judging(v *View, used map[Key]bool) {
	v.Authorization = selecting(w, w.index.authorization, authorizationLabels, v.Self)
	v.RequestAuthentication = selecting(w, w.index.authentication, authenticationLabels, v.Self)
	for _, p := range v.RequestAuthentication {
		used[p.Key] = true
	}
	for _, p := range v.Authorization {
		used[p.Key] = true
	}
	for _, p := range customs(v.Authorization) {
		ext, rego := provider(&w.settings, w.rego, p.Namespace, p.Spec.GetProvider().GetName())
		if rego != nil && !used[rego.Key] {
			used[rego.Key] = true
			v.Rego = append(v.Rego, rego)
		}
		if ext == nil {
			continue
		}
		s, candidates, _ := w.authorizer(ext)
		for _, c := range candidates {
			used[c.Key()] = true
		}
		if s == nil {
			continue
		}
		if v.Authorizers == nil {
			v.Authorizers = make(map[string]*Service)
		}
		v.Authorizers[ext.GetName()] = s
	}
	byName(v.Rego)
}

// byName sorts by namespace and name.
func byName[T proto.Message](list []*Typed[T]) {
	slices.SortFunc(list, func(a, b *Typed[T]) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
}

// limiting selects the rate limits of a workload and of its routes. v has its VirtualServices and what it serves.
func (w *world) limiting(v *View, used map[Key]bool) {
	namespaces := map[string]bool{v.Self.Namespace: true, w.settings.RootNamespace: true}
	for _, s := range v.Served {
		namespaces[s.Namespace] = true
	}
	for _, r := range v.VirtualServices {
		namespaces[r.Namespace] = true
	}
	for namespace := range namespaces {
		for _, p := range w.index.limits[namespace] {
			if w.limitsWorkload(v, p) {
				v.RateLimits = append(v.RateLimits, p)
				used[p.Key] = true
			}
			if limitsRoute(v, p) {
				v.RouteLimits = append(v.RouteLimits, p)
				used[p.Key] = true
			}
		}
	}
	byName(v.RateLimits)
	byName(v.RouteLimits)
}

// limitsWorkload reports whether a policy is enforced where requests arrive at a workload. Without targets it selects.
func (w *world) limitsWorkload(v *View, p *Typed[*policy.RateLimitPolicy]) bool {
	own := p.Namespace == v.Self.Namespace
	if len(p.Spec.GetTargetRefs()) == 0 {
		return (own || p.Namespace == w.settings.RootNamespace) && selects(p.Spec.GetSelector().GetMatchLabels(), v.Self.Labels)
	}
	return slices.ContainsFunc(p.Spec.GetTargetRefs(), func(r *policy.TargetRef) bool {
		if r.GetKind() == KindWorkloadEntry {
			return own && r.GetName() == v.Self.Name && !v.Self.Pod
		}
		return slices.ContainsFunc(v.Served, func(s *Service) bool { return targets(r, p.Namespace, s, w.clusterDomain) })
	})
}

// Targets reports whether a targetRef in an object of that namespace means a service of the view.
func (v *View) Targets(r *policy.TargetRef, namespace string, s *Service) bool {
	return targets(r, namespace, s, cmp.Or(v.ClusterDomain, DefaultClusterDomain))
}

// targets reports whether a reference in an object of that namespace means a service: a ServiceEntry by its name, a Service of
// Kubernetes by its name, or where a ServiceEntry stands for one by the host that Istio gives it. All in the namespace of the
// object only (GEP-713).
func targets(r *policy.TargetRef, namespace string, s *Service, domain string) bool {
	switch {
	case s.Namespace != namespace:
		return false
	case r.GetKind() == KindServiceEntry:
		return r.GetName() == s.Name && !s.Kubernetes
	case r.GetKind() == KindService && s.Kubernetes:
		return r.GetName() == s.Name
	case r.GetKind() == KindService:
		return slices.Contains(hostForms(r.GetName(), namespace, domain), s.Host)
	}
	return false
}

// limitsRoute reports whether a policy targets a VirtualService of the view.
func limitsRoute(v *View, p *Typed[*policy.RateLimitPolicy]) bool {
	for _, r := range p.Spec.GetTargetRefs() {
		for _, have := range v.VirtualServices {
			if r.GetKind() == KindVirtualService && have.Namespace == p.Namespace && have.Name == r.GetName() {
				return true
			}
		}
	}
	return false
}

// controls adds what the view needs of the control plane's command line, and the object that carries it.
func (w *world) controls(v *View) {
	need := 0
	global := func(p *Typed[*policy.RateLimitPolicy]) bool { return p.Spec.GetGlobal() != nil }
	if slices.ContainsFunc(v.RateLimits, global) || slices.ContainsFunc(v.RouteLimits, global) {
		need |= needStore
	}
	if len(v.Rego) > 0 {
		need |= needBuiltins
	}
	o := w.control.told[need]
	if o == nil {
		return
	}
	if told, ok := o.Spec.(*policy.ControlSettings); ok {
		v.LimitStore, v.RegoBuiltins = told.GetRateLimitStore(), told.GetRegoBuiltins()
		v.Objects = append(v.Objects, o)
	}
}
