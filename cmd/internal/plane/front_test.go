package plane

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/ca/caserver"
	"github.com/signet-mesh/signet/ca/catest"
	"github.com/signet-mesh/signet/mesh/adswire"
)

const (
	attacker = "127.0.0.2"
	honest   = "127.0.0.1"
)

const shop = `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart, namespace: shop}
spec: {address: 127.1.0.1, labels: {app: cart}, serviceAccount: cart}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: pay, namespace: shop}
spec: {address: 127.1.0.2, labels: {app: pay}, serviceAccount: pay}
`

// port is a control port as NewFront assembles it, before a real CA.
type port struct {
	*catest.Plane
	t    *testing.T
	addr string
}

func newPort(t *testing.T) *port {
	t.Helper()
	p := &port{Plane: catest.Start(t, catest.Options{TrustDomain: "cluster.local"}), t: t}
	p.Workloads.Set("shop/cart", "cart")
	p.Workloads.Set("shop/pay", "pay")
	attestor, err := attest.New(p.TrustDomain, attest.NewTokens(p.Dir), p.Workloads)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p.addr = l.Addr().String()
	state := NewState()
	state.Set(build(t, shop))
	front, err := NewFront(FrontConfig{TrustDomain: p.TrustDomain, State: state, CA: p.CA, Attestor: attestor, Own: p.Source,
		Roots: p.Authority.Roots, Listener: l, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- front.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tls is what a client from there speaks: with the certificate of a service account, "" for none.
func (p *port) tls(serviceAccount string) *tls.Config {
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13}
	if serviceAccount != "" {
		cfg.Certificates = []tls.Certificate{*p.Snapshot(p.t, "shop", serviceAccount, time.Hour).SVID.TLS()}
	}
	return cfg
}

func dialer(from string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
}

// client is one connection by gRPC.
func (p *port) client(from, serviceAccount string) *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(credentials.NewTLS(p.tls(serviceAccount))),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20), grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer(from).DialContext(ctx, "tcp", addr)
		}))
	must(p.t, err)
	p.t.Cleanup(func() { conn.Close() })
	return conn
}

func (p *port) ask(ctx context.Context, conn *grpc.ClientConn, in *securityv1.IstioCertificateRequest) error {
	out, err := securityv1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, in)
	if err == nil && len(out.GetCertChain()) < 2 {
		return fmt.Errorf("an answer of %d certificates", len(out.GetCertChain()))
	}
	return err
}

// served checks that an honest workload gets a certificate for its token.
func (p *port) served() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	_, csr := catest.NewCSR(p.t)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+p.Token(p.t, "shop", "cart"))
	if err := p.ask(ctx, p.client(honest, ""), &securityv1.IstioCertificateRequest{Csr: string(csr)}); err != nil {
		p.t.Errorf("an honest workload: %v", err)
	}
}

// withheld are calls whose messages don't end.
type withheld struct {
	p         *port
	transport *http.Transport
}

func (p *port) withhold(from, serviceAccount string) *withheld {
	w := &withheld{p, &http.Transport{TLSClientConfig: p.tls(serviceAccount), DialContext: dialer(from).DialContext, ForceAttemptHTTP2: true}}
	p.t.Cleanup(w.transport.CloseIdleConnections)
	return w
}

// call begins a call whose message shall have size bytes, sends some, and returns the gRPC status that it ends with.
func (w *withheld) call(size, sent int, header ...string) (codes.Code, error) {
	ctx, cancel := context.WithTimeout(w.p.t.Context(), 20*time.Second)
	defer cancel()
	out, in := io.Pipe()
	defer in.Close()
	go func() {
		prefix := binary.BigEndian.AppendUint32([]byte{0}, uint32(size))
		_, _ = in.Write(append(prefix, bytes.Repeat([]byte{0}, sent)...))
	}()
	r, err := http.NewRequestWithContext(ctx, "POST", "https://"+w.p.addr+"/istio.v1.auth.IstioCertificateService/CreateCertificate", out)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("TE", "trailers")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := w.transport.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	text := resp.Trailer.Get("Grpc-Status")
	if text == "" {
		text = resp.Header.Get("Grpc-Status")
	}
	var code codes.Code
	_, err = fmt.Sscan(text, &code)
	return code, err
}

