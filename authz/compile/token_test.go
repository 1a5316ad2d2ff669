package compile

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/identity/jwt"
)

// claims reads a payload as the verifier does: numbers stay as they are written.
func claims(t testing.TB, payload string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(payload))
	d.UseNumber()
	out := map[string]any{}
	if err := d.Decode(&out); err != nil {
		t.Fatalf("%s: %v", payload, err)
	}
	return out
}

// Each row is one field of one rule, the token of a call (nil if it has no payload), and whether the rule matches as ALLOW and
// as DENY.
func TestTokens(t *testing.T) {
	alice := &jwt.Token{Issuer: "https://idp.example", Subject: "alice", Presenter: "app", Audiences: []string{"shop", "kitchen"},
		Claims: claims(t, `{"role": "chef", "groups": ["a", "b"], "scope": "read write", "permission": ["eat", "pay now"], "other": "x y",
			"org": {"unit": "kitchen", "tags": ["t1", "t2"], "deep": {"er": "z"}}, "https://x.example/k": "v", "empty": "", "none": null, "nothing": [],
			"level": 7, "verified": true, "mixed": ["s", 5, false, null, ["nn"]], "big": 1e3}`)}
	nobody := (*jwt.Token)(nil)
	for _, c := range []struct {
		rule        string
		token       *jwt.Token
		allow, deny bool
	}{
		// requestPrincipals in Istio's four shapes
		{`requestPrincipals: ["https://idp.example/alice"]`, alice, true, true},
		{`requestPrincipals: ["https://idp.example/bob"]`, alice, false, false},
		{`requestPrincipals: ["https://idp.example/*"]`, alice, true, true},
		{`requestPrincipals: ["*/alice"]`, alice, true, true},
		{`requestPrincipals: ["*/lice"]`, alice, false, false},
		{`requestPrincipals: ["*"]`, alice, true, true},
		{`requestPrincipals: ["*"]`, nobody, false, false},
		{`requestPrincipals: ["*"]`, &jwt.Token{Issuer: "i"}, false, false},
		{`requestPrincipals: ["*"]`, &jwt.Token{Subject: "s"}, false, false},
		{`requestPrincipals: ["/s"]`, &jwt.Token{Subject: "s"}, false, false},
		{`requestPrincipals: ["i/*"]`, &jwt.Token{Issuer: "i"}, false, false},
		{`requestPrincipals: ["https://idp.example/alice", x/y]`, &jwt.Token{Issuer: "x", Subject: "y"}, true, true},
		{`requestPrincipals: [i/*]`, &jwt.Token{Issuer: "i", Subject: strings.Repeat("x", 600)}, true, true},
		{`notRequestPrincipals: ["https://idp.example/alice"]`, alice, false, false},
		{`notRequestPrincipals: ["https://idp.example/bob"]`, alice, true, true},
		{`notRequestPrincipals: ["*"]`, nobody, true, true},
		{`notRequestPrincipals: ["*"]`, alice, false, false},
		{`requestPrincipals: ["*"], notRequestPrincipals: ["*/alice"]`, alice, false, false},
		{`key: request.auth.principal, values: ["*/alice"]`, alice, true, true},
		{`key: request.auth.principal, notValues: ["*/alice"]`, nobody, true, true},
		// audiences and presenter
		{`key: request.auth.audiences, values: [kitchen]`, alice, true, true},
		{`key: request.auth.audiences, values: [k*]`, alice, true, true},
		{`key: request.auth.audiences, values: [hall]`, alice, false, false},
		{`key: request.auth.audiences, values: ["*"]`, &jwt.Token{}, false, false},
		{`key: request.auth.audiences, notValues: [kitchen]`, alice, false, false},
		{`key: request.auth.audiences, notValues: [hall]`, alice, true, true},
		{`key: request.auth.audiences, notValues: ["*"]`, nobody, true, true},
		{`key: request.auth.presenter, values: [app]`, alice, true, true},
		{`key: request.auth.presenter, values: [ap]`, alice, false, false},
		{`key: request.auth.presenter, values: ["*"]`, &jwt.Token{}, false, false},
		{`key: request.auth.presenter, notValues: [app]`, alice, false, false},
		// claims: strings, lists of strings, nested ones
		{`key: "request.auth.claims[role]", values: [chef, cook]`, alice, true, true},
		{`key: "request.auth.claims[role]", values: [Chef]`, alice, false, false},
		{`key: "request.auth.claims[role]", values: [ch*]`, alice, true, true},
		{`key: "request.auth.claims[role]", values: ["*"]`, alice, true, true},
		{`key: "request.auth.claims[role]", values: ["*"]`, nobody, false, false},
		{`key: "request.auth.claims[absent]", values: ["*"]`, alice, false, false},
		{`key: "request.auth.claims[none]", values: ["*"]`, alice, false, false},
		{`key: "request.auth.claims[empty]", values: ["*"]`, alice, false, false},
		{`key: "request.auth.claims[nothing]", values: ["*"]`, alice, false, false},
		{`key: "request.auth.claims[absent]", notValues: [chef]`, alice, true, true},
		{`key: "request.auth.claims[none]", notValues: ["*"]`, alice, true, true},
		{`key: "request.auth.claims[role]", notValues: [chef]`, alice, false, false},
		{`key: "request.auth.claims[role]", notValues: [chef]`, nobody, true, true},
		{`key: "request.auth.claims[groups]", values: [b]`, alice, true, true},
		{`key: "request.auth.claims[groups]", values: [c]`, alice, false, false},
		{`key: "request.auth.claims[groups]", notValues: [b]`, alice, false, false},
		{`key: "request.auth.claims[groups]", notValues: [c]`, alice, true, true},
		{`key: "request.auth.claims[org][unit]", values: [kitchen]`, alice, true, true},
		{`key: "request.auth.claims[org][tags]", values: [t2]`, alice, true, true},
		{`key: "request.auth.claims[org][deep][er]", values: [z]`, alice, true, true},
		{`key: "request.auth.claims[org][deep][er][x]", values: ["*"]`, alice, false, false},
		{`key: "request.auth.claims[role][x]", values: ["*"]`, alice, false, false},
		{`key: "request.auth.claims[groups][0]", values: ["*"]`, alice, false, false},
		{`key: "request.auth.claims[https://x.example/k]", values: [v]`, alice, true, true},
		{`key: "request.auth.claims[Role]", values: [chef]`, alice, false, false},
		// scope and permission are lists of words
		{`key: "request.auth.claims[scope]", values: [write]`, alice, true, true},
		{`key: "request.auth.claims[scope]", values: [writ]`, alice, false, false},
		{`key: "request.auth.claims[scope]", values: ["read write"]`, alice, false, false},
		{`key: "request.auth.claims[scope]", notValues: [write]`, alice, false, false},
		{`key: "request.auth.claims[permission]", values: [eat]`, alice, true, true},
		{`key: "request.auth.claims[permission]", values: [pay]`, alice, false, false},
		{`key: "request.auth.claims[other]", values: [x]`, alice, false, false},
		// what is no string: by its JSON text where any reading counts, never else
		{`key: "request.auth.claims[level]", values: ["7"]`, alice, false, true},
		{`key: "request.auth.claims[level]", values: ["8"]`, alice, false, false},
		{`key: "request.auth.claims[level]", values: ["*"]`, alice, false, true},
		{`key: "request.auth.claims[level]", notValues: ["7"]`, alice, false, true},
		{`key: "request.auth.claims[level]", notValues: ["8"]`, alice, true, true},
		{`key: "request.auth.claims[big]", values: ["1000"]`, alice, false, false},
		{`key: "request.auth.claims[verified]", values: ["true"]`, alice, false, true},
		{`key: "request.auth.claims[verified]", notValues: ["true"]`, alice, false, true},
		{`key: "request.auth.claims[mixed]", values: [s]`, alice, true, true},
		{`key: "request.auth.claims[mixed]", values: ["5"]`, alice, false, true},
		{`key: "request.auth.claims[mixed]", values: ["false"]`, alice, false, true},
		{`key: "request.auth.claims[mixed]", values: [nn]`, alice, false, false},
		{`key: "request.auth.claims[org]", values: [unit]`, alice, false, false},
		{`key: "request.auth.claims[org]", values: ["*"]`, alice, false, true},
		{`key: "request.auth.claims[org]", notValues: ["*"]`, alice, false, true},
	} {
		conn, req := call{peer: web}.read(t)
		req.Token = c.token
		rule := `from: [{source: {` + c.rule + `}}]`
		if strings.HasPrefix(c.rule, "key:") {
			rule = `when: [{` + c.rule + `}]`
		}
		for action, want := range map[string]bool{"ALLOW": c.allow, "DENY": c.deny} {
			for name, p := range engines(t, parse(t, "shop", "p", `{action: `+action+`, rules: [{`+rule+`}]}`)) {
				_, d := p.Decide(conn, req)
				if matched := d.Rule != nil; matched != want {
					t.Errorf("%s: %s of %s: matched %v", name, action, c.rule, matched)
				}
			}
		}
	}
}

