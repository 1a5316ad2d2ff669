package mesh_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh"
)

const town = `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: shop}
spec: {address: 127.0.10.1, serviceAccount: web, labels: {app: web, version: v1}, ports: {http: 8080}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: db, namespace: data}
spec: {address: 127.0.10.2, serviceAccount: db, labels: {app: db}, weight: 3}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: old, namespace: data}
spec: {address: 127.0.10.3, labels: {app: db}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: shop}
spec: {hosts: [web.shop.example], ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8000}, {number: 81, name: other, protocol: TCP, targetPort: 8001}], location: MESH_INTERNAL, resolution: STATIC, workloadSelector: {labels: {app: web}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: data}
spec: {hosts: [db.data.example, "*.wild.example"], ports: [{number: 5432, name: pg, protocol: TCP}], location: MESH_INTERNAL, resolution: STATIC, workloadSelector: {labels: {app: db}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: private, namespace: data}
spec: {hosts: [private.data.example], exportTo: ["."], ports: [{number: 1, name: a, protocol: TCP}], resolution: STATIC, endpoints: [{address: 10.1.1.1, serviceAccount: x}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db, namespace: data}
spec: {host: db.data.example}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: stranger, namespace: elsewhere}
spec: {host: db.data.example}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: istio-system}
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a-web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: other, namespace: shop}
spec: {selector: {matchLabels: {app: other}}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mesh, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, portLevelMtls: {8001: {mode: DISABLE}}}
`

const narrow = `---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: root, namespace: istio-system}
spec: {egress: [{hosts: ["*/*", "~data/*.wild.example"]}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: data}
spec: {egress: [{hosts: ["./*"]}]}
`

// picture prints what a view holds.
func picture(v *mesh.View) string {
	var b strings.Builder
	for _, s := range v.Services {
		fmt.Fprintf(&b, "service %s external=%v\n", s.Host, s.External)
		for i, p := range s.Ports {
			for _, e := range s.Endpoints[i] {
				fmt.Fprintf(&b, "  %d %s %q %s %s w%d\n", p.Number, e.Address, e.Identity, e.TLSMode, e.Workload, e.Weight)
			}
		}
	}
	if v.Sidecar != nil {
		fmt.Fprintf(&b, "sidecar %s\n", v.Sidecar.Key)
	}
	for _, d := range v.DestinationRules {
		fmt.Fprintf(&b, "%s\n", d.Key)
	}
	for _, p := range v.Authorization {
		fmt.Fprintf(&b, "%s\n", p.Key)
	}
	for _, p := range v.PeerAuthentication {
		fmt.Fprintf(&b, "%s\n", p.Key)
	}
	return b.String()
}

func TestView(t *testing.T) {
	for _, c := range []struct{ name, text, ns, workload string }{
		{"web", town, "shop", "web"}, {"db", town, "data", "db"}, {"web_narrow", town + narrow, "shop", "web"}, {"db_narrow", town + narrow, "data", "db"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, ok := build(t, c.text).View(c.ns, c.workload)
			if !ok {
				t.Fatal("no view")
			}
			compareGolden(t, "testdata/view_"+c.name+".out", picture(v))

			// What travels makes the same view, with endpoints computed or handed over.
			for _, endpoints := range []func(string, uint32) ([]mesh.Endpoint, bool){nil, handOver(v)} {
				again, problems := mesh.NewView(v.Objects, td, c.ns+"/"+c.workload, endpoints)
				if len(mesh.Refusals(problems)) > 0 || again == nil {
					t.Fatalf("view of the view: %v", problems)
				}
				if a, b := picture(v), picture(again); a != b {
					t.Errorf("the view of the view differs\n%s---\n%s", a, b)
				}
				if !slices.EqualFunc(v.Objects, again.Objects, func(a, b *mesh.Object) bool { return a.Key == b.Key }) {
					t.Error("the view of the view has other objects")
				}
			}
		})
	}
}

// handOver gives the endpoints of a view, as ADS does.
func handOver(v *mesh.View) func(string, uint32) ([]mesh.Endpoint, bool) {
	return func(host string, port uint32) ([]mesh.Endpoint, bool) {
		for _, s := range v.Services {
			for i, p := range s.Ports {
				if s.Host == host && p.Number == port {
					return s.Endpoints[i], len(s.Endpoints[i]) > 0
				}
			}
		}
		return nil, false
	}
}

