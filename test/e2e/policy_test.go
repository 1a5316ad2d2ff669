package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// vault is a mesh whose policies change under it: reader and writer of two namespaces call safe, by HTTP and by TCP.
type vault struct {
	*running
	ip             string
	reader, writer string // http://outbound
	generation     int
	used           []string // the metadata of policies that were set
}

func newVault(t *testing.T, config string) *vault {
	ip := addr()
	v := &vault{ip: ip}
	v.running = up(t, map[string]string{"policy.yaml": "", "config.yaml": config, "mesh.yaml": objects(strict,
		entry("alpha/reader", ip+"10", "reader", "app: reader", ""),
		entry("beta/writer", ip+"11", "writer", "app: writer", ""),
		entry("keep/safe", ip+"20", "safe", "app: safe, tier: deep", ""),
		networkingObject("Sidecar", "keep/safe", fmt.Sprintf(`
workloadSelector: {labels: {app: safe}}
ingress:
- {port: {number: 8443, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%d"}
- {port: {number: 9443, name: http-b, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%[1]d"}
- {port: {number: 7000, name: tcp, protocol: TCP}, defaultEndpoint: "127.0.0.1:%d"}`, echo(t, nil), stream(t, "safe"))),
		networkingObject("ServiceEntry", "keep/safe", `
hosts: [safe.example]
ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8443}, {number: 81, name: http-b, protocol: HTTP, targetPort: 9443}, {number: 7000, name: tcp, protocol: TCP}]
location: MESH_INTERNAL
resolution: STATIC
workloadSelector: {labels: {app: safe}}`),
		networkingObject("Sidecar", "alpha/reader", fmt.Sprintf(`
workloadSelector: {labels: {app: reader}}
egress:
- {port: {number: 15001, name: proxy, protocol: HTTP_PROXY}, bind: %[1]s10, hosts: ["*/*"]}
- {port: {number: 7000, name: tcp, protocol: TCP}, bind: %[1]s10, hosts: ["keep/safe.example"]}`, ip)),
		networkingObject("Sidecar", "beta/writer", fmt.Sprintf(`
workloadSelector: {labels: {app: writer}}
egress:
- {port: {number: 15001, name: proxy, protocol: HTTP_PROXY}, bind: %[1]s11, hosts: ["*/*"]}
- {port: {number: 7000, name: tcp, protocol: TCP}, bind: %[1]s11, hosts: ["keep/safe.example"]}`, ip)),
	)}, "--trust-domain", "vault.example")
	v.reader, v.writer = "http://"+v.workload("alpha/reader").Outbound, "http://"+v.workload("beta/writer").Outbound
	return v
}

// set puts policies in force and waits for it: an AUDIT rule of their generation tells, by the access log. A change may take
// a second, and the log is written every 100 ms. What an earlier call set and this one does not, is left selecting nobody.
func (v *vault) set(t *testing.T, policies ...string) {
	t.Helper()
	v.generation++
	all := append(policies, selecting("aa-mark", "AUDIT", fmt.Sprintf(`- when: [{key: "request.headers[x-mark]", values: ["%d"]}]`, v.generation)))
	for _, key := range v.used {
		if !slices.ContainsFunc(policies, func(p string) bool { return strings.Contains(p, key) }) {
			all = append(all, strings.Replace(policy("x/x", "selector: {matchLabels: {app: nobody}}"), "{name: x, namespace: x}", key, 1))
		}
	}
	for _, p := range policies {
		if key := policyName.FindString(p); !slices.Contains(v.used, key) {
			v.used = append(v.used, key)
		}
	}
	v.write("policy.yaml", objects(all...))
	eventually(t, 1200*time.Millisecond, func() string {
		_ = code(t, "-x", v.reader, "-H", fmt.Sprintf("x-mark: %d", v.generation), fmt.Sprintf("http://safe.example/mark-%d", v.generation))
		if !regexp.MustCompile(fmt.Sprintf(`/mark-%d .* audit=ns\[keep\]-policy\[aa-mark\]`, v.generation)).MatchString(v.Log()) {
			return "the new policies are not in force"
		}
		return ""
	})
}

var policyName = regexp.MustCompile(`\{name: .*, namespace: [^}]*\}`)

