package compile

import (
	"errors"
	"net/netip"
	"slices"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
	"github.com/signet-mesh/signet/proxy/route"
)

type rateLimits = []*mesh.Typed[*policy.RateLimitPolicy]

// limitSet compiles policies; nil if there are none. An error names the policy that is at fault.
func (c *compiler) limitSet(ps rateLimits) (*limit.Set, error) {
	if len(ps) == 0 {
		return nil, nil
	}
	set, err := c.parts.Limits().Compile(ps)
	var f *limit.FieldError
	if errors.As(err, &f) {
		return nil, &Fault{f.Policy, f.Field, f.Err}
	}
	return set, err
}

// inboundLimits are the limits of one port: those of the workload, and those of the services that the port serves.
func (c *compiler) inboundLimits(port uint16) (*limit.Set, error) {
	var out rateLimits
	for _, p := range c.view.RateLimits {
		if p.Quarantined() || len(p.Spec.GetTargetRefs()) == 0 ||
			slices.ContainsFunc(p.Spec.TargetRefs, func(t *policy.TargetRef) bool { return c.targets(p.Namespace, t, port) }) {
			out = append(out, p)
		}
	}
	return c.limitSet(out)
}

// targets reports whether a reference names the workload, or a service that this port of it serves.
func (c *compiler) targets(namespace string, t *policy.TargetRef, port uint16) bool {
	self := c.view.Self
	switch t.Kind {
	case mesh.KindWorkloadEntry:
		return namespace == self.Namespace && t.Name == self.Name
	case mesh.KindPod:
		return self.Pod && namespace == self.Namespace && t.Name == self.Name
	case mesh.KindServiceEntry, mesh.KindService:
		return slices.ContainsFunc(c.view.Served, func(s *mesh.Service) bool {
			return s.Namespace == namespace && s.Name == t.Name && s.Kubernetes == (t.Kind == mesh.KindService) && serves(s, workloadKey(self), port)
		})
	}
	return false
}

func serves(s *mesh.Service, workload string, port uint16) bool {
	for i := range s.Endpoints {
		for j := range s.Endpoints[i] {
			e := &s.Endpoints[i][j]
			if a, err := netip.ParseAddrPort(e.Address); err == nil && e.Workload == workload && a.Port() == port {
				return true
			}
		}
	}
	return false
}

// limitRoute notes the limits of one HTTP route of a VirtualService.
func (c *compiler) limitRoute(vs *mesh.Typed[*networking.VirtualService], section string, routes ...*route.Route) error {
	var ps rateLimits
	for _, p := range c.view.RouteLimits {
		if p.Namespace == vs.Namespace && slices.ContainsFunc(p.Spec.GetTargetRefs(), func(t *policy.TargetRef) bool {
			return t.Kind == mesh.KindVirtualService && t.Name == vs.Name && (t.SectionName == "" || t.SectionName == section)
		}) {
			ps = append(ps, p)
		}
	}
	set, err := c.limitSet(ps)
	if err != nil || set == nil {
		return err
	}
	for _, r := range routes {
		c.limited[r] = set // tables of several listeners hold routes of their own, and one state by the registry
	}
	return nil
}
