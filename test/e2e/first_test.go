package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// shop is a mesh of two callers and one server: cart may call pay, thief may not.
func shop(ip string, port int) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart, namespace: shop}
spec: {address: %[1]s1, labels: {app: cart}, serviceAccount: cart}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: thief, namespace: shop}
spec: {address: %[1]s3, labels: {app: thief}, serviceAccount: thief}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: pay, namespace: shop}
spec: {address: %[1]s2, labels: {app: pay}, serviceAccount: pay, ports: {http: 8080}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay.shop]
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: MESH_INTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: pay}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: pay, namespace: shop}
spec:
  workloadSelector: {labels: {app: pay}}
  ingress:
  - port: {number: 8080, name: http, protocol: HTTP}
    defaultEndpoint: 127.0.0.1:%[2]d
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
`, ip, port)
}

const allowCart = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: pay, namespace: shop}
spec:
  selector: {matchLabels: {app: pay}}
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/shop/sa/cart"]}}]
`

func TestFirstRequest(t *testing.T) {
	m := up(t, map[string]string{"mesh.yaml": shop(addr(), echo(t, nil)), "policy.yaml": allowCart})
	cart, thief, pay := m.workload("shop/cart"), m.workload("shop/thief"), m.workload("shop/pay")

	out, _ := curl(t, "-x", "http://"+cart.Outbound, "http://pay.shop/hello")
	for _, want := range []string{"HTTP/1.1 200", "GET /hello", "URI=spiffe://cluster.local/ns/shop/sa/cart", "By=" + pay.SPIFFEID} {
		if !strings.Contains(out, want) {
			t.Errorf("cart's answer lacks %q:\n%s", want, out)
		}
	}
	out, _ = curl(t, "-x", "http://"+thief.Outbound, "http://pay.shop/hello")
	if !strings.Contains(out, "HTTP/1.1 403") || !strings.Contains(out, "RBAC: access denied") {
		t.Errorf("thief got\n%s", out)
	}
	if got := code(t, "http://"+pay.Inbound[0]+"/"); got != "curl 52" {
		t.Errorf("plaintext under STRICT: %s, want an empty reply (curl 52)", got)
	}
}
