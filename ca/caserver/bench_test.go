package caserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"syscall"
	"testing"
	"time"

	"encoding/pem"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/signet-mesh/signet/ca/catest"
)

// perCPUSecond reports certificates per second of CPU, user and system, of this whole process.
func perCPUSecond(b *testing.B, run func()) {
	b.Helper()
	before := cpu(b)
	run()
	used := cpu(b) - before
	b.ReportMetric(float64(b.N)/used.Seconds(), "certs/cpu-s")
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-us/cert")
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRaw is the limit: check the request's signature, sign, check what was signed; standard library, nothing else.
func BenchmarkRaw(b *testing.B) {
	p := catest.Start(b, catest.Options{})
	issuer := p.Authority.Chain()[0]
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // of the same kind; the real one is not handed out
	if err != nil {
		b.Fatal(err)
	}
	self := *issuer
	self.PublicKey = issuerKey.Public()
	_, csr := catest.NewCSR(b)
	uri := &url.URL{Scheme: "spiffe", Host: "mesh.test", Path: "/ns/shop/sa/cart"}
	b.ResetTimer()
	perCPUSecond(b, func() {
		for range b.N {
			block, _ := pem.Decode(csr)
			req, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil || req.CheckSignature() != nil {
				b.Fatal(err)
			}
			serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
			tmpl := &x509.Certificate{
				SerialNumber: serial, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{uri},
				KeyUsage:              x509.KeyUsageDigitalSignature,
				ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
				BasicConstraintsValid: true,
			}
			der, err := x509.CreateCertificate(rand.Reader, tmpl, &self, req.PublicKey, issuerKey)
			if err != nil {
				b.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil || cert.CheckSignatureFrom(&self) != nil {
				b.Fatal("self-check", err)
			}
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		}
	})
}

// BenchmarkIssue is one issuance without the door: Judge, Prepare, Issue.
func BenchmarkIssue(b *testing.B) {
	p := catest.Start(b, catest.Options{})
	_, csr := catest.NewCSR(b)
	b.ResetTimer()
	perCPUSecond(b, func() {
		for range b.N {
			req, err := p.CA.Judge(csr, time.Hour)
			if err != nil {
				b.Fatal(err)
			}
			prepared, err := p.CA.PrepareControlPlane(req)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := p.CA.Issue(prepared); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCreateCertificate is one renewal through the door: gRPC over TLS 1.3 on loopback with a client certificate. The
// CPU of client and server is counted, since both are this process; of the server alone it is less.
func BenchmarkCreateCertificate(b *testing.B) {
	p := catest.Start(b, catest.Options{})
	p.Workloads.Set("shop/cart-1", "cart")
	client := dial(b, p, p.Snapshot(b, "shop", "cart", time.Hour).SVID.TLS())
	_, csr := catest.NewCSR(b)
	in := &securityv1.IstioCertificateRequest{Csr: string(csr), ValidityDuration: 3600}
	for _, calls := range []struct {
		name string
		n    int
	}{{"one at a time", 1}, {"sixteen at once", 16}} {
		b.Run(calls.name, func(b *testing.B) {
			b.SetParallelism(max(1, calls.n/2))
			perCPUSecond(b, func() {
				if calls.n == 1 {
					for range b.N {
						if _, err := client.CreateCertificate(b.Context(), in); err != nil {
							b.Fatal(err)
						}
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := client.CreateCertificate(b.Context(), in); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		})
	}
}

// dial connects a bare gRPC client that takes any server.
func dial(t testing.TB, p *catest.Plane, cert *tls.Certificate) securityv1.IstioCertificateServiceClient {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	conn, err := grpc.NewClient("passthrough:///"+p.Addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return securityv1.NewIstioCertificateServiceClient(conn)
}
