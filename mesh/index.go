package mesh

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh/policy"
)

// index finds what a view on demand needs without looking at the whole world. Immutable once built.
type index struct {
	// hosts are the services by exact host, in the order of world.entries; wild are those whose host is a wildcard.
	hosts map[string][]offer
	wild  []offer
	// addresses are the services called at an address, blocks those called at a range of them, the narrowest first.
	addresses map[netip.Addr][]offer
	blocks    []block
	// headless are the Services without an address of their own, by the addresses of their pods. Where an EndpointSlice names
	// no pod of its namespace they are among addresses: anybody can write that.
	headless map[netip.Addr][]offer
	// workloads are by address; nil where several pods share one, as those on the node's network do.
	workloads map[netip.Addr]*Workload
	// served are the entries by the workloads that are their endpoints.
	served map[string][]*entry

	routes patterns // positions in world.virtualServices
	rules  patterns // positions in world.destinationRules

	sidecars       map[string][]*Typed[*networking.Sidecar]
	authorization  map[string][]*Typed[*security.AuthorizationPolicy]
	authentication map[string][]*Typed[*security.RequestAuthentication]
	limits         map[string][]*Typed[*policy.RateLimitPolicy]
}

// offer is a service with the entry that says who may see it.
type offer struct {
	*Service
	entry *entry
}

type block struct {
	netip.Prefix
	offer
}

// fixed reports whether the service has its addresses from Kubernetes, which gives each to one Service only.
func (o offer) fixed() bool { return o.Kubernetes && len(o.Addresses) > 0 }

// newIndex reads a world. like is that of an earlier one that differs in endpoints of Services only, nil if there is none.
func newIndex(w *world, like *index) index {
	x := index{hosts: make(map[string][]offer, len(w.entries)), addresses: make(map[netip.Addr][]offer, len(w.entries)),
		headless: make(map[netip.Addr][]offer), served: make(map[string][]*entry, len(w.workloads))}
	for _, e := range w.entries {
		for _, s := range e.services {
			x.service(offer{s, e})
		}
		for id := range e.own {
			x.served[id] = append(x.served[id], e)
		}
	}
	slices.SortStableFunc(x.blocks, func(a, b block) int { return cmp.Compare(b.Bits(), a.Bits()) })
	if like != nil {
		x.workloads, x.routes, x.rules, x.sidecars, x.limits = like.workloads, like.routes, like.rules, like.sidecars, like.limits
		x.authorization, x.authentication = like.authorization, like.authentication
		return x
	}
	x.workloads = workloadsByAddress(w.workloads)
	x.routes, x.rules = newPatterns(len(w.virtualServices)), newPatterns(len(w.destinationRules))
	for i, v := range w.virtualServices {
		for _, h := range v.Spec.GetHosts() {
			x.routes.add(w.hostForms(h, v.Namespace), i)
		}
	}
	for i, d := range w.destinationRules {
		x.rules.add(w.hostForms(d.Spec.GetHost(), d.Namespace), i)
	}
	x.sidecars = sidecarsByNamespace(w.sidecars)
	x.authorization = grouped(w.authorization, func(o *Typed[*security.AuthorizationPolicy]) string { return o.Namespace })
	x.authentication = grouped(w.authentication, func(o *Typed[*security.RequestAuthentication]) string { return o.Namespace })
	x.limits = grouped(w.limits, func(o *Typed[*policy.RateLimitPolicy]) string { return o.Namespace })
	return x
}

func sidecarsByNamespace(list []*Typed[*networking.Sidecar]) map[string][]*Typed[*networking.Sidecar] {
	return grouped(list, func(o *Typed[*networking.Sidecar]) string { return o.Namespace })
}

// grouped sorts objects out by namespace.
func grouped[T any](list []T, namespace func(T) string) map[string][]T {
	out := make(map[string][]T)
	for _, o := range list {
		out[namespace(o)] = append(out[namespace(o)], o)
	}
	return out
}

func (x *index) service(o offer) {
	if strings.HasPrefix(o.Host, "*") {
		x.wild = append(x.wild, o)
	} else {
		x.hosts[o.Host] = append(x.hosts[o.Host], o)
	}
	for _, p := range o.Addresses {
		if p.IsSingleIP() {
			x.addresses[p.Addr()] = append(x.addresses[p.Addr()], o)
		} else {
			x.blocks = append(x.blocks, block{p, o})
		}
	}
	if !o.Headless() {
		return
	}
	seen := make(map[netip.Addr]bool)
	for _, endpoints := range o.Endpoints {
		for _, e := range endpoints {
			a, err := netip.ParseAddrPort(e.Address)
			if err != nil || seen[a.Addr()] {
				continue
			}
			seen[a.Addr()] = true
			at := x.headless
			if e.Workload == "" {
				at = x.addresses
			}
			at[a.Addr()] = append(at[a.Addr()], o)
		}
	}
}

func workloadsByAddress(list []*Workload) map[netip.Addr]*Workload {
	out := make(map[netip.Addr]*Workload, len(list))
	for _, l := range list {
		for _, a := range l.Addresses() {
			have, taken := out[a]
			switch {
			case !taken || have != nil && l.Pod && !have.Pod:
				out[a] = l
			case have != nil && l.Pod:
				out[a] = nil
			}
		}
	}
	delete(out, netip.Addr{})
	return out
}

// patterns are hosts and wildcards with the positions of the objects that name them.
type patterns struct {
	exact map[string][]int
	wild  map[string][]int
}

func newPatterns(n int) patterns { return patterns{make(map[string][]int, n), make(map[string][]int)} }

func (p *patterns) add(forms []string, at int) {
	for _, f := range forms {
		m := p.exact
		if strings.HasPrefix(f, "*") {
			m = p.wild
		}
		m[f] = append(m[f], at)
	}
}

// covering adds the positions of patterns that cover a host, which may be a wildcard itself.
func (p *patterns) covering(host string, into map[int]bool) {
	for _, i := range p.exact[host] {
		into[i] = true
	}
	for f, at := range p.wild {
		if hostCovers(f, host) {
			for _, i := range at {
				into[i] = true
			}
		}
	}
}

// meeting adds the positions of patterns that have a host in common with one.
func (p *patterns) meeting(host string, into map[int]bool) {
	p.covering(host, into)
	if !strings.HasPrefix(host, "*") {
		return
	}
	for _, m := range []map[string][]int{p.exact, p.wild} {
		for f, at := range m {
			if hostCovers(host, f) {
				for _, i := range at {
					into[i] = true
				}
			}
		}
	}
}

// picked are the elements of a list at some positions, in order.
func picked[T any](list []T, at map[int]bool) []T {
	var out []T
	for _, i := range slices.Sorted(maps.Keys(at)) {
		out = append(out, list[i])
	}
	return out
}
