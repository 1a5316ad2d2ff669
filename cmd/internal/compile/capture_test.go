package compile

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh"
)

// podView is the pod shop/web-1: an endpoint of web (HTTP 80 -> 8080, nothing declared 90 -> 9090, GRPC 7000), caller of cart
// (VIP, canary), db (headless), ext (ExternalName), api.example.com (ServiceEntry, DNS) and pods that it asked for.
func podView(t testing.TB) *mesh.View {
	pod := func(name, sa, addr string, labels map[string]string) *mesh.Workload {
		w := &mesh.Workload{Namespace: "shop", Name: name, ServiceAccount: sa, Address: netip.MustParseAddr(addr), Labels: labels, Pod: true,
			TLSMode: "disabled", Owner: strings.TrimRight(name, "-0123456789")}
		if sa != "" {
			w.ID, w.TLSMode = id(t, "shop", sa), "istio"
		}
		return w
	}
	web := pod("web-1", "web", "10.1.0.1", map[string]string{"app": "web"})
	c1 := pod("cart-1", "cart", "10.1.0.2", map[string]string{"version": "v1"})
	c2 := pod("cart-2", "cart", "10.1.0.3", map[string]string{"version": "v2"})
	db := pod("db-0", "db", "10.1.0.4", nil)
	old := pod("old-0", "", "10.1.0.5", nil)
	at := func(w *mesh.Workload, port string) mesh.Endpoint {
		return mesh.Endpoint{Address: w.Address.String() + ":" + port, Labels: w.Labels, Identity: w.ID, TLSMode: w.TLSMode, Workload: "shop/" + w.Name}
	}
	service := func(name string, vip string, ports []mesh.ServicePort, endpoints ...[]mesh.Endpoint) *mesh.Service {
		s := &mesh.Service{Namespace: "shop", Name: name, Host: name + ".shop.svc.cluster.local", Kubernetes: true, Ports: ports, Endpoints: endpoints}
		if vip != "" {
			s.Addresses = []netip.Prefix{netip.MustParsePrefix(vip)}
		}
		return s
	}
	port := func(number, target uint32, p mesh.Protocol, declared string) mesh.ServicePort {
		return mesh.ServicePort{Number: number, Target: target, Protocol: p, Declared: declared}
	}
	cart := service("cart", "10.96.0.2/32", []mesh.ServicePort{port(80, 8080, mesh.HTTP, "HTTP"), port(81, 8081, mesh.Detect, ""), port(82, 8082, mesh.TCP, "TCP")},
		[]mesh.Endpoint{at(c1, "8080"), at(c2, "8080")}, []mesh.Endpoint{at(c1, "8081"), at(c2, "8081")}, []mesh.Endpoint{at(c1, "8082")})
	headless := service("db", "", []mesh.ServicePort{port(5432, 5432, mesh.TCP, "TCP")}, []mesh.Endpoint{at(db, "5432"), at(old, "5432")})
	headless.Resolution = mesh.Original
	ext := service("ext", "", []mesh.ServicePort{port(80, 80, mesh.Detect, "")}, []mesh.Endpoint{{Address: "www.example.org:80", TLSMode: "disabled"}})
	ext.Resolution = mesh.ByDNS
	api := &mesh.Service{Namespace: "shop", Name: "api", Host: "api.example.com", Resolution: mesh.ByDNS, External: true,
		Ports: []mesh.ServicePort{port(80, 8443, mesh.HTTP, "HTTP")}}
	web2 := service("web", "10.96.0.1/32", []mesh.ServicePort{port(80, 8080, mesh.HTTP, "HTTP"), port(90, 9090, mesh.Detect, ""), port(7000, 7000, mesh.TCP, "GRPC")},
		[]mesh.Endpoint{at(web, "8080")}, []mesh.Endpoint{at(web, "9090")}, []mesh.Endpoint{at(web, "7000")})
	return &mesh.View{TrustDomain: "cluster.local", Self: web, Peers: []*mesh.Workload{web, c1, c2, db, old},
		Mesh:     mesh.Settings{RootNamespace: "istio-system", ConnectTimeout: 10 * time.Second, AllowAny: true, ProtocolDetectionTimeout: 5 * time.Second},
		Services: []*mesh.Service{api, cart, headless, ext}, Served: []*mesh.Service{web2},
		Asked: map[string]mesh.Answer{"10.1.0.3": {Workload: "shop/cart-2"}, "10.1.0.5": {Workload: "shop/old-0"}, "93.184.216.34": {}}}
}

