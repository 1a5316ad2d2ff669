package mesh

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/identity"
)

// The values of Workload.TLSMode and Endpoint.TLSMode.
const (
	TLSModeIstio    = "istio"
	TLSModeDisabled = "disabled"
)

// readWorkload reads a WorkloadEntry that was judged good. One whose identity can't be built has none.
func readWorkload(o *Object, spec *networking.WorkloadEntry, trustDomain string) *Workload {
	w := &Workload{Namespace: o.Namespace, Name: o.Name, ServiceAccount: spec.GetServiceAccount(), Ports: spec.GetPorts(),
		Labels: mergeLabels(spec.GetLabels(), o.Labels), Pod: o.Kind == KindPod, Owner: o.Annotations[OwnerAnnotation]}
	w.TLSMode = tlsMode(w.Labels, w.ServiceAccount)
	w.Address, _ = netip.ParseAddr(spec.GetAddress())
	w.Address = w.Address.Unmap()
	if w.Pod {
		for text := range strings.SplitSeq(o.Annotations[AddressesAnnotation], ",") {
			if a, err := netip.ParseAddr(text); err == nil {
				w.Others = append(w.Others, a.Unmap())
			}
		}
	}
	if w.ServiceAccount != "" {
		w.ID, _ = identity.New(trustDomain, o.Namespace, w.ServiceAccount)
	}
	return w
}

// mergeLabels unites the labels of a WorkloadEntry's spec and of its metadata, which win, as in Istio.
func mergeLabels(spec, metadata map[string]string) map[string]string {
	if len(metadata) == 0 {
		return spec
	}
	out := maps.Clone(metadata)
	for k, v := range spec {
		if _, ok := out[k]; !ok {
			out[k] = v
		}
	}
	return out
}

// tlsMode is what the label says, else mTLS wherever there is an identity to prove.
func tlsMode(labels map[string]string, serviceAccount string) string {
	switch m := labels[LabelTLSMode]; {
	case m != "":
		return m
	case serviceAccount != "":
		return TLSModeIstio
	}
	return TLSModeDisabled
}

// services makes one service for each host of a ServiceEntry. unready are, by port, further endpoints, to which nobody is led.
func (w *world) services(e *entry) (out []*Service, unready [][]Endpoint) {
	ports := make([]ServicePort, len(e.Spec.GetPorts()))
	endpoints := make([][]Endpoint, len(ports))
	unready = make([][]Endpoint, len(ports))
	for i, p := range e.Spec.GetPorts() {
		proto := readProtocol(p.GetProtocol())
		ports[i] = ServicePort{Name: p.GetName(), Number: p.GetNumber(), Declared: proto.declared, Protocol: proto.class, Target: p.GetTargetPort()}
		if e.kubernetes() && proto.declared == "" {
			ports[i].Protocol = Detect
		}
		if ports[i].Target == 0 {
			ports[i].Target = p.GetNumber()
		}
		endpoints[i], unready[i] = w.endpoints(e, &ports[i])
	}
	addresses := readAddresses(e.Spec.GetAddresses())
	out = make([]*Service, 0, len(e.Spec.GetHosts()))
	for _, h := range e.Spec.GetHosts() {
		out = append(out, &Service{Namespace: e.Namespace, Name: e.Name, Created: e.Created, Host: strings.ToLower(h), Ports: ports,
			SubjectAltNames: e.Spec.GetSubjectAltNames(), External: external(e), Addresses: addresses,
			Resolution: resolution(e.Spec.GetResolution()), Kubernetes: e.kubernetes(), Endpoints: endpoints})
	}
	return out, unready
}

func external(e *entry) bool { return e.Spec.GetLocation() == networking.ServiceEntry_MESH_EXTERNAL }

func resolution(r networking.ServiceEntry_Resolution) Resolution {
	switch r {
	case networking.ServiceEntry_NONE:
		return Original
	case networking.ServiceEntry_DNS, networking.ServiceEntry_DNS_ROUND_ROBIN:
		return ByDNS
	}
	return Static
}

