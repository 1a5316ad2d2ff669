package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1"
)

// words are those that findings use: there are no Services and pods off Kubernetes.
type words struct{ service, workload string }

func (w *world) words() words {
	if len(w.entries) > 0 && w.entries[0].kubernetes() || w.hasPods() {
		return words{"Service or ServiceEntry", "pod or WorkloadEntry"}
	}
	return words{"ServiceEntry", "WorkloadEntry"}
}

func (w *world) hasPods() bool {
	return slices.ContainsFunc(w.workloads, func(l *Workload) bool { return l.Pod })
}

// workloads warns of WorkloadEntries that take each other's place, or that of a pod.
func (b *builder) workloads(w *world) {
	taken := make(map[netip.Addr]*Workload)
	for _, l := range w.workloads {
		if l.Pod {
			continue
		}
		if other := w.byName[l.Namespace+"/"+l.Name]; other != l {
			b.report(Warning, w.objects[l.Key()], "metadata.name", "is the name of a pod: it gets no sidecar of its own")
		}
		first := taken[l.Address]
		if first == nil {
			taken[l.Address] = l
			continue
		}
		if !l.ID.IsZero() && !first.ID.IsZero() {
			b.report(Warning, w.objects[l.Key()], "spec.address", "%s is the address of %s/%s too: their listeners may collide", l.Address, first.Namespace, first.Name)
		}
	}
}

// references reports what objects name and nobody defines.
func (b *builder) references(w *world) {
	for _, e := range w.entries {
		o := w.objects[e.Key]
		b.reachable(w, e)
		if e.kubernetes() || e.Spec.GetResolution() != networking.ServiceEntry_STATIC {
			continue // what Kubernetes has no pods for is no finding of ours; the others need no endpoints
		}
		if len(e.services) == 0 || len(e.services[0].Endpoints) == 0 || len(e.services[0].Endpoints[0]) > 0 {
			continue
		}
		if e.Spec.GetWorkloadSelector() != nil {
			b.dangle(o, "spec.workloadSelector", "selects no %s of namespace %s", w.words().workload, e.Namespace)
		} else {
			b.dangle(o, "spec.endpoints", "there are none")
		}
	}
	for _, s := range w.sidecars {
		b.selector(w, s.Key, "spec.workloadSelector", s.Spec.GetWorkloadSelector().GetLabels())
	}
	for _, p := range w.authorization {
		b.selector(w, p.Key, "spec.selector", p.Spec.GetSelector().GetMatchLabels())
		b.principals(w, p)
	}
	for _, p := range w.peers {
		labels := p.Spec.GetSelector().GetMatchLabels()
		b.selector(w, p.Key, "spec.selector", labels)
		if p.Namespace == w.settings.RootNamespace && len(labels) > 0 {
			b.report(Warning, w.objects[p.Key], "spec.selector", "in the root namespace it selects workloads of every namespace here; Istio ignores such a policy")
		}
	}
	for _, d := range w.destinationRules {
		if len(w.matching(d.Spec.GetHost(), d.Namespace)) == 0 {
			b.dangle(w.objects[d.Key], "spec.host", "%q: no %s defines it", d.Spec.GetHost(), w.words().service)
		}
	}
	for _, v := range w.virtualServices {
		b.routes(w, v)
	}
	b.policies(w)
}

