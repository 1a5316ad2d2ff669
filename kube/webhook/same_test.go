package webhook

import (
	"encoding/json"
	"regexp"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// templates are Deployments of many shapes.
var templates = map[string]string{
	"plain": `{serviceAccountName: default, containers: [{name: web, image: "web:1"}]}`,
	"probes and init containers": `
      serviceAccountName: default
      securityContext: {runAsNonRoot: true, fsGroup: 2000}
      terminationGracePeriodSeconds: 90
      initContainers:
      - {name: first, image: "i:1"}
      - {name: logs, image: "l:1", restartPolicy: Always, startupProbe: {tcpSocket: {port: 24224}}}
      containers:
      - name: web
        image: web:1
        ports: [{name: http, containerPort: 8080}, {name: m, containerPort: 9090}]
        livenessProbe: {httpGet: {port: http}}
        readinessProbe: {httpGet: {port: 8443, scheme: HTTPS, path: /r}, timeoutSeconds: 3}
        startupProbe: {grpc: {port: 7000}}
        lifecycle: {preStop: {httpGet: {path: /bye, port: 8080}}, postStart: {exec: {command: [x]}}}
      - {name: side, image: "s:1", livenessProbe: {exec: {command: [x]}}}
      volumes: [{name: d, emptyDir: {}}]`,
}

var annotations = []string{`{}`, `{sidecar.istio.io/nativeSidecar: "false", sidecar.istio.io/proxyCPU: "1", prometheus.io/scrape: "true", prometheus.io/port: "9090",
  traffic.sidecar.istio.io/excludeOutboundPorts: "443", sidecar.istio.io/userVolume: '{"x": {"emptyDir": {}}}', sidecar.istio.io/userVolumeMount: '{"x": {"mountPath": "/x"}}',
  proxy.istio.io/config: "concurrency: 2"}`}

// What `signet inject` prints and what the webhook makes is, once the API server has filled in its defaults, the same pod.
func TestByHandIsTheSame(t *testing.T) {
	w := start(t, injector("same"))
	in := namespace(t, "in", "test=same", "istio-injection=enabled")
	out := namespace(t, "out")
	eventually(t, "the webhook", func() bool {
		_, err := client.CoreV1().Pods(in).Create(t.Context(), simple(nil), metav1.CreateOptions{DryRun: []string{"All"}})
		return err == nil
	})
	for name, spec := range templates {
		for i, a := range annotations {
			text := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop-web}\nspec:\n  selector: {matchLabels: {tier: web}}\n  template:\n" +
				"    metadata:\n      labels: {tier: web}\n      annotations: " + a + "\n    spec: " + spec + "\n"
			injected, _, err := w.cfg.Text([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			hand := podOf(t, out, string(injected))
			hook := podOf(t, in, text)
			if h, k := comparable(t, hand), comparable(t, hook); h != k {
				t.Errorf("%s %d: by hand\n%s\nby the webhook\n%s", name, i, h, k)
			}
			if got := len(hook.Spec.InitContainers) + len(hook.Spec.Containers); got < 3 {
				t.Errorf("%s %d: the webhook gave no sidecar", name, i)
			}
		}
	}
}

// podOf applies a Deployment and creates the pod that its ReplicaSet would, dry both.
func podOf(t *testing.T, namespace, text string) *corev1.Pod {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := yaml.UnmarshalStrict([]byte(text), d); err != nil {
		t.Fatal(err)
	}
	dry := metav1.CreateOptions{DryRun: []string{"All"}}
	d, err := client.AppsV1().Deployments(namespace).Create(t.Context(), d, dry)
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	p := &corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: d.Spec.Template.Spec}
	p.GenerateName = "shop-web-7d9c-"
	p.Labels["pod-template-hash"] = "7d9c"
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "shop-web-7d9c", UID: "u", Controller: &yes}}
	p, err = client.CoreV1().Pods(namespace).Create(t.Context(), p, dry)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// comparable is what of a pod does not come from its name and place.
func comparable(t *testing.T, p *corev1.Pod) string {
	t.Helper()
	byName := func(a, b corev1.Volume) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}
	slices.SortFunc(p.Spec.Volumes, byName)
	b, err := json.MarshalIndent([]any{p.Labels, p.Annotations, p.Spec}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	// The words in hooks' paths are each injection's own, so that nobody guesses them.
	return regexp.MustCompile("(/app-lifecycle/[^/]+/[a-z]+/)[A-Z2-7]{26}").ReplaceAllString(string(b), "${1}WORD")
}
