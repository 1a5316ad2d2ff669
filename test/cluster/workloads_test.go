package cluster_test

import (
	"fmt"
	"strings"
	"testing"
)

// manyKinds is what a person may give `signet inject`: a List and more documents.
const manyKinds = `
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ServiceAccount
  metadata: {name: kinds, namespace: ops, labels: {set: kinds}}
- apiVersion: apps/v1
  kind: DaemonSet
  metadata: {name: agent, namespace: ops, labels: {set: kinds}}
  spec:
    selector: {matchLabels: {app: agent}}
    template:
      metadata: {labels: {app: agent}}
      spec: {serviceAccountName: kinds, containers: [{name: app, image: "registry.local/app:1", args: [serve], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]}
- apiVersion: apps/v1
  kind: StatefulSet
  metadata: {name: ledger, namespace: ops, labels: {set: kinds}}
  spec:
    serviceName: ledger
    selector: {matchLabels: {app: ledger}}
    template:
      metadata: {labels: {app: ledger}}
      spec: {serviceAccountName: kinds, containers: [{name: app, image: "registry.local/app:1", args: [serve], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: ops, labels: {set: kinds}}
spec:
  backoffLimit: 0
  template: {spec: {serviceAccountName: kinds, restartPolicy: Never, containers: [{name: app, image: "registry.local/app:1", args: [call, "` + pay + `once"]}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: ops, labels: {set: kinds}}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      backoffLimit: 0
      template: {spec: {serviceAccountName: kinds, restartPolicy: Never, containers: [{name: app, image: "registry.local/app:1", args: [call, "` + pay + `nightly"]}]}}
`

// kindsByHand puts every kind of workload into a namespace without the webhook, and takes them out by the same pipe.
func kindsByHand(t *testing.T) {
	apply(t, signet(t, manyKinds, "inject", "-f", "-"))
	kubectl(t, "", "-n", "ops", "create", "job", "tonight", "--from=cronjob/nightly")
	kubectl(t, "", "-n", "ops", "wait", "--for=condition=Complete", "job/once", "job/tonight", "--timeout=60s")
	kubectl(t, "", "-n", "ops", "rollout", "status", "daemonset/agent", "--timeout=60s")
	kubectl(t, "", "-n", "ops", "rollout", "status", "statefulset/ledger", "--timeout=60s")
	const kinds = "ns/ops/sa/kinds"
	for _, app := range []string{"agent", "ledger"} {
		if r := call(t, "ops", podName(t, "ops", app), pay).reply(t); !strings.Contains(caller(r), kinds) {
			t.Errorf("%s: pay saw %q", app, caller(r))
		}
	}
	for _, job := range []string{"once", "tonight"} {
		if log := kubectl(t, "", "-n", "ops", "logs", "job/"+job, "-c", "app"); !strings.Contains(log, kinds) {
			t.Errorf("%s: pay saw no identity: %s", job, log)
		}
	}
	kubectl(t, signet(t, manyKinds, "inject", "-f", "-"), "delete", "-f", "-")
	eventually(t, "all are gone", func() error {
		if left := kubectl(t, "", "-n", "ops", "get", "daemonset,statefulset,job,cronjob,serviceaccount", "-l", "set=kinds", "-o", "name"); left != "" {
			return fmt.Errorf("left: %s", left)
		}
		return nil
	})
}
