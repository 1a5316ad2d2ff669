package node

import (
	"net/netip"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/compile"
)

// Pod is what a sidecar in a pod of Kubernetes is told; nil in Config off Kubernetes. Such a sidecar captures: one outbound and
// one inbound listener on the wildcard address take what proxy/capture leads there.
type Pod struct {
	Namespace, Name, ServiceAccount string
	// Addresses are the pod's, the first being the one that the mesh knows it by.
	Addresses                  []netip.Addr
	TrustDomain, ClusterDomain string
	// TokenPath is the projected service-account token, RootsPath the PEM file of what the control plane is verified against.
	TokenPath, RootsPath string
	// Full says that everything visible is asked for (discovery: full), instead of the hosts that are used.
	Full bool
	// TrustedProxies overrides the mesh's numTrustedProxies; nil for not.
	TrustedProxies *int
	// DNS says that the programs' queries are led to the sidecar; Resolvers are host:port of the pod's own resolvers, which get
	// those that the mesh has no answer to.
	DNS       bool
	Resolvers []string
	// Probes are the rewritten probes and lifecycle hooks, by path (/app-health/CONTAINER/livez, /app-lifecycle/CONTAINER/prestopz/WORD:
	// whoever knows a path may have it done).
	Probes map[string]Probe
	// Application is where the program's own metrics are; nil for nowhere.
	Application *Exporter
	// Native says that this is a native sidecar: whoever tells it to end has ended the programs before.
	Native bool
	// Drain is terminationDrainDuration: how long a native sidecar waits for programs that live on at most, and any other for those
	// that have nothing open at least.
	Drain time.Duration
	// Grace is the pod's terminationGracePeriodSeconds, after which kubelet kills what still runs.
	Grace time.Duration
	// Ports are where the pod's servers listen; the zero Ports are those of proxy/capture.
	Ports Ports
}

// Ports are those of a sidecar in a pod that are not captured traffic's. Tests take others.
type Ports struct{ Admin, Metrics, Ready, DNS uint16 }

// address is the pod's first address.
func (p *Pod) address() netip.Addr {
	if len(p.Addresses) == 0 {
		return netip.IPv4Unspecified()
	}
	return p.Addresses[0]
}

// keeps reports whether an address is where the sidecar of a pod serves: no name of an endpoint leads there.
func (n *Node) keeps(a netip.AddrPort) bool {
	return n.cfg.Pod != nil && compile.MeshPort(a.Port()) && (a.Addr().IsLoopback() || n.corridors.captor.own(a.Addr()))
}

// Probe is one probe of a container, as kubelet would do it (corev1.Probe). Exactly one of HTTPGet, TCPSocket and GRPC is set.
type Probe struct {
	HTTPGet   *HTTPProbe
	TCPSocket *TCPProbe
	GRPC      *GRPCProbe
	Timeout   time.Duration
}

// HTTPProbe is corev1.HTTPGetAction.
type HTTPProbe struct {
	Host, Path, Scheme string
	Port               uint16
	Headers            [][2]string
}

// TCPProbe is corev1.TCPSocketAction.
type TCPProbe struct {
	Host string
	Port uint16
}

// GRPCProbe is corev1.GRPCAction.
type GRPCProbe struct {
	Port    uint16
	Service string
}

// Exporter is where a program serves its metrics (prometheus.io annotations).
type Exporter struct {
	Scheme, Path string
	Port         uint16
}
