package install_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/signet-mesh/signet/kube/kubetest"
)

// define installs the CustomResourceDefinitions of deploy/crds for one test.
func (a *api) define() {
	a.t.Helper()
	root, err := kubetest.Root()
	if err != nil {
		a.t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "deploy/crds/*.yaml"))
	if err != nil || len(files) < 10 {
		a.t.Fatalf("deploy/crds holds %v, %v", files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			a.t.Fatal(err)
		}
		crd := decode(a.t, string(text))[0]
		if err := a.apply(crd); err != nil {
			a.t.Fatalf("%s: %v", f, err)
		}
		a.t.Cleanup(func() { a.delete(crd) })
	}
}

// TestDefinitions: the API server takes what Signet takes, and refuses the structural faults itself, by CEL.
func TestDefinitions(t *testing.T) {
	a := connect(t)
	a.define()
	for name, c := range map[string]struct{ kind, spec, want string }{
		"module":             {"RegoPolicy", `{query: data.menu.allow, module: "package menu"}`, ""},
		"modules and data":   {"RegoPolicy", `{query: data.menu.sub.allow, modules: [{name: a, source: x}, {name: b, source: z}], data: {a: [1, {b: null}], "c d": 1.5}, timeout: 250ms}`, ""},
		"bundle":             {"RegoPolicy", `{query: data.a.b, bundle: {url: "https://bundles.example/x", path: bundles/shop.tar.gz, signing: {algorithm: ES256, publicKey: PEM}, polling: {minDelay: 1s, maxDelay: 1m30s}}, decisionLog: {url: "http://log.example", buffer: 10}}`, ""},
		"no source":          {"RegoPolicy", `{query: data.a.b}`, "exactly one of module, modules and bundle"},
		"two sources":        {"RegoPolicy", `{query: data.a.b, module: a, modules: [{name: a, source: x}]}`, "exactly one of module, modules and bundle"},
		"data with a bundle": {"RegoPolicy", `{query: data.a.b, data: {}, bundle: {url: "https://b.example", path: a}}`, "a bundle brings its own data"},
		"short query":        {"RegoPolicy", `{query: data.a, module: a}`, "spec.query"},
		"same module twice":  {"RegoPolicy", `{query: data.a.b, modules: [{name: a, source: x}, {name: a, source: z}]}`, "duplicate entries"},
		"one delay":          {"RegoPolicy", `{query: data.a.b, module: a, decisionLog: {url: "http://l.example", minDelay: 1s}}`, "both or not at all"},
		"delays reversed":    {"RegoPolicy", `{query: data.a.b, module: a, decisionLog: {url: "http://l.example", minDelay: 1m, maxDelay: 59s}}`, "more than maxDelay"},
		"unknown field":      {"RegoPolicy", `{query: data.a.b, module: a, moduel: b}`, "moduel"},

		"local":              {"RateLimitPolicy", `{selector: {matchLabels: {app: pay}}, local: {rules: [{limit: {requests: 5, unit: Second, burst: 10}}]}}`, ""},
		"none allowed":       {"RateLimitPolicy", `{local: {rules: [{limit: {requests: 0, unit: Hour}}]}}`, ""},
		"selectors":          {"RateLimitPolicy", `{targetRefs: [{kind: Service, name: pay}, {group: networking.istio.io, kind: VirtualService, name: pay, sectionName: r}], global: {rules: [{clientSelectors: [{identity: {type: Distinct}}, {sourceCIDR: {type: Distinct, value: "10.0.0.0/8"}}, {headers: [{name: x-user, type: Distinct}, {name: x-a, value: b, invert: true}], methods: [{value: GET}], path: {value: /a}, queryParams: [{name: q, type: RegularExpression, value: "a.*"}]}], limit: {requests: 4294967295, unit: Month}, shadowMode: true, onStoreFailure: Deny}]}}`, ""},
		"nothing limited":    {"RateLimitPolicy", `{selector: {}}`, "local or global"},
		"both ways to aim":   {"RateLimitPolicy", `{selector: {}, targetRefs: [{kind: Service, name: a}], local: {rules: [{limit: {requests: 1, unit: Day}}]}}`, "exclude each other"},
		"wildcard label":     {"RateLimitPolicy", `{selector: {matchLabels: {app: "p*"}}, local: {rules: [{limit: {requests: 1, unit: Day}}]}}`, "without wildcards"},
		"no rules":           {"RateLimitPolicy", `{local: {rules: []}}`, "at least 1 items"},
		"burst of a quota":   {"RateLimitPolicy", `{local: {rules: [{limit: {requests: 1, unit: Day, burst: 2}}]}}`, "not for quotas"},
		"burst of nothing":   {"RateLimitPolicy", `{local: {rules: [{limit: {unit: Second, burst: 2}}]}}`, "means nothing"},
		"empty selector":     {"RateLimitPolicy", `{local: {rules: [{clientSelectors: [{}], limit: {requests: 1, unit: Day}}]}}`, "at least 1 properties"},
		"distinct value":     {"RateLimitPolicy", `{local: {rules: [{clientSelectors: [{headers: [{name: a, type: Distinct, value: b}]}], limit: {requests: 1, unit: Day}}]}}`, "save for type Distinct"},
		"no value":           {"RateLimitPolicy", `{local: {rules: [{clientSelectors: [{identity: {}}], limit: {requests: 1, unit: Day}}]}}`, "value must be set"},
		"group of a service": {"RateLimitPolicy", `{targetRefs: [{group: networking.istio.io, kind: Service, name: a}], local: {rules: [{limit: {requests: 1, unit: Day}}]}}`, "group must be empty"},
		"no group":           {"RateLimitPolicy", `{targetRefs: [{kind: ServiceEntry, name: a}], local: {rules: [{limit: {requests: 1, unit: Day}}]}}`, "group must be empty"},
		"section of service": {"RateLimitPolicy", `{targetRefs: [{kind: Service, name: a, sectionName: b}], local: {rules: [{limit: {requests: 1, unit: Day}}]}}`, "only a VirtualService"},
		"too many requests":  {"RateLimitPolicy", `{local: {rules: [{limit: {requests: 4294967296, unit: Second}}]}}`, "4294967295"},
	} {
		t.Run(name, func(t *testing.T) {
			o := decode(t, "{apiVersion: policy.signet.dev/v1alpha1, kind: "+c.kind+", metadata: {name: p, namespace: default}, spec: "+c.spec+"}")[0]
			err := a.apply(o, metav1.DryRunAll)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestDefinitionsTakeTheDemo: what runs on a laptop is taken by the cluster's definitions as it is.
func TestDefinitionsTakeTheDemo(t *testing.T) {
	a := connect(t)
	a.define()
	root, err := kubetest.Root()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "deploy/demo/*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	made := map[string]bool{"default": true}
	taken := map[string]int{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range decode(t, string(text)) {
			if ns := o.GetNamespace(); ns != "" && !made[ns] {
				a.mustApply("{apiVersion: v1, kind: Namespace, metadata: {name: " + ns + "}}")
				made[ns] = true
				t.Cleanup(func() {
					a.delete(decode(t, "{apiVersion: v1, kind: Namespace, metadata: {name: "+ns+"}}")[0])
					a.gone(ns)
				})
			}
			if err := a.apply(o, metav1.DryRunAll); err != nil {
				t.Errorf("%s: %s %s/%s: %v", filepath.Base(f), o.GetKind(), o.GetNamespace(), o.GetName(), err)
			}
			taken[o.GetKind()]++
		}
	}
	if taken["AuthorizationPolicy"] == 0 || taken["VirtualService"] == 0 || taken["RegoPolicy"] == 0 {
		t.Errorf("the demo has %v only", taken)
	}
}

// TestEveryKindsColumns: each kind that is installed shows what became of its objects.
func TestEveryKindsColumns(t *testing.T) {
	a := connect(t)
	a.define()
	for _, plural := range []string{"security.istio.io/v1/authorizationpolicies", "security.istio.io/v1/peerauthentications", "security.istio.io/v1/requestauthentications",
		"networking.istio.io/v1/virtualservices", "networking.istio.io/v1beta1/destinationrules", "networking.istio.io/v1/serviceentries", "networking.istio.io/v1/workloadentries",
		"networking.istio.io/v1alpha3/sidecars", "policy.signet.dev/v1alpha1/regopolicies", "policy.signet.dev/v1alpha1/ratelimitpolicies"} {
		var table metav1.Table
		body, err := a.client.RESTClient().Get().AbsPath("/apis/"+plural).SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw()
		if err == nil {
			err = unmarshal(body, &table)
		}
		if err != nil {
			t.Errorf("%s: %v", plural, err)
			continue
		}
		var shown []string
		for _, c := range table.ColumnDefinitions {
			if c.Priority == 0 {
				shown = append(shown, c.Name)
			}
		}
		if got := strings.Join(shown, " "); !strings.HasSuffix(got, " Accepted Programmed Age") || strings.HasSuffix(plural, "authorizationpolicies") && !strings.HasPrefix(got, "Name Action ") {
			t.Errorf("%s shows %s", plural, got)
		}
	}
}

// TestColumns: kubectl get shows what a policy does and what became of it, for Istio's kinds and ours.
func TestColumns(t *testing.T) {
	a := connect(t)
	a.define()
	policy := decode(t, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: deny, namespace: default}, spec: {action: DENY, rules: [{}]}}`)[0]
	limit := decode(t, `{apiVersion: policy.signet.dev/v1alpha1, kind: RateLimitPolicy, metadata: {name: few, namespace: default}, spec: {targetRefs: [{kind: Service, name: pay}], local: {rules: [{limit: {requests: 1, unit: Day}}]}}}`)[0]
	const status = `[{"type":"Accepted","status":"True","reason":"Accepted","message":"the object stands","lastTransitionTime":"2026-01-01T00:00:00Z","observedGeneration":1},
		{"type":"Programmed","status":"False","reason":"Pending","message":"2 of 3 proxies acknowledged","lastTransitionTime":"2026-01-01T00:00:00Z","observedGeneration":1}]`
	for path, o := range map[string]*unstructured.Unstructured{
		"/apis/security.istio.io/v1/namespaces/default/authorizationpolicies/deny":  policy,
		"/apis/policy.signet.dev/v1alpha1/namespaces/default/ratelimitpolicies/few": limit,
	} {
		if err := a.apply(o); err != nil {
			t.Fatal(err)
		}
		rest := a.client.RESTClient()
		if err := rest.Patch("application/merge-patch+json").AbsPath(path, "status").Body([]byte(`{"status":{"conditions":` + status + `}}`)).Do(t.Context()).Error(); err != nil {
			t.Errorf("writing the status: %v", err)
		}
		var table metav1.Table
		body, err := rest.Get().AbsPath(path).SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw()
		if err == nil {
			err = unmarshal(body, &table)
		}
		if err != nil {
			t.Fatal(err)
		}
		row := map[string]string{}
		for i, c := range table.ColumnDefinitions {
			row[c.Name] = text(table.Rows[0].Cells[i])
		}
		want := map[string]string{"Accepted": "True", "Programmed": "False", "Proxies": "2 of 3 proxies acknowledged", "Reason": "the object stands"}
		if o == policy {
			want["Action"] = "DENY"
		} else {
			want["Target"] = "pay"
		}
		for column, v := range want {
			if row[column] != v {
				t.Errorf("%s: column %s is %q, want %q; all of them: %v", path, column, row[column], v, row)
			}
		}
		if _, ok := row["Age"]; !ok {
			t.Errorf("%s has no column Age", path)
		}
	}
	a.delete(policy)
	a.delete(limit)
	r, err := a.resource(policy)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get(t.Context(), "deny", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}
