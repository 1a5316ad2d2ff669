package cluster_test

import "testing"

// TestPod runs one pod behind a Service, and calls it by name from another.
func TestPod(t *testing.T) {
	namespace(t, "plain")
	apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: plain}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: app, image: "registry.local/app:1", args: [serve, --name, web], ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: plain}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`)
	rollout(t, "plain", "web")
	r := call(t, "plain", "deploy/web", "-until", "20s", "http://web.plain.svc.cluster.local/hello")
	if got := r.reply(t); got.Name != "web" || got.Path != "/hello" {
		t.Errorf("got %+v", r)
	}
}
