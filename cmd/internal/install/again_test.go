package install_test

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/signet-mesh/signet/cmd/internal/install"
)

// TestAgain: 'signet install | kubectl apply -f -' the second time writes nothing, and leaves the webhooks their CA, which the
// control plane has put there in between. kubectl calls an object unchanged where its patch is empty; that of a
// PodDisruptionBudget never is, because the API wants its selector replaced as a whole (patchStrategy), and kubectl then does not
// compare it.
func TestAgain(t *testing.T) {
	a := connect(t)
	text, _, err := output(t, install.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range decode(t, text) {
		annotate(t, o)
		if err := a.apply(o); err != nil {
			t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	hooks := a.client.AdmissionregistrationV1()
	mutating, err := hooks.MutatingWebhookConfigurations().Get(t.Context(), "signet-injector", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range mutating.Webhooks {
		mutating.Webhooks[i].ClientConfig.CABundle = config.CAData
	}
	if _, err := hooks.MutatingWebhookConfigurations().Update(t.Context(), mutating, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	again, _, err := output(t, install.Options{})
	if err != nil || again != text {
		t.Errorf("the second time prints something else: %v", err)
	}
	for _, o := range decode(t, again) {
		annotate(t, o)
		a.unchanged(o)
	}
	mutating, err = hooks.MutatingWebhookConfigurations().Get(t.Context(), "signet-injector", metav1.GetOptions{})
	if err != nil || string(mutating.Webhooks[0].ClientConfig.CABundle) != string(config.CAData) {
		t.Errorf("the second time took the webhooks' CA: %v, %+v", err, mutating.Webhooks[0].ClientConfig)
	}
	a.remove("signet", true)
}

// annotate adds what kubectl apply keeps of an object: the object.
func annotate(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	text, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	all := o.GetAnnotations()
	if all == nil {
		all = map[string]string{}
	}
	all[lastApplied] = string(text)
	o.SetAnnotations(all)
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// unchanged applies an object that is there as kubectl does, by a patch of what was applied before, what is applied now and what
// is there.
func (a *api) unchanged(o *unstructured.Unstructured) {
	a.t.Helper()
	r, err := a.resource(o)
	if err != nil {
		a.t.Fatal(err)
	}
	was, err := r.Get(a.t.Context(), o.GetName(), metav1.GetOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	var texts [2][]byte
	for i, x := range []*unstructured.Unstructured{o, was} {
		if texts[i], err = x.MarshalJSON(); err != nil {
			a.t.Fatal(err)
		}
	}
	kind, patch := types.StrategicMergePatchType, []byte(nil)
	if typed, unknown := scheme.Scheme.New(o.GroupVersionKind()); unknown != nil {
		kind = types.MergePatchType
		patch, err = jsonmergepatch.CreateThreeWayJSONMergePatch([]byte(was.GetAnnotations()[lastApplied]), texts[0], texts[1])
	} else {
		meta, bad := strategicpatch.NewPatchMetaFromStruct(typed)
		if bad != nil {
			a.t.Fatal(bad)
		}
		patch, err = strategicpatch.CreateThreeWayMergePatch([]byte(was.GetAnnotations()[lastApplied]), texts[0], texts[1], meta, true)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	if string(patch) != "{}" && o.GetKind() != "PodDisruptionBudget" {
		a.t.Errorf("%s %s would be configured by %s", o.GetKind(), o.GetName(), patch)
	}
	now, err := r.Patch(a.t.Context(), o.GetName(), kind, patch, metav1.PatchOptions{FieldManager: "test"})
	if err != nil || now.GetResourceVersion() != was.GetResourceVersion() {
		a.t.Errorf("%s %s is written again by %s: %v", o.GetKind(), o.GetName(), patch, err)
	}
}
