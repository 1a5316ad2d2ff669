package compile

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// inbound makes the listeners of Sidecar.ingress and their clusters.
func (c *compiler) inbound() ([]Inbound, error) {
	if c.view.Sidecar == nil {
		return nil, nil
	}
	var out []Inbound
	for i, in := range c.view.Sidecar.Spec.Ingress {
		l, err := c.ingress(in)
		if err != nil {
			return nil, c.inSidecar("ingress", i, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func (c *compiler) inSidecar(list string, i int, err error) error {
	var already *Fault // of a VirtualService that the listener uses
	if errors.As(err, &already) {
		return err
	}
	return of(&c.view.Sidecar.Meta, item("spec."+list, i), err)
}

func (c *compiler) ingress(in *networking.IstioIngressListener) (Inbound, error) {
	bind, err := bindAddress(in.Bind, c.view.Self.Address, in.GetPort().GetNumber())
	if err != nil {
		return Inbound{}, err
	}
	target, err := defaultEndpoint(in.DefaultEndpoint, c.view.Self.Address, bind.Port())
	if err != nil {
		return Inbound{}, below("defaultEndpoint", err)
	}
	if target == bind.String() {
		return Inbound{}, below("defaultEndpoint", fmt.Errorf("%q is the listener itself", in.DefaultEndpoint))
	}
	l := Inbound{Bind: bind, HTTP: classOf(in.Port) == mesh.HTTP, Mode: modeOf(c.view, bind.Port()), StrictBy: strictBy(c.view, bind.Port()),
		Cluster: "inbound|" + strconv.Itoa(int(bind.Port())) + "||", Service: c.servedBy(bind.Port())}
	if l.Limits, err = c.inboundLimits(bind.Port()); err != nil {
		return Inbound{}, err
	}
	if _, twice := c.specs[l.Cluster]; twice {
		return Inbound{}, below("port.number", fmt.Errorf("%d is there twice", bind.Port()))
	}
	c.specs[l.Cluster] = upstream.Spec{Name: l.Cluster, ConnectTimeout: c.view.Mesh.ConnectTimeout, Destination: l.Service,
		Targets: []upstream.Target{{Address: target, Party: c.parties.self}}}
	return l, nil
}

// bindAddress is where a listener binds: bind as it is, else fallback.
func bindAddress(bind string, fallback netip.Addr, port uint32) (netip.AddrPort, error) {
	if port == 0 || port > 65535 {
		return netip.AddrPort{}, below("port.number", fmt.Errorf("%d is not 1 to 65535", port))
	}
	addr := fallback
	if bind != "" {
		var err error
		if addr, err = netip.ParseAddr(bind); err != nil {
			return netip.AddrPort{}, below("bind", fmt.Errorf("%q is not an IP address", bind))
		}
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}

// defaultEndpoint is the program's address: loopback and Unix sockets as written, an unspecified address means the
// workload's own, absent means 127.0.0.1 and the listener's port.
func defaultEndpoint(s string, own netip.Addr, port uint16) (string, error) {
	switch {
	case s == "":
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String(), nil
	case strings.HasPrefix(s, "unix:///"):
		return s, nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 {
		return "", fmt.Errorf("%q is neither IP:PORT nor unix:///PATH", s)
	}
	switch a.Addr() {
	case netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback():
		return a.String(), nil
	case netip.IPv4Unspecified(), netip.IPv6Unspecified():
		return netip.AddrPortFrom(own, a.Port()).String(), nil
	}
	return "", fmt.Errorf("%q must be on 127.0.0.1, [::1], 0.0.0.0 or [::]", s)
}

// classOf is the class of a declared protocol; without one the port's name decides by Istio's convention (http, http-x).
func classOf(p *networking.SidecarPort) mesh.Protocol {
	declared := strings.ToUpper(p.GetProtocol())
	if declared == "" {
		declared, _, _ = strings.Cut(strings.ToUpper(p.GetName()), "-")
	}
	if declared == "HTTP" {
		return mesh.HTTP
	}
	return mesh.TCP
}

// servedBy is the service that this port of the workload is an endpoint of: the first by host, one with a wildcard only where
// there is no other.
func (c *compiler) servedBy(port uint16) *proxy.Destination {
	self := workloadKey(c.view.Self)
	exactFirst := slices.SortedStableFunc(slices.Values(c.view.Served), func(a, b *mesh.Service) int {
		return cmp.Compare(strings.Count(a.Host, "*"), strings.Count(b.Host, "*"))
	})
	for _, s := range exactFirst {
		for i := range s.Endpoints {
			for j := range s.Endpoints[i] {
				e := &s.Endpoints[i][j]
				if a, err := netip.ParseAddrPort(e.Address); err == nil && e.Workload == self && a.Port() == port {
					return c.destination(s)
				}
			}
		}
	}
	return &proxy.Destination{}
}

// modeOf is the mTLS mode of a port of the workload. What this version does not know is the strictest.
func modeOf(v *mesh.View, port uint16) Mode {
	switch v.MTLSMode(uint32(port)) {
	case security.PeerAuthentication_MutualTLS_PERMISSIVE:
		return Permissive
	case security.PeerAuthentication_MutualTLS_DISABLE:
		return Disable
	}
	return Strict
}
