package compile

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// InboundPort and the passthrough addresses are proxy/capture's; that package is not imported for them, since it brings the
// kernel's packet filter into whatever links this one.
const InboundPort = 15006

var (
	passthrough4 = netip.AddrFrom4([4]byte{127, 0, 0, 6})
	passthrough6 = netip.AddrFrom16([16]byte{15: 6})
)

// Clusters of what no Service names, as Istio names them.
const (
	InboundPassthrough = "InboundPassthroughCluster"
	Passthrough        = "PassthroughCluster"
)

// Capture is what the sidecar of a pod runs by: where a captured connection was made to decides. Immutable.
type Capture struct {
	// Rest is the policy of the inbound ports that Workload.Inbound does not name; its port is 0.
	Rest Inbound
	// Addresses finds what was called; Hosts, by Host field or server name and port, what was called at an address that means
	// nothing: hosts of ServiceEntries, and Services of type ExternalName.
	Addresses *route.Addresses
	Hosts     *route.Table
	// Asked are the names of which is known what they mean, nil where that is so of every name.
	Asked map[string]mesh.Answer
}

// capture makes what a pod runs.
func (c *compiler) capture(w *Workload) (err error) {
	w.Capture = &Capture{Asked: c.view.Asked}
	if w.Inbound, err = c.capturedPorts(); err != nil {
		return err
	}
	if w.Capture.Rest, err = c.capturedPort(0, portClass{protocol: mesh.Detect}); err != nil {
		return err
	}
	c.passthrough()
	return c.capturedCalls(w)
}

// portClass is what Services say of one port of the pod.
type portClass struct {
	protocol mesh.Protocol
	declared string // as written, upper case
	by       string // the host of the Service, "" for none
}

// capturedPorts are the ports of the pod that something is said of: by a Service, a PeerAuthentication or a Sidecar.
func (c *compiler) capturedPorts() ([]Inbound, error) {
	classes := c.classes()
	for _, p := range c.view.PeerAuthentication {
		for number := range p.Spec.GetPortLevelMtls() {
			if _, have := classes[uint16(number)]; !have && number > 0 && number <= 65535 {
				classes[uint16(number)] = portClass{protocol: mesh.Detect}
			}
		}
	}
	targets, err := c.ingressOfPod(classes)
	if err != nil {
		return nil, err
	}
	var out []Inbound
	for _, port := range slices.Sorted(maps.Keys(classes)) {
		l, err := c.capturedPort(port, classes[port])
		if err != nil {
			return nil, err
		}
		if to := targets[port]; to != "" {
			spec := c.specs[l.Cluster]
			spec.Original, spec.Local, spec.Local6 = false, netip.Addr{}, netip.Addr{}
			spec.Targets = []upstream.Target{spec.Template}
			spec.Targets[0].Address = to
			c.specs[l.Cluster] = spec
		}
		out = append(out, l)
	}
	return out, nil
}

// classes reads the class of the pod's ports off the Services that it serves. Where two disagree the first bytes decide.
func (c *compiler) classes() map[uint16]portClass {
	self, out := workloadKey(c.view.Self), map[uint16]portClass{}
	for _, s := range c.view.Served {
		for i := range s.Endpoints {
			for k := range s.Endpoints[i] {
				e := &s.Endpoints[i][k]
				at, err := netip.ParseAddrPort(e.Address)
				if err != nil || e.Workload != self || i >= len(s.Ports) {
					continue
				}
				out[at.Port()] = c.agree(at.Port(), out[at.Port()], portClass{s.Ports[i].Protocol, s.Ports[i].Declared, s.Host})
			}
		}
	}
	return out
}

func (c *compiler) agree(port uint16, a, b portClass) portClass {
	switch {
	case a.by == "" || a.protocol == mesh.Detect:
		return b
	case b.protocol == mesh.Detect || a.protocol == b.protocol:
		return a
	}
	c.warn("port %d: %s and %s say different protocols of it: the first bytes of a connection decide", port, a.by, b.by)
	return portClass{protocol: mesh.Detect, by: a.by}
}

