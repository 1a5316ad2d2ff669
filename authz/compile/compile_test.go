package compile

import (
	"net/netip"
	"strings"
	"testing"

	security "istio.io/api/security/v1"
	"sigs.k8s.io/yaml"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh"
)

type policy = mesh.Typed[*security.AuthorizationPolicy]

var options = Options{TrustDomain: "td.example", Aliases: []string{"old.example"}, RootNamespace: "istio-system"}

// parse reads the spec of a policy from YAML.
func parse(t testing.TB, namespace, name, spec string) *policy {
	t.Helper()
	j, err := yaml.YAMLToJSON([]byte(spec))
	if err != nil {
		t.Fatal(err)
	}
	s := &security.AuthorizationPolicy{}
	if err := protojson.Unmarshal(j, s); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	return &policy{Meta: mesh.Meta{Key: mesh.Key{Group: "security.istio.io", Kind: "AuthorizationPolicy", Namespace: namespace, Name: name}}, Spec: s}
}

// fields are the headers of a request: pairs in order.
type fields [][2]string

func (f fields) HeaderValue(name string, from int) (string, int, bool) {
	for i := from; i < len(f); i++ {
		if f[i][0] == name {
			return f[i][1], i + 1, true
		}
	}
	return "", len(f), false
}

func peer(t testing.TB, uri string) identity.Peer {
	t.Helper()
	if uri == "" {
		return identity.Peer{}
	}
	id, err := identity.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return identity.Peer{ID: id}
}

// call is a connection and its request as tests write them.
type call struct {
	peer, source, sni          string
	method, host, path, second string
	remote                     string
	headers                    fields
	token                      *jwt.Token
	tcp                        bool
}

func (c call) read(t testing.TB) (*authz.Connection, *authz.Request) {
	t.Helper()
	if c.source == "" {
		c.source = "10.1.2.3"
	}
	conn := &authz.Connection{Peer: peer(t, c.peer), SourceIP: netip.MustParseAddr(c.source), SNI: c.sni,
		DestinationIP: netip.MustParseAddr("10.9.9.9"), DestinationPort: 8080}
	if c.tcp {
		return conn, nil
	}
	r := &authz.Request{Method: c.method, Host: c.host, Path: c.path, DecodedPath: c.second, Headers: c.headers, Token: c.token}
	if c.second == "" {
		r.DecodedPath = c.path
	}
	if c.remote != "" {
		r.RemoteIP = netip.MustParseAddr(c.remote)
	}
	return conn, r
}

// engines are both engines of the same policies, so that every table is held against both. The indexed one uses its index
// from the first rule on.
func engines(t testing.TB, policies ...*policy) map[string]*authz.Program {
	t.Helper()
	linear, err := CompileLinear(policies, options)
	if err != nil {
		t.Fatal(err)
	}
	indexed, err := build(policies, options, 1)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*authz.Program{"linear": linear, "indexed": authz.NewProgram(indexed)}
}

const (
	web   = "spiffe://td.example/ns/shop/sa/web"
	alien = "spiffe://td.example/vm/web" // of another shape
)

