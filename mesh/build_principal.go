package mesh

import (
	"fmt"
	"slices"
	"strings"

	security "istio.io/api/security/v1"
)

// principals warns of those of a trust domain whose workloads never call here: neither the mesh's, nor an alias of it.
func (b *builder) principals(w *world, p *Typed[*security.AuthorizationPolicy]) {
	if w.trustDomain == "" {
		return
	}
	judge := func(field string, values []string) {
		for i, v := range values {
			l := readLiteral(v)
			td, _, complete := strings.Cut(l.text, "/")
			if !l.begin || !complete || td == w.trustDomain || td == clusterLocal || slices.Contains(w.settings.TrustDomainAliases, td) {
				continue
			}
			b.report(Warning, w.objects[p.Key], fmt.Sprintf("%s[%d]", field, i),
				"%q never matches: the mesh's trust domain is %q, and %q is not among MeshConfig's trustDomainAliases", clip(v), w.trustDomain, clip(td))
		}
	}
	for i, r := range p.Spec.GetRules() {
		for k, from := range r.GetFrom() {
			at := fmt.Sprintf("spec.rules[%d].from[%d].source.", i, k)
			judge(at+"principals", from.GetSource().GetPrincipals())
			judge(at+"notPrincipals", from.GetSource().GetNotPrincipals())
		}
		for k, c := range r.GetWhen() {
			if c.GetKey() == "source.principal" {
				at := fmt.Sprintf("spec.rules[%d].when[%d].", i, k)
				judge(at+"values", c.GetValues())
				judge(at+"notValues", c.GetNotValues())
			}
		}
	}
}

// clusterLocal in a principal points to the mesh's own trust domain, whatever its name.
const clusterLocal = "cluster.local"
