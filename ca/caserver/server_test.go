package caserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/caserver"
	"github.com/signet-mesh/signet/ca/catest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lockedBuffer takes log lines of many goroutines.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func bearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func request(csr []byte, ttl time.Duration, workload string) *securityv1.IstioCertificateRequest {
	in := &securityv1.IstioCertificateRequest{Csr: string(csr), ValidityDuration: int64(ttl / time.Second)}
	if workload != "" {
		in.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{caserver.MetadataWorkload: structpb.NewStringValue(workload)}}
	}
	return in
}

func TestAnswerIsIstios(t *testing.T) {
	p := catest.Start(t, catest.Options{})
	p.Workloads.Set("shop/cart-1", "cart")
	_, csr := catest.NewCSR(t)
	out, err := dial(t, p, nil).CreateCertificate(bearer(t.Context(), p.Token(t, "shop", "cart-1")), request(csr, time.Hour, ""))
	if err != nil {
		t.Fatal(err)
	}
	if len(out.CertChain) != 3 {
		t.Fatalf("%d strings", len(out.CertChain))
	}
	want := []*x509.Certificate{nil, p.Authority.Chain()[0], p.Authority.Roots()[0]}
	for i, s := range out.CertChain {
		block, rest := pem.Decode([]byte(s))
		if block == nil || len(rest) != 0 || !strings.HasSuffix(s, "-----END CERTIFICATE-----\n") {
			t.Fatalf("element %d is %q", i, s)
		}
		if want[i] != nil && !bytes.Equal(block.Bytes, want[i].Raw) {
			t.Errorf("element %d is not what it should be", i)
		}
		if i == 0 {
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://mesh.test/ns/shop/sa/cart" {
				t.Errorf("leaf: %v, %v", leaf.URIs, err)
			}
		}
	}
}