// Each row is one field of one ALLOW rule and one call, and whether the rule matches. The same rule as DENY must agree.
func TestFields(t *testing.T) {
	for _, c := range []struct {
		rule string
		call call
		want bool
	}{
		// principals
		{`from: [{source: {principals: [td.example/ns/shop/sa/web]}}]`, call{peer: web}, true},
		{`from: [{source: {principals: [td.example/ns/shop/sa/we]}}]`, call{peer: web}, false},
		{`from: [{source: {principals: [td.example/ns/shop/*]}}]`, call{peer: web}, true},
		{`from: [{source: {principals: ["*/sa/web"]}}]`, call{peer: web}, true},
		{`from: [{source: {principals: ["*"]}}]`, call{peer: web}, true},
		{`from: [{source: {principals: ["*"]}}]`, call{}, false},
		{`from: [{source: {principals: ["*"]}}]`, call{peer: alien}, true},
		{`from: [{source: {principals: [TD.example/ns/shop/sa/web]}}]`, call{peer: web}, false},
		{`from: [{source: {notPrincipals: [td.example/ns/shop/sa/web]}}]`, call{peer: web}, false},
		{`from: [{source: {notPrincipals: [td.example/ns/shop/sa/web]}}]`, call{}, true},
		{`from: [{source: {notPrincipals: ["*"]}}]`, call{}, true},
		{`from: [{source: {notPrincipals: ["*"]}}]`, call{peer: web}, false},
		// trust domain aliases and the pointer cluster.local
		{`from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]`, call{peer: web}, true},
		{`from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]`, call{peer: "spiffe://old.example/ns/shop/sa/web"}, true},
		{`from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]`, call{peer: "spiffe://cluster.local/ns/shop/sa/web"}, false},
		{`from: [{source: {principals: [old.example/ns/shop/sa/web]}}]`, call{peer: web}, true},
		{`from: [{source: {principals: [td.example/ns/shop/sa/web]}}]`, call{peer: "spiffe://old.example/ns/shop/sa/web"}, true},
		{`from: [{source: {principals: [other.example/ns/shop/sa/web]}}]`, call{peer: web}, false},
		{`from: [{source: {principals: [other.example/ns/shop/sa/web]}}]`, call{peer: "spiffe://other.example/ns/shop/sa/web"}, true},
		{`from: [{source: {principals: ["*d.example/ns/shop/sa/web"]}}]`, call{peer: "spiffe://old.example/ns/shop/sa/web"}, true},
		{`from: [{source: {notPrincipals: [old.example/ns/shop/sa/web]}}]`, call{peer: web}, false},
		// namespaces, by the parsed ID
		{`from: [{source: {namespaces: [shop]}}]`, call{peer: web}, true},
		{`from: [{source: {namespaces: [sho]}}]`, call{peer: web}, false},
		{`from: [{source: {namespaces: [s*]}}]`, call{peer: web}, true},
		{`from: [{source: {namespaces: ["*op"]}}]`, call{peer: web}, true},
		{`from: [{source: {namespaces: ["*"]}}]`, call{peer: alien}, false},
		{`from: [{source: {namespaces: [shop]}}]`, call{peer: "spiffe://td.example/x/ns/shop/sa/web"}, false},
		{`from: [{source: {namespaces: [shop]}}]`, call{peer: "spiffe://td.example/ns/shop/sa/web/x"}, false},
		{`from: [{source: {namespaces: ["sh.p"]}}]`, call{peer: web}, false},
		{`from: [{source: {notNamespaces: [shop]}}]`, call{peer: web}, false},
		{`from: [{source: {notNamespaces: [shop]}}]`, call{peer: alien}, true},
		{`from: [{source: {notNamespaces: [shop]}}]`, call{}, true},
		// serviceAccounts, with and without namespace (the policy's is shop)
		{`from: [{source: {serviceAccounts: [shop/web]}}]`, call{peer: web}, true},
		{`from: [{source: {serviceAccounts: [web]}}]`, call{peer: web}, true},
		{`from: [{source: {serviceAccounts: [web]}}]`, call{peer: "spiffe://td.example/ns/other/sa/web"}, false},
		{`from: [{source: {serviceAccounts: [other/web]}}]`, call{peer: "spiffe://td.example/ns/other/sa/web"}, true},
		{`from: [{source: {serviceAccounts: [other/web]}}]`, call{peer: web}, false},
		{`from: [{source: {serviceAccounts: [web]}}]`, call{}, false},
		{`from: [{source: {notServiceAccounts: [web]}}]`, call{peer: web}, false},
		{`from: [{source: {notServiceAccounts: [web]}}]`, call{}, true},
		// trustDomains
		{`from: [{source: {trustDomains: [td.example]}}]`, call{peer: web}, true},
		{`from: [{source: {trustDomains: ["*.example"]}}]`, call{peer: web}, true},
		{`from: [{source: {trustDomains: ["*"]}}]`, call{}, false},
		{`from: [{source: {notTrustDomains: [td.example]}}]`, call{peer: "spiffe://x.example/a"}, true},
		// addresses
		{`from: [{source: {ipBlocks: [10.1.2.3]}}]`, call{}, true},
		{`from: [{source: {ipBlocks: [10.1.0.0/16]}}]`, call{remote: "192.0.2.1"}, true},
		{`from: [{source: {ipBlocks: ["::ffff:10.1.0.0/112"]}}]`, call{}, true},
		{`from: [{source: {ipBlocks: [10.1.0.0/16]}}]`, call{source: "::ffff:10.1.9.9"}, true},
		{`from: [{source: {ipBlocks: [10.1.0.0/16, "2001:db8::/32"]}}]`, call{source: "2001:db8::7"}, true},
		{`from: [{source: {ipBlocks: [10.2.0.0/16]}}]`, call{}, false},
		{`from: [{source: {notIpBlocks: [10.1.0.0/16]}}]`, call{}, false},
		{`from: [{source: {remoteIpBlocks: [192.0.2.0/24]}}]`, call{remote: "192.0.2.1"}, true},
		{`from: [{source: {remoteIpBlocks: [10.1.2.3]}}]`, call{}, true},
		{`from: [{source: {remoteIpBlocks: [10.1.2.3]}}]`, call{remote: "192.0.2.1"}, false},
		{`from: [{source: {notRemoteIpBlocks: [192.0.2.0/24]}}]`, call{remote: "192.0.2.1"}, false},
		// hosts: case is folded
		{`to: [{operation: {hosts: [api.shop]}}]`, call{host: "API.Shop"}, true},
		{`to: [{operation: {hosts: [API.shop]}}]`, call{host: "api.shop"}, true},
		{`to: [{operation: {hosts: ["api.shop:*"]}}]`, call{host: "Api.shop:8080"}, true},
		{`to: [{operation: {hosts: ["*.shop"]}}]`, call{host: "api.SHOP"}, true},
		{`to: [{operation: {hosts: ["*"]}}]`, call{host: ""}, false},
		{`to: [{operation: {hosts: [api.*]}}]`, call{host: "ap"}, false},
		{`to: [{operation: {hosts: [api.shop]}}]`, call{host: strings.Repeat("A", 400)}, false},
		{`to: [{operation: {notHosts: [api.shop]}}]`, call{host: "API.shop"}, false},
		{`to: [{operation: {notHosts: [api.shop]}}]`, call{}, true},
		// ports and methods
		{`to: [{operation: {ports: ["8080"]}}]`, call{}, true},
		{`to: [{operation: {ports: ["80", "443"]}}]`, call{}, false},
		{`to: [{operation: {notPorts: ["8080"]}}]`, call{}, false},
		{`to: [{operation: {methods: [GET, HEAD]}}]`, call{method: "HEAD"}, true},
		{`to: [{operation: {methods: [GET]}}]`, call{method: "get"}, false},
		{`to: [{operation: {methods: ["P*"]}}]`, call{method: "POST"}, true},
		{`to: [{operation: {notMethods: [GET]}}]`, call{method: "GET"}, false},
		// paths
		{`to: [{operation: {paths: [/a]}}]`, call{path: "/a"}, true},
		{`to: [{operation: {paths: [/a]}}]`, call{path: "/A"}, false},
		{`to: [{operation: {paths: [/a]}}]`, call{path: "/a/"}, false},
		{`to: [{operation: {paths: [/a*]}}]`, call{path: "/ab"}, true},
		{`to: [{operation: {paths: ["*.js"]}}]`, call{path: "/x/a.js"}, true},
		{`to: [{operation: {paths: ["*"]}}]`, call{path: "/"}, true},
		{`to: [{operation: {paths: ["*"]}}]`, call{}, false},
		{`to: [{operation: {notPaths: [/a]}}]`, call{}, true},
		{`to: [{operation: {notPaths: [/a, "/b*"]}}]`, call{path: "/bc"}, false},
		// conditions
		{`when: [{key: source.ip, values: [10.1.0.0/16]}]`, call{}, true},
		{`when: [{key: source.namespace, values: [shop]}]`, call{peer: web}, true},
		{`when: [{key: source.namespace, notValues: [shop]}]`, call{peer: web}, false},
		{`when: [{key: source.serviceAccount, values: [shop/web]}]`, call{peer: web}, true},
		{`when: [{key: source.principal, values: [cluster.local/ns/shop/sa/web]}]`, call{peer: web}, true},
		{`when: [{key: source.trustDomain, values: [td.example]}]`, call{peer: web}, true},
		{`when: [{key: remote.ip, values: [192.0.2.1]}]`, call{remote: "192.0.2.1"}, true},
		{`when: [{key: destination.ip, values: [10.9.0.0/16]}]`, call{}, true},
		{`when: [{key: destination.ip, notValues: [10.9.0.0/16]}]`, call{}, false},
		{`when: [{key: destination.port, values: ["8080"]}]`, call{}, true},
		{`when: [{key: connection.sni, values: ["*.shop"]}]`, call{sni: "api.shop"}, true},
		{`when: [{key: connection.sni, values: ["*"]}]`, call{}, false},
		{`when: [{key: connection.sni, notValues: [a]}]`, call{}, true},
		{`when: [{key: "request.headers[X-Team]", values: [red]}]`, call{headers: fields{{"x-team", "red"}}}, true},
		{`when: [{key: "request.headers[x-team]", values: [Red]}]`, call{headers: fields{{"x-team", "red"}}}, false},
		{`when: [{key: "request.headers[x-team]", notValues: [red]}]`, call{}, true},
		{`when: [{key: "request.headers[host]", values: [api.shop]}]`, call{host: "api.shop"}, true},
		{`when: [{key: "request.headers[:authority]", values: [api.shop]}]`, call{host: "API.shop"}, false},
		{`when: [{key: "request.headers[:method]", values: [GET]}]`, call{method: "GET"}, true},
		{`when: [{key: source.namespace, values: [shop], notValues: [shop]}]`, call{peer: web}, false},
		// AND of fields, OR of values, groups, AND of conditions
		{`from: [{source: {namespaces: [shop], notPrincipals: ["*/sa/web"]}}]`, call{peer: web}, false},
		{`from: [{source: {namespaces: [x]}}, {source: {namespaces: [shop]}}]`, call{peer: web}, true},
		{`from: [{source: {namespaces: [x]}}, {source: {namespaces: [z]}}]`, call{peer: web}, false},
		{`to: [{operation: {methods: [GET], paths: [/a]}}]`, call{method: "GET", path: "/b"}, false},
		{`to: [{operation: {methods: [GET], paths: [/a]}}, {operation: {methods: [POST]}}]`, call{method: "POST", path: "/b"}, true},
		{`{from: [{source: {namespaces: [shop]}}], to: [{operation: {paths: [/a]}}]}`, call{peer: web, path: "/b"}, false},
		{`{from: [{source: {namespaces: [shop]}}], to: [{operation: {paths: [/b]}}]}`, call{peer: web, path: "/b"}, true},
		{`when: [{key: destination.port, values: ["8080"]}, {key: source.namespace, values: [x]}]`, call{peer: web}, false},
		{`{}`, call{}, true},
	} {
		t.Run(c.rule, func(t *testing.T) {
			conn, req := c.call.read(t)
			for name, p := range engines(t, parse(t, "shop", "p", `{rules: [`+braced(c.rule)+`]}`)) {
				if _, d := p.Decide(conn, req); d.Allowed != c.want {
					t.Errorf("%s: ALLOW gave %+v, want a match %v", name, d, c.want)
				}
			}
			for name, p := range engines(t, parse(t, "shop", "p", `{action: DENY, rules: [`+braced(c.rule)+`]}`)) {
				if _, d := p.Decide(conn, req); d.Allowed == c.want {
					t.Errorf("%s: DENY gave %+v, want a match %v", name, d, c.want)
				}
			}
		})
	}
}

