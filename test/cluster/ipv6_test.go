package cluster_test

import (
	"strings"
	"testing"
	"time"
)

// overIPv6 calls a Service that has an IPv6 address only, and pods at theirs: the node is dual-stack, IPv4 first.
func overIPv6(t *testing.T) {
	policy(t, `
apiVersion: v1
kind: Service
metadata: {name: pay6, namespace: shop}
spec: {ipFamilies: [IPv6], selector: {app: pay}, ports: [{name: web, port: 80, targetPort: 8080}]}
`)
	ip := onePod(t, "shop", "pay", "{.items[0].status.podIPs[1].ip}")
	if !strings.Contains(ip, ":") {
		t.Fatalf("the second address of a pod is %q: the node is not dual-stack", ip)
	}
	urls := []string{"http://pay6.shop/", "http://[" + ip + "]:8080/"}
	for _, url := range urls {
		for ns, app := range map[string]string{"shop": "cart", "ops": "audit"} {
			answered(t, 10*time.Second, 200, ns, "deploy/"+app, url)
			r := call(t, ns, "deploy/"+app, url).reply(t)
			if !strings.Contains(caller(r), "URI=spiffe://cluster.local/ns/"+ns+"/sa/"+app) {
				t.Errorf("%s from %s: pay saw %q", url, app, caller(r))
			}
		}
		if r := call(t, "plain", "deploy/outsider", url); r.Status != 200 || caller(r.reply(t)) != "" {
			t.Errorf("%s from the outsider before STRICT: %+v", url, r)
		}
	}
	policy(t, strictShop)
	refusedOutsider(t)
	for _, url := range urls {
		if r, _ := tryCall("plain", "deploy/outsider", "-timeout", "3s", url); r.Status != 0 {
			t.Errorf("%s from the outsider under STRICT: %+v", url, r)
		}
		if r := call(t, "shop", "deploy/cart", url); r.Status != 200 {
			t.Errorf("%s from cart under STRICT: %+v", url, r)
		}
	}
}
