package adsserver

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adswire"
)

// world is a mesh of one workload and 2,000 hosts, and counts how often somebody looks at it.
type world struct {
	*mesh.Snapshot
	looks int
	names []string    // of the last look
	empty atomic.Bool // the workload was removed
}

func newWorld(t testing.TB) *world {
	t.Helper()
	text := "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w, namespace: shop}\nspec: {address: 127.1.0.1, serviceAccount: w}\n"
	for i := range 2000 {
		text += fmt.Sprintf("---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s%d, namespace: shop}\n"+
			"spec: {hosts: [h%d.example], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 127.2.%d.%d}]}\n", i, i, i/250, i%250+1)
	}
	objects, problems := mesh.Parse("world.yaml", []byte(text), mesh.ParseOptions{TrustDomain: "td", Now: time.Unix(1, 0)})
	s, more := mesh.Build(objects, mesh.BuildOptions{TrustDomain: "td"})
	for _, p := range append(problems, more...) {
		if p.Severity == mesh.Refused {
			t.Fatal(&p)
		}
	}
	return &world{Snapshot: s}
}

// Demand implements Views.
func (w *world) Demand(namespace, name string, asked []string) (*mesh.View, bool) {
	if w.empty.Load() {
		return nil, false
	}
	w.looks, w.names = w.looks+1, slices.Sorted(slices.Values(asked))
	return w.Snapshot.Demand(namespace, name, asked)
}

func (w *world) Watch() (Views, <-chan struct{}) { return w, nil }

func newTestServer(t testing.TB, w *world) *Server {
	t.Helper()
	s, err := New(Config{Source: w, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asker is the stream of a proxy on demand that has subscribed to everything, driven by hand in place of serve.
type asker struct {
	*stream
	t testing.TB
	w *world
}

func newAsker(t testing.TB, w *world) *asker {
	t.Helper()
	id, err := identity.New("td", "shop", "w")
	if err != nil {
		t.Fatal(err)
	}
	a := &asker{newStream(newTestServer(t, w), nil, id, time.Time{}), t, w}
	a.node, a.namespace, a.name, a.views = "shop/w", "shop", "w", w
	a.do(&discovery.DeltaDiscoveryRequest{TypeUrl: adswire.HostType})
	for _, typ := range append(adswire.Types(), adswire.GenerationType) {
		a.do(&discovery.DeltaDiscoveryRequest{TypeUrl: typ})
	}
	a.acknowledge()
	return a
}

func (a *asker) do(r *discovery.DeltaDiscoveryRequest) {
	a.t.Helper()
	if err := a.request(r); err != nil {
		a.t.Fatal(err)
	}
	if err := a.advance(); err != nil {
		a.t.Fatal(err)
	}
}

func (a *asker) subscribe(from, to int) {
	a.t.Helper()
	r := &discovery.DeltaDiscoveryRequest{TypeUrl: adswire.HostType}
	for i := from; i < to; i++ {
		r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, fmt.Sprintf("h%d.example", i))
	}
	a.do(r)
}

// acknowledge answers all that was sent, and what that brings.
func (a *asker) acknowledge() {
	a.t.Helper()
	for {
		select {
		case r := <-a.responses:
			a.do(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
		default:
			return
		}
	}
}

// A proxy that asks for one name after another has a view computed for those that came while it had not answered, together.
func TestAsksAreAnsweredTogether(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(t, w)
		before := w.looks
		a.subscribe(0, 1)
		if w.looks != before+1 || !slices.Equal(w.names, []string{"h0.example"}) {
			t.Fatalf("the first of all waits: %d looks, at %q", w.looks-before, w.names)
		}
		for i := range 200 {
			a.subscribe(1+i, 2+i)
		}
		if w.looks != before+1 {
			t.Errorf("%d looks while the first is not answered", w.looks-before)
		}
		a.acknowledge()
		if _, later := a.pace(); w.looks == before+1 {
			<-later
		}
		a.do(&discovery.DeltaDiscoveryRequest{TypeUrl: adswire.HostType})
		if w.looks != before+2 || len(w.names) != 201 {
			t.Errorf("then %d looks, at %d names", w.looks-before-1, len(w.names))
		}
	})
}

// One that asks and answers as fast as it can is looked at askLooks times a second, and after a rest at once.
func TestLooksAreBounded(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(t, w)
		before, begun := w.looks, time.Now()
		const seconds = 4
		for i := 0; time.Since(begun) < seconds*time.Second; i++ {
			a.subscribe(i%2000, i%2000+1)
			a.acknowledge()
			time.Sleep(time.Millisecond)
		}
		if got := w.looks - before; got > seconds*askLooks+askLooksAtOnce || got < seconds*askLooks {
			t.Errorf("%d looks in %d s", got, seconds)
		}
		time.Sleep(time.Second)
		a.do(&discovery.DeltaDiscoveryRequest{TypeUrl: adswire.HostType})
		a.acknowledge()
		before = w.looks
		time.Sleep(askGap)
		a.subscribe(1999, 2000)
		if w.looks != before+1 {
			t.Error("one after a rest waits")
		}
	})
}

