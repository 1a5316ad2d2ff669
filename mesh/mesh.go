// Package mesh holds what people author (Istio's objects), judges it, and selects what one workload needs of it.
//
// Authored objects are parsed with their positions (Parse), judged (Problem), and built into an immutable Snapshot; a
// View is the part of a snapshot that one workload's sidecar runs on. It is the same whether it came from a directory or
// over ADS.
package mesh

import (
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	meshconfig "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh/policy"
)

// Position is where something stands in a file. Line and Column count from 1; 0 is unknown.
type Position struct {
	File         string
	Line, Column int
}

// Key names an object. Group is networking.istio.io, security.istio.io, policy.signet.dev or "" (core).
type Key struct{ Group, Kind, Namespace, Name string }

// Meta is what every authored object has. Version (v1, v1beta1, v1alpha3) is as written; all mean the same.
type Meta struct {
	Key
	Version             string
	Labels, Annotations map[string]string
	// Created orders objects of equal rank (older wins): metadata.creationTimestamp, else when this process (or its
	// persisted state) first saw the object.
	Created  time.Time
	Position Position
}

// Object is one authored object whose structure was judged good. Immutable.
type Object struct {
	Meta
	// Spec is *networking.WorkloadEntry, *networking.ServiceEntry, *networking.Sidecar, *networking.VirtualService,
	// *networking.DestinationRule, *security.AuthorizationPolicy, *security.PeerAuthentication,
	// *security.RequestAuthentication, *policy.RegoPolicy, *policy.RateLimitPolicy, *policy.ControlSettings (made by Build)
	// or *meshconfig.MeshConfig (from the ConfigMap istio).
	Spec proto.Message
	// at holds where the fields of the spec stand, by path; nil for an object that came over the wire.
	at map[string]Position
}

// Typed is an object with its spec in its own type.
type Typed[T proto.Message] struct {
	Meta
	Spec T
}

// Workload is a WorkloadEntry, read. Immutable.
type Workload struct {
	Namespace, Name, ServiceAccount string
	// ID is the zero ID when ServiceAccount is empty: such a workload has no sidecar and no mTLS.
	ID      identity.ID
	Address netip.Addr
	// Others are the addresses of a pod beside Address: that of its other family where the cluster is dual-stack.
	Others []netip.Addr
	Ports  map[string]uint32
	Labels map[string]string
	// TLSMode is the label security.istio.io/tlsMode ("istio", "disabled"), else "istio" if there is a service account.
	TLSMode string
	// Owner is what metrics call the workload: of a pod its Deployment, StatefulSet...; "" means Name.
	Owner string
	// Pod says that this is a pod of Kubernetes (Key.Kind Pod): its sidecar captures its traffic.
	Pod bool
}

// Protocol is the class a port's declared protocol falls in.
type Protocol uint8

// The classes. HTTP2, GRPC, HTTPS, TLS, MONGO and what is not known are carried as TCP.
const (
	TCP Protocol = iota
	HTTP
	// Detect is that of a Kubernetes Service's port that declares nothing: the first bytes say.
	Detect
)

// Resolution says how the endpoints of a service are found (ServiceEntry.resolution).
type Resolution uint8

// The resolutions.
const (
	// Static endpoints are listed.
	Static Resolution = iota
	// Original: a call goes to the address it was made to (NONE), or to the pod that was called (a headless Service).
	Original
	// ByDNS: the endpoints' names, or where there are none the host itself, are resolved by the sidecar (DNS, DNS_ROUND_ROBIN).
	ByDNS
)

// Answer says what a name that a sidecar asked for means. The zero Answer: nothing of the mesh.
type Answer struct {
	// Host is that of a service among View.Services; "" for none.
	Host string
	// Workload is NAMESPACE/NAME of the one among View.Peers that has the address asked for; "" for none.
	Workload string
	// Plain are the ports at which the workload, a pod, takes plaintext only.
	Plain Plain
}

// ServicePort is one port of a ServiceEntry.
type ServicePort struct {
	Name     string
	Number   uint32
	Declared string // as written, upper case
	Protocol Protocol
	Target   uint32 // targetPort, else Number
}

// Service is one host of one ServiceEntry. Immutable.
type Service struct {
	Namespace, Name string // of the ServiceEntry
	Created         time.Time
	Host            string // lower case
	Ports           []ServicePort
	SubjectAltNames []string
	External        bool // location MESH_EXTERNAL
	// Addresses are those at which clients call the service (a ClusterIP, ServiceEntry.addresses); none for a headless Service.
	// Assigned says that the sidecar itself gave them, for its pod only.
	Addresses  []netip.Prefix
	Assigned   bool
	Resolution Resolution
	// Kubernetes says that this is a Service of Kubernetes (Key.Kind Service), not a ServiceEntry.
	Kubernetes bool
	// Endpoints are, by position in Ports, the endpoints that serve that port.
	Endpoints [][]Endpoint
}

// Endpoint is one address that serves one port of one service. Immutable.
type Endpoint struct {
	// Address is IP:port, or unix:///path.
	Address string
	Labels  map[string]string
	Weight  uint32 // 0 counts as 1
	// Identity is whom the endpoint must prove to be; the zero ID if it has no service account.
	Identity identity.ID
	// TLSMode is "istio" when the endpoint is to be dialled with mTLS, else "disabled" (Istio's auto mTLS).
	TLSMode string
	// Workload is the NAMESPACE/NAME of the WorkloadEntry behind it, "" if there is none.
	Workload string
}

