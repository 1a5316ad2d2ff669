package compile

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
)

// outbound makes the listeners of Sidecar.egress, and the default HTTP proxy where none of them is one.
func (c *compiler) outbound() ([]Outbound, error) {
	var out []Outbound
	hasProxy := false
	var open imports // of the entries without a port
	limited := false
	if c.view.Sidecar != nil {
		for i, e := range c.view.Sidecar.Spec.Egress {
			seen := parseImports(e.Hosts, c.view.Self.Namespace)
			if e.Port == nil {
				open.in, open.out = append(open.in, seen.in...), append(open.out, seen.out...)
				limited = true
				continue
			}
			o, err := c.egress(e, seen)
			if err != nil {
				return nil, c.inSidecar("egress", i, err)
			}
			hasProxy = hasProxy || o.Kind == HTTPProxy
			out = append(out, o)
		}
	}
	if hasProxy {
		return out, nil
	}
	if !limited {
		open.in = []importEntry{{"*", "*"}} // the view itself is limited already
	}
	o := Outbound{Bind: netip.AddrPortFrom(c.view.Self.Address, OutboundPort), Kind: HTTPProxy}
	var err error
	if o.Table, err = c.table(open, 0); err != nil {
		return nil, err
	}
	return append(out, o), nil
}

func (c *compiler) egress(e *networking.IstioEgressListener, seen imports) (Outbound, error) {
	bind, err := bindAddress(e.Bind, netip.AddrFrom4([4]byte{127, 0, 0, 1}), e.Port.Number)
	if err != nil {
		return Outbound{}, err
	}
	o := Outbound{Bind: bind, Kind: TCP}
	switch {
	case strings.EqualFold(e.Port.Protocol, "HTTP_PROXY"):
		o.Kind = HTTPProxy
		o.Table, err = c.table(seen, 0)
	case classOf(e.Port) == mesh.HTTP:
		o.Kind = HTTP
		o.Table, err = c.table(seen, bind.Port())
	default:
		err = c.tcpListener(&o, seen)
	}
	return o, err
}

// tcpListener finds the one service of a TCP listener: the one with the listener's port, else the only one, with its only
// port. None at all dangles; several are refused.
func (c *compiler) tcpListener(o *Outbound, seen imports) error {
	o.Service = &proxy.Destination{}
	number := uint32(o.Bind.Port())
	visible := c.visible(seen)
	if len(visible) == 0 {
		c.warn("TCP egress listener %s: none of its hosts exists", o.Bind)
		return nil
	}
	var own []*mesh.Service
	for _, s := range visible {
		if portIndex(s, number) >= 0 {
			own = append(own, s)
		}
	}
	switch {
	case len(own) > 1:
		return fmt.Errorf("TCP listener on port %d: both %s and %s have that port; name one host", number, own[0].Host, own[1].Host)
	case len(own) == 1:
		return c.tcpTo(o, own[0], portIndex(own[0], number))
	case len(visible) > 1:
		return fmt.Errorf("TCP listener on port %d: neither %s nor %s has that port; name one host", number, visible[0].Host, visible[1].Host)
	case len(visible[0].Ports) != 1:
		return fmt.Errorf("TCP listener on port %d: %s has %d ports, and none of them is it", number, visible[0].Host, len(visible[0].Ports))
	}
	return c.tcpTo(o, visible[0], 0)
}

func (c *compiler) tcpTo(o *Outbound, s *mesh.Service, i int) (err error) {
	o.Service = c.destination(s)
	o.Destinations, err = c.tcpRoute(s, uint16(s.Ports[i].Number))
	return err
}

func portIndex(s *mesh.Service, number uint32) int {
	for i := range s.Ports {
		if s.Ports[i].Number == number {
			return i
		}
	}
	return -1
}

// tcpRoute is where a TCP stream to a port of a service goes: the first TCP route of its VirtualService that matches, else
// the service itself. A VirtualService with TCP routes of which none matches leads to the service, as in Istio.
func (c *compiler) tcpRoute(s *mesh.Service, port uint16) ([]route.Weighted, error) {
	direct := []route.Weighted{{Cluster: ClusterName(uint32(port), "", s.Host)}}
	v := c.virtualService(s.Host)
	if v == nil {
		return direct, nil
	}
	for i, t := range v.Spec.Tcp {
		ok, err := c.matchesTCP(t, port)
		if err != nil {
			return nil, of(&v.Meta, item("spec.tcp", i), err)
		}
		if !ok {
			continue
		}
		out, err := c.tcpDestinations(t, v.Namespace, port)
		return out, of(&v.Meta, item("spec.tcp", i), err)
	}
	return direct, nil
}

func (c *compiler) tcpDestinations(t *networking.TCPRoute, namespace string, port uint16) ([]route.Weighted, error) {
	out := make([]route.Weighted, 0, len(t.Route))
	for k, d := range t.Route {
		name, err := c.reference(d.Destination, namespace, port)
		if err != nil {
			return nil, below(item("route", k)+".destination", err)
		}
		out = append(out, route.Weighted{Cluster: name, Weight: weight(d.Weight)})
	}
	return out, below("route", checkWeights(out))
}

func (c *compiler) matchesTCP(t *networking.TCPRoute, port uint16) (bool, error) {
	if len(t.Match) == 0 {
		return true, nil
	}
	for i, m := range t.Match {
		if len(m.DestinationSubnets) > 0 || m.SourceSubnet != "" {
			return false, below(item("match", i), fmt.Errorf("a match by subnet is not supported"))
		}
		if (m.Port == 0 || m.Port == uint32(port)) && c.isSource(m.Gateways, m.SourceLabels, m.SourceNamespace) {
			return true, nil
		}
	}
	return false, nil
}

// isSource judges what a match says of the caller: all of it is known when the table is made.
func (c *compiler) isSource(gateways []string, labels map[string]string, namespace string) bool {
	own := c.view.Self
	if namespace != "" && namespace != own.Namespace || !selects(labels, own.Labels) {
		return false
	}
	for _, g := range gateways {
		if g == meshGateway {
			return true
		}
	}
	return len(gateways) == 0
}

func weight(w int32) uint32 {
	if w < 0 {
		return 0
	}
	return uint32(w)
}

func checkWeights(ds []route.Weighted) error {
	if len(ds) == 0 {
		return fmt.Errorf("route has no destination")
	}
	var sum uint32
	for i := range ds {
		sum += ds[i].Weight
	}
	if len(ds) > 1 && sum == 0 {
		return fmt.Errorf("the weights of the destinations add up to 0")
	}
	return nil
}

// item is the path of one element of a list.
func item(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }
