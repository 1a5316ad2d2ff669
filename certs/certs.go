// Package certs holds what a workload proves itself with and judges others by: SVIDs, trust bundles per trust domain,
// their verification, and tls.Config values built from a live Source.
package certs

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"

	"github.com/signet-mesh/signet/identity"
)

// SVID is an X509-SVID with its key, checked when it was built (NewSVID). Immutable.
type SVID struct {
	ID identity.ID
	// Chain is leaf first, then intermediates, never a root.
	Chain []*x509.Certificate
	Key   crypto.Signer

	tls *tls.Certificate // prepared once by NewSVID
}

// Leaf is the certificate that carries the identity.
func (s *SVID) Leaf() *x509.Certificate { return s.Chain[0] }

// TLS is the SVID in crypto/tls's form. It was prepared once and is shared: callers don't change it.
func (s *SVID) TLS() *tls.Certificate { return s.tls }

// Snapshot is everything a TLS endpoint needs at one moment. Immutable; replaced as a whole.
type Snapshot struct {
	// SVID is nil until the first one was issued.
	SVID *SVID
	// Bundles maps a trust domain's name to its roots. A leaf is verified only against the bundle of its own domain.
	Bundles map[string]*Bundle
	// Generation grows by one with each replacement.
	Generation uint64
}

// Source hands out the current snapshot. Safe for concurrent use; Current is one atomic load.
type Source interface {
	// Current is never nil; before the first certificate it is an empty snapshot, with which every handshake fails.
	Current() *Snapshot
	// Watch returns the current snapshot and a channel that is closed when it has been replaced.
	Watch() (*Snapshot, <-chan struct{})
}

// Issued is what a CA answered to a CSR: leaf first, then intermediates; and all roots of the leaf's trust domain.
type Issued struct {
	Chain, Roots []*x509.Certificate
}
