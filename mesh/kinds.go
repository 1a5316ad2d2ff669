package mesh

import (
	"google.golang.org/protobuf/proto"

	meshconfig "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh/policy"
)

// The API groups of the kinds that are read.
const (
	GroupNetworking = "networking.istio.io"
	GroupSecurity   = "security.istio.io"
	GroupPolicy     = "policy.signet.dev"
	GroupInternal   = "signet.dev" // objects that nobody authors
	GroupCore       = ""
)

// The kinds that are read. MeshConfig travels in a ConfigMap (group "").
const (
	KindWorkloadEntry       = "WorkloadEntry"
	KindServiceEntry        = "ServiceEntry"
	KindSidecar             = "Sidecar"
	KindVirtualService      = "VirtualService"
	KindDestinationRule     = "DestinationRule"
	KindAuthorizationPolicy = "AuthorizationPolicy"
	KindPeerAuthentication  = "PeerAuthentication"
	KindConfigMap           = "ConfigMap"

	// KindService and KindPod are Kubernetes' own (group ""): nobody writes them in a file. Their Spec is a
	// *networking.ServiceEntry and a *networking.WorkloadEntry that kube/source made of them.
	KindService = "Service"
	KindPod     = "Pod"

	KindRequestAuthentication = "RequestAuthentication"
	KindRegoPolicy            = "RegoPolicy"
	KindRateLimitPolicy       = "RateLimitPolicy"
	// KindControlSettings is of GroupInternal: made of BuildOptions.Control, sent to the proxies that need it, refused in a
	// file.
	KindControlSettings = "ControlSettings"
)

// DefaultRootNamespace is where mesh-wide objects live unless MeshConfig.rootNamespace says otherwise.
const DefaultRootNamespace = "istio-system"

// VersionOf is the version that objects of a group are written in here, and travel in: v1alpha1 of policy.signet.dev, v1 of
// every other group.
func VersionOf(group string) string {
	if group == GroupPolicy {
		return "v1alpha1"
	}
	return "v1"
}

// guarded reports whether a refused object of the group is never absent, but quarantined.
func guarded(group string) bool { return group == GroupSecurity || group == GroupPolicy }

// DefaultClusterDomain is what the names of Kubernetes' Services end in unless the cluster says otherwise.
const DefaultClusterDomain = "cluster.local"

// Annotations and labels that kube/source puts on what it makes of Kubernetes' objects.
const (
	// OwnerAnnotation of a Pod is the name that metrics have for its workload (Workload.Owner).
	OwnerAnnotation = "signet.dev/owner"
	// AddressesAnnotation of a Pod lists its addresses beside the one in its spec, with commas between (Workload.Others).
	AddressesAnnotation = "signet.dev/addresses"
	// WorkloadLabel of an inline endpoint of a Service is NAMESPACE/POD of the pod behind it (Endpoint.Workload).
	WorkloadLabel = "signet.dev/workload"
	// UnreadyLabel of an inline endpoint of a Service lists, with commas between, the names of those of its ports that nobody is led
	// to: they only say what the ports of the pod are (View.Served).
	UnreadyLabel = "signet.dev/unready"
)

// DefaultNamespace is the namespace of an object that names none.
const DefaultNamespace = "default"

// NewSpec returns an empty spec of the kind, and false for a kind that is not read. The spec of ConfigMap is
// *meshconfig.MeshConfig.
func NewSpec(group, kind string) (proto.Message, bool) {
	switch group + "/" + kind {
	case GroupNetworking + "/" + KindWorkloadEntry, GroupCore + "/" + KindPod:
		return &networking.WorkloadEntry{}, true
	case GroupNetworking + "/" + KindServiceEntry, GroupCore + "/" + KindService:
		return &networking.ServiceEntry{}, true
	case GroupNetworking + "/" + KindSidecar:
		return &networking.Sidecar{}, true
	case GroupNetworking + "/" + KindVirtualService:
		return &networking.VirtualService{}, true
	case GroupNetworking + "/" + KindDestinationRule:
		return &networking.DestinationRule{}, true
	case GroupSecurity + "/" + KindAuthorizationPolicy:
		return &security.AuthorizationPolicy{}, true
	case GroupSecurity + "/" + KindPeerAuthentication:
		return &security.PeerAuthentication{}, true
	case GroupSecurity + "/" + KindRequestAuthentication:
		return &security.RequestAuthentication{}, true
	case GroupPolicy + "/" + KindRegoPolicy:
		return &policy.RegoPolicy{}, true
	case GroupPolicy + "/" + KindRateLimitPolicy:
		return &policy.RateLimitPolicy{}, true
	case GroupInternal + "/" + KindControlSettings:
		return &policy.ControlSettings{}, true
	case GroupCore + "/" + KindConfigMap:
		return &meshconfig.MeshConfig{}, true
	}
	return nil, false
}
