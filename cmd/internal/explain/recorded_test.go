package explain

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bare is a directory of one server with a label that is no name of an object, and one policy that allows everybody.
const bare = `apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart, namespace: shop}
spec: {address: 127.0.40.2, serviceAccount: cart, labels: {app: The_Cart}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: cart, namespace: shop}
spec:
  workloadSelector: {labels: {app: The_Cart}}
  ingress: [{port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: 127.0.0.1:9080}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: shop}
spec: {action: ALLOW, rules: [{}]}
`

// recorded reads requests to shop/cart, each METHOD, PATH and further members of its line.
func recorded(t *testing.T, lines ...[3]string) *Traffic {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mesh.yaml"), []byte(bare), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := Load(dir, "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&log, `{"workload":"shop.cart","method":"%s","path":"%s","protocol":"HTTP/1.1","authority":"cart.shop.mesh","downstream_local_address":"127.0.40.2:8080",`+
			`"downstream_remote_address":"127.0.40.1:4100","upstream_cluster":"inbound|8080||","source_principal":"spiffe://cluster.local/ns/shop/sa/front"%s}`+"\n", l[0], l[1], l[2])
	}
	tr, err := ReadTraffic(m, "", []string{"-"}, strings.NewReader(log.String()))
	if err != nil || tr.Requests != uint64(len(lines)) {
		t.Fatalf("%d requests of %d: %v\n%s", tr.Requests, len(lines), err, log.String())
	}
	return tr
}

// One odd recorded value is left out and named, and all else stands.
func TestSuggestLeavesOutOddValues(t *testing.T) {
	for name, c := range map[string]struct {
		method, path, reason string
	}{
		"lower case":       {"get", "/a", "its method can't be written in a policy"},
		"two words":        {"G T", "/a", "its method can't be written in a policy"},
		"a pattern":        {"*", "/a", "its method can't be written in a policy"},
		"a pattern's part": {"G*", "/a", "its method can't be written in a policy"},
		"too long":         {strings.Repeat("M", 5000), "/a", "its method can't be written in a policy"},
		"a long path":      {"GET", "/" + strings.Repeat("x", 5000), "no pattern of a policy allows it"},
		"no path":          {"OPTIONS", "*", "its target is no path"},
	} {
		s, err := Suggest(t.Context(), recorded(t, [3]string{"GET", "/good"}, [3]string{c.method, c.path}), SuggestOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, policies, _ := strings.Cut(string(s.YAML), "apiVersion:")
		if s.Policies != 1 || !strings.Contains(policies, "- /good\n") || !strings.Contains(policies, "name: recorded-cart\n") || strings.Count(policies, "- GET\n") != 1 ||
			strings.Contains(policies, "- "+c.method+"\n") && c.method != "GET" || strings.Contains(policies, c.path+"\n") || strings.Contains(policies, "*") {
			t.Errorf("%s:\n%.2000s", name, s.YAML)
		}
		if len(s.LeftOut) != 1 || s.LeftOut[0].Lines != 1 || !strings.HasPrefix(s.LeftOut[0].Reason, c.reason) {
			t.Errorf("%s: left out %.300v", name, s.LeftOut)
		}
	}
	s, err := Suggest(t.Context(), recorded(t, [3]string{"get", "/a"}), SuggestOptions{})
	if err != nil || s.Policies != 0 || len(s.LeftOut) != 1 || len(s.Silent) != 1 {
		t.Errorf("nothing but an odd one: %v, %s", err, s.YAML)
	}
}

// Odd characters of paths that a policy can't say next to {*} spoil nothing.
func TestSuggestOddPaths(t *testing.T) {
	var lines [][3]string
	for c := rune(' '); c < 0x7f; c++ {
		if c != '?' && c != '"' && c != '\\' {
			lines = append(lines, [3]string{"GET", "/items/7/a" + string(c) + "b"}, [3]string{"GET", "/items/8/a" + string(c) + "b"})
		}
	}
	s, err := Suggest(t.Context(), recorded(t, append(lines, [3]string{"PUT", "/good"})...), SuggestOptions{Values: 1000})
	if err != nil || !strings.Contains(string(s.YAML), "- /good\n") || !strings.Contains(string(s.YAML), "- /items/{*}/a&b\n") {
		t.Errorf("%v, %+v", err, s)
	}
}

// A request whose token was refused says nothing of policies.
func TestSimulateRefusedToken(t *testing.T) {
	for _, more := range []string{
		`,"response_code":401,"denied_by":"RequestAuthentication/shop/users[0]"`,
		`,"response_code":401,"denied_by":"RequestAuthentication/none"`,
		`,"response_code":401,"response_code_details":"jwt_authn_access_denied{Jwt_is_expired}"`,
	} {
		tr := recorded(t, [3]string{"GET", "/a", more}, [3]string{"GET", "/a%00", more}, [3]string{"GET", "/b", `,"response_code":200`})
		for _, old := range []*Mesh{nil, tr.mesh} {
			r, err := Simulate(t.Context(), tr, old)
			if err != nil || len(r.NewlyAllowed)+len(r.NewlyDenied) != 0 || r.Requests != 2 || r.Allowed != 1 || r.Denied != 1 || len(r.Unjudged) != 1 || r.Unjudged[0].Lines != 1 ||
				!strings.Contains(r.Unjudged[0].Reason, "token") {
				t.Errorf("%s: %v, %+v", more, err, r)
			}
		}
	}
}

func TestReportTable(t *testing.T) {
	var b strings.Builder
	r := &Report{Lines: 1, Requests: 1, NewlyAllowed: []Change{{From: "a", To: "b/c:1", Method: "GET", Path: "/", Before: "RegoPolicy/north/l1\x1b", Requests: 1}}}
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, "1 line, 1 request judged") || !strings.Contains(got, `no policy  RegoPolicy/north/l1\x1b`+"\n") || strings.Contains(got, `\t`) {
		t.Errorf("got\n%s", got)
	}
}

// A socket that two directories name counts once, and none comes twice.
func TestSockets(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "admin.sock"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := Sockets(dir, dir); len(got) != 3 || got[2] != filepath.Join(dir, "c", "admin.sock") {
		t.Errorf("got %q", got)
	}
}
