package mesh_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh"
)

// shop is a small cluster: a Service with a ClusterIP and pods with and without a sidecar, a headless one, an ExternalName, a
// ServiceEntry of a range of addresses and one of a name, a canary.
func shop(t *testing.T, more string) []*mesh.Object {
	t.Helper()
	service := func(ns, name, ip string, r networking.ServiceEntry_Resolution, endpoints ...*networking.WorkloadEntry) *mesh.Object {
		spec := &networking.ServiceEntry{Hosts: []string{name + "." + ns + ".svc.k8s.local"}, Resolution: r, Endpoints: endpoints,
			Ports: []*networking.ServicePort{{Number: 80, Name: "http", Protocol: "HTTP", TargetPort: 8080}, {Number: 7000, Name: "any", TargetPort: 7000}}}
		if ip != "" {
			spec.Addresses = []string{ip, "fd00::" + ip[strings.LastIndex(ip, ".")+1:]}
		}
		return &mesh.Object{Spec: spec, Meta: mesh.Meta{Key: mesh.Key{Kind: mesh.KindService, Namespace: ns, Name: name}, Version: "v1", Created: time.Unix(100, 0)}}
	}
	var out []*mesh.Object
	pod := func(ns, name, ip, account, mode string) *networking.WorkloadEntry {
		app, _, _ := strings.Cut(name, "-")
		labels := map[string]string{"app": app, mesh.LabelTLSMode: mode}
		out = append(out, &mesh.Object{Spec: &networking.WorkloadEntry{Address: ip, ServiceAccount: account, Labels: labels},
			Meta: mesh.Meta{Key: mesh.Key{Kind: mesh.KindPod, Namespace: ns, Name: name}, Version: "v1", Created: time.Unix(100, 0),
				Annotations: map[string]string{mesh.OwnerAnnotation: app}}})
		return &networking.WorkloadEntry{Address: ip, ServiceAccount: account, Ports: map[string]uint32{"http": 8080, "any": 7000},
			Labels: map[string]string{"app": app, mesh.LabelTLSMode: mode, mesh.WorkloadLabel: ns + "/" + name}}
	}
	pay1, pay2 := pod("shop", "pay-1", "10.1.0.1", "pay", "istio"), pod("shop", "pay-2", "10.1.0.2", "pay", "disabled")
	cart := pod("shop", "cart-1", "10.1.0.3", "cart", "istio")
	out[len(out)-1].Annotations[mesh.AddressesAnnotation] = "fd00:1::3"
	db0 := pod("data", "db-0", "10.1.1.1", "db", "istio")
	out = append(out, service("shop", "pay", "10.96.0.1", networking.ServiceEntry_STATIC, pay1, pay2),
		service("shop", "pay-canary", "10.96.0.2", networking.ServiceEntry_STATIC, pay1),
		service("shop", "cart", "10.96.0.3", networking.ServiceEntry_STATIC, cart),
		service("shop", "empty", "10.96.0.4", networking.ServiceEntry_STATIC),
		service("data", "db", "", networking.ServiceEntry_NONE, db0),
		service("data", "outside", "", networking.ServiceEntry_DNS, &networking.WorkloadEntry{Address: "pg.example.com"}))
	text := `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: range, namespace: shop}
spec: {hosts: [range.example], addresses: [192.0.2.0/24], resolution: NONE, location: MESH_EXTERNAL, ports: [{number: 443, name: tls, protocol: TLS}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec: {hosts: [api.example], resolution: DNS, location: MESH_EXTERNAL, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: stolen, namespace: evil}
spec: {hosts: [pay.shop.svc.k8s.local, "*.wild.example"], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 6.6.6.6}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: secret, namespace: data}
spec: {hosts: [secret.example], exportTo: ["."], addresses: [10.99.0.1], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 7.7.7.7}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: chosen, namespace: data}
spec: {hosts: [chosen.example], exportTo: ["."], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], workloadSelector: {labels: {app: db}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pay, namespace: shop}
spec: {hosts: [pay], http: [{route: [{destination: {host: pay}, weight: 90}, {destination: {host: pay-canary}, weight: 10}], mirror: {host: db.data.svc.k8s.local}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: canary, namespace: shop}
spec: {hosts: [pay-canary], http: [{route: [{destination: {host: api.example}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pay, namespace: shop}
spec: {host: pay}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: cart, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: db, namespace: data}
spec: {selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}, portLevelMtls: {7000: {mode: DISABLE}}}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: cart, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: cart}], local: {rules: [{limit: {requests: 5, unit: Second}}]}}
` + more
	return append(out, parse(t, text)...)
}

