package mesh

import (
	"slices"
	"strings"
)

// served are the services of which a workload (NAMESPACE/NAME) is an endpoint, with no other endpoints than its own; the
// entries that define them are marked as used, so that they travel with the view. received says which they are in a proxy.
func (w *world) served(self string, received *Received, used map[Key]bool) []*Service {
	var out []*Service
	if received == nil || received.Endpoints == nil {
		for _, e := range w.index.served[self] {
			out = append(out, e.own[self]...)
			used[e.Key] = true
		}
	} else {
		for _, e := range w.entries {
			if services := received.served(e); len(services) > 0 {
				out = append(out, services...)
				used[e.Key] = true
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *Service) int { return strings.Compare(a.Host, b.Host) })
	return out
}