// TestRefusals is what each fault is answered with; the reason of an Unauthenticated is in the log alone.
func TestRefusals(t *testing.T) {
	var logged lockedBuffer
	p := catest.Start(t, catest.Options{Log: slog.New(slog.NewTextHandler(&logged, nil)), LiberalGRPC: true})
	p.Workloads.Set("shop/cart-1", "cart")
	p.Workloads.Set("shop/admin-1", "admin")
	good := p.Token(t, "shop", "cart-1")
	bound := p.Token(t, "shop", "cart-1")
	_, csr := catest.NewCSR(t)
	_, other := catest.NewCSR(t)
	if _, err := dial(t, p, nil).CreateCertificate(bearer(t.Context(), bound), request(other, 0, "")); err != nil {
		t.Fatal(err)
	}
	cart := p.Snapshot(t, "shop", "cart", time.Hour).SVID.TLS()
	gone := p.Snapshot(t, "shop", "gone", time.Hour).SVID.TLS()
	for name, tc := range map[string]struct {
		cert   *tls.Certificate
		auth   []string
		in     *securityv1.IstioCertificateRequest
		code   codes.Code
		logged string
	}{
		"no proof":                 {in: request(csr, 0, ""), code: codes.Unauthenticated, logged: "neither a join token"},
		"unknown token":            {auth: []string{"Bearer " + good[:len(good)-43] + strings.Repeat("A", 43)}, in: request(csr, 0, ""), code: codes.Unauthenticated, logged: "token is unknown"},
		"other scheme":             {auth: []string{"Basic " + good}, in: request(csr, 0, ""), code: codes.Unauthenticated, logged: "not of the scheme"},
		"empty bearer":             {auth: []string{"Bearer "}, cert: cart, in: request(csr, 0, ""), code: codes.Unauthenticated, logged: "not of the scheme"},
		"two headers":              {auth: []string{"Bearer " + good, "Bearer " + good}, in: request(csr, 0, ""), code: codes.Unauthenticated, logged: "more than one"},
		"token of another key":     {auth: []string{"Bearer " + bound}, in: request(csr, 0, ""), code: codes.Unauthenticated, logged: "another key"},
		"account gone":             {cert: gone, in: request(csr, 0, ""), code: codes.Unauthenticated, logged: "any more"},
		"another's workload":       {cert: cart, in: request(csr, 0, "shop/admin-1"), code: codes.Unauthenticated, logged: "service account"},
		"bad token with good cert": {auth: []string{"Bearer x"}, cert: cart, in: request(csr, 0, ""), code: codes.Unauthenticated, logged: "parsing join token"},
		"no CSR":                   {auth: []string{"Bearer " + good}, in: request(nil, 0, ""), code: codes.InvalidArgument, logged: "not PEM"},
		"1 MB CSR":                 {auth: []string{"Bearer " + good}, in: request(bytes.Repeat([]byte("A"), 1<<20), 0, ""), code: codes.InvalidArgument, logged: "at most 65536"},
		"TTL too long":             {auth: []string{"Bearer " + good}, in: request(csr, ca.MaxTTL+time.Second, ""), code: codes.InvalidArgument, logged: "at most 2160h"},
		"TTL overflows":            {auth: []string{"Bearer " + good}, in: &securityv1.IstioCertificateRequest{Csr: string(csr), ValidityDuration: math.MaxInt64}, code: codes.InvalidArgument, logged: "at most 2160h"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			for _, a := range tc.auth {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", a)
			}
			before := len(logged.String())
			_, err := dial(t, p, tc.cert).CreateCertificate(ctx, tc.in)
			s := status.Convert(err)
			if s.Code() != tc.code {
				t.Fatalf("got %v", err)
			}
			line := logged.String()[before:]
			if !strings.Contains(line, "certificate refused") || !strings.Contains(line, tc.logged) {
				t.Errorf("logged %q, want %q", line, tc.logged)
			}
			if tc.code == codes.Unauthenticated && s.Message() != "request authenticate failure" {
				t.Errorf("told: %q", s.Message())
			}
			if tc.code == codes.InvalidArgument && !strings.Contains(s.Message(), tc.logged) {
				t.Errorf("told %q, want %q", s.Message(), tc.logged)
			}
		})
	}
	if strings.Contains(logged.String(), good[len(good)-43:]) || strings.Contains(logged.String(), bound[len(bound)-43:]) {
		t.Error("a token's secret was logged")
	}
	// None of the faults has used the token up.
	if _, err := dial(t, p, nil).CreateCertificate(bearer(t.Context(), good), request(csr, 0, "")); err != nil {
		t.Errorf("the good token afterwards: %v", err)
	}
}

func TestMessageLimit(t *testing.T) {
	p := catest.Start(t, catest.Options{})
	_, err := dial(t, p, nil).CreateCertificate(t.Context(), request(bytes.Repeat([]byte("A"), 1<<20), 0, ""))
	if status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("got %v", err)
	}
}