func kubernetes(t *testing.T, objects []*mesh.Object) *mesh.Snapshot {
	t.Helper()
	s, problems := mesh.Build(objects, mesh.BuildOptions{TrustDomain: td, ClusterDomain: "k8s.local"})
	for _, p := range problems {
		t.Errorf("%v", &p)
	}
	return s
}

func hosts(v *mesh.View) string {
	var out []string
	for _, s := range v.Services {
		out = append(out, s.Host)
	}
	return strings.Join(out, " ")
}

func keys(v *mesh.View) string {
	var out []string
	for _, o := range v.Objects {
		out = append(out, o.Kind+":"+o.Namespace+"/"+o.Name)
	}
	return strings.Join(out, " ")
}

const k = ".svc.k8s.local"

func TestDemandAnswers(t *testing.T) {
	s := kubernetes(t, shop(t, ""))
	for _, c := range []struct {
		asked string
		want  mesh.Answer
		hosts string
	}{
		{"cart.shop" + k, mesh.Answer{Host: "cart.shop" + k}, "cart.shop" + k},
		{"cart", mesh.Answer{Host: "cart.shop" + k}, "cart.shop" + k},
		{"cart.shop", mesh.Answer{Host: "cart.shop" + k}, "cart.shop" + k},
		{"cart.shop.svc", mesh.Answer{Host: "cart.shop" + k}, "cart.shop" + k},
		{"cart.shop.svc.cluster.local", mesh.Answer{}, ""},
		{"cart.data", mesh.Answer{}, ""},
		{"nothing.example", mesh.Answer{}, ""},
		{"10.96.0.3", mesh.Answer{Host: "cart.shop" + k}, "cart.shop" + k},
		{"fd00::3", mesh.Answer{Host: "cart.shop" + k}, "cart.shop" + k},
		{"10.1.0.3", mesh.Answer{Workload: "shop/cart-1"}, ""},
		{"fd00:1::3", mesh.Answer{Workload: "shop/cart-1"}, ""},
		{"10.1.1.1", mesh.Answer{Host: "db.data" + k, Workload: "data/db-0", Plain: "7000"}, "db.data" + k},
		{"db-0.db.data" + k, mesh.Answer{Host: "db.data" + k}, "db.data" + k},
		{"192.0.2.77", mesh.Answer{Host: "range.example"}, "range.example"},
		{"10.99.0.1", mesh.Answer{}, ""},      // not exported
		{"secret.example", mesh.Answer{}, ""}, // not exported
		{"a.wild.example", mesh.Answer{Host: "*.wild.example"}, "*.wild.example"},
		{"outside.data", mesh.Answer{Host: "outside.data" + k}, "outside.data" + k},
		{"empty", mesh.Answer{Host: "empty.shop" + k}, "empty.shop" + k},
		// The VirtualService of pay leads to the canary and the mirror, the canary's to api.example.
		{"pay", mesh.Answer{Host: "pay.shop" + k}, "api.example db.data" + k + " pay-canary.shop" + k + " pay.shop" + k},
	} {
		v, ok := s.Demand("shop", "cart-1", []string{c.asked})
		if !ok || v.Asked[c.asked] != c.want || len(v.Asked) != 1 || hosts(v) != c.hosts {
			t.Errorf("%s: answer %+v, services %q; want %+v, %q", c.asked, v.Asked, hosts(v), c.want, c.hosts)
		}
		for _, o := range v.Objects {
			pod := o.Namespace + "/" + o.Name
			if o.Kind == mesh.KindPod && pod != "shop/cart-1" && pod != c.want.Workload {
				t.Errorf("%s: %s travels", c.asked, pod)
			}
		}
	}
}

