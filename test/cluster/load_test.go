package cluster_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// loaded runs a pod that calls at a fixed rate whatever happens (open loop) while do does something, and gives its report.
func loaded(t *testing.T, ns, name, rate string, urls []string, do func()) {
	t.Helper()
	stop := underLoad(t, ns, name, rate, urls)
	do()
	time.Sleep(3 * time.Second)
	stop()
}

// underLoad begins to call; what it returns ends that, and fails the test if one request failed.
func underLoad(t *testing.T, ns, name, rate string, urls []string) (stop func()) {
	t.Helper()
	pod := "load-" + name
	args, _ := json.Marshal(append([]string{"load", "-rate", rate}, urls...))
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: load}}
spec:
  restartPolicy: Never
  serviceAccountName: cart
  containers: [{name: app, image: "registry.local/app:1", args: %s}]
`, pod, ns, args))
	kubectl(t, "", "-n", ns, "wait", "--for=condition=Ready", "pod/"+pod, "--timeout=60s")
	time.Sleep(3 * time.Second)
	return func() {
		t.Helper()
		// The pod's main process ends at SIGTERM with its report as its last line.
		logs := make(chan string, 1)
		go func() {
			out, _ := tryKubectl("", "-n", ns, "logs", "-f", pod, "-c", "app")
			logs <- out
		}()
		time.Sleep(500 * time.Millisecond)
		kubectl(t, "", "-n", ns, "delete", "pod", pod)
		var r struct {
			Sent, Failed int
			Codes        map[string]int
			Errors       []string
			P50          float64 `json:"p50ms"`
			P99          float64 `json:"p99ms"`
			Max          float64 `json:"maxms"`
		}
		out := <-logs
		if err := json.Unmarshal([]byte(strings.TrimSpace(out)), &r); err != nil || r.Sent == 0 {
			t.Fatalf("report %q: %v", out, err)
		}
		t.Logf("%d requests, %d failed, p50 %.1f ms, p99 %.1f ms, max %.0f ms", r.Sent, r.Failed, r.P50, r.P99, r.Max)
		if r.Failed > 0 {
			t.Errorf("%d of %d requests failed: %v\n%s", r.Failed, r.Sent, r.Codes, strings.Join(r.Errors, "\n"))
		}
	}
}

// TestNothingLost keeps load on a service while everything around it changes: not one request fails.
func TestNothingLost(t *testing.T) {
	install(t, "--set", "workloadCertTTL=1m")
	namespace(t, "busy", "istio-injection=enabled")
	deploy(t, workload{ns: "busy", name: "cart"}, workload{ns: "busy", name: "pay", replicas: 2, serve: "--linger 1s"})
	apply(t, workload{ns: "busy", name: "stranger"}.yaml())
	url := []string{"http://pay.busy.svc.cluster.local/"}

	// Certificates live for a minute: this load sees several of each.
	began := time.Now()
	stop := underLoad(t, "busy", "renew", "20", url)
	t.Run("a deployment is restarted", func(t *testing.T) {
		loaded(t, "busy", "restart", "50", url, func() {
			kubectl(t, "", "-n", "busy", "rollout", "restart", "deployment/pay")
			rollout(t, "busy", "pay")
		})
	})
	t.Run("the control plane is restarted", func(t *testing.T) {
		loaded(t, "busy", "control", "50", url, func() {
			kubectl(t, "", "-n", system, "rollout", "restart", "deployment/signetd")
			kubectl(t, "", "-n", system, "rollout", "status", "deployment/signetd", "--timeout=120s")
		})
	})
	t.Run("the leader is killed while pods come", func(t *testing.T) {
		loaded(t, "busy", "leader", "50", url, func() {
			leader, _, _ := strings.Cut(kubectl(t, "", "-n", system, "get", "lease", "signetd-leader", "-o", "jsonpath={.spec.holderIdentity}"), "_")
			kubectl(t, "", "-n", "busy", "scale", "deployment/pay", "--replicas=4")
			kubectl(t, "", "-n", system, "delete", "pod", leader, "--grace-period=0", "--force")
			rollout(t, "busy", "pay")
			kubectl(t, "", "-n", "busy", "scale", "deployment/pay", "--replicas=2")
			kubectl(t, "", "-n", system, "rollout", "status", "deployment/signetd", "--timeout=120s")
		})
	})
	t.Run("a pod is evicted", func(t *testing.T) {
		loaded(t, "busy", "evict", "50", url, func() {
			pod := kubectl(t, "", "-n", "busy", "get", "pods", "-l", "app=pay", "-o", "jsonpath={.items[0].metadata.name}")
			kubectl(t, fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":"busy"}}`, pod),
				"create", "--raw", "/api/v1/namespaces/busy/pods/"+pod+"/eviction", "-f", "-")
			kubectl(t, "", "-n", "busy", "wait", "--for=delete", "pod/"+pod, "--timeout=60s")
			rollout(t, "busy", "pay")
		})
	})
	t.Run("namespaces move to another revision and back", func(t *testing.T) {
		loaded(t, "busy", "revision", "50", url, func() { revisions(t) })
	})
	t.Run("certificates of a minute are renewed", func(t *testing.T) {
		time.Sleep(100*time.Second - time.Since(began))
		stop()
	})
	t.Run("the CA and the API server are away", func(t *testing.T) {
		// Certificates that outlive the outage: the lifetime of a minute would end it by design.
		apply(t, signet(t, "", "install", "--set", "workloadCertTTL=24h"))
		kubectl(t, "", "-n", system, "rollout", "status", "deployment/signetd", "--timeout=120s")
		kubectl(t, "", "-n", "busy", "rollout", "restart", "deployment/pay")
		rollout(t, "busy", "pay")
		loaded(t, "busy", "away", "50", url, func() {
			kubectl(t, "", "-n", system, "scale", "deployment/signetd", "--replicas=0")
			kubectl(t, "", "-n", system, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=signetd", "--timeout=60s")
			// What the pod never called before can't be asked for now, and the answer says so.
			r, err := tryCall("busy", "deploy/cart", "-timeout", "5s", "http://stranger.busy.svc.cluster.local/")
			if r.Status != 503 || !strings.Contains(r.Body, "control plane") {
				t.Errorf("a new host without a control plane: %+v %v", r, err)
			}
			back := away(t, "apiserver")
			time.Sleep(2 * time.Minute)
			back()
			kubectl(t, "", "-n", system, "scale", "deployment/signetd", "--replicas=2")
			kubectl(t, "", "-n", system, "rollout", "status", "deployment/signetd", "--timeout=120s")
		})
	})
}

