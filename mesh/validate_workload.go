package mesh

import (
	"fmt"
	"net/netip"
	"path"
	"sort"
	"strings"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/identity"
)

// LabelTLSMode is Istio's label by which a workload says whether it takes mTLS.
const LabelTLSMode = "security.istio.io/tlsMode"

func (j *judge) workloadEntry(w *networking.WorkloadEntry) {
	if a, err := netip.ParseAddr(w.GetAddress()); err != nil || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
		j.refuse("address", "%q: want the workload's own IP address", clip(w.GetAddress()))
	}
	j.endpoint("", w)
	j.tlsMode("metadata.labels["+LabelTLSMode+"]", j.object.Labels)
}

// tlsMode judges the label that says whether a workload takes mTLS.
func (j *judge) tlsMode(field string, labels map[string]string) {
	switch m := labels[LabelTLSMode]; m {
	case "", TLSModeIstio, TLSModeDisabled:
	default:
		j.refuse(field, "%q: want \"istio\" or \"disabled\"", clip(m))
	}
}

// endpoint judges what a WorkloadEntry and an inline endpoint have in common, save the address.
func (j *judge) endpoint(prefix string, w *networking.WorkloadEntry) {
	names := make([]string, 0, len(w.GetPorts()))
	for name := range w.GetPorts() {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		j.port(fmt.Sprintf("%sports[%s]", prefix, name), w.GetPorts()[name])
	}
	j.tlsMode(prefix+"labels["+LabelTLSMode+"]", w.GetLabels())
	sa := w.GetServiceAccount()
	if sa == "" {
		return
	}
	if err := checkSubdomain(sa); err != nil {
		j.refuse(prefix+"serviceAccount", "%v", err)
		return
	}
	td := j.trustDomain
	if td == "" {
		td = "cluster.local"
	}
	id, err := identity.New(td, j.object.Namespace, sa)
	if err != nil {
		j.refuse(prefix+"serviceAccount", "%v", err)
		return
	}
	if id.IsControlPlane() {
		j.refuse(prefix+"serviceAccount", "%s is the control plane's own identity", id)
	}
}

func (j *judge) serviceEntry(s *networking.ServiceEntry) {
	if len(s.GetHosts()) == 0 {
		j.refuse("hosts", "must name at least one host")
	}
	seen := make(map[string]bool)
	for i, h := range s.GetHosts() {
		field := fmt.Sprintf("hosts[%d]", i)
		if err := checkHost(h, false); err != nil {
			j.refuse(field, "%v", err)
		} else if seen[strings.ToLower(h)] {
			j.refuse(field, "%q is given twice", h)
		}
		seen[strings.ToLower(h)] = true
	}
	made := j.object.Kind == KindService
	j.servicePorts(s, made)
	j.resolution(s, made)
	j.addresses(s)
	if len(s.GetEndpoints()) > 0 && s.GetWorkloadSelector() != nil {
		j.refuse("endpoints", "and workloadSelector exclude each other")
	}
	if s.GetWorkloadSelector() != nil {
		if len(s.GetWorkloadSelector().GetLabels()) == 0 {
			j.refuse("workloadSelector", "must name at least one label")
		}
		j.selectorLabels("workloadSelector.labels", s.GetWorkloadSelector().GetLabels())
	}
	for i, e := range s.GetEndpoints() {
		j.inlineEndpoint(fmt.Sprintf("endpoints[%d].", i), e, resolution(s.GetResolution()) == ByDNS)
	}
	j.subjectAltNames("subjectAltNames", s.GetSubjectAltNames())
	j.exportTo(s.GetExportTo())
}

// maxAddresses bounds the addresses of one ServiceEntry.
const maxAddresses = 256

// resolution judges, as Istio does, what goes with the way in which endpoints are found. made is true of a Service of
// Kubernetes, whose headless form has both: no resolution, and endpoints.
func (j *judge) resolution(s *networking.ServiceEntry, made bool) {
	switch r := s.GetResolution(); r {
	case networking.ServiceEntry_STATIC:
	case networking.ServiceEntry_NONE:
		if len(s.GetEndpoints()) > 0 && !made {
			j.refuse("endpoints", "resolution NONE leads to the address that was called: name the addresses in addresses, or use STATIC or DNS")
		}
	case networking.ServiceEntry_DNS, networking.ServiceEntry_DNS_ROUND_ROBIN:
		if s.GetWorkloadSelector() != nil {
			j.refuse("workloadSelector", "selects workloads, whose addresses are known: use resolution STATIC")
		}
		if len(s.GetEndpoints()) > 1 && r == networking.ServiceEntry_DNS_ROUND_ROBIN {
			j.refuse("endpoints", "resolution DNS_ROUND_ROBIN goes with one endpoint at most")
		}
		for i, h := range s.GetHosts() {
			if len(s.GetEndpoints()) == 0 && strings.HasPrefix(h, "*") {
				j.refuse(fmt.Sprintf("hosts[%d]", i), "%q can't be resolved: with resolution %s and without endpoints every host must be a full name", clip(h), r)
			}
		}
	default:
		j.refuse("resolution", "%s is not supported: use NONE, STATIC, DNS or DNS_ROUND_ROBIN", r)
	}
}

