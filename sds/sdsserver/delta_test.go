package sdsserver_test

import (
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/sds/sdsserver"
)

// connect makes a further client connection.
func (f *fixture) connect(t *testing.T) secretv3.SecretDiscoveryServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+f.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return secretv3.NewSecretDiscoveryServiceClient(conn)
}

// delta is the client's end of an incremental stream.
type delta struct {
	t      *testing.T
	stream secretv3.SecretDiscoveryService_DeltaSecretsClient
	in     chan *discoveryv3.DeltaDiscoveryResponse
}

func (f *fixture) delta(t *testing.T) *delta {
	t.Helper()
	stream, err := f.client.DeltaSecrets(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	d := &delta{t: t, stream: stream, in: make(chan *discoveryv3.DeltaDiscoveryResponse, 16)}
	go func() {
		defer close(d.in)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			d.in <- r
		}
	}()
	return d
}

func (d *delta) send(r *discoveryv3.DeltaDiscoveryRequest) {
	d.t.Helper()
	if err := d.stream.Send(r); err != nil {
		d.t.Fatal(err)
	}
}

func (d *delta) subscribe(names ...string) {
	d.t.Helper()
	d.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: names})
}

func (d *delta) unsubscribe(names ...string) {
	d.t.Helper()
	d.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesUnsubscribe: names})
}

func (d *delta) answer(to *discoveryv3.DeltaDiscoveryResponse, nack string) {
	d.t.Helper()
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: to.GetNonce()}
	if nack != "" {
		r.ErrorDetail = &rpcstatus.Status{Code: 13, Message: nack}
	}
	d.send(r)
}

func (d *delta) next() *discoveryv3.DeltaDiscoveryResponse {
	d.t.Helper()
	select {
	case r, ok := <-d.in:
		if !ok {
			d.t.Fatal("the stream has ended")
		}
		return r
	case <-time.After(patience):
		d.t.Fatal("no answer")
	}
	return nil
}

func (d *delta) silent() {
	d.t.Helper()
	select {
	case r, ok := <-d.in:
		d.t.Fatalf("unasked: %v, removed %q (open %v)", served(r), r.GetRemovedResources(), ok)
	case <-time.After(quiet):
	}
}

func served(r *discoveryv3.DeltaDiscoveryResponse) []string {
	var out []string
	for _, res := range r.GetResources() {
		out = append(out, res.GetName())
	}
	return out
}

// expect takes the next answer apart and acknowledges it.
func (d *delta) expect(want, removed []string) *discoveryv3.DeltaDiscoveryResponse {
	d.t.Helper()
	r := d.next()
	if !slices.Equal(served(r), want) || !slices.Equal(r.GetRemovedResources(), removed) {
		d.t.Fatalf("served %q, removed %q, want %q and %q", served(r), r.GetRemovedResources(), want, removed)
	}
	var bodies []*anypb.Any
	for _, res := range r.GetResources() {
		bodies = append(bodies, res.GetResource())
	}
	if got := names(secretsOf(d.t, bodies)); !slices.Equal(got, want) {
		d.t.Errorf("the secrets' own names are %q, want %q", got, want)
	}
	d.answer(r, "")
	return r
}

func TestDeltaFollowsRotation(t *testing.T) {
	f := start(t, true)
	d := f.delta(t)
	d.subscribe("default", "ROOTCA", workload, domain)
	first := d.expect([]string{"ROOTCA", "default", domain, workload}, nil)
	d.silent()
	f.rotate(t)
	second := d.expect([]string{"default", workload}, nil) // the roots didn't change
	if second.GetResources()[0].GetVersion() == first.GetResources()[1].GetVersion() || second.GetSystemVersionInfo() == first.GetSystemVersionInfo() {
		t.Error("a push with the old version")
	}
	next := certtest.NewCA(t, "cluster.local")
	f.source.Replace(f.source.Current().SVID, next.Bundle())
	d.expect([]string{"ROOTCA", domain}, nil)
	f.source.Replace(f.source.Current().SVID, next.Bundle())
	d.silent()
}

