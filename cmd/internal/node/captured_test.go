package node

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/certs/rotate"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsclient"
	"github.com/signet-mesh/signet/proxy/capture"
	"github.com/signet-mesh/signet/proxy/telemetry"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// signer issues certificates of one identity.
type signer struct {
	t  *testing.T
	ca *certtest.CA
	id string
}

// Issue implements rotate.Issuer.
func (s signer) Issue(_ context.Context, csr []byte, _ time.Duration, _ *certs.Snapshot) (*certs.Issued, error) {
	block, _ := pem.Decode(csr)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return &certs.Issued{Chain: s.ca.ChainFor(s.t, req.PublicKey, s.id), Roots: []*x509.Certificate{s.ca.Cert}}, nil
}

// testPod is the sidecar of a pod whose captured connections are said to be made to where the test says.
type testPod struct {
	*Node
	t       *testing.T
	self    *mesh.Workload
	in, out atomic.Pointer[netip.AddrPort] // where connections to each listener were made to
	end     func()
}

const appPort = 8080

func startPod(t *testing.T, ca *certtest.CA, name, account, address string) *testPod {
	t.Helper()
	id, err := identity.New("cluster.local", "shop", account)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr(address)
	log := slog.New(slog.DiscardHandler)
	n := &Node{cfg: Config{Log: log, Pod: &Pod{Namespace: "shop", Name: name, Addresses: []netip.Addr{addr}, ClusterDomain: "cluster.local"}},
		namespace: "shop", workload: name}
	p := &testPod{Node: n, t: t, self: &mesh.Workload{Namespace: "shop", Name: name, ServiceAccount: account, ID: id, Address: addr, TLSMode: "istio", Pod: true}}
	if n.rotator, err = rotate.New(rotate.Config{Issuer: signer{t, ca, id.String()}, Log: log}); err != nil {
		t.Fatal(err)
	}
	n.upstreams = upstream.NewSet(n.rotator, upstream.Options{Log: log})
	n.recorder = telemetry.New(telemetry.Config{Log: log})
	n.parts = newParts(log, "shop/"+name, "")
	n.corridors = newCorridors(n)
	in := netip.AddrPortFrom(addr, appPort)
	p.in.Store(&in)
	n.corridors.captor = captor{inbound: free(t), outbound: free(t), own: newAddresses(n.cfg.Pod.Addresses).own, original: func(c *net.TCPConn) (netip.AddrPort, error) {
		if c.LocalAddr().(*net.TCPAddr).Port == int(n.corridors.captor.inbound) {
			return *p.in.Load(), nil
		}
		return *p.out.Load(), nil
	}}
	life, cancel := context.WithCancel(context.Background())
	n.life, n.parts.life = life, life
	var runs sync.WaitGroup
	for _, run := range []func(context.Context) error{n.rotator.Run, n.upstreams.Run, n.recorder.Run} {
		runs.Go(func() { _ = run(life) })
	}
	waitSVID(life, n.rotator)
	p.end = sync.OnceFunc(func() { n.corridors.stop(); n.parts.stop(); cancel(); runs.Wait() })
	t.Cleanup(p.end)
	return p
}

// free is a port that nobody has on any address.
func free(t *testing.T) uint16 {
	ln, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

func (p *testPod) endpoint() mesh.Endpoint {
	return mesh.Endpoint{Address: netip.AddrPortFrom(p.self.Address, p.corridors.captor.inbound).String(), Identity: p.self.ID, TLSMode: "istio", Workload: "shop/" + p.self.Name}
}

// view is what a pod is given: the Service cart at its VIP with these endpoints.
func (p *testPod) view(pods ...*testPod) *mesh.View {
	cart := &mesh.Service{Namespace: "shop", Name: "cart", Host: "cart.shop.svc.cluster.local", Kubernetes: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.96.0.2/32")}, Ports: []mesh.ServicePort{{Number: 80, Target: appPort, Protocol: mesh.Detect}}, Endpoints: [][]mesh.Endpoint{nil}}
	v := &mesh.View{TrustDomain: "cluster.local", Self: p.self, Peers: []*mesh.Workload{p.self}, Asked: map[string]mesh.Answer{},
		Mesh: mesh.Settings{RootNamespace: "istio-system", ConnectTimeout: 2 * time.Second, AllowAny: true, ProtocolDetectionTimeout: time.Second}}
	for _, q := range pods {
		cart.Endpoints[0] = append(cart.Endpoints[0], q.endpoint())
		v.Peers = append(v.Peers, q.self)
	}
	if len(pods) > 0 {
		v.Services = []*mesh.Service{cart}
	}
	return v
}

func (p *testPod) apply(v *mesh.View) {
	p.t.Helper()
	if err := p.corridors.apply(v); err != nil {
		p.t.Fatal(err)
	}
}

// call is where a program calls to.
func (p *testPod) call(to string) *testPod {
	a := netip.MustParseAddrPort(to)
	p.out.Store(&a)
	return p
}

func (p *testPod) outbound() string {
	return netip.AddrPortFrom(p.self.Address, p.corridors.captor.outbound).String()
}

// serve runs the pod's program.
func (p *testPod) serve() *http.Server {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(p.self.Address, appPort).String())
	if err != nil {
		p.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s %s from %s by %s", p.self.Name, b, from, r.Header.Get("X-Forwarded-Client-Cert"))
	})}
	done := make(chan struct{})
	go func() { _ = srv.Serve(ln); close(done) }()
	p.t.Cleanup(func() { srv.Close(); <-done })
	return srv
}

