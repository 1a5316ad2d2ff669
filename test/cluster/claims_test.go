package cluster_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestMesh installs Signet once and holds it to its claims, one a subtest.
func TestMesh(t *testing.T) {
	install(t)
	namespace(t, "shop", "istio-injection=enabled")
	namespace(t, "ops")
	namespace(t, "plain")
	deploy(t, workload{ns: "shop", name: "cart"},
		workload{ns: "shop", name: "pay", replicas: 2, serve: "--linger 1s --echo :9000", portName: "web", ports: ", {name: echo, port: 9000}"},
		workload{ns: "plain", name: "outsider"})
	byHand(t, workload{ns: "ops", name: "audit", lines: "        lifecycle: {preStop: {httpGet: {path: /healthz, port: 8080}}}"})

	t.Run("every pod of a labelled namespace has a sidecar", sidecars)
	t.Run("a call between plain deployments carries identities", identities)
	t.Run("what passes between pods is TLS 1.3, and nothing is readable", onTheWire)
	t.Run("STRICT refuses a pod without a sidecar", strict)
	t.Run("probes work under STRICT", probes)
	t.Run("gRPC: probes under STRICT, calls judged as TCP, and a policy's status says so", remoteCalls)
	t.Run("metrics of the application and the sidecar come merged", merged)
	t.Run("IPv6 is captured, carries identities, and STRICT refuses", overIPv6)
	t.Run("every kind of workload is injected by hand, and taken out again", kindsByHand)
	t.Run("AuthorizationPolicy by service account", byServiceAccount)
	t.Run("AuthorizationPolicy by namespace", byNamespace)
	t.Run("a policy change is in force within a second", quick)
	t.Run("RegoPolicy decides", regoDecides)
	t.Run("RateLimitPolicy limits", limits)
	t.Run("a canary gets its tenth", canary)
	t.Run("the original destination decides", destinations)
	t.Run("programs that start early, end late or call from init containers lose nothing", lifecycles)
	t.Run("objects say how they fare", conditions)
	t.Run("signet status, why and top reach pods", tools)
	t.Run("Pod Security that forbids the init container is named in the refusal", podSecurity)
	t.Run("certificate requests are signed when approved and true", certificateRequests)
	t.Run("the CA takes tokens of living pods for its audiences, and refuses all others alike", tokens)
	t.Run("a CA of one's own is taken while everything runs, a broken one is not", pluggedCA)
}

// byHand deploys what `signet inject` made of YAML.
func byHand(t *testing.T, w workload) {
	t.Helper()
	injected := signet(t, w.yaml(), "inject", "-f", "-")
	for what, text := range map[string]string{"what is injected": injected, "the same": w.yaml()} {
		if again := signet(t, text, "inject", "-f", "-"); again != injected {
			t.Errorf("injecting %s again gives something else:\n%s\n---\n%s", what, injected, again)
		}
	}
	apply(t, injected)
	rollout(t, w.ns, w.name)
}

func sidecars(t *testing.T) {
	for _, at := range []string{"shop/cart", "shop/pay", "ops/audit"} {
		ns, app, _ := strings.Cut(at, "/")
		out := kubectl(t, "", "-n", ns, "get", "pods", "-l", "app="+app, "-o", "jsonpath={.items[*].spec.initContainers[*].name}")
		if !strings.Contains(out, "istio-proxy") || !strings.Contains(out, "signet-capture") {
			t.Errorf("%s: init containers %q", at, out)
		}
	}
	out := kubectl(t, "", "-n", "plain", "get", "pods", "-o", "jsonpath={.items[*].spec.initContainers[*].name}")
	if out != "" {
		t.Errorf("plain/outsider has %q", out)
	}
}

const pay = "http://pay.shop.svc.cluster.local/"

// callers is what the callee was told of its caller.
func caller(r reply) string { return strings.Join(r.Header["X-Forwarded-Client-Cert"], " ") }

func identities(t *testing.T) {
	answered(t, 30*time.Second, 200, "shop", "deploy/cart", pay)
	for ns, app := range map[string]string{"shop": "cart", "ops": "audit"} {
		r := call(t, ns, "deploy/"+app, pay+"who").reply(t)
		want := "URI=spiffe://cluster.local/ns/" + ns + "/sa/" + app
		if !strings.Contains(caller(r), want) || !strings.Contains(caller(r), "By=spiffe://cluster.local/ns/shop/sa/pay") {
			t.Errorf("%s/%s: pay saw %q, want %s", ns, app, caller(r), want)
		}
	}
	if r := call(t, "shop", "deploy/cart", "http://pay/short").reply(t); caller(r) == "" {
		t.Errorf("by its short name: no identity in %+v", r)
	}
	if r := call(t, "plain", "deploy/outsider", pay).reply(t); caller(r) != "" {
		t.Errorf("a caller without a sidecar shows %q", caller(r))
	}
	// Neither "web" nor "echo" declares a protocol: the first bytes do.
	if got := kubectl(t, "", "-n", "shop", "exec", "deploy/cart", "-c", "app", "--", "/app", "tcp", "pay.shop:9000", "echoed"); got != "echoed\n" {
		t.Errorf("TCP on an undeclared port: %q", got)
	}
}

