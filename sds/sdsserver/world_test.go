package sdsserver_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/sds/sdsserver"
)

func fetch(names ...string) *discoveryv3.DiscoveryRequest {
	return &discoveryv3.DiscoveryRequest{TypeUrl: secretType, Node: &corev3.Node{Id: "tester"}, ResourceNames: names}
}

// world is the client's end of a state-of-the-world stream. One goroutine receives all along.
type world struct {
	t      *testing.T
	stream secretv3.SecretDiscoveryService_StreamSecretsClient
	in     chan *discoveryv3.DiscoveryResponse
}

func (f *fixture) world(t *testing.T) *world {
	t.Helper()
	stream, err := f.client.StreamSecrets(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, stream: stream, in: make(chan *discoveryv3.DiscoveryResponse, 16)}
	go func() {
		defer close(w.in)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			w.in <- r
		}
	}()
	return w
}

func (w *world) send(r *discoveryv3.DiscoveryRequest) {
	w.t.Helper()
	if err := w.stream.Send(r); err != nil {
		w.t.Fatal(err)
	}
}

// answer says ACK, or NACK with a reason, and asks for names.
func (w *world) answer(to *discoveryv3.DiscoveryResponse, nack string, names ...string) {
	w.t.Helper()
	r := fetch(names...)
	r.ResponseNonce, r.VersionInfo = to.GetNonce(), to.GetVersionInfo()
	if nack != "" {
		r.ErrorDetail, r.VersionInfo = &rpcstatus.Status{Code: 13, Message: nack}, ""
	}
	w.send(r)
}

func (w *world) next() *discoveryv3.DiscoveryResponse {
	w.t.Helper()
	select {
	case r, ok := <-w.in:
		if !ok {
			w.t.Fatalf("the stream has ended")
		}
		return r
	case <-time.After(patience):
		w.t.Fatal("no answer")
	}
	return nil
}

func (w *world) silent() {
	w.t.Helper()
	select {
	case r, ok := <-w.in:
		w.t.Fatalf("unasked: %v (open %v)", r.GetVersionInfo(), ok)
	case <-time.After(quiet):
	}
}

func TestStreamFollowsRotation(t *testing.T) {
	f := start(t, true)
	w := f.world(t)
	all := []string{"default", "ROOTCA", workload, domain}
	w.send(fetch(all...))
	first := w.next()
	got := secretsOf(t, first.GetResources())
	if !slices.Equal(names(got), []string{"ROOTCA", "default", domain, workload}) {
		t.Fatalf("served %q", names(got))
	}
	if first.GetTypeUrl() != secretType || first.GetVersionInfo() == "" || !carries(got["default"], f.source.Current().SVID) || !carries(got[workload], f.source.Current().SVID) {
		t.Errorf("answer %q, %q carries another certificate", first.GetTypeUrl(), first.GetVersionInfo())
	}
	w.answer(first, "", all...)
	f.source.Replace(f.source.Current().SVID, f.ca.Bundle()) // a snapshot without news
	w.silent()
	renewed := f.rotate(t)
	second := w.next()
	if second.GetVersionInfo() == first.GetVersionInfo() || second.GetNonce() == first.GetNonce() {
		t.Error("a push with the old version or nonce")
	}
	if got := secretsOf(t, second.GetResources()); len(got) != 4 || !carries(got["default"], renewed) {
		t.Errorf("pushed %q", names(got))
	}
	w.answer(second, "", all...)
	w.silent()
}

func TestStreamOnlyTellsWhatConcerns(t *testing.T) {
	f := start(t, true)
	w := f.world(t)
	w.send(fetch("ROOTCA"))
	first := w.next()
	w.answer(first, "", "ROOTCA")
	f.rotate(t) // the roots stay
	w.silent()
	next := certtest.NewCA(t, "cluster.local")
	f.source.Replace(f.source.Current().SVID, next.Bundle())
	if got := secretsOf(t, w.next().GetResources()); len(got) != 1 || got["ROOTCA"] == nil {
		t.Errorf("pushed %q", names(got))
	}
}

func TestStreamNamesChange(t *testing.T) {
	f := start(t, true)
	w := f.world(t)
	w.send(fetch("*"))
	r := w.next()
	if len(r.GetResources()) != 4 {
		t.Fatalf("everything is %d secrets", len(r.GetResources()))
	}
	w.answer(r, "", "default")
	r = w.next()
	if got := secretsOf(t, r.GetResources()); !slices.Equal(names(got), []string{"default"}) {
		t.Errorf("served %q", names(got))
	}
	w.answer(r, "", "default", "default")
	w.silent()
	w.answer(r, "")
	f.logs(t, "node=tester names=[]\n") // the request was taken in
	f.rotate(t)
	w.silent() // an empty list after names is no interest at all
	w.answer(r, "", "*")
	if n := len(w.next().GetResources()); n != 4 {
		t.Errorf("everything is %d secrets", n)
	}
}

func TestStreamEverything(t *testing.T) {
	f := start(t, true)
	w := f.world(t)
	w.send(fetch())
	r := w.next()
	if n := len(r.GetResources()); n != 4 {
		t.Fatalf("everything is %d secrets", n)
	}
	w.answer(r, "")
	w.silent()
	f.rotate(t)
	if n := len(w.next().GetResources()); n != 4 {
		t.Errorf("pushed %d secrets", n)
	}
}

