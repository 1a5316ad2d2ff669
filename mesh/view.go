package mesh

import (
	"cmp"
	"maps"
	"slices"

	networking "istio.io/api/networking/v1"
)

// NewView makes the view of the workload self (NAMESPACE/NAME) from the objects that stand, which may be a whole
// snapshot's (which has no ControlSettings) or the Objects of an earlier view of the same workload: the result is the same,
// unless there are Services of Kubernetes among them, which travel without their endpoints. endpoints gives the
// endpoints of one port of one host and false if it has none; nil computes them from the objects themselves. The view is
// nil when self is not among the objects or has no service account; problems of severity Refused name objects left out.
func NewView(objects []*Object, trustDomain, self string, endpoints func(host string, port uint32) ([]Endpoint, bool)) (*View, []Problem) {
	r := Received{TrustDomain: trustDomain, Self: self, Objects: objects}
	v, problems := r.View()
	if v != nil && endpoints != nil {
		v.Services = withEndpoints(v.Services, func(s *Service, port uint32) ([]Endpoint, bool) { return endpoints(s.Host, port) })
	}
	return v, problems
}

// Use says what endpoints are for.
type Use uint8

// The uses of endpoints.
const (
	// Outbound are those of a service among View.Services.
	Outbound Use = iota
	// Inbound are the workload's own, of a service among View.Served.
	Inbound
	// Authorizing are those of a service among View.Authorizers.
	Authorizing
)

// Cluster names the endpoints of one port of one service of a view.
type Cluster struct {
	Use  Use
	Host string // "" when Inbound: they are the same for every host
	Key  Key    // of the object that defines the service; zero when Outbound, where the host says which
	Port uint32
}

// Received is what a proxy was sent of a view, to make the same view of.
type Received struct {
	TrustDomain, ClusterDomain string
	Self                       string // NAMESPACE/NAME
	Objects                    []*Object
	// Endpoints gives those of one cluster, false if there are none; nil computes all from the objects.
	Endpoints func(Cluster) ([]Endpoint, bool)
	// Asked is as in View: nil for a view that holds everything visible.
	Asked map[string]Answer
}

// View makes the view. It is nil when Self is not among the objects or has no service account; problems of severity Refused
// name objects left out.
func (r *Received) View() (*View, []Problem) {
	b := &builder{}
	stand := b.distinct(r.Objects)
	opts := worldOptions{trustDomain: r.TrustDomain, clusterDomain: cmp.Or(r.ClusterDomain, DefaultClusterDomain)}
	w := newWorld(stand, opts)
	if left, refused := without(w.order, w.together()); len(refused) > 0 {
		b.problems = append(b.problems, refused...)
		w = newWorld(b.distinct(left), opts)
	}
	l := w.byName[r.Self]
	if l == nil {
		return nil, append(b.problems, Problem{Key: Key{Group: GroupNetworking, Kind: KindWorkloadEntry}, Message: "no WorkloadEntry " + r.Self + " among the objects"})
	}
	b.sidecars(w)
	b.drop(w)
	b.listeners(w, []*Workload{l})
	b.drop(w)
	v := w.view(viewOf{self: r.Self, received: r, demand: r.Asked != nil, asked: slices.Collect(maps.Keys(r.Asked))})
	if v == nil {
		b.refuse(w.objects[l.Key()], "spec.serviceAccount", "has no service account, and so no sidecar")
		return nil, b.problems
	}
	if r.Asked != nil {
		v.Asked = r.Asked
	}
	return v, b.problems
}

// served are the services of an entry of which the proxy was told that its workload is an endpoint.
func (r *Received) served(e *entry) []*Service {
	if len(e.services) == 0 {
		return nil
	}
	var endpoints [][]Endpoint
	for i, p := range e.services[0].Ports {
		own, ok := r.Endpoints(Cluster{Use: Inbound, Key: e.Key, Port: p.Number})
		if ok && endpoints == nil {
			endpoints = make([][]Endpoint, len(e.services[0].Ports))
		}
		if ok {
			endpoints[i] = own
		}
	}
	if endpoints == nil {
		return nil
	}
	return restricted(e.services, endpoints)
}

// outbound gives services the endpoints that were received for them; without any received the services are complete.
func (r *Received) outbound(services []*Service) []*Service {
	if r == nil || r.Endpoints == nil {
		return services
	}
	return withEndpoints(services, func(s *Service, port uint32) ([]Endpoint, bool) {
		return r.Endpoints(Cluster{Host: s.Host, Port: port})
	})
}

func (r *Received) authorizing(s *Service) *Service {
	if r == nil || r.Endpoints == nil {
		return s
	}
	return withEndpoints([]*Service{s}, func(s *Service, port uint32) ([]Endpoint, bool) {
		return r.Endpoints(Cluster{Use: Authorizing, Host: s.Host, Key: s.Key(), Port: port})
	})[0]
}

// viewOf says which view is wanted.
type viewOf struct {
	self string
	// received is what the proxy was sent; nil where the whole mesh is at hand.
	received *Received
	// demand: no more than asked means.
	demand bool
	asked  []string
}

