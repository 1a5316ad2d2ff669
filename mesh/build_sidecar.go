package mesh

import (
	"fmt"
	"slices"

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
	services, _ := w.visible(namespace, newSight(s, namespace))
	for i, l := range s.Spec.GetEgress() {
		for k, h := range l.GetHosts() {
			at := fmt.Sprintf("spec.egress[%d].hosts[%d]", i, k)
			r, err := readImport(h, namespace)
			if err != nil || r.excluded || r.host == "*" {
				continue
			}
			if !slices.ContainsFunc(services, func(s *Service) bool { return readImports([]string{h}, namespace).sees(s.Namespace, s.Host) }) {
				b.dangle(o, at, "%q: no service that namespace %s may see", h, namespace)
			}
		}
		if l.GetPort() == nil || readProtocol(l.GetPort().GetProtocol()).class == HTTP {
			continue
		}
		if _, err := egressTarget(services, l, namespace); err != nil {
			b.refuse(o, fmt.Sprintf("spec.egress[%d]", i), "%v", err)
			return
		}
	}
}