func TestCapturedPods(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local")
	web, cart := startPod(t, ca, "web-1", "web", "127.0.41.1"), startPod(t, ca, "cart-1", "cart", "127.0.41.2")
	cart.serve()
	cart.apply(cart.view())
	web.apply(web.view(cart))
	conn, err := net.Dial("tcp", web.call("10.96.0.2:80").outbound())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: whatever\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	if got := string(b); !strings.HasPrefix(got, "cart-1  from 127.0.0.6 by By=") || !strings.HasSuffix(got, "URI=spiffe://cluster.local/ns/shop/sa/web") {
		t.Errorf("%s", got)
	}
	if _, ready := web.Status(); !ready || web.corridors.current() == nil {
		t.Error("not ready")
	}
	if err := web.corridors.apply(&mesh.View{Self: &mesh.Workload{Namespace: "shop", Name: "web-1", ID: web.self.ID, Address: web.self.Address}}); err == nil || !strings.Contains(err.Error(), "takes it for a pod: false") {
		t.Errorf("a view of no pod: %v", err)
	}
}

// plane answers as a control plane does, by a new configuration.
type plane struct {
	p     *testPod
	away  bool
	mute  bool
	asked []string
	wg    sync.WaitGroup
}

func (a *plane) Connected() bool { return !a.away }

func (a *plane) Ask(names ...string) {
	a.asked = append(a.asked, names...)
	if a.mute {
		return
	}
	a.wg.Go(func() {
		v := a.p.view()
		v.Asked[names[0]] = mesh.Answer{}
		_ = a.p.corridors.apply(v)
	})
}

func TestDemand(t *testing.T) {
	p := startPod(t, certtest.NewCA(t, "cluster.local"), "web-1", "web", "127.0.41.3")
	p.apply(p.view())
	a := &plane{p: p}
	if err := p.corridors.demand(t.Context(), a, "x.example.com"); err != nil {
		t.Error(err)
	}
	a.wg.Wait()
	a.away = true
	if err := p.corridors.demand(t.Context(), a, "x.example.com"); err != nil { // what was answered goes on
		t.Error(err)
	}
	if err := p.corridors.demand(t.Context(), a, "y.example.com"); !errors.Is(err, errAway) {
		t.Error(err)
	}
	if err := p.demand(t.Context(), "y.example.com"); !errors.Is(err, errAway) {
		t.Errorf("before there is a client: %v", err)
	}
	a.away, a.mute = false, true
	start := time.Now()
	if err := p.corridors.demand(t.Context(), a, "y.example.com"); !errors.Is(err, errLate) || time.Since(start) > 2*demandTime {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	p.corridors.waiting.Store(maxDemands)
	if err := p.corridors.demand(t.Context(), a, "z.example.com"); !errors.Is(err, errBusy) {
		t.Error(err)
	}
	p.corridors.waiting.Store(0)
	if !slices.Equal(a.asked, []string{"x.example.com", "y.example.com"}) {
		t.Errorf("asked %v", a.asked)
	}
}

// What programs call, resolve or ask for again is known as used by whoever decides which names are forgotten.
func TestUseIsNoted(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local")
	web, cart := startPod(t, ca, "web-1", "web", "127.0.41.8"), startPod(t, ca, "cart-1", "cart", "127.0.41.9")
	cart.serve()
	cart.apply(cart.view())
	server, err := identity.ControlPlane("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	client, err := adsclient.New(adsclient.Config{Addr: "127.0.0.1:1", Source: web.rotator, Server: server, Namespace: "shop", Workload: "web-1",
		Log: slog.New(slog.DiscardHandler), Apply: web.corridors.apply, OnDemand: true})
	if err != nil {
		t.Fatal(err)
	}
	web.ads = client
	v := web.view(cart)
	host := v.Services[0].Host
	v.Asked = map[string]mesh.Answer{host: {Host: host}, "10.96.0.2": {Host: host}, "www.example.com": {}, "10.99.0.1": {}}
	web.apply(v)
	client.Ask("a.example.com") // the clock goes on
	used := func(name string) bool { return client.Uses(v.Asked)[name].Last() > 0 }
	if used(host) || used("www.example.com") || used("10.99.0.1") {
		t.Fatal("used before anybody used it")
	}
	resp, err := http.Get("http://" + web.call("10.96.0.2:80").outbound())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := web.demand(t.Context(), "www.example.com"); err != nil {
		t.Error(err)
	}
	if !used(host) || !used("www.example.com") || used("10.99.0.1") {
		t.Errorf("used: %v, %v, and what nobody called %v", used(host), used("www.example.com"), used("10.99.0.1"))
	}
	client.Ask("b.example.com")
	newPodlife(web.Node).use(host) // as the DNS server says
	if got := client.Uses(v.Asked)[host].Last(); got != 2 {
		t.Errorf("resolving was used at %d", got)
	}
}

