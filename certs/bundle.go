package certs

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxRoots is the most roots one bundle may hold.
const MaxRoots = 64

// Bundle is the roots of one trust domain. Immutable.
type Bundle struct {
	trustDomain string
	roots       []*x509.Certificate
	pool        *x509.CertPool
	pem         []byte
}

// NewBundle makes the bundle of a trust domain. Doubles are dropped and the rest is put in an order of its own, so that
// the same roots make the same bundle. A root must be a CA certificate; no root at all is an error, because a bundle
// without roots trusts nobody and is better said by absence.
func NewBundle(td string, roots []*x509.Certificate) (*Bundle, error) {
	name, err := spiffeid.TrustDomainFromString(td)
	if err != nil || name.Name() != td {
		return nil, fmt.Errorf("making trust bundle: trust domain %q is malformed", td)
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("making trust bundle of %q: no root", td)
	}
	if len(roots) > MaxRoots {
		return nil, fmt.Errorf("making trust bundle of %q: %d roots, the limit is %d", td, len(roots), MaxRoots)
	}
	for i, root := range roots {
		if root == nil {
			return nil, fmt.Errorf("making trust bundle of %q: root %d is nil", td, i)
		}
		if !root.BasicConstraintsValid || !root.IsCA {
			return nil, fmt.Errorf("making trust bundle of %q: root %d (serial %x) is not a CA certificate", td, i, root.SerialNumber)
		}
	}
	b := &Bundle{trustDomain: td, roots: slices.Clone(roots), pool: x509.NewCertPool()}
	slices.SortFunc(b.roots, func(a, c *x509.Certificate) int { return bytes.Compare(a.Raw, c.Raw) })
	b.roots = slices.CompactFunc(b.roots, (*x509.Certificate).Equal)
	for _, root := range b.roots {
		b.pool.AddCert(root)
	}
	b.pem = ChainPEM(b.roots)
	return b, nil
}

// ParseBundle reads the roots of a trust domain as PEM. Blocks that are not certificates are refused.
func ParseBundle(td string, pem []byte) (*Bundle, error) {
	roots, err := ParseChainPEM(pem)
	if err != nil {
		return nil, fmt.Errorf("parsing trust bundle of %q: %w", td, err)
	}
	return NewBundle(td, roots)
}

// TrustDomain is the name of the trust domain.
func (b *Bundle) TrustDomain() string { return b.trustDomain }

// Roots are the certificates, in the bundle's own order. The slice is the caller's.
func (b *Bundle) Roots() []*x509.Certificate { return slices.Clone(b.roots) }

// PEM is all roots, one block after the other. The slice is the caller's.
func (b *Bundle) PEM() []byte { return bytes.Clone(b.pem) }

// Equal reports whether both hold the same roots of the same trust domain. Two nils are equal.
func (b *Bundle) Equal(o *Bundle) bool {
	if b == nil || o == nil {
		return b == o
	}
	return b.trustDomain == o.trustDomain && bytes.Equal(b.pem, o.pem)
}

// errNoBundle is the cause of a refused leaf whose trust domain we hold no roots of.
var errNoBundle = errors.New("no bundle for its trust domain")
