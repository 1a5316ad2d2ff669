package webhook

import (
	"context"
	"fmt"
	"strings"
	"testing"

	admission "k8s.io/api/admission/v1"
	registration "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/signet-mesh/signet/mesh"
)

func validator(name string) func(w *world) ([]string, []string) {
	return func(w *world) ([]string, []string) {
		effects, policy := registration.SideEffectClassNone, registration.Fail
		_, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(context.Background(), &registration.ValidatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Webhooks: []registration.ValidatingWebhook{{
				Name: "a.validator.signet.dev", ClientConfig: hookClient(w.url + ValidatePath), AdmissionReviewVersions: []string{"v1"}, SideEffects: &effects, FailurePolicy: &policy,
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"test": name}},
				Rules: []registration.RuleWithOperations{{Operations: []registration.OperationType{registration.Create, registration.Update, registration.Delete},
					Rule: registration.Rule{APIGroups: []string{mesh.GroupSecurity, mesh.GroupNetworking}, APIVersions: []string{"*"}, Resources: []string{"*"}}}},
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			panic(err)
		}
		return nil, []string{name}
	}
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

func policy(name, spec string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: " + name + ", namespace: NS}\nspec: " + spec + "\n"
}

// The API server asks: faults are refused in the words of `signet validate`, the rest is a warning, deleting is never refused.
func TestObjectsAreJudged(t *testing.T) {
	w := start(t, validator("judged"))
	ours, theirs := namespace(t, "ours", "test=judged"), namespace(t, "theirs", "test=judged", "istio.io/rev=other")
	policies := dynamic.NewForConfigOrDie(restConfig).Resource(schema.GroupVersionResource{Group: mesh.GroupSecurity, Version: "v1", Resource: "authorizationpolicies"})
	create := func(ns, text string) error {
		_, err := policies.Namespace(ns).Create(t.Context(), object(t, strings.ReplaceAll(text, "NS", ns)), metav1.CreateOptions{})
		return err
	}
	good := policy("good", `{action: ALLOW, rules: [{from: [{source: {namespaces: [shop]}}]}]}`)
	eventually(t, "a good policy", func() bool { return create(ours, good) == nil })
	for _, bad := range []string{
		policy("faulty", `{action: DENY, rules: [{to: [{operation: {paths: ["/a*b"]}}]}]}`),
		policy("faulty", `{action: DENY}`),
		policy("bad", `{action: ALLOW}`),
	} {
		err := create(ours, bad)
		_, problems := mesh.Parse("", []byte(strings.ReplaceAll(bad, "NS", ours)), mesh.ParseOptions{TrustDomain: trustDomain, Judge: judgeBad})
		if len(problems) == 0 {
			t.Fatalf("signet validate takes %s", bad)
		}
		p := problems[0]
		p.Position = mesh.Position{}
		if err == nil || !strings.Contains(err.Error(), "denied the request: "+p.Error()) {
			t.Errorf("%s: %v\nwant %s", bad, err, p.Error())
		}
		if err := create(theirs, bad); err != nil && !strings.Contains(err.Error(), "already exists") {
			t.Errorf("in another revision's namespace: %v", err)
		}
	}
	stays := func(ns, name string) *unstructured.Unstructured {
		u, err := policies.Namespace(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	// An object that was let in before keeps its finalizers writable, not its spec; and it can go.
	n, err := client.CoreV1().Namespaces().Get(t.Context(), theirs, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	delete(n.Labels, "istio.io/rev")
	if _, err := client.CoreV1().Namespaces().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	u := stays(theirs, "bad")
	u.SetFinalizers([]string{"example.com/x"})
	if u, err = policies.Namespace(theirs).Update(t.Context(), u, metav1.UpdateOptions{}); err != nil {
		t.Fatalf("a finalizer of a faulty object: %v", err)
	}
	u.SetAnnotations(map[string]string{"a": "b"})
	if _, err := policies.Namespace(theirs).Update(t.Context(), u, metav1.UpdateOptions{}); err == nil {
		t.Error("an edit of a faulty object is taken")
	}
	u.SetAnnotations(nil)
	u.SetFinalizers(nil)
	if _, err := policies.Namespace(theirs).Update(t.Context(), u, metav1.UpdateOptions{}); err != nil {
		t.Errorf("taking a finalizer away: %v", err)
	}
	for _, name := range []string{"bad", "faulty"} {
		if err := policies.Namespace(theirs).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("deleting %s: %v", name, err)
		}
	}
	_ = w
}

// request asks the handler about an object, as the API server does.
func (w *world) request(text string, change func(*admission.AdmissionRequest)) *admission.AdmissionResponse {
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		panic(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		panic(err)
	}
	gvk := u.GroupVersionKind()
	r := &admission.AdmissionRequest{Kind: metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}, Namespace: u.GetNamespace(), Name: u.GetName(),
		Operation: admission.Create, Object: runtime.RawExtension{Raw: raw}}
	if change != nil {
		change(r)
	}
	return w.server.validate(context.Background(), r)
}

func TestKindsThatAreNotHonoured(t *testing.T) {
	w := start(t, validator("kinds"))
	ns := namespace(t, "kinds")
	of := func(apiVersion, kind, rest string) string {
		return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: a, namespace: %s}\n%s", apiVersion, kind, ns, rest)
	}
	for _, c := range []struct{ apiVersion, kind string }{
		{"networking.istio.io/v1alpha3", "EnvoyFilter"}, {"extensions.istio.io/v1alpha1", "WasmPlugin"}, {"telemetry.istio.io/v1", "Telemetry"},
		{"networking.istio.io/v1", "Gateway"}, {"networking.istio.io/v1beta1", "ProxyConfig"}, {"networking.istio.io/v1", "WorkloadGroup"}, {"gateway.networking.k8s.io/v1", "HTTPRoute"},
	} {
		r := w.request(of(c.apiVersion, c.kind, "spec: {a: b}"), nil)
		want := "Signet does not honour " + c.kind + ": it has no effect"
		if !r.Allowed || len(r.Warnings) != 1 || r.Warnings[0] != want {
			t.Errorf("%s: %v %q", c.kind, r.Allowed, r.Warnings)
		}
	}
	for name, c := range map[string]struct {
		text    string
		change  func(*admission.AdmissionRequest)
		allowed bool
	}{
		"a version that is not served":   {of("security.istio.io/v9", "AuthorizationPolicy", "spec: {}"), nil, false},
		"its deletion":                   {of("security.istio.io/v9", "AuthorizationPolicy", "spec: {}"), func(r *admission.AdmissionRequest) { r.Operation = admission.Delete }, true},
		"its status":                     {of("security.istio.io/v9", "AuthorizationPolicy", "spec: {}"), func(r *admission.AdmissionRequest) { r.SubResource = "status" }, true},
		"a strange kind":                 {of("example.com/v1", "Thing", "spec: {}"), nil, true},
		"some ConfigMap":                 {of("v1", "ConfigMap", "data: {mesh: '[['}"), nil, true},
		"a broken MeshConfig":            {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: '[['}", nil, false},
		"an unread field":                {of("security.istio.io/v1", "AuthorizationPolicy", "spec: {acton: DENY}"), nil, false},
		"what the API server adds":       {of("security.istio.io/v1", "AuthorizationPolicy", "spec: {}\nstatus: {conditions: [{x: y}]}"), nil, true},
		"a name that is still generated": {"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {generateName: a-, namespace: " + ns + "}\nspec: {}", nil, true},
	} {
		if r := w.request(c.text, c.change); r.Allowed != c.allowed {
			t.Errorf("%s: allowed %v: %+v", name, r.Allowed, r.Result)
		}
	}
	dangling := w.request(of("networking.istio.io/v1", "VirtualService", "spec: {hosts: [a.shop.svc.cluster.local], http: [{route: [{destination: {host: nowhere.shop.svc.cluster.local}}]}]}"), nil)
	if !dangling.Allowed || len(dangling.Warnings) == 0 || !strings.Contains(strings.Join(dangling.Warnings, "\n"), "nowhere.shop.svc.cluster.local") {
		t.Errorf("a reference to nothing: %v %q", dangling.Allowed, dangling.Warnings)
	}
}