func TestCapturePorts(t *testing.T) {
	v := podView(t)
	v.PeerAuthentication = []*mesh.Typed[*security.PeerAuthentication]{{Meta: meta("PeerAuthentication", "shop", "web"), Spec: spec(t,
		`{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {"9090": {mode: DISABLE}, "9999": {mode: PERMISSIVE}}}`, &security.PeerAuthentication{})}}
	v.Sidecar = sidecar(t, `{ingress: [{port: {number: 6000, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:6001"}]}`)
	v.Authorization = []*mesh.Typed[*security.AuthorizationPolicy]{{Meta: meta("AuthorizationPolicy", "shop", "get"), Spec: spec(t,
		`{rules: [{to: [{operation: {methods: [GET]}}]}]}`, &security.AuthorizationPolicy{})}}
	w := compiled(t, v)
	got := map[uint16]Inbound{}
	for _, p := range append(w.Inbound, w.Capture.Rest) {
		got[p.Bind.Port()] = p
	}
	for port, want := range map[uint16]struct {
		http, detect bool
		mode         Mode
		service      string
	}{
		8080: {true, false, Strict, "web.shop.svc.cluster.local"},
		9090: {true, true, Disable, "web.shop.svc.cluster.local"},
		7000: {false, false, Strict, "web.shop.svc.cluster.local"},
		9999: {true, true, Permissive, ""},
		6000: {true, false, Strict, ""},
		0:    {true, true, Strict, ""},
	} {
		p, ok := got[port]
		if !ok || p.HTTP != want.http || p.Detect != want.detect || p.Mode != want.mode || p.Service.Service != want.service {
			t.Errorf("port %d: %+v", port, p)
		}
	}
	if c := cluster(t, w, "inbound|8080||"); !c.Original || c.Local.String() != "127.0.0.6" || c.Local6.String() != "::6" || len(c.Targets) > 0 {
		t.Errorf("%+v", c)
	}
	if c := cluster(t, w, "inbound|6000||"); c.Original || c.Local.IsValid() || c.Targets[0].Address != "127.0.0.1:6001" {
		t.Errorf("%+v", c)
	}
	if c := cluster(t, w, InboundPassthrough); !c.Original {
		t.Errorf("%+v", c)
	}
	warned := strings.Join(w.Warnings, "\n")
	for _, want := range []string{"port 7000 declares GRPC", "port 9090 declares no protocol", "AuthorizationPolicy shop/get"} {
		if !strings.Contains(warned, want) {
			t.Errorf("no warning %q in %s", want, warned)
		}
	}
	if strings.Contains(warned, "port 8080") {
		t.Errorf("a warning of an HTTP port: %s", warned)
	}
}

func TestCaptureRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{ingress: [{port: {number: 80, protocol: HTTP, name: http}, bind: 127.0.0.1}]}`:                 "spec.ingress[0].bind",
		`{ingress: [{port: {number: 80}, defaultEndpoint: "10.0.0.1:80"}]}`:                              "spec.ingress[0].defaultEndpoint",
		`{ingress: [{port: {number: 80}}, {port: {number: 80}}]}`:                                        "spec.ingress[1].port.number",
		`{egress: [{hosts: ["./*"]}, {port: {number: 80, protocol: HTTP, name: http}, hosts: ["./*"]}]}`: "spec.egress[1]",
	} {
		v := podView(t)
		v.Sidecar = sidecar(t, text)
		if _, err := Compile(v, NewOffline()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCaptureCalls(t *testing.T) {
	v := podView(t)
	v.VirtualServices = []*mesh.Typed[*networking.VirtualService]{virtualService(t, "shop", "canary", `{hosts: [cart], http: [{name: split, route: [
		{destination: {host: cart, subset: v1}, weight: 90}, {destination: {host: cart, subset: v2}, weight: 10}]}]}`)}
	v.DestinationRules = []*mesh.Typed[*networking.DestinationRule]{destinationRule(t, "shop", "cart",
		`{host: cart, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}`)}
	w := compiled(t, v)
	at := func(to string) (string, bool) {
		host, known := w.Capture.Addresses.Lookup(netip.MustParseAddrPort(to))
		switch {
		case host == nil:
			return "", known
		case !host.HTTP:
			return "TCP " + host.Tunnel[0].Cluster, known
		case host.Detect:
			return "? " + host.Routes[0].Name + " " + host.Tunnel[0].Cluster, known
		}
		return "HTTP " + host.Routes[0].Name, known
	}
	for to, want := range map[string]string{
		"10.96.0.2:80":     "HTTP split",
		"10.96.0.2:81":     "? split outbound|81||cart.shop.svc.cluster.local",
		"10.96.0.2:82":     "TCP outbound|82||cart.shop.svc.cluster.local",
		"10.1.0.4:5432":    "TCP outbound|5432||db.shop.svc.cluster.local",
		"10.1.0.3:1234":    "? default outbound|||cart-2.shop.pod",
		"10.1.0.5:5432":    "TCP outbound|5432||db.shop.svc.cluster.local",
		"10.1.0.5:80":      "",
		"93.184.216.34:80": "",
	} {
		if got, known := at(to); got != want || !known {
			t.Errorf("%s: %q %t, want %q", to, got, known, want)
		}
	}
	if got, known := at("10.1.0.2:8080"); got != "" || known { // a pod that nobody asked for
		t.Errorf("%q %t", got, known)
	}
	for authority, there := range map[string]bool{"api.example.com": true, "ext.shop.svc.cluster.local": true, "ext": true, "cart": false, "db": false} {
		if _, ok := w.Capture.Hosts.Lookup(authority, 80); ok != there {
			t.Errorf("host %s: %t", authority, ok)
		}
	}
	if w.Outbound[0].Kind != Captured || w.Outbound[0].Table.Len() == 0 {
		t.Errorf("%+v", w.Outbound)
	}
	v.Asked = nil // everything is known: all pods, and whatever is not there means nothing
	w = compiled(t, v)
	if got, known := at("10.1.0.2:8080"); got != "? default outbound|||cart-1.shop.pod" || !known {
		t.Errorf("%q %t", got, known)
	}
	if got, known := at("8.8.8.8:53"); got != "" || !known {
		t.Errorf("%q %t", got, known)
	}
}

func TestCaptureClusters(t *testing.T) {
	v := podView(t)
	w := compiled(t, v)
	if c := cluster(t, w, "outbound|81||cart.shop.svc.cluster.local"); c.ALPN != alpnHTTP || c.StreamALPN != alpnTCP || c.Local.IsValid() || !c.Targets[0].MTLS {
		t.Errorf("%+v", c)
	}
	if c := cluster(t, w, "outbound|5432||db.shop.svc.cluster.local"); !c.Original || len(c.Targets) != 2 || !c.Targets[0].MTLS || c.Targets[1].MTLS {
		t.Errorf("%+v", c)
	}
	if c := cluster(t, w, "outbound|80||api.example.com"); !c.Resolve || c.Targets[0].Address != "api.example.com:8443" || c.Targets[0].MTLS {
		t.Errorf("%+v", c)
	}
	if c := cluster(t, w, "outbound|80||ext.shop.svc.cluster.local"); !c.Resolve || c.Targets[0].Address != "www.example.org:80" {
		t.Errorf("%+v", c)
	}
	if c := cluster(t, w, "outbound|||cart-2.shop.pod"); !c.Original || !c.Template.MTLS || c.Template.Expect[0] != id(t, "shop", "cart") || len(c.Targets) > 0 {
		t.Errorf("%+v", c)
	}
	if p := w.Parties.Workload("shop/cart-1"); p != w.Parties.Workload("shop/cart-2") && p.Version == w.Parties.Workload("shop/cart-2").Version || p.Workload != "cart" {
		t.Errorf("%+v", p)
	}
	for _, s := range v.Services { // scaled to nothing: a call must not go on as it was made, in plaintext
		s.Endpoints = nil
	}
	if c := cluster(t, compiled(t, v), "outbound|5432||db.shop.svc.cluster.local"); c.Original || len(c.Targets) > 0 {
		t.Errorf("%+v", c)
	}
}
