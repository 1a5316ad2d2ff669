package source

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/mesh"
)

func serviceKey(namespace, name string) mesh.Key {
	return mesh.Key{Group: mesh.GroupCore, Kind: mesh.KindService, Namespace: namespace, Name: name}
}

// serviceObject is a Service, with what its EndpointSlices say, as an object of the mesh. nil for one without a TCP port: the
// mesh carries nothing else.
func (s *Source) serviceObject(v *corev1.Service, slices []*discoveryv1.EndpointSlice) *mesh.Object {
	ports := servicePorts(v)
	if len(ports) == 0 {
		return nil
	}
	spec := &networking.ServiceEntry{Hosts: []string{v.Name + "." + v.Namespace + ".svc." + s.cfg.ClusterDomain}, Ports: ports,
		Location: networking.ServiceEntry_MESH_INTERNAL, ExportTo: exported(v)}
	switch {
	case v.Spec.Type == corev1.ServiceTypeExternalName:
		// The name may be one of this cluster or of anybody: nothing is known of who answers.
		spec.Resolution, spec.Location = networking.ServiceEntry_DNS, networking.ServiceEntry_MESH_EXTERNAL
		spec.Endpoints = []*networking.WorkloadEntry{{Address: strings.TrimSuffix(strings.ToLower(v.Spec.ExternalName), ".")}}
	case v.Spec.ClusterIP == corev1.ClusterIPNone:
		spec.Resolution = networking.ServiceEntry_NONE
		spec.Endpoints = s.endpoints(v, slices, "")
	default:
		spec.Resolution = networking.ServiceEntry_STATIC
		spec.Addresses = clusterIPs(v)
		spec.Endpoints = s.endpoints(v, slices, mainFamily(spec.Addresses, slices))
	}
	return &mesh.Object{Meta: mesh.Meta{Key: serviceKey(v.Namespace, v.Name), Version: "v1", Created: v.CreationTimestamp.UTC()}, Spec: spec}
}

// servicePorts are the TCP ports of a Service.
func servicePorts(v *corev1.Service) []*networking.ServicePort {
	var out []*networking.ServicePort
	for i := range v.Spec.Ports {
		p := &v.Spec.Ports[i]
		if p.Protocol != corev1.ProtocolTCP && p.Protocol != "" {
			continue
		}
		port := &networking.ServicePort{Number: uint32(p.Port), Name: portName(p), Protocol: protocol(p)}
		if n := p.TargetPort.IntValue(); n > 0 && n < 1<<16 {
			port.TargetPort = uint32(n)
		}
		out = append(out, port)
	}
	return out
}

// portName names a port that has no name, as the only port of a Service may.
func portName(p *corev1.ServicePort) string {
	if p.Name == "" {
		return "port-" + strconv.Itoa(int(p.Port))
	}
	return p.Name
}

// exported is the Service's annotation as ServiceEntry.exportTo. "~" is nobody, which the annotation alone can say: no
// namespace has such a name.
func exported(v *corev1.Service) []string {
	var out []string
	for _, name := range strings.Split(v.Annotations[exportTo], ",") {
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, name)
		}
	}
	return out
}

func clusterIPs(v *corev1.Service) []string {
	ips := v.Spec.ClusterIPs
	if len(ips) == 0 && v.Spec.ClusterIP != "" {
		ips = []string{v.Spec.ClusterIP}
	}
	var out []string
	for _, ip := range ips {
		out = append(out, canonical(ip))
	}
	return out
}

// mainFamily is the family whose endpoints a Service with both is carried to: that of its first ClusterIP if it has any, so
// that a pod with two addresses does not count twice.
func mainFamily(ips []string, all []*discoveryv1.EndpointSlice) discoveryv1.AddressType {
	if len(ips) == 0 {
		return ""
	}
	family := discoveryv1.AddressTypeIPv4
	if a, err := netip.ParseAddr(ips[0]); err == nil && a.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	for _, slice := range all {
		if slice.AddressType == family && len(slice.Endpoints) > 0 {
			return family
		}
	}
	return ""
}

// gathered are the endpoints of a Service by address, and in the order in which they were found.
type gathered struct {
	order []string
	at    map[string]*networking.WorkloadEntry
	// unready are, by address, the ports at which nobody is led there.
	unready map[string][]string
}

