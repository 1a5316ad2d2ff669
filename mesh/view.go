package mesh

import (
	"maps"
	"slices"

	networking "istio.io/api/networking/v1"
)

// NewView makes the view of the workload self (NAMESPACE/NAME) from the objects that stand, which may be a whole
// snapshot's (which has no ControlSettings) or the Objects of an earlier view of the same workload: the result is the same. endpoints gives the
// endpoints of one port of one host and false if it has none; nil computes them from the objects themselves. The view is
// nil when self is not among the objects or has no service account; problems of severity Refused name objects left out.
func NewView(objects []*Object, trustDomain, self string, endpoints func(host string, port uint32) ([]Endpoint, bool)) (*View, []Problem) {
	b := &builder{}
	stand := b.distinct(objects)
	w := newWorld(stand, trustDomain)
	if left, refused := without(stand, w.together()); len(refused) > 0 {
		b.problems = append(b.problems, refused...)
		w = newWorld(left, trustDomain)
	}
	l := w.byName[self]
	if l == nil {
		return nil, append(b.problems, Problem{Key: Key{Group: GroupNetworking, Kind: KindWorkloadEntry}, Message: "no WorkloadEntry " + self + " among the objects"})
	}
	b.sidecars(w)
	w.sidecars = slices.DeleteFunc(w.sidecars, b.drop)
	b.listeners(w, []*Workload{l})
	w.sidecars = slices.DeleteFunc(w.sidecars, b.drop)
	for key := range b.dropped {
		delete(w.objects, key)
	}
	v := w.view(self, endpoints)
	if v == nil {
		b.refuse(w.objects[Key{GroupNetworking, KindWorkloadEntry, l.Namespace, l.Name}], "spec.serviceAccount", "has no service account, and so no sidecar")
	}
	return v, b.problems
}

// view selects what one workload needs; nil if there is no such workload or it has no identity.
func (w *world) view(self string, endpoints func(string, uint32) ([]Endpoint, bool)) *View {
	l := w.byName[self]
	if l == nil || l.ID.IsZero() {
		return nil
	}
	v := &View{TrustDomain: w.trustDomain, Self: l, Mesh: w.settings, Sidecar: w.sidecar(l), Peers: w.workloads}
	s := newSight(v.Sidecar, l.Namespace)
	services, used := w.visible(l.Namespace, s)
	v.Services = services
	v.Served = w.served(self, used)
	w.judging(v, used)
	governed := slices.AppendSeq(slices.Clone(services), maps.Values(v.Authorizers))
	if endpoints != nil {
		v.Services = withEndpoints(services, endpoints)
	}
	for _, r := range w.virtualServices {
		if w.applies(r, l.Namespace, s) {
			v.VirtualServices = append(v.VirtualServices, r)
			used[r.Key] = true
		}
	}
	for _, d := range w.destinationRules {
		if w.governs(d, l.Namespace, governed) {
			v.DestinationRules = append(v.DestinationRules, d)
			used[d.Key] = true
		}
	}
	v.PeerAuthentication = w.peerPolicies(l)
	w.limiting(v, used)
	if v.Sidecar != nil {
		used[v.Sidecar.Key] = true
	}
	v.Objects = w.traveling(used)
	w.controls(v)
	return v
}

// traveling are the objects a view is made from: those used, and what says who everybody is and how each takes calls.
func (w *world) traveling(used map[Key]bool) []*Object {
	var out []*Object
	for _, o := range sortedObjects(w.objects) {
		if used[o.Key] || o.Kind == KindWorkloadEntry || o.Kind == KindPeerAuthentication || o == w.config {
			out = append(out, o)
		}
	}
	return out
}

// withEndpoints copies services with the endpoints that somebody else gives.
func withEndpoints(services []*Service, endpoints func(string, uint32) ([]Endpoint, bool)) []*Service {
	out := make([]*Service, len(services))
	for i, s := range services {
		c := *s
		c.Endpoints = make([][]Endpoint, len(s.Ports))
		for k, p := range s.Ports {
			if e, ok := endpoints(s.Host, p.Number); ok {
				c.Endpoints[k] = e
			}
		}
		out[i] = &c
	}
	return out
}

// applies reports whether a VirtualService is visible in a namespace, binds to sidecars, and one of its hosts is in sight.
func (w *world) applies(v *Typed[*networking.VirtualService], namespace string, s sight) bool {
	if !exported(v.Spec.GetExportTo(), v.Namespace, namespace) || len(v.Spec.GetGateways()) > 0 && !slices.Contains(v.Spec.GetGateways(), "mesh") {
		return false
	}
	for _, h := range v.Spec.GetHosts() {
		for _, form := range hostForms(h, v.Namespace) {
			if s.sees(v.Namespace, form) {
				return true
			}
		}
	}
	return false
}

// governs reports whether a DestinationRule may apply to a service in sight: it is visible, and stands in the caller's
// namespace, the service's, or the root namespace.
func (w *world) governs(d *Typed[*networking.DestinationRule], namespace string, services []*Service) bool {
	if !exported(d.Spec.GetExportTo(), d.Namespace, namespace) {
		return false
	}
	forms := hostForms(d.Spec.GetHost(), d.Namespace)
	for _, s := range services {
		if d.Namespace != namespace && d.Namespace != s.Namespace && d.Namespace != w.settings.RootNamespace {
			continue
		}
		if slices.ContainsFunc(forms, func(f string) bool { return hostCovers(f, s.Host) }) {
			return true
		}
	}
	return false
}

// Service is the service that a host named in an object of that namespace means: the host itself, or for a name without
// a dot NAME.NAMESPACE.svc.cluster.local; nil if the view has none. A wildcard service (*.x) answers for the hosts it
// covers when there is no exact one, the longest first.
func (v *View) Service(host, namespace string) *Service {
	return findService(v.Services, host, namespace)
}