// endpoints are those that serve one port: of the workloads selected in the ServiceEntry's namespace, or inline.
func (w *world) endpoints(e *entry, p *ServicePort) (out, unready []Endpoint) {
	if s := e.Spec.GetWorkloadSelector(); s != nil {
		for _, l := range w.byNamespace[e.Namespace] {
			if selects(s.GetLabels(), l.Labels) {
				out = append(out, w.workloadEndpoint(p, l))
			}
		}
		return out, nil
	}
	for _, i := range e.Spec.GetEndpoints() {
		if _, named := i.GetPorts()[p.Name]; e.kubernetes() && len(i.GetPorts()) > 0 && !named {
			continue // of the pods behind a Service not every one has every port
		}
		names, some := i.GetLabels()[UnreadyLabel]
		if some && e.kubernetes() && slices.Contains(strings.Split(names, ","), p.Name) {
			unready = append(unready, w.inlineEndpoint(e, p, i))
		} else {
			out = append(out, w.inlineEndpoint(e, p, i))
		}
	}
	return out, unready
}

func (w *world) workloadEndpoint(p *ServicePort, l *Workload) Endpoint {
	port := p.Target
	if n, ok := l.Ports[p.Name]; ok {
		port = n
	}
	out := Endpoint{Address: net.JoinHostPort(l.Address.String(), strconv.Itoa(int(port))), Labels: l.Labels, Identity: l.ID,
		TLSMode: l.TLSMode, Workload: l.Namespace + "/" + l.Name}
	if o, ok := w.objects[l.Key()]; ok {
		if spec, ok := o.Spec.(*networking.WorkloadEntry); ok {
			out.Weight = spec.GetWeight()
		}
	}
	if w.mode(l, port) == security.PeerAuthentication_MutualTLS_DISABLE {
		out.TLSMode = TLSModeDisabled
	}
	return out
}

func (w *world) inlineEndpoint(e *entry, p *ServicePort, i *networking.WorkloadEntry) Endpoint {
	out := Endpoint{Address: i.GetAddress(), Labels: i.GetLabels(), Weight: i.GetWeight(), TLSMode: tlsMode(i.GetLabels(), i.GetServiceAccount())}
	port := p.Target
	if n, ok := i.GetPorts()[p.Name]; ok {
		port = n
	}
	if a, err := netip.ParseAddr(i.GetAddress()); err == nil {
		out.Address = netip.AddrPortFrom(a.Unmap(), uint16(port)).String()
	} else if !strings.HasPrefix(i.GetAddress(), unixScheme) {
		out.Address = net.JoinHostPort(strings.ToLower(i.GetAddress()), strconv.Itoa(int(port)))
	}
	namespace := e.Namespace
	if e.kubernetes() {
		namespace = w.podEndpoint(e, &out, port)
	}
	if sa := i.GetServiceAccount(); sa != "" {
		out.Identity, _ = identity.New(w.trustDomain, namespace, sa)
	}
	return out
}

const unixScheme = "unix://"

// podEndpoint fills in what kube/source says of the pod behind an endpoint of a Service, and gives the pod's namespace. The
// labels are the pod's, so that they say which PeerAuthentications select it.
func (w *world) podEndpoint(e *entry, out *Endpoint, port uint32) string {
	id, known := out.Labels[WorkloadLabel]
	if !known {
		return e.Namespace
	}
	namespace, name, _ := strings.Cut(id, "/")
	out.Workload = id
	out.Labels = maps.Clone(out.Labels)
	delete(out.Labels, UnreadyLabel)
	if delete(out.Labels, WorkloadLabel); len(out.Labels) == 0 {
		out.Labels = nil
	}
	if out.TLSMode == TLSModeIstio && w.mode(&Workload{Namespace: namespace, Name: name, Labels: out.Labels}, port) == security.PeerAuthentication_MutualTLS_DISABLE {
		out.TLSMode = TLSModeDisabled
	}
	return namespace
}