// view selects what one workload needs; nil if there is no such workload or it has no identity.
func (w *world) view(of viewOf) *View {
	l := w.byName[of.self]
	if l == nil || l.ID.IsZero() {
		return nil
	}
	v := &View{TrustDomain: w.trustDomain, ClusterDomain: w.clusterDomain, Self: l, Mesh: w.settings, Sidecar: w.sidecar(l)}
	s := newSight(v.Sidecar, l.Namespace)
	used := make(map[Key]bool)
	if of.demand {
		w.demanded(v, s, of)
	} else {
		v.Services, v.Peers, v.Plain = w.visible(l.Namespace, s), w.workloads, w.plains()
		for _, r := range w.virtualServices {
			if w.applies(r, l.Namespace, s) {
				v.VirtualServices = append(v.VirtualServices, r)
			}
		}
	}
	for _, r := range v.VirtualServices {
		used[r.Key] = true
	}
	for _, svc := range v.Services {
		used[svc.Key()] = true
	}
	v.Served = w.served(of.self, of.received, used)
	w.judging(v, used)
	w.governing(v, used)
	v.Services = of.received.outbound(v.Services)
	for name, svc := range v.Authorizers {
		v.Authorizers[name] = of.received.authorizing(svc)
	}
	v.PeerAuthentication = w.peerPolicies(l)
	w.limiting(v, used)
	if v.Sidecar != nil {
		used[v.Sidecar.Key] = true
	}
	v.Objects = w.traveling(v, used, of.demand)
	w.controls(v)
	return v
}

// traveling are the objects a view is made from: those used, and what says who everybody is and how each takes calls. On
// demand the latter are the workload itself, whom it asked for, and the PeerAuthentications that select it.
func (w *world) traveling(v *View, used map[Key]bool, demand bool) []*Object {
	var out []*Object
	add := func(o *Object) {
		if e := w.entryOf[o]; e != nil {
			o = e.travels
		}
		out = append(out, o)
	}
	if !demand {
		for _, o := range w.sorted() {
			if used[o.Key] || o.Kind == KindWorkloadEntry || o.Kind == KindPod || o.Kind == KindPeerAuthentication || o == w.config {
				add(o)
			}
		}
		return out
	}
	for _, l := range v.Peers {
		used[l.Key()] = true
	}
	for _, p := range v.PeerAuthentication {
		used[p.Key] = true
	}
	if w.config != nil {
		used[w.config.Key] = true
	}
	for _, key := range slices.SortedFunc(maps.Keys(used), compareKeys) {
		if o := w.objects[key]; o != nil {
			add(o)
		}
	}
	return out
}

// withEndpoints copies services with the endpoints that somebody else gives.
func withEndpoints(services []*Service, endpoints func(*Service, uint32) ([]Endpoint, bool)) []*Service {
	out := make([]*Service, len(services))
	for i, s := range services {
		c := *s
		c.Endpoints = make([][]Endpoint, len(s.Ports))
		for k, p := range s.Ports {
			if e, ok := endpoints(s, p.Number); ok {
				c.Endpoints[k] = e
			}
		}
		out[i] = &c
	}
	return out
}

// applies reports whether a VirtualService is visible in a namespace, binds to sidecars, and one of its hosts is in sight.
func (w *world) applies(v *Typed[*networking.VirtualService], namespace string, s sight) bool {
	if !exported(v.Spec.GetExportTo(), v.Namespace, namespace) || len(v.Spec.GetGateways()) > 0 && !slices.Contains(v.Spec.GetGateways(), "mesh") {
		return false
	}
	for _, h := range v.Spec.GetHosts() {
		for _, form := range w.hostForms(h, v.Namespace) {
			if s.sees(v.Namespace, form) {
				return true
			}
		}
	}
	return false
}

// governing selects the DestinationRules that may apply to a service of the view: visible ones, which stand in the caller's
// namespace, the service's, or the root namespace.
func (w *world) governing(v *View, used map[Key]bool) {
	at := make(map[int]bool)
	governs := func(s *Service) {
		found := make(map[int]bool)
		w.index.rules.covering(s.Host, found)
		for i := range found {
			d := w.destinationRules[i]
			near := d.Namespace == v.Self.Namespace || d.Namespace == s.Namespace || d.Namespace == w.settings.RootNamespace
			if near && exported(d.Spec.GetExportTo(), d.Namespace, v.Self.Namespace) {
				at[i] = true
			}
		}
	}
	for _, s := range v.Services {
		governs(s)
	}
	for _, s := range v.Authorizers {
		governs(s)
	}
	v.DestinationRules = picked(w.destinationRules, at)
	for _, d := range v.DestinationRules {
		used[d.Key] = true
	}
}

// Service is the service that a host named in an object of that namespace means: the host itself, or for a name without
// a dot NAME.NAMESPACE.svc.CLUSTERDOMAIN; nil if the view has none. A wildcard service (*.x) answers for the hosts it
// covers when there is no exact one, the longest first.
func (v *View) Service(host, namespace string) *Service {
	return findService(v.Services, host, namespace, cmp.Or(v.ClusterDomain, DefaultClusterDomain))
}
