package compile

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	security "istio.io/api/security/v1"

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
			c.place(at, s, i, v)
		}
	}
	more, err := c.hostsWithoutService(seen, have, 80)
	if err != nil {
		return err
	}
	all, byName = append(all, more...), append(byName, more...)
	c.pods(at)
	for name := range c.view.Asked {
		if a, err := netip.ParseAddr(name); err == nil {
			at.Answered(a)
		}
	}
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

// place enters one port of a service at the addresses where it is called.
func (c *compiler) place(at *route.Addresses, s *mesh.Service, i int, v *route.VirtualHost) {
	for _, in := range s.Addresses {
		if !in.IsValid() {
			continue
		}
		if have := at.Add(in, v.Port, v); have != nil && have.Host != v.Host {
			c.warn("%s and %s both have address %s port %d: calls to it go to the first", have.Host, v.Host, in, v.Port)
		}
	}
	if s.Resolution != mesh.Original || len(s.Addresses) > 0 || i >= len(s.Endpoints) {
		return
	}
	for k := range s.Endpoints[i] { // a headless Service is called at its pods
		if a, err := netip.ParseAddrPort(s.Endpoints[i][k].Address); err == nil {
			at.Add(netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), a.Port(), v)
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
			at.Answered(p.Address)
			continue
		}
		name := "outbound|||" + p.Name + "." + p.Namespace + ".pod"
		party := c.parties.Workload(workloadKey(p))
		c.specs[name] = upstream.Spec{Name: name, ConnectTimeout: c.view.Mesh.ConnectTimeout, ALPN: alpnHTTP, StreamALPN: alpnTCP,
			SNI: "outbound_._._." + p.Name + "." + p.Namespace + ".pod", Original: true, Destination: called,
			Template: upstream.Target{MTLS: true, Expect: []identity.ID{p.ID}, Party: party}}
		to := []route.Weighted{{Cluster: name}}
		at.AddHost(p.Address, &route.VirtualHost{Host: p.Address.String(), HTTP: true, Detect: true, Tunnel: to, Service: called,
			Routes: []*route.Route{{Name: "default", Destinations: to, Retry: route.DefaultRetry()}}})
	}
}

// readsHTTP reports whether a policy has a rule about what only HTTP has.
func readsHTTP(p *security.AuthorizationPolicy) bool {
	if p.GetAction() == security.AuthorizationPolicy_CUSTOM {
		return true
	}
	return slices.ContainsFunc(p.GetRules(), func(r *security.Rule) bool {
		return slices.ContainsFunc(r.GetFrom(), func(f *security.Rule_From) bool {
			s := f.GetSource()
			return len(s.GetRequestPrincipals())+len(s.GetNotRequestPrincipals())+len(s.GetRemoteIpBlocks())+len(s.GetNotRemoteIpBlocks()) > 0
		}) || slices.ContainsFunc(r.GetTo(), func(t *security.Rule_To) bool {
			o := t.GetOperation()
			return len(o.GetHosts())+len(o.GetNotHosts())+len(o.GetMethods())+len(o.GetNotMethods())+len(o.GetPaths())+len(o.GetNotPaths()) > 0
		}) || slices.ContainsFunc(r.GetWhen(), func(w *security.Condition) bool { return strings.HasPrefix(w.GetKey(), "request.") })
	})
}