// Whoever has no certificate may call the CA, and nothing else; whoever has one calls both.
func TestControlPortServesBoth(t *testing.T) {
	p := newPort(t)
	p.served()
	_, csr := catest.NewCSR(t)
	proven := p.client(honest, "cart")
	renewal := &securityv1.IstioCertificateRequest{Csr: string(csr), Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
		caserver.MetadataWorkload: structpb.NewStringValue("shop/cart")}}}
	if err := p.ask(t.Context(), proven, renewal); err != nil {
		t.Errorf("a renewal: %v", err)
	}
	if err := discover(t, proven, "shop/cart", nil); err != nil {
		t.Errorf("discovery: %v", err)
	}
	if err := discover(t, p.client(honest, ""), "shop/cart", nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("discovery without a certificate: %v", err)
	}
	if err := p.ask(t.Context(), p.client(honest, ""), renewal); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a renewal without a certificate: %v", err)
	}
}

// discover opens a stream as a node that holds so many resources of each type, and waits until it is admitted and was sent something.
func discover(t *testing.T, conn *grpc.ClientConn, node string, holds map[string]map[string]string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	g, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	ns, name, _ := strings.Cut(node, "/")
	for _, typ := range append(adswire.Types(), adswire.GenerationType) {
		r := &discovery.DeltaDiscoveryRequest{Node: adswire.Node(ns, name), TypeUrl: typ, InitialResourceVersions: holds[typ]}
		if err := g.Send(r); err != nil {
			break // Recv says why
		}
	}
	_, err = g.Recv()
	return err
}

// A certificate request is small, on either server, before and after it is decoded.
func TestControlPortBoundsCertificateRequests(t *testing.T) {
	p := newPort(t)
	list := &structpb.ListValue{}
	for range 500_000 {
		list.Values = append(list.Values, &structpb.Value{})
	}
	large := &securityv1.IstioCertificateRequest{Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"x": structpb.NewListValue(list)}}}
	if err := p.ask(t.Context(), p.client(attacker, ""), large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("without a certificate: %v", err)
	}
	if err := p.ask(t.Context(), p.client(attacker, "cart"), large); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "at most 65536") {
		t.Errorf("with a certificate: %v", err)
	}
	for _, account := range []string{"", "cart"} {
		if code, err := p.withhold(attacker, account).call(100, 10, "X-Large", strings.Repeat("x", 40<<10)); err == nil {
			t.Errorf("headers of 40 KiB (certificate %q): %v", account, code)
		}
		if n := p.maxStreams(account); n != 256 {
			t.Errorf("%d streams a connection (certificate %q)", n, account)
		}
	}
}

