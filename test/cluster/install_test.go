package cluster_test

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// everything lists every object of the cluster that does not come and go by itself, as KIND NAMESPACE/NAME.
func everything(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, namespaced := range []string{"true", "false"} {
		kinds := strings.Fields(kubectl(t, "", "api-resources", "--verbs=list", "-o", "name", "--namespaced="+namespaced))
		kinds = slices.DeleteFunc(kinds, func(k string) bool {
			return strings.HasPrefix(k, "events") || strings.Contains(k, "metrics.k8s.io") || k == "leases.coordination.k8s.io" || k == "nodes" || strings.HasPrefix(k, "componentstatuses")
		})
		list := kubectl(t, "", "get", strings.Join(kinds, ","), "-A", "--ignore-not-found", "-o",
			`go-template={{range .items}}{{.kind}} {{.metadata.namespace}}/{{.metadata.name}}{{"\n"}}{{end}}`)
		out = append(out, strings.Split(strings.TrimSpace(list), "\n")...)
	}
	slices.Sort(out)
	return out
}

// TestUninstall holds every way of installing to a working mesh, and its removal to leaving what was there before.
func TestUninstall(t *testing.T) {
	namespace(t, "kept", "istio-injection=enabled")
	before := everything(t)
	purge := []string{"uninstall", "--yes", "--purge", "--force"}
	for _, way := range []struct {
		name    string
		in, out func(t *testing.T)
	}{
		{"signet install", func(t *testing.T) { apply(t, signet(t, "", "install", "--profile", "demo")) },
			func(t *testing.T) { signet(t, "", purge...) }},
		{"kustomize", func(t *testing.T) { kubectl(t, "", "apply", "-k", "../../deploy/kustomize/overlays/demo") },
			func(t *testing.T) { signet(t, "", purge...) }},
		{"Helm", func(t *testing.T) {
			chart := "../../deploy/charts/signet"
			helm(t, "install", "signet", chart, "--namespace", system, "--create-namespace", "--values", chart+"/profiles/demo.yaml", "--wait", "--timeout", "90s")
		}, func(t *testing.T) {
			helm(t, "uninstall", "signet", "--namespace", system, "--wait")
			kubectl(t, "", "-n", system, "get", "secret", "signet-ca") // stays with the definitions, as the chart's notes say
			signet(t, "", purge...)
			kubectl(t, "", "delete", "namespace", system) // Helm's own
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			way.in(t)
			gone := false
			t.Cleanup(func() {
				if !gone {
					_, _ = trySignet("", purge...)
				}
			})
			rollout(t, system, "signetd")
			apply(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: kept}\nspec: {containers: [{name: app, image: \"registry.local/app:1\"}]}\n")
			kubectl(t, "", "-n", "kept", "wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
			if names := kubectl(t, "", "-n", "kept", "get", "pod", "web", "-o", "jsonpath={.spec.initContainers[*].name}"); !strings.Contains(names, "istio-proxy") {
				t.Errorf("the pod has %q", names)
			}
			kubectl(t, "", "-n", "kept", "delete", "pod", "web", "--grace-period=1")
			way.out(t)
			gone = true
			eventually(t, "nothing is left", func() error {
				left := slices.DeleteFunc(everything(t), func(o string) bool { return slices.Contains(before, o) })
				if len(left) > 0 {
					return fmt.Errorf("left behind: %v", left)
				}
				return nil
			})
		})
	}
	after := everything(t)
	for _, o := range before {
		if !slices.Contains(after, o) && !strings.HasPrefix(o, "Pod ") {
			t.Errorf("%s is gone", o)
		}
	}
}

// helm runs Helm itself, which main_test.go built.
func helm(t *testing.T, args ...string) {
	t.Helper()
	path, err := helmPath(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("helm %v: %v\n%s", args, err, out)
	}
}

// istio is what a live Istio leaves in a cluster for others to see. Its webhook calls nobody: no pod of these tests is its.
const istio = `
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod, namespace: istio-system, labels: {app: istiod, istio.io/rev: default}}
spec:
  selector: {matchLabels: {app: istiod}}
  template:
    metadata: {labels: {app: istiod}}
    spec: {containers: [{name: discovery, image: "registry.local/app:1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: istiod, namespace: istio-system, labels: {app: istiod}}
spec: {selector: {app: istiod}, ports: [{port: 443, targetPort: 15017}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: istio-sidecar-injector, labels: {app: sidecar-injector, istio.io/rev: default}}
webhooks:
- name: namespace.sidecar-injector.istio.io
  clientConfig: {service: {name: istiod, namespace: istio-system, path: /inject}}
  failurePolicy: Ignore
  timeoutSeconds: 1
  sideEffects: None
  admissionReviewVersions: [v1]
  namespaceSelector: {matchLabels: {istio-injection: enabled}}
  rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio-ca-root-cert, namespace: istio-system, labels: {istio.io/config: "true"}}
data: {root-cert.pem: "Istio's own"}
`

// TestBesideIstio installs next to an Istio that is at home already.
func TestBesideIstio(t *testing.T) {
	apply(t, istio)
	t.Cleanup(func() { _, _ = tryKubectl(istio, "delete", "-f", "-", "--ignore-not-found", "--wait=false") })
	install(t, "--profile", "demo")
	namespace(t, "theirs", "istio-injection=enabled")
	namespace(t, "ours", "istio.io/rev=signet")
	deploy(t, workload{ns: "theirs", name: "web"}, workload{ns: "ours", name: "web"})
	has := func(ns string) bool {
		return strings.Contains(kubectl(t, "", "-n", ns, "get", "pods", "-o", "jsonpath={.items[*].spec.initContainers[*].name}"), "istio-proxy")
	}
	if has("theirs") || !has("ours") {
		t.Errorf("sidecars: theirs %v, ours %v", has("theirs"), has("ours"))
	}
	if got := kubectl(t, "", "-n", "istio-system", "get", "configmap", "istio-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`); got != "Istio's own" {
		t.Errorf("Istio's bundle is %q now", got)
	}
	if _, err := tryKubectl("", "-n", "ours", "get", "configmap", "istio-ca-root-cert"); err == nil {
		t.Error("istio-ca-root-cert is published beside Istio")
	}
	kubectl(t, "", "-n", "ours", "get", "configmap", "signet-ca-root-cert")
	broken := `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: odd, namespace: %s}
spec: {action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {paths: ["/a*b"]}}]}]}
`
	if _, err := tryKubectl(fmt.Sprintf(broken, "theirs"), "apply", "--dry-run=server", "-f", "-"); err != nil {
		t.Errorf("an object of Istio's namespace is judged: %v", err)
	}
	if _, err := tryKubectl(fmt.Sprintf(broken, "ours"), "apply", "--dry-run=server", "-f", "-"); err == nil {
		t.Error("a broken object of our namespace is taken")
	}
	apply(t, signet(t, "", "install", "--profile", "demo", "--take-over"))
	eventually(t, "the bare label is ours after --take-over", func() error {
		kubectl(t, "", "-n", "theirs", "rollout", "restart", "deployment/web")
		if _, err := tryKubectl("", "-n", "theirs", "rollout", "status", "deployment/web", "--timeout=30s"); err != nil {
			return err
		}
		if !has("theirs") {
			return fmt.Errorf("no sidecar")
		}
		return nil
	})
}
