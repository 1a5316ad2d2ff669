package mesh

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	networking "istio.io/api/networking/v1"
)

// entry is a ServiceEntry, or a Service of Kubernetes, with the services it defines, one for each host.
type entry struct {
	Typed[*networking.ServiceEntry]
	// travels is the object as proxies get it: a Service of Kubernetes without its endpoints, which travel as such.
	travels  *Object
	services []*Service
	// own are, by workload (NAMESPACE/NAME), the services with no other endpoints than the workload's, ready or not.
	own map[string][]*Service
}

func (e *entry) kubernetes() bool { return e.Kind == KindService }

// readWorkloads reads the workloads; of unchanged objects they are those of an earlier world.
func (w *world) readWorkloads(prev *world) {
	if prev != nil && w.workloadsAre(prev) {
		w.workloadOf, w.workloads, w.byName, w.byNamespace = prev.workloadOf, prev.workloads, prev.byName, prev.byNamespace
		return
	}
	w.workloadOf = make(map[*Object]*Workload)
	var old, fresh []*Workload
	kept := make(map[*Workload]struct{})
	for _, o := range w.order {
		spec, ok := o.Spec.(*networking.WorkloadEntry)
		if !ok {
			continue
		}
		var l *Workload
		if prev != nil {
			l = prev.workloadOf[o]
		}
		if l == nil {
			l = readWorkload(o, spec, w.trustDomain)
			fresh = append(fresh, l)
		} else {
			kept[l] = struct{}{}
		}
		w.workloadOf[o] = l
	}
	if prev != nil {
		old = prev.workloads
	}
	slices.SortFunc(fresh, compareWorkloads)
	w.workloads = merged(old, fresh, func(l *Workload) bool { _, ok := kept[l]; return ok }, compareWorkloads)
	w.byName, w.byNamespace = make(map[string]*Workload, len(w.workloads)), make(map[string][]*Workload)
	for _, l := range w.workloads {
		if id := l.Namespace + "/" + l.Name; w.byName[id] == nil {
			w.byName[id] = l
		}
		w.byNamespace[l.Namespace] = append(w.byNamespace[l.Namespace], l)
	}
}

// workloadsAre reports whether the workloads are read of the very objects of an earlier world's.
func (w *world) workloadsAre(prev *world) bool {
	n := 0
	for _, o := range w.order {
		if _, ok := o.Spec.(*networking.WorkloadEntry); !ok {
			continue
		}
		if n++; prev.workloadOf[o] == nil {
			return false
		}
	}
	return n == len(prev.workloadOf)
}

// compareWorkloads orders by namespace and name. Of a pod and a WorkloadEntry of one name the pod comes first: it is the one
// that the name means.
func compareWorkloads(a, b *Workload) int {
	pod := func(l *Workload) int {
		if l.Pod {
			return 0
		}
		return 1
	}
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), cmp.Compare(pod(a), pod(b)))
}

// readEntries reads the services. Those that come out as in an earlier world are that world's own.
func (w *world) readEntries(prev *world) {
	w.entryOf = make(map[*Object]*entry)
	samePeers := prev != nil && prev.settings.RootNamespace == w.settings.RootNamespace && slices.Equal(prev.peerObjects, w.peerObjects)
	var before map[Key]*entry // of prev, for objects that changed; made when first needed
	for _, o := range w.order {
		spec, ok := o.Spec.(*networking.ServiceEntry)
		if !ok {
			continue
		}
		var old *entry
		if prev != nil {
			if old = prev.entryOf[o]; old != nil && samePeers && w.sameWorkloads(prev, old) {
				w.add(o, old)
				continue
			}
			if old == nil {
				before = prev.entriesByKey(before)
				old = before[o.Key]
			}
		}
		w.add(o, w.readEntry(o, spec, old))
	}
	slices.SortStableFunc(w.entries, func(a, b *entry) int {
		return cmp.Compare(a.rank(), b.rank())
	})
}

