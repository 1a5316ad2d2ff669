package judge

import (
	"context"
	"net/netip"
	"testing"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/authz/compile"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
)

// program compiles policies of the namespace shop, named p0, p1...
func program(t testing.TB, specs ...*security.AuthorizationPolicy) *authz.Program {
	t.Helper()
	var policies []*mesh.Typed[*security.AuthorizationPolicy]
	for i, s := range specs {
		m := mesh.Meta{Key: mesh.Key{Group: "security.istio.io", Kind: "AuthorizationPolicy", Namespace: "shop", Name: "p" + string(rune('0'+i))}}
		policies = append(policies, &mesh.Typed[*security.AuthorizationPolicy]{Meta: m, Spec: s})
	}
	p, err := compile.Compile(policies, compile.Options{TrustDomain: "cluster.local", RootNamespace: "istio-system"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func paths(action security.AuthorizationPolicy_Action, o *security.Operation) *security.AuthorizationPolicy {
	return &security.AuthorizationPolicy{Action: action, Rules: []*security.Rule{{To: []*security.Rule_To{{Operation: o}}}}}
}

func caller(t testing.TB) *authz.Connection {
	t.Helper()
	id, err := identity.New("cluster.local", "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	return &authz.Connection{Peer: identity.Peer{ID: id}, SourceIP: netip.MustParseAddr("127.0.10.1"), DestinationPort: 8080}
}

func get(path string) *proxy.Head {
	return &proxy.Head{Method: "GET", Authority: "api.shop", Path: path, Minor: 1}
}

// authorize judges one request without tokens and bodies.
func authorize(p *authz.Program, c *authz.Connection, h *proxy.Head, req *authz.Request, s *Scratch) (authz.Permit, Verdict, *proxy.Failure) {
	v, failure := Judge{Program: p}.Authorize(context.Background(), &Case{Connection: c, Head: h, Request: req, Scratch: s})
	return v.Permit, v, failure
}

func authorizeTCP(p *authz.Program, c *authz.Connection) (authz.Permit, Verdict, *proxy.Failure) {
	v, failure := Judge{Program: p}.AuthorizeTCP(context.Background(), c, &Scratch{})
	return v.Permit, v, failure
}

// Spellings of /admin: what a DENY of /admin* must catch, and the path as it is forwarded where it is allowed.
func TestSpellingsUnderDeny(t *testing.T) {
	deny := program(t, paths(security.AuthorizationPolicy_DENY, &security.Operation{Paths: []string{"/admin*"}}))
	for _, c := range []struct {
		in     string
		denied bool
		path   string
	}{
		{"/admin", true, "/admin"},
		{"/admin/x", true, "/admin/x"},
		{"//admin", true, "/admin"},
		{"/%61dmin", true, "/admin"},
		{"/x/../admin", true, "/admin"},
		{"/./admin", true, "/admin"},
		{"/x%2F..%2Fadmin", true, "/x%2F..%2Fadmin"},
		{"/%2Fadmin", true, "/%2Fadmin"},
		{`/x\..\admin`, true, "/admin"},
		{`/\admin`, true, "/admin"},
		{"/%5cadmin", true, "/%5cadmin"},
		{"/x%5C..%5Cadmin", true, "/x%5C..%5Cadmin"},
		{"/%2e/admin", true, "/admin"},
		{"/x/%2e%2e/admin", true, "/admin"},
		{"/..%2fadmin", true, "/..%2fadmin"},
		{"/%2e%2e%2f%2e%2e%2fadmin", true, "/..%2f..%2fadmin"},
		{"/admin%2Fx", true, "/admin%2Fx"},

		// Names of other resources, which reach the program as they are: nothing is decoded twice, a parameter is part
		// of its segment, an overlong sequence is not the character it imitates, and case counts.
		{"/a%2Fb", false, "/a%2Fb"},
		{"/%2561dmin", false, "/%2561dmin"},
		{"/x%252F..%252Fadmin", false, "/x%252F..%252Fadmin"},
		{"/..;/admin", false, "/..;/admin"},
		{"/%c0%ae%c0%ae/admin", false, "/%c0%ae%c0%ae/admin"},
		{"/Admin", false, "/Admin"},
		{"/public", false, "/public"},
	} {
		t.Run(c.in, func(t *testing.T) {
			h, req, s := get(c.in), &authz.Request{}, &Scratch{}
			permit, decision, failure := authorize(deny, caller(t), h, req, s)
			if permit.Valid() == c.denied || (failure != nil) != c.denied {
				t.Fatalf("permit %v, verdict %+v, failure %v; want denied %v", permit.Valid(), decision, failure, c.denied)
			}
			if c.denied && (failure.Code != proxy.Denied || failure.Detail != "rbac_access_denied_matched_policy[ns[shop]-policy[p0]-rule[0]]") {
				t.Errorf("failure %+v", failure)
			}
			if h.Path != c.path || req.Path != c.path {
				t.Errorf("path %q, judged %q; want %q", h.Path, req.Path, c.path)
			}
		})
	}
}

// A path with two readings is allowed only if both are.
func TestTwoReadings(t *testing.T) {
	allow := program(t, paths(security.AuthorizationPolicy_ALLOW, &security.Operation{Paths: []string{"/public/*"}}))
	denyElse := program(t, paths(security.AuthorizationPolicy_DENY, &security.Operation{NotPaths: []string{"/public/*"}}))
	decodedOnly := program(t, paths(security.AuthorizationPolicy_ALLOW, &security.Operation{Paths: []string{"/admin"}}))
	for _, c := range []struct {
		name    string
		program *authz.Program
		path    string
		allowed bool
	}{
		{"both public", allow, "/public/a%2Fb", true},
		{"decoded leaves public", allow, "/public/..%2Fadmin", false},
		{"only decoded is public", allow, "/x%2F..%2Fpublic/a", false},
		{"NOT both public", denyElse, "/public/a%2Fb", true},
		{"NOT decoded leaves public", denyElse, "/public/..%2Fadmin", false},
		{"NOT only decoded is public", denyElse, "/x%2F..%2Fpublic/a", false},
		{"only decoded is allowed", decodedOnly, "/x%2F..%2Fadmin", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			permit, _, failure := authorize(c.program, caller(t), get(c.path), &authz.Request{}, &Scratch{})
			if permit.Valid() != c.allowed {
				t.Errorf("permit %v, %v", permit.Valid(), failure)
			}
		})
	}
}

func TestBadPathIsNeverJudged(t *testing.T) {
	all := program(t)
	for _, path := range []string{"/a%00b", "/a%zz", "/a\x01b", "admin", "", "*", "/a#b", "/x%2F%2F..%2Fadmin"} {
		req := &authz.Request{Path: "/left over"}
		permit, decision, failure := authorize(all, caller(t), get(path), req, &Scratch{})
		if permit.Valid() || failure == nil || failure.Code != proxy.BadPath || req.Path != "" {
			t.Errorf("%q: permit %v, verdict %+v, failure %v, request %+v", path, permit.Valid(), decision, failure, req)
		}
	}
}

func TestTargetsWithoutPath(t *testing.T) {
	for _, c := range []struct {
		method, path string
		ok           bool
	}{
		{"CONNECT", "", true},
		{"OPTIONS", "*", true},
		{"GET", "*", false},
		{"GET", "", false},
		{"OPTIONS", "", false},
		{"CONNECT", "*", false},
	} {
		h := &proxy.Head{Method: c.method, Path: c.path}
		failure := Judge{}.Canonicalise(h, &Scratch{})
		if (failure == nil) != c.ok || h.Path != c.path {
			t.Errorf("%s %q: path %q, failure %v", c.method, c.path, h.Path, failure)
		}
	}
	// What has no path matches no path, and every notPaths.
	any := program(t, paths(security.AuthorizationPolicy_ALLOW, &security.Operation{Paths: []string{"*"}}))
	not := program(t, paths(security.AuthorizationPolicy_DENY, &security.Operation{NotPaths: []string{"/x"}}))
	for _, p := range []*authz.Program{any, not} {
		if permit, _, _ := authorize(p, caller(t), &proxy.Head{Method: "CONNECT"}, &authz.Request{}, &Scratch{}); permit.Valid() {
			t.Error("CONNECT passed a policy by path")
		}
	}
}

func TestCanonicaliseFollowsMode(t *testing.T) {
	const in = "/a//%62%2Fc"
	for mode, want := range map[mesh.Normalization]string{none: in, base: "/a//b%2Fc", merged: "/a/b%2Fc", decode: "/a/b/c"} {
		h, s := get(in), &Scratch{}
		j := New(mesh.Settings{Normalization: mode}, nil, nil)
		if failure := j.Canonicalise(h, s); failure != nil || h.Path != want {
			t.Errorf("mode %d: %q, %v; want %q", mode, h.Path, failure, want)
		}
		// The head owns its path: another use of the scratch doesn't change it.
		if failure := j.Canonicalise(get("/zzzzzzzz//%7a"), s); failure != nil || h.Path != want {
			t.Errorf("mode %d: path became %q, %v", mode, h.Path, failure)
		}
	}
}

func TestForwardedFor(t *testing.T) {
	for _, c := range []struct {
		name    string
		fields  []string
		trusted int
		want    string // "" for none
	}{
		{"absent", nil, 0, ""},
		{"one", []string{"203.0.113.7"}, 0, "203.0.113.7"},
		{"last", []string{"198.51.100.1, 203.0.113.7"}, 0, "203.0.113.7"},
		{"one trusted", []string{"192.0.2.9,198.51.100.1 ,203.0.113.7"}, 1, "198.51.100.1"},
		{"two trusted", []string{"192.0.2.9, 198.51.100.1,\t203.0.113.7"}, 2, "192.0.2.9"},
		{"fewer than trusted", []string{"203.0.113.7"}, 1, ""},
		{"several fields are one list", []string{"192.0.2.9", "198.51.100.1, 203.0.113.7"}, 2, "192.0.2.9"},
		{"last field first", []string{"192.0.2.9, 192.0.2.10", "203.0.113.7"}, 0, "203.0.113.7"},
		{"IPv6", []string{"2001:db8::1"}, 0, "2001:db8::1"},
		{"mapped", []string{"::ffff:203.0.113.7"}, 0, "203.0.113.7"},
		{"zone", []string{"fe80::1%eth0"}, 0, ""},
		{"port", []string{"203.0.113.7:80"}, 0, ""},
		{"name", []string{"unknown"}, 0, ""},
		{"empty", []string{""}, 0, ""},
		{"empty last", []string{"203.0.113.7,"}, 0, ""},
		{"malformed elsewhere", []string{"garbage, 203.0.113.7"}, 0, "203.0.113.7"},
		{"negative", []string{"203.0.113.7"}, -1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := get("/")
			for _, v := range c.fields {
				h.Add("x-forwarded-for", v)
			}
			want, _ := netip.ParseAddr(c.want)
			if got := forwardedFor(h, c.trusted); got != want {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

func TestRemoteIPIsJudged(t *testing.T) {
	p := program(t, &security.AuthorizationPolicy{Rules: []*security.Rule{{
		From: []*security.Rule_From{{Source: &security.Source{RemoteIpBlocks: []string{"203.0.113.0/24"}}}}}}})
	h := get("/")
	if permit, _, _ := authorize(p, caller(t), h, &authz.Request{}, &Scratch{}); permit.Valid() {
		t.Error("allowed by the address of the connection")
	}
	h.Add("x-forwarded-for", "203.0.113.7")
	if permit, _, failure := authorize(p, caller(t), h, &authz.Request{}, &Scratch{}); !permit.Valid() {
		t.Error("denied by X-Forwarded-For:", failure)
	}
}

func TestAuthorizeTCP(t *testing.T) {
	p := program(t, &security.AuthorizationPolicy{Rules: []*security.Rule{{
		From: []*security.Rule_From{{Source: &security.Source{Namespaces: []string{"shop"}}}}}}})
	if permit, _, failure := authorizeTCP(p, caller(t)); !permit.Valid() || failure != nil {
		t.Error("denied:", failure)
	}
	permit, _, failure := authorizeTCP(p, &authz.Connection{})
	if permit.Valid() || failure == nil || failure.Code != proxy.Denied || failure.Detail != "rbac_access_denied_matched_policy[none]" {
		t.Errorf("nobody got %v, %+v", permit.Valid(), failure)
	}
	if permit, _, failure := authorizeTCP(nil, caller(t)); permit.Valid() || failure == nil {
		t.Error("no program allowed")
	}
}

func TestAuthorizeAllocates(t *testing.T) {
	p := program(t, paths(security.AuthorizationPolicy_DENY, &security.Operation{Paths: []string{"/admin*"}}))
	c, req, s := caller(t), &authz.Request{}, &Scratch{}
	h := get("")
	h.Add("x-forwarded-for", "192.0.2.9, 198.51.100.1")
	h.Intern(make([]byte, 4096)) // the arena has its size after the first requests
	for _, path := range []string{"/api/v1/products/17", "/admin", "//admin", "/x%2F..%2Fadmin", "/%zz"} {
		n := testing.AllocsPerRun(10, func() {
			fields := h.Fields
			h.Reset()
			h.Method, h.Authority, h.Path, h.Fields = "GET", "api.shop", path, fields
			authorize(p, c, h, req, s)
		})
		if n != 0 {
			t.Errorf("%q: %v allocations", path, n)
		}
	}
}