// On a connection whose protocol isn't read there is no token: ALLOW rules that look at one never match, the others lose
// those fields.
func TestTokensOnTCP(t *testing.T) {
	conn, _ := call{peer: web, tcp: true}.read(t)
	for _, field := range []string{
		`from: [{source: {requestPrincipals: ["*"]}}]`, `from: [{source: {notRequestPrincipals: ["*"]}}]`,
		`when: [{key: request.auth.principal, notValues: [x]}]`, `when: [{key: request.auth.audiences, notValues: [x]}]`,
		`when: [{key: request.auth.presenter, notValues: [x]}]`, `when: [{key: "request.auth.claims[a]", notValues: [x]}]`,
	} {
		for action, want := range map[string]bool{"ALLOW": false, "DENY": true} {
			for name, p := range engines(t, parse(t, "shop", "p", `{action: `+action+`, rules: [{`+field+`}]}`)) {
				if _, d := p.Decide(conn, nil); (d.Rule != nil) != want {
					t.Errorf("%s: %s with %s: %+v", name, action, field, d)
				}
			}
		}
	}
}

// Rules that look at a token cost no memory, and are found by the request principal.
func TestTokensAllocateNothing(t *testing.T) {
	conn, req := call{peer: web}.read(t)
	req.Token = &jwt.Token{Issuer: "https://idp.example", Subject: "alice", Audiences: []string{"a", "b"}, Presenter: "p",
		Claims: claims(t, `{"groups": ["a", "b"], "org": {"unit": "kitchen"}, "scope": "read write", "n": 7, "b": true}`)}
	policies := []*policy{parse(t, "shop", "p", `{rules: [
		{from: [{source: {requestPrincipals: ["https://idp.example/bob"]}}]},
		{from: [{source: {requestPrincipals: ["https://other.example/*", "*/carol"]}}]},
		{when: [{key: "request.auth.claims[groups]", values: [c]}]},
		{when: [{key: "request.auth.claims[n]", values: ["7"]}]},
		{when: [{key: "request.auth.claims[b]", notValues: ["true"]}]},
		{when: [{key: "request.auth.claims[scope]", values: [admin]}]},
		{when: [{key: request.auth.presenter, values: [q]}]},
		{from: [{source: {requestPrincipals: ["https://idp.example/alice"]}}], when: [{key: "request.auth.claims[org][unit]", values: [kitchen]}, {key: request.auth.audiences, values: [b]}]}]}`)}
	for name, p := range engines(t, policies...) {
		if _, d := p.Decide(conn, req); d.Rule == nil || d.Rule.Rule != 7 {
			t.Errorf("%s: %+v", name, d)
		}
		if n := testing.AllocsPerRun(100, func() { p.Decide(conn, req) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	e, err := build(policies, options, 1)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(e.http.allow.index.residual); n != 5 {
		t.Errorf("%d of 8 rules are found by nothing; those that demand a request principal should not be", n)
	}
}