// An address that Kubernetes gave to a Service or a pod means that, whatever ServiceEntries and EndpointSlices of other namespaces
// say.
func TestNobodyTakesAnAddress(t *testing.T) {
	const taker = `
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: aaa, namespace: %s}
spec: {hosts: [aaa.evil.example], addresses: [10.1.0.1, 10.1.1.1, 10.96.0.3, "fd00::3", 192.0.2.7, 10.99.0.1], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 10.6.6.6}, {address: "unix:///run/x.sock"}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wide, namespace: %[1]s}
spec: {hosts: [wide.evil.example], addresses: [10.0.0.0/8], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}
`
	build := func(namespace string) (*mesh.Snapshot, []mesh.Problem) {
		objects := shop(t, fmt.Sprintf(taker, namespace))
		bad := &networking.ServiceEntry{Hosts: []string{"bad." + namespace + k}, Resolution: networking.ServiceEntry_NONE, Ports: []*networking.ServicePort{{Number: 80, Name: "http", TargetPort: 80}}}
		for _, a := range []string{"10.1.0.2", "10.1.0.4"} { // an EndpointSlice that somebody wrote: no pod of its namespace has the address
			bad.Endpoints = append(bad.Endpoints, &networking.WorkloadEntry{Address: a, Ports: map[string]uint32{"http": 80}})
		}
		objects = append(objects, &mesh.Object{Spec: bad, Meta: mesh.Meta{Key: mesh.Key{Kind: mesh.KindService, Namespace: namespace, Name: "bad"}, Version: "v1"}})
		// Two pods that say the same address: one of them is gone.
		for _, name := range []string{"a", "b"} {
			objects = append(objects, &mesh.Object{Spec: &networking.WorkloadEntry{Address: "10.1.0.9", ServiceAccount: "x"},
				Meta: mesh.Meta{Key: mesh.Key{Kind: mesh.KindPod, Namespace: "data", Name: name}, Version: "v1"}})
		}
		return mesh.Build(objects, mesh.BuildOptions{TrustDomain: td, ClusterDomain: "k8s.local"})
	}
	for _, c := range []struct {
		of   string
		want map[string]mesh.Answer
	}{
		{"evil", map[string]mesh.Answer{
			"10.1.0.1": {Workload: "shop/pay-1"}, "10.1.0.2": {Workload: "shop/pay-2"}, "10.1.0.4": {Host: "bad.evil" + k}, "10.1.0.9": {}, "10.1.0.8": {Host: "wide.evil.example"},
			"10.1.1.1": {Host: "db.data" + k, Workload: "data/db-0", Plain: "7000"}, "10.96.0.3": {Host: "cart.shop" + k}, "fd00::3": {Host: "cart.shop" + k}, "192.0.2.7": {Host: "aaa.evil.example"},
		}},
		// The caller's own namespace may say so.
		{"shop", map[string]mesh.Answer{
			"10.1.0.1": {Host: "aaa.evil.example"}, "10.1.0.2": {Host: "bad.shop" + k, Workload: "shop/pay-2"}, "10.1.0.9": {Host: "wide.evil.example"},
			"10.1.1.1": {Host: "aaa.evil.example"}, "10.96.0.3": {Host: "cart.shop" + k},
		}},
	} {
		s, problems := build(c.of)
		for asked, want := range c.want {
			if v, _ := s.Demand("shop", "cart-1", []string{asked}); v.Asked[asked] != want {
				t.Errorf("of %s, %s is %+v, not %+v", c.of, asked, v.Asked[asked], want)
			}
		}
		var told []string
		for _, p := range problems {
			told = append(told, p.Field+": "+p.Message)
		}
		if want := []string{
			"spec.endpoints[1].address: a Unix socket is called by workloads of namespace " + c.of + " that are no pods only",
			"spec.addresses[0]: 10.1.0.1 is that of pod shop/pay-1: calls to it lead here from namespace " + c.of + " only",
			"spec.addresses[1]: 10.1.1.1 is that of pod data/db-0: calls to it lead here from namespace " + c.of + " only",
			"spec.addresses[2]: 10.96.0.3 is that of Service shop/cart: calls to it lead here from namespace " + c.of + " only",
			"spec.addresses[3]: fd00::3 is that of Service shop/cart: calls to it lead here from namespace " + c.of + " only",
		}; !slices.Equal(told, want) {
			t.Errorf("of %s: told %q", c.of, told)
		}
	}
	// Nor who has what the caller can't see.
	objects := shop(t, fmt.Sprintf(taker, "evil"))
	for _, o := range objects {
		if o.Kind == mesh.KindService && o.Name == "cart" {
			o.Spec.(*networking.ServiceEntry).ExportTo = []string{"."}
		}
	}
	s, _ := mesh.Build(objects, mesh.BuildOptions{TrustDomain: td, ClusterDomain: "k8s.local"})
	if v, _ := s.Demand("data", "db-0", []string{"10.96.0.3"}); v.Asked["10.96.0.3"] != (mesh.Answer{}) {
		t.Errorf("a Service that is not exported: %+v", v.Asked)
	}
}