// endpoints are the addresses that serve a Service, with the ports that each serves, of one family or ("") of both. As
// kube-proxy has it, a port whose endpoints are all on their way out goes on being served by those that still can.
// https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-to-terminating-endpoints
//
// Pods that are not ready are there too, marked: what a port of a pod is does not hang on its readiness.
func (s *Source) endpoints(v *corev1.Service, all []*discoveryv1.EndpointSlice, family discoveryv1.AddressType) []*networking.WorkloadEntry {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	g := gathered{at: map[string]*networking.WorkloadEntry{}, unready: map[string][]string{}}
	for i := range v.Spec.Ports {
		p := &v.Spec.Ports[i]
		if p.Protocol != corev1.ProtocolTCP && p.Protocol != "" {
			continue
		}
		gather := func(usable func(discoveryv1.EndpointConditions) bool, unready bool) (found bool) {
			for _, slice := range all {
				if family == "" && slice.AddressType != discoveryv1.AddressTypeFQDN || slice.AddressType == family {
					found = s.gather(&g, p, slice, usable, unready) || found
				}
			}
			return found
		}
		if !gather(ready, false) {
			gather(draining, false)
		}
		gather(func(discoveryv1.EndpointConditions) bool { return true }, true)
	}
	out := make([]*networking.WorkloadEntry, 0, len(g.order))
	slices.Sort(g.order)
	for _, a := range g.order {
		e := g.at[a]
		if names := g.unready[a]; len(names) > 0 {
			e.Labels[mesh.UnreadyLabel] = strings.Join(names, ",")
		}
		out = append(out, e)
	}
	return out
}

// ready includes unready endpoints of a Service with publishNotReadyAddresses: the endpoint controller calls them ready.
func ready(c discoveryv1.EndpointConditions) bool { return c.Ready == nil || *c.Ready }

func draining(c discoveryv1.EndpointConditions) bool {
	return c.Serving != nil && *c.Serving && c.Terminating != nil && *c.Terminating
}

// gather adds the endpoints of one slice that serve one port, and reports whether there were any. As unready it adds those
// that were not added before, if there is a pod behind them.
func (s *Source) gather(g *gathered, p *corev1.ServicePort, slice *discoveryv1.EndpointSlice, usable func(discoveryv1.EndpointConditions) bool, unready bool) bool {
	number, ok := slicePort(slice, p)
	found := false
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if !ok || len(e.Addresses) == 0 || !usable(e.Conditions) {
			continue
		}
		a, err := netip.ParseAddr(e.Addresses[0]) // the others of one endpoint mean the same: the API says to take the first
		if err != nil {
			continue
		}
		address := a.Unmap().String()
		have := g.at[address]
		if have == nil {
			have = s.endpoint(slice, e, address)
		}
		if unready {
			if _, there := have.Ports[portName(p)]; there || have.Labels[mesh.WorkloadLabel] == "" {
				continue
			}
			g.unready[address] = append(g.unready[address], portName(p))
		}
		if g.at[address] == nil {
			g.at[address] = have
			g.order = append(g.order, address)
		}
		have.Ports[portName(p)], found = number, true
	}
	return found
}

// slicePort is the number that a port of a Service has on the endpoints of a slice.
func slicePort(slice *discoveryv1.EndpointSlice, p *corev1.ServicePort) (uint32, bool) {
	for _, sp := range slice.Ports {
		name, transport := "", corev1.ProtocolTCP
		if sp.Name != nil {
			name = *sp.Name
		}
		if sp.Protocol != nil {
			transport = *sp.Protocol
		}
		if name != p.Name || transport != corev1.ProtocolTCP {
			continue
		}
		if sp.Port != nil && *sp.Port > 0 && *sp.Port < 1<<16 {
			return uint32(*sp.Port), true
		}
		if n := p.TargetPort.IntValue(); n > 0 { // every port is meant
			return uint32(n), true
		}
		return uint32(p.Port), true
	}
	return 0, false
}

// endpoint is one address; what its pod says of it is believed only if the pod lives in the slice's namespace and has the
// address.
func (s *Source) endpoint(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, address string) *networking.WorkloadEntry {
	out := &networking.WorkloadEntry{Address: address, Ports: map[string]uint32{}, Labels: map[string]string{mesh.LabelTLSMode: mesh.TLSModeDisabled}}
	pod := s.podBehind(slice, e, address)
	if pod == nil {
		return out
	}
	out.Labels = podLabels(pod)
	delete(out.Labels, mesh.UnreadyLabel) // the pod's own word for it counts for nothing
	out.Labels[mesh.WorkloadLabel] = pod.Namespace + "/" + pod.Name
	out.ServiceAccount = account(pod)
	return out
}

func (s *Source) podBehind(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, address string) *corev1.Pod {
	if name := podName(slice, e); name != "" {
		pod := s.pod(slice.Namespace, name)
		if pod != nil && placed(pod) && slices.ContainsFunc(podAddresses(pod), func(a netip.Addr) bool { return a.String() == address }) {
			return pod
		}
		return nil
	}
	found, err := s.pods.GetIndexer().ByIndex(byAddress, slice.Namespace+"|"+address)
	if err != nil {
		return nil
	}
	var pod *corev1.Pod
	for _, o := range found {
		if p, ok := o.(*corev1.Pod); ok && (pod == nil || p.Name < pod.Name) {
			pod = p
		}
	}
	return pod
}
