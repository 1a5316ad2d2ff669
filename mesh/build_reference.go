package mesh

import (
	"fmt"
	"slices"

	networking "istio.io/api/networking/v1"
)

// workloads warns of WorkloadEntries that take each other's place.
func (b *builder) workloads(w *world) {
	taken := make(map[string]*Workload)
	for _, l := range w.workloads {
		at := l.Address.String()
		first := taken[at]
		if first == nil {
			taken[at] = l
			continue
		}
		if !l.ID.IsZero() && !first.ID.IsZero() {
			o := w.objects[Key{GroupNetworking, KindWorkloadEntry, l.Namespace, l.Name}]
			b.report(Warning, o, "spec.address", "%s is the address of %s/%s too: their listeners may collide", at, first.Namespace, first.Name)
		}
	}
}

// references reports what objects name and nobody defines.
func (b *builder) references(w *world) {
	for _, e := range w.entries {
		o := w.objects[e.Key]
		if len(e.services) == 0 || len(e.services[0].Endpoints) == 0 || len(e.services[0].Endpoints[0]) > 0 {
			continue
		}
		if e.Spec.GetWorkloadSelector() != nil {
			b.dangle(o, "spec.workloadSelector", "selects no WorkloadEntry of namespace %s", e.Namespace)
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
			b.dangle(w.objects[d.Key], "spec.host", "%q: no ServiceEntry defines it", d.Spec.GetHost())
		}
	}
	for _, v := range w.virtualServices {
		b.routes(w, v)
	}
	b.policies(w)
}

// selector reports a selector that selects nothing; one in the root namespace selects everywhere, save a Sidecar's.
func (b *builder) selector(w *world, key Key, field string, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	everywhere := key.Namespace == w.settings.RootNamespace && key.Kind != KindSidecar
	for _, l := range w.workloads {
		if (everywhere || l.Namespace == key.Namespace) && selects(labels, l.Labels) {
			return
		}
	}
	where := "of namespace " + key.Namespace
	if everywhere {
		where = "at all"
	}
	b.dangle(w.objects[key], field, "selects no WorkloadEntry %s", where)
}

// matching are all services that a host pattern of an object of that namespace covers, whoever may see them.
func (w *world) matching(host, namespace string) []*Service {
	var out []*Service
	forms := hostForms(host, namespace)
	for _, e := range w.entries {
		for _, s := range e.services {
			if slices.ContainsFunc(forms, func(f string) bool { return hostsMeet(f, s.Host) }) {
				out = append(out, s)
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
		b.dangle(o, field+".host", "%q: no ServiceEntry defines it", d.GetHost())
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
	for _, r := range w.destinationRules {
		for _, rule := range hostForms(r.Spec.GetHost(), r.Namespace) {
			for _, host := range hostForms(d.GetHost(), namespace) {
				if hostCovers(rule, host) && slices.ContainsFunc(r.Spec.GetSubsets(), func(s *networking.Subset) bool { return s.GetName() == d.GetSubset() }) {
					return true
				}
			}
		}
	}
	return false
}
