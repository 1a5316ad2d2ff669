package cluster_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// signet runs the person's tool as the cluster's administrator.
func signet(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := trySignet(stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func trySignet(stdin string, args ...string) (string, error) {
	c := exec.Command("../../bin/signet", args...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &errs
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("signet %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

const system = "signet-system"

// install puts Signet into the cluster, as a person does, and takes it out when the test ends.
func install(t *testing.T, args ...string) {
	t.Helper()
	apply(t, signet(t, "", append([]string{"install"}, args...)...))
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := tryKubectl("", "-n", system, "logs", "-l", "app.kubernetes.io/name=signetd", "--tail=25")
			t.Logf("control plane:\n%s", logs)
		}
		if os.Getenv("SIGNET_KEEP_MESH") == "" {
			if out, err := trySignet("", "uninstall", "--yes", "--purge", "--force"); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
	})
	if _, err := tryKubectl("", "-n", system, "rollout", "status", "deployment/signetd", "--timeout=90s"); err != nil {
		t.Fatalf("%v\n%s", err, describe(system))
	}
}

// workload is a Deployment of the application with its ServiceAccount and Service.
type workload struct {
	ns, name, version string
	replicas          int
	serve             string // more flags of the application
	portName          string // of the Service's port; "" for none
	annotations       string // YAML flow, of the pods
	template          string // more of the pod's spec, in YAML with six spaces
	lines             string // more of the application's container, in YAML with eight spaces
	ports             string // more of the Service's ports, YAML flow
	readiness         string // the readiness probe, YAML flow; "" for /healthz
	noService         bool
}

func (w workload) yaml() string {
	if w.replicas == 0 {
		w.replicas = 1
	}
	if w.version == "" {
		w.version = "v1"
	}
	if w.readiness == "" {
		w.readiness = "httpGet: {path: /healthz, port: 8080}"
	}
	args := "serve --name " + w.name + " --version " + w.version + " " + w.serve
	name := w.name
	if w.version != "v1" {
		name += "-" + w.version
	}
	port := ""
	if w.portName != "" {
		port = "name: " + w.portName + ", "
	}
	out := fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[3]s}}
spec:
  replicas: %[4]d
  selector: {matchLabels: {app: %[3]s, version: %[5]s}}
  template:
    metadata: {labels: {app: %[3]s, version: %[5]s}, annotations: {%[6]s}}
    spec:
      serviceAccountName: %[3]s
      terminationGracePeriodSeconds: 20
%[8]s
      containers:
      - name: app
        image: registry.local/app:1
        args: %[7]s
        ports: [{containerPort: 8080}]
        readinessProbe: {%[10]s, periodSeconds: 1}
%[9]s
`, w.ns, name, w.name, w.replicas, w.version, w.annotations, list(args), w.template, w.lines, w.readiness)
	if w.version != "v1" {
		return out
	}
	out += fmt.Sprintf("---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s, namespace: %s}\n", w.name, w.ns)
	if w.noService {
		return out
	}
	return out + fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec: {selector: {app: %[1]s}, ports: [{%[3]sport: 80, targetPort: 8080}%[4]s]}\n", w.name, w.ns, port, w.ports)
}

// list is words as a list of JSON, which YAML takes.
func list(words string) string {
	b, _ := json.Marshal(strings.Fields(words))
	return string(b)
}

func deploy(t *testing.T, all ...workload) {
	t.Helper()
	for _, w := range all {
		apply(t, w.yaml())
	}
	for _, w := range all {
		name := w.name
		if w.version != "" && w.version != "v1" {
			name += "-" + w.version
		}
		rollout(t, w.ns, name)
	}
}

// answered calls until the answer has a status, for at most so long, and gives how long it took.
func answered(t *testing.T, within time.Duration, want int, ns, from string, args ...string) time.Duration {
	t.Helper()
	start := time.Now()
	var r result
	var err error
	for {
		if r, err = tryCall(ns, from, args...); r.Status == want {
			return time.Since(start)
		}
		if time.Since(start) > within {
			t.Fatalf("%s from %s: want %d within %v, have %+v %v", args[len(args)-1], from, want, within, r, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// podIP is the address of one pod of an application.
func podIP(t *testing.T, ns, app string) string {
	t.Helper()
	return onePod(t, ns, app, "{.items[0].status.podIP}")
}

func podName(t *testing.T, ns, app string) string {
	t.Helper()
	return onePod(t, ns, app, "{.items[0].metadata.name}")
}

func onePod(t *testing.T, ns, app, path string) string {
	t.Helper()
	return kubectl(t, "", "-n", ns, "get", "pods", "-l", "app="+app, "--field-selector=status.phase=Running", "-o", "jsonpath="+path)
}