// A pod that is asked for says where it takes plaintext only.
func TestPlainPods(t *testing.T) {
	for name, c := range map[string]struct {
		policy string
		want   mesh.Plain
	}{
		"ports":   {"{selector: {matchLabels: {app: pay}}, mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: DISABLE}, 80: {mode: DISABLE}, 81: {mode: PERMISSIVE}}}", "80 9090"},
		"all but": {"{selector: {matchLabels: {app: pay}}, mtls: {mode: DISABLE}, portLevelMtls: {8080: {mode: STRICT}, 81: {mode: DISABLE}}}", "!8080"},
		"all":     {"{mtls: {mode: DISABLE}}", "!"},
		"none":    {"{mtls: {mode: STRICT}}", ""},
	} {
		s := kubernetes(t, shop(t, "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: pay, namespace: shop}\nspec: "+c.policy+"\n"))
		v, _ := s.Demand("shop", "cart-1", []string{"10.1.0.1"})
		full, _ := s.View("shop", "cart-1")
		if v.Asked["10.1.0.1"].Plain != c.want || v.Plain["shop/pay-1"] != c.want || full.Plain["shop/pay-1"] != c.want || full.Plain["data/db-0"] != "7000" {
			t.Errorf("%s: answer %+v, view %v, full view %v", name, v.Asked, v.Plain, full.Plain)
		}
		if p, err := mesh.ParsePlain(string(c.want)); p != c.want || err != nil {
			t.Errorf("%s: %q %v", name, p, err)
		}
	}
	for _, bad := range []string{"x", "0", "65536", "2 1", "1 1", "1  2", "1 ", "! 1", "!!", "01", "+1"} {
		if p, err := mesh.ParsePlain(bad); err == nil {
			t.Errorf("%q is taken for %q", bad, p)
		}
	}
}

// A pod that is not ready knows what its ports are, and nobody is led to it.
func TestUnreadyPodIsServed(t *testing.T) {
	objects := shop(t, "")
	for i, o := range objects {
		spec, ok := o.Spec.(*networking.ServiceEntry)
		if !ok || o.Kind != mesh.KindService || o.Name != "cart" {
			continue
		}
		next := *o
		next.Spec = proto.Clone(spec)
		next.Spec.(*networking.ServiceEntry).Endpoints[0].Labels[mesh.UnreadyLabel] = "http,any"
		objects[i] = &next
	}
	v, _ := kubernetes(t, objects).Demand("shop", "cart-1", []string{"cart"})
	if len(v.Services) != 1 || len(v.Services[0].Endpoints[0])+len(v.Services[0].Endpoints[1]) > 0 {
		t.Errorf("callers get %+v", v.Services)
	}
	if len(v.Served) != 1 || len(v.RateLimits) != 1 {
		t.Fatalf("serves %+v with %d limits", v.Served, len(v.RateLimits))
	}
	if e := v.Served[0].Endpoints[0]; len(e) != 1 || e[0].Workload != "shop/cart-1" || e[0].Address != "10.1.0.3:8080" || e[0].Labels[mesh.UnreadyLabel] != "" {
		t.Errorf("its own endpoints are %+v", e)
	}
}

// What judges a pod's inbound side is complete, and nothing else comes along.
func TestDemandOfNothing(t *testing.T) {
	s := kubernetes(t, shop(t, ""))
	v, _ := s.Demand("shop", "cart-1", nil)
	want := "Pod:shop/cart-1 Service:shop/cart RateLimitPolicy:shop/cart AuthorizationPolicy:shop/cart PeerAuthentication:shop/cart"
	if keys(v) != want {
		t.Errorf("objects\n%s, not\n%s", keys(v), want)
	}
	if v.Asked == nil || len(v.Services) != 0 || len(v.Served) != 1 || len(v.RateLimits) != 1 || v.MTLSMode(8080) != security.PeerAuthentication_MutualTLS_STRICT {
		t.Errorf("view %+v", v)
	}
	if !v.Self.Pod || v.Self.Owner != "cart" || v.Self.Key().Kind != mesh.KindPod {
		t.Errorf("self %+v", v.Self)
	}
	if v, _ := s.View("shop", "cart-1"); v.Asked != nil || len(v.Peers) != 4 || len(v.Services) != 9 {
		t.Errorf("full view: %d peers, services %s", len(v.Peers), hosts(v))
	}
}

