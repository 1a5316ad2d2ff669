package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"
	"sigs.k8s.io/yaml"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

func id(t testing.TB, ns, sa string) identity.ID {
	t.Helper()
	x, err := identity.New("cluster.local", ns, sa)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func spec[T any](t testing.TB, text string, into T) T {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
	return into
}

func sidecar(t testing.TB, text string) *mesh.Typed[*networking.Sidecar] {
	return &mesh.Typed[*networking.Sidecar]{Meta: meta("Sidecar", "shop", "web"), Spec: spec(t, text, &networking.Sidecar{})}
}

func meta(kind, ns, name string) mesh.Meta {
	return mesh.Meta{Key: mesh.Key{Group: "networking.istio.io", Kind: kind, Namespace: ns, Name: name}}
}

func virtualService(t testing.TB, ns, name, text string) *mesh.Typed[*networking.VirtualService] {
	return &mesh.Typed[*networking.VirtualService]{Meta: meta("VirtualService", ns, name), Spec: spec(t, text, &networking.VirtualService{})}
}

func destinationRule(t testing.TB, ns, name, text string) *mesh.Typed[*networking.DestinationRule] {
	return &mesh.Typed[*networking.DestinationRule]{Meta: meta("DestinationRule", ns, name), Spec: spec(t, text, &networking.DestinationRule{})}
}

// shop is a view of the workload shop/web: it calls cart (two versions, HTTP 8080 and 9090) and nats (TCP 4222), and is an
// endpoint of web itself.
func shop(t testing.TB) *mesh.View {
	workload := func(ns, name, sa, addr string, labels map[string]string) *mesh.Workload {
		w := &mesh.Workload{Namespace: ns, Name: name, ServiceAccount: sa, Address: netip.MustParseAddr(addr), Labels: labels, TLSMode: "disabled"}
		if sa != "" {
			w.ID, w.TLSMode = id(t, ns, sa), "istio"
		}
		return w
	}
	web := workload("shop", "web", "web", "127.0.10.1", map[string]string{"app": "web", "version": "v3"})
	v1 := workload("shop", "cart-v1", "cart", "127.0.10.2", map[string]string{"app": "cart", "version": "v1"})
	v2 := workload("shop", "cart-v2", "cart", "127.0.10.3", map[string]string{"app": "cart", "version": "v2"})
	bus := workload("infra", "nats", "nats", "127.0.20.1", nil)
	old := workload("infra", "old", "", "127.0.20.9", nil)
	at := func(w *mesh.Workload, port int) mesh.Endpoint {
		return mesh.Endpoint{Address: fmt.Sprintf("%s:%d", w.Address, port), Labels: w.Labels, Identity: w.ID, TLSMode: w.TLSMode,
			Workload: w.Namespace + "/" + w.Name}
	}
	v := &mesh.View{
		TrustDomain: "cluster.local", Self: web, Peers: []*mesh.Workload{web, v1, v2, bus, old},
		Mesh: mesh.Settings{RootNamespace: "istio-system", ConnectTimeout: 10 * time.Second, AllowAny: true},
		Services: []*mesh.Service{
			{Namespace: "shop", Name: "cart", Host: "cart.shop.svc.cluster.local", Ports: []mesh.ServicePort{
				{Name: "http", Number: 8080, Declared: "HTTP", Protocol: mesh.HTTP, Target: 8080},
				{Name: "http-admin", Number: 9090, Declared: "HTTP", Protocol: mesh.HTTP, Target: 9090}},
				SubjectAltNames: []string{"spiffe://cluster.local/ns/shop/sa/cart-next"},
				Endpoints:       [][]mesh.Endpoint{{at(v1, 8080), at(v2, 8080)}, {at(v1, 9090), at(v2, 9090), at(old, 9090)}}},
			{Namespace: "infra", Name: "nats", Host: "nats.infra", Ports: []mesh.ServicePort{
				{Name: "tcp", Number: 4222, Declared: "TCP", Target: 4222}}, Endpoints: [][]mesh.Endpoint{{at(bus, 4222)}}},
			{Namespace: "shop", Name: "web", Host: "web.shop", Ports: []mesh.ServicePort{
				{Name: "http", Number: 80, Declared: "HTTP", Protocol: mesh.HTTP, Target: 8000}}, Endpoints: [][]mesh.Endpoint{{at(web, 8000)}}},
		},
	}
	v.Served = v.Services[2:]
	return v
}

func compiled(t testing.TB, v *mesh.View) *Workload {
	t.Helper()
	w, err := Compile(v, NewOffline())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func cluster(t testing.TB, w *Workload, name string) upstream.Spec {
	t.Helper()
	for _, s := range w.Clusters {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no cluster %q", name)
	return upstream.Spec{}
}

func addresses(s upstream.Spec) string {
	var out []string
	for _, x := range s.Targets {
		out = append(out, x.Address)
	}
	return strings.Join(out, " ")
}

func expects(x upstream.Target) string {
	var out []string
	for _, i := range x.Expect {
		out = append(out, i.Principal())
	}
	return strings.Join(out, " ")
}

func TestDefaults(t *testing.T) {
	w := compiled(t, shop(t))
	if len(w.Inbound) != 0 {
		t.Errorf("without ingress %d listeners accept", len(w.Inbound))
	}
	if len(w.Outbound) != 1 || w.Outbound[0].Kind != HTTPProxy || w.Outbound[0].Bind.String() != "127.0.10.1:15001" || w.Outbound[0].DefaultPort() != 80 {
		t.Fatalf("outbound is %+v", w.Outbound)
	}
	if !w.AllowAny || w.Program == nil {
		t.Errorf("AllowAny %v, program %v", w.AllowAny, w.Program)
	}
	c := cluster(t, w, "outbound|8080||cart.shop.svc.cluster.local")
	if addresses(c) != "127.0.10.2:8080 127.0.10.3:8080" || c.ALPN != "istio-http/1.1" || c.Policy != upstream.LeastRequest ||
		c.SNI != "outbound_.8080_._.cart.shop.svc.cluster.local" || c.ConnectTimeout != 10*time.Second || c.Local != w.Self.Address {
		t.Errorf("cluster is %+v", c)
	}
	if got := expects(c.Targets[0]); !c.Targets[0].MTLS || got != "cluster.local/ns/shop/sa/cart cluster.local/ns/shop/sa/cart-next" {
		t.Errorf("mTLS %v, expected identities %q", c.Targets[0].MTLS, got)
	}
	if *c.Destination != (proxy.Destination{Service: "cart.shop.svc.cluster.local", ServiceName: "cart", ServiceNamespace: "shop"}) {
		t.Errorf("destination is %+v", *c.Destination)
	}
	if p := c.Targets[1].Party; p == nil || p.Workload != "cart-v2" || p.CanonicalService != "cart" || p.CanonicalRevision != "v2" {
		t.Errorf("party is %+v", p)
	}
	admin := cluster(t, w, "outbound|9090||cart.shop.svc.cluster.local")
	if x := admin.Targets[2]; x.MTLS || len(x.Expect) != 0 {
		t.Errorf("an endpoint without service account is dialled with %+v", x)
	}
	if tcp := cluster(t, w, "outbound|4222||nats.infra"); tcp.ALPN != "istio" || tcp.Destination.ServiceName != "nats.infra" {
		t.Errorf("TCP cluster is %+v", tcp)
	}
	for authority, want := range map[string]string{
		"cart.shop.svc.cluster.local:8080": "outbound|8080||cart.shop.svc.cluster.local",
		"cart:8080":                        "outbound|8080||cart.shop.svc.cluster.local",
		"cart.shop:9090":                   "outbound|9090||cart.shop.svc.cluster.local",
		"CART.shop.svc:8080":               "outbound|8080||cart.shop.svc.cluster.local",
		"web.shop":                         "outbound|80||web.shop",
		"web":                              "", "cart": "", "nats.infra": "", "cart.infra:8080": "",
	} {
		got := ""
		if h, ok := w.Outbound[0].Table.Lookup(authority, 80); ok {
			got = h.Match(&route.Request{Head: &proxy.Head{Path: "/"}}).Destinations[0].Cluster
		}
		if got != want {
			t.Errorf("%s goes to %q, want %q", authority, got, want)
		}
	}
	h, ok := w.Outbound[0].Table.Lookup("nats.infra:4222", 80)
	if !ok || h.HTTP || len(h.Tunnel) != 1 || h.Tunnel[0].Cluster != "outbound|4222||nats.infra" {
		t.Errorf("CONNECT to a TCP port: %+v", h)
	}
}

func TestIngress(t *testing.T) {
	v := shop(t)
	v.Sidecar = sidecar(t, `
ingress:
- {port: {number: 8000, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:3000"}
- {port: {number: 8001, protocol: TCP, name: tcp}}
- {port: {number: 8002, protocol: HTTP2, name: h2}, defaultEndpoint: "0.0.0.0:3002", bind: 0.0.0.0}
- {port: {number: 8003, protocol: http, name: http}, defaultEndpoint: "unix:///run/app.sock"}
- {port: {number: 8004, protocol: HTTP, name: http}, defaultEndpoint: "[::1]:3004"}
outboundTrafficPolicy: {}
`)
	w := compiled(t, v)
	if w.AllowAny {
		t.Error("an empty outboundTrafficPolicy is REGISTRY_ONLY")
	}
	var got []string
	for _, in := range w.Inbound {
		got = append(got, fmt.Sprintf("%s http=%v %s -> %s (%s)", in.Bind, in.HTTP, in.Mode, addresses(cluster(t, w, in.Cluster)), in.Service.Service))
	}
	want := []string{
		"127.0.10.1:8000 http=true PERMISSIVE -> 127.0.0.1:3000 (web.shop)",
		"127.0.10.1:8001 http=false PERMISSIVE -> 127.0.0.1:8001 ()",
		"0.0.0.0:8002 http=false PERMISSIVE -> 127.0.10.1:3002 ()",
		"127.0.10.1:8003 http=true PERMISSIVE -> unix:///run/app.sock ()",
		"127.0.10.1:8004 http=true PERMISSIVE -> [::1]:3004 ()",
	}
	if !slices.Equal(got, want) {
		t.Errorf("inbound is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, bad := range []string{
		`{ingress: [{port: {number: 8000, protocol: HTTP}, defaultEndpoint: "10.0.0.1:80"}]}`,
		`{ingress: [{port: {number: 8000, protocol: HTTP}, defaultEndpoint: "0.0.0.0:8000"}]}`,
		`{ingress: [{port: {number: 8000, protocol: HTTP}, defaultEndpoint: "unix://relative"}]}`,
		`{ingress: [{port: {number: 8000, protocol: HTTP}}, {port: {number: 8000, protocol: TCP}, bind: 127.0.0.1}]}`,
		`{ingress: [{port: {number: 0, protocol: HTTP}}]}`,
		`{ingress: [{port: {number: 70000, protocol: HTTP}}]}`,
		`{ingress: [{port: {number: 80, protocol: HTTP}, bind: "unix:///x"}]}`,
		`{ingress: [{port: {number: 15001, protocol: HTTP}}]}`,
	} {
		v.Sidecar = sidecar(t, bad)
		if _, err := Compile(v, NewOffline()); err == nil {
			t.Errorf("%s was compiled", bad)
		}
	}
}

func TestMode(t *testing.T) {
	policy := func(ns, text string) *mesh.Typed[*security.PeerAuthentication] {
		return &mesh.Typed[*security.PeerAuthentication]{Meta: meta("PeerAuthentication", ns, "x"), Spec: spec(t, text, &security.PeerAuthentication{})}
	}
	strictMesh := policy("istio-system", `mtls: {mode: STRICT}`)
	for _, c := range []struct {
		name string
		pas  []*mesh.Typed[*security.PeerAuthentication]
		want Mode
	}{
		{"none", nil, Permissive},
		{"mesh", []*mesh.Typed[*security.PeerAuthentication]{strictMesh}, Strict},
		{"namespace over mesh", []*mesh.Typed[*security.PeerAuthentication]{policy("shop", `mtls: {mode: DISABLE}`), strictMesh}, Disable},
		{"oldest of a scope", []*mesh.Typed[*security.PeerAuthentication]{policy("shop", `mtls: {mode: DISABLE}`), policy("shop", `mtls: {mode: STRICT}`)}, Disable},
		{"workload over namespace", []*mesh.Typed[*security.PeerAuthentication]{
			policy("shop", `{selector: {matchLabels: {app: web}}, mtls: {mode: PERMISSIVE}}`), policy("shop", `mtls: {mode: DISABLE}`), strictMesh}, Permissive},
		{"port over workload", []*mesh.Typed[*security.PeerAuthentication]{
			policy("shop", `{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {8000: {mode: DISABLE}}}`)}, Disable},
		{"another port", []*mesh.Typed[*security.PeerAuthentication]{
			policy("shop", `{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {8001: {mode: DISABLE}}}`)}, Strict},
		{"unset inherits", []*mesh.Typed[*security.PeerAuthentication]{
			policy("shop", `{selector: {matchLabels: {app: web}}, mtls: {mode: UNSET}, portLevelMtls: {8000: {mode: UNSET}}}`), policy("shop", `{}`), strictMesh}, Strict},
	} {
		v := shop(t)
		v.PeerAuthentication = c.pas
		if got := modeOf(v, 8000); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