func TestSnapshot(t *testing.T) {
	s := build(t, town)
	if _, ok := s.View("data", "old"); ok {
		t.Error("a workload without a service account has a view")
	}
	if sa, ok := s.ServiceAccount("shop", "web"); sa != "web" || !ok {
		t.Errorf("service account %q, %v", sa, ok)
	}
	if _, ok := s.ServiceAccount("data", "old"); ok || s.Holds("data", "") || s.Holds("shop", "db") || !s.Holds("data", "db") {
		t.Error("who holds what is wrong")
	}
	objects := slices.Clone(s.Objects())
	slices.Reverse(objects)
	again, _ := mesh.Build(objects, mesh.BuildOptions{TrustDomain: td})
	if again.Hash() != s.Hash() {
		t.Error("the order of objects changes the hash")
	}
	if other, _ := mesh.Build(objects[1:], mesh.BuildOptions{TrustDomain: td}); other.Hash() == s.Hash() {
		t.Error("fewer objects, same hash")
	}
	if v, _ := s.View("shop", "web"); v.Service("x.wild.example", "a") == nil || v.Service("db.data.example", "a").Name != "db" || v.Service("none.example", "a") != nil {
		t.Error("services are not found by name")
	}
}

func TestSettings(t *testing.T) {
	const head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n"
	for text, want := range map[string]func(mesh.Settings) bool{
		"":                                 func(s mesh.Settings) bool { return s.AllowAny && s.AccessLog && s.Normalization == mesh.MergeSlashes },
		"    outboundTrafficPolicy: {}\n":  func(s mesh.Settings) bool { return !s.AllowAny },
		"    accessLogFile: \"\"\n":        func(s mesh.Settings) bool { return !s.AccessLog },
		"    accessLogFile: /dev/stdout\n": func(s mesh.Settings) bool { return s.AccessLog },
		"    rootNamespace: root\n":        func(s mesh.Settings) bool { return s.RootNamespace == "root" },
		"    pathNormalization: {normalization: NONE}\n": func(s mesh.Settings) bool { return s.Normalization == mesh.NoNormalization },
	} {
		s := build(t, head+text)
		// Protocol buffers carry what the settings need.
		o := *s.Objects()[0]
		raw, err := proto.Marshal(o.Spec)
		if err != nil {
			t.Fatal(err)
		}
		spec, _ := mesh.NewSpec(o.Group, o.Kind)
		if err := proto.Unmarshal(raw, spec); err != nil {
			t.Fatal(err)
		}
		o.Spec = spec
		wire, _ := mesh.Build([]*mesh.Object{&o}, mesh.BuildOptions{TrustDomain: td})
		if !want(s.Settings()) || !want(wire.Settings()) {
			t.Errorf("%q: %+v, over the wire %+v", text, s.Settings(), wire.Settings())
		}
	}
}

func TestQuarantine(t *testing.T) {
	const bad = "apiVersion: security.istio.io/v1\nkind: KIND\nmetadata: {name: a, namespace: x}\nspec: {selector: SELECTOR, colour: red}\n"
	for _, c := range []struct{ kind, selector, labels string }{
		{"AuthorizationPolicy", "{matchLabels: {app: a}}", "map[app:a]"},
		{"AuthorizationPolicy", "{matchLabel: {app: a}}", "map[]"},
		{"AuthorizationPolicy", "{matchLabels: {app: \"a*\"}}", "map[]"},
		{"PeerAuthentication", "{matchLabels: {app: a}}", "map[app:a]"},
	} {
		text := strings.NewReplacer("KIND", c.kind, "SELECTOR", c.selector).Replace(bad)
		_, problems := mesh.Parse("q.yaml", []byte(text), mesh.ParseOptions{Now: epoch})
		q := mesh.Quarantine(problems[0])
		if q == nil || !q.Quarantined() || q.Name != "a" || q.Namespace != "x" {
			t.Fatalf("%s: %+v", text, q)
		}
		var got string
		switch spec := q.Spec.(type) {
		case *security.AuthorizationPolicy:
			got = fmt.Sprint(spec.GetSelector().GetMatchLabels())
			if spec.Action != security.AuthorizationPolicy_DENY || len(spec.Rules) != 1 || !proto.Equal(spec.Rules[0], &security.Rule{}) {
				t.Errorf("%v does not deny everything", spec)
			}
		case *security.PeerAuthentication:
			got = fmt.Sprint(spec.GetSelector().GetMatchLabels())
			if spec.GetMtls().GetMode() != security.PeerAuthentication_MutualTLS_STRICT {
				t.Errorf("%v is not strict", spec)
			}
		}
		if got != c.labels {
			t.Errorf("%s %s: selects %s, want %s", c.kind, c.selector, got, c.labels)
		}
	}
}