// rank puts a Service of Kubernetes before ServiceEntries: of one host it is the one that counts.
func (e *entry) rank() int {
	if e.kubernetes() {
		return 0
	}
	return 1
}

func (w *world) entriesByKey(m map[Key]*entry) map[Key]*entry {
	if m == nil {
		m = make(map[Key]*entry, len(w.entries))
		for _, e := range w.entries {
			m[e.Key] = e
		}
	}
	return m
}

func (w *world) add(o *Object, e *entry) {
	w.entryOf[o] = e
	w.entries = append(w.entries, e)
}

// sameWorkloads reports whether an entry would select the same workloads as in the earlier world.
func (w *world) sameWorkloads(prev *world, e *entry) bool {
	return e.Spec.GetWorkloadSelector() == nil || slices.Equal(prev.byNamespace[e.Namespace], w.byNamespace[e.Namespace])
}

// readEntry reads one entry; old is what its key meant in an earlier world, nil if nothing.
func (w *world) readEntry(o *Object, spec *networking.ServiceEntry, old *entry) *entry {
	e := &entry{Typed: Typed[*networking.ServiceEntry]{o.Meta, spec}, travels: o}
	if e.kubernetes() {
		e.travels = withoutEndpoints(o, spec)
		if old != nil && sameObject(old.travels, e.travels) {
			e.travels = old.travels
		}
	}
	var unready [][]Endpoint
	e.services, unready = w.services(e)
	e.own = own(e.services, unready)
	if old != nil {
		if reflect.DeepEqual(old.services, e.services) {
			e.services = old.services
		}
		for id, services := range e.own {
			if was := old.own[id]; reflect.DeepEqual(was, services) {
				e.own[id] = was
			}
		}
	}
	return e
}

func withoutEndpoints(o *Object, spec *networking.ServiceEntry) *Object {
	if len(spec.GetEndpoints()) == 0 {
		return o
	}
	return &Object{Meta: o.Meta, Spec: &networking.ServiceEntry{Hosts: spec.GetHosts(), Addresses: spec.GetAddresses(), Ports: spec.GetPorts(),
		Location: spec.GetLocation(), Resolution: spec.GetResolution(), ExportTo: spec.GetExportTo(), SubjectAltNames: spec.GetSubjectAltNames()}}
}

func sameObject(a, b *Object) bool {
	return a.Key == b.Key && a.Version == b.Version && a.Created.Equal(b.Created) && a.Position == b.Position &&
		maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) && proto.Equal(a.Spec, b.Spec)
}

// own sorts the endpoints of services, and those that are not ready, out by their workloads.
func own(services []*Service, unready [][]Endpoint) map[string][]*Service {
	if len(services) == 0 {
		return nil
	}
	ports := make(map[string][][]Endpoint)
	for i, endpoints := range services[0].Endpoints { // those of every host are the same
		for _, list := range [...][]Endpoint{endpoints, unready[i]} {
			for _, e := range list {
				if e.Workload == "" {
					continue
				}
				if ports[e.Workload] == nil {
					ports[e.Workload] = make([][]Endpoint, len(services[0].Endpoints))
				}
				ports[e.Workload][i] = append(ports[e.Workload][i], e)
			}
		}
	}
	out := make(map[string][]*Service, len(ports))
	for id, endpoints := range ports {
		out[id] = restricted(services, endpoints)
	}
	return out
}

// restricted copies services with other endpoints.
func restricted(services []*Service, endpoints [][]Endpoint) []*Service {
	out := make([]*Service, len(services))
	for i, s := range services {
		c := *s
		c.Endpoints = endpoints
		out[i] = &c
	}
	return out
}

// readAddresses reads the addresses of a ServiceEntry that was judged good.
func readAddresses(values []string) []netip.Prefix {
	var out []netip.Prefix
	for _, v := range values {
		if a, err := netip.ParseAddr(v); err == nil && a.Zone() == "" {
			a = a.Unmap()
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		} else if p, err := netip.ParsePrefix(v); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}
