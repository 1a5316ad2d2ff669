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

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/limit"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// The ALPN names that Istio's sidecars offer each other.
const (
	alpnHTTP = "istio-http/1.1"
	alpnTCP  = "istio"
)

// compiler holds what the steps of one Compile share.
type compiler struct {
	view       *mesh.View
	parts      Parts
	limited    map[*route.Route]*limit.Set
	parties    *Parties
	byHost     map[string]*mesh.Service
	rules      map[string]*ruleIndex // by namespace
	vsExact    map[string]*mesh.Typed[*networking.VirtualService]
	vsWildcard []*mesh.Typed[*networking.VirtualService]
	named      map[*mesh.Service]*proxy.Destination
	specs      map[string]upstream.Spec
	warnings   []string
}

func newCompiler(v *mesh.View) *compiler {
	c := &compiler{view: v, parties: newParties(v.Self, v.Peers), byHost: make(map[string]*mesh.Service, len(v.Services)),
		rules: map[string]*ruleIndex{}, vsExact: map[string]*mesh.Typed[*networking.VirtualService]{},
		named: make(map[*mesh.Service]*proxy.Destination, len(v.Services)), specs: map[string]upstream.Spec{},
		limited: map[*route.Route]*limit.Set{}}
	for _, s := range v.Services {
		if c.byHost[s.Host] == nil {
			c.byHost[s.Host] = s
		}
	}
	c.indexRules()
	c.indexVirtualServices()
	return c
}

// finish gives the clusters by name, and the warnings.
func (c *compiler) finish() ([]upstream.Spec, []string) {
	out := make([]upstream.Spec, 0, len(c.specs))
	for _, s := range c.specs {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b upstream.Spec) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(c.warnings)
	return out, slices.Compact(c.warnings)
}

// destination is what metrics say of a service; one value for each.
func (c *compiler) destination(s *mesh.Service) *proxy.Destination {
	if d := c.named[s]; d != nil {
		return d
	}
	d := &proxy.Destination{Service: s.Host, ServiceName: s.Host, ServiceNamespace: s.Namespace}
	if name, rest, ok := strings.Cut(s.Host, "."); ok && strings.HasPrefix(rest, s.Namespace+".svc.") {
		d.ServiceName = name
	}
	c.named[s] = d
	return d
}

// ClusterName is Istio's name of an outbound cluster.
func ClusterName(port uint32, subset, host string) string {
	return "outbound|" + strconv.FormatUint(uint64(port), 10) + "|" + subset + "|" + host
}

func sniOf(port uint32, subset, host string) string {
	return "outbound_." + strconv.FormatUint(uint64(port), 10) + "_." + subset + "_." + host
}

