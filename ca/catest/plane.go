// Package catest runs a real CA with its door on a loopback port, for tests: state directory, tokens, gRPC over TLS, and
// a set of workloads that a test changes as it likes.
package catest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/ca/authority"
	"github.com/signet-mesh/signet/ca/caserver"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity"
)

// Workloads is an attest.Workloads: "NS/WORKLOAD" to service account. Safe for concurrent use.
type Workloads struct {
	mu sync.Mutex // guards m
	m  map[string]string
}

// Set gives a workload a service account; "" removes the workload.
func (w *Workloads) Set(workload, serviceAccount string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = map[string]string{}
	}
	if serviceAccount == "" {
		delete(w.m, workload)
		return
	}
	w.m[workload] = serviceAccount
}

// ServiceAccount is part of attest.Workloads.
func (w *Workloads) ServiceAccount(namespace, workload string) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sa, ok := w.m[namespace+"/"+workload]
	return sa, ok
}

// Holds is part of attest.Workloads.
func (w *Workloads) Holds(namespace, serviceAccount string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, sa := range w.m {
		if strings.HasPrefix(name, namespace+"/") && sa == serviceAccount {
			return true
		}
	}
	return false
}

// Plane is a running CA.
type Plane struct {
	Dir         string
	TrustDomain string
	Addr        string
	Workloads   *Workloads
	Authority   *authority.Authority
	CA          *ca.CA
	Server      *caserver.Server
	// Source is what the server proves itself with; a test may put something else into it.
	Source *certs.Cell
	server *grpc.Server
}

// Options of Start; the zero value is fine.
type Options struct {
	TrustDomain     string
	Dir             string
	IntermediateTTL time.Duration
	Log             *slog.Logger
	Door            caserver.Options
	// LiberalGRPC leaves out caserver.ServerOptions, as on a port shared with services of larger messages.
	LiberalGRPC bool
}

// Start runs a CA until the test ends.
func Start(t testing.TB, opts Options) *Plane {
	t.Helper()
	if opts.TrustDomain == "" {
		opts.TrustDomain = "mesh.test"
	}
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	p := &Plane{Dir: opts.Dir, TrustDomain: opts.TrustDomain, Workloads: &Workloads{}, Source: &certs.Cell{}}
	var err error
	p.Authority, err = authority.Open(opts.Dir, opts.TrustDomain, authority.Options{IntermediateTTL: opts.IntermediateTTL})
	must(t, err)
	t.Cleanup(func() { _ = p.Authority.Close() })
	p.CA, err = ca.New(ca.Options{TrustDomain: opts.TrustDomain, Keys: p.Authority, Log: opts.Log})
	must(t, err)
	opts.Door.CA = p.CA
	opts.Door.Attestor, err = attest.New(opts.TrustDomain, attest.NewTokens(opts.Dir), p.Workloads)
	must(t, err)
	p.Server, err = caserver.New(opts.Door)
	must(t, err)
	p.becomeControlPlane(t)
	p.serve(t, opts)
	return p
}

// becomeControlPlane gives the server its own certificate.
func (p *Plane) becomeControlPlane(t testing.TB) {
	key, csr := NewCSR(t)
	issued, err := p.CA.ControlPlane().Issue(t.Context(), csr, time.Hour, nil)
	must(t, err)
	svid, err := certs.NewSVID(issued.Chain, key)
	must(t, err)
	p.Source.Set(svid, p.Bundles(t))
}

func (p *Plane) serve(t testing.TB, opts Options) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p.Addr = ln.Addr().String()
	grpcOpts := []grpc.ServerOption{grpc.Creds(credentials.NewTLS(caserver.TLSConfig(p.Source, p.Authority.Roots)))}
	if !opts.LiberalGRPC {
		grpcOpts = append(grpcOpts, caserver.ServerOptions()...)
	}
	p.server = grpc.NewServer(grpcOpts...)
	p.Server.Register(p.server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.server.Serve(ln)
	}()
	t.Cleanup(func() {
		p.server.Stop()
		<-done
	})
}

// Stop ends the server before the test does.
func (p *Plane) Stop() { p.server.Stop() }

// Bundles are the CA's roots as a relying party holds them.
func (p *Plane) Bundles(t testing.TB) map[string]*certs.Bundle {
	b, err := certs.NewBundle(p.TrustDomain, p.Authority.Roots())
	must(t, err)
	return map[string]*certs.Bundle{p.TrustDomain: b}
}

// Token mints a join token.
func (p *Plane) Token(t testing.TB, namespace, workload string) string {
	token, err := attest.MintToken(p.Dir, namespace, workload, time.Hour)
	must(t, err)
	return token
}

// Snapshot is what a workload with the service account holds after it was issued a certificate of that lifetime, made
// without asking any door.
func (p *Plane) Snapshot(t testing.TB, namespace, serviceAccount string, ttl time.Duration) *certs.Snapshot {
	id, err := identity.New(p.TrustDomain, namespace, serviceAccount)
	must(t, err)
	key, csr := NewCSR(t)
	req, err := p.CA.Judge(csr, ttl)
	must(t, err)
	prepared, err := p.CA.Prepare(ca.Caller{ID: id, Proof: "test"}, req)
	must(t, err)
	cert, err := p.CA.Issue(prepared)
	must(t, err)
	svid, err := certs.NewSVID(append([]*x509.Certificate{cert.Leaf}, cert.Intermediates...), key)
	must(t, err)
	return &certs.Snapshot{SVID: svid, Bundles: p.Bundles(t), Generation: 1}
}

// NewCSR makes a P-256 key and its certificate request in PEM.
func NewCSR(t testing.TB) (crypto.Signer, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key, CSR(t, key, &x509.CertificateRequest{})
}

// CSR makes a certificate request in PEM.
func CSR(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
