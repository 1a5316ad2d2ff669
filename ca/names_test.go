package ca_test

import (
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/authority"
	"github.com/signet-mesh/signet/ca/catest"
)

// TestControlPlaneNames: the control plane's own certificate has exactly the names configured, whatever its request says,
// and no other certificate has any.
func TestControlPlaneNames(t *testing.T) {
	keys, _ := open(t, authority.Options{}, slog.New(slog.DiscardHandler))
	names := []string{"signetd.signet-system.svc", "signetd.signet-system", "istiod.signet-system.svc.cluster.local"}
	c, err := ca.New(ca.Options{TrustDomain: "mesh.test", Keys: keys, Log: slog.New(slog.DiscardHandler), ControlPlaneNames: names})
	if err != nil {
		t.Fatal(err)
	}
	key, _ := catest.NewCSR(t)
	csr := catest.CSR(t, key, &x509.CertificateRequest{DNSNames: []string{"evil.example"}})
	issued, err := c.ControlPlane().Issue(t.Context(), csr, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf := issued.Chain[0]
	if !slices.Equal(leaf.DNSNames, names) || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://mesh.test/ns/signet-system/sa/signetd" {
		t.Errorf("issued to %q and %q", leaf.DNSNames, leaf.URIs)
	}
	// What the API server does with a webhook's certificate.
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(issued.Roots[0])
	between.AddCert(issued.Chain[1])
	for name, good := range map[string]bool{names[0]: true, names[2]: true, "signetd.other.svc": false} {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between}); (err == nil) != good {
			t.Errorf("verifying for %q: %v", name, err)
		}
	}
	cert, err := issue(t, c, workload(t), csr, time.Hour)
	if err != nil || len(cert.Leaf.DNSNames) != 0 {
		t.Errorf("a workload's certificate has names %q, %v", cert.Leaf.DNSNames, err)
	}
}

func TestControlPlaneNamesRefused(t *testing.T) {
	keys, _ := open(t, authority.Options{}, slog.New(slog.DiscardHandler))
	for _, name := range []string{"", "Signetd.svc", "a..b", "-a.svc", "a-.svc", "a b", "*.svc", "10.0.0.1", "spiffe://x", "a@b.c", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "b"} {
		_, err := ca.New(ca.Options{TrustDomain: "mesh.test", Keys: keys, Log: slog.New(slog.DiscardHandler), ControlPlaneNames: []string{name}})
		if err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	for _, list := range [][]string{{"a.svc", "a.svc"}, slices.Repeat([]string{"a"}, 17)} {
		if _, err := ca.New(ca.Options{TrustDomain: "mesh.test", Keys: keys, Log: slog.New(slog.DiscardHandler), ControlPlaneNames: list}); err == nil {
			t.Errorf("%q was taken", list)
		}
	}
}

// swapped is a key that certifies other names than it was asked for.
type swapped struct {
	ca.Key
	dns []string
}

func (s swapped) SignLeaf(leaf ca.Leaf) ([]byte, error) {
	leaf.DNS = s.dns
	return s.Key.SignLeaf(leaf)
}

func (s swapped) Current() ca.Key { return s }

// TestNamesAreChecked: what was signed is held against the names decided, by code that shares nothing with the signer.
func TestNamesAreChecked(t *testing.T) {
	keys, _ := open(t, authority.Options{}, slog.New(slog.DiscardHandler))
	for _, dns := range [][]string{nil, {"a.svc"}, {"b.svc", "a.svc"}, {"a.svc", "b.svc", "c.svc"}} {
		c, err := ca.New(ca.Options{TrustDomain: "mesh.test", Keys: swapped{keys.Current(), dns}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), ControlPlaneNames: []string{"a.svc", "b.svc"}})
		if err != nil {
			t.Fatal(err)
		}
		_, csr := catest.NewCSR(t)
		if _, err := c.ControlPlane().Issue(t.Context(), csr, time.Hour, nil); err == nil || !strings.Contains(err.Error(), "extension 2.5.29.17") {
			t.Errorf("signed with %q: %v", dns, err)
		}
		if dns == nil {
			continue
		}
		if _, err := issue(t, c, workload(t), csr, time.Hour); err == nil || errors.Is(err, ca.ErrNotEntitled) {
			t.Errorf("a workload's certificate signed with %q: %v", dns, err)
		}
	}
}