// TestForeignClientCertificate: a certificate that does not verify is no connection, whatever else is presented.
func TestForeignClientCertificate(t *testing.T) {
	p, foreign := catest.Start(t, catest.Options{}), catest.Start(t, catest.Options{})
	elsewhere := catest.Start(t, catest.Options{TrustDomain: "other.test"})
	p.Workloads.Set("shop/cart-1", "cart")
	for name, cert := range map[string]*tls.Certificate{
		"same trust domain, another CA": foreign.Snapshot(t, "shop", "cart", time.Hour).SVID.TLS(),
		"another trust domain":          elsewhere.Snapshot(t, "shop", "cart", time.Hour).SVID.TLS(),
	} {
		_, csr := catest.NewCSR(t)
		_, err := dial(t, p, cert).CreateCertificate(bearer(t.Context(), p.Token(t, "shop", "cart-1")), request(csr, 0, ""))
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestConnectionOutlivesCertificate: a connection stays, but proves nothing after its certificate's end.
func TestConnectionOutlivesCertificate(t *testing.T) {
	offset := time.Duration(0)
	var mu sync.Mutex
	now := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return time.Now().Add(offset)
	}
	p := catest.Start(t, catest.Options{Door: caserver.Options{Now: now}})
	p.Workloads.Set("shop/cart-1", "cart")
	client := dial(t, p, p.Snapshot(t, "shop", "cart", time.Minute).SVID.TLS())
	_, csr := catest.NewCSR(t)
	if _, err := client.CreateCertificate(t.Context(), request(csr, 0, "shop/cart-1")); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	offset = 2 * time.Minute
	mu.Unlock()
	if _, err := client.CreateCertificate(t.Context(), request(csr, 0, "")); status.Code(err) != codes.Unauthenticated {
		t.Fatalf("got %v", err)
	}
}

// TestTokenRaceThroughTheDoor redeems one token with many keys at once: one gets certificates.
func TestTokenRaceThroughTheDoor(t *testing.T) {
	p := catest.Start(t, catest.Options{})
	p.Workloads.Set("shop/cart-1", "cart")
	token, client := p.Token(t, "shop", "cart-1"), dial(t, p, nil)
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		won int
	)
	for range 12 {
		_, csr := catest.NewCSR(t)
		wg.Go(func() {
			_, err := client.CreateCertificate(bearer(t.Context(), token), request(csr, 0, ""))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if status.Code(err) != codes.Unauthenticated {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Fatalf("%d keys won", won)
	}
}

func TestMetrics(t *testing.T) {
	p := catest.Start(t, catest.Options{})
	p.Workloads.Set("shop/cart-1", "cart")
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(p.Server); err != nil {
		t.Fatal(err)
	}
	client, token := dial(t, p, nil), p.Token(t, "shop", "cart-1")
	_, csr := catest.NewCSR(t)
	for _, in := range []*securityv1.IstioCertificateRequest{request(csr, 0, ""), request(nil, 0, ""), request(csr, 2*ca.MaxTTL, "")} {
		_, _ = client.CreateCertificate(bearer(t.Context(), token), in)
	}
	_, _ = client.CreateCertificate(t.Context(), request(csr, 0, ""))
	got := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "{" + l.GetName() + "=" + l.GetValue() + "}"
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"citadel_server_csr_count":                           4,
		"citadel_server_success_cert_issuance_count":         1,
		"citadel_server_csr_parsing_err_count":               1,
		"citadel_server_authentication_failure_count":        1,
		"citadel_server_csr_sign_err_count{error=TTL_ERROR}": 1,
		"citadel_server_root_cert_expiry_timestamp":          float64(p.Authority.Roots()[0].NotAfter.Unix()),
		"citadel_server_cert_chain_expiry_timestamp":         float64(p.Authority.Chain()[0].NotAfter.Unix()),
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if s := got["citadel_server_root_cert_expiry_seconds"]; s < 9*365*24*3600 {
		t.Errorf("root ends in %v s", s)
	}
}

// TestGarbage: what is not TLS, or not gRPC, is cut off, and the door stands.
func TestGarbage(t *testing.T) {
	p := catest.Start(t, catest.Options{})
	p.Workloads.Set("shop/cart-1", "cart")
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff\xff garbage", strings.Repeat("\x00", 1<<12)} {
		conn, err := net.Dial("tcp", p.Addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = conn.Write([]byte(garbage))
		if tc, ok := conn.(*net.TCPConn); ok {
			_ = tc.CloseWrite()
		}
		buf := make([]byte, 4096)
		for {
			if _, err = conn.Read(buf); err != nil {
				break
			}
		}
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("%.10q hangs", garbage)
		}
		_ = conn.Close()
	}
	_, csr := catest.NewCSR(t)
	if _, err := dial(t, p, nil).CreateCertificate(bearer(t.Context(), p.Token(t, "shop", "cart-1")), request(csr, 0, "")); err != nil {
		t.Fatal(err)
	}
}