func TestServicesOfKubernetesAreRead(t *testing.T) {
	s := kubernetes(t, shop(t, ""))
	v, _ := s.View("shop", "cart-1")
	pay := v.Service("pay", "shop")
	if pay == nil || !pay.Kubernetes || pay.Resolution != mesh.Static || fmt.Sprint(pay.Addresses) != "[10.96.0.1/32 fd00::1/128]" {
		t.Fatalf("pay is %+v", pay)
	}
	if pay.Ports[0].Protocol != mesh.HTTP || pay.Ports[1].Protocol != mesh.Detect {
		t.Errorf("ports %+v", pay.Ports)
	}
	var got []string
	for _, e := range pay.Endpoints[0] {
		got = append(got, e.Address+" "+e.TLSMode+" "+e.Workload+" "+e.Identity.String()+" "+e.Labels[mesh.WorkloadLabel])
	}
	want := []string{"10.1.0.1:8080 istio shop/pay-1 spiffe://" + td + "/ns/shop/sa/pay ", "10.1.0.2:8080 disabled shop/pay-2 spiffe://" + td + "/ns/shop/sa/pay "}
	if !slices.Equal(got, want) {
		t.Errorf("endpoints\n%q, not\n%q", got, want)
	}
	db, out, api := v.Service("db.data"+k, ""), v.Service("outside.data"+k, ""), v.Service("api.example", "")
	if db.Resolution != mesh.Original || db.Endpoints[0][0].TLSMode != "istio" || db.Endpoints[1][0].TLSMode != "disabled" {
		t.Errorf("db %+v", db)
	}
	if out.Resolution != mesh.ByDNS || out.Endpoints[0][0].Address != "pg.example.com:8080" || api.Resolution != mesh.ByDNS || len(api.Endpoints[0]) != 0 {
		t.Errorf("outside %+v, api %+v", out, api)
	}
	// A ServiceEntry of a Service's host counts in its own namespace only.
	if evil := v.Service("pay.shop"+k, ""); evil.Namespace != "shop" {
		t.Errorf("pay is of %s", evil.Namespace)
	}
}

func TestSidecarLimitsDemand(t *testing.T) {
	s := kubernetes(t, shop(t, `
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: shop}
spec: {egress: [{hosts: ["./*"]}]}
`))
	v, _ := s.Demand("shop", "cart-1", []string{"pay", "db.data" + k, "10.1.1.1", "a.wild.example", "10.1.0.1"})
	for name, want := range map[string]mesh.Answer{"pay": {Host: "pay.shop" + k}, "10.1.0.1": {Workload: "shop/pay-1"}, "db.data" + k: {}, "10.1.1.1": {}, "a.wild.example": {}} {
		if v.Asked[name] != want {
			t.Errorf("%s is %+v, not %+v", name, v.Asked[name], want)
		}
	}
}

func TestServicesAndPodsAreNotWritten(t *testing.T) {
	for _, kind := range []string{"Service", "Pod"} {
		_, problems := mesh.Parse("f.yaml", []byte("apiVersion: v1\nkind: "+kind+"\nmetadata: {name: a}\nspec: {hosts: [a], address: 10.0.0.1}\n"), mesh.ParseOptions{})
		if len(problems) != 1 || problems[0].Severity != mesh.Refused || !strings.Contains(problems[0].Message, "not supported") {
			t.Errorf("%s: %v", kind, problems)
		}
	}
}

