package compile

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/identity"
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
	c2.Others = []netip.Addr{netip.MustParseAddr("fd00:1::3")}
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
	v.Plain = map[string]mesh.Plain{"shop/cart-2": "9090", "shop/cart-1": "!8081"}
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
		"[fd00:1::3]:1234": "? default outbound|||cart-2.shop.pod",
		"10.1.0.5:5432":    "TCP outbound|5432||db.shop.svc.cluster.local",
		"10.1.0.5:80":      "",
		"10.1.0.3:9090":    "? default outbound||plain|cart-2.shop.pod", // PeerAuthentication DISABLE
		"[fd00:1::3]:9090": "? default outbound||plain|cart-2.shop.pod",
		"93.184.216.34:80": "",
	} {
		if got, known := at(to); got != want || !known {
			t.Errorf("%s: %q %t, want %q", to, got, known, want)
		}
	}
	// A pod that nobody asked for: of what a headless Service does not list nothing is known, and nothing goes on in plaintext.
	for _, to := range []string{"10.1.0.2:8080", "10.1.0.4:9999"} {
		if got, known := at(to); got != "" || known {
			t.Errorf("%s: %q %t", to, got, known)
		}
	}
	for authority, there := range map[string]bool{"api.example.com": true, "ext.shop.svc.cluster.local": true, "ext": true, "cart": false, "db": false} {
		if _, ok := w.Capture.Hosts.Lookup(authority, 80); ok != there {
			t.Errorf("host %s: %t", authority, ok)
		}
	}
	if w.Outbound[0].Kind != Captured || w.Outbound[0].Table.Len() == 0 {
		t.Errorf("%+v", w.Outbound)
	}
	cart := identity.Peer{ID: id(t, "shop", "cart")}
	for _, addr := range []string{"10.1.0.3", "fd00:1::3"} {
		if p := w.Parties.Source(cart, netip.MustParseAddr(addr)); p.Version != "v2" {
			t.Errorf("the caller at %s is %+v", addr, p)
		}
		if to := netip.AddrPortFrom(netip.MustParseAddr(addr), 15020); !w.Reserved.Forbids(to) {
			t.Errorf("%s may be called by proxies", to)
		}
	}
	v.Asked = nil // everything is known: all pods, and whatever is not there means nothing
	w = compiled(t, v)
	if got, known := at("10.1.0.2:8081"); got != "? default outbound|||cart-1.shop.pod" || !known {
		t.Errorf("%q %t", got, known)
	}
	if got, known := at("10.1.0.2:8080"); got != "? default outbound||plain|cart-1.shop.pod" || !known {
		t.Errorf("%q %t", got, known)
	}
	if got, known := at("8.8.8.8:53"); got != "" || !known {
		t.Errorf("%q %t", got, known)
	}
}

