package mesh_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// judged adds to town all that judges: asked is judged by two RegoPolicies and two authorizers.
const judged = `
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: guard
      envoyExtAuthzGrpc: {service: data/private.data.example, port: 1}
    - name: gone
      envoyExtAuthzHttp: {service: gone.example, port: 1, includeHeadersInCheck: [x-a]}
    - name: both
      envoyExtAuthzHttp: {service: private.data.example, port: 1}
    - name: shadowed
      envoyExtAuthzHttp: {service: web.shop.example, port: 80}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: private, namespace: other}
spec: {hosts: [private.data.example], exportTo: ["."], ports: [{number: 1, name: a, protocol: TCP}], resolution: STATIC, endpoints: [{address: 10.1.1.9}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: private, namespace: data}
spec: {host: private.data.example}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db, namespace: data}
spec: {hosts: ["*.wild.example"], http: [{name: r, route: [{destination: {host: db.data.example}}]}]}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RegoPolicy
metadata: {name: menu, namespace: shop}
spec: {query: data.a.b, module: package a}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RegoPolicy
metadata: {name: menu, namespace: istio-system}
spec: {query: data.a.b, module: package a}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RegoPolicy
metadata: {name: shadowed, namespace: shop}
spec: {query: data.a.b, module: package a}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RegoPolicy
metadata: {name: unused, namespace: shop}
spec: {query: data.a.b, module: package a}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: z-mesh, namespace: istio-system}
spec: {jwtRules: [{issuer: a, jwks: "{}"}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: a-web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, jwtRules: [{issuer: a, jwks: "{}"}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: other, namespace: shop}
spec: {selector: {matchLabels: {app: other}}, jwtRules: [{issuer: a, jwks: "{}"}]}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: mesh, namespace: istio-system}
spec: {selector: {matchLabels: {app: web}}, local: {rules: [{limit: {requests: 1, unit: Second}}]}}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: all, namespace: data}
spec: {global: {rules: [{limit: {requests: 1, unit: Second}}]}}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: entry, namespace: shop}
spec: {targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: web}], local: {rules: [{limit: {requests: 1, unit: Second}}]}}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: workload, namespace: data}
spec: {targetRefs: [{group: networking.istio.io, kind: WorkloadEntry, name: web}, {group: networking.istio.io, kind: WorkloadEntry, name: db}], local: {rules: [{limit: {requests: 1, unit: Second}}]}}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: stranger, namespace: istio-system}
spec: {targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: web}], local: {rules: [{limit: {requests: 1, unit: Second}}]}}
---
apiVersion: policy.signet.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: route, namespace: data}
spec: {targetRefs: [{group: networking.istio.io, kind: VirtualService, name: db, sectionName: r}], local: {rules: [{limit: {requests: 1, unit: Second}}]}}
`

// asks are the CUSTOM policies of namespace shop, one for each way a provider is resolved.
func asks() string {
	var b strings.Builder
	for _, name := range []string{"menu", "guard", "gone", "both", "shadowed", "nobody"} {
		fmt.Fprintf(&b, "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask-%s, namespace: shop}\nspec: {action: CUSTOM, provider: {name: %s}, rules: [{}]}\n", name, name)
	}
	return b.String() + "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask-menu, namespace: istio-system}\nspec: {action: CUSTOM, provider: {name: menu}, rules: [{}]}\n"
}

func judgedSnapshot(t *testing.T, text string) *mesh.Snapshot {
	t.Helper()
	s, problems := mesh.Build(parse(t, text), mesh.BuildOptions{TrustDomain: td, Control: control()})
	for _, p := range mesh.Refusals(problems) {
		t.Fatal(p.Error())
	}
	return s
}

// judges prints what judges and limits in a view.
func judges(v *mesh.View) string {
	var b strings.Builder
	list := func(word string, m *mesh.Meta) { fmt.Fprintf(&b, "%s %s\n", word, m.Key) }
	for _, p := range v.RequestAuthentication {
		list("tokens", &p.Meta)
	}
	for _, p := range v.Rego {
		list("rego", &p.Meta)
	}
	for _, p := range v.RateLimits {
		list("limit", &p.Meta)
	}
	for _, p := range v.RouteLimits {
		list("route limit", &p.Meta)
	}
	for _, name := range slices.Sorted(maps.Keys(v.Authorizers)) {
		s := v.Authorizers[name]
		fmt.Fprintf(&b, "authorizer %s is %s/%s %s %v\n", name, s.Namespace, s.Name, s.Host, s.Endpoints[0][0].Address)
	}
	for _, p := range v.Authorization {
		if p.Spec.GetAction() != security.AuthorizationPolicy_CUSTOM {
			continue
		}
		ext, rego := v.Provider(p.Namespace, p.Spec.GetProvider().GetName())
		who := "nobody"
		if rego != nil {
			who = rego.Key.String()
		}
		fmt.Fprintf(&b, "%s asks %s\n", p.Key, cmp.Or(ext.GetName(), who))
	}
	fmt.Fprintf(&b, "store %s functions %v\n", v.LimitStore.GetUrl(), v.RegoBuiltins)
	return b.String()
}