func onTheWire(t *testing.T) {
	w := listenWire(t)
	ip := podIP(t, "shop", "cart")
	const secret = "the-moon-is-made-of-cheese"
	call(t, "shop", "deploy/cart", "-X", "POST", "-d", strings.Repeat(secret, 10), pay+secret)
	seen := w.between(ip)
	if len(seen) == 0 || carries(seen, secret) {
		t.Errorf("of %d packets one carries plaintext: %v", len(seen), carries(seen, secret))
	}
	// A new connection, so that its handshake is seen.
	kubectl(t, "", "-n", "shop", "rollout", "restart", "deployment/cart")
	rollout(t, "shop", "cart")
	eventually(t, "one pod of cart", func() error {
		if n := len(strings.Fields(kubectl(t, "", "-n", "shop", "get", "pods", "-l", "app=cart", "-o", "name"))); n != 1 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
	answered(t, 20*time.Second, 200, "shop", "deploy/cart", pay+secret)
	seen = w.between(podIP(t, "shop", "cart"))
	var toPay []packet
	for _, p := range seen {
		if p.from.Port() == 8080 || p.to.Port() == 8080 {
			toPay = append(toPay, p)
		}
	}
	if v := tlsVersion(toPay); v != 0x0304 {
		t.Errorf("TLS version on the wire: %#x in %d packets", v, len(toPay))
	}
	if carries(seen, secret) {
		t.Error("plaintext passed")
	}
	// The wire is not deaf: what an outsider sends can be read.
	call(t, "plain", "deploy/outsider", pay+secret)
	if !carries(w.between(podIP(t, "plain", "outsider")), secret) {
		t.Error("not even plaintext was seen: the capture is broken")
	}
}

func policy(t *testing.T, yaml string) {
	t.Helper()
	apply(t, yaml)
	t.Cleanup(func() { _, _ = tryKubectl(yaml, "delete", "-f", "-", "--ignore-not-found") })
}

const strictShop = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
`

// refused waits until calls of an outsider fail.
func refusedOutsider(t *testing.T) {
	t.Helper()
	eventually(t, "the outsider is refused", func() error {
		if r, _ := tryCall("plain", "deploy/outsider", "-timeout", "3s", pay); r.Status != 0 {
			return fmt.Errorf("answered with %d", r.Status)
		}
		return nil
	})
}

func strict(t *testing.T) {
	policy(t, strictShop)
	refusedOutsider(t)
	if r := call(t, "shop", "deploy/cart", pay); r.Status != 200 {
		t.Errorf("cart: %+v", r)
	}
	// By the address of a pod as well.
	if r, _ := tryCall("plain", "deploy/outsider", "-timeout", "3s", "http://"+podIP(t, "shop", "pay")+":8080/"); r.Status != 0 {
		t.Errorf("by the pod's address: %+v", r)
	}
}

func probes(t *testing.T) {
	policy(t, strictShop)
	refusedOutsider(t)
	deploy(t, workload{ns: "shop", name: "probed", serve: "--echo :9000", lines: `        startupProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 30}
        livenessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}`})
	time.Sleep(4 * time.Second)
	if n := kubectl(t, "", "-n", "shop", "get", "pods", "-l", "app=probed", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); n != "0" {
		t.Errorf("restarts: %q", n)
	}
	call(t, "shop", "deploy/probed", "http://127.0.0.1:8080/fail")
	unready(t, "probed")
	kubectl(t, "", "-n", "shop", "delete", "deployment", "probed", "--wait=false")
}

func merged(t *testing.T) {
	deploy(t, workload{ns: "shop", name: "measured", annotations: `prometheus.io/scrape: "true", prometheus.io/port: "8080", prometheus.io/path: /metrics`})
	out := kubectl(t, "", "-n", "shop", "get", "pods", "-l", "app=measured", "-o", `jsonpath={.items[0].metadata.annotations.prometheus\.io/port}{.items[0].metadata.annotations.prometheus\.io/path}`)
	if out != "15020/stats/prometheus" {
		t.Errorf("annotations: %q", out)
	}
	r := call(t, "plain", "deploy/outsider", "http://"+podIP(t, "shop", "measured")+":15020/stats/prometheus")
	if !strings.Contains(r.Body, `app_answers{name="measured"} 1`) || !strings.Contains(r.Body, "signet_") {
		t.Errorf("got %.600s", r.Body)
	}
	kubectl(t, "", "-n", "shop", "delete", "deployment", "measured", "--wait=false")
}

func byServiceAccount(t *testing.T) {
	policy(t, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: pay, namespace: shop}
spec:
  selector: {matchLabels: {app: pay}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]
    to: [{operation: {methods: [GET]}}]
`)
	answered(t, 5*time.Second, 403, "ops", "deploy/audit", pay)
	if r := call(t, "shop", "deploy/cart", pay); r.Status != 200 {
		t.Errorf("cart: %+v", r)
	}
	if r, _ := tryCall("shop", "deploy/cart", "-X", "POST", pay); r.Status != 403 {
		t.Errorf("POST: %+v", r)
	}
	if r, _ := tryCall("plain", "deploy/outsider", pay); r.Status != 403 {
		t.Errorf("outsider: %+v", r)
	}
}

