package mesh

import (
	"slices"
	"strings"
)

// served are the services of which a workload (NAMESPACE/NAME) is an endpoint; the entries that define them are marked as
// used, so that they travel with the view.
func (w *world) served(self string, used map[Key]bool) []*Service {
	var out []*Service
	for _, e := range w.entries {
		if len(e.services) == 0 || !hasEndpoint(e.services[0], self) {
			continue
		}
		out = append(out, e.services...)
		used[e.Key] = true
	}
	slices.SortStableFunc(out, func(a, b *Service) int { return strings.Compare(a.Host, b.Host) })
	return out
}

func hasEndpoint(s *Service, workload string) bool {
	for _, endpoints := range s.Endpoints {
		if slices.ContainsFunc(endpoints, func(e Endpoint) bool { return e.Workload == workload }) {
			return true
		}
	}
	return false
}
