package adsclient_test

import (
	"context"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsclient"
	"github.com/signet-mesh/signet/mesh/adsserver"
)

const trustDomain = "cluster.local"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is a configuration that a test replaces.
type store struct {
	mu      sync.Mutex
	views   adsserver.Views
	changed chan struct{}
}

func (s *store) Watch() (adsserver.Views, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.views, s.changed
}

func (s *store) set(v adsserver.Views) {
	s.Watch()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.views = v
	close(s.changed)
	s.changed = make(chan struct{})
}

// plane is a control plane on loopback: real gRPC over real TLS.
type plane struct {
	t      testing.TB
	ca     *certtest.CA
	id     identity.ID
	store  store
	text   string
	addr   string
	ads    *adsserver.Server
	halt   func()
	change func(*adsserver.Config)
}

func newPlane(t testing.TB, change ...func(*adsserver.Config)) *plane {
	t.Helper()
	raw, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.ControlPlane(trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{t: t, ca: certtest.NewCA(t, trustDomain), id: id, text: string(raw), addr: "127.0.0.1:0"}
	p.change = func(cfg *adsserver.Config) {
		for _, c := range change {
			c(cfg)
		}
	}
	p.store.set(build(t, p.text))
	p.start()
	t.Cleanup(func() { p.halt() })
	return p
}

func build(t testing.TB, text string) *mesh.Snapshot {
	t.Helper()
	objects, problems := mesh.Parse("shop.yaml", []byte(text), mesh.ParseOptions{TrustDomain: trustDomain, Now: time.Unix(1_700_000_000, 0)})
	s, more := mesh.Build(objects, mesh.BuildOptions{TrustDomain: trustDomain})
	for _, p := range append(problems, more...) {
		if p.Severity == mesh.Refused {
			t.Fatalf("%v", &p)
		}
	}
	return s
}

// edit replaces text in the configuration.
func (p *plane) edit(old, new string) {
	p.t.Helper()
	text := strings.ReplaceAll(p.text, old, new)
	if text == p.text {
		p.t.Fatalf("%q does not occur", old)
	}
	p.text = text
	p.store.set(build(p.t, text))
}

// remove takes the document with a first line that says this out of the configuration.
func (p *plane) remove(kind, name string) {
	p.t.Helper()
	var kept []string
	docs := strings.Split(p.text, "\n---\n")
	for _, d := range docs {
		if !strings.Contains(d, "kind: "+kind+"\n") || !strings.Contains(d, "\n  name: "+name+"\n") {
			kept = append(kept, d)
		}
	}
	if len(kept) == len(docs) {
		p.t.Fatalf("no %s %s", kind, name)
	}
	p.text = strings.Join(kept, "\n---\n")
	p.store.set(build(p.t, p.text))
}

// start listens, on the address it had before if it had one.
func (p *plane) start() {
	p.t.Helper()
	cfg := adsserver.Config{Source: &p.store, Log: discard()}
	p.change(&cfg)
	ads, err := adsserver.New(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	own := certtest.NewSource(p.ca.SVID(p.t, p.id.String()), p.ca.Bundle())
	creds := credentials.NewTLS(certs.ServerTLS(own, certs.ServerOptions{ALPN: []string{"h2"}, Accept: certs.SameTrustDomain(own)}))
	g := grpc.NewServer(append(adsserver.ServerOptions(), grpc.Creds(creds))...)
	ads.Register(g)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = ads.Run(ctx) })
	wg.Go(func() { _ = g.Serve(l) })
	p.addr, p.ads = l.Addr().String(), ads
	p.halt = sync.OnceFunc(func() {
		cancel()
		g.GracefulStop()
		wg.Wait()
	})
}

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// proxy is one sidecar's client with what it was given.
type proxy struct {
	t      testing.TB
	client *adsclient.Client
	source *certtest.Source
	views  chan *mesh.View
	halt   func()

	mu     sync.Mutex
	refuse error
	roots  []*x509.Certificate
}

// proxy starts the client of a node, with the certificate of that service account.
func (p *plane) proxy(node, serviceAccount string, opts ...certtest.Option) *proxy {
	p.t.Helper()
	ns, name, _ := strings.Cut(node, "/")
	svid := p.ca.SVID(p.t, "spiffe://"+trustDomain+"/ns/"+ns+"/sa/"+serviceAccount, opts...)
	x := &proxy{t: p.t, source: certtest.NewSource(svid, p.ca.Bundle()), views: make(chan *mesh.View, 100)}
	var err error
	x.client, err = adsclient.New(adsclient.Config{
		Addr: p.addr, Source: x.source, Server: p.id, Namespace: ns, Workload: name, Log: discard(), Apply: x.apply, Trust: x.trust,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	x.run()
	p.t.Cleanup(func() { x.halt() })
	return x
}

func (x *proxy) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = x.client.Run(ctx)
	}()
	x.halt = func() {
		cancel()
		<-done
	}
}

func (x *proxy) apply(v *mesh.View) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.refuse == nil {
		x.views <- v
	}
	return x.refuse
}

func (x *proxy) trust(roots []*x509.Certificate) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.roots = roots
	return nil
}

// trusts says whether these are the roots that it was told of.
func (x *proxy) trusts(roots ...*x509.Certificate) func() bool {
	return func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return slices.EqualFunc(x.roots, roots, (*x509.Certificate).Equal)
	}
}

func (x *proxy) refuseWith(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.refuse = err
}

const patience = 20 * time.Second

// next is the next view that was applied.
func (x *proxy) next() *mesh.View {
	x.t.Helper()
	select {
	case v := <-x.views:
		return v
	case <-time.After(patience):
		x.t.Fatalf("no view came; the client is %+v", x.client.Status())
		return nil
	}
}

// quiet checks that nothing was received since the status was taken.
func (x *proxy) quiet(before adsclient.Status) {
	x.t.Helper()
	time.Sleep(100 * time.Millisecond)
	if now := x.client.Status(); now.Resources != before.Resources || now.Generations != before.Generations {
		x.t.Errorf("received %d resources, %d generations", now.Resources-before.Resources, now.Generations-before.Generations)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (p *plane) inSync(node string) func() bool {
	return func() bool {
		s, ok := p.ads.Proxy(node)
		return ok && s.InSync()
	}
}
