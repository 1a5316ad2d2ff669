package certs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
)

const workload = "spiffe://cluster.local/ns/shop/sa/web"

// badLeaf is one way of not being an X509-SVID.
type badLeaf struct {
	name   string
	id     string
	opts   []certtest.Option
	reason certs.Reason
}

func badLeaves() []badLeaf {
	return []badLeaf{
		{"no SAN", "", nil, certs.NoSPIFFEID},
		{"DNS SAN only", "", []certtest.Option{certtest.AlsoDNS("web.shop.svc")}, certs.NoSPIFFEID},
		{"not a SPIFFE URI", "https://cluster.local/ns/shop/sa/web", nil, certs.NoSPIFFEID},
		{"scheme in upper case", "SPIFFE://cluster.local/ns/shop/sa/web", nil, certs.NoSPIFFEID},
		{"percent-encoded path", "spiffe://cluster.local/ns/shop/sa/%77eb", nil, certs.NoSPIFFEID},
		{"dot segments", "spiffe://cluster.local/ns/shop/../shop/sa/web", nil, certs.NoSPIFFEID},
		{"two SPIFFE IDs", workload, []certtest.Option{certtest.AlsoURI("spiffe://cluster.local/ns/shop/sa/db")}, certs.TwoSPIFFEIDs},
		{"the same SPIFFE ID twice", workload, []certtest.Option{certtest.AlsoURI(workload)}, certs.TwoSPIFFEIDs},
		{"a SPIFFE ID and another URI", workload, []certtest.Option{certtest.AlsoURI("https://example.org/")}, certs.TwoSPIFFEIDs},
		{"no path", "spiffe://cluster.local", nil, certs.NotALeaf},
		{"a CA", workload, []certtest.Option{certtest.AsCA()}, certs.NotALeaf},
		{"signs certificates", workload, []certtest.Option{certtest.KeyUsage(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign)}, certs.NotALeaf},
		{"signs revocation lists", workload, []certtest.Option{certtest.KeyUsage(x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign)}, certs.NotALeaf},
		{"no digitalSignature", workload, []certtest.Option{certtest.KeyUsage(x509.KeyUsageKeyAgreement)}, certs.NotALeaf},
		{"no key usage", workload, []certtest.Option{certtest.KeyUsage(0)}, certs.NotALeaf},
		{"key usage not critical", workload, []certtest.Option{certtest.KeyUsageNotCritical()}, certs.NotALeaf},
	}
}