func TestStreamNACK(t *testing.T) {
	f := start(t, true)
	w := f.world(t)
	w.send(fetch("default"))
	r := w.next()
	w.answer(r, "I don't like it", "default")
	f.logs(t, "I don't like it")
	w.silent()
	f.source.Replace(f.source.Current().SVID, f.ca.Bundle())
	w.silent()
	w.answer(r, "still not", "default", "nobody") // other names, the same content
	w.silent()
	renewed := f.rotate(t)
	if got := secretsOf(t, w.next().GetResources()); !carries(got["default"], renewed) {
		t.Error("no successor after a NACK")
	}
}

func TestStreamStaleNonce(t *testing.T) {
	f := start(t, true)
	w := f.world(t)
	first := fetch("default")
	first.ResponseNonce, first.VersionInfo = "of-a-former-stream", "of-a-former-server"
	w.send(first)
	old := w.next()
	w.answer(old, "", "default")
	f.rotate(t)
	latest := w.next()
	w.answer(old, "late", "default", "ROOTCA")
	f.logs(t, "stale nonce")
	w.silent()
	w.answer(latest, "", "default", "ROOTCA")
	if n := len(w.next().GetResources()); n != 2 {
		t.Errorf("%d secrets", n)
	}
}

func TestStreamUnknownNames(t *testing.T) {
	f := start(t, true)
	const other = "spiffe://cluster.local/ns/shop/sa/other"
	w := f.world(t)
	w.send(fetch("default", other))
	r := w.next()
	if got := secretsOf(t, r.GetResources()); !slices.Equal(names(got), []string{"default"}) {
		t.Errorf("served %q", names(got))
	}
	f.logs(t, other)
	w.answer(r, "", "default", other)
	f.source.Replace(f.ca.SVID(t, other), f.ca.Bundle())
	if got := secretsOf(t, w.next().GetResources()); !slices.Equal(names(got), []string{"default", other}) {
		t.Errorf("served %q once it exists", names(got))
	}
	nothing := f.world(t)
	nothing.send(fetch("nobody"))
	nothing.silent()
}

func TestStreamWaitsForTheFirstCertificate(t *testing.T) {
	f := start(t, false)
	w, d := f.world(t), f.delta(t)
	w.send(fetch("default", "ROOTCA"))
	d.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: []string{"default", "nobody"}})
	w.silent()
	d.silent()
	if _, err := f.client.FetchSecrets(f.ctx, fetch("default")); status.Code(err) != codes.Unavailable {
		t.Errorf("fetch: %v", err)
	}
	f.source.Replace(nil, f.ca.Bundle()) // roots alone are no news
	w.silent()
	svid := f.rotate(t)
	if got := secretsOf(t, w.next().GetResources()); len(got) != 2 || !carries(got["default"], svid) {
		t.Errorf("served %q", names(got))
	}
	r := d.next()
	if len(r.GetResources()) != 1 || !slices.Equal(r.GetRemovedResources(), []string{"nobody"}) {
		t.Errorf("delta: %d secrets, removed %q", len(r.GetResources()), r.GetRemovedResources())
	}
}

func TestFetch(t *testing.T) {
	f := start(t, true)
	r, err := f.client.FetchSecrets(f.ctx, fetch())
	if err != nil {
		t.Fatal(err)
	}
	if got := secretsOf(t, r.GetResources()); len(got) != 4 || r.GetVersionInfo() == "" {
		t.Errorf("served %q, version %q", names(got), r.GetVersionInfo())
	}
	r, err = f.client.FetchSecrets(f.ctx, fetch("nobody", "default"))
	if err != nil || len(r.GetResources()) != 1 {
		t.Errorf("a known and an unknown one: %v, %v", r, err)
	}
	_, err = f.client.FetchSecrets(f.ctx, fetch("nobody"))
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("an unknown one: %v", err)
	}
}

func TestLimits(t *testing.T) {
	f := start(t, true)
	many := make([]string, sdsserver.MaxNames+1)
	for i := range many {
		many[i] = "default"
	}
	other := fetch("default")
	other.TypeUrl = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	for name, c := range map[string]struct {
		req  *discoveryv3.DiscoveryRequest
		want codes.Code
	}{
		"too many names":    {fetch(many...), codes.InvalidArgument},
		"a name too long":   {fetch(strings.Repeat("x", sdsserver.MaxNameBytes+1)), codes.InvalidArgument},
		"another type":      {other, codes.InvalidArgument},
		"a message too big": {fetch(strings.Repeat("x", sdsserver.MaxMessage+1)), codes.ResourceExhausted},
	} {
		if _, err := f.client.FetchSecrets(f.ctx, c.req); status.Code(err) != c.want {
			t.Errorf("fetch: %s: %v", name, err)
		}
		stream, err := f.client.StreamSecrets(f.ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(c.req) // the verdict is Recv's
		if _, err := stream.Recv(); status.Code(err) != c.want {
			t.Errorf("stream: %s: %v", name, err)
		}
	}
	if _, err := f.client.FetchSecrets(f.ctx, fetch("default")); err != nil {
		t.Errorf("afterwards nothing works: %v", err)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	f := start(t, true)
	for range sdsserver.MaxStreams {
		stream, err := f.client.StreamSecrets(f.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(fetch("ROOTCA")); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	second := f.connect(t)
	if _, err := second.FetchSecrets(f.ctx, fetch("default")); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more over another connection: %v", err)
	}
}