// ingressOfPod reads Sidecar.ingress: the class of a port, and where what arrives there goes if not to that port itself.
func (c *compiler) ingressOfPod(classes map[uint16]portClass) (map[uint16]string, error) {
	if c.view.Sidecar == nil {
		return nil, nil
	}
	targets := map[uint16]string{}
	for i, in := range c.view.Sidecar.Spec.Ingress {
		port, to, err := c.ingressPort(in)
		if _, twice := targets[port]; err == nil && twice {
			err = below("port.number", errors.New(strconv.Itoa(int(port))+" is there twice"))
		}
		if err != nil {
			return nil, c.inSidecar("ingress", i, err)
		}
		targets[port] = to
		classes[port] = portClass{classOf(in.Port), strings.ToUpper(in.GetPort().GetProtocol()), classes[port].by}
	}
	return targets, nil
}

func (c *compiler) ingressPort(in *networking.IstioIngressListener) (port uint16, to string, err error) {
	bind, err := bindAddress("", c.view.Self.Address, in.GetPort().GetNumber())
	if err != nil {
		return 0, "", err
	}
	if in.Bind != "" && in.Bind != "0.0.0.0" && in.Bind != "::" {
		return 0, "", below("bind", errors.New("a pod's traffic is captured at every address of it: leave bind out"))
	}
	if in.DefaultEndpoint == "" {
		return bind.Port(), "", nil
	}
	to, err = defaultEndpoint(in.DefaultEndpoint, c.view.Self.Address, bind.Port())
	return bind.Port(), to, below("defaultEndpoint", err)
}

// capturedPort is one port of the pod; 0 stands for all that nothing is said of.
func (c *compiler) capturedPort(port uint16, class portClass) (Inbound, error) {
	l := Inbound{Bind: netip.AddrPortFrom(c.view.Self.Address, port), HTTP: class.protocol != mesh.TCP, Detect: class.protocol == mesh.Detect,
		Mode: modeOf(c.view, port), StrictBy: strictBy(c.view, port), Cluster: InboundPassthrough, Service: c.servedBy(port)}
	if port != 0 {
		l.Cluster = "inbound|" + strconv.Itoa(int(port)) + "||"
		c.warnOfTCP(port, class)
	}
	var err error
	if l.Limits, err = c.inboundLimits(port); err != nil {
		return Inbound{}, err
	}
	c.specs[l.Cluster] = upstream.Spec{Name: l.Cluster, ConnectTimeout: c.view.Mesh.ConnectTimeout, Destination: l.Service,
		Local: passthrough4, Local6: passthrough6, Original: true, Template: upstream.Target{Party: c.parties.self}}
	return l, nil
}

// passthrough is the cluster of calls to what the mesh does not know.
func (c *compiler) passthrough() {
	c.specs[Passthrough] = upstream.Spec{Name: Passthrough, ConnectTimeout: c.view.Mesh.ConnectTimeout, Original: true,
		Destination: &proxy.Destination{Service: Passthrough, ServiceName: Passthrough}}
}

// warnOfTCP says which HTTP rules follow the TCP rules on a port where HTTP/2 is, or may be, spoken.
func (c *compiler) warnOfTCP(port uint16, class portClass) {
	says := ""
	switch {
	case class.protocol == mesh.Detect:
		says = "declares no protocol: HTTP/2 on it"
	case class.declared == "GRPC" || class.declared == "HTTP2" || class.declared == "GRPC-WEB":
		says = "declares " + class.declared + ", which"
	default:
		return
	}
	var by []string
	for _, p := range c.view.Authorization {
		if mesh.ReadsHTTP(p.Spec) {
			by = append(by, p.Kind+" "+p.Namespace+"/"+p.Name)
		}
	}
	for _, p := range c.view.RequestAuthentication {
		by = append(by, p.Kind+" "+p.Namespace+"/"+p.Name)
	}
	for _, p := range c.view.RateLimits {
		by = append(by, p.Kind+" "+p.Namespace+"/"+p.Name)
	}
	if len(by) > 0 {
		c.warn("port %d %s is carried and judged as TCP, so that what %s say of HTTP follows the rules for TCP there", port, says, strings.Join(by, ", "))
	}
}