// Whatever changes, a build that takes from the one before makes what a build from nothing makes.
func TestBuildWithPrevious(t *testing.T) {
	all := shop(t, `
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: pay, namespace: shop}
spec: {selector: {matchLabels: {app: pay}}, rules: [{to: [{operation: {methods: [GET]}}]}]}
`)
	for _, o := range all { // one finding hangs on endpoints
		if spec, ok := o.Spec.(*networking.ServiceEntry); ok && o.Kind == mesh.KindService {
			spec.Ports[1].Protocol = "GRPC"
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	var previous *mesh.Snapshot
	objects := slices.Clone(all)
	for round := range 300 {
		switch i := random.IntN(len(objects)); random.IntN(4) {
		case 0: // one goes
			objects = slices.Delete(slices.Clone(objects), i, i+1)
			if len(objects) < 4 {
				objects = slices.Clone(all)
			}
		case 1: // all come back, in another order
			objects = slices.Clone(all)
			random.Shuffle(len(objects), func(a, b int) { objects[a], objects[b] = objects[b], objects[a] })
		case 2: // the same again
			next := *objects[i]
			objects = slices.Clone(objects)
			objects[i] = &next
		case 3: // endpoints or labels differ
			next := *objects[i]
			switch spec := next.Spec.(type) {
			case *networking.ServiceEntry:
				changed := &networking.ServiceEntry{Hosts: spec.Hosts, Addresses: spec.Addresses, Ports: spec.Ports, Resolution: spec.Resolution, ExportTo: spec.ExportTo}
				for i, e := range spec.Endpoints {
					if e = proto.Clone(e).(*networking.WorkloadEntry); e.Labels != nil && random.IntN(2) == 0 {
						e.Labels[mesh.UnreadyLabel] = "http"
					}
					if i == 0 || random.IntN(2) == 0 {
						changed.Endpoints = append(changed.Endpoints, e)
					}
				}
				next.Spec = changed
			default:
				next.Labels = map[string]string{"round": fmt.Sprint(round), "app": "cart"}
			}
			objects = slices.Clone(objects)
			objects[i] = &next
		}
		opts := mesh.BuildOptions{TrustDomain: td, ClusterDomain: "k8s.local"}
		want, problems := mesh.Build(objects, opts)
		opts.Previous = previous
		got, again := mesh.Build(objects, opts)
		if !reflect.DeepEqual(problems, again) {
			t.Fatalf("round %d: problems %v, not %v", round, again, problems)
		}
		compareSnapshots(t, round, got, want)
		previous = got
	}
}

func compareSnapshots(t *testing.T, round int, got, want *mesh.Snapshot) {
	t.Helper()
	if got.Hash() != want.Hash() || !slices.Equal(got.Objects(), want.Objects()) {
		t.Fatalf("round %d: other objects", round)
	}
	for _, w := range want.Workloads() {
		for _, find := range []func(s *mesh.Snapshot) (*mesh.View, bool){
			func(s *mesh.Snapshot) (*mesh.View, bool) { return s.View(w.Namespace, w.Name) },
			func(s *mesh.Snapshot) (*mesh.View, bool) {
				return s.Demand(w.Namespace, w.Name, []string{"pay", "10.1.0.3", "10.1.1.1", "192.0.2.1", "a.wild.example"})
			},
		} {
			a, _ := find(want)
			b, _ := find(got)
			for _, o := range slices.Concat(a.Objects, b.Objects) { // or reflection sees what protocol buffers keep for themselves
				if _, err := proto.Marshal(o.Spec); err != nil {
					t.Fatal(err)
				}
			}
			if !reflect.DeepEqual(a, b) {
				t.Fatalf("round %d, %s: view\n%+v, not\n%+v", round, w.Name, b, a)
			}
		}
	}
}

// A view that nothing happened to is known by its pointers.
func TestViewStaysTheSame(t *testing.T) {
	objects := cluster(20, 3)
	opts := mesh.BuildOptions{TrustDomain: td}
	before, _ := mesh.Build(objects, opts)
	opts.Previous = before
	after, _ := mesh.Build(changed(objects, 7, 2), opts)
	for _, c := range []struct {
		asked string
		same  bool
	}{{"svc7.ns0", false}, {"svc8.ns0", true}, {"10.240.0.7", false}, {"10.1.0.2", true}} {
		a, _ := before.Demand("ns1", "svc15-0", []string{c.asked})
		b, _ := after.Demand("ns1", "svc15-0", []string{c.asked})
		if a.Same(b) != c.same {
			t.Errorf("asked for %s: same is %v", c.asked, !c.same)
		}
	}
	if a, _ := before.Demand("ns0", "svc7-0", nil); true {
		if b, _ := after.Demand("ns0", "svc7-0", nil); !a.Same(b) {
			t.Error("a pod's view differs because another pod serves what it serves no more")
		}
	}
}