func braced(rule string) string {
	if strings.HasPrefix(rule, "{") {
		return rule
	}
	return "{" + rule + "}"
}

func TestEvaluationOrder(t *testing.T) {
	allowWeb := parse(t, "shop", "allow-web", `{rules: [{from: [{source: {serviceAccounts: [web]}}]}]}`)
	allowAll := parse(t, "shop", "allow-all", `{rules: [{}]}`)
	nothing := parse(t, "shop", "allow-nothing", `{}`)
	denyAdmin := parse(t, "shop", "deny-admin", `{action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}, {to: [{operation: {paths: ["/admin*"]}}]}]}`)
	rootDeny := parse(t, "istio-system", "z", `{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}`)
	audit := parse(t, "shop", "audit", `{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}`)
	for _, c := range []struct {
		name     string
		policies []*policy
		call     call
		reason   authz.Reason
		rule     string // its ID, "" for none
		audit    bool
	}{
		{"no policy", nil, call{}, authz.NoAllowPolicy, "", false},
		{"an ALLOW without rules denies", []*policy{nothing}, call{peer: web}, authz.NoAllow, "", false},
		{"and is overruled by another", []*policy{nothing, allowAll}, call{}, authz.AllowMatched, "ns[shop]-policy[allow-all]-rule[0]", false},
		{"an ALLOW matches", []*policy{allowWeb}, call{peer: web}, authz.AllowMatched, "ns[shop]-policy[allow-web]-rule[0]", false},
		{"no ALLOW matches", []*policy{allowWeb}, call{}, authz.NoAllow, "", false},
		{"DENY alone lets the rest through", []*policy{denyAdmin}, call{path: "/"}, authz.NoAllowPolicy, "", false},
		{"DENY goes first", []*policy{allowAll, denyAdmin}, call{path: "/admin/x"}, authz.DenyMatched, "ns[shop]-policy[deny-admin]-rule[1]", false},
		{"the root namespace's is named", []*policy{denyAdmin, rootDeny}, call{path: "/admin"}, authz.DenyMatched, "ns[istio-system]-policy[z]-rule[0]", false},
		{"by name", []*policy{allowWeb, allowAll}, call{peer: web}, authz.AllowMatched, "ns[shop]-policy[allow-all]-rule[0]", false},
		{"AUDIT only marks what is allowed", []*policy{audit}, call{method: "GET"}, authz.NoAllowPolicy, "", true},
		{"and what is denied", []*policy{audit, nothing}, call{method: "GET"}, authz.NoAllow, "", true},
		{"AUDIT not matched", []*policy{audit}, call{method: "PUT"}, authz.NoAllowPolicy, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, req := c.call.read(t)
			for name, p := range engines(t, c.policies...) {
				permit, d := p.Decide(conn, req)
				id := ""
				if d.Rule != nil {
					id = d.Rule.ID
				}
				if d.Reason != c.reason || id != c.rule || (d.Audit != nil) != c.audit || permit.Valid() != d.Allowed {
					t.Errorf("%s: %+v, rule %q, permit %v", name, d, id, permit.Valid())
				}
			}
		})
	}
}