// The requests of a proxy that asks for too many names wait, and so does nothing else of it.
func TestNamesAreBounded(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(t, w)
		a.subscribe(0, 1000)
		a.acknowledge()
		if requests, _ := a.pace(); requests == nil {
			t.Fatal("as many as may be asked for at once wait")
		}
		a.subscribe(1000, 2000)
		a.acknowledge()
		begun := time.Now()
		for {
			requests, later := a.pace()
			if requests != nil {
				break
			}
			<-later
			if err := a.advance(); err != nil {
				t.Fatal(err)
			}
			a.acknowledge()
		}
		if got, want := time.Since(begun), 1000/askNames*time.Second; got != want {
			t.Errorf("waited %v, not %v", got, want)
		}
		if len(w.names) != adswire.MaxAsked || slices.Contains(w.names, "h999.example") || !slices.Contains(w.names, "h1999.example") {
			t.Errorf("%d names, not the last asked for", len(w.names))
		}
		err := a.request(&discovery.DeltaDiscoveryRequest{TypeUrl: adswire.HostType, ResourceNamesSubscribe: make([]string, adswire.MaxAsked+1)})
		if status.Code(err) != codes.InvalidArgument {
			t.Error(err)
		}
	})
}

// A proxy whose stream ended before its workload went is forgotten without anybody asking for the status.
func TestSeatsOfGoneWorkloadsAreForgotten(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, w)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = s.Run(ctx) }()
		st := newStream(s, nil, identity.ID{}, time.Time{})
		st.node = "shop/w"
		s.roster.sit(st, "127.0.0.1:1")
		s.roster.rise(st, false)
		time.Sleep(sweepEvery + time.Second)
		if _, ok := s.Proxy("shop/w"); !ok {
			t.Error("one whose workload is there is forgotten")
		}
		w.empty.Store(true)
		time.Sleep(sweepEvery)
		if _, ok := s.Proxy("shop/w"); ok {
			t.Error("one whose workload is gone keeps its seat")
		}
		cancel()
		synctest.Wait()
		select {
		case <-s.stopped:
		default:
			t.Error("streams go on after Run")
		}
	})
}

// BenchmarkAsk is what one more name costs the control plane for a proxy that has asked for as many as it may, without the rate.
func BenchmarkAsk(b *testing.B) {
	w := newWorld(b)
	a := newAsker(b, w)
	a.asked.looks.SetLimit(rate.Inf)
	a.asked.names.SetLimit(rate.Inf)
	a.subscribe(0, adswire.MaxAsked)
	a.acknowledge()
	before := w.looks
	for i := 0; b.Loop(); i++ {
		a.asked.looked = time.Time{}
		a.subscribe((1000+i)%2000, (1000+i)%2000+1)
		a.acknowledge()
	}
	b.ReportMetric(float64(w.looks-before)/float64(b.N), "looks/op")
}
