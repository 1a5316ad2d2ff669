package install_test

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/signet-mesh/signet/cmd/internal/install"
	"github.com/signet-mesh/signet/kube/kubetest"
)

// What the control plane makes while it runs, and beside it what is somebody else's.
const made = `
apiVersion: v1
kind: ConfigMap
metadata: {name: signet-ca-root-cert, namespace: default, labels: {app.kubernetes.io/managed-by: signet}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio-ca-root-cert, namespace: default, labels: {app.kubernetes.io/managed-by: signet}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: signet-used.default, namespace: signet-system, labels: {signet.dev/used: "true"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: signet-last-good, namespace: signet-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: signet-last-good-old, namespace: signet-system}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: signetd-leader-old, namespace: signet-system}
---
apiVersion: certificates.k8s.io/v1beta1
kind: ClusterTrustBundle
metadata: {name: "signet.dev:workload:root", labels: {app.kubernetes.io/managed-by: signet}}
spec:
  signerName: signet.dev/workload
  trustBundle: |
BUNDLE
---
apiVersion: v1
kind: Secret
metadata: {name: signet-ca, namespace: signet-system}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: signetd-leader, namespace: signet-system}
`

const before = `
apiVersion: v1
kind: ConfigMap
metadata: {name: istio-ca-root-cert, namespace: kube-public}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio-ca-root-cert, namespace: kube-node-lease, labels: {istio.io/config: "true"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: signet-ca-root-cert, namespace: kube-public}
`

// state is made, with a root that the API server takes.
func state(t *testing.T) string {
	t.Helper()
	ca := string(config.CAData)
	block, _ := pem.Decode([]byte(ca))
	if block == nil {
		t.Fatal("the API server's CA is no PEM")
	}
	root := strings.TrimSpace(string(pem.EncodeToMemory(block)))
	return strings.ReplaceAll(made, "BUNDLE", "    "+strings.ReplaceAll(root, "\n", "\n    "))
}