// In each scope only the oldest PeerAuthentication speaks, and what it leaves UNSET comes from the next wider one.
func TestMTLSMode(t *testing.T) {
	at := func(second int, ns, name, spec string) string {
		return fmt.Sprintf("\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: %s, namespace: %s, creationTimestamp: \"2026-01-01T00:00:%02dZ\"}\nspec: %s\n", name, ns, second, spec)
	}
	const web = "{matchLabels: {app: web}}"
	for name, c := range map[string]struct{ policies, want string }{
		"none":                       {"", "PERMISSIVE PERMISSIVE"},
		"mesh":                       {at(1, "istio-system", "a", "{mtls: {mode: STRICT}}"), "STRICT STRICT"},
		"namespace before mesh":      {at(1, "istio-system", "a", "{mtls: {mode: STRICT}}") + at(2, "shop", "b", "{mtls: {mode: DISABLE}}"), "DISABLE DISABLE"},
		"UNSET inherits":             {at(1, "istio-system", "a", "{mtls: {mode: STRICT}}") + at(2, "shop", "b", "{mtls: {mode: UNSET}}"), "STRICT STRICT"},
		"the older of two":           {at(2, "shop", "a", "{mtls: {mode: STRICT}}") + at(1, "shop", "b", "{mtls: {mode: DISABLE}}"), "DISABLE DISABLE"},
		"the older is UNSET":         {at(3, "istio-system", "m", "{mtls: {mode: STRICT}}") + at(1, "shop", "a", "{}") + at(2, "shop", "b", "{mtls: {mode: DISABLE}}"), "STRICT STRICT"},
		"port before workload":       {at(1, "shop", "a", "{selector: "+web+", mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}"), "DISABLE STRICT"},
		"port UNSET":                 {at(1, "shop", "a", "{selector: "+web+", mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: UNSET}}}"), "STRICT STRICT"},
		"port, workload UNSET":       {at(1, "shop", "a", "{selector: "+web+", portLevelMtls: {8080: {mode: STRICT}}}") + at(2, "shop", "b", "{mtls: {mode: DISABLE}}"), "STRICT DISABLE"},
		"the newer of one workload":  {at(1, "shop", "a", "{selector: "+web+"}") + at(2, "shop", "b", "{selector: "+web+", mtls: {mode: DISABLE}, portLevelMtls: {8080: {mode: STRICT}}}"), "PERMISSIVE PERMISSIVE"},
		"selector of the root":       {at(1, "istio-system", "a", "{selector: "+web+", mtls: {mode: STRICT}}") + at(2, "shop", "b", "{mtls: {mode: DISABLE}}"), "STRICT STRICT"},
		"own selector before root's": {at(1, "istio-system", "a", "{selector: "+web+", mtls: {mode: STRICT}}") + at(2, "shop", "b", "{selector: "+web+", mtls: {mode: DISABLE}}"), "DISABLE DISABLE"},
		"another workload's":         {at(1, "shop", "a", "{selector: {matchLabels: {app: other}}, mtls: {mode: STRICT}}"), "PERMISSIVE PERMISSIVE"},
	} {
		text := "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: web, namespace: shop}\nspec: {address: 127.0.0.9, serviceAccount: web, labels: {app: web}}\n" + c.policies
		objects, problems := mesh.Parse("x.yaml", []byte(text), mesh.ParseOptions{})
		if len(mesh.Refusals(problems)) > 0 {
			t.Fatal(name, problems)
		}
		s, _ := mesh.Build(objects, mesh.BuildOptions{TrustDomain: "cluster.local"})
		v, _ := s.View("shop", "web")
		if got := v.MTLSMode(8080).String() + " " + v.MTLSMode(9090).String(); got != c.want {
			t.Errorf("%s: 8080 and 9090 are %s, want %s", name, got, c.want)
		}
	}
}

// What Check refuses is left out, a security object for its quarantine, and what is left is asked about again.
func TestBuildCheck(t *testing.T) {
	const text = `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: shop}
spec: {address: 127.0.0.9, serviceAccount: web, labels: {app: web}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: web, namespace: shop}
spec: {workloadSelector: {labels: {app: web}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, rules: [{}]}
`
	objects, problems := mesh.Parse("x.yaml", []byte(text), mesh.ParseOptions{})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	asked := 0
	s, problems := mesh.Build(objects, mesh.BuildOptions{TrustDomain: "cluster.local", Check: func(s *mesh.Snapshot) (out []mesh.Problem) {
		asked++
		for _, o := range s.Objects() {
			if kind := [...]string{mesh.KindSidecar, mesh.KindAuthorizationPolicy, ""}[min(asked, 3)-1]; o.Kind == kind {
				out = append(out, mesh.Fault(o, "spec.selector", "can't be run"))
			}
		}
		return out
	}})
	if asked != 3 || len(mesh.Refusals(problems)) != 2 {
		t.Errorf("asked %d times, problems %v", asked, problems)
	}
	v, ok := s.View("shop", "web")
	if !ok || v.Sidecar != nil || len(v.Authorization) != 1 || !v.Authorization[0].Quarantined() || len(v.Authorization[0].Spec.GetSelector().GetMatchLabels()) != 1 {
		t.Errorf("view is %+v", v)
	}
	if p := mesh.Refusals(problems)[1]; p.Position.Line != 15 || p.Key.Kind != mesh.KindAuthorizationPolicy {
		t.Errorf("the refusal stands at %v of %v", p.Position, p.Key)
	}
}
