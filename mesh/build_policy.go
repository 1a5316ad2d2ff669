package mesh

import (
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh/policy"
)

// together judges what only shows when objects meet, and refuses the security object to blame.
func (w *world) together() []Problem {
	var out []Problem
	for _, p := range customs(w.authorization) {
		if p.Quarantined() {
			continue
		}
		name := p.Spec.GetProvider().GetName()
		if ext, _ := provider(&w.settings, nil, p.Namespace, name); ext == nil {
			continue
		}
		if field := tokenField(p.Spec); field != "" {
			out = append(out, Fault(w.objects[p.Key], field, fmt.Sprintf("reads a token, but the extension provider %q is asked before tokens are verified: let a RegoPolicy judge it, or a DENY or ALLOW policy", clip(name))))
		}
	}
	if w.control.settings.GetRateLimitStore() != nil {
		return out
	}
	for _, p := range w.limits {
		if p.Spec.GetGlobal() != nil && !p.Quarantined() {
			out = append(out, Fault(w.objects[p.Key], "spec.global", "needs a store that all proxies share, and there is none: start the control plane with --redis URL, or write local"))
		}
	}
	return out
}

// tokenField is the path of the first field that judges what a verified token says, "" if there is none.
func tokenField(p *security.AuthorizationPolicy) string {
	for i, r := range p.GetRules() {
		for k, from := range r.GetFrom() {
			at := fmt.Sprintf("spec.rules[%d].from[%d].source.", i, k)
			switch {
			case len(from.GetSource().GetRequestPrincipals()) > 0:
				return at + "requestPrincipals"
			case len(from.GetSource().GetNotRequestPrincipals()) > 0:
				return at + "notRequestPrincipals"
			}
		}
		for k, c := range r.GetWhen() {
			if strings.HasPrefix(c.GetKey(), "request.auth.") {
				return fmt.Sprintf("spec.rules[%d].when[%d].key", i, k)
			}
		}
	}
	return ""
}

// policies reports what the objects that judge and limit name, and nobody defines.
func (b *builder) policies(w *world) {
	named := make(map[Key]bool)
	for _, p := range customs(w.authorization) {
		name := p.Spec.GetProvider().GetName()
		ext, rego := provider(&w.settings, w.rego, p.Namespace, name)
		if rego != nil {
			named[rego.Key] = true
		}
		if ext == nil && rego == nil {
			b.dangle(w.objects[p.Key], "spec.provider.name", "%q is no extension provider of MeshConfig that authorizes, and no RegoPolicy of namespace %s or %s: what the policy matches is denied",
				clip(name), p.Namespace, w.settings.RootNamespace)
		}
	}
	for _, r := range w.rego {
		if !named[r.Key] && !r.Quarantined() {
			b.report(Warning, w.objects[r.Key], "", "judges nothing: no AuthorizationPolicy of action CUSTOM names it")
		}
	}
	for _, p := range w.authentication {
		b.selector(w, p.Key, "spec.selector", p.Spec.GetSelector().GetMatchLabels())
	}
	for _, p := range w.limits {
		b.selector(w, p.Key, "spec.selector", p.Spec.GetSelector().GetMatchLabels())
		for i, r := range p.Spec.GetTargetRefs() {
			b.target(w, w.objects[p.Key], fmt.Sprintf("spec.targetRefs[%d].", i), r)
		}
	}
	b.providers(w)
}

// providers reports the services of authorizers that nobody defines.
func (b *builder) providers(w *world) {
	for i, p := range configOf(w.config).GetExtensionProviders() {
		ext := w.settings.Providers[p.GetName()]
		if ext == nil {
			continue
		}
		way, service := "envoyExtAuthzGrpc", ""
		if p.GetEnvoyExtAuthzHttp() != nil {
			way = "envoyExtAuthzHttp"
		}
		service, port := ProviderService(ext)
		if _, _, why := w.authorizer(ext); why != "" {
			b.dangle(w.config, fmt.Sprintf("data.mesh.extensionProviders[%d].%s.service", i, way), "%q, port %d: %s", clip(service), port, why)
		}
	}
}

// target reports a target that does not exist.
func (b *builder) target(w *world, o *Object, field string, r *policy.TargetRef) {
	switch r.GetKind() {
	case KindVirtualService:
		b.route(w, o, field, r)
	case KindService:
		forms := w.hostForms(r.GetName(), o.Namespace)
		if w.objects[Key{GroupCore, KindService, o.Namespace, r.GetName()}] == nil && !slices.ContainsFunc(forms, func(f string) bool {
			return slices.ContainsFunc(w.index.hosts[f], func(s offer) bool { return targets(r, o.Namespace, s.Service, w.clusterDomain) })
		}) {
			b.dangle(o, field+"name", "no %s of namespace %s defines the host %s", w.words().service, o.Namespace, strings.Join(forms, " or "))
		}
	default:
		if w.objects[Key{GroupNetworking, r.GetKind(), o.Namespace, r.GetName()}] == nil {
			b.dangle(o, field+"name", "there is no %s %s in namespace %s", r.GetKind(), r.GetName(), o.Namespace)
		}
	}
}

func (b *builder) route(w *world, o *Object, field string, r *policy.TargetRef) {
	i := slices.IndexFunc(w.virtualServices, func(v *Typed[*networking.VirtualService]) bool {
		return v.Namespace == o.Namespace && v.Name == r.GetName()
	})
	if i < 0 {
		b.dangle(o, field+"name", "there is no VirtualService %s in namespace %s", r.GetName(), o.Namespace)
		return
	}
	if r.GetSectionName() != "" && !slices.ContainsFunc(w.virtualServices[i].Spec.GetHttp(), func(h *networking.HTTPRoute) bool {
		return h.GetName() == r.GetSectionName()
	}) {
		b.dangle(o, field+"sectionName", "VirtualService %s has no http route of the name %q", r.GetName(), clip(r.GetSectionName()))
	}
}
