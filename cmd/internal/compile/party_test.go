package compile

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
)

func TestSource(t *testing.T) {
	w := compiled(t, shop(t))
	cart, nats, nobody := id(t, "shop", "cart"), id(t, "infra", "nats"), id(t, "x", "y")
	for _, c := range []struct {
		name string
		id   identity.ID
		addr string
		want proxy.Party
	}{
		{"by identity and address", cart, "127.0.10.3", *w.Parties.Workload("shop/cart-v2")},
		{"by a mapped address", cart, "::ffff:127.0.10.2", *w.Parties.Workload("shop/cart-v1")},
		{"several share the identity", cart, "127.0.0.1", proxy.Party{Namespace: "shop", Principal: "spiffe://cluster.local/ns/shop/sa/cart"}},
		{"only one has the identity", nats, "10.1.2.3", *w.Parties.Workload("infra/nats")},
		{"not of the mesh", nobody, "127.0.10.3", proxy.Party{Namespace: "x", Principal: "spiffe://cluster.local/ns/x/sa/y"}},
		{"nobody, at a workload's address", identity.ID{}, "127.0.10.3", proxy.Party{}},
	} {
		peer := identity.Peer{ID: c.id}
		if got := w.Parties.Source(peer, netip.MustParseAddr(c.addr)); *got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, *got, c.want)
		}
	}
	if w.Party.Workload != "web" || w.Party.Version != "v3" || w.Party.CanonicalRevision != "v3" {
		t.Errorf("own party is %+v", w.Party)
	}
	if p := w.Parties.Workload("infra/nats"); p.CanonicalService != "nats" || p.CanonicalRevision != "latest" {
		t.Errorf("a workload without labels is %+v", p)
	}
	p := partyOf(&mesh.Workload{Name: "n", Labels: map[string]string{"app": "a", "app.kubernetes.io/name": "k",
		"service.istio.io/canonical-name": "c", "version": "v", "service.istio.io/canonical-revision": "r"}})
	if p.CanonicalService != "c" || p.CanonicalRevision != "r" || p.App != "a" || p.Version != "v" {
		t.Errorf("labels were read as %+v", p)
	}
}

func TestReserved(t *testing.T) {
	w := compiled(t, shop(t))
	r := w.Reserved.With(netip.MustParseAddrPort("0.0.0.0:41000"), netip.MustParseAddrPort("127.0.0.1:42000"))
	for addr, want := range map[string]bool{
		"127.0.10.1:15001": true, "127.0.10.3:15020": true, "127.0.0.1:15000": true, "[::1]:15012": true,
		"[::ffff:127.0.10.1]:15001": true, "127.0.0.1:42000": true, "127.0.0.1:41000": true, "127.0.10.2:41000": true,
		"169.254.169.254:80": true, "[fe80::1]:80": true, "[fe80::1%eth0]:80": true, "[fd00:ec2::254]:80": true,
		"100.100.100.200:80": true, "192.0.0.192:80": true, "[::ffff:169.254.169.254]:80": true,
		"[64:ff9b::a9fe:a9fe]:80": true, "[64:ff9b:1::a9fe:a9fe]:80": true, "[2002:a9fe:a9fe::]:80": true, "[::169.254.169.254]:80": true,
		"[64:ff9b::7f00:a01]:15001": true, "[64:ff9b::808:808]:80": false, "[2001:db8::1]:80": false, "[::1]:8080": false,
		"0.0.0.0:80": true, "[::]:80": true, "224.0.0.1:80": true, "255.255.255.255:80": true, "8.8.8.8:0": true,
		"127.0.10.2:8080": false, "127.0.0.1:3000": false, "93.184.216.34:80": false, "93.184.216.34:15001": false,
		"93.184.216.34:41000": false, "127.0.0.1:42001": false,
	} {
		if got := r.Forbids(netip.MustParseAddrPort(addr)); got != want {
			t.Errorf("Forbids(%s) = %v, want %v", addr, got, want)
		}
	}
	if w.Reserved.Forbids(netip.MustParseAddrPort("127.0.0.1:42000")) {
		t.Error("With changed its receiver")
	}
	if !(*Reserved)(nil).Forbids(netip.MustParseAddrPort("8.8.8.8:80")) || !r.Forbids(netip.AddrPort{}) {
		t.Error("nothing known, yet allowed")
	}
}

func TestNoIdentity(t *testing.T) {
	for _, v := range []*mesh.View{nil, {}, {Self: &mesh.Workload{Namespace: "a", Name: "b"}}} {
		if _, err := Compile(v, NewOffline()); err == nil {
			t.Errorf("%+v was compiled", v)
		}
	}
}

// many is a view of n services with two endpoints each.
func many(b testing.TB, n int) *mesh.View {
	v := shop(b)
	cart := v.Services[0]
	for i := range n {
		s := *cart
		s.Host = fmt.Sprintf("svc-%d.shop.svc.cluster.local", i)
		v.Services = append(v.Services, &s)
	}
	return v
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			v := many(b, n)
			for b.Loop() {
				if _, err := Compile(v, NewOffline()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