// What rules mean on a connection whose protocol isn't read.
func TestTCP(t *testing.T) {
	for _, c := range []struct {
		spec  string
		peer  string
		allow bool
	}{
		{`{rules: [{from: [{source: {namespaces: [shop]}}]}]}`, web, true},
		{`{rules: [{from: [{source: {namespaces: [shop]}}]}]}`, "", false},
		{`{rules: [{from: [{source: {namespaces: [shop]}}], to: [{operation: {ports: ["8080"]}}]}]}`, web, true},
		{`{rules: [{from: [{source: {remoteIpBlocks: [10.1.0.0/16]}}]}]}`, "", true},
		{`{rules: [{}]}`, "", true},
		// an HTTP field anywhere in an ALLOW rule: never
		{`{rules: [{to: [{operation: {methods: [GET]}}]}]}`, web, false},
		{`{rules: [{to: [{operation: {notPaths: [/a]}}]}]}`, web, false},
		{`{rules: [{to: [{operation: {ports: ["8080"]}}, {operation: {hosts: [a]}}]}]}`, web, false},
		{`{rules: [{when: [{key: "request.headers[x]", notValues: [a]}]}]}`, web, false},
		{`{rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ["8080"]}}]}]}`, web, true},
		// DENY: what is left of the rule
		{`{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}`, web, false},
		{`{action: DENY, rules: [{to: [{operation: {paths: [/a], ports: ["8080"]}}]}]}`, web, false},
		{`{action: DENY, rules: [{to: [{operation: {paths: [/a], ports: ["9090"]}}]}]}`, web, true},
		{`{action: DENY, rules: [{to: [{operation: {paths: [/a]}}, {operation: {ports: ["9090"]}}]}]}`, web, false},
		{`{action: DENY, rules: [{from: [{source: {namespaces: [x]}}], to: [{operation: {methods: [GET]}}]}]}`, web, true},
		{`{action: DENY, rules: [{when: [{key: "request.headers[x]", values: [a]}, {key: source.namespace, values: [shop]}]}]}`, web, false},
		{`{action: DENY, rules: [{when: [{key: "request.headers[x]", values: [a]}, {key: source.namespace, values: [z]}]}]}`, web, true},
		{`{action: DENY, rules: [{from: [{source: {namespaces: [shop]}}]}]}`, "", true},
	} {
		t.Run(c.spec, func(t *testing.T) {
			conn, _ := call{peer: c.peer, tcp: true}.read(t)
			for name, p := range engines(t, parse(t, "shop", "p", c.spec)) {
				if _, d := p.Decide(conn, nil); d.Allowed != c.allow {
					t.Errorf("%s: %+v, want allowed %v", name, d, c.allow)
				}
			}
		})
	}
	conn, _ := call{peer: web, tcp: true}.read(t)
	for name, p := range engines(t, parse(t, "shop", "p", `{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}`)) {
		if _, d := p.Decide(conn, nil); d.Audit == nil || !d.Allowed {
			t.Errorf("%s: AUDIT on TCP: %+v", name, d)
		}
	}
}

