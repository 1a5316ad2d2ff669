package mesh

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	networking "istio.io/api/networking/v1"
)

func (j *judge) sidecar(s *networking.Sidecar) {
	j.selectorLabels("workloadSelector.labels", s.GetWorkloadSelector().GetLabels())
	taken := make(map[string]bool)
	for i, l := range s.GetIngress() {
		field := fmt.Sprintf("ingress[%d].", i)
		if l.GetPort() == nil {
			j.refuse(field+"port", "must be set")
			continue
		}
		j.listener(field, l.GetPort(), l.GetBind(), l.GetCaptureMode(), taken)
		j.protocol(field+"port.protocol", l.GetPort().GetProtocol(), false)
		if _, err := ReadDefaultEndpoint(l.GetDefaultEndpoint()); err != nil {
			j.refuse(field+"defaultEndpoint", "%v", err)
		}
	}
	taken = make(map[string]bool)
	for i, l := range s.GetEgress() {
		field := fmt.Sprintf("egress[%d].", i)
		if l.GetPort() != nil {
			j.listener(field, l.GetPort(), l.GetBind(), l.GetCaptureMode(), taken)
			j.protocol(field+"port.protocol", l.GetPort().GetProtocol(), true)
		} else if l.GetBind() != "" {
			j.refuse(field+"bind", "needs a port: an egress entry without one opens no listener")
		}
		if len(l.GetHosts()) == 0 {
			j.refuse(field+"hosts", "must name at least one host, as namespace/host")
		}
		for k, h := range l.GetHosts() {
			if _, err := readImport(h, j.object.Namespace); err != nil {
				j.refuse(fmt.Sprintf("%shosts[%d]", field, k), "%v", err)
			}
		}
	}
}

// listener judges what ingress and egress listeners have in common.
func (j *judge) listener(field string, p *networking.SidecarPort, bind string, mode networking.CaptureMode, taken map[string]bool) {
	j.port(field+"port.number", p.GetNumber())
	if bind != "" {
		if a, err := netip.ParseAddr(bind); err != nil || a.Zone() != "" {
			j.refuse(field+"bind", "%q: want an IP address", clip(bind))
		}
	}
	if mode != networking.CaptureMode_DEFAULT && mode != networking.CaptureMode_NONE {
		j.refuse(field+"captureMode", "%s is not honoured: every listener binds a real port, as with NONE", mode)
	}
	key := fmt.Sprintf("%s %d", bind, p.GetNumber())
	if taken[key] {
		j.refuse(field+"port.number", "another listener has the same port %d and bind", p.GetNumber())
	}
	taken[key] = true
}

// DefaultEndpoint is where an ingress listener sends what it accepted.
type DefaultEndpoint struct {
	// Unix is the path of a socket, "" if it is a port.
	Unix string
	// Own says that Port is on the workload's own address, in the family of IPv6 if IPv6 is set; otherwise it is on loopback.
	Own, IPv6 bool
	// Port is 0 when the listener's own port is meant.
	Port uint32
}

// ReadDefaultEndpoint reads Sidecar.ingress.defaultEndpoint: 127.0.0.1:N, [::1]:N, 0.0.0.0:N, [::]:N (the workload's own
// address), unix:///path or "" (127.0.0.1 and the listener's port). The error quotes what is none of them.
func ReadDefaultEndpoint(s string) (DefaultEndpoint, error) {
	wrong := fmt.Errorf("%q: want 127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, [::]:PORT or unix:///path", clip(s))
	if s == "" {
		return DefaultEndpoint{}, nil
	}
	if p, ok := strings.CutPrefix(s, "unix://"); ok {
		if !path.IsAbs(p) || path.Clean(p) != p {
			return DefaultEndpoint{}, wrong
		}
		return DefaultEndpoint{Unix: p}, nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return DefaultEndpoint{}, wrong
	}
	out := DefaultEndpoint{Port: uint32(ap.Port()), IPv6: ap.Addr().Is6()}
	switch ap.Addr().String() {
	case "127.0.0.1", "::1":
	case "0.0.0.0", "::":
		out.Own = true
	default:
		return DefaultEndpoint{}, wrong
	}
	return out, nil
}

// hostImport is one entry of Sidecar.egress.hosts, read.
type hostImport struct {
	namespace string // "*" or a name
	host      string // lower case: a host, *.x or *
	// excluded is true for ~NAMESPACE/HOST; ~/HOST excludes in every namespace.
	excluded bool
}

// readImport reads NAMESPACE/HOST; "." is the namespace given.
func readImport(s, own string) (hostImport, error) {
	ns, host, ok := strings.Cut(s, "/")
	if !ok {
		return hostImport{}, fmt.Errorf("%q: want namespace/host, such as ./* or */*", clip(s))
	}
	ns, excluded := strings.CutPrefix(ns, "~")
	switch {
	case ns == "*", ns == "" && excluded:
		ns = "*"
	case ns == ".":
		ns = own
	default:
		if err := checkLabel(ns); err != nil {
			return hostImport{}, fmt.Errorf("%q: want namespace/host: namespace %w", clip(s), err)
		}
	}
	if err := checkHost(host, true); err != nil {
		return hostImport{}, fmt.Errorf("%q: want namespace/host: host %w", clip(s), err)
	}
	return hostImport{ns, strings.ToLower(host), excluded}, nil
}
