package compile

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

const cartHost = "cart.shop.svc.cluster.local"

func TestDestinationRule(t *testing.T) {
	v := shop(t)
	v.DestinationRules = []*mesh.Typed[*networking.DestinationRule]{
		destinationRule(t, "istio-system", "everywhere", `{host: "*", trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {connectTimeout: 1s}}}}`),
		destinationRule(t, "shop", "wild", `{host: "*.svc.cluster.local", trafficPolicy: {loadBalancer: {simple: RANDOM}}}`),
		destinationRule(t, "shop", "cart", `
host: cart
trafficPolicy:
  loadBalancer: {simple: ROUND_ROBIN}
  connectionPool: {tcp: {connectTimeout: 2s}}
  tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["spiffe://cluster.local/ns/shop/sa/only"]}
  portLevelSettings:
  - {port: {number: 9090}, tls: {mode: DISABLE}}
subsets:
- {name: v1, labels: {version: v1}}
- {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
- {name: gone, labels: {version: v9}}
`),
		destinationRule(t, "shop", "cart-more", `{host: cart.shop.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v2}}, {name: late, labels: {app: cart}}]}`),
	}
	w := compiled(t, v)
	for _, c := range []struct {
		name, addresses string
		lb              upstream.Policy
		timeout         time.Duration
		mtls            bool
		expect          string
	}{
		{"outbound|8080||" + cartHost, "127.0.10.2:8080 127.0.10.3:8080", upstream.RoundRobin, 2 * time.Second, true, "cluster.local/ns/shop/sa/only"},
		{"outbound|8080|v1|" + cartHost, "127.0.10.2:8080", upstream.RoundRobin, 2 * time.Second, true, "cluster.local/ns/shop/sa/only"},
		{"outbound|8080|v2|" + cartHost, "127.0.10.3:8080", upstream.Random, 2 * time.Second, true, "cluster.local/ns/shop/sa/only"},
		{"outbound|8080|late|" + cartHost, "127.0.10.2:8080 127.0.10.3:8080", upstream.RoundRobin, 2 * time.Second, true, "cluster.local/ns/shop/sa/only"},
		// Settings of a port inherit nothing.
		{"outbound|9090|v1|" + cartHost, "127.0.10.2:9090", upstream.LeastRequest, 10 * time.Second, false, ""},
		{"outbound|4222||nats.infra", "127.0.20.1:4222", upstream.Random, time.Second, true, "cluster.local/ns/infra/sa/nats"},
	} {
		s := cluster(t, w, c.name)
		if addresses(s) != c.addresses || s.Policy != c.lb || s.ConnectTimeout != c.timeout || s.Targets[0].MTLS != c.mtls || expects(s.Targets[0]) != c.expect {
			t.Errorf("%s: %+v", c.name, s)
		}
	}
	if s := cluster(t, w, "outbound|8080|gone|"+cartHost); len(s.Targets) != 0 {
		t.Errorf("a subset without endpoints has %v", s.Targets)
	}
	if got := cluster(t, w, "outbound|8080|v1|"+cartHost).SNI; got != "outbound_.8080_.v1_."+cartHost {
		t.Errorf("SNI %q", got)
	}
	if len(w.Warnings) == 0 || !strings.Contains(strings.Join(w.Warnings, "\n"), `"gone"`) {
		t.Errorf("warnings %q don't name the empty subset", w.Warnings)
	}
	for _, bad := range []string{
		`{host: cart, trafficPolicy: {tls: {mode: SIMPLE}}}`,
		`{host: cart, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}`,
		`{host: cart, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}`,
	} {
		v.DestinationRules = []*mesh.Typed[*networking.DestinationRule]{destinationRule(t, "shop", "bad", bad)}
		if _, err := Compile(v, NewOffline()); err == nil || !strings.Contains(err.Error(), "DestinationRule shop/bad") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// take matches a request on the default proxy and says which route it takes and where that leads.
func take(t *testing.T, w *Workload, authority string, h proxy.Head) (*route.Route, string) {
	t.Helper()
	v, ok := w.Outbound[0].Table.Lookup(authority, 80)
	if !ok {
		return nil, "unknown host"
	}
	h.Authority = authority
	r := v.Match(&route.Request{Head: &h})
	if r == nil {
		return nil, "no route"
	}
	var to []string
	for _, d := range r.Destinations {
		to = append(to, fmt.Sprintf("%s*%d", strings.TrimSuffix(d.Cluster, cartHost), d.Weight))
	}
	return r, r.Name + " " + strings.Join(to, " ")
}

// canary is the shop with a VirtualService that uses most of what one can say.
func canary(t *testing.T) *mesh.View {
	v := shop(t)
	v.VirtualServices = []*mesh.Typed[*networking.VirtualService]{virtualService(t, "shop", "cart", `
hosts: [cart]
http:
- name: elsewhere
  match: [{sourceLabels: {app: other}}, {sourceNamespace: infra}, {gateways: [ingress]}]
  route: [{destination: {host: nats.infra}}]
- name: admin
  match: [{port: 9090}]
  directResponse: {status: 418, body: {string: teapot}}
- name: canary
  match:
  - {name: jason, headers: {x-user: {exact: jason}}, uri: {prefix: /cart}}
  - {name: query, queryParams: {canary: {}}}
  route: [{destination: {host: cart, subset: v2}}]
  rewrite: {uri: /v2, authority: new.cart}
  timeout: 1.5s
  retries: {attempts: 3, perTryTimeout: 200ms, retryOn: "5xx,409", backoff: 1s}
- name: move
  match: [{uri: {exact: /old}}]
  redirect: {uri: /new, redirectCode: 308}
- name: split
  route:
  - {destination: {host: cart, subset: v1}, weight: 90, headers: {request: {set: {x-to: one}}}}
  - {destination: {host: cart, subset: v2, port: {number: 8080}}, weight: 10}
  headers: {response: {add: {x-via: signet}}}
  retries: {attempts: 0}
`)}
	v.DestinationRules = []*mesh.Typed[*networking.DestinationRule]{destinationRule(t, "shop", "cart",
		`{host: cart, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}`)}
	return v
}

func TestVirtualService(t *testing.T) {
	w := compiled(t, canary(t))
	jason := proxy.Head{Path: "/cart/7", Fields: []proxy.Field{{Name: "x-user", Value: "jason"}}}
	for _, c := range []struct {
		authority string
		head      proxy.Head
		want      string
	}{
		{"cart:8080", jason, "canary.jason outbound|8080|v2|*0"},
		{"cart:8080", proxy.Head{Path: "/x", Query: "?canary"}, "canary.query outbound|8080|v2|*0"},
		{"cart:8080", proxy.Head{Path: "/x"}, "split outbound|8080|v1|*90 outbound|8080|v2|*10"},
		{"cart:8080", proxy.Head{Path: "/old"}, "move "},
		{"cart:9090", jason, "admin "},
		{"web.shop", jason, "default outbound|80||web.shop*0"},
	} {
		if _, got := take(t, w, c.authority, c.head); got != c.want {
			t.Errorf("%s%s takes %q, want %q", c.authority, c.head.Path, got, c.want)
		}
	}
	r, _ := take(t, w, "cart:8080", jason)
	if r.Timeout != 1500*time.Millisecond || r.Retry.Attempts != 3 || r.Retry.PerTryTimeout != 200*time.Millisecond || !r.Retry.Explicit ||
		r.Retry.On != route.On5xx|route.OnRetriableStatusCodes || r.Retry.Backoff != time.Second {
		t.Errorf("canary route is %+v", r)
	}
	h := proxy.Head{Path: "/cart/7"}
	if r.ApplyRequest(&h, &r.Destinations[0]); h.Path != "/v2/7" || h.Authority != "new.cart" {
		t.Errorf("rewritten to %s at %s", h.Path, h.Authority)
	}
	r, _ = take(t, w, "cart:8080", proxy.Head{Path: "/x"})
	if r.Retry.Attempts != 0 || len(r.Headers.Response.Add) != 1 || len(r.Destinations[0].Headers.Request.Set) != 1 {
		t.Errorf("split route is %+v", r)
	}
	random, first := rand.New(rand.NewPCG(3, 4)), 0
	for range 5000 {
		if strings.Contains(r.Pick(random.Uint64()).Cluster, "|v1|") {
			first++
		}
	}
	if first < 4400 || first > 4600 {
		t.Errorf("90/10 over 5000 came to %d", first)
	}
	if r, _ = take(t, w, "web.shop", jason); r.Retry.Attempts != 2 || r.Retry.On != route.DefaultOn || r.Retry.Explicit {
		t.Errorf("default retries are %+v", r.Retry)
	}
}

func TestVirtualServiceChoice(t *testing.T) {
	answer := func(status int, hosts string) string {
		return fmt.Sprintf(`{hosts: [%s], http: [{directResponse: {status: %d}}]}`, hosts, status)
	}
	v := shop(t)
	v.VirtualServices = []*mesh.Typed[*networking.VirtualService]{
		virtualService(t, "shop", "any", answer(201, `"*"`)),
		virtualService(t, "shop", "wild", answer(202, `"*.svc.cluster.local"`)),
		virtualService(t, "shop", "gateway", `{hosts: [cart], gateways: [ingress], http: [{directResponse: {status: 203}}]}`),
		virtualService(t, "shop", "first", answer(204, "cart")),
		virtualService(t, "shop", "second", answer(205, cartHost)),
		virtualService(t, "shop", "invented", answer(206, "api.example")),
		virtualService(t, "shop", "dangling", `{hosts: [gone.example], http: [{route: [{destination: {host: gone.example}}]}]}`),
	}
	w := compiled(t, v)
	for authority, want := range map[string]int{"cart:8080": 204, cartHost + ":9090": 204, "web.shop": 201, "api.example": 206, "api.example:81": 0} {
		got := 0
		if r, _ := take(t, w, authority, proxy.Head{Path: "/"}); r != nil {
			got = r.Direct.Status
		}
		if got != want {
			t.Errorf("%s is answered %d, want %d", authority, got, want)
		}
	}
	if s := cluster(t, w, "outbound|80||gone.example"); len(s.Targets) != 0 || s.Destination.Service != "gone.example" {
		t.Errorf("a destination that does not exist is %+v", s)
	}
	if !strings.Contains(strings.Join(w.Warnings, "\n"), "gone.example") {
		t.Errorf("warnings %q", w.Warnings)
	}
	v.VirtualServices = v.VirtualServices[1:2]
	if _, got := take(t, compiled(t, v), "web.shop", proxy.Head{Path: "/"}); !strings.HasPrefix(got, "default ") {
		t.Errorf("web.shop takes %q", got)
	}
}

func TestVirtualServiceRefused(t *testing.T) {
	for _, bad := range []string{
		`{match: [{uri: {regex: "("}}], route: [{destination: {host: cart}}]}`,
		`{match: [{headers: {connection: {}}}], route: [{destination: {host: cart}}]}`,
		`{route: [{destination: {host: cart}}, {destination: {host: cart, subset: v2}}]}`,
		`{route: [{destination: {}}]}`,
		`{name: nothing}`,
		`{redirect: {redirectCode: 200}}`,
		`{redirect: {uri: /a, prefixRewrite: /b}}`,
		`{match: [{uri: {exact: /a}}], redirect: {prefixRewrite: /b}}`,
		`{redirect: {authority: "a/b"}}`,
		`{redirect: {uri: "/a b"}}`,
		`{directResponse: {status: 100}}`,
		`{delegate: {name: x}}`,
		`{fault: {abort: {httpStatus: 500}}, route: [{destination: {host: cart}}]}`,
		`{rewrite: {uri: "/a?b"}, route: [{destination: {host: cart}}]}`,
		`{rewrite: {authority: "a b"}, route: [{destination: {host: cart}}]}`,
		`{rewrite: {uriRegexRewrite: {match: "x", rewrite: "\\4"}}, route: [{destination: {host: cart}}]}`,
		`{retries: {attempts: 1, retryOn: sometimes}, route: [{destination: {host: cart}}]}`,
		`{headers: {request: {set: {x: "a\nb"}}}, route: [{destination: {host: cart}}]}`,
	} {
		v := shop(t)
		v.VirtualServices = []*mesh.Typed[*networking.VirtualService]{virtualService(t, "shop", "bad", `{hosts: [cart], http: [`+bad+`]}`)}
		if _, err := Compile(v, NewOffline()); err == nil || !strings.Contains(err.Error(), "VirtualService shop/bad: spec.http[0]") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestEgress(t *testing.T) {
	v := shop(t)
	v.Sidecar = sidecar(t, `
egress:
- {port: {number: 3128, protocol: HTTP_PROXY, name: p}, bind: 127.0.10.1, hosts: ["./cart.shop.svc.cluster.local"]}
- {port: {number: 8080, protocol: HTTP, name: http}, hosts: ["*/*"]}
- {port: {number: 4222, protocol: TCP, name: tcp}, hosts: ["infra/*"]}
- {port: {number: 5222, protocol: TCP, name: tcp}, hosts: ["*/nats.infra"]}
- {port: {number: 6222, protocol: TCP, name: tcp}, hosts: ["infra/gone.example"]}
- {hosts: ["*/*"]}
`)
	w := compiled(t, v)
	var got []string
	for _, o := range w.Outbound {
		line := fmt.Sprintf("%s %s", o.Bind, o.Kind)
		if o.Kind == TCP {
			line += fmt.Sprintf(" %v %s", len(o.Destinations), o.Service.Service)
		}
		got = append(got, line)
	}
	want := "127.0.10.1:3128 HTTP_PROXY, 127.0.0.1:8080 HTTP, 127.0.0.1:4222 TCP 1 nats.infra, 127.0.0.1:5222 TCP 1 nats.infra, 127.0.0.1:6222 TCP 0 "
	if strings.Join(got, ", ") != want {
		t.Errorf("outbound is %s, want %s", strings.Join(got, ", "), want)
	}
	for i, wants := range []map[string]bool{
		{cartHost + ":8080": true, cartHost + ":9090": true, "web.shop": false},
		{cartHost: true, cartHost + ":8080": true, cartHost + ":9090": false, "nats.infra:4222": false, "web.shop:80": false},
	} {
		for authority, want := range wants {
			if _, ok := w.Outbound[i].Table.Lookup(authority, w.Outbound[i].DefaultPort()); ok != want {
				t.Errorf("listener %d knows %s: %v, want %v", i, authority, ok, want)
			}
		}
	}
	for bad, why := range map[string]string{
		`{egress: [{port: {number: 9000, protocol: TCP}, hosts: ["shop/*"]}]}`:                        "neither cart.shop.svc.cluster.local nor web.shop",
		`{egress: [{port: {number: 9000, protocol: TCP}, hosts: ["*/cart.shop.svc.cluster.local"]}]}`: "2 ports",
		`{egress: [{port: {number: 9000, protocol: TCP}, bind: nowhere, hosts: ["*/*"]}]}`:            "nowhere",
	} {
		v.Sidecar = sidecar(t, bad)
		if _, err := Compile(v, NewOffline()); err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "spec.egress[0]") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	v.Sidecar = sidecar(t, `{egress: [{port: {number: 8080, protocol: TCP}, hosts: ["*/*"]}]}`)
	more := *v.Services[0]
	more.Host = "other.shop"
	v.Services = append(v.Services, &more)
	if _, err := Compile(v, NewOffline()); err == nil || !strings.Contains(err.Error(), "both "+cartHost+" and other.shop") {
		t.Errorf("two services of one port: %v", err)
	}
}

func TestVisibility(t *testing.T) {
	for _, c := range []struct {
		hosts []string
		want  string
	}{
		{[]string{"*/*"}, "cart nats web"}, {[]string{"./*"}, "cart web"}, {[]string{"infra/*"}, "nats"},
		{[]string{"~/*"}, ""}, {[]string{"*/*", "~infra/*"}, "cart web"}, {[]string{"*/*.svc.cluster.local"}, "cart"},
		{[]string{"shop/nats.infra"}, ""}, {[]string{"*/NATS.infra."}, "nats"}, {nil, ""},
	} {
		v := shop(t)
		var got []string
		for _, s := range newCompiler(v).visible(parseImports(c.hosts, "shop")) {
			got = append(got, s.Name)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q sees %v, want %q", c.hosts, got, c.want)
		}
	}
}

func TestTCPRoutes(t *testing.T) {
	v := shop(t)
	v.Sidecar = sidecar(t, `{egress: [{port: {number: 4222, protocol: TCP}, hosts: ["*/nats.infra"]}]}`)
	v.VirtualServices = []*mesh.Typed[*networking.VirtualService]{virtualService(t, "infra", "nats", `
hosts: [nats.infra]
tcp:
- {match: [{port: 5000}, {sourceLabels: {app: other}}], route: [{destination: {host: web.shop}}]}
- match: [{port: 4222, sourceNamespace: shop}]
  route: [{destination: {host: nats.infra}, weight: 3}, {destination: {host: cart.shop.svc.cluster.local, port: {number: 8080}}, weight: 1}]
`)}
	w := compiled(t, v)
	ds := w.Outbound[0].Destinations
	if len(ds) != 2 || ds[0].Cluster != "outbound|4222||nats.infra" || ds[0].Weight != 3 || ds[1].Cluster != "outbound|8080||"+cartHost {
		t.Errorf("destinations are %+v", ds)
	}
	if h, ok := w.Outbound[1].Table.Lookup("nats.infra:4222", 80); !ok || len(h.Tunnel) != 2 {
		t.Errorf("CONNECT goes to %+v", h)
	}
	v.VirtualServices[0] = virtualService(t, "infra", "nats", `{hosts: [nats.infra], tcp: [{match: [{destinationSubnets: ["10.0.0.0/8"]}], route: [{destination: {host: nats.infra}}]}]}`)
	if _, err := Compile(v, NewOffline()); err == nil || !strings.Contains(err.Error(), "VirtualService infra/nats: spec.tcp[0]") {
		t.Errorf("a match by subnet: %v", err)
	}
}