// View is what one workload's sidecar runs on: what it is, what it may see and what judges it. Immutable.
type View struct {
	TrustDomain string
	// ClusterDomain is what a name without a dot ends in: NAME.NAMESPACE.svc.CLUSTERDOMAIN.
	ClusterDomain string
	Self          *Workload
	Mesh          Settings
	// Sidecar is the Sidecar that applies: the workload's, else the namespace's, else the root namespace's; nil if none.
	Sidecar *Typed[*networking.Sidecar]
	// Services are those that the sidecar may reach: exported to its namespace and imported by Sidecar.egress hosts.
	// Sorted by host; two ServiceEntries of one host: the workload's own namespace wins, then the older.
	Services []*Service
	// Served are the services that have this workload among their endpoints, whether the sidecar sees them or not. Sorted by
	// host, of one host the older first.
	Served []*Service
	// VirtualServices and DestinationRules apply to this workload's outbound side, oldest first.
	VirtualServices  []*Typed[*networking.VirtualService]
	DestinationRules []*Typed[*networking.DestinationRule]
	// Authorization are the policies that select this workload (own namespace and root namespace), quarantined ones as
	// DENY of everything they select. In order of namespace (root first) and name.
	Authorization []*Typed[*security.AuthorizationPolicy]
	// PeerAuthentication that select this workload, most specific first (workload, namespace, mesh); oldest first in each.
	PeerAuthentication []*Typed[*security.PeerAuthentication]
	// RequestAuthentication that select this workload (own namespace and root namespace), root first, each by name; a
	// quarantined one stands among them with Meta.Quarantined, and means: deny everything.
	RequestAuthentication []*Typed[*security.RequestAuthentication]
	// Rego are the RegoPolicies that a CUSTOM policy among Authorization resolves to (own namespace of that policy first,
	// then the root namespace). A quarantined one denies.
	Rego []*Typed[*policy.RegoPolicy]
	// Authorizers are the services of the extension providers that CUSTOM policies among Authorization name, by provider
	// name, whether the Sidecar imports them or not; a provider whose service does not exist is not in it.
	Authorizers map[string]*Service
	// RateLimits are enforced where requests arrive at this workload: those that select it, and those that target its
	// WorkloadEntry, or a ServiceEntry that it serves. RouteLimits target a VirtualService among VirtualServices. Both
	// sorted by namespace and name. A quarantined one refuses every request.
	RateLimits  []*Typed[*policy.RateLimitPolicy]
	RouteLimits []*Typed[*policy.RateLimitPolicy]
	// LimitStore is the Redis of global limits, nil if the mesh has none or nothing in this view needs it.
	LimitStore *policy.RateLimitStore
	// RegoBuiltins are the built-in functions that the operator allows to Rego beside the harmless ones.
	RegoBuiltins []string
	// Peers are all workloads of the mesh, for the metadata of callers and destinations.
	Peers []*Workload
	// Plain says, by NAMESPACE/NAME, at which ports pods among Peers take plaintext only; it has none that do so nowhere. On
	// demand these are the pods asked for by address.
	Plain map[string]Plain
	// Asked maps each name that the sidecar asked for to what it means: a host in lower case, or an IP address. It is nil in a
	// view that holds everything visible (Snapshot.View, discovery: full).
	Asked map[string]Answer
	// Objects are the authored objects the view was made from, as they travel over ADS.
	Objects []*Object
}

// Normalization is MeshConfig.pathNormalization.normalization.
type Normalization uint8

// The modes of Istio's ProxyPathNormalization. Unset means MergeSlashes here (Istio: Base).
const (
	MergeSlashes Normalization = iota
	Base
	NoNormalization
	DecodeAndMergeSlashes
)

// Settings is the honoured subset of MeshConfig, with defaults filled in.
type Settings struct {
	RootNamespace string // istio-system
	// ProtocolDetectionTimeout is 5 s where unset.
	ProtocolDetectionTimeout time.Duration
	Normalization            Normalization
	// AllowAny is outboundTrafficPolicy.mode ALLOW_ANY, Istio's default. A workload's Sidecar may override it.
	AllowAny bool
	// AccessLog is false where accessLogFile is present and empty.
	AccessLog     bool
	AccessLogJSON bool
	// NumTrustedProxies is defaultConfig.gatewayTopology.numTrustedProxies.
	NumTrustedProxies int
	// ConnectTimeout is 10 s where unset.
	ConnectTimeout time.Duration
	// Providers are MeshConfig's extensionProviders that authorize (envoyExtAuthzGrpc, envoyExtAuthzHttp), by name.
	Providers map[string]*meshconfig.MeshConfig_ExtensionProvider
	// TrustDomainAliases are other names under which principals of this trust domain may be written in policies.
	TrustDomainAliases []string
}

// Severity says what becomes of an object with a problem.
type Severity uint8

// The severities.
const (
	Refused Severity = iota // the object is not used
	Warning                 // the object is used; what Message names is dropped or dangles
)

// Problem is one finding about one authored object. It is an error.
type Problem struct {
	Severity Severity
	Position Position
	Key      Key
	// Field is the path of the offending field, such as spec.rules[0].to[1].operation.paths[0]; "" for the whole object.
	Field   string
	Message string
	// Dangling is true of a Warning about a reference to something that does not exist (ResolvedRefs). `signet validate`
	// of a whole directory treats it as an error.
	Dangling bool
	// partial is what could be read of a refused security object, for Quarantine.
	partial *Object
}
