package cluster_test

import (
	"fmt"
	"strings"
	"testing"
)

// unready waits until the kubelet calls a pod of an application unready.
func unready(t *testing.T, app string) {
	t.Helper()
	kubectl(t, "", "-n", "shop", "wait", "--for=condition=Ready=false", "pod", "-l", "app="+app, "--timeout=30s")
}

// remoteCalls is gRPC: a health service that the kubelet and other pods ask, on a port that is declared grpc.
func remoteCalls(t *testing.T) {
	policy(t, strictShop)
	refusedOutsider(t)
	deploy(t, workload{ns: "shop", name: "rpc", serve: "--grpc :9001", portName: "http", ports: ", {name: grpc, port: 9001}", readiness: "grpc: {port: 9001}"})
	ask := func(ns, from string) string {
		out, err := tryKubectl("", "-n", ns, "exec", "deploy/"+from, "-c", "app", "--", "/app", "health", "rpc.shop:9001")
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(out)
	}
	for ns, from := range map[string]string{"shop": "cart", "ops": "audit"} {
		eventually(t, from+" is answered", func() error {
			if s := ask(ns, from); s != "SERVING" {
				return fmt.Errorf("%s", s)
			}
			return nil
		})
	}
	if s := ask("plain", "outsider"); s == "SERVING" {
		t.Error("the outsider is answered under STRICT")
	}
	// A path is not seen on TCP: a rule of DENY goes by what else it says.
	policy(t, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: rpc, namespace: shop}
spec:
  selector: {matchLabels: {app: rpc}}
  action: DENY
  rules: [{from: [{source: {notNamespaces: [shop]}}], to: [{operation: {paths: [/grpc.health.v1.Health/Watch]}}]}]
`)
	eventually(t, "audit is refused", func() error {
		if s := ask("ops", "audit"); s == "SERVING" {
			return fmt.Errorf("%s", s)
		}
		return nil
	})
	if s := ask("shop", "cart"); s != "SERVING" {
		t.Errorf("cart: %s", s)
	}
	condition(t, "authorizationpolicy", "rpc", "Accepted", "True with warnings: carried and judged as TCP: port 9001 of rpc.shop.svc.cluster.local (GRPC)")
	call(t, "shop", "deploy/cart", "http://rpc.shop/fail")
	unready(t, "rpc")
	kubectl(t, "", "-n", "shop", "delete", "deployment,service", "rpc", "--wait=false")
}
