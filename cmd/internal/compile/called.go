package compile

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// capturedCalls makes the tables of what the pod's programs call, and one listener that says all of it for explanations.
func (c *compiler) capturedCalls(w *Workload) error {
	seen, err := c.importsOfPod()
	if err != nil {
		return err
	}
	services := c.visible(seen)
	at := route.NewAddresses()
	at.Complete = c.view.Asked == nil
	var all, byName []*route.VirtualHost
	var ports []calledPort
	have := map[string]bool{}
	for _, s := range services {
		if have[s.Host] || c.byHost[s.Host] != s {
			continue
		}
		have[s.Host] = true
		for i := range s.Ports {
			v, err := c.host(s, i)
			if err != nil {
				return err
			}
			all = append(all, v)
			if !s.Kubernetes || s.Resolution == mesh.ByDNS {
				byName = append(byName, v)
			}
			ports = append(ports, calledPort{s, i, v})
		}
	}
	more, err := c.hostsWithoutService(seen, have, 80)
	if err != nil {
		return err
	}
	all, byName = append(all, more...), append(byName, more...)
	c.addresses(at, ports)
	w.Capture.Addresses = at
	if w.Capture.Hosts, err = route.NewTable(append(byName, c.aliases(byName)...)); err != nil {
		return err
	}
	o := Outbound{Bind: netip.AddrPortFrom(netip.IPv4Unspecified(), OutboundPort), Kind: Captured}
	o.Table, err = route.NewTable(append(all, c.aliases(all)...))
	w.Outbound = []Outbound{o}
	return err
}

// importsOfPod are the hosts that the pod's Sidecar lets it see; all of the view's where there is none.
func (c *compiler) importsOfPod() (imports, error) {
	everything := imports{in: []importEntry{{"*", "*"}}}
	if c.view.Sidecar == nil || len(c.view.Sidecar.Spec.Egress) == 0 {
		return everything, nil
	}
	var open imports
	for i, e := range c.view.Sidecar.Spec.Egress {
		if e.Port != nil || e.Bind != "" {
			return open, c.inSidecar("egress", i, errors.New("a pod's calls are captured: name hosts without port and bind"))
		}
		seen := parseImports(e.Hosts, c.view.Self.Namespace)
		open.in, open.out = append(open.in, seen.in...), append(open.out, seen.out...)
	}
	return open, nil
}

// calledPort is one port of a service, with what is done with calls to it.
type calledPort struct {
	*mesh.Service
	port int
	host *route.VirtualHost
}

// fixed reports whether nobody else has the addresses of a service: Kubernetes gave them to it, or the sidecar itself.
func (p *calledPort) fixed() bool { return p.Kubernetes || p.Assigned }

// addresses enters where services and pods are called. Whoever comes first has an address: the workload's own namespace,
// Kubernetes of its Services and pods, and then everybody else, the older first.
func (c *compiler) addresses(at *route.Addresses, ports []calledPort) {
	own := c.view.Self.Namespace
	rank := func(p *calledPort) int {
		switch {
		case p.Namespace == own:
			return 0
		case p.fixed():
			return 1
		}
		return 2
	}
	slices.SortStableFunc(ports, func(a, b calledPort) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), a.Created.Compare(b.Created), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	for i := range ports {
		p := &ports[i]
		if p.Namespace == own || p.fixed() {
			c.place(at, p, func(netip.Addr) bool { return true })
		}
		c.placeHeadless(at, p, func(e *mesh.Endpoint, _ netip.Addr) bool { return p.Namespace == own || e.Workload != "" })
	}
	c.pods(at)
	for name, answer := range c.view.Asked {
		a, err := netip.ParseAddr(name)
		switch {
		case err != nil:
		case answer.Host == "": // a pod's, or nothing to this caller: no range has it
			at.Own(a)
		default:
			at.Answered(a)
		}
	}
	for i := range ports {
		p := &ports[i]
		if p.Namespace != own && !p.fixed() {
			c.place(at, p, func(a netip.Addr) bool { return c.free(at, p, a) })
		}
		c.placeHeadless(at, p, func(e *mesh.Endpoint, a netip.Addr) bool {
			return p.Namespace != own && e.Workload == "" && c.free(at, p, a)
		})
	}
}

