package compile

import (
	"slices"
	"strings"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
)

// table makes the hosts of one HTTP listener: every port of the services it sees for an HTTP proxy (port 0), else the one
// port, which must be declared HTTP; and the hosts that only a VirtualService names, at that port (80 for a proxy).
func (c *compiler) table(seen imports, port uint16) (*route.Table, error) {
	var hosts []*route.VirtualHost
	have := map[string]bool{}
	for _, s := range c.visible(seen) {
		if have[s.Host] {
			continue
		}
		have[s.Host] = true
		for i := range s.Ports {
			if port != 0 && (s.Ports[i].Number != uint32(port) || s.Ports[i].Protocol != mesh.HTTP) {
				continue
			}
			v, err := c.host(s, i)
			if err != nil {
				return nil, err
			}
			hosts = append(hosts, v)
		}
	}
	if port == 0 {
		port = 80
	}
	more, err := c.hostsWithoutService(seen, have, port)
	if err != nil {
		return nil, err
	}
	hosts = append(hosts, more...)
	return route.NewTable(append(hosts, c.aliases(hosts)...))
}

// host is one port of one service.
func (c *compiler) host(s *mesh.Service, i int) (*route.VirtualHost, error) {
	p := s.Ports[i]
	v := &route.VirtualHost{Host: s.Host, Port: uint16(p.Number), HTTP: p.Protocol == mesh.HTTP, Service: c.destination(s)}
	if p.Protocol == mesh.Detect && c.view.Self.Pod { // an HTTP proxy's clients say by CONNECT what it is not
		v.HTTP, v.Detect = true, true
	}
	if !v.HTTP || v.Detect {
		var err error
		if v.Tunnel, err = c.tcpRoute(s, v.Port); err != nil || !v.HTTP {
			return v, err
		}
	}
	direct := []route.Weighted{{Cluster: ClusterName(p.Number, "", s.Host)}}
	if !v.Detect {
		v.Tunnel = direct
	}
	if vs := c.virtualService(s.Host); vs != nil {
		var err error
		if v.Routes, err = c.routes(vs, v.Port); err != nil {
			return nil, err
		}
	}
	if len(v.Routes) == 0 { // no VirtualService, or none of its routes is for this workload and port
		v.Routes = []*route.Route{{Name: "default", Destinations: direct, Retry: route.DefaultRetry()}}
	}
	return v, nil
}

// hostsWithoutService are the exact hosts that a VirtualService invents: no service has them.
func (c *compiler) hostsWithoutService(seen imports, have map[string]bool, port uint16) ([]*route.VirtualHost, error) {
	var names []string
	for h, vs := range c.vsExact {
		if have[h] || c.byHost[h] != nil || !seen.sees(vs.Namespace, h) || len(vs.Spec.Http) == 0 {
			continue
		}
		if strings.Contains(h, ".") { // a name without a dot is reached as an alias of its long form
			names = append(names, h)
		}
	}
	slices.Sort(names)
	var out []*route.VirtualHost
	for _, h := range names {
		vs := c.vsExact[h]
		routes, err := c.routes(vs, port)
		if err != nil {
			return nil, err
		}
		if len(routes) == 0 {
			continue
		}
		out = append(out, &route.VirtualHost{Host: h, Port: port, HTTP: true, Routes: routes,
			Service: &proxy.Destination{Service: h, ServiceName: h, ServiceNamespace: vs.Namespace}})
	}
	return out, nil
}

// aliases are the shorter names by which Istio lets a caller of the cluster's own domain say NAME.NS.svc.cluster.local:
// NAME.NS.svc, NAME.NS, and NAME in its own namespace. A name that a service has already is that service's.
func (c *compiler) aliases(hosts []*route.VirtualHost) []*route.VirtualHost {
	var out []*route.VirtualHost
	type hostPort struct {
		host string
		port uint16
	}
	taken := map[hostPort]bool{}
	for _, v := range hosts {
		short, ok := strings.CutSuffix(v.Host, "."+clusterDomain)
		if !ok || strings.Contains(v.Host, "*") {
			continue
		}
		name, rest, _ := strings.Cut(short, ".")
		ns, ok := strings.CutSuffix(rest, ".svc")
		if !ok || ns == "" || strings.Contains(ns, ".") {
			continue
		}
		names := []string{short, name + "." + ns}
		if ns == c.view.Self.Namespace {
			names = append(names, name)
		}
		for _, n := range names {
			at := hostPort{n, v.Port}
			if taken[at] || c.byHost[n] != nil || c.vsExact[n] != nil && n != name {
				continue
			}
			taken[at] = true
			alias := *v
			alias.Host = n
			out = append(out, &alias)
		}
	}
	return out
}

// clusterDomain is the DNS domain of the names that Istio shortens.
const clusterDomain = "cluster.local"

// routes are the HTTP routes of a VirtualService that are for this workload and port, one for each match.
func (c *compiler) routes(vs *mesh.Typed[*networking.VirtualService], port uint16) ([]*route.Route, error) {
	var out []*route.Route
	for i, h := range vs.Spec.Http {
		base, err := c.httpRoute(h, vs.Namespace, port)
		if err != nil {
			return nil, of(&vs.Meta, item("spec.http", i), err)
		}
		first := len(out)
		if len(h.Match) == 0 {
			out = append(out, base)
		}
		for k, m := range h.Match {
			if m.Port != 0 && m.Port != uint32(port) || !c.isSource(m.Gateways, m.SourceLabels, m.SourceNamespace) {
				continue
			}
			r, err := matched(base, m)
			if err != nil {
				return nil, of(&vs.Meta, item(item("spec.http", i)+".match", k), err)
			}
			out = append(out, r)
		}
		if err := c.limitRoute(vs, h.Name, out[first:]...); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// matched is a route with one of its matches.
func matched(base *route.Route, m *networking.HTTPMatchRequest) (*route.Route, error) {
	r := *base
	var err error
	if r.Condition, err = condition(m); err != nil {
		return nil, err
	}
	if m.Name != "" {
		r.Name = strings.TrimPrefix(r.Name+"."+m.Name, ".")
	}
	return &r, checkPrefix(&r)
}
