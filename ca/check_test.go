package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/identity"
)

// breakage is a certificate that is wrong in one thing, and a part of the error it must give; want "" is a good one.
type breakage struct {
	change func(*x509.Certificate)
	parent *x509.Certificate
	signer *ecdsa.PrivateKey
	pub    any
	want   string
}

func breakages(t *testing.T, id string, caKey, other *ecdsa.PrivateKey, stranger *x509.Certificate, now time.Time) map[string]breakage {
	return map[string]breakage{
		"as it should be":    {},
		"other key":          {pub: other.Public(), want: "public key"},
		"other serial":       {change: func(c *x509.Certificate) { c.SerialNumber = big.NewInt(78) }, want: "serial"},
		"subject":            {change: func(c *x509.Certificate) { c.Subject.CommonName = "x" }, want: "subject"},
		"longer":             {change: func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }, want: "validity"},
		"earlier":            {change: func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-time.Second) }, want: "validity"},
		"CA":                 {change: func(c *x509.Certificate) { c.IsCA = true }, want: "2.5.29.19"},
		"no constraints":     {change: func(c *x509.Certificate) { c.BasicConstraintsValid = false }, want: "2.5.29.19 is missing"},
		"cert sign":          {change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, want: "2.5.29.15"},
		"no key usage":       {change: func(c *x509.Certificate) { c.KeyUsage = 0 }, want: "2.5.29.15 is missing"},
		"key encipherment":   {change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }, want: "2.5.29.15"},
		"server only":        {change: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, want: "extended key usage"},
		"any usage":          {change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, want: "extended key usage"},
		"usages swapped":     {change: func(c *x509.Certificate) { c.ExtKeyUsage[0], c.ExtKeyUsage[1] = c.ExtKeyUsage[1], c.ExtKeyUsage[0] }},
		"no SAN":             {change: func(c *x509.Certificate) { c.URIs = nil }, want: "2.5.29.17 is missing"},
		"other SAN":          {change: func(c *x509.Certificate) { c.URIs[0] = parseURI(t, "spiffe://mesh.test/ns/shop/sa/other") }, want: "2.5.29.17"},
		"two SANs":           {change: func(c *x509.Certificate) { c.URIs = append(c.URIs, parseURI(t, "spiffe://mesh.test/x")) }, want: "2.5.29.17"},
		"DNS too":            {change: func(c *x509.Certificate) { c.DNSNames = []string{"x"} }, want: "2.5.29.17"},
		"one more extension": {change: func(c *x509.Certificate) { c.OCSPServer = []string{"http://x"} }, want: "7 extensions"},
		"SAN not critical": {change: func(c *x509.Certificate) {
			san, _ := asn1.Marshal([]asn1.RawValue{{Class: 2, Tag: 6, Bytes: []byte(id)}})
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}}
		}, want: "critical"},
		"signed by another of that name": {parent: stranger, signer: other, want: "signature"},
		"issuer of another name":         {parent: selfSigned(t, caKey, "another", now), want: "issuer"},
	}
}

func parseURI(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestCheckSigned signs certificates that are wrong in one thing each, with a signer that does as it is told.
func TestCheckSigned(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	caKey, key, other := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	issuer := selfSigned(t, caKey, "issuer", now)
	stranger := selfSigned(t, other, "issuer", now)
	stranger.SubjectKeyId = issuer.SubjectKeyId
	id, err := identity.New("mesh.test", "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	want := expected{
		id: id, key: key.Public(), serial: big.NewInt(77), issuer: issuer,
		notBefore: now.Add(-time.Minute), notAfter: now.Add(time.Hour),
	}
	for name, tc := range breakages(t, id.String(), caKey, other, stranger, now) {
		t.Run(name, func(t *testing.T) {
			tmpl := &x509.Certificate{
				SerialNumber: want.serial, NotBefore: want.notBefore, NotAfter: want.notAfter,
				KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{parseURI(t, id.String())},
				ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
				BasicConstraintsValid: true, SubjectKeyId: []byte{1, 2, 3},
			}
			if tc.change != nil {
				tc.change(tmpl)
			}
			parent, signer, pub := issuer, caKey, any(key.Public())
			if tc.parent != nil {
				parent = tc.parent
			}
			if tc.signer != nil {
				signer = tc.signer
			}
			if tc.pub != nil {
				pub = tc.pub
			}
			der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := checkSigned(der, want)
			if tc.want == "" {
				if err != nil || leaf == nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || leaf != nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func selfSigned(t *testing.T, key *ecdsa.PrivateKey, name string, now time.Time) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