// What other namespaces say of an address counts only where neither Kubernetes nor the own namespace says something.
func TestCaptureRanksAddresses(t *testing.T) {
	v := podView(t)
	entry := func(ns, host string, created int64, addresses ...string) *mesh.Service {
		s := &mesh.Service{Namespace: ns, Name: "e", Host: host, Created: time.Unix(created, 0), Ports: []mesh.ServicePort{{Number: 80}, {Number: 9999}},
			Endpoints: [][]mesh.Endpoint{{{Address: "10.6.6.6:80"}}, {{Address: "10.6.6.6:80"}}}}
		for _, a := range addresses {
			s.Addresses = append(s.Addresses, netip.MustParsePrefix(a))
		}
		return s
	}
	bad := &mesh.Service{Namespace: "evil", Name: "bad", Host: "aaaa.evil.svc.cluster.local", Kubernetes: true, Resolution: mesh.Original, Ports: []mesh.ServicePort{{Number: 80}},
		Endpoints: [][]mesh.Endpoint{{{Address: "10.1.0.2:80"}, {Address: "10.1.0.4:80"}, {Address: "10.5.0.9:80"}}}}
	assigned := entry("far", "z.far.example", 9, "240.240.0.7/32")
	assigned.Assigned = true
	vip := entry("far", "pay.far.svc.cluster.local", 0, "10.96.0.9/32")
	vip.Kubernetes = true
	everything := []string{"10.1.0.2/32", "10.1.0.4/32", "10.1.0.5/32", "10.96.0.2/32", "10.5.0.1/32", "10.5.0.2/32", "10.5.0.3/32", "240.240.0.7/32", "10.0.0.0/8", "240.0.0.0/8"}
	v.Services = append([]*mesh.Service{bad, entry("evil", "aaa.evil.example", 5, everything...), entry("far", "other.far.example", 4, "10.5.0.2/32"),
		entry("shop", "own.shop.example", 6, "10.5.0.1/32", "10.1.0.5/32", "10.96.0.9/32"), assigned, vip}, v.Services...)
	for i := range v.Services {
		for k := range v.Services[i].Ports {
			v.Services[i].Ports[k].Protocol = mesh.TCP
		}
	}
	check := func(want map[string]string) {
		t.Helper()
		w := compiled(t, v)
		for to, want := range want {
			got := ""
			if host, known := w.Capture.Addresses.Lookup(netip.MustParseAddrPort(to)); host != nil {
				got = host.Tunnel[0].Cluster
			} else if !known {
				got = "?"
			}
			if got != want {
				t.Errorf("%s: %q, want %q", to, got, want)
			}
		}
	}
	check(map[string]string{
		"10.1.0.2:80":       "?", // a pod that nobody asked for
		"10.1.0.4:9999":     "?",
		"10.1.0.4:5432":     "outbound|5432||db.shop.svc.cluster.local",
		"10.1.0.3:80":       "outbound|||cart-2.shop.pod",
		"10.96.0.2:80":      "outbound|80||cart.shop.svc.cluster.local",
		"10.96.0.2:9999":    "",
		"10.5.0.1:80":       "outbound|80||own.shop.example",
		"10.1.0.5:80":       "outbound|80||own.shop.example", // its own namespace may say so, also of a pod
		"10.96.0.9:80":      "outbound|80||own.shop.example",
		"10.5.0.2:80":       "?",
		"240.240.0.7:80":    "outbound|80||z.far.example",
		"240.240.0.7:12345": "",
	})
	for name, a := range map[string]mesh.Answer{"10.1.0.2": {Workload: "shop/cart-1"}, "10.1.0.4": {Host: "db.shop.svc.cluster.local", Workload: "shop/db-0"},
		"10.5.0.2": {Host: "other.far.example"}, "10.5.0.3": {}, "10.5.0.9": {Host: "aaaa.evil.svc.cluster.local"}, "10.7.7.7": {Host: "aaa.evil.example"}} {
		v.Asked[name] = a
	}
	asked := map[string]string{
		"10.1.0.2:80":   "outbound|||cart-1.shop.pod",
		"10.1.0.4:80":   "outbound|||db-0.shop.pod",
		"10.1.0.4:9999": "outbound|||db-0.shop.pod",
		"10.5.0.2:80":   "outbound|80||other.far.example", // the older
		"10.5.0.9:80":   "outbound|80||aaaa.evil.svc.cluster.local",
		"10.7.7.7:9999": "outbound|9999||aaa.evil.example",
	}
	check(asked)
	check(map[string]string{"10.5.0.3:80": ""}) // it means nothing to this caller, and so no range has it
	v.Asked = nil
	asked["10.5.0.3:80"] = "outbound|80||aaa.evil.example"
	asked["10.96.0.2:9999"] = ""
	check(asked)
	warned := strings.Join(compiled(t, v).Warnings, "\n")
	for _, want := range []string{"ServiceEntry evil/e: 10.1.0.2 is the address of a Service or a pod", "Service evil/bad: 10.1.0.4 is"} {
		if !strings.Contains(warned, want) {
			t.Errorf("no warning %q in %s", want, warned)
		}
	}
	if strings.Contains(warned, "shop/db") {
		t.Errorf("a warning of a Service's own pods: %s", warned)
	}
}

