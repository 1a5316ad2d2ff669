package explain

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
)

// captured is the pod shop/cart-1 as it runs, which knows the headless Service store (8080 HTTP, 7000 TCP) with two pods, the
// Service pay and, by its address, the pod lone-0 that no Service has.
func captured(t *testing.T) *compile.Workload {
	t.Helper()
	pod := func(name, address string) *mesh.Workload {
		id, err := identity.New("cluster.local", "shop", strings.TrimRight(name, "-0123456789"))
		if err != nil {
			t.Fatal(err)
		}
		return &mesh.Workload{Namespace: "shop", Name: name, ID: id, Address: netip.MustParseAddr(address), Pod: true, TLSMode: "istio"}
	}
	at := func(port string, pods ...*mesh.Workload) (out []mesh.Endpoint) {
		for _, p := range pods {
			out = append(out, mesh.Endpoint{Address: p.Address.String() + ":" + port, Identity: p.ID, TLSMode: p.TLSMode, Workload: "shop/" + p.Name})
		}
		return out
	}
	cart, one, two, pay, lone := pod("cart-1", "10.1.0.1"), pod("store-0", "10.1.0.2"), pod("store-1", "10.1.0.3"), pod("pay-1", "10.1.0.4"), pod("lone-0", "10.1.0.5")
	store := &mesh.Service{Namespace: "shop", Name: "store", Host: "store.shop.svc.cluster.local", Kubernetes: true, Resolution: mesh.Original,
		Ports:     []mesh.ServicePort{{Number: 8080, Target: 8080, Protocol: mesh.HTTP}, {Number: 7000, Target: 7000, Protocol: mesh.TCP}},
		Endpoints: [][]mesh.Endpoint{at("8080", one, two), at("7000", one, two)}}
	vip := &mesh.Service{Namespace: "shop", Name: "pay", Host: "pay.shop.svc.cluster.local", Kubernetes: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.96.0.2/32")}, Ports: []mesh.ServicePort{{Number: 80, Target: 8080, Protocol: mesh.HTTP}},
		Endpoints: [][]mesh.Endpoint{at("8080", pay)}}
	w, err := compile.Compile(&mesh.View{TrustDomain: "cluster.local", Self: cart, Peers: []*mesh.Workload{cart, one, two, pay, lone},
		Mesh:     mesh.Settings{RootNamespace: "istio-system", ConnectTimeout: time.Second, AllowAny: true, ProtocolDetectionTimeout: time.Second},
		Services: []*mesh.Service{store, vip}, Asked: map[string]mesh.Answer{"10.1.0.5": {Workload: "shop/lone-0"}}}, compile.NewOffline())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestRouteToHeadless: whatever names a headless Service's pod, the answer is that of its address, as a pod's sidecar decides.
func TestRouteToHeadless(t *testing.T) {
	w := captured(t)
	for _, c := range []struct {
		to, ip, host      string
		outcome, endpoint string
		note              string
	}{
		{"shop/store-1:8080", "10.1.0.3", "", outcomeForward, "10.1.0.3:8080", "store.shop.svc.cluster.local is headless"},
		{"shop/store-1:8080", "10.1.0.3", "store.shop.svc.cluster.local:8080", outcomeForward, "10.1.0.3:8080", "shop/store-1 at 10.1.0.3:8080 is taken"},
		{"shop/store-1:8080", "10.1.0.3", "store", outcomeForward, "10.1.0.3:8080", "is taken"},
		{"shop/store-0:8080", "10.1.0.2", "store.shop.svc.cluster.local", outcomeForward, "10.1.0.2:8080", "shop/store-0 at 10.1.0.2:8080 is taken"},
		{"shop/store-1:8080", "10.1.0.3", "store-1.store.shop.svc.cluster.local:8080", outcomeForward, "10.1.0.3:8080", "is taken"},
		{"shop/store-1:8080", "10.1.0.3", "store-1.store", outcomeForward, "10.1.0.3:8080", "is taken"},
		{"shop/store-1:8080", "10.1.0.3", "10.1.0.3:8080", outcomeForward, "10.1.0.3:8080", ""},
		{"shop/store-1:7000", "10.1.0.3", "", outcomeForward, "10.1.0.3:7000", ""},
		{"shop/store-1:7000", "10.1.0.3", "store.shop:7000", outcomeForward, "10.1.0.3:7000", "carried as TCP"},
		{"shop/lone-0:8080", "10.1.0.5", "10.1.0.5:8080", outcomeForward, "10.1.0.5:8080", ""},
		{"shop/pay-1:8080", "10.1.0.4", "", outcomeForward, "10.1.0.4:8080", ""},
		// What does not lead there goes on saying so.
		{"shop/lone-0:8080", "10.1.0.5", "", outcomeUnknown, "", "no host that shop/cart-1 may call"},
		{"shop/store-1:8080", "10.1.0.3", "pay.shop", outcomeForward, "10.1.0.4:8080", "does not lead to shop/store-1:8080"},
		{"shop/store-1:8080", "10.1.0.3", "10.1.0.2:8080", outcomeForward, "10.1.0.2:8080", "does not lead to shop/store-1:8080"},
		{"shop/store-1:8080", "10.1.0.3", "store:9999", outcomePassthrough, "", "not in the mesh's registry"},
		{"shop/pay-1:8080", "10.1.0.4", "api.example.com", outcomePassthrough, "", "not in the mesh's registry"},
		{"shop/pay-1:8080", "10.1.0.4", "192.0.2.1", outcomePassthrough, "", "not in the mesh's registry"},
	} {
		a := Route(w, &Question{From: "shop/cart-1", To: c.to, ToIP: c.ip, Host: c.host})
		var ends []string
		for _, d := range a.Destinations {
			for _, e := range d.Endpoints {
				ends = append(ends, e.Address)
			}
		}
		reaches := c.endpoint != "" && strings.HasPrefix(c.endpoint, c.ip+":")
		if a.Mistake != "" || a.Outcome != c.outcome || strings.Join(ends, " ") != c.endpoint || a.Reaches != reaches || a.MTLS != reaches ||
			!strings.Contains(strings.Join(a.Notes, "\n"), c.note) {
			t.Errorf("%s by %q: %s %v, reaches %v by mTLS %v, %q %s; want %s %s", c.to, c.host, a.Outcome, ends, a.Reaches, a.MTLS, a.Notes, a.Mistake, c.outcome, c.endpoint)
		}
	}
}
