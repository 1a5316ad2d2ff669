package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// destinations calls by every kind of address.
func destinations(t *testing.T) {
	apply(t, `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store, namespace: shop}
spec:
  serviceName: store
  replicas: 2
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      terminationGracePeriodSeconds: 5
      containers: [{name: app, image: "registry.local/app:1", args: [serve, --name, store, --greet, ":7000"], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: store, namespace: shop}
spec: {clusterIP: None, selector: {app: store}, ports: [{name: http, port: 8080}, {name: tcp-greet, port: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: shop}
spec: {type: ExternalName, externalName: outsider.plain.svc.cluster.local, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: invented, namespace: shop}
spec:
  hosts: [prices.example.com]
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: STATIC
  endpoints: [{address: `+podIP(t, "plain", "outsider")+`}]
`)
	kubectl(t, "", "-n", "shop", "rollout", "status", "statefulset/store", "--timeout=60s")
	names := map[string]string{
		"ClusterIP":        "http://" + kubectl(t, "", "-n", "shop", "get", "service", "pay", "-o", "jsonpath={.spec.clusterIP}") + "/",
		"headless":         "http://store.shop.svc.cluster.local:8080/",
		"one of headless":  "http://store-1.store.shop.svc.cluster.local:8080/",
		"pod address":      "http://" + podIP(t, "shop", "pay") + ":8080/",
		"ExternalName":     "http://alias.shop.svc.cluster.local/",
		"service w/o mesh": "http://outsider.plain.svc.cluster.local/",
		"pod w/o mesh":     "http://" + podIP(t, "plain", "outsider") + ":8080/",
		"own Service":      "http://cart.shop/",
	}
	for name, url := range names {
		t.Run(name, func(t *testing.T) {
			answered(t, 10*time.Second, 200, "shop", "deploy/cart", url)
			r := call(t, "shop", "deploy/cart", url).reply(t)
			want := !strings.Contains(name, "w/o mesh") && name != "ExternalName"
			if has := strings.Contains(caller(r), "sa/cart"); has != want {
				t.Errorf("%s: identity %q, want one: %v", url, caller(r), want)
			}
			if name == "one of headless" && r.Pod != "store-1" {
				t.Errorf("answered by %s", r.Pod)
			}
		})
	}
	// The control plane's own pods are no workloads: who calls one goes on being configured, and who is sent everything starts.
	t.Run("a pod of the control plane, and full discovery", func(t *testing.T) {
		ip := kubectl(t, "", "-n", system, "get", "pods", "-l", "app.kubernetes.io/name=signetd", "-o", "jsonpath={.items[0].status.podIP}")
		answered(t, 10*time.Second, 200, "shop", "deploy/cart", "http://"+ip+":15014/metrics")
		deploy(t, workload{ns: "shop", name: "whole", annotations: `proxy.istio.io/config: "proxyMetadata: {discovery: full}"`})
		answered(t, 10*time.Second, 200, "shop", "deploy/whole", pay)
		answered(t, 10*time.Second, 200, "shop", "deploy/cart", "http://whole/")
		kubectl(t, "", "-n", "shop", "delete", "deployment", "whole", "--wait=false")
	})
	t.Run("server-first port declared TCP", func(t *testing.T) {
		out := kubectl(t, "", "-n", "shop", "exec", "deploy/cart", "-c", "app", "--", "/app", "tcp", "store-0.store.shop.svc.cluster.local:7000")
		if !strings.Contains(out, "hello from store") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("ServiceEntry without an address, by DNS capture", func(t *testing.T) {
		deploy(t, workload{ns: "shop", name: "dns", annotations: `proxy.istio.io/config: "proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true'}"`})
		answered(t, 10*time.Second, 200, "shop", "deploy/dns", "http://prices.example.com/")
		if r := call(t, "shop", "deploy/dns", pay).reply(t); !strings.Contains(caller(r), "sa/dns") {
			t.Errorf("pay saw %q", caller(r))
		}
		kubectl(t, "", "-n", "shop", "delete", "deployment", "dns", "--wait=false")
	})
	t.Run("unknown addresses follow outboundTrafficPolicy", func(t *testing.T) {
		api := "http://" + strings.TrimSpace(kubectl(t, "", "get", "node", "node1", "-o", "jsonpath={.status.addresses[0].address}")) + ":10999/"
		if r, _ := tryCall("shop", "deploy/cart", "-timeout", "5s", api); r.Status == 502 && strings.Contains(r.Body, "REGISTRY_ONLY") {
			t.Errorf("ALLOW_ANY: %+v", r)
		}
		policy(t, `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
`)
		eventually(t, "REGISTRY_ONLY refuses", func() error {
			if r, _ := tryCall("shop", "deploy/cart", "-timeout", "5s", api); r.Status != 502 {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		if r := call(t, "shop", "deploy/cart", pay); r.Status != 200 {
			t.Errorf("pay: %+v", r)
		}
	})
}

// lifecycles: what pods do at their edges.
func lifecycles(t *testing.T) {
	apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: early, namespace: shop, labels: {app: early}}
spec:
  restartPolicy: Never
  initContainers:
  - {name: first, image: "registry.local/app:1", args: [call, "`+pay+`init"]}
  containers:
  - {name: app, image: "registry.local/app:1", args: [call, "`+pay+`at-once"]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: work, namespace: shop}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: work}}
    spec:
      restartPolicy: Never
      containers: [{name: app, image: "registry.local/app:1", args: [call, -n, "5", "`+pay+`job"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: leaver, namespace: shop, labels: {app: leaver}}
spec:
  terminationGracePeriodSeconds: 10
  containers:
  - {name: app, image: "registry.local/app:1", args: [serve, --name, leaver, --linger, 2s, --bye, "`+pay+`bye"]}
`)
	kubectl(t, "", "-n", "shop", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/early", "--timeout=60s")
	kubectl(t, "", "-n", "shop", "wait", "--for=condition=Complete", "job/work", "--timeout=60s")
	kubectl(t, "", "-n", "shop", "wait", "--for=condition=Ready", "pod/leaver", "--timeout=60s")
	logs := make(chan string, 1)
	go func() {
		out, _ := tryKubectl("", "-n", "shop", "logs", "-f", "leaver", "-c", "app")
		logs <- out
	}()
	time.Sleep(time.Second)
	kubectl(t, "", "-n", "shop", "delete", "pod", "leaver")
	if out := <-logs; !strings.Contains(out, "{200 ") {
		t.Errorf("the call of a pod that ends: %q", out)
	}
}

// condition waits for a condition of an object in shop; want begins its status and message.
func condition(t *testing.T, kind, name, typ, want string) {
	t.Helper()
	eventually(t, kind+" "+name+" "+typ, func() error {
		got := kubectl(t, "", "-n", "shop", "get", kind, name, "-o", `jsonpath={.status.conditions[?(@.type=="`+typ+`")].status} {.status.conditions[?(@.type=="`+typ+`")].message}`)
		if !strings.HasPrefix(got, want) {
			return fmt.Errorf("have %q, want %s", got, want)
		}
		t.Logf("%s %s %s: %s", kind, name, typ, got)
		return nil
	})
}

func conditions(t *testing.T) {
	policy(t, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: watched, namespace: shop}
spec: {selector: {matchLabels: {app: pay}}, rules: [{}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: dangling, namespace: shop}
spec: {hosts: [cart], http: [{route: [{destination: {host: nowhere}}]}]}
`)
	condition(t, "authorizationpolicy", "watched", "Accepted", "True")
	condition(t, "authorizationpolicy", "watched", "Programmed", "True")
	condition(t, "virtualservice", "dangling", "ResolvedRefs", "False")
	t.Log(kubectl(t, "", "-n", "shop", "get", "authorizationpolicy"))
	out, err := tryKubectl(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: broken, namespace: shop}
spec: {rules: [{to: [{operation: {paths: ["/a*b"]}}]}]}
`, "apply", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "paths[0]") {
		t.Errorf("a broken policy: %s %v", out, err)
	}
}

func tools(t *testing.T) {
	out := signet(t, "", "status")
	for _, want := range []string{"shop", "cart", "audit"} {
		if !strings.Contains(out, want) {
			t.Errorf("status does not name %s:\n%s", want, out)
		}
	}
	policy(t, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: explained, namespace: shop}
spec: {selector: {matchLabels: {app: pay}}, action: DENY, rules: [{from: [{source: {namespaces: [ops]}}]}]}
`)
	answered(t, 5*time.Second, 403, "ops", "deploy/audit", pay)
	why, err := trySignet("", "why", "--from", "ops/audit", "--to", "shop/pay:8080", "--path", "/")
	if !strings.Contains(why, "explained") || strings.Contains(why, "unknown-host") {
		t.Errorf("why: %v\n%s", err, why)
	}
	top, err := trySignet("", "top", "--once", "--namespace", "shop")
	if !strings.Contains(top, "explained") {
		t.Errorf("top: %v\n%s", err, top)
	}
}
