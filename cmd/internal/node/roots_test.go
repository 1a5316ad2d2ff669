package node

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/signet-mesh/signet/ca/caclient"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/certs/rotate"
)

// signs issues what it is asked for.
type signs struct {
	t  *testing.T
	ca *certtest.CA
}

func (s signs) Issue(_ context.Context, csr []byte, _ time.Duration, _ *certs.Snapshot) (*certs.Issued, error) {
	block, _ := pem.Decode(csr)
	if block == nil {
		return nil, errors.New("no PEM")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return &certs.Issued{Chain: s.ca.ChainFor(s.t, req.PublicKey, "spiffe://cluster.local/ns/shop/sa/cart"), Roots: []*x509.Certificate{s.ca.Root}}, nil
}

// TestMountedRoots: while there is no connection the roots of the mounted bundle are trusted beside those at hand; a bundle that can't
// be read takes nothing away.
func TestMountedRoots(t *testing.T) {
	old, next := certtest.NewCA(t, "cluster.local"), certtest.NewCA(t, "cluster.local")
	r, err := rotate.New(rotate.Config{Issuer: signs{t, old}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if waitSVID(ctx, r) == nil {
		t.Fatal("no certificate")
	}
	file := filepath.Join(t.TempDir(), "root-cert.pem")
	p := &podlife{n: &Node{rotator: r, cfg: Config{Pod: &Pod{TrustDomain: "cluster.local"}, Log: slog.New(slog.DiscardHandler)}}}
	for _, c := range []struct {
		text  []byte
		roots int
	}{{certs.ChainPEM([]*x509.Certificate{old.Root}), 1}, {certs.ChainPEM([]*x509.Certificate{next.Root}), 2}, {[]byte("hello"), 2}} {
		if err := os.WriteFile(file, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		p.trustMounted(caclient.FileRoots(file))
		if n := len(r.Current().Bundles["cluster.local"].Roots()); n != c.roots {
			t.Errorf("%d roots after %.40q, want %d", n, c.text, c.roots)
		}
	}
}
