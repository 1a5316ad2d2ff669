package mesh

import (
	"fmt"
	"slices"
	"strings"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh/policy"
)

// tcpPort is a declared port whose HTTP/2 is carried as TCP, with the endpoints that have a sidecar.
type tcpPort struct {
	service   *Service
	port      *ServicePort
	endpoints []Endpoint
}

// asTCP warns of what judges requests at ports whose HTTP/2 is carried as TCP. Endpoints decide it, so it is found anew in
// every build.
func (w *world) asTCP() []Problem {
	ports := w.tcpPorts()
	if len(ports) == 0 {
		return nil
	}
	var out []Problem
	warn := func(key Key, selects func(*tcpPort, *Endpoint) bool) {
		var at []string
		for i := range ports {
			p := &ports[i]
			if slices.ContainsFunc(p.endpoints, func(e Endpoint) bool { return selects(p, &e) }) {
				at = append(at, fmt.Sprintf("port %d of %s (%s)", p.port.Number, p.service.Host, p.port.Declared))
			}
		}
		if len(at) == 0 {
			return
		}
		const shown = 3
		if more := len(at) - shown; more > 0 {
			at = append(at[:shown], fmt.Sprintf("%d more", more))
		}
		o := w.objects[key]
		out = append(out, Problem{Severity: Warning, Position: o.where(""), Key: key,
			Message: "carried and judged as TCP: " + strings.Join(at, ", ") + ": there, what this says of HTTP follows the rules for TCP"})
	}
	labelled := func(key Key, labels map[string]string) func(*tcpPort, *Endpoint) bool {
		return func(_ *tcpPort, e *Endpoint) bool {
			namespace, _, _ := strings.Cut(e.Workload, "/")
			return (key.Namespace == namespace || key.Namespace == w.settings.RootNamespace) && selects(labels, e.Labels)
		}
	}
	for _, p := range w.authorization {
		if ReadsHTTP(p.Spec) {
			warn(p.Key, labelled(p.Key, authorizationLabels(p.Spec)))
		}
	}
	for _, p := range w.authentication {
		warn(p.Key, labelled(p.Key, authenticationLabels(p.Spec)))
	}
	for _, p := range w.limits {
		if len(p.Spec.GetTargetRefs()) == 0 {
			warn(p.Key, labelled(p.Key, p.Spec.GetSelector().GetMatchLabels()))
			continue
		}
		warn(p.Key, func(at *tcpPort, e *Endpoint) bool {
			return slices.ContainsFunc(p.Spec.GetTargetRefs(), func(r *policy.TargetRef) bool {
				if r.GetKind() == KindWorkloadEntry {
					return e.Workload == p.Namespace+"/"+r.GetName() && !w.byName[e.Workload].Pod
				}
				return targets(r, p.Namespace, at.service, w.clusterDomain)
			})
		})
	}
	return out
}

// tcpPorts are those of all services, in the order of the entries that define them.
func (w *world) tcpPorts() []tcpPort {
	var out []tcpPort
	for _, e := range w.entries {
		for _, s := range e.services {
			for i := range s.Ports {
				if !readProtocol(s.Ports[i].Declared).reduced {
					continue
				}
				meshed := slices.DeleteFunc(slices.Clone(s.Endpoints[i]), func(e Endpoint) bool { return e.Identity.IsZero() || w.byName[e.Workload] == nil })
				if len(meshed) > 0 {
					out = append(out, tcpPort{s, &s.Ports[i], meshed})
				}
			}
		}
	}
	return out
}

// ReadsHTTP reports whether a policy has a rule about what only HTTP has.
func ReadsHTTP(p *security.AuthorizationPolicy) bool {
	if p.GetAction() == security.AuthorizationPolicy_CUSTOM {
		return true
	}
	return slices.ContainsFunc(p.GetRules(), func(r *security.Rule) bool {
		return slices.ContainsFunc(r.GetFrom(), func(f *security.Rule_From) bool {
			s := f.GetSource()
			return len(s.GetRequestPrincipals())+len(s.GetNotRequestPrincipals())+len(s.GetRemoteIpBlocks())+len(s.GetNotRemoteIpBlocks()) > 0
		}) || slices.ContainsFunc(r.GetTo(), func(t *security.Rule_To) bool {
			o := t.GetOperation()
			return len(o.GetHosts())+len(o.GetNotHosts())+len(o.GetMethods())+len(o.GetNotMethods())+len(o.GetPaths())+len(o.GetNotPaths()) > 0
		}) || slices.ContainsFunc(r.GetWhen(), func(w *security.Condition) bool { return strings.HasPrefix(w.GetKey(), "request.") })
	})
}