// Repeated headers: for each set of values, whether the rule matches as ALLOW and as DENY.
func TestRepeatedHeaders(t *testing.T) {
	none := fields{}
	a, b, ab, empty := fields{{"x", "a"}}, fields{{"x", "b"}}, fields{{"x", "a"}, {"y", "z"}, {"x", "b"}}, fields{{"x", ""}}
	for _, c := range []struct {
		when        string
		headers     fields
		allow, deny bool
	}{
		{`values: [a]`, none, false, false},
		{`values: [a]`, a, true, true},
		{`values: [a]`, b, false, false},
		{`values: [a]`, ab, false, true},
		{`values: [a, b]`, ab, true, true},
		{`values: ["*"]`, ab, true, true},
		{`values: ["*"]`, none, false, false},
		{`values: ["*"]`, empty, false, true},
		{`values: [a]`, fields{{"x", "a"}, {"x", ""}}, false, true},
		{`notValues: [a]`, none, true, true},
		{`notValues: [a]`, a, false, false},
		{`notValues: [a]`, b, true, true},
		{`notValues: [a]`, ab, false, true},
		{`notValues: [a, b]`, ab, false, false},
		{`notValues: ["*"]`, none, true, true},
		{`notValues: ["*"]`, a, false, false},
		{`notValues: ["*"]`, empty, false, true},
		{`values: ["*"], notValues: [a]`, ab, false, true},
		{`values: ["*"], notValues: [c]`, ab, true, true},
		{`values: [a,b,c,d,e,f,g,h,i,j,k,l,m,o,p,r,"q*"]`, ab, true, true},
		{`values: [a,b,c,d,e,f,g,h,i,j,k,l,m,o,p,r,"q*"]`, fields{{"x", "qq"}, {"x", "z"}}, false, true},
	} {
		t.Run(c.when, func(t *testing.T) {
			conn, req := call{headers: c.headers}.read(t)
			rule := `rules: [{when: [{key: "request.headers[X]", ` + c.when + `}]}]`
			for name, p := range engines(t, parse(t, "shop", "p", `{`+rule+`}`)) {
				if _, d := p.Decide(conn, req); d.Allowed != c.allow {
					t.Errorf("%v %s: ALLOW matched %v", c.headers, name, d.Allowed)
				}
			}
			for name, p := range engines(t, parse(t, "shop", "p", `{action: DENY, `+rule+`}`)) {
				if _, d := p.Decide(conn, req); d.Allowed == c.deny {
					t.Errorf("%v %s: DENY matched %v", c.headers, name, !d.Allowed)
				}
			}
		})
	}
}