// free reports whether an address is neither a Service's nor a pod's, so that other namespaces may say what it means. Where names
// are asked for, that is known of those that were answered so.
func (c *compiler) free(at *route.Addresses, p *calledPort, a netip.Addr) bool {
	if at.Owned(a) {
		c.warn("%s %s/%s: %s is the address of a Service or a pod: calls to it do not go to %s", p.Key().Kind, p.Namespace, p.Name, a, p.Host)
		return false
	}
	if c.view.Asked == nil {
		return true
	}
	answer := c.view.Asked[a.String()]
	s := c.byHost[answer.Host]
	return answer.Workload == "" && s != nil && (!s.Kubernetes || s.Headless())
}

// place enters one port of a service at the addresses where it is called, of single ones those that it may have.
func (c *compiler) place(at *route.Addresses, p *calledPort, may func(netip.Addr) bool) {
	for _, in := range p.Addresses {
		if !in.IsValid() || in.IsSingleIP() && !may(in.Addr().Unmap()) {
			continue
		}
		if have := at.Add(in, p.host.Port, p.host); have != nil && have.Host != p.host.Host {
			c.warn("%s and %s both have address %s port %d: calls to it go to the first", have.Host, p.host.Host, in, p.host.Port)
		}
		if in.IsSingleIP() && p.fixed() {
			at.Own(in.Addr())
		}
	}
}

// placeHeadless enters one port of a headless Service at those of its endpoints where it may be called. What else is at such an
// address is not known by that.
func (c *compiler) placeHeadless(at *route.Addresses, p *calledPort, may func(*mesh.Endpoint, netip.Addr) bool) {
	if !p.Headless() || p.port >= len(p.Endpoints) {
		return
	}
	for k := range p.Endpoints[p.port] {
		e := &p.Endpoints[p.port][k]
		if a, err := netip.ParseAddrPort(e.Address); err == nil && may(e, a.Addr()) {
			at.Add(netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), a.Port(), p.host)
		}
	}
}

// pods enters the pods that may be called at their own addresses: those asked for, or all where nothing is asked for. One
// without a sidecar is known, and means nothing.
func (c *compiler) pods(at *route.Addresses) {
	called := &proxy.Destination{Service: Passthrough, ServiceName: Passthrough} // as Istio counts calls to pods
	wanted := map[string]bool{}
	for _, answer := range c.view.Asked {
		wanted[answer.Workload] = true
	}
	for _, p := range c.view.Peers {
		if !p.Pod || c.view.Asked != nil && !wanted[workloadKey(p)] {
			continue
		}
		if p.TLSMode != "istio" || p.ID.IsZero() {
			for _, a := range p.Addresses() {
				at.Own(a)
			}
			continue
		}
		plain := c.view.Plain[workloadKey(p)]
		listed, rest := c.podHost(p, called, !plain.All()), c.podHost(p, called, plain.All())
		for _, a := range p.Addresses() {
			at.AddHost(a, rest(a))
			for _, port := range plain.Ports() {
				at.Add(netip.PrefixFrom(a, a.BitLen()), port, listed(a))
			}
		}
	}
}

// podHost is what a pod that has a sidecar is at an address of its own; plain where it takes plaintext only.
func (c *compiler) podHost(p *mesh.Workload, called *proxy.Destination, plain bool) func(netip.Addr) *route.VirtualHost {
	host := p.Name + "." + p.Namespace + ".pod"
	spec := upstream.Spec{Name: "outbound|||" + host, ConnectTimeout: c.view.Mesh.ConnectTimeout, Original: true, Destination: called,
		Template: upstream.Target{Party: c.parties.Workload(workloadKey(p))}}
	if plain {
		spec.Name = "outbound||plain|" + host
	} else {
		spec.ALPN, spec.StreamALPN, spec.SNI = alpnHTTP, alpnTCP, "outbound_._._."+host
		spec.Template.MTLS, spec.Template.Expect = true, []identity.ID{p.ID}
	}
	to := []route.Weighted{{Cluster: spec.Name}}
	return func(a netip.Addr) *route.VirtualHost {
		c.specs[spec.Name] = spec
		return &route.VirtualHost{Host: a.String(), HTTP: true, Detect: true, Tunnel: to, Service: called,
			Routes: []*route.Route{{Name: "default", Destinations: to, Retry: route.DefaultRetry()}}}
	}
}
