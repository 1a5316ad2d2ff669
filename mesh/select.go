package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"
)

// imports are the hosts of one egress entry, read for one namespace.
type imports struct{ in, out []hostImport }

func readImports(hosts []string, namespace string) imports {
	var i imports
	for _, h := range hosts {
		r, err := readImport(h, namespace)
		switch {
		case err != nil: // judged by Validate
		case r.excluded:
			i.out = append(i.out, r)
		default:
			i.in = append(i.in, r)
		}
	}
	return i
}

// sees reports whether a host that an object of that namespace defines is imported and not excluded.
func (i imports) sees(namespace, host string) bool {
	covers := func(h hostImport) bool {
		return (h.namespace == "*" || h.namespace == namespace) && hostsMeet(h.host, host)
	}
	excludes := func(h hostImport) bool {
		return (h.namespace == "*" || h.namespace == namespace) && hostCovers(h.host, host)
	}
	return slices.ContainsFunc(i.in, covers) && !slices.ContainsFunc(i.out, excludes)
}

// sight is what a workload's Sidecar lets it see: everything, or the union of its egress entries.
type sight struct {
	all     bool
	entries []imports
}

func newSight(s *Typed[*networking.Sidecar], namespace string) sight {
	if s == nil || len(s.Spec.GetEgress()) == 0 {
		return sight{all: true}
	}
	var out sight
	for _, e := range s.Spec.GetEgress() {
		out.entries = append(out.entries, readImports(e.GetHosts(), namespace))
	}
	return out
}

// reaches reports whether anything of a namespace may be seen.
func (s sight) reaches(namespace string) bool {
	return s.all || slices.ContainsFunc(s.entries, func(i imports) bool {
		return slices.ContainsFunc(i.in, func(h hostImport) bool { return h.namespace == "*" || h.namespace == namespace })
	})
}

func (s sight) sees(namespace, host string) bool {
	return s.all || slices.ContainsFunc(s.entries, func(i imports) bool { return i.sees(namespace, host) })
}

// sidecar is the Sidecar that applies to a workload: its own, else its namespace's, else the root namespace's.
func (w *world) sidecar(l *Workload) *Typed[*networking.Sidecar] {
	var namespace, root *Typed[*networking.Sidecar]
	for _, s := range w.index.sidecars[l.Namespace] {
		labels := s.Spec.GetWorkloadSelector().GetLabels()
		switch {
		case len(labels) > 0 && selects(labels, l.Labels):
			return s
		case len(labels) == 0 && namespace == nil:
			namespace = s
		}
	}
	for _, s := range w.index.sidecars[w.settings.RootNamespace] {
		if len(s.Spec.GetWorkloadSelector().GetLabels()) == 0 {
			root = s
			break
		}
	}
	return cmp.Or(namespace, root)
}

// visible are the services of one namespace's sight, sorted by host. Of two services of one host the namespace's own wins,
// then a Service of Kubernetes, then the older.
func (w *world) visible(namespace string, s sight) []*Service {
	byHost := make(map[string]*Service)
	for _, e := range w.entries {
		if !exported(e.Spec.GetExportTo(), e.Namespace, namespace) {
			continue
		}
		for _, svc := range e.services {
			if !s.sees(svc.Namespace, svc.Host) {
				continue
			}
			if have := byHost[svc.Host]; have == nil || have.Namespace != namespace && svc.Namespace == namespace {
				byHost[svc.Host] = svc
			}
		}
	}
	return sortedServices(byHost)
}

func sortedServices(byHost map[string]*Service) []*Service {
	return slices.SortedFunc(maps.Values(byHost), func(a, b *Service) int { return strings.Compare(a.Host, b.Host) })
}

// findService is the service that a host named in an object of that namespace means: itself, else for a name without a
// dot the full name, else the longest wildcard that covers it; nil if there is none. services are sorted by host.
func findService(services []*Service, host, namespace, domain string) *Service {
	var best *Service
	for _, name := range hostForms(host, namespace, domain) {
		if i, ok := slices.BinarySearchFunc(services, name, func(s *Service, h string) int { return strings.Compare(s.Host, h) }); ok {
			return services[i]
		}
		for _, s := range services {
			if strings.HasPrefix(s.Host, "*") && hostCovers(s.Host, name) && (best == nil || len(s.Host) > len(best.Host)) {
				best = s
			}
		}
	}
	return best
}

// hostForms are the names that a host written in an object of that namespace may mean: itself, and for a name without a
// dot NAME.NAMESPACE.svc.DOMAIN, as Istio has it.
func hostForms(host, namespace, domain string) []string {
	host = strings.ToLower(host)
	if strings.ContainsAny(host, ".*:") {
		return []string{host}
	}
	return []string{host, host + "." + namespace + ".svc." + domain}
}

func (w *world) hostForms(host, namespace string) []string {
	return hostForms(host, namespace, w.clusterDomain)
}

// selecting are those of some policies that select a workload, root namespace first, each namespace by name.
func selecting[T proto.Message](w *world, policies map[string][]*Typed[T], labels func(T) map[string]string, l *Workload) []*Typed[T] {
	var out []*Typed[T]
	root := w.settings.RootNamespace
	for _, p := range policies[l.Namespace] {
		if selects(labels(p.Spec), l.Labels) {
			out = append(out, p)
		}
	}
	for _, p := range policies[root] {
		if root != l.Namespace && selects(labels(p.Spec), l.Labels) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *Typed[T]) int {
		if (a.Namespace == root) != (b.Namespace == root) {
			if a.Namespace == root {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

func authorizationLabels(p *security.AuthorizationPolicy) map[string]string {
	return p.GetSelector().GetMatchLabels()
}

func authenticationLabels(p *security.RequestAuthentication) map[string]string {
	return p.GetSelector().GetMatchLabels()
}

// egressTarget finds the one service of a TCP egress listener among the services it imports: the one with the listener's
// port, else the only one with its only port. nil without an error when it imports none.
func egressTarget(services []*Service, l *networking.IstioEgressListener, namespace string) (*Service, error) {
	var all, own []*Service
	seen, number := readImports(l.GetHosts(), namespace), l.GetPort().GetNumber()
	for _, s := range services {
		if !seen.sees(s.Namespace, s.Host) {
			continue
		}
		all = append(all, s)
		if slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return p.Number == number }) {
			own = append(own, s)
		}
	}
	switch {
	case len(own) == 1:
		return own[0], nil
	case len(own) > 1:
		return nil, fmt.Errorf("a TCP listener leads to one service, but both %s and %s have port %d: name one host", own[0].Host, own[1].Host, number)
	case len(all) > 1:
		return nil, fmt.Errorf("a TCP listener leads to one service, and neither %s nor %s has port %d: name one host", all[0].Host, all[1].Host, number)
	case len(all) == 1 && len(all[0].Ports) != 1:
		return nil, fmt.Errorf("a TCP listener leads to one port, but %s has %d and none of them is %d", all[0].Host, len(all[0].Ports), number)
	case len(all) == 1:
		return all[0], nil
	}
	return nil, nil
}
