package caclient_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	securityv1 "istio.io/api/security/v1alpha1"
)

// impostor is a server of the service that answers what it is told.
type impostor struct {
	securityv1.UnimplementedIstioCertificateServiceServer
	addr   string
	answer []string
	calls  atomic.Int32
}

// CreateCertificate is the service's one call.
func (i *impostor) CreateCertificate(context.Context, *securityv1.IstioCertificateRequest) (*securityv1.IstioCertificateResponse, error) {
	i.calls.Add(1)
	return &securityv1.IstioCertificateResponse{CertChain: i.answer}, nil
}

func impostorOn(t *testing.T, cfg *tls.Config) *impostor {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &impostor{addr: ln.Addr().String()}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)))
	securityv1.RegisterIstioCertificateServiceServer(s, i)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ln)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return i
}

func pemOf(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}