// ask makes one request: "reader" or "writer", then curl's arguments; or "reader tcp".
func (v *vault) ask(t *testing.T, request string) string {
	t.Helper()
	who, rest, _ := strings.Cut(request, " ")
	if rest == "tcp" {
		address := v.ip + map[string]string{"reader": "10", "writer": "11"}[who] + ":7000"
		if say(t, address, "hello") == "safe: hello" {
			return "200"
		}
		return "403"
	}
	proxy := v.reader
	if who == "writer" {
		proxy = v.writer
	}
	return code(t, append([]string{"-x", proxy, "--path-as-is"}, strings.Fields(rest)...)...)
}

// selecting is a policy of the namespace keep that selects safe.
func selecting(name, action, rules string) string {
	return policy("keep/"+name, "selector: {matchLabels: {app: safe}}\naction: "+action+"\nrules:\n"+rules)
}

func allow(rules string) string { return selecting("p", "ALLOW", rules) }
func deny(rules string) string  { return selecting("p", "DENY", rules) }

func TestPolicies(t *testing.T) {
	t.Parallel()
	v := newVault(t, "")
	for _, c := range []struct {
		name     string
		policies []string
		requests map[string]string
	}{
		{"none", nil, map[string]string{"reader http://safe.example/": "200", "reader tcp": "200"}},
		{"empty spec", []string{policy("keep/p", "{}")}, map[string]string{"reader http://safe.example/": "403", "writer tcp": "403"}},
		{"selects another", []string{policy("keep/p", "{selector: {matchLabels: {app: other}}}")}, map[string]string{"reader http://safe.example/": "200"}},
		{"of another namespace", []string{policy("alpha/p", "{}")}, map[string]string{"reader http://safe.example/": "200"}},
		{"of the root namespace", []string{policy("istio-system/p", "{}")}, map[string]string{"reader http://safe.example/": "403"}},
		{"of the root namespace with a selector", []string{policy("istio-system/p", "{selector: {matchLabels: {tier: deep}}}")}, map[string]string{"reader http://safe.example/": "403"}},
		{"allow all", []string{allow("- {}")}, map[string]string{"reader http://safe.example/": "200", "reader tcp": "200"}},
		{"principals", []string{allow(`- from: [{source: {principals: ["vault.example/ns/alpha/sa/reader"]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "writer http://safe.example/": "403", "reader tcp": "200", "writer tcp": "403"}},
		{"principals, cluster.local is the trust domain", []string{allow(`- from: [{source: {principals: ["cluster.local/ns/alpha/sa/reader"]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "writer http://safe.example/": "403"}},
		{"principals, wildcards", []string{allow(`- from: [{source: {principals: ["*/sa/writer"]}}]`)},
			map[string]string{"reader http://safe.example/": "403", "writer http://safe.example/": "200"}},
		{"notPrincipals", []string{allow(`- from: [{source: {notPrincipals: ["vault.example/ns/alpha/*"]}}]`)},
			map[string]string{"reader http://safe.example/": "403", "writer http://safe.example/": "200"}},
		{"namespaces", []string{allow(`- from: [{source: {namespaces: [alpha]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "writer http://safe.example/": "403"}},
		{"notNamespaces", []string{deny(`- from: [{source: {notNamespaces: ["al*"]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "writer http://safe.example/": "403"}},
		{"serviceAccounts", []string{allow(`- from: [{source: {serviceAccounts: [alpha/reader]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "writer http://safe.example/": "403"}},
		{"notServiceAccounts", []string{allow(`- from: [{source: {notServiceAccounts: [alpha/reader]}}]`)},
			map[string]string{"reader http://safe.example/": "403", "writer http://safe.example/": "200"}},
		{"trustDomains", []string{allow(`- from: [{source: {trustDomains: [vault.example]}}]`)}, map[string]string{"reader http://safe.example/": "200"}},
		{"notTrustDomains", []string{allow(`- from: [{source: {notTrustDomains: ["vault.*"]}}]`)}, map[string]string{"reader http://safe.example/": "403"}},
		{"ipBlocks", []string{allow(`- from: [{source: {ipBlocks: ["` + v.ip + `10"]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "writer http://safe.example/": "403", "writer tcp": "403"}},
		{"notIpBlocks", []string{allow(`- from: [{source: {notIpBlocks: ["` + v.ip + `8/30"]}}]`)},
			map[string]string{"reader http://safe.example/": "403", "writer http://safe.example/": "403"}},
		{"remoteIpBlocks", []string{allow(`- from: [{source: {remoteIpBlocks: ["` + v.ip + `10/32"]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "writer http://safe.example/": "403", "writer -H X-Forwarded-For:" + v.ip + "10 http://safe.example/": "200"}}, // a peer that proved itself is believed, as in Istio
		{"notRemoteIpBlocks", []string{deny(`- from: [{source: {notRemoteIpBlocks: ["` + v.ip + `10"]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "writer http://safe.example/": "403"}},
		{"hosts", []string{allow(`- to: [{operation: {hosts: [SAFE.example]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "reader http://Safe.Example/": "200", "reader http://safe.example:80/": "200"}},
		{"notHosts", []string{deny(`- to: [{operation: {notHosts: ["safe.*"]}}]`)}, map[string]string{"reader http://safe.example/": "200"}},
		{"ports", []string{allow(`- to: [{operation: {ports: ["9443"]}}]`)},
			map[string]string{"reader http://safe.example/": "403", "reader http://safe.example:81/": "200", "reader tcp": "403"}},
		{"notPorts", []string{deny(`- to: [{operation: {notPorts: ["8443"]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "reader http://safe.example:81/": "403", "reader tcp": "403"}},
		{"methods", []string{allow(`- to: [{operation: {methods: [GET, "PO*"]}}]`)},
			map[string]string{"reader http://safe.example/": "200", "reader -X POST http://safe.example/": "200", "reader -X PUT http://safe.example/": "403"}},
		{"notMethods", []string{allow(`- to: [{operation: {notMethods: [GET]}}]`)},
			map[string]string{"reader http://safe.example/": "403", "reader -X PUT http://safe.example/": "200"}},
		{"paths", []string{allow(`- to: [{operation: {paths: [/exact, "/pre*", "*.js", "/t/{*}/x", "/d/{**}"]}}]`)},
			map[string]string{"reader http://safe.example/exact": "200", "reader http://safe.example/exact?q": "200", "reader http://safe.example/exact/": "403",
				"reader http://safe.example/prefix": "200", "reader http://safe.example/a/b.js": "200", "reader http://safe.example/t/1/x": "200",
				"reader http://safe.example/t/1/2/x": "403", "reader http://safe.example/d/1/2": "200"}},
		{"notPaths", []string{allow(`- to: [{operation: {notPaths: ["/admin*"]}}]`)},
			map[string]string{"reader http://safe.example/admin/x": "403", "reader http://safe.example/": "200"}},
		{"when headers", []string{allow(`- when: [{key: "request.headers[X-Role]", values: [boss, "chief*"]}]`)},
			map[string]string{"reader http://safe.example/": "403", "reader -H x-role:boss http://safe.example/": "200", "reader -H X-ROLE:chief-1 http://safe.example/": "200",
				"reader -H x-role:boss -H x-role:thief http://safe.example/": "403"}},
		{"when headers, notValues", []string{deny(`- when: [{key: "request.headers[x-role]", notValues: [boss]}]`)},
			map[string]string{"reader http://safe.example/": "403", "reader -H x-role:boss http://safe.example/": "200", "reader -H x-role:boss -H x-role:thief http://safe.example/": "403"}},
		{"when source.ip", []string{allow(`- when: [{key: source.ip, values: ["` + v.ip + `10/31"]}]`)}, map[string]string{"reader http://safe.example/": "200", "writer http://safe.example/": "200"}},
		{"when source.namespace", []string{allow(`- when: [{key: source.namespace, notValues: [beta]}]`)},
			map[string]string{"reader http://safe.example/": "200", "writer http://safe.example/": "403"}},
		{"when source.principal", []string{allow(`- when: [{key: source.principal, values: ["vault.example/ns/beta/*"]}]`)},
			map[string]string{"reader http://safe.example/": "403", "writer http://safe.example/": "200"}},
		{"when source.serviceAccount", []string{allow(`- when: [{key: source.serviceAccount, values: [beta/writer]}]`)},
			map[string]string{"reader http://safe.example/": "403", "writer http://safe.example/": "200"}},
		{"when source.trustDomain", []string{allow(`- when: [{key: source.trustDomain, values: [elsewhere.example]}]`)}, map[string]string{"reader http://safe.example/": "403"}},
		{"when remote.ip", []string{allow(`- when: [{key: remote.ip, values: ["` + v.ip + `11"]}]`)},
			map[string]string{"reader http://safe.example/": "403", "writer http://safe.example/": "200"}},
		{"when destination.ip", []string{allow(`- when: [{key: destination.ip, values: ["` + v.ip + `20"]}]`)}, map[string]string{"reader http://safe.example/": "200"}},
		{"when destination.port", []string{allow(`- when: [{key: destination.port, notValues: ["9443"]}]`)},
			map[string]string{"reader http://safe.example/": "200", "reader http://safe.example:81/": "403", "reader tcp": "200"}},
		{"when connection.sni", []string{allow(`- when: [{key: connection.sni, values: ["outbound_.80_._.safe.example"]}]`)},
			map[string]string{"reader http://safe.example/": "200", "reader http://safe.example:81/": "403"}},
		{"from and to and when", []string{allow(`
- from: [{source: {namespaces: [alpha]}}, {source: {namespaces: [gamma]}}]
  to: [{operation: {methods: [GET], paths: [/a]}}, {operation: {paths: [/b]}}]
  when: [{key: "request.headers[x-a]", values: ["1"]}, {key: "request.headers[x-b]", values: ["2"]}]`)},
			map[string]string{"reader -H x-a:1 -H x-b:2 http://safe.example/a": "200", "reader -H x-a:1 http://safe.example/a": "403",
				"writer -H x-a:1 -H x-b:2 http://safe.example/a": "403", "reader -X PUT -H x-a:1 -H x-b:2 http://safe.example/a": "403",
				"reader -X PUT -H x-a:1 -H x-b:2 http://safe.example/b": "200"}},
		{"deny before allow", []string{allow("- {}"), selecting("q", "DENY", "- to: [{operation: {paths: [/no]}}]")},
			map[string]string{"reader http://safe.example/no": "403", "reader http://safe.example/yes": "200"}},
		{"audit only marks", []string{selecting("watch-all", "AUDIT", "- {}")}, map[string]string{"reader http://safe.example/": "200"}},
		{"allow of HTTP on TCP never matches", []string{allow(`- to: [{operation: {methods: [GET]}}]`)}, map[string]string{"reader tcp": "403", "reader http://safe.example/": "200"}},
		{"deny of HTTP on TCP is on what is left", []string{deny(`- {from: [{source: {namespaces: [alpha]}}], to: [{operation: {methods: [PUT]}}]}`)},
			map[string]string{"reader tcp": "403", "writer tcp": "200", "reader http://safe.example/": "200", "reader -X PUT http://safe.example/": "403"}},
	} {

		v.set(t, c.policies...)
		for request, want := range c.requests {
			if got := v.ask(t, request); got != want {
				t.Errorf("%s: %s got %s, want %s", c.name, request, got, want)
			}
		}
	}
}

// TestDenialIsExplained reads the answer and the log of what policies decide.
func TestDenialIsExplained(t *testing.T) {
	t.Parallel()
	v := newVault(t, "")
	v.set(t, selecting("gate", "DENY", "- to: [{operation: {paths: [/never]}}]\n- to: [{operation: {paths: [/no]}}]"),
		selecting("door", "ALLOW", "- from: [{source: {namespaces: [alpha]}}]"), selecting("watch", "AUDIT", "- to: [{operation: {paths: [/seen]}}]"))
	out, _ := curl(t, "-x", v.reader, "http://safe.example/no")
	wants(t, out, "HTTP/1.1 403 Forbidden", "\r\n\r\nRBAC: access denied", "content-length: 19", "content-type: text/plain")
	v.logged(t, `^keep\.safe `, `"GET /no HTTP/1.1" 403 - rbac_access_denied_matched_policy\[ns\[keep\]-policy\[gate\]-rule\[1\]\] `)
	if got := v.ask(t, "writer http://safe.example/other"); got != "403" {
		t.Errorf("writer got %s", got)
	}
	v.logged(t, `^keep\.safe `, `"GET /other HTTP/1.1" 403 - rbac_access_denied_matched_policy\[none\] `)
	if got := v.ask(t, "writer tcp"); got != "403" {
		t.Errorf("writer by TCP got %s", got)
	}
	// On TCP a DENY loses its paths and matches on what is left: everything.
	v.logged(t, `^keep\.safe `, ` inbound\|7000\|\| `, ` rbac_access_denied_matched_policy\[ns\[keep\]-policy\[gate\]-rule\[0\]\] `)
	if got := v.ask(t, "reader http://safe.example/seen"); got != "200" {
		t.Errorf("an audited request got %s", got)
	}
	v.logged(t, `^keep\.safe `, `"GET /seen `, `audit=ns\[keep\]-policy\[watch\]-rule\[0\]`)
}

// TestPolicyFollows shows how soon a policy that is added, changed or removed is in force.
func TestPolicyFollows(t *testing.T) {
	v := newVault(t, "")
	for i, step := range []struct{ policy, want string }{
		{allow(`- from: [{source: {namespaces: [beta]}}]`), "403"},
		{allow(`- from: [{source: {namespaces: [alpha]}}]`), "200"},
		{allow(`- from: [{source: {namespaces: [alpha]}}]`) + "\n---\n" + selecting("q", "DENY", "- {}"), "403"},
		{allow(`- from: [{source: {namespaces: [beta]}}]`), "403"},
		{policy("other/p", "{}"), "200"},
	} {
		v.write("policy.yaml", step.policy)
		start := time.Now()
		eventually(t, time.Second, func() string {
			if got := v.ask(t, "reader http://safe.example/"); got != step.want {
				return fmt.Sprintf("step %d: %s, want %s", i, got, step.want)
			}
			return ""
		})
		t.Logf("step %d took %s", i, time.Since(start))
	}
}

// ambiguous are spellings of /admin that a program might take for it.
var ambiguous = []string{"/admin", "/admin/x", "//admin", "/%61dmin", "/x/../admin", "/./admin", "/x%2F..%2Fadmin", "/%2Fadmin", "/x/%2e%2e/admin"}

func TestPaths(t *testing.T) {
	t.Parallel()
	v := newVault(t, "")
	v.set(t, deny(`- to: [{operation: {paths: ["/admin*"]}}]`))
	for _, p := range ambiguous {
		if got := v.ask(t, "reader http://safe.example"+p); got != "403" {
			t.Errorf("%s under a DENY of /admin*: %s", p, got)
		}
	}
	for _, p := range []string{"/%00", "/a%0ab", "/a%zz", "/a%2"} {
		if got := v.ask(t, "reader http://safe.example"+p); got != "400" {
			t.Errorf("%q: %s, want 400", p, got)
		}
	}
	for p, want := range map[string]string{"/x%2F%2F..%2Fadmin": "400", "/x/%2F../admin": "400", "/a%2F%2F%2F..%2F..%2Fadmin": "400",
		"/x%5C%5C..%5Cadmin": "400", "/%2Fx%2F..%2F/admin": "403", "/x%2F..%2F%61dmin": "403", "/x//../admin": "200", "/%2561dmin": "200"} {
		if got := v.ask(t, "reader http://safe.example"+p); got != want {
			t.Errorf("%s under a DENY of /admin*: %s, want %s", p, got, want)
		}
	}
	out, _ := curl(t, "-x", v.reader, "--path-as-is", "http://safe.example/x//../admin") // what is forwarded is another path
	wants(t, out, "HTTP/1.1 200", "GET /x/admin\n")
	out, _ = curl(t, "-x", v.reader, "--path-as-is", "http://safe.example/a%2Fb?x=%2F")
	wants(t, out, "HTTP/1.1 200", "GET /a%2Fb?x=%2F\n")
	// ALLOW matches only what is allowed in both readings.
	v.set(t, allow(`- to: [{operation: {paths: ["/public/*"]}}]`))
	for p, want := range map[string]string{"/public/a": "200", "/public/a%2Fb": "200", "/public/..%2Fadmin": "403", "/public/../admin": "403", "/public%2Fa": "403",
		"/public/%2F..%2Fsecret": "400", "/public/%2F%2F..%2F..%2Fsecret": "400"} {
		if got := v.ask(t, "reader http://safe.example"+p); got != want {
			t.Errorf("%s under an ALLOW of /public/*: %s, want %s", p, got, want)
		}
	}
}

// TestSpellings has one resource written in several ways: a DENY catches all that a program may take for it, an ALLOW admits
// what is written as it is.
func TestSpellings(t *testing.T) {
	t.Parallel()
	v := newVault(t, "")
	v.set(t, deny(`- to: [{operation: {paths: ["/v1/job:cancel", "/caf%C3%A9", "/files/a%2Fb", "/t/{*}/a%20b"]}}]`))
	for request, want := range map[string]string{
		"safe.example/v1/job:cancel": "403", "safe.example/v1/job%3Acancel": "403", "safe.example/v1/job%3acancel": "403",
		"safe.example/caf%C3%A9": "403", "safe.example/caf%c3%a9": "403", "safe.example/files/a%2Fb": "403", "safe.example/files/a%2fb": "403",
		"safe.example/t/1/a%20b": "403", "safe.example/files/a": "200", "safe.example/caf%C3%A8": "200", "safe.example/v1/job%253Acancel": "200",
	} {
		if got := v.ask(t, "reader http://"+request); got != want {
			t.Errorf("%s under a DENY: %s, want %s", request, got, want)
		}
	}
	v.set(t, allow(`- to: [{operation: {paths: ["/caf%C3%A9", "/a%2Fb"], hosts: [safe.example]}}]`))
	for p, want := range map[string]string{"/caf%C3%A9": "200", "/caf%c3%a9": "403", "/a%2Fb": "200", "/a/b": "403", "/a%2Fb%2F": "403"} {
		if got := v.ask(t, "reader http://safe.example"+p); got != want {
			t.Errorf("%s under an ALLOW: %s, want %s", p, got, want)
		}
	}
	out, _ := curl(t, "-x", v.reader, "--path-as-is", "http://safe.example/a%2Fb")
	wants(t, out, "GET /a%2Fb\n")
	v.set(t, deny("- to: [{operation: {hosts: [safe.example]}}]"))
	for _, host := range []string{"safe.example", "SAFE.example", "safe.example:80", "safe.example:81", "safe.example.", "safe.example.:80"} {
		if got := v.ask(t, "reader --request-target http://"+host+"/ http://safe.example/"); got != "403" {
			t.Errorf("%s under a DENY of hosts: %s", host, got)
		}
	}
}

// TestNormalizations shows what the program gets in each mode of MeshConfig.pathNormalization, changed while the mesh runs.
func TestNormalizations(t *testing.T) {
	t.Parallel()
	v := newVault(t, "")
	v.set(t, deny(`- to: [{operation: {paths: ["/admin*"]}}]`))
	for _, mode := range []struct {
		name string
		sees map[string]string
	}{
		{"", map[string]string{"/a//b": "/a/b", "/a/../b": "/b", "/a%2Fb": "/a%2Fb", "/%62": "/b"}},
		{"NONE", map[string]string{"/a//b": "/a//b", "/a/../b": "/a/../b", "/a%2Fb": "/a%2Fb"}},
		{"BASE", map[string]string{"/a//b": "/a//b", "/a/../b": "/b", "/a%2Fb": "/a%2Fb"}},
		{"MERGE_SLASHES", map[string]string{"/a//b": "/a/b", "/a/../b": "/b", "/a%2Fb": "/a%2Fb"}},
		{"DECODE_AND_MERGE_SLASHES", map[string]string{"/a//b": "/a/b", "/a/../b": "/b", "/a%2Fb": "/a/b"}},
	} {
		if mode.name != "" {
			v.write("config.yaml", meshConfig("pathNormalization: {normalization: "+mode.name+"}"))
		}
		for p, want := range mode.sees {
			eventually(t, 2*time.Second, func() string {
				out, _ := curl(t, "-x", v.reader, "--path-as-is", "http://safe.example"+p)
				if !strings.Contains(out, "GET "+want+"\n") {
					return fmt.Sprintf("%s: %s reached the program otherwise than as %s:\n%s", mode.name, p, want, out)
				}
				return ""
			})
		}
		want := map[string]string{"NONE": "400"}[mode.name] // elsewhere it is forwarded as /x/admin
		if got := v.ask(t, "reader http://safe.example/x//../admin"); want != "" && got != want {
			t.Errorf("%s: /x//../admin got %s, want %s", mode.name, got, want)
		}
		for _, p := range ambiguous {
			if got := v.ask(t, "reader http://safe.example"+p); got != "403" {
				t.Errorf("%s: %s under a DENY of /admin*: %s", mode.name, p, got)
			}
		}
	}
}

// meshConfig is the ConfigMap istio; text is indented by four.
func meshConfig(text string) string {
	return "\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    " +
		strings.ReplaceAll(strings.Trim(text, "\n"), "\n", "\n    ") + "\n"
}

// TestSecureNaming has endpoints that are not who they should be.
func TestSecureNaming(t *testing.T) {
	t.Parallel()
	ip := addr()
	service := func(name, spec string) string {
		return networkingObject("ServiceEntry", "bank/"+name, "hosts: ["+name+".example]\nports: [{number: 80, name: http, protocol: HTTP, targetPort: 8443}]\nresolution: STATIC\n"+spec)
	}
	endpoints := func(e string) string { return "location: MESH_INTERNAL\nendpoints: [" + e + "]" }
	plain := echo(t, nil)
	m := up(t, map[string]string{"mesh.yaml": objects(
		entry("bank/teller", ip+"10", "teller", "app: teller", ""),
		entry("bank/real", ip+"20", "real", "app: real", ""),
		networkingObject("Sidecar", "bank/real", fmt.Sprintf(`
workloadSelector: {labels: {app: real}}
ingress: [{port: {number: 8443, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%d"}]`, echo(t, nil))),
		service("right", endpoints("{address: "+ip+"20, serviceAccount: real}")),
		service("wrong", endpoints("{address: "+ip+"20, serviceAccount: other}")),
		service("united", endpoints("{address: "+ip+"20, serviceAccount: other}")+"\nsubjectAltNames: [\"spiffe://bank.example/ns/bank/sa/real\"]"),
		service("replaced", endpoints("{address: "+ip+"20, serviceAccount: real}")+"\nsubjectAltNames: [\"spiffe://bank.example/ns/bank/sa/real\"]"),
		networkingObject("DestinationRule", "bank/replaced", `
host: replaced.example
trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["spiffe://bank.example/ns/bank/sa/third"]}}`),
		service("nobody", endpoints("{address: "+ip+"20, labels: {security.istio.io/tlsMode: istio}}")),
		service("external", "location: MESH_EXTERNAL\nendpoints: [{address: "+ip+"20, serviceAccount: other}]"),
		service("unset", "endpoints: [{address: "+ip+"20, serviceAccount: real}]"),
		service("plain", fmt.Sprintf("endpoints: [{address: 127.0.0.1, ports: {http: %d}}]", plain)),
		service("disabled", fmt.Sprintf("endpoints: [{address: 127.0.0.1, ports: {http: %d}, serviceAccount: real, labels: {security.istio.io/tlsMode: disabled}}]", plain)),
		service("demanded", fmt.Sprintf("endpoints: [{address: 127.0.0.1, ports: {http: %d}}]", plain)),
		networkingObject("DestinationRule", "bank/demanded", "host: demanded.example\ntrafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"),
		strict)}, "--trust-domain", "bank.example")
	teller := "http://" + m.workload("bank/teller").Outbound
	for host, want := range map[string]string{"right": "200", "wrong": "503", "united": "200", "replaced": "503", "nobody": "503",
		"external": "503", "unset": "200", "plain": "200", "disabled": "200", "demanded": "503"} {
		if got := code(t, "-x", teller, "http://"+host+".example/name-"+host); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
	out, _ := curl(t, "-x", teller, "http://right.example/")
	wants(t, out, "By=spiffe://bank.example/ns/bank/sa/real;", "URI=spiffe://bank.example/ns/bank/sa/teller")
	for host, expected := range map[string]string{"wrong": "ns/bank/sa/other", "replaced": "ns/bank/sa/third"} {
		m.logged(t, `^bank\.teller `, `"GET /name-`+host+` HTTP/1.1" 503 UF `, "spiffe://bank.example/"+expected, "spiffe://bank.example/ns/bank/sa/real")
	}
	for line := range strings.Lines(m.Log()) {
		if strings.HasPrefix(line, "bank.real ") && (strings.Contains(line, "/name-wrong") || strings.Contains(line, "/name-replaced")) {
			t.Errorf("a request reached the wrong server: %s", line)
		}
	}
}