func TestViewJudges(t *testing.T) {
	s := judgedSnapshot(t, town+judged+asks())
	for _, c := range []struct{ ns, workload string }{{"shop", "web"}, {"data", "db"}} {
		v, ok := s.View(c.ns, c.workload)
		if !ok {
			t.Fatal("no view")
		}
		compareGolden(t, "testdata/judges_"+c.workload+".out", judges(v)+picture(v))
		for _, endpoints := range []func(string, uint32) ([]mesh.Endpoint, bool){nil, handOver(v)} {
			again, problems := mesh.NewView(v.Objects, td, c.ns+"/"+c.workload, endpoints)
			if len(mesh.Refusals(problems)) > 0 || again == nil {
				t.Fatalf("view of the view: %v", problems)
			}
			if a, b := judges(v)+picture(v), judges(again)+picture(again); a != b {
				t.Errorf("the view of the view differs\n%s---\n%s", a, b)
			}
			if !slices.EqualFunc(v.Objects, again.Objects, func(a, b *mesh.Object) bool { return a.Key == b.Key && proto.Equal(a.Spec, b.Spec) }) {
				t.Error("the view of the view has other objects")
			}
		}
	}
	if slices.ContainsFunc(s.Objects(), func(o *mesh.Object) bool { return o.Kind == mesh.KindControlSettings }) {
		t.Error("what the command line says is among the objects of the mesh")
	}
	if got := s.Settings().Providers["gone"].GetEnvoyExtAuthzHttp().GetIncludeRequestHeadersInCheck(); !slices.Equal(got, []string{"x-a"}) {
		t.Errorf("the older name of includeRequestHeadersInCheck is lost: %v", got)
	}
}

// The store goes to who has a global limit, Rego's functions to who has a RegoPolicy, and nothing to anybody else.
func TestControlSettingsAreSparing(t *testing.T) {
	s := judgedSnapshot(t, town+judged+asks())
	for ns, want := range map[string]*policy.ControlSettings{
		"shop/web": {RegoBuiltins: control().RegoBuiltins},
		"data/db":  {RateLimitStore: control().RateLimitStore, RegoBuiltins: control().RegoBuiltins},
	} {
		namespace, name, _ := strings.Cut(ns, "/")
		v, _ := s.View(namespace, name)
		i := slices.IndexFunc(v.Objects, func(o *mesh.Object) bool { return o.Key == mesh.ControlKey() })
		if i < 0 || !proto.Equal(v.Objects[i].Spec, want) {
			t.Errorf("%s: object %d, want %v", ns, i, want)
		}
	}
	v, _ := judgedSnapshot(t, town).View("shop", "web")
	if v.LimitStore != nil || slices.ContainsFunc(v.Objects, func(o *mesh.Object) bool { return o.Key == mesh.ControlKey() }) {
		t.Error("a view without limits and Rego is told of them")
	}
	without, _ := mesh.Build(parse(t, town), mesh.BuildOptions{TrustDomain: td})
	if without.Hash() == judgedSnapshot(t, town).Hash() {
		t.Error("the hash does not say what the command line said")
	}
}

// A view that came over the wire without what its objects need is refused, not run without it.
func TestNewViewRefusesAGlobalLimitWithoutAStore(t *testing.T) {
	v, _ := judgedSnapshot(t, town+judged+asks()).View("data", "db")
	left := slices.DeleteFunc(slices.Clone(v.Objects), func(o *mesh.Object) bool { return o.Key == mesh.ControlKey() })
	again, problems := mesh.NewView(left, td, "data/db", nil)
	if len(mesh.Refusals(problems)) != 1 || !strings.Contains(problems[0].Message, "--redis") {
		t.Errorf("problems: %v", problems)
	}
	i := slices.IndexFunc(again.RateLimits, func(p *mesh.Typed[*policy.RateLimitPolicy]) bool { return p.Name == "all" })
	if i < 0 || !again.RateLimits[i].Quarantined() {
		t.Error("the limit does not stand quarantined")
	}
}