// reachable warns of what of a ServiceEntry does not lead where it says: sockets, which pods don't call, and addresses that a Service
// or a pod has, which for other namespaces than the entry's stay that one's.
func (b *builder) reachable(w *world, e *entry) {
	if e.kubernetes() {
		return
	}
	o := w.objects[e.Key]
	for i, p := range e.Spec.GetEndpoints() {
		if strings.HasPrefix(p.GetAddress(), unixScheme) && w.hasPods() {
			b.report(Warning, o, fmt.Sprintf("spec.endpoints[%d].address", i), "a Unix socket is called by workloads of namespace %s that are no pods only", e.Namespace)
		}
	}
	for i, text := range e.Spec.GetAddresses() {
		read := readAddresses([]string{text})
		if len(read) == 0 || !read[0].IsSingleIP() {
			continue
		}
		a, by := read[0].Addr(), ""
		if l := w.index.workloads[a]; l != nil && l.Pod {
			by = "pod " + l.Namespace + "/" + l.Name
		}
		for _, s := range w.index.addresses[a] {
			if s.fixed() {
				by = "Service " + s.Namespace + "/" + s.Name
			}
		}
		if by != "" {
			b.report(Warning, o, fmt.Sprintf("spec.addresses[%d]", i), "%s is that of %s: calls to it lead here from namespace %s only", a, by, e.Namespace)
		}
	}
}

// selector reports a selector that selects nothing; one in the root namespace selects everywhere, save a Sidecar's.
func (b *builder) selector(w *world, key Key, field string, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	everywhere := key.Namespace == w.settings.RootNamespace && key.Kind != KindSidecar
	among := w.byNamespace[key.Namespace]
	if everywhere {
		among = w.workloads
	}
	for _, l := range among {
		if selects(labels, l.Labels) {
			return
		}
	}
	where := "of namespace " + key.Namespace
	if everywhere {
		where = "at all"
	}
	b.dangle(w.objects[key], field, "selects no %s %s", w.words().workload, where)
}

// matching are all services that a host pattern of an object of that namespace covers, whoever may see them.
func (w *world) matching(host, namespace string) []*Service {
	var out []*Service
	for _, f := range w.hostForms(host, namespace) {
		for _, s := range w.index.hosts[f] {
			out = append(out, s.Service)
		}
		for _, s := range w.index.wild {
			if hostsMeet(f, s.Host) {
				out = append(out, s.Service)
			}
		}
		if !strings.HasPrefix(f, "*") {
			continue
		}
		for have, list := range w.index.hosts {
			if hostCovers(f, have) {
				for _, s := range list {
					out = append(out, s.Service)
				}
			}
		}
	}
	return out
}

func (b *builder) routes(w *world, v *Typed[*networking.VirtualService]) {
	o := w.objects[v.Key]
	for i, r := range v.Spec.GetHttp() {
		for k, d := range r.GetRoute() {
			b.destination(w, o, fmt.Sprintf("spec.http[%d].route[%d].destination", i, k), d.GetDestination())
		}
	}
	for i, r := range v.Spec.GetTcp() {
		for k, d := range r.GetRoute() {
			b.destination(w, o, fmt.Sprintf("spec.tcp[%d].route[%d].destination", i, k), d.GetDestination())
		}
	}
}

func (b *builder) destination(w *world, o *Object, field string, d *networking.Destination) {
	services := w.matching(d.GetHost(), o.Namespace)
	if len(services) == 0 {
		b.dangle(o, field+".host", "%q: no %s defines it", d.GetHost(), w.words().service)
		return
	}
	if n := d.GetPort().GetNumber(); n != 0 && !slices.ContainsFunc(services, func(s *Service) bool {
		return slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return p.Number == n })
	}) {
		b.dangle(o, field+".port.number", "%q has no port %d", d.GetHost(), n)
	}
	if d.GetSubset() != "" && !w.hasSubset(d, o.Namespace) {
		b.dangle(o, field+".subset", "no DestinationRule defines subset %q of %q", d.GetSubset(), d.GetHost())
	}
}

// hasSubset reports whether any DestinationRule that covers the host defines the subset.
func (w *world) hasSubset(d *networking.Destination, namespace string) bool {
	found := make(map[int]bool)
	for _, host := range w.hostForms(d.GetHost(), namespace) {
		w.index.rules.covering(host, found)
	}
	for i := range found {
		if slices.ContainsFunc(w.destinationRules[i].Spec.GetSubsets(), func(s *networking.Subset) bool { return s.GetName() == d.GetSubset() }) {
			return true
		}
	}
	return false
}