// What a ServiceEntry of anybody names as its endpoint must not be what the sidecar serves for its own pod.
func TestClosedEndpoints(t *testing.T) {
	endpoints := func(addresses ...string) (out []mesh.Endpoint) {
		for _, a := range addresses {
			out = append(out, mesh.Endpoint{Address: a})
		}
		return out
	}
	entry := func(ns, host string, r mesh.Resolution, e []mesh.Endpoint) *mesh.Service {
		return &mesh.Service{Namespace: ns, Name: "e", Host: host, Resolution: r, Ports: []mesh.ServicePort{{Number: 15020}}, Endpoints: [][]mesh.Endpoint{e}}
	}
	v := podView(t)
	v.Self.Others = []netip.Addr{netip.MustParseAddr("fd00:1::1")}
	v.Services = []*mesh.Service{entry("evil", "a.example", mesh.Static, endpoints("unix:///var/run/signet/sds.sock", "127.0.0.1:15020", "[::1]:15000", "[::ffff:127.0.0.9]:15099",
		"10.1.0.1:15020", "[fd00:1::1]:15001", "127.0.0.1:14999", "127.0.0.1:15100", "10.1.0.2:15020")),
		entry("shop", "b.example", mesh.Static, endpoints("unix:///run/app.sock", "10.5.0.1:80")), entry("evil", "127.0.0.1", mesh.ByDNS, nil),
		entry("evil", "d.example", mesh.ByDNS, endpoints("127.0.0.1:15020", "localhost:15020"))}
	w := compiled(t, v)
	for host, want := range map[string]string{"a.example": "127.0.0.1:14999 127.0.0.1:15100 10.1.0.2:15020", "b.example": "10.5.0.1:80", "127.0.0.1": "", "d.example": "localhost:15020"} {
		if got := addresses(cluster(t, w, "outbound|15020||"+host)); got != want {
			t.Errorf("%s leads to %q, want %q", host, got, want)
		}
	}
	warned := strings.Join(w.Warnings, "\n")
	for _, want := range []string{"ServiceEntry evil/e: spec.endpoints[0].address: unix:///var/run/signet/sds.sock is left out: a pod's sidecar calls no Unix socket",
		"ServiceEntry evil/e: spec.endpoints[1].address: 127.0.0.1:15020 is left out: the sidecar's own ports are not called", "ServiceEntry evil/e: spec.hosts: 127.0.0.1:15020 is left out"} {
		if !strings.Contains(warned, want) {
			t.Errorf("no warning %q in %s", want, warned)
		}
	}
	v = shop(t) // off Kubernetes a Unix socket is for workloads of the entry's namespace
	v.Services = []*mesh.Service{entry("infra", "a.example", mesh.Static, endpoints("unix:///run/nats.sock", "127.0.0.1:15020")),
		entry("shop", "b.example", mesh.Static, endpoints("unix:///run/app.sock"))}
	w = compiled(t, v)
	for host, want := range map[string]string{"a.example": "127.0.0.1:15020", "b.example": "unix:///run/app.sock"} {
		if got := addresses(cluster(t, w, "outbound|15020||"+host)); got != want {
			t.Errorf("%s leads to %q, want %q", host, got, want)
		}
	}
	if warned := strings.Join(w.Warnings, "\n"); !strings.Contains(warned, "spec.endpoints[0].address: unix:///run/nats.sock is left out: a Unix socket is called by workloads of namespace infra only") {
		t.Errorf("warned of %s", warned)
	}
}

func TestCaptureClusters(t *testing.T) {
	v := podView(t)
	v.Plain = map[string]mesh.Plain{"shop/cart-2": "9090"}
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
	if c := cluster(t, w, "outbound||plain|cart-2.shop.pod"); !c.Original || c.Template.MTLS || c.ALPN+c.SNI != "" {
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
