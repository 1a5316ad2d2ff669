package mesh

import (
	"fmt"
	"slices"
	"sync"

	networking "istio.io/api/networking/v1"
)

type sidecarObject = Typed[*networking.Sidecar]

// sidecars refuses the newer of two Sidecars that select one workload, and of two that are a namespace's own.
func (b *builder) sidecars(w *world) {
	taken := make(map[string]*sidecarObject)
	for _, s := range w.sidecars { // oldest first
		o := w.objects[s.Key]
		labels := s.Spec.GetWorkloadSelector().GetLabels()
		if len(labels) == 0 {
			if first := taken[s.Namespace]; first != nil {
				b.refuse(o, "spec", "is the second Sidecar of namespace %s without a workloadSelector, the first is %s at %s", s.Namespace, first.Name, first.Position)
				continue
			}
			taken[s.Namespace] = s
			continue
		}
		var mine []string
		for _, l := range w.byNamespace[s.Namespace] {
			if name := l.Namespace + "/" + l.Name; selects(labels, l.Labels) {
				mine = append(mine, name)
			}
		}
		if i := slices.IndexFunc(mine, func(name string) bool { return taken[name] != nil }); i >= 0 {
			first := taken[mine[i]]
			b.refuse(o, "spec.workloadSelector", "is the second Sidecar that selects workload %s, the first is %s at %s", mine[i], first.Name, first.Position)
			continue
		}
		for _, name := range mine {
			taken[name] = s
		}
	}
}

// listeners refuses Sidecars with a TCP egress listener that does not lead to one service, as the workloads that they
// apply to see it.
func (b *builder) listeners(w *world, workloads []*Workload) {
	type place struct {
		sidecar   Key
		namespace string
	}
	if len(w.sidecars) == 0 {
		return
	}
	done := make(map[place]bool)
	for _, l := range workloads {
		s := w.sidecar(l)
		if s == nil || done[place{s.Key, l.Namespace}] || b.dropped[s.Key] {
			continue
		}
		done[place{s.Key, l.Namespace}] = true
		b.egress(w, s, l.Namespace)
	}
}

func (b *builder) egress(w *world, s *sidecarObject, namespace string) {
	o := w.objects[s.Key]
	sight := newSight(s, namespace)
	all := sync.OnceValue(func() []*Service { return w.visible(namespace, sight) })
	for i, l := range s.Spec.GetEgress() {
		for k, h := range l.GetHosts() {
			at := fmt.Sprintf("spec.egress[%d].hosts[%d]", i, k)
			r, err := readImport(h, namespace)
			if err != nil || r.excluded || r.host == "*" {
				continue
			}
			only := readImports([]string{h}, namespace)
			if w.offers(r.host, namespace, only, sight) {
				continue
			}
			if !slices.ContainsFunc(all(), func(s *Service) bool { return only.sees(s.Namespace, s.Host) }) {
				b.dangle(o, at, "%q: no service that namespace %s may see", h, namespace)
			}
		}
		if l.GetPort() == nil || readProtocol(l.GetPort().GetProtocol()).class == HTTP {
			continue
		}
		if _, err := egressTarget(all(), l, namespace); err != nil {
			b.refuse(o, fmt.Sprintf("spec.egress[%d]", i), "%v", err)
			return
		}
	}
}

// offers reports whether there is a service of exactly a host that an import lets a namespace see.
func (w *world) offers(host, namespace string, only imports, s sight) bool {
	return slices.ContainsFunc(w.index.hosts[host], func(o offer) bool {
		return exported(o.entry.Spec.GetExportTo(), o.Namespace, namespace) && only.sees(o.Namespace, o.Host) && s.sees(o.Namespace, o.Host)
	})
}
