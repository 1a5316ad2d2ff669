// Package identity names a workload: who it is and, for the other end of a connection, how that was proven.
//
// It is the lowest floor of the house: everything may import it and it imports nothing of ours.
package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ControlPlaneNamespace and ControlPlaneServiceAccount name the control plane's own identity. No workload may carry it:
// the CA and `signet validate` refuse a WorkloadEntry that would.
const (
	ControlPlaneNamespace      = "signet-system"
	ControlPlaneServiceAccount = "signetd"
)

// ID is a SPIFFE ID that was parsed once and can't be wrong. The zero value is nobody.
//
// An ID of the shape spiffe://TD/ns/NS/sa/SA has a namespace and a service account; one of any other shape has neither,
// so that no policy by namespace ever matches it.
type ID struct {
	id                        spiffeid.ID
	namespace, serviceAccount string
}

// New builds spiffe://td/ns/namespace/sa/serviceAccount.
func New(td, namespace, serviceAccount string) (ID, error) {
	if namespace == "" || serviceAccount == "" {
		return ID{}, fmt.Errorf("building SPIFFE ID: namespace %q and service account %q must both be set", namespace, serviceAccount)
	}
	id, err := Parse("spiffe://" + td + "/ns/" + namespace + "/sa/" + serviceAccount)
	if err == nil && (id.TrustDomain() != td || id.namespace != namespace || id.serviceAccount != serviceAccount) {
		return ID{}, fmt.Errorf("building SPIFFE ID: trust domain %q, namespace %q or service account %q holds a slash", td, namespace, serviceAccount)
	}
	return id, err
}

// ControlPlane is the identity of the control plane of a trust domain.
func ControlPlane(td string) (ID, error) {
	return New(td, ControlPlaneNamespace, ControlPlaneServiceAccount)
}

// Parse reads a SPIFFE ID strictly (SPIFFE-ID section 2; upper case is refused, nothing is normalised).
func Parse(uri string) (ID, error) {
	id, err := spiffeid.FromString(uri)
	if err != nil {
		return ID{}, fmt.Errorf("parsing SPIFFE ID %q: %w", uri, err)
	}
	return fromSPIFFE(id), nil
}

func fromSPIFFE(id spiffeid.ID) ID {
	out := ID{id: id}
	if seg := strings.Split(id.Path(), "/"); len(seg) == 5 && seg[1] == "ns" && seg[3] == "sa" {
		out.namespace, out.serviceAccount = seg[2], seg[4]
	}
	return out
}

// IsZero reports whether the ID names nobody.
func (i ID) IsZero() bool { return i.id.IsZero() }

// String is the whole URI, or "" for nobody.
func (i ID) String() string { return i.id.String() }

// Principal is Istio's spelling: the URI without spiffe://, or "" for nobody.
func (i ID) Principal() string { return strings.TrimPrefix(i.id.String(), "spiffe://") }

// TrustDomain is the trust domain's name, or "" for nobody.
func (i ID) TrustDomain() string { return i.id.TrustDomain().Name() }

// Namespace is NS of /ns/NS/sa/SA, or "" for an ID of another shape.
func (i ID) Namespace() string { return i.namespace }

// ServiceAccount is SA of /ns/NS/sa/SA, or "" for an ID of another shape.
func (i ID) ServiceAccount() string { return i.serviceAccount }

// IsControlPlane reports whether the ID is the reserved one of its trust domain's control plane.
func (i ID) IsControlPlane() bool {
	return i.namespace == ControlPlaneNamespace && i.serviceAccount == ControlPlaneServiceAccount
}

// Peer is who is at the other end of a connection. The zero value is nobody: a plaintext caller.
type Peer struct {
	ID ID
	// LeafHash is the SHA-256 of the DER of the certificate that proved ID; all zero for nobody.
	LeafHash [32]byte
}

// Proven reports whether the peer showed a certificate that was verified.
func (p Peer) Proven() bool { return !p.ID.IsZero() }
