package compile

import (
	"strings"
	"testing"

	"github.com/signet-mesh/signet/mesh"
)

// checked parses and builds as the control plane does, and gives everything that was refused, a line each.
func checked(t *testing.T, text string) (*mesh.Snapshot, string) {
	t.Helper()
	objects, problems := mesh.Parse("x.yaml", []byte(text), mesh.ParseOptions{TrustDomain: "cluster.local", Judge: Judge("cluster.local", nil)})
	s, more := mesh.Build(objects, mesh.BuildOptions{TrustDomain: "cluster.local", Check: NewCheck()})
	var out []string
	for _, p := range mesh.Refusals(append(problems, more...)) {
		out = append(out, p.Error())
	}
	return s, strings.Join(out, "\n")
}

const checkedWorkload = `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: w, namespace: n}
spec: {address: 127.0.0.9, serviceAccount: w, labels: {app: w}}
---
`

func TestJudge(t *testing.T) {
	route := func(s string) string {
		return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: n}\nspec: {hosts: [a.b], http: [" + s + "]}\n"
	}
	for text, want := range map[string]string{
		route(`{match: [{}, {headers: {connection: {exact: x}}}], route: [{destination: {host: a.b}}]}`):                                                                                     "x.yaml:4:53: VirtualService n/v: spec.http[0].match[1].headers[connection]: header \"connection\" can't be matched",
		route(`{rewrite: {uri: "/a b"}, route: [{destination: {host: a.b}}]}`):                                                                                                               "VirtualService n/v: spec.http[0].rewrite.uri: ",
		route(`{rewrite: {uriRegexRewrite: {match: a, rewrite: '\1'}}, route: [{destination: {host: a.b}}]}`):                                                                                "spec.http[0].rewrite.uriRegexRewrite: ",
		route(`{route: [{destination: {host: a.b}, headers: {request: {set: {host: "a b"}}}}]}`):                                                                                             "spec.http[0].route[0].headers.request.set: ",
		route(`{match: [{sourceLabels: {app: nobody}, headers: {"uri": {}}}], directResponse: {status: 200}}`):                                                                               "spec.http[0].match[0].headers[uri]: ", // whoever it is for
		"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: n}\nspec:\n  rules:\n  - {}\n  - when: [{key: \"request.headers[te]\", values: [x]}]\n": "x.yaml:7:18: AuthorizationPolicy n/p: spec.rules[1].when[0].key: ",
	} {
		if _, got := checked(t, text); !strings.Contains(got, want) || strings.Contains(got, "\n") {
			t.Errorf("%s\nrefused: %s\nwant %s", text, got, want)
		}
	}
	if _, got := checked(t, route(`{headers: {request: {set: {":authority": "b.c:80", x: "9%%"}}}, route: [{destination: {host: a.b}}]}`)); got != "" {
		t.Errorf("refused: %s", got)
	}
}

// A Sidecar that can't be run is refused; its workload stays and the rest of the mesh with it.
func TestCheck(t *testing.T) {
	for spec, want := range map[string]string{
		`{workloadSelector: {labels: {app: w}}, ingress: [{port: {number: 80, name: http, protocol: HTTP}, defaultEndpoint: "0.0.0.0:80"}]}`:                                                              "Sidecar n/s: spec.ingress[0].defaultEndpoint: \"0.0.0.0:80\" is the listener itself",
		`{workloadSelector: {labels: {app: w}}, ingress: [{port: {number: 15001, name: http, protocol: HTTP}}]}`:                                                                                          "Sidecar n/s: spec: ingress and egress HTTP_PROXY listener both bind 127.0.0.9:15001",
		`{workloadSelector: {labels: {app: w}}, ingress: [{port: {number: 80, name: a, protocol: HTTP}, bind: 127.0.0.1, defaultEndpoint: "127.0.0.1:1"}, {port: {number: 80, name: b, protocol: TCP}}]}`: "Sidecar n/s: spec.ingress[1].port.number: 80 is there twice",
	} {
		s, got := checked(t, checkedWorkload+"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: n}\nspec: "+spec+"\n")
		if !strings.Contains(got, want) || !strings.HasPrefix(got, "x.yaml:10:") {
			t.Errorf("refused: %s\nwant %s", got, want)
		}
		v, ok := s.View("n", "w")
		if !ok || v.Sidecar != nil {
			t.Fatalf("view %+v", v)
		}
		if w, err := Compile(v, NewOffline()); err != nil || len(w.Inbound) != 0 {
			t.Errorf("the workload can't be run: %v", err)
		}
	}
}
