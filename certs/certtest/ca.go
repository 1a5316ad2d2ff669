// Package certtest is a small certificate authority for tests: roots, intermediates, good SVIDs and every bad kind, and
// a Source that a test sets by hand. Tests only: its keys live in memory and are guarded by nobody.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/signet-mesh/signet/certs"
)

// CA is a self-signed root, or an intermediate below one, of a trust domain.
type CA struct {
	TrustDomain string
	Cert        *x509.Certificate
	Key         crypto.Signer
	// Parents are the certificates that a leaf's chain carries between the leaf and the root: empty for a root.
	Parents []*x509.Certificate
	// Root is Cert itself for a root.
	Root *x509.Certificate
}

// NewCA makes a self-signed root, valid from an hour ago for a year.
func NewCA(tb testing.TB, td string) *CA {
	tb.Helper()
	key := NewKey(tb)
	tmpl := caTemplate(tb, "root of "+td)
	cert := Sign(tb, tmpl, tmpl, key.Public(), key)
	return &CA{TrustDomain: td, Cert: cert, Key: key, Root: cert}
}

// Intermediate makes a CA that this one signed.
func (c *CA) Intermediate(tb testing.TB) *CA {
	tb.Helper()
	key := NewKey(tb)
	cert := Sign(tb, caTemplate(tb, "intermediate of "+c.TrustDomain), c.Cert, key.Public(), c.Key)
	return &CA{
		TrustDomain: c.TrustDomain, Cert: cert, Key: key, Root: c.Root,
		Parents: append([]*x509.Certificate{cert}, c.Parents...),
	}
}

// Bundle is the root as the bundle of the CA's trust domain.
func (c *CA) Bundle() *certs.Bundle {
	b, err := certs.NewBundle(c.TrustDomain, []*x509.Certificate{c.Root})
	if err != nil {
		panic(err) // only for a trust domain that is malformed in the test itself
	}
	return b
}

// SVID makes an SVID with a key of its own. It must be one that certs.NewSVID takes; for the others there is Chain.
func (c *CA) SVID(tb testing.TB, id string, opts ...Option) *certs.SVID {
	tb.Helper()
	chain, key := c.Chain(tb, id, opts...)
	s, err := certs.NewSVID(chain, key)
	if err != nil {
		tb.Fatalf("certtest: %v", err)
	}
	return s
}

// Chain makes a leaf, good or bad, with its key; intermediates follow it. An empty id leaves the URI SAN out.
func (c *CA) Chain(tb testing.TB, id string, opts ...Option) ([]*x509.Certificate, crypto.Signer) {
	tb.Helper()
	key := NewKey(tb)
	return c.ChainFor(tb, key.Public(), id, opts...), key
}

// ChainFor is Chain for a key that somebody else holds, as a CA answers a CSR.
func (c *CA) ChainFor(tb testing.TB, public crypto.PublicKey, id string, opts ...Option) []*x509.Certificate {
	tb.Helper()
	l := leaf{
		tmpl: &x509.Certificate{
			SerialNumber:          serial(tb),
			NotBefore:             time.Now().Add(-time.Minute),
			NotAfter:              time.Now().Add(time.Hour),
			KeyUsage:              x509.KeyUsageDigitalSignature,
			ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			BasicConstraintsValid: true,
		},
		usageCritical: true,
	}
	if id != "" {
		l.uris = []string{id}
	}
	for _, o := range opts {
		o(&l)
	}
	l.finish(tb)
	return append([]*x509.Certificate{Sign(tb, l.tmpl, c.Cert, public, c.Key)}, c.Parents...)
}

// NewKey makes an ECDSA P-256 key.
func NewKey(tb testing.TB) crypto.Signer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("certtest: %v", err)
	}
	return key
}

// Sign makes a certificate of a template as it is.
func Sign(tb testing.TB, tmpl, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, key)
	if err != nil {
		tb.Fatalf("certtest: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("certtest: %v", err)
	}
	return cert
}

func caTemplate(tb testing.TB, name string) *x509.Certificate {
	tb.Helper()
	return &x509.Certificate{
		SerialNumber:          serial(tb),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(365 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func serial(tb testing.TB) *big.Int {
	tb.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		tb.Fatalf("certtest: %v", err)
	}
	return n.Add(n, big.NewInt(1))
}

// leaf is a template before its SAN and key usage are written.
type leaf struct {
	tmpl          *x509.Certificate
	uris          []string
	dns           []string
	usageCritical bool
}

// finish writes the extensions by hand, because a URI goes in as it is spelled and a key usage may lack its criticality.
func (l *leaf) finish(tb testing.TB) {
	tb.Helper()
	var names []asn1.RawValue
	for _, u := range l.uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(u)})
	}
	for _, d := range l.dns {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(d)})
	}
	if len(names) > 0 {
		l.extension(tb, 17, true, names)
	}
	if l.tmpl.KeyUsage != 0 && !l.usageCritical {
		l.extension(tb, 15, false, asn1.BitString{Bytes: []byte{0x80}, BitLength: 1}) // digitalSignature
		l.tmpl.KeyUsage = 0
	}
}

func (l *leaf) extension(tb testing.TB, n int, critical bool, value any) {
	tb.Helper()
	der, err := asn1.Marshal(value)
	if err != nil {
		tb.Fatalf("certtest: %v", err)
	}
	l.tmpl.ExtraExtensions = append(l.tmpl.ExtraExtensions,
		pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, n}, Critical: critical, Value: der})
}