// peerPolicies are the PeerAuthentications that select a workload, most specific first and oldest first in each scope:
// workload (own namespace before root), namespace, mesh.
func (w *world) peerPolicies(l *Workload) []*Typed[*security.PeerAuthentication] {
	var scopes [4][]*Typed[*security.PeerAuthentication]
	list, root := w.peersBy[l.Namespace], w.peersBy[w.settings.RootNamespace]
	if l.Namespace != w.settings.RootNamespace && len(root) > 0 {
		list = append(list[:len(list):len(list)], root...)
	}
	for _, p := range list {
		labels := p.Spec.GetSelector().GetMatchLabels()
		own, root := p.Namespace == l.Namespace, p.Namespace == w.settings.RootNamespace
		switch {
		case !selects(labels, l.Labels):
		case len(labels) > 0 && own:
			scopes[0] = append(scopes[0], p)
		case len(labels) > 0:
			scopes[1] = append(scopes[1], p)
		case !root:
			scopes[2] = append(scopes[2], p)
		default:
			scopes[3] = append(scopes[3], p)
		}
	}
	var out []*Typed[*security.PeerAuthentication]
	for _, s := range scopes {
		out = append(out, s...)
	}
	return out
}

// mode is the mTLS mode a workload's port is in.
func (w *world) mode(l *Workload, port uint32) security.PeerAuthentication_MutualTLS_Mode {
	return mtlsMode(w.peerPolicies(l), l, w.settings.RootNamespace, port)
}

// MTLSMode is the mTLS mode that a port of the workload is in. In each scope (workload, namespace, mesh) only the oldest
// PeerAuthentication speaks; what it leaves UNSET comes from the next wider scope, and none at all is PERMISSIVE. The
// setting of a port goes before that of its workload.
func (v *View) MTLSMode(port uint32) security.PeerAuthentication_MutualTLS_Mode {
	return mtlsMode(v.PeerAuthentication, v.Self, v.Mesh.RootNamespace, port)
}

// mtlsMode judges policies that are sorted by scope and oldest first in each.
func mtlsMode(policies []*Typed[*security.PeerAuthentication], l *Workload, root string, port uint32) security.PeerAuthentication_MutualTLS_Mode {
	type scope struct{ own, selects bool }
	spoken := make(map[scope]bool, 4)
	for _, p := range policies {
		at := scope{p.Namespace == l.Namespace && p.Namespace != root, len(p.Spec.GetSelector().GetMatchLabels()) > 0}
		if spoken[at] {
			continue
		}
		spoken[at] = true
		if m := p.Spec.GetPortLevelMtls()[port].GetMode(); at.selects && m != security.PeerAuthentication_MutualTLS_UNSET {
			return m
		}
		if m := p.Spec.GetMtls().GetMode(); m != security.PeerAuthentication_MutualTLS_UNSET {
			return m
		}
	}
	return security.PeerAuthentication_MutualTLS_PERMISSIVE
}

// Addresses are Address and Others.
func (l *Workload) Addresses() []netip.Addr { return append([]netip.Addr{l.Address}, l.Others...) }

// Key is that of the object that the workload was read of.
func (l *Workload) Key() Key {
	if l.Pod {
		return Key{GroupCore, KindPod, l.Namespace, l.Name}
	}
	return Key{GroupNetworking, KindWorkloadEntry, l.Namespace, l.Name}
}

// Headless reports whether this is a Service of Kubernetes that is called at its pods.
func (s *Service) Headless() bool {
	return s.Kubernetes && s.Resolution == Original && len(s.Addresses) == 0
}

// Key is that of the object that defines the service.
func (s *Service) Key() Key {
	if s.Kubernetes {
		return Key{GroupCore, KindService, s.Namespace, s.Name}
	}
	return Key{GroupNetworking, KindServiceEntry, s.Namespace, s.Name}
}
