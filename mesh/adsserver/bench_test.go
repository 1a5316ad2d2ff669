package adsserver_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsserver"
	"github.com/signet-mesh/signet/mesh/adswire"
)

const (
	streams = 500
	// serviceAccount is shared by all workloads, so that one certificate does for all streams.
	serviceAccount = "spiffe://cluster.local/ns/fleet/sa/fleet"
)

// fleet is a mesh of 500 workloads of one service that all see another one, whose endpoint is at address.
func fleet(b *testing.B, address string) *mesh.Snapshot {
	var y strings.Builder
	for i := range streams {
		fmt.Fprintf(&y, "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w%d, namespace: fleet}\n"+
			"spec: {address: 127.1.%d.%d, labels: {app: fleet}, serviceAccount: fleet}\n---\n", i, i/250, i%250+1)
	}
	fmt.Fprintf(&y, "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s, namespace: fleet}\n"+
		"spec:\n  hosts: [s.example]\n  resolution: STATIC\n  location: MESH_INTERNAL\n"+
		"  ports: [{number: 80, name: http, protocol: HTTP}]\n  endpoints: [{address: %s}]\n", address)
	objects, problems := mesh.Parse("fleet.yaml", []byte(y.String()), mesh.ParseOptions{TrustDomain: "cluster.local", Now: time.Unix(1, 0)})
	s, more := mesh.Build(objects, mesh.BuildOptions{TrustDomain: "cluster.local"})
	for _, p := range append(problems, more...) {
		if p.Severity == mesh.Refused {
			b.Fatal(&p)
		}
	}
	return s
}

type state struct {
	views   adsserver.Views
	changed chan struct{}
}

type source struct{ p atomic.Pointer[state] }

func (s *source) Watch() (adsserver.Views, <-chan struct{}) {
	st := s.p.Load()
	return st.views, st.changed
}

func (s *source) set(v adsserver.Views) {
	if old := s.p.Swap(&state{v, make(chan struct{})}); old != nil {
		close(old.changed)
	}
}

// proxy acknowledges everything unread and counts generations.
func proxy(ctx context.Context, addr string, creds credentials.TransportCredentials, name string, generations chan<- struct{}) error {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer conn.Close()
	g, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	for _, typ := range append(adswire.Types(), adswire.GenerationType) {
		if err := g.Send(&discovery.DeltaDiscoveryRequest{Node: adswire.Node("fleet", name), TypeUrl: typ}); err != nil {
			return err
		}
	}
	for {
		r, err := g.Recv()
		if err != nil {
			return err
		}
		if r.GetTypeUrl() == adswire.GenerationType {
			generations <- struct{}{}
		}
		if err := g.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}); err != nil {
			return err
		}
	}
}

// BenchmarkEndpointChange is the time from a change of one endpoint that 500 proxies see until all of them were sent it,
// over TLS on loopback, the proxies' side of it included.
func BenchmarkEndpointChange(b *testing.B) {
	ca := certtest.NewCA(b, "cluster.local")
	own := certtest.NewSource(ca.SVID(b, "spiffe://cluster.local/ns/signet-system/sa/signetd"), ca.Bundle())
	theirs := certtest.NewSource(ca.SVID(b, serviceAccount), ca.Bundle())
	var src source
	snapshots := []*mesh.Snapshot{fleet(b, "127.0.0.8"), fleet(b, "127.0.0.9")}
	src.set(snapshots[0])
	ads, err := adsserver.New(adsserver.Config{Source: &src, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := grpc.NewServer(append(adsserver.ServerOptions(), grpc.Creds(credentials.NewTLS(
		certs.ServerTLS(own, certs.ServerOptions{ALPN: []string{"h2"}, Accept: certs.SameTrustDomain(own)}))))...)
	ads.Register(g)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(l) })
	defer wg.Wait()
	defer g.Stop()
	defer cancel()
	generations := make(chan struct{}, streams)
	creds := credentials.NewTLS(certs.ClientTLS(theirs, certs.ClientOptions{ALPN: []string{"h2"}, Expect: certs.SameTrustDomain(theirs)}))
	for i := range streams {
		wg.Go(func() {
			if err := proxy(ctx, l.Addr().String(), creds, fmt.Sprintf("w%d", i), generations); ctx.Err() == nil {
				b.Errorf("proxy %d: %v", i, err)
			}
		})
	}
	await := func() {
		for range streams {
			select {
			case <-generations:
			case <-time.After(time.Minute):
				b.Fatal("not all proxies were sent the change")
			}
		}
	}
	await()
	i := 0
	for b.Loop() {
		i++
		src.set(snapshots[i%2])
		await()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/streams, "us/proxy")
}