// maxStreams is SETTINGS_MAX_CONCURRENT_STREAMS of the server's first frame.
func (p *port) maxStreams(serviceAccount string) uint32 {
	p.t.Helper()
	conn, err := tls.Dial("tcp", p.addr, p.tls(serviceAccount))
	must(p.t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	must(p.t, err)
	head := make([]byte, 9)
	_, err = io.ReadFull(conn, head)
	must(p.t, err)
	settings := make([]byte, int(head[1])<<8|int(head[2]))
	_, err = io.ReadFull(conn, settings)
	must(p.t, err)
	for ; len(settings) >= 6; settings = settings[6:] {
		if binary.BigEndian.Uint16(settings) == 3 {
			return binary.BigEndian.Uint32(settings[2:])
		}
	}
	return 1<<32 - 1
}

// Calls that withhold their message end by themselves, and keep nobody else from the CA meanwhile.
func TestControlPortEndsWithheldCalls(t *testing.T) {
	p := newPort(t)
	const calls = 100
	for _, account := range []string{"", "cart"} {
		ended := make(chan codes.Code, calls)
		w := p.withhold(attacker, account)
		for range calls {
			go func() {
				code, err := w.call(60<<10, 50<<10)
				if err != nil {
					t.Errorf("certificate %q: %v", account, err)
				}
				ended <- code
			}()
		}
		count := map[codes.Code]int{}
		for i := range calls {
			count[<-ended]++
			if i == 0 { // others are held
				p.served()
			}
		}
		if count[codes.DeadlineExceeded] != calls {
			t.Errorf("certificate %q: %v", account, count)
		}
	}
}

// The pods of a node whose address they share are served when all of them start at once.
func TestControlPortServesAStorm(t *testing.T) {
	p := newPort(t)
	var all sync.WaitGroup
	for range 600 {
		conn := p.client(honest, "")
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+p.Token(t, "shop", "cart"))
		all.Go(func() {
			_, csr := catest.NewCSR(t)
			if err := p.ask(ctx, conn, &securityv1.IstioCertificateRequest{Csr: string(csr)}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// Connections of one address that prove nothing keep nobody else out.
func TestControlPortBoundsSilentConnections(t *testing.T) {
	p := newPort(t)
	for range maxAnonymousPerSource + 50 {
		conn, err := dialer(attacker).Dial("tcp", p.addr)
		must(t, err)
		defer conn.Close()
	}
	refused, err := dialer(attacker).Dial("tcp", p.addr)
	must(t, err)
	defer refused.Close()
	_ = refused.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := refused.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("one connection more: %v, want it closed", err)
	}
	p.served()
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// Streams of one identity that don't say which node they are keep no other identity out.
func TestControlPortBoundsSilentStreams(t *testing.T) {
	p := newPort(t)
	conn := p.client(attacker, "pay")
	refused := make(chan error, 100)
	for range cap(refused) {
		g, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
		must(t, err)
		go func() {
			_, err := g.Recv()
			refused <- err
		}()
	}
	for range cap(refused) - 64 {
		if err := <-refused; status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "have not named their node") {
			t.Fatal(err)
		}
	}
	if err := discover(t, p.client(honest, "cart"), "shop/cart", nil); err != nil {
		t.Errorf("another identity: %v", err)
	}
}

// What a sidecar with full discovery of 10,000 services holds can be said; more, in one message or in several, can't.
func TestControlPortTakesWhatASidecarHolds(t *testing.T) {
	p := newPort(t)
	holds := func(services int) map[string]map[string]string {
		version := strings.Repeat("0", 32)
		out := map[string]map[string]string{"core/v1/Service": {}, adswire.EndpointType: {}}
		for i := range services {
			host := fmt.Sprintf("orders-%05d.department-%02d.svc.cluster.local", i, i%100)
			out["core/v1/Service"][fmt.Sprintf("department-%02d/orders-%05d", i%100, i)] = version
			for _, number := range []uint32{8080, 9090} {
				out[adswire.EndpointType][adswire.ClusterName(number, host)] = version
			}
		}
		return out
	}
	have := holds(10_000)
	t.Logf("the endpoints of 10,000 services are said in %d bytes", proto.Size(&discovery.DeltaDiscoveryRequest{InitialResourceVersions: have[adswire.EndpointType]}))
	if err := discover(t, p.client(honest, "cart"), "shop/cart", have); err != nil {
		t.Errorf("10,000 services: %v", err)
	}
	if err := discover(t, p.client(attacker, "cart"), "shop/cart", holds(16_000)); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "initial_resource_versions") {
		t.Errorf("16,000 services: %v", err)
	}
	if err := discover(t, p.client(attacker, "cart"), "shop/cart", holds(60_000)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("60,000 services: %v", err)
	}
	conn := p.client(attacker, "cart")
	g, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	must(t, err)
	must(t, g.Send(&discovery.DeltaDiscoveryRequest{Node: adswire.Node("shop", "cart"), ResourceLocatorsSubscribe: make([]*discovery.ResourceLocator, 1_000_000)}))
	if _, err := g.Recv(); err == nil || !strings.Contains(err.Error(), "beside initial_resource_versions") {
		t.Errorf("a million empty messages: %v", err)
	}
}
