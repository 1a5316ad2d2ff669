// Package upstream holds the connections that a sidecar keeps to others: endpoints, balancing between them, pools, and
// dialling with mutual TLS where the server must prove one of the identities expected of it (secure naming).
//
// A Set owns every pool of one sidecar. Update gives it a new configuration and returns the clusters of it, which are
// immutable: whoever forwards a request picks an endpoint of a cluster, acquires a connection from it, and releases or
// discards that connection exactly once.
package upstream

import (
	"net/netip"
	"time"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/proxy"
)

// Policy says how a cluster chooses between its endpoints (DestinationRule trafficPolicy.loadBalancer.simple).
type Policy uint8

// The policies. The zero value is Istio's default. All honour weights.
const (
	// LeastRequest draws two endpoints and takes the one with fewer active exchanges for its weight.
	LeastRequest Policy = iota
	RoundRobin
	Random
)

// String is Istio's spelling.
func (p Policy) String() string {
	switch p {
	case RoundRobin:
		return "ROUND_ROBIN"
	case Random:
		return "RANDOM"
	}
	return "LEAST_REQUEST"
}

// DefaultConnectTimeout is how long dialling (TCP and TLS together) may take where Spec.ConnectTimeout is 0: MeshConfig's
// connectTimeout default.
const DefaultConnectTimeout = 10 * time.Second

// Target is one endpoint of a cluster as configuration names it.
type Target struct {
	// Address is IP:port or unix:///path; with Spec.Resolve it may be NAME:port.
	Address string
	// Weight is the endpoint's share; 0 counts as 1.
	Weight uint32
	// MTLS says that the endpoint is dialled with mutual TLS; else it is plain.
	MTLS bool
	// Expect are the identities of which the server must prove one. With MTLS and none, nothing is accepted.
	Expect []identity.ID
	// Party is what metrics say of the endpoint; nil is rendered as unknown.
	Party *proxy.Party
	// Zone is the endpoint's locality, for the admin page; balancing does not weigh it.
	Zone string
}

// Spec is one cluster as configuration names it.
type Spec struct {
	// Name is unique in a Set, in Envoy's form: outbound|PORT|SUBSET|HOST or inbound|PORT||.
	Name    string
	Targets []Target
	Policy  Policy
	// ConnectTimeout bounds TCP connect and TLS handshake together; 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// ALPN and SNI are what the client offers on mTLS endpoints; "" offers none. StreamALPN is offered in place of ALPN for a
	// TCP stream, where it is not "": a port that is both has to say which it is.
	ALPN, StreamALPN, SNI string
	// Local is the address connections are made from; the zero value leaves it to the kernel. It is not used for Unix
	// sockets and for targets of the other address family.
	Local netip.Addr
	// Local6 is Local for targets of IPv6, where it is set.
	Local6 netip.Addr
	// Original says that a call goes to the address that it was made to, if that is a target. Without targets it goes there
	// whatever the address, as Template has it; with targets, and a call made to none of them, it is balanced.
	Original bool
	// Template is what holds for every address of an Original cluster without targets; its Address is not read.
	Template Target
	// Resolve says that targets' names are resolved, and resolved again as their records expire. What was answered last goes on
	// while no answer comes.
	Resolve bool
	// Destination is what metrics say of the service; nil is rendered as unknown.
	Destination *proxy.Destination
}