// TestInstallAndUninstall: what install prints is taken by a real API server in one pass, and uninstall --purge leaves exactly
// what was there before.
func TestInstallAndUninstall(t *testing.T) {
	a := connect(t)
	a.mustApply(before)
	was := a.everything()
	text, kept, err := output(t, install.Options{})
	if err != nil || len(kept) > 0 {
		t.Fatalf("kept %v, %v", kept, err)
	}
	objects := decode(t, text)
	for _, o := range objects {
		if err := a.apply(o); err != nil {
			t.Errorf("applying %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	for _, o := range objects { // the same again changes nothing and is taken
		if err := a.apply(o, metav1.DryRunAll); err != nil {
			t.Errorf("applying %s %s again: %v", o.GetKind(), o.GetName(), err)
		}
	}
	a.mustApply(state(t))
	// The control plane does not run here: policies are refused rather than stored unseen.
	policy := decode(t, "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: deny, namespace: default}, spec: {}}")[0]
	if err := a.apply(policy); err == nil || !strings.Contains(err.Error(), "validator.signet.dev") {
		t.Errorf("a policy while nobody judges: %v, want a refusal by the webhook", err)
	}

	if _, err := install.PlanRemoval(t.Context(), config, "nope", "signet", true); err == nil || !strings.Contains(err.Error(), `not installed in namespace "nope" but in "signet-system"`) {
		t.Errorf("a removal from another namespace: %v", err)
	}
	told := a.remove("signet", false)
	if !strings.Contains(told, "keep   signet-system secrets/signet-ca") || !strings.Contains(told, "keep   namespaces/signet-system") {
		t.Errorf("a plain removal does not say that it keeps the CA:\n%s", told)
	}
	if _, err := a.client.CoreV1().Secrets("signet-system").Get(t.Context(), "signet-ca", metav1.GetOptions{}); err != nil {
		t.Errorf("a plain removal took the CA: %v", err)
	}
	if err := a.apply(policy); err != nil { // the webhooks are gone, the definitions are not
		t.Errorf("a policy after a plain removal: %v", err)
	}

	told = a.remove("signet", true)
	if !strings.Contains(told, "waiting for namespaces/signet-system to go\n") || !strings.HasSuffix(told, "deleted namespaces/signet-system\n") {
		t.Errorf("the namespace was not waited for:\n%s", told)
	}
	if more, less := difference(was, a.everything()); len(more)+len(less) > 0 {
		t.Errorf("after uninstall --purge there is more:\n%s\nand less:\n%s", strings.Join(more, "\n"), strings.Join(less, "\n"))
	}
	again, err := install.PlanRemoval(t.Context(), config, "signet-system", "signet", true)
	if err != nil || !again.Empty() {
		t.Errorf("a second removal finds something: %v", err)
	}
	for _, o := range decode(t, before) {
		a.delete(o)
	}
}

func (a *api) delete(o *unstructured.Unstructured) {
	a.t.Helper()
	r, err := a.resource(o)
	if err == nil {
		err = r.Delete(a.lasting(), o.GetName(), metav1.DeleteOptions{})
	}
	for end := time.Now().Add(time.Minute); err == nil && o.GetKind() == "CustomResourceDefinition" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, gone := r.Get(a.lasting(), o.GetName(), metav1.GetOptions{}); apierrors.IsNotFound(gone) {
			break
		}
	}
	if err != nil {
		a.t.Error(err)
	}
}

// istio is what a live Istio shows of itself, its AuthorizationPolicy's definition apart.
const istio = `
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: istio-sidecar-injector, labels: {app: sidecar-injector, istio.io/rev: default}}
webhooks:
  - name: namespace.sidecar-injector.istio.io
    clientConfig: {service: {name: istiod, namespace: istio-system, path: /inject}}
    admissionReviewVersions: [v1]
    sideEffects: None
    rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
    namespaceSelector: {matchLabels: {istio-injection: enabled}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod, namespace: istio-system, labels: {app: istiod}}
spec:
  selector: {matchLabels: {app: istiod}}
  template:
    metadata: {labels: {app: istiod}}
    spec: {containers: [{name: discovery, image: "docker.io/istio/pilot:1.31.1"}]}
`

// foreign is Istio's definition as Istio itself installs it, without labels of ours.
func foreign(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	root, err := kubetest.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "deploy/crds/authorizationpolicies.security.istio.io.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	crd := decode(t, string(text))[0]
	crd.SetLabels(map[string]string{"app": "istio-pilot"})
	return crd
}

// TestBesideIstio: with a live Istio only istio.io/rev is taken, until --take-over; its definition is left alone, and uninstall
// --purge leaves Istio as it was.
func TestBesideIstio(t *testing.T) {
	a := connect(t)
	a.mustApply(istio)
	crd := foreign(t)
	if err := a.apply(crd); err != nil {
		t.Fatal(err)
	}
	was := a.everything()
	text, kept, err := output(t, install.Options{Profile: "minimal"})
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) != 1 || kept[0] != "customresourcedefinition/authorizationpolicies.security.istio.io" {
		t.Errorf("left alone: %v, want Istio's AuthorizationPolicy", kept)
	}
	for _, never := range []string{"name: authorizationpolicies.security.istio.io", " namespace.injector.signet.dev", " object.injector.signet.dev",
		" namespace.validator.signet.dev", "istio-ca-root-cert", "--alone", "defaultRevision: true"} {
		if strings.Contains(text, never) {
			t.Errorf("beside Istio the output holds %q", never)
		}
	}
	if !strings.Contains(text, "rev.namespace.injector.signet.dev") {
		t.Error("no webhook for istio.io/rev")
	}
	taken, _, err := output(t, install.Options{Profile: "minimal", TakeOver: true})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(taken, " namespace.injector.signet.dev") || !strings.Contains(taken, "--take-over") || strings.Contains(taken, "istio-ca-root-cert") {
		t.Error("--take-over must take the bare label and leave Istio's ConfigMap alone")
	}
	if _, _, err := output(t, install.Options{Set: []string{"alone=true"}}); err == nil || !strings.Contains(err.Error(), "--take-over") {
		t.Errorf("alone=true beside Istio: %v, want a refusal that names --take-over", err)
	}
	a.mustApply(text)
	if again, _, err := output(t, install.Options{Profile: "minimal"}); err != nil || again != text {
		t.Errorf("the same again beside Istio gives something else: %v", err)
	}
	a.mustApply(taken)
	again, said, err := told(t, install.Options{Profile: "minimal"})
	if err != nil || again != taken || !strings.Contains(said, "stays this revision's") {
		t.Errorf("without --take-over, what was taken over is not kept and told of: %v\n%s", err, said)
	}
	again, said, err = told(t, install.Options{Profile: "minimal", Set: []string{"takeOver=false"}})
	if err != nil || again != text || !strings.Contains(said, "WARNING") {
		t.Errorf("takeOver=false must give up the bare label, and warn: %v\n%s", err, said)
	}
	a.remove("signet", true)
	if more, less := difference(was, a.everything()); len(more)+len(less) > 0 {
		t.Errorf("Istio is not as it was; more:\n%s\nless:\n%s", strings.Join(more, "\n"), strings.Join(less, "\n"))
	}
	for _, o := range append(decode(t, istio), crd) {
		a.delete(o)
	}
	a.gone("istio-system")
}