// load sends requests at a fixed rate until stopped, each on one of a few connections that are kept, and counts those without 200.
type load struct {
	sent, failed, unknown atomic.Int64
	first                 atomic.Pointer[string]
}

func (l *load) run(ctx context.Context, to string) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	var calls sync.WaitGroup
	defer calls.Wait()
	tick := time.NewTicker(4 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		method, body := "GET", ""
		if n%2 == 0 {
			method, body = "POST", "order"
		}
		calls.Go(func() { l.one(client, method, to, body) })
	}
}

func (l *load) one(client *http.Client, method, to, body string) {
	l.sent.Add(1)
	fail := func(s string) {
		l.failed.Add(1)
		l.first.CompareAndSwap(nil, &s)
	}
	req, err := http.NewRequest(method, "http://"+to+"/", strings.NewReader(body))
	if err != nil {
		fail(err.Error())
		return
	}
	req.GetBody = nil // nobody but the sidecars tries again
	resp, err := client.Do(req)
	if err != nil {
		fail(method + ": " + err.Error())
		return
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if method == "POST" && strings.Contains(string(b), "connection termination") {
		l.unknown.Add(1) // a program that closes a connection may have done what it was asked: nobody may ask twice
		return
	}
	if err != nil || resp.StatusCode != 200 {
		fail(fmt.Sprintf("%s: %d %s %v", method, resp.StatusCode, b, err))
	}
}

// Pods come and go as in a rolling restart: told to end at the moment when their program ends, known to callers only a while
// later. No request fails.
func TestRollingRestart(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local")
	web := startPod(t, ca, "web-1", "web", "127.0.42.1")
	type replica struct {
		*testPod
		program *http.Server
	}
	start := func(i int) replica {
		p := startPod(t, ca, fmt.Sprintf("cart-%d", i), "cart", fmt.Sprintf("127.0.42.%d", i+10))
		p.apply(p.view())
		return replica{p, p.serve()}
	}
	pods := []replica{start(0), start(1)}
	show := func() {
		var all []*testPod
		for _, r := range pods {
			all = append(all, r.testPod)
		}
		web.apply(web.view(all...))
	}
	show()
	web.call("10.96.0.2:80")
	var l load
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { l.run(ctx, web.outbound()); close(done) }()
	for i := range 6 {
		time.Sleep(150 * time.Millisecond)
		pods = append(pods, start(i+2))
		show()
		time.Sleep(150 * time.Millisecond)
		old := pods[0]
		old.corridors.leave()
		if err := old.program.Shutdown(context.Background()); err != nil { // it ends at once, while callers still come
			t.Error(err)
		}
		time.Sleep(100 * time.Millisecond)
		pods = pods[1:]
		show()
		if i%2 == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		old.end()
	}
	stop()
	<-done
	if l.failed.Load() > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", l.failed.Load(), l.sent.Load(), *l.first.Load())
	}
	if l.unknown.Load() > l.sent.Load()/50 {
		t.Errorf("%d requests ended with their connection", l.unknown.Load())
	}
	if l.sent.Load() < 300 {
		t.Errorf("%d requests were sent", l.sent.Load())
	}
}

// compile has these numbers for itself.
func TestPassthroughAddresses(t *testing.T) {
	p := startPod(t, certtest.NewCA(t, "cluster.local"), "web-1", "web", "127.0.41.4")
	w, err := compile.Compile(p.view(), compile.NewOffline())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range w.Clusters {
		if c.Name == compile.InboundPassthrough && (c.Local != capture.Passthrough4 || c.Local6 != capture.Passthrough6) {
			t.Errorf("%v %v", c.Local, c.Local6)
		}
	}
	if compile.InboundPort != capture.InboundPort || compile.OutboundPort != capture.OutboundPort {
		t.Error("ports differ")
	}
}