func TestNewSVIDRefuses(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local")
	for _, c := range badLeaves() {
		t.Run(c.name, func(t *testing.T) {
			chain, key := ca.Chain(t, c.id, c.opts...)
			if _, err := certs.NewSVID(chain, key); certs.ReasonOf(err) != c.reason {
				t.Fatalf("got %v, want reason %q", err, c.reason)
			}
			_, err := certs.Verify(chain, bundles(ca), time.Now())
			if certs.ReasonOf(err) != c.reason {
				t.Fatalf("Verify: got %v, want reason %q", err, c.reason)
			}
		})
	}
	chain, _ := ca.Chain(t, workload)
	for name, try := range map[string]func() error{
		"another's key": func() error { _, err := certs.NewSVID(chain, certtest.NewKey(t)); return err },
		"no key":        func() error { _, err := certs.NewSVID(chain, nil); return err },
		"no chain":      func() error { _, err := certs.NewSVID(nil, certtest.NewKey(t)); return err },
		"a leaf as intermediate": func() error {
			mine, key := ca.Chain(t, workload)
			_, err := certs.NewSVID(append(mine, chain...), key)
			return err
		},
	} {
		if try() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSVIDForms(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local").Intermediate(t)
	s := ca.SVID(t, workload, certtest.AlsoDNS("web.shop.svc"))
	if s.ID.String() != workload || s.ID.Namespace() != "shop" {
		t.Errorf("ID is %q", s.ID)
	}
	if again := s.TLS(); again != s.TLS() || len(s.TLS().Certificate) != 2 || s.TLS().Leaf != s.Leaf() {
		t.Error("TLS form isn't the chain, prepared once")
	}
	chain, key, err := s.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		t.Errorf("crypto/tls refuses our PEM: %v", err)
	}
	if _, err := x509svid.Parse(chain, key); err != nil {
		t.Errorf("go-spiffe refuses our PEM: %v", err)
	}
	parsed, err := certs.ParseChainPEM(chain)
	if err != nil || !bytes.Equal(certs.ChainPEM(parsed), chain) {
		t.Errorf("chain doesn't survive PEM: %v", err)
	}
	signer, err := certs.ParseKeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := certs.NewSVID(parsed, signer); err != nil {
		t.Errorf("SVID doesn't survive PEM: %v", err)
	}
}

func TestParsePEMRefuses(t *testing.T) {
	s := certtest.NewCA(t, "cluster.local").SVID(t, workload)
	chain, key, _ := s.PEM()
	broken := bytes.Replace(chain, []byte("MII"), []byte("MIX"), 1)
	for name, in := range map[string][]byte{
		"nothing":   nil,
		"a key":     key,
		"text":      append([]byte("hello\n"), chain...),
		"trailing":  append(bytes.Clone(chain), "hello"...),
		"truncated": chain[:len(chain)-5],
		"broken":    broken,
		"too long":  make([]byte, certs.MaxPEM+1),
	} {
		if _, err := certs.ParseChainPEM(in); err == nil {
			t.Errorf("chain: %s: accepted", name)
		}
	}
	for name, in := range map[string][]byte{
		"nothing":       nil,
		"a certificate": chain,
		"two keys":      append(bytes.Clone(key), key...),
		"truncated":     key[:len(key)-40],
		"not PKCS#8":    []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
		"too long":      make([]byte, certs.MaxPEM+1),
	} {
		if _, err := certs.ParseKeyPEM(in); err == nil {
			t.Errorf("key: %s: accepted", name)
		}
	}
}

func TestBundle(t *testing.T) {
	a, b := certtest.NewCA(t, "cluster.local"), certtest.NewCA(t, "cluster.local")
	mk := func(td string, roots ...*x509.Certificate) *certs.Bundle {
		t.Helper()
		bundle, err := certs.NewBundle(td, roots)
		if err != nil {
			t.Fatal(err)
		}
		return bundle
	}
	both := mk("cluster.local", a.Cert, b.Cert)
	if !both.Equal(mk("cluster.local", b.Cert, a.Cert, b.Cert)) {
		t.Error("order and doubles make a difference")
	}
	if both.Equal(mk("cluster.local", a.Cert)) || both.Equal(mk("other.test", a.Cert, b.Cert)) || both.Equal(nil) {
		t.Error("different bundles are equal")
	}
	parsed, err := certs.ParseBundle("cluster.local", both.PEM())
	if err != nil || !parsed.Equal(both) || len(parsed.Roots()) != 2 {
		t.Errorf("bundle doesn't survive PEM: %v", err)
	}
	leaf := a.SVID(t, workload).Leaf()
	for name, try := range map[string]func() error{
		"no root":      func() error { _, err := certs.NewBundle("cluster.local", nil); return err },
		"a leaf":       func() error { _, err := certs.NewBundle("cluster.local", []*x509.Certificate{leaf}); return err },
		"nil":          func() error { _, err := certs.NewBundle("cluster.local", []*x509.Certificate{nil}); return err },
		"empty domain": func() error { _, err := certs.NewBundle("", []*x509.Certificate{a.Cert}); return err },
		"an ID as domain": func() error {
			_, err := certs.NewBundle("spiffe://cluster.local", []*x509.Certificate{a.Cert})
			return err
		},
		"too many": func() error {
			_, err := certs.NewBundle("cluster.local", make([]*x509.Certificate, certs.MaxRoots+1))
			return err
		},
		"malformed PEM": func() error { _, err := certs.ParseBundle("cluster.local", []byte("x")); return err },
	} {
		if try() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func bundles(cas ...*certtest.CA) map[string]*certs.Bundle {
	m := map[string]*certs.Bundle{}
	for _, ca := range cas {
		m[ca.TrustDomain] = ca.Bundle()
	}
	return m
}

func TestReasonOf(t *testing.T) {
	if certs.ReasonOf(errors.New("other")) != "" || certs.ReasonOf(nil) != "" {
		t.Error("a reason out of nothing")
	}
}
