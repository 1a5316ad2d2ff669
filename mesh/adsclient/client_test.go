package adsclient_test

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsclient"
	"github.com/signet-mesh/signet/mesh/adsserver"
	"github.com/signet-mesh/signet/mesh/adswire"
)

func service(t *testing.T, v *mesh.View, host string) *mesh.Service {
	t.Helper()
	for _, s := range v.Services {
		if s.Host == host {
			return s
		}
	}
	t.Fatalf("no service %q in the view", host)
	return nil
}

const (
	reviewsHost = "reviews.shop.svc.cluster.local"
	vaultHost   = "vault.bank.svc.cluster.local"
)

func TestFirstPush(t *testing.T) {
	p := newPlane(t)
	x := p.proxy("shop/frontend", "frontend")
	v := x.next()
	if v.TrustDomain != trustDomain || v.Self.Name != "frontend" || v.Self.ID.ServiceAccount() != "frontend" {
		t.Errorf("the view is of %+v in %q", v.Self, v.TrustDomain)
	}
	eps := service(t, v, reviewsHost).Endpoints[0]
	if len(eps) != 1 || eps[0].Address != "127.0.10.2:9080" || eps[0].Identity.ServiceAccount() != "reviews" || eps[0].TLSMode != "istio" {
		t.Errorf("endpoints are %+v", eps)
	}
	if len(v.VirtualServices) != 1 {
		t.Errorf("%d VirtualServices", len(v.VirtualServices))
	}
	eventually(t, "in sync", p.inSync("shop/frontend"))
	s, _ := p.ads.Proxy("shop/frontend")
	if c := x.client.Status(); !c.Connected || c.Generation != s.Acked || s.ID != v.Self.ID || s.Remote == "" {
		t.Errorf("client %+v, server %+v", c, s)
	}
	if all := p.ads.Status(); len(all) != 1 || all[0].Node != "shop/frontend" {
		t.Errorf("status is %+v", all)
	}
}

func TestEndpointChangeReachesWhoSeesIt(t *testing.T) {
	p := newPlane(t)
	frontend, ledger := p.proxy("shop/frontend", "frontend"), p.proxy("bank/ledger", "ledger")
	frontend.next()
	if eps := service(t, ledger.next(), vaultHost).Endpoints[0]; eps[0].Weight != 3 || eps[0].Labels["tier"] != "gold" {
		t.Errorf("endpoints are %+v", eps)
	}
	eventually(t, "in sync", func() bool { return p.inSync("shop/frontend")() && p.inSync("bank/ledger")() })
	before, ledgerBefore := frontend.client.Status(), ledger.client.Status()
	p.edit("127.0.20.9", "127.0.20.10")
	if eps := service(t, ledger.next(), vaultHost).Endpoints[0]; eps[0].Address != "127.0.20.10:7000" {
		t.Errorf("endpoints are %+v", eps)
	}
	// The ServiceEntry, its endpoints and the marker.
	if n := ledger.client.Status().Resources - ledgerBefore.Resources; n != 3 {
		t.Errorf("one changed endpoint came as %d resources", n)
	}
	frontend.quiet(before)
}

