package mesh_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/signet-mesh/signet/mesh"
)

const oneWorkload = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: web, namespace: shop}\nspec: {address: 127.0.0.9, serviceAccount: web, labels: {app: web}}\n---\n" +
	"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: shop}\nspec: {hosts: [a.example], http: [{redirect: {uri: /}}]}\n---\n" +
	"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s, namespace: shop}\nspec: {hosts: [a.example], ports: [{number: 1, name: a, protocol: TCP}], resolution: STATIC, workloadSelector: {labels: {app: web}}}\n---\n" +
	"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask, namespace: shop}\nspec: {action: CUSTOM, provider: {name: broken}, rules: [{}]}\n---\n"

// TestEveryKindIsQuarantined breaks each judging kind in several ways: it is never absent from the view it judged in.
func TestEveryKindIsQuarantined(t *testing.T) {
	const good = "local: {rules: [{limit: {requests: 1, unit: Second}}]}"
	for _, c := range []struct{ kind, spec, want string }{
		{"security.istio.io/v1 AuthorizationPolicy", "{action: CUSTOM}", "authorization"},
		{"security.istio.io/v1 RequestAuthentication", "{selector: {matchLabels: {app: web}}, jwtRules: [{issuer: a}]}", "tokens"},
		{"security.istio.io/v1 RequestAuthentication", "{selector: {matchLabels: {app: other}}, jwtRules: [{issuer: a}]}", ""},
		{"security.istio.io/v1 RequestAuthentication", "{selector: {matchLabel: {app: other}}}", "tokens"},
		{"security.istio.io/v1 RequestAuthentication", "{targetRefs: [{kind: Gateway, name: g}]}", "tokens"},
		{"security.istio.io/v1beta1 RequestAuthentication", "[]", "tokens"},
		{"policy.signet.dev/v1alpha1 RegoPolicy", "{query: data.a.b, modul: package a}", "rego"},
		{"policy.signet.dev/v1 RegoPolicy", "{query: data.a.b, module: package a}", "rego"},
		{"policy.signet.dev/v1alpha1 RateLimitPolicy", "{local: {rules: [{}]}}", "limit"},
		{"policy.signet.dev/v1alpha1 RateLimitPolicy", "{selector: {matchLabels: {app: other}}, local: {}}", ""},
		{"policy.signet.dev/v1alpha1 RateLimitPolicy", "{selector: {matchLabels: {app: other}}, targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: s}], " + good + "}", "limit"},
		{"policy.signet.dev/v1alpha1 RateLimitPolicy", "{targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: s}], local: {}}", "limit"},
		{"policy.signet.dev/v1alpha1 RateLimitPolicy", "{targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: t}], local: {}}", ""},
		{"policy.signet.dev/v1alpha1 RateLimitPolicy", "{targetRefs: [{group: networking.istio.io, kind: VirtualService, name: v}], local: {}}", "route"},
		{"policy.signet.dev/v1alpha1 RateLimitPolicy", "{targetRefs: [{kind: VirtualService, name: v}], " + good + "}", "limit"},
		{"policy.signet.dev/v1alpha1 RateLimitPolicy", "{global: {rules: [{limit: {requests: 1, unit: Day}}]}}", "limit"},
	} {
		version, kind, _ := strings.Cut(c.kind, " ")
		text := oneWorkload + fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: broken, namespace: shop}\nspec: %s\n", version, kind, c.spec)
		objects, problems := mesh.Parse("q.yaml", []byte(text), mesh.ParseOptions{TrustDomain: td, Now: epoch})
		for _, p := range mesh.Refusals(problems)[:min(1, len(mesh.Refusals(problems)))] {
			objects = append(objects, mesh.Quarantine(p))
		}
		s, more := mesh.Build(objects, mesh.BuildOptions{TrustDomain: td})
		if len(mesh.Refusals(append(problems, more...))) == 0 {
			t.Errorf("%s %s: not refused", c.kind, c.spec)
			continue
		}
		v, _ := s.View("shop", "web")
		if got := marked(v); got != c.want {
			t.Errorf("%s %s: quarantined are %q, want %q", c.kind, c.spec, got, c.want)
		}
		again, bad := mesh.NewView(v.Objects, td, "shop/web", nil)
		if len(mesh.Refusals(bad)) > 0 || marked(again) != c.want {
			t.Errorf("%s %s: over the wire %q, %v", c.kind, c.spec, marked(again), bad)
		}
	}
}

// marked says where the quarantined objects of a view stand.
func marked(v *mesh.View) string {
	var out []string
	note := func(word string, m *mesh.Meta) {
		if m.Quarantined() {
			out = append(out, word)
		}
	}
	for _, p := range v.Authorization {
		note("authorization", &p.Meta)
	}
	for _, p := range v.RequestAuthentication {
		note("tokens", &p.Meta)
	}
	for _, p := range v.Rego {
		note("rego", &p.Meta)
	}
	for _, p := range v.RateLimits {
		note("limit", &p.Meta)
	}
	for _, p := range v.RouteLimits {
		note("route", &p.Meta)
	}
	return strings.Join(out, " ")
}

// What a quarantine holds decides nothing: no module, no rule, no limit.
func TestQuarantineIsEmpty(t *testing.T) {
	for kind, spec := range map[string]string{
		"RegoPolicy":      "{query: data.a.b, module: package a, bundle: {}}",
		"RateLimitPolicy": "{local: {rules: [{limit: {requests: 1, unit: Second}}]}, global: {}}",
	} {
		_, problems := mesh.Parse("q.yaml", []byte("apiVersion: policy.signet.dev/v1alpha1\nkind: "+kind+"\nmetadata: {name: a}\nspec: "+spec+"\n"), mesh.ParseOptions{})
		q := mesh.Quarantine(problems[0])
		if q == nil || proto.Size(q.Spec) != 0 || q.Version != "v1alpha1" || len(mesh.Refusals(mesh.Revalidate(q, td))) > 0 {
			t.Errorf("%s: %+v", kind, q)
		}
	}
}

// A policy that only rehearsed denies nobody when it breaks.
func TestQuarantineOfARehearsal(t *testing.T) {
	for value, want := range map[string]bool{"true": true, "false": false, "yes": false} {
		_, problems := mesh.Parse("q.yaml", []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, annotations: {istio.io/dry-run: \""+value+"\"}}\nspec: {action: DENY}\n"), mesh.ParseOptions{})
		if q := mesh.Quarantine(problems[0]); q == nil || q.DryRun() != want || !q.Quarantined() {
			t.Errorf("%s: %+v", value, q)
		}
	}
}

func TestFaultInText(t *testing.T) {
	const text = "apiVersion: policy.signet.dev/v1alpha1\nkind: RegoPolicy\nmetadata: {name: a}\nspec:\n  query: data.a.b\n  modules:\n  - name: a\n    source: |\n      package a\n\n      b := c\n  - {name: b, source: \"package b\"}\n"
	objects := parse(t, text)
	if p := mesh.FaultInText(objects[0], "spec.modules[0].source", 3, 6, "unsafe"); p.Position.Line != 11 || p.Message != "unsafe" || p.Field != "spec.modules[0].source" {
		t.Errorf("%+v", p)
	}
	if p := mesh.FaultInText(objects[0], "spec.modules[1].source", 1, 6, "unsafe"); p.Position.Line != 12 || p.Message != "line 1, column 6: unsafe" {
		t.Errorf("%+v", p)
	}
}