func TestTemplates(t *testing.T) {
	for _, c := range []struct {
		template, path string
		want           bool
	}{
		{"/foo/{*}", "/foo/bar", true},
		{"/foo/{*}", "/foo/bar/baz", false},
		{"/foo/{*}", "/foo/bar/", false},
		{"/foo/{*}", "/foo/", false},
		{"/foo/{*}", "/foo", false},
		{"/{*}", "/", false},
		{"/{*}/bar", "/foo/bar", true},
		{"/{*}/bar", "//bar", false},
		{"/{*}/bar", "/foo/x/bar", false},
		{"/foo/{*}/bar/{*}", "/foo/1/bar/2", true},
		{"/foo/{*}/bar/{*}", "/foo/1/baz/2", false},
		{"/{*}/{*}/{*}", "/a/b/c", true},
		{"/{*}/{*}/{*}", "/a/b", false},
		{"/x/{**}", "/x/", true},
		{"/x/{**}", "/x", false},
		{"/x/{**}", "/x/a/b/c", true},
		{"/x/{**}", "/xy/a", false},
		{"/{**}", "/", true},
		{"/foo/{**}/", "/foo/bar/", true},
		{"/foo/{**}/", "/foo//", true},
		{"/foo/{**}/", "/foo/bar", false},
		{"/foo/{**}/", "/foo/", false},
		{"/foo/{**}/end", "/foo/a/b/end", true},
		{"/foo/{**}/end", "/foo/end", false},
		{"/foo/{*}/bar/{**}", "/foo/buzz/bar/", true},
		{"/foo/{*}/bar/{**}", "/foo/buzz/bar/baz", true},
		{"/foo/{*}/bar/{**}", "/foo/bar/baz", false},
		{"/foo/{*}", "/foo/*", true},
	} {
		conn, req := call{path: c.path}.read(t)
		for name, p := range engines(t, parse(t, "shop", "p", `{rules: [{to: [{operation: {paths: ["`+c.template+`"]}}]}]}`)) {
			if _, d := p.Decide(conn, req); d.Allowed != c.want {
				t.Errorf("%s: %s on %s: %v", name, c.template, c.path, d.Allowed)
			}
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{`{action: CUSTOM, provider: {name: x}}`, "spec.rules: is empty: a CUSTOM without rules"},
		{`{action: CUSTOM, rules: [{}]}`, "spec.provider.name: is empty"},
		{`{action: CUSTOM, provider: {}, rules: [{}]}`, "spec.provider.name: is empty"},
		{`{action: DENY, provider: {name: x}, rules: [{}]}`, "spec.provider: is for CUSTOM, not for DENY"},
		{`{action: DENY}`, "spec.rules: is empty"},
		{`{targetRefs: [{kind: Service, name: x}]}`, "spec.targetRefs"},
		{`{rules: [{from: [{source: {requestPrincipals: ["a*b"]}}]}]}`, `spec.rules[0].from[0].source.requestPrincipals[0]: "a*b"`},
		{`{rules: [{from: [{source: {notRequestPrincipals: [""]}}]}]}`, "from[0].source.notRequestPrincipals[0]"},
		{`{rules: [{}, {when: [{key: "request.auth.claims[x", values: [a]}]}]}`, `spec.rules[1].when[0].key: "request.auth.claims[x"`},
		{`{rules: [{when: [{key: "request.auth.claims", values: [a]}]}]}`, "names no claim"},
		{`{rules: [{when: [{key: "request.auth.claims[]", values: [a]}]}]}`, "when[0].key"},
		{`{rules: [{when: [{key: "request.auth.claims[a]b", values: [a]}]}]}`, "when[0].key"},
		{`{rules: [{when: [{key: "request.auth.claims[[a]]", values: [a]}]}]}`, "when[0].key"},
		{`{rules: [{when: [{key: "request.auth.claims.a", values: [a]}]}]}`, "when[0].key"},
		{`{rules: [{when: [{key: "request.auth.claims` + strings.Repeat("[a]", 17) + `", values: [a]}]}]}`, "deeper than 16"},
		{`{rules: [{when: [{key: "request.auth.claims[x]", values: ["a*b"]}]}]}`, `when[0].values[0]: "a*b"`},
		{`{rules: [{when: [{key: "request.auth.token", values: [a]}]}]}`, "not a supported attribute"},
		{`{rules: [{when: [{key: "experimental.envoy.filters.a[b]", values: [a]}]}]}`, "when[0].key"},
		{`{rules: [{when: [{key: source.ip}]}]}`, "when[0].values"},
		{`{rules: [{when: [{key: "request.headers[upgrade]", values: [a]}]}]}`, "request.headers[upgrade]"},
		{`{rules: [{when: [{key: "request.headers[:path]", values: [a]}]}]}`, "request.headers[:path]"},
		{`{rules: [{when: [{key: "request.headers[]", values: [a]}]}]}`, "names no header"},
		{`{rules: [{from: [{source: {}}]}]}`, "from[0].source: is empty"},
		{`{rules: [{from: [{}]}]}`, "from[0].source: is empty"},
		{`{rules: [{to: [{operation: {paths: [/a]}}, {operation: {}}]}]}`, "to[1].operation: is empty"},
		{`{rules: [{to: [{operation: {paths: [/a, "/a*b"]}}]}]}`, `to[0].operation.paths[1]: "/a*b"`},
		{`{rules: [{to: [{operation: {paths: ["*a*"]}}]}]}`, `"*a*"`},
		{`{rules: [{to: [{operation: {notPaths: [""]}}]}]}`, "notPaths[0]: is empty"},
		{`{rules: [{to: [{operation: {paths: ["/{**}/{*}"]}}]}]}`, "last operator"},
		{`{rules: [{to: [{operation: {paths: ["/{**}/{**}"]}}]}]}`, "last operator"},
		{`{rules: [{to: [{operation: {paths: ["/foo/{*}.txt"]}}]}]}`, `segment "{*}.txt"`},
		{`{rules: [{to: [{operation: {paths: ["/*/baz/{*}"]}}]}]}`, `segment "*"`},
		{`{rules: [{to: [{operation: {paths: ["a/{*}"]}}]}]}`, "begins with '/'"},
		{`{rules: [{to: [{operation: {ports: ["0"]}}]}]}`, `ports[0]: "0" is not a port`},
		{`{rules: [{to: [{operation: {ports: ["http"]}}]}]}`, `"http" is not a port`},
		{`{rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}`, `ipBlocks[0]: "10.0.0.0/33"`},
		{`{rules: [{from: [{source: {ipBlocks: ["fe80::1%eth0"]}}]}]}`, `"fe80::1%eth0"`},
		{`{rules: [{from: [{source: {principals: ["spiffe://a/b"]}}]}]}`, "without spiffe://"},
		{`{rules: [{from: [{source: {namespaces: ["a*b"]}}]}]}`, `namespaces[0]: "a*b"`},
		{`{rules: [{from: [{source: {serviceAccounts: ["a/*"]}}]}]}`, "takes no '*'"},
		{`{rules: [{from: [{source: {serviceAccounts: ["a/b/c"]}}]}]}`, `"a/b/c"`},
	} {
		p := parse(t, "shop", "bad", c.spec)
		p.Position = mesh.Position{File: "x.yaml", Line: 7}
		program, err := Compile([]*policy{parse(t, "shop", "good", `{rules: [{}]}`), p}, options)
		if err == nil || program != nil {
			t.Errorf("%s: accepted", c.spec)
			continue
		}
		if s := err.Error(); !strings.Contains(s, c.want) || !strings.HasPrefix(s, "x.yaml:7: compiling AuthorizationPolicy shop/bad: spec.") {
			t.Errorf("%s: %v; want %q", c.spec, err, c.want)
		}
	}
	dry := parse(t, "shop", "dry", `{rules: [{}]}`)
	dry.Annotations = map[string]string{"istio.io/dry-run": "yes"}
	for _, p := range []*policy{dry, nil, {}} {
		if _, err := Compile([]*policy{p}, options); err == nil {
			t.Errorf("%v: accepted", p)
		}
	}
}