// revisions upgrades a namespace to a second control plane, rolls it back, and takes the second one out again.
func revisions(t *testing.T) {
	t.Helper()
	apply(t, signet(t, "", "install", "--revision", "canary", "--set", "workloadCertTTL=1m", "--set", "replicas=1"))
	kubectl(t, "", "-n", system, "rollout", "status", "deployment/signetd-canary", "--timeout=120s")
	move := func(want string, labels ...string) {
		t.Helper()
		kubectl(t, "", append([]string{"label", "--overwrite", "namespace", "busy"}, labels...)...)
		kubectl(t, "", "-n", "busy", "rollout", "restart", "deployment/pay")
		rollout(t, "busy", "pay")
		got := kubectl(t, "", "-n", "busy", "get", "pods", "-l", "app=pay", "--sort-by=.metadata.creationTimestamp", "-o", `jsonpath={.items[-1:].metadata.annotations.istio\.io/rev}`)
		if got != want {
			t.Errorf("pods of busy are of revision %q, want %q", got, want)
		}
	}
	move("canary", "istio-injection-", "istio.io/rev=canary")
	move("signet", "istio.io/rev-", "istio-injection=enabled")
	eventually(t, "the second revision goes when its last pod has gone", func() error {
		_, err := trySignet("", "uninstall", "--revision", "canary", "--yes")
		return err
	})
}

// away takes a process of the cluster away; what it returns lets it come back and waits for the API server.
func away(t *testing.T, name string) (back func()) {
	t.Helper()
	home := os.Getenv("SIGNET_CLUSTER")
	held := filepath.Join(home, name+".held")
	if err := os.WriteFile(held, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(home, name+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = os.Remove(held)
		eventually(t, "the API server is back", func() error {
			_, err := tryKubectl("", "get", "--raw", "/readyz")
			return err
		})
	}
}
