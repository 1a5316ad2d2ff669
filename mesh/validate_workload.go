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
	j.servicePorts(s)
	if s.GetResolution() != networking.ServiceEntry_STATIC {
		j.refuse("resolution", "%s is not supported yet: use STATIC with the addresses as endpoints", s.GetResolution())
	}
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
		j.inlineEndpoint(fmt.Sprintf("endpoints[%d].", i), e)
	}
	j.subjectAltNames("subjectAltNames", s.GetSubjectAltNames())
	j.exportTo(s.GetExportTo())
}

func (j *judge) inlineEndpoint(prefix string, e *networking.WorkloadEntry) {
	if p, ok := strings.CutPrefix(e.GetAddress(), "unix://"); ok {
		if !path.IsAbs(p) || path.Clean(p) != p {
			j.refuse(prefix+"address", "%q: want an absolute path after unix://", clip(e.GetAddress()))
		}
		if len(e.GetPorts()) > 0 {
			j.refuse(prefix+"ports", "a Unix socket has no ports")
		}
	} else if a, err := netip.ParseAddr(e.GetAddress()); err != nil || a.IsUnspecified() || a.IsMulticast() {
		j.refuse(prefix+"address", "%q: want an IP address or unix:///path", clip(e.GetAddress()))
	}
	j.endpoint(prefix, e)
}

func (j *judge) servicePorts(s *networking.ServiceEntry) {
	if len(s.GetPorts()) == 0 {
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
			j.refuse(field+"name", "must be set")
		} else if err := checkLabel(p.GetName()); err != nil {
			j.refuse(field+"name", "%v", err)
		}
		j.protocol(field+"protocol", p.GetProtocol(), false)
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