// clusters makes the specs of every port and subset of every service.
func (c *compiler) clusters() error {
	for _, s := range c.view.Services {
		if c.byHost[s.Host] != s {
			continue
		}
		r := c.destinationRule(s)
		for i := range s.Ports {
			if err := c.portClusters(s, i, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *compiler) portClusters(s *mesh.Service, i int, r *rule) error {
	if r == nil {
		return c.cluster(s, i, "", nil, trafficPolicy{})
	}
	top := trafficPolicy{}.override(r.policy, s.Ports[i].Number)
	if err := c.cluster(s, i, "", nil, top); err != nil {
		return of(r.from, "spec.trafficPolicy", err)
	}
	for _, sub := range r.subsets {
		if err := c.cluster(s, i, sub.Name, sub.Labels, top.override(sub.TrafficPolicy, s.Ports[i].Number)); err != nil {
			return of(sub.from, item("spec.subsets", sub.at)+".trafficPolicy", err)
		}
	}
	return nil
}

// cluster adds the spec of one port (or one subset of it).
func (c *compiler) cluster(s *mesh.Service, i int, subset string, labels map[string]string, p trafficPolicy) error {
	port := s.Ports[i]
	lb, err := p.balance()
	if err != nil {
		return err
	}
	spec := upstream.Spec{Name: ClusterName(port.Number, subset, s.Host), Policy: lb, ConnectTimeout: c.connectTimeout(p),
		ALPN: alpnTCP, SNI: sniOf(port.Number, subset, s.Host), Destination: c.destination(s)}
	switch port.Protocol {
	case mesh.HTTP:
		spec.ALPN = alpnHTTP
	case mesh.Detect:
		spec.ALPN, spec.StreamALPN = alpnHTTP, alpnTCP
	}
	if sni := p.tls.GetSni(); sni != "" {
		spec.SNI = sni
	}
	sans := s.SubjectAltNames
	replaced := p.tls != nil && len(p.tls.SubjectAltNames) > 0
	if replaced {
		sans = p.tls.SubjectAltNames
	}
	named := c.identities(spec.Name, sans)
	if i < len(s.Endpoints) {
		for j := range s.Endpoints[i] {
			e := &s.Endpoints[i][j]
			if !selects(labels, e.Labels) || c.closed(s, j, e) {
				continue
			}
			t, err := c.target(e, p.tls, named, replaced)
			if err != nil {
				return err
			}
			spec.Targets = append(spec.Targets, t)
		}
	}
	if err := c.resolution(&spec, s, i, p.tls, named); err != nil {
		return err
	}
	if subset != "" && len(spec.Targets) == 0 {
		c.warn("subset %q of %s port %d has no endpoint", subset, s.Host, port.Number)
	}
	spec.Local = c.local(spec.Targets)
	c.specs[spec.Name] = spec
	return nil
}

// resolution says how the endpoints of a port are found where they are not just listed.
func (c *compiler) resolution(spec *upstream.Spec, s *mesh.Service, i int, tls *networking.ClientTLSSettings, named []identity.ID) (err error) {
	switch s.Resolution {
	case mesh.Original:
		// A headless Service without endpoints has nowhere to go; it must not become the address that was called.
		spec.Original = !s.Kubernetes || len(spec.Targets) > 0
		spec.Template, err = c.target(&mesh.Endpoint{}, tls, named, false)
	case mesh.ByDNS:
		spec.Resolve = true
		if i < len(s.Endpoints) && len(s.Endpoints[i]) > 0 {
			return nil // whatever the subset, they are there
		}
		if strings.Contains(s.Host, "*") {
			c.warn("%s: resolution DNS needs a host without a wildcard, or endpoints", s.Host)
			return nil
		}
		e := mesh.Endpoint{Address: s.Host + ":" + strconv.FormatUint(uint64(cmp.Or(s.Ports[i].Target, s.Ports[i].Number)), 10)}
		if c.closed(s, -1, &e) {
			return nil
		}
		t, err := c.target(&e, tls, named, false)
		if err != nil {
			return err
		}
		spec.Targets = append(spec.Targets, t)
	}
	return err
}

// closed reports, with a warning, whether an endpoint of a service is not called: it would lead others to what is meant for this
// workload alone. at is its position, -1 where the service's host stands for it.
func (c *compiler) closed(s *mesh.Service, at int, e *mesh.Endpoint) bool {
	self, why := c.view.Self, ""
	if strings.HasPrefix(e.Address, "unix://") {
		switch {
		case self.Pod:
			why = "a pod's sidecar calls no Unix socket"
		case s.Namespace != self.Namespace:
			why = "a Unix socket is called by workloads of namespace " + s.Namespace + " only"
		}
	} else if a, err := netip.ParseAddrPort(e.Address); err == nil && self.Pod && MeshPort(a.Port()) {
		ip := a.Addr().Unmap().WithZone("")
		if ip.IsLoopback() || slices.Contains(self.Addresses(), ip) {
			why = "the sidecar's own ports are not called"
		}
	}
	if why == "" {
		return false
	}
	field := "spec.hosts"
	switch {
	case e.Workload != "" || s.Kubernetes:
		field = "endpoint"
	case at >= 0:
		field = item("spec.endpoints", at) + ".address"
	}
	c.warn("%s %s/%s: %s: %s is left out: %s", s.Key().Kind, s.Namespace, s.Name, field, e.Address, why)
	return true
}

// identities reads subjectAltNames. One that is not a SPIFFE ID can't be proven here: it expects less, never more.
func (c *compiler) identities(cluster string, sans []string) []identity.ID {
	var out []identity.ID
	for _, san := range sans {
		id, err := identity.Parse(san)
		if err != nil {
			c.warn("cluster %s: subjectAltName %q is not a SPIFFE ID and matches nobody", cluster, san)
			continue
		}
		out = append(out, id)
	}
	return out
}

// target is one endpoint, with whom it must prove to be. TLS is Istio's: what the DestinationRule says, else mTLS where
// the endpoint speaks it.
func (c *compiler) target(e *mesh.Endpoint, tls *networking.ClientTLSSettings, named []identity.ID, replaced bool) (upstream.Target, error) {
	t := upstream.Target{Address: e.Address, Weight: e.Weight, MTLS: e.TLSMode == "istio"}
	if e.Workload != "" {
		t.Party = c.parties.Workload(e.Workload)
	}
	if tls != nil {
		switch tls.Mode {
		case networking.ClientTLSSettings_DISABLE:
			t.MTLS = false
		case networking.ClientTLSSettings_ISTIO_MUTUAL:
			t.MTLS = true
		default:
			return t, below("tls.mode", fmt.Errorf("%s is not supported", tls.Mode))
		}
	}
	if !t.MTLS {
		return t, nil
	}
	if !replaced && !e.Identity.IsZero() {
		t.Expect = append(t.Expect, e.Identity)
	}
	for _, id := range named {
		if !slices.Contains(t.Expect, id) {
			t.Expect = append(t.Expect, id)
		}
	}
	return t, nil
}

// local is the address that a cluster is dialled from: the workload's, unless that is loopback and a target is not.
func (c *compiler) local(targets []upstream.Target) netip.Addr {
	own := c.view.Self.Address
	if c.view.Self.Pod { // the kernel knows, and picks by family
		return netip.Addr{}
	}
	if !own.IsLoopback() {
		return own
	}
	for i := range targets {
		if a, err := netip.ParseAddrPort(targets[i].Address); err == nil && !a.Addr().IsLoopback() {
			return netip.Addr{}
		}
	}
	return own
}

// reference is the name of the cluster that a destination means. What does not exist gets a cluster without endpoints, so
// that the answer is "no healthy upstream" and not another service.
func (c *compiler) reference(d *networking.Destination, namespace string, port uint16) (string, error) {
	if d.GetHost() == "" {
		return "", below("host", errors.New("must be set"))
	}
	s := c.service(d.Host, namespace)
	number := d.GetPort().GetNumber()
	host := strings.TrimSuffix(strings.ToLower(d.Host), ".")
	if s != nil {
		host = s.Host
		if number == 0 && len(s.Ports) == 1 {
			number = s.Ports[0].Number
		}
	}
	if number == 0 {
		number = uint32(port)
	}
	name := ClusterName(number, d.Subset, host)
	if _, ok := c.specs[name]; !ok {
		c.warn("destination %s port %d subset %q does not exist", host, number, d.Subset)
		c.specs[name] = upstream.Spec{Name: name, Destination: &proxy.Destination{Service: host, ServiceName: host}}
	}
	return name, nil
}

func (c *compiler) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}
