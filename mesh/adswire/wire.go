// Package adswire says how a mesh.View travels over Envoy's delta ADS, and back.
//
// An authored object is an istio.mcp.v1alpha1.Resource under the type URL GROUP/VERSION/KIND (core/v1/KIND for the core
// group; v1alpha1 for policy.signet.dev, v1 for all others), named NAMESPACE/NAME. Services and Pods of Kubernetes are a
// ServiceEntry and a WorkloadEntry under core/v1/Service and core/v1/Pod. The endpoints of one port of one service are an
// envoy.config.endpoint.v3.ClusterLoadAssignment named outbound|PORT||HOST; a proxy's own endpoints of what it serves are
// named inbound|PORT|KIND/NAMESPACE|NAME, and those of an authorizer authorizer|PORT|KIND/NAMESPACE/NAME|HOST. The version of a resource is a hash of its
// content, so that the same content has the same version on every control plane and after every restart.
//
// # Generations
//
// Delta ADS sends each type on its own, but half a change must not act. So a proxy's resources are a Set, a Set has one
// Generation (a hash over all its types, names and versions, its trust domain and its workload), and the last response of
// every push is a marker: the only resource of type GenerationType, whose version is that hash and whose body names it
// again together with one hash for each type. The receiver collects what arrives, and builds a View only when a marker
// comes whose version equals the Generation of what it holds. The acknowledgement of the marker therefore says that the
// proxy runs on that generation; a refusal of the marker says that it keeps the one before. The marker also names the roots of
// the trust domain, which are taken whatever becomes of the generation.
//
// # On demand
//
// A proxy that subscribes to HostType, by name, gets no more than those names mean (mesh.Snapshot.Demand). A name is a host
// in lower case or an IP address (mesh.Name); names are added by resource_names_subscribe and taken back by
// resource_names_unsubscribe of later requests. Each name is answered, in the same generation as what it means, by a
// google.protobuf.Struct of host, workload and plain (mesh.Answer), empty for a name that means nothing. A name that nobody can
// ask for (mesh.Name says so) ends the stream.
//
// # Strictness
//
// A type, a field (at any depth) or an enum number that the receiver doesn't know, a version that is not the hash of its
// content, and endpoints that carry more than this package writes are refused, never skipped: a proxy that ignored half a
// policy would enforce another one.
package adswire

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/signet-mesh/signet/mesh"
)

// Type URLs that are not those of authored objects.
const (
	// EndpointType is the type URL of endpoints.
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	// GenerationType is the type URL of the marker that ends each push.
	GenerationType = "signet.dev/v1/Generation"
	// HostType is the type URL of the answers to what a proxy asked for, each named by the host or address asked for. A proxy
	// that subscribes to it, by those names, gets a view on demand (mesh.Snapshot.Demand); one that never does gets all.
	HostType = "signet.dev/v1/Host"
	// GenerationName is the name of the only resource of GenerationType.
	GenerationName = "generation"
)

// Limits of what is received. Beyond them the answer is an error.
const (
	// MaxMessageBytes is the size of one ADS message to a proxy.
	MaxMessageBytes = 16 << 20
	// MaxRequestBytes is the size of one from a proxy, and that of initial_resource_versions of one stream: a proxy with full
	// discovery of 10,000 services of two ports says some 3 MiB, those on demand a tenth at most. One that holds more says that
	// it holds nothing, and gets all of it.
	MaxRequestBytes = 4 << 20
	// ChunkBytes is the size from which a push of one type is split in several responses.
	ChunkBytes = 4 << 20
	// MaxResources and MaxSetBytes bound what one proxy holds.
	MaxResources = 100_000
	MaxSetBytes  = 256 << 20
	// MaxNameBytes is the length of the name of a resource.
	MaxNameBytes = 1024
	// MaxAsked is the number of names that one proxy asks for; beyond it the one asked for longest ago is forgotten.
	MaxAsked = 1000
	// MaxRoots is the number of roots that a marker names.
	MaxRoots = 64
)

// types in the order in which additions and changes are pushed: what is pointed at comes before what points at it.
// Removals go in the opposite order, after them.
var types = [...]string{
	"core/v1/ConfigMap",
	"signet.dev/v1/ControlSettings",
	"networking.istio.io/v1/WorkloadEntry",
	"core/v1/Pod",
	EndpointType,
	"core/v1/Service",
	"networking.istio.io/v1/ServiceEntry",
	"networking.istio.io/v1/DestinationRule",
	"security.istio.io/v1/PeerAuthentication",
	"security.istio.io/v1/RequestAuthentication",
	"policy.signet.dev/v1alpha1/RegoPolicy",
	"security.istio.io/v1/AuthorizationPolicy",
	"networking.istio.io/v1/Sidecar",
	"networking.istio.io/v1/VirtualService",
	"policy.signet.dev/v1alpha1/RateLimitPolicy",
	HostType,
}

// Types are the type URLs of everything but HostType and the marker, in the order in which additions and changes are pushed.
// A client subscribes to all of them, on demand to names of HostType and, last, to GenerationType.
func Types() []string { return append([]string(nil), types[:len(types)-1]...) }

// KnownType reports whether this version of the protocol knows the type URL (the marker's included).
func KnownType(url string) bool { return url == GenerationType || rank(url) >= 0 }

func rank(url string) int {
	for i, t := range types {
		if t == url {
			return i
		}
	}
	return -1
}

// TypeOf is the type URL of an authored object's kind.
func TypeOf(k mesh.Key) string {
	group := k.Group
	if group == "" {
		group = "core"
	}
	return group + "/" + mesh.VersionOf(k.Group) + "/" + k.Kind
}

// ClusterName is Istio's name of the outbound cluster of one port of a host.
func ClusterName(port uint32, host string) string { return fmt.Sprintf("outbound|%d||%s", port, host) }

// Resource is one named thing on the wire. Immutable.
type Resource struct {
	Type, Name string
	// Version is the hash of Type, Name and Body.
	Version string
	Body    *anypb.Any

	// What Parse read, one of them; all zero in a resource that was encoded and not parsed.
	object    *mesh.Object
	endpoints []mesh.Endpoint
	answer    mesh.Answer
}

// Wire is the resource as a delta response carries it.
func (r Resource) Wire() *discovery.Resource {
	return &discovery.Resource{Name: r.Name, Version: r.Version, Resource: r.Body}
}

// Bytes is about the size of the resource in a message.
func (r Resource) Bytes() int {
	return len(r.Name) + len(r.Version) + len(r.Body.GetTypeUrl()) + len(r.Body.GetValue()) + 16
}

// VersionBytes is about the size of a resource's entry in initial_resource_versions.
func VersionBytes(name, version string) int { return len(name) + len(version) + 16 }

// NodeID is the node.id of a workload's sidecar: NAMESPACE/WORKLOAD.
func NodeID(namespace, name string) string { return namespace + "/" + name }

// Node is the node a sidecar presents itself as.
func Node(namespace, name string) *core.Node {
	return &core.Node{Id: NodeID(namespace, name), UserAgentName: "signet-proxy"}
}

// versionOf hashes a resource: the first 128 bits of SHA-256 over length-prefixed parts, in hex.
func versionOf(typ, name string, body *anypb.Any) string {
	return digest([]byte(typ), []byte(name), []byte(body.GetTypeUrl()), body.GetValue())
}

func digest(parts ...[]byte) string {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		for i, l := 0, uint64(len(p)); i < 8; i++ {
			n[i] = byte(l >> (8 * i))
		}
		h.Write(n[:])
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