func byNamespace(t *testing.T) {
	policy(t, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-ops, namespace: shop}
spec:
  selector: {matchLabels: {app: pay}}
  action: DENY
  rules: [{from: [{source: {notNamespaces: [ops]}}]}]
`)
	answered(t, 5*time.Second, 403, "shop", "deploy/cart", pay)
	if r := call(t, "ops", "deploy/audit", pay); r.Status != 200 {
		t.Errorf("audit: %+v", r)
	}
}

func quick(t *testing.T) {
	// The time from `kubectl apply` to the first refusal, as a client inside the pod sees it: it calls every 20 ms.
	kubectl(t, "", "-n", "shop", "exec", "deploy/cart", "-c", "app", "--", "/app", "call", "-until", "10s", pay)
	took := make(chan time.Duration, 1)
	go func() {
		start := time.Now()
		_, _ = tryKubectl("", "-n", "shop", "exec", "deploy/cart", "-c", "app", "--", "/app", "call", "-n", "100000", "-timeout", "2s", "-stop", "403", pay)
		took <- time.Since(start)
	}()
	time.Sleep(time.Second)
	at := time.Now()
	policy(t, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec: {selector: {matchLabels: {app: pay}}}
`)
	select {
	case <-took:
		t.Logf("in force %v after kubectl began", time.Since(at))
		if d := time.Since(at); d > 2*time.Second {
			t.Errorf("in force after %v, kubectl's own time included", d)
		}
	case <-time.After(20 * time.Second):
		t.Error("not in force after 20 s")
	}
}

func regoDecides(t *testing.T) {
	policy(t, `
apiVersion: policy.signet.dev/v1alpha1
kind: RegoPolicy
metadata: {name: hours, namespace: shop}
spec:
  query: data.hours.allow
  module: |
    package hours
    default allow := false
    allow if input.attributes.request.http.headers["x-shift"] == "day"
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: hours, namespace: shop}
spec:
  selector: {matchLabels: {app: pay}}
  action: CUSTOM
  provider: {name: hours}
  rules: [{to: [{operation: {paths: ["/*"]}}]}]
`)
	answered(t, 5*time.Second, 403, "shop", "deploy/cart", pay)
	if r := call(t, "shop", "deploy/cart", "-H", "x-shift: day", pay); r.Status != 200 {
		t.Errorf("by day: %+v", r)
	}
}

func limits(t *testing.T) {
	policy(t, `
apiVersion: policy.signet.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: few, namespace: shop}
spec:
  selector: {matchLabels: {app: pay}}
  local: {rules: [{limit: {requests: 3, unit: Hour}, clientSelectors: [{headers: [{name: x-few, value: "yes"}]}]}]}
`)
	answered(t, 10*time.Second, 429, "shop", "deploy/cart", "-H", "x-few: yes", pay)
	if r := call(t, "shop", "deploy/cart", pay); r.Status != 200 {
		t.Errorf("others: %+v", r)
	}
}

func canary(t *testing.T) {
	deploy(t, workload{ns: "shop", name: "pay", version: "v2"})
	policy(t, `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pay, namespace: shop}
spec: {host: pay, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pay, namespace: shop}
spec: {hosts: [pay], http: [{route: [{destination: {host: pay, subset: v1}, weight: 90}, {destination: {host: pay, subset: v2}, weight: 10}]}]}
`)
	time.Sleep(2 * time.Second)
	out := kubectl(t, "", "-n", "shop", "exec", "deploy/cart", "-c", "app", "--", "/app", "call", "-n", "1000", pay)
	n := map[string]int{}
	for line := range strings.Lines(out) {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		n[r.reply(t).Version]++
	}
	if n["v1"]+n["v2"] != 1000 || n["v2"] < 60 || n["v2"] > 145 {
		t.Errorf("of 1000: %v", n)
	}
	kubectl(t, "", "-n", "shop", "delete", "deployment", "pay-v2")
}