// TestCanary: a second revision stands beside the first, takes no bare label, and goes without touching it.
func TestCanary(t *testing.T) {
	a := connect(t)
	was := a.everything()
	first, _, err := output(t, install.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a.mustApply(first)
	a.mustApply(state(t))
	one := a.everything()
	second, _, err := output(t, install.Options{Revision: "canary", Tag: "0.6.0"})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(second, " namespace.injector.signet.dev") || !strings.Contains(second, "/signetd:0.6.0") {
		t.Error("a second revision must leave the bare label to the first, and have its own image")
	}
	a.mustApply(second)
	again, _, err := output(t, install.Options{})
	if err != nil || !strings.Contains(again, " namespace.injector.signet.dev") || !strings.Contains(again, "--alone") {
		t.Errorf("installed again beside another revision, the first one must keep what it has: %v", err)
	}
	own := `{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: signetd-leader-canary, namespace: signet-system}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: signet-last-good-canary, namespace: signet-system}}`
	a.mustApply(own)
	if more, less := difference(one, a.everything()); len(less) > 0 || len(more) < 10 {
		t.Errorf("the second revision changed objects of the first: %v, and added %d", less, len(more))
	}
	told := a.remove("canary", true)
	if !strings.Contains(told, "other revision") {
		t.Errorf("the CA of both is not kept:\n%s", told)
	}
	if more, less := difference(one, a.everything()); len(more)+len(less) > 0 {
		t.Errorf("the first revision is not as it was; more:\n%s\nless:\n%s", strings.Join(more, "\n"), strings.Join(less, "\n"))
	}
	a.remove("signet", true)
	if more, less := difference(was, a.everything()); len(more)+len(less) > 0 {
		t.Errorf("more:\n%s\nless:\n%s", strings.Join(more, "\n"), strings.Join(less, "\n"))
	}
}

// TestForeign: what somebody else put into the control plane's namespace keeps it, whatever Kubernetes makes there does not; and
// into a namespace that is going nothing is installed.
func TestForeign(t *testing.T) {
	a := connect(t)
	was := a.everything()
	text, _, err := output(t, install.Options{Profile: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	a.mustApply(text)
	a.mustApply(`{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: signet-system}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt, namespace: signet-system}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: signetd, namespace: signet-system}}`)
	deployment, err := a.client.AppsV1().Deployments("signet-system").Get(t.Context(), "signetd", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.mustApply(`{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: signetd-1, namespace: signet-system, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: signetd, uid: "` + string(deployment.UID) + `"}]},
spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}}}`)
	plugged := decode(t, `{apiVersion: v1, kind: Secret, metadata: {name: cacerts, namespace: signet-system}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: backup, namespace: signet-system}, spec: {schedule: "@daily", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}}}`)
	for _, o := range plugged {
		if err := a.apply(o); err != nil {
			t.Fatal(err)
		}
	}
	told := a.remove("signet", true)
	if !strings.Contains(told, "keep   namespaces/signet-system, which holds what is not Signet's: cronjobs/backup, secrets/cacerts\n") || strings.Contains(told, "deleted namespaces") {
		t.Errorf("the namespace's foreign objects are not told of:\n%s", told)
	}
	for _, o := range plugged {
		a.delete(o)
	}
	// A second run, and somebody is faster: after the plan. Nobody collects garbage here.
	a.delete(decode(t, `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: signetd-1, namespace: signet-system}}`)[0])
	a.mustApply(text)
	plan, err := install.PlanRemoval(t.Context(), config, "signet-system", "signet", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.apply(plugged[0]); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := plan.Run(t.Context(), &out); err != nil || !strings.Contains(out.String(), "keep namespaces/signet-system, which holds what is not Signet's: secrets/cacerts\n") {
		t.Errorf("%v\n%s", err, &out)
	}
	for _, o := range append(plugged[:1], decode(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt, namespace: signet-system}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: signet-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: signet-system}}`)...) {
		a.delete(o)
	}
	if _, err := install.Look(t.Context(), config, "signet-system", "signet"); err == nil || !strings.Contains(err.Error(), "is being deleted") {
		t.Errorf("a look at a namespace that is going: %v", err)
	}
	a.gone("signet-system")
	if more, less := difference(was, a.everything()); len(more)+len(less) > 0 {
		t.Errorf("more:\n%s\nless:\n%s", strings.Join(more, "\n"), strings.Join(less, "\n"))
	}
}

// TestInUse: pods with a sidecar of the revision are counted, those of another mesh and finished ones are not.
func TestInUse(t *testing.T) {
	a := connect(t)
	const pod = `{apiVersion: v1, kind: Pod, metadata: {name: NAME, namespace: default, annotations: {sidecar.istio.io/status: '{"revision":"REV"}'}},
spec: {automountServiceAccountToken: false, containers: [{name: a, image: a}]}}`
	var all []*unstructured.Unstructured
	a.mustApply(`{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}`)
	for name, rev := range map[string]string{"one": "signet", "two": "signet", "other": "default"} {
		o := decode(t, strings.NewReplacer("NAME", name, "REV", rev).Replace(pod))[0]
		if err := a.apply(o); err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	plan, err := install.PlanRemoval(t.Context(), config, "signet-system", "signet", false)
	if err != nil || plan.InUse() != "default (2)" {
		t.Errorf("in use by %q, %v; want default (2)", plan.InUse(), err)
	}
	for _, o := range all {
		a.delete(o)
	}
}

// TestPresetNamespaces: a namespace of Kubernetes' own is not made ours, and gets no Pod Security labels.
func TestPresetNamespaces(t *testing.T) {
	var o install.Options
	o.Profile, o.Namespace = "default", "mesh"
	values, err := o.Values()
	if err != nil {
		t.Fatal(err)
	}
	for namespace, want := range map[string]bool{"default": false, "kube-system": false, "mesh": true} {
		made, err := install.Render(values, namespace, "")
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := made.Print(&out); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "\nkind: Namespace\n"); got != want {
			t.Errorf("%s: Namespace printed is %v", namespace, got)
		}
	}
}