func TestNewAndRemovedObjects(t *testing.T) {
	p := newPlane(t)
	x := p.proxy("shop/frontend", "frontend")
	x.next()
	p.remove("VirtualService", "reviews")
	if v := x.next(); len(v.VirtualServices) != 0 || len(v.Services) != 1 {
		t.Errorf("%d VirtualServices, %d services", len(v.VirtualServices), len(v.Services))
	}
	p.remove("ServiceEntry", "reviews")
	if v := x.next(); len(v.Services) != 0 {
		t.Errorf("services are %+v", v.Services)
	}
	p.text += "---\n" + strings.ReplaceAll(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: more, namespace: shop}
spec:
  hosts: [more.example]
  resolution: STATIC
  location: MESH_INTERNAL
  ports: [{number: 81, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.10.7}]
`, "\t", "  ")
	p.store.set(build(t, p.text))
	service(t, x.next(), "more.example")
}

func TestRemovedWorkload(t *testing.T) {
	p := newPlane(t)
	x, other := p.proxy("shop/frontend", "frontend"), p.proxy("bank/ledger", "ledger")
	x.next()
	other.next()
	p.remove("WorkloadEntry", "frontend")
	eventually(t, "the stream ends", func() bool {
		s := x.client.Status()
		return !s.Connected && strings.Contains(s.LastError, "PermissionDenied")
	})
	eventually(t, "the server forgets", func() bool { _, ok := p.ads.Proxy("shop/frontend"); return !ok })
	if s := x.client.Status(); s.Generation == "" {
		t.Error("the last good generation was lost")
	}
	if s := other.client.Status(); !s.Connected {
		t.Errorf("the other proxy is %+v", s)
	}
}

func TestRefusalKeepsTheLastGoodAndRecovers(t *testing.T) {
	p := newPlane(t)
	x := p.proxy("shop/frontend", "frontend")
	x.next()
	eventually(t, "in sync", p.inSync("shop/frontend"))
	good := x.client.Status().Generation
	x.refuseWith(errors.New("no room for this"))
	p.edit("subset: v1", "subset: v2")
	eventually(t, "a NACK", func() bool { return x.client.Status().NACKs == 1 })
	eventually(t, "the server knows", func() bool {
		s, _ := p.ads.Proxy("shop/frontend")
		return s.LastNACK != nil && strings.Contains(s.LastNACK.Detail, "no room for this") && !s.InSync()
	})
	before := x.client.Status()
	if before.Generation != good {
		t.Errorf("generation is %q, not the last good %q", before.Generation, good)
	}
	var refused []string
	objects := build(t, p.text).Objects()
	for i, tally := range p.ads.Programmed(objects...) {
		if tally.Refusal != "" {
			refused = append(refused, objects[i].Key.String()+" "+tally.Refusal)
		}
		if tally.Acked < tally.Wanted != (tally.Refusal != "") {
			t.Errorf("%s: %+v", objects[i].Key, tally)
		}
	}
	if len(refused) != 1 || !strings.HasPrefix(refused[0], "VirtualService shop/reviews shop/frontend: ") || !strings.Contains(refused[0], "no room for this") {
		t.Errorf("refused are %q, want what changed alone", refused)
	}
	x.quiet(before)
	x.refuseWith(nil)
	p.edit("subset: v2", "subset: v1")
	x.next()
	eventually(t, "in sync again", p.inSync("shop/frontend"))
	if s, _ := p.ads.Proxy("shop/frontend"); s.LastNACK != nil || s.Acked != good {
		t.Errorf("server says %+v", s)
	}
}

// TestRootsTravelAhead: a root that is published reaches every proxy at once, that which refuses its configuration too, and brings
// no resource along.
func TestRootsTravelAhead(t *testing.T) {
	first, second := certtest.NewCA(t, trustDomain).Root, certtest.NewCA(t, trustDomain).Root
	var mu sync.Mutex
	roots, changed := []*x509.Certificate{first}, make(chan struct{})
	p := newPlane(t, func(cfg *adsserver.Config) {
		cfg.Roots = func() ([]*x509.Certificate, <-chan struct{}) {
			mu.Lock()
			defer mu.Unlock()
			return roots, changed
		}
	})
	x, y := p.proxy("shop/frontend", "frontend"), p.proxy("shop/reviews-v1", "reviews")
	x.next()
	y.next()
	eventually(t, "told", x.trusts(first))
	eventually(t, "in sync", p.inSync("shop/frontend"))
	before := x.client.Status()
	y.refuseWith(errors.New("no room"))
	p.edit("subset: v1", "subset: v2")
	x.next()
	mu.Lock()
	roots = []*x509.Certificate{first, second}
	close(changed)
	changed = make(chan struct{})
	mu.Unlock()
	eventually(t, "told of the second", x.trusts(first, second))
	eventually(t, "told of the second, too", y.trusts(first, second))
	eventually(t, "in sync", p.inSync("shop/frontend"))
	if n := x.client.Status().Resources - before.Resources; n != 3 { // the VirtualService and two markers
		t.Errorf("%d resources came along", n)
	}
}

// future is a control plane whose policies have a field that the proxy does not know.
type future struct {
	adsserver.Views
	broken bool
}

func (f future) View(namespace, name string) (*mesh.View, bool) {
	v, ok := f.Views.View(namespace, name)
	if !ok || !f.broken {
		return v, ok
	}
	out := *v
	out.Objects = nil
	for _, o := range v.Objects {
		out.Objects = append(out.Objects, newer(o))
	}
	return &out, true
}

func TestUnknownFieldIsRefusedOnce(t *testing.T) {
	p := newPlane(t)
	x := p.proxy("shop/reviews-v1", "reviews")
	x.next()
	eventually(t, "in sync", p.inSync("shop/reviews-v1"))
	good := x.client.Status().Generation
	p.store.set(future{build(t, p.text), true})
	eventually(t, "a NACK", func() bool {
		s, _ := p.ads.Proxy("shop/reviews-v1")
		return s.LastNACK != nil && s.LastNACK.Type == "security.istio.io/v1/AuthorizationPolicy" &&
			strings.Contains(s.LastNACK.Detail, "a field that this version does not know") &&
			strings.Contains(s.LastNACK.Detail, "shop.yaml:")
	})
	eventually(t, "the refused marker, too", func() bool { return x.client.Status().NACKs >= 1 })
	time.Sleep(50 * time.Millisecond)
	before := x.client.Status()
	// Something else changes, but what was refused has not: nothing of it is sent again.
	p.text = strings.ReplaceAll(p.text, "subset: v1", "subset: v7")
	p.store.set(future{build(t, p.text), true})
	x.quiet(before)
	if s := x.client.Status(); s.Generation != good || s.NACKs != before.NACKs {
		t.Errorf("client is %+v", s)
	}
	p.store.set(future{build(t, p.text), false})
	x.next()
	eventually(t, "in sync again", p.inSync("shop/reviews-v1"))
	if got := counter(t, p.ads, "signet_ads_nacks_total"); got != 1 {
		t.Errorf("%v NACKs were counted", got)
	}
}

func TestReconnectSendsOnlyTheDifference(t *testing.T) {
	p := newPlane(t)
	x := p.proxy("shop/frontend", "frontend")
	x.next()
	eventually(t, "in sync", p.inSync("shop/frontend"))
	full := x.client.Status()

	// The server restarts, and nothing changed: not one resource.
	p.halt()
	eventually(t, "disconnected", func() bool { return !x.client.Status().Connected })
	p.start()
	eventually(t, "in sync after the restart", p.inSync("shop/frontend"))
	x.quiet(full)

	// It restarts with a change: that object and the marker.
	p.halt()
	eventually(t, "disconnected", func() bool { return !x.client.Status().Connected })
	p.edit("subset: v1", "subset: v2")
	p.start()
	x.next()
	eventually(t, "in sync after the change", p.inSync("shop/frontend"))
	s := x.client.Status()
	if n := s.Resources - full.Resources; n != 2 {
		t.Errorf("%d resources for one changed object and the marker", n)
	}
	if bytes := s.Bytes - full.Bytes; bytes*2 > full.Bytes {
		t.Errorf("the difference took %d bytes, all took %d", bytes, full.Bytes)
	}
}

func TestWrongIdentityIsRefused(t *testing.T) {
	cases := []struct{ name, node, serviceAccount string }{
		{"another service account", "shop/frontend", "reviews"},
		{"a workload that does not exist", "shop/nobody", "nobody"},
		{"the control plane's own name", "signet-system/frontend", "signetd"},
	}
	p := newPlane(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			x := p.proxy(c.node, c.serviceAccount)
			eventually(t, "refused", func() bool { return strings.Contains(x.client.Status().LastError, "PermissionDenied") })
			if s := x.client.Status(); s.Connected || s.Resources != 0 {
				t.Errorf("client is %+v", s)
			}
			x.halt()
		})
	}
	if n := len(p.ads.Status()); n != 0 {
		t.Errorf("%d proxies are listed", n)
	}
}

func TestServerMustBeTheControlPlane(t *testing.T) {
	p := newPlane(t)
	var err error
	if p.id, err = identity.New(trustDomain, "shop", "impostor"); err != nil {
		t.Fatal(err)
	}
	p.halt()
	p.start()
	x := p.proxy("shop/frontend", "frontend")
	x.next() // it expects the impostor's identity
	x.halt()
	if p.id, err = identity.ControlPlane(trustDomain); err != nil {
		t.Fatal(err)
	}
	y := p.proxy("shop/frontend", "frontend") // it does not
	eventually(t, "refused", func() bool { return strings.Contains(y.client.Status().LastError, "impostor") })
	if s := y.client.Status(); s.Resources != 0 {
		t.Errorf("client is %+v", s)
	}
}

func TestClientWaitsForItsCertificate(t *testing.T) {
	p := newPlane(t)
	x := p.proxy("shop/frontend", "frontend")
	x.next()
	x.halt()
	svid := x.source.Current().SVID
	x.source.Replace(nil, p.ca.Bundle())
	streams := x.client.Status().Streams
	x.run()
	time.Sleep(50 * time.Millisecond)
	if s := x.client.Status(); s.Streams != streams || s.LastError != "" {
		t.Errorf("without a certificate the client is %+v", s)
	}
	x.source.Replace(svid, p.ca.Bundle())
	eventually(t, "connected", func() bool { return x.client.Status().Connected })
	eventually(t, "in sync", p.inSync("shop/frontend"))
}

func TestStreamEndsWithItsCertificate(t *testing.T) {
	p := newPlane(t)
	x := p.proxy("shop/frontend", "frontend", certtest.TTL(5*time.Second))
	x.next()
	before := x.client.Status()
	eventually(t, "the end of the stream", func() bool { return strings.Contains(x.client.Status().LastError, "expired") })
	x.source.Replace(p.ca.SVID(t, "spiffe://cluster.local/ns/shop/sa/frontend"), p.ca.Bundle())
	eventually(t, "a second stream", func() bool { return x.client.Status().Streams == 2 })
	eventually(t, "in sync", p.inSync("shop/frontend"))
	if s := x.client.Status(); s.Resources != before.Resources {
		t.Errorf("client is %+v", s)
	}
}

func TestStreamFollowsRenewals(t *testing.T) {
	p := newPlane(t)
	x := p.proxy("shop/frontend", "frontend")
	x.next()
	eventually(t, "in sync", p.inSync("shop/frontend"))
	before := x.client.Status()
	// New roots alone are no reason for a new stream.
	x.source.Replace(x.source.Current().SVID, p.ca.Bundle(), certtest.NewCA(t, "other.test").Bundle())
	x.quiet(before)
	for n := uint64(2); n < 5; n++ {
		x.source.Replace(p.ca.SVID(t, "spiffe://cluster.local/ns/shop/sa/frontend"), p.ca.Bundle())
		eventually(t, "another stream", func() bool { return x.client.Status().Streams == n })
	}
	eventually(t, "in sync", p.inSync("shop/frontend"))
	if s := x.client.Status(); s.Resources != before.Resources || s.LastError != "" || !s.Connected {
		t.Errorf("client is %+v", s)
	}
	p.edit("subset: v1", "subset: v2")
	x.next()
}

func TestNewestStreamOfANodeWins(t *testing.T) {
	p := newPlane(t)
	first := p.proxy("shop/frontend", "frontend")
	first.next()
	second := p.proxy("shop/frontend", "frontend")
	second.next()
	eventually(t, "the first is ended", func() bool {
		return strings.Contains(first.client.Status().LastError, "a newer stream of shop/frontend replaced this one")
	})
	first.halt()
	second.halt()
}

func TestMaxStreams(t *testing.T) {
	p := newPlane(t, func(c *adsserver.Config) { c.MaxStreams = 1 })
	p.proxy("shop/frontend", "frontend").next()
	x := p.proxy("bank/ledger", "ledger")
	eventually(t, "refused", func() bool { return strings.Contains(x.client.Status().LastError, "ResourceExhausted") })
}

func TestNoConfigurationYet(t *testing.T) {
	p := newPlane(t)
	p.store.set(nil)
	x := p.proxy("shop/frontend", "frontend")
	eventually(t, "refused for now", func() bool { return strings.Contains(x.client.Status().LastError, "no configuration yet") })
	p.store.set(build(t, p.text))
	x.next()
}

// raw is a stream of a client that does what the test says.
func (p *plane) raw(t *testing.T, id string) discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient {
	t.Helper()
	src := certtest.NewSource(p.ca.SVID(t, id), p.ca.Bundle())
	conf := certs.ClientTLS(src, certs.ClientOptions{ALPN: []string{"h2"}, Expect: certs.ExpectIDs(p.id)})
	conn, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(func() { cancel(); conn.Close() })
	g, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestServerRefusesBadRequests(t *testing.T) {
	p := newPlane(t)
	node := adswire.Node("shop", "frontend")
	cases := []struct {
		name string
		req  *discovery.DeltaDiscoveryRequest
		want codes.Code
	}{
		{"no node", &discovery.DeltaDiscoveryRequest{TypeUrl: adswire.EndpointType}, codes.InvalidArgument},
		{"not a node", &discovery.DeltaDiscoveryRequest{Node: adswire.Node("a/b", "c")}, codes.InvalidArgument},
		{"long node", &discovery.DeltaDiscoveryRequest{Node: adswire.Node("a", strings.Repeat("b", 600))}, codes.InvalidArgument},
		{"by name", &discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: adswire.EndpointType, ResourceNamesSubscribe: []string{"x"}}, codes.InvalidArgument},
		{"somebody else", &discovery.DeltaDiscoveryRequest{Node: adswire.Node("bank", "ledger")}, codes.PermissionDenied},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g := p.raw(t, "spiffe://cluster.local/ns/shop/sa/frontend")
			if err := g.Send(c.req); err != nil {
				t.Fatal(err)
			}
			if _, err := g.Recv(); status.Code(err) != c.want {
				t.Errorf("error is %v, not %v", err, c.want)
			}
		})
	}
}

// TestSilentProxyIsCutOff: one that never acknowledges gets one response a type, and is disconnected in the end.
func TestSilentProxyIsCutOff(t *testing.T) {
	p := newPlane(t, func(c *adsserver.Config) { c.AckTimeout = 300 * time.Millisecond })
	g := p.raw(t, "spiffe://cluster.local/ns/shop/sa/frontend")
	for _, typ := range append(adswire.Types(), adswire.GenerationType) {
		if err := g.Send(&discovery.DeltaDiscoveryRequest{Node: adswire.Node("shop", "frontend"), TypeUrl: typ}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]int{}
	for {
		r, err := g.Recv()
		if err != nil {
			if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "did not answer") {
				t.Errorf("error is %v", err)
			}
			break
		}
		if seen[r.GetTypeUrl()]++; seen[r.GetTypeUrl()] == 1 && r.GetTypeUrl() == adswire.EndpointType {
			p.edit("address: 127.0.10.2", "address: 127.0.10.3")
		}
	}
	for typ, n := range seen {
		if n != 1 {
			t.Errorf("%d responses of %s without an answer", n, typ)
		}
	}
	if seen[adswire.GenerationType] != 1 {
		t.Errorf("responses were %v", seen)
	}
}

func counter(t *testing.T, c prometheus.Collector, name string) float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func TestMetrics(t *testing.T) {
	p := newPlane(t)
	x := p.proxy("shop/frontend", "frontend")
	x.next()
	eventually(t, "in sync", p.inSync("shop/frontend"))
	if n := counter(t, p.ads, "signet_ads_connected_proxies"); n != 1 {
		t.Errorf("connected: %v", n)
	}
	if n := counter(t, p.ads, "signet_ads_push_bytes_total"); n < 1000 {
		t.Errorf("bytes: %v", n)
	}
	if n := counter(t, x.client, "signet_ads_generations_total"); n != 1 {
		t.Errorf("generations: %v", n)
	}
	if _, err := adsclient.New(adsclient.Config{}); err == nil {
		t.Error("a client of nothing was made")
	}
}