// addresses judges the addresses at which a service is called.
func (j *judge) addresses(s *networking.ServiceEntry) {
	if len(s.GetAddresses()) > maxAddresses {
		j.refuse("addresses", "has %d entries, more than %d", len(s.GetAddresses()), maxAddresses)
		return
	}
	seen := make(map[netip.Prefix]bool)
	for i, v := range s.GetAddresses() {
		field := fmt.Sprintf("addresses[%d]", i)
		read := readAddresses([]string{v})
		if len(read) == 0 || read[0].Addr().IsMulticast() || read[0].IsSingleIP() && read[0].Addr().IsUnspecified() {
			j.refuse(field, "%q: want an IP address or a CIDR block that can be called", clip(v))
			continue
		}
		if !read[0].IsSingleIP() && resolution(s.GetResolution()) == ByDNS {
			j.refuse(field, "%q: a block goes with resolution NONE or STATIC only", clip(v))
		}
		if seen[read[0]] {
			j.refuse(field, "%q is given twice", clip(v))
		}
		seen[read[0]] = true
	}
}

// inlineEndpoint judges an endpoint of a ServiceEntry; names says that it may be a host to be resolved.
func (j *judge) inlineEndpoint(prefix string, e *networking.WorkloadEntry, names bool) {
	switch p, socket := strings.CutPrefix(e.GetAddress(), unixScheme); {
	case socket && names:
		j.refuse(prefix+"address", "%q: a Unix socket goes with resolution STATIC", clip(e.GetAddress()))
	case socket:
		if !path.IsAbs(p) || path.Clean(p) != p {
			j.refuse(prefix+"address", "%q: want an absolute path after unix://", clip(e.GetAddress()))
		}
		if len(e.GetPorts()) > 0 {
			j.refuse(prefix+"ports", "a Unix socket has no ports")
		}
	default:
		a, err := netip.ParseAddr(e.GetAddress())
		switch {
		case err == nil && (a.IsUnspecified() || a.IsMulticast()):
			j.refuse(prefix+"address", "%q: want an address that can be called", clip(e.GetAddress()))
		case err != nil && !names:
			j.refuse(prefix+"address", "%q: want an IP address or unix:///path", clip(e.GetAddress()))
		case err != nil && (checkHost(e.GetAddress(), false) != nil || strings.HasPrefix(e.GetAddress(), "*") || allDigits(e.GetAddress())):
			j.refuse(prefix+"address", "%q: want an IP address, or a host to be resolved", clip(e.GetAddress()))
		}
	}
	j.endpoint(prefix, e)
}

// allDigits reports whether a host is made of digits and dots, as a mistyped IP address is.
func allDigits(host string) bool { return strings.Trim(host, "0123456789.") == "" }

// servicePorts judges ports. A Service of Kubernetes (made) may have none, and its only one need have no name nor protocol.
func (j *judge) servicePorts(s *networking.ServiceEntry, made bool) {
	if len(s.GetPorts()) == 0 && !made {
		j.refuse("ports", "must name at least one port")
	}
	names, numbers := make(map[string]bool), make(map[uint32]bool)
	for i, p := range s.GetPorts() {
		field := fmt.Sprintf("ports[%d].", i)
		j.port(field+"number", p.GetNumber())
		if p.GetTargetPort() != 0 {
			j.port(field+"targetPort", p.GetTargetPort())
		}
		if p.GetName() == "" {
			if !made {
				j.refuse(field+"name", "must be set")
			}
		} else if err := checkLabel(p.GetName()); err != nil {
			j.refuse(field+"name", "%v", err)
		}
		if !made || p.GetProtocol() != "" {
			j.protocol(field+"protocol", p.GetProtocol(), false)
		}
		if names[p.GetName()] {
			j.refuse(field+"name", "%q is given twice", p.GetName())
		}
		if numbers[p.GetNumber()] {
			j.refuse(field+"number", "%d is given twice", p.GetNumber())
		}
		names[p.GetName()], numbers[p.GetNumber()] = true, true
	}
}

// peerField is the path of the port-level settings of a port.
func peerField(port uint32) string { return fmt.Sprintf("portLevelMtls[%d]", port) }