func TestDeltaSubscriptions(t *testing.T) {
	f := start(t, true)
	d := f.delta(t)
	d.subscribe("default")
	d.expect([]string{"default"}, nil)
	d.subscribe("ROOTCA")
	d.expect([]string{"ROOTCA"}, nil)
	d.subscribe("ROOTCA") // again, so it is sent again
	d.expect([]string{"ROOTCA"}, nil)
	d.unsubscribe("default")
	d.subscribe("nobody") // its answer says that the request before it was taken in
	d.expect(nil, []string{"nobody"})
	f.rotate(t)
	d.silent()
	d.subscribe("default")
	d.expect([]string{"default"}, nil)
	d.subscribe("*")
	d.expect([]string{domain, workload}, nil)
	d.unsubscribe("*", "ROOTCA", workload)
	d.subscribe("nobody")
	d.expect(nil, []string{"nobody"})
	f.rotate(t)
	d.expect([]string{"default"}, nil)
}

func TestDeltaEverything(t *testing.T) {
	f := start(t, true)
	d := f.delta(t)
	d.subscribe()
	d.expect([]string{"ROOTCA", "default", domain, workload}, nil)
	const other = "spiffe://cluster.local/ns/shop/sa/other"
	f.source.Replace(f.ca.SVID(t, other), f.ca.Bundle())
	d.expect([]string{"default", other}, []string{workload})
}

func TestDeltaUnknownNames(t *testing.T) {
	f := start(t, true)
	const other = "spiffe://cluster.local/ns/shop/sa/other"
	d := f.delta(t)
	d.subscribe("default", other)
	d.expect([]string{"default"}, []string{other})
	f.rotate(t)
	d.expect([]string{"default"}, nil) // said once
	d.subscribe(other)
	d.expect(nil, []string{other}) // asked again
	f.source.Replace(f.ca.SVID(t, other), f.ca.Bundle())
	d.expect([]string{"default", other}, nil)
	f.rotate(t)
	d.expect([]string{"default"}, []string{other})
}

func TestDeltaNACK(t *testing.T) {
	f := start(t, true)
	d := f.delta(t)
	d.subscribe("default")
	r := d.next()
	d.answer(r, "I don't like it")
	f.logs(t, "I don't like it")
	f.source.Replace(f.source.Current().SVID, f.ca.Bundle())
	d.subscribe("default")
	d.silent()
	f.rotate(t)
	latest := d.expect([]string{"default"}, nil)
	d.answer(r, "late")
	f.logs(t, "stale nonce")
	d.subscribe("default") // its version was accepted, so it comes again
	if again := d.expect([]string{"default"}, nil); again.GetResources()[0].GetVersion() != latest.GetResources()[0].GetVersion() {
		t.Error("another version out of nowhere")
	}
	// An old nonce makes the acknowledgement void, not the names that travel with it.
	d.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: r.GetNonce(), ResourceNamesSubscribe: []string{"ROOTCA"}})
	d.expect([]string{"ROOTCA"}, nil)
}

func TestDeltaReconnect(t *testing.T) {
	f := start(t, true)
	d := f.delta(t)
	d.subscribe("default", "ROOTCA")
	first := d.expect([]string{"ROOTCA", "default"}, nil)
	known := map[string]string{"gone": "1"}
	for _, r := range first.GetResources() {
		known[r.GetName()] = r.GetVersion()
	}
	f.rotate(t)
	again := f.delta(t)
	again.send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: secretType, ResourceNamesSubscribe: []string{"default", "ROOTCA", "gone"}, InitialResourceVersions: known,
	})
	again.expect([]string{"default"}, []string{"gone"}) // the roots are still those it has
}

func TestDeltaLimits(t *testing.T) {
	f := start(t, true)
	d := f.delta(t)
	batch := func(from, n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = "name-" + string(rune('a'+from)) + "-" + time.Duration(i).String()
		}
		return out
	}
	d.subscribe(batch(0, sdsserver.MaxNames)...)
	if n := len(d.next().GetRemovedResources()); n != sdsserver.MaxNames {
		t.Errorf("%d names removed", n)
	}
	d.subscribe(batch(1, 1)...)
	select {
	case _, open := <-d.in:
		if open {
			t.Error("one name too many is answered")
		}
	case <-time.After(patience):
		t.Error("one name too many is taken")
	}
	versions := map[string]string{}
	for _, n := range batch(2, sdsserver.MaxNames+1) {
		versions[n] = "1"
	}
	stream, err := f.client.DeltaSecrets(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, InitialResourceVersions: versions})
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("too many initial versions: %v", err)
	}
}
