package compile

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh"
)

// explains holds Explain against the other methods: what they say is put together again from the traces.
func (p pair) explains(t *testing.T, w words, s choices, calls int) {
	t.Helper()
	for range calls {
		c, r := w.call(s)
		traces := p.indexed.Explain(c, r)
		if got, want := retold(p.indexed, traces), said(p.linear, c, r); got != want {
			t.Fatalf("connection %+v\nrequest %+v\nexplained %s\njudged    %s", c, r, got, want)
		}
		for _, trace := range traces {
			for _, rule := range trace.Rules {
				if rule.Matched == (rule.Field != "") || rule.Matched != (len(rule.Want) == 0) || rule.Absent && rule.Saw != "" {
					t.Fatalf("connection %+v\nrequest %+v\n%s %s: %+v", c, r, trace.Action, trace.Name, rule)
				}
			}
		}
	}
}

// retold is what said would say, by the traces alone.
func retold(e *engine, traces []authz.PolicyTrace) string {
	d := authz.Decision{Allowed: true, Reason: authz.NoAllowPolicy}
	rule := func(p authz.PolicyTrace) *authz.RuleRef { return authz.NewRuleRef(p.Namespace, p.Name, p.Rule) }
	handed := make([]*authz.RuleRef, len(e.customs))
	shadows := map[string]authz.Shadow{}
	for i, s := range e.customs {
		for range s.policies {
			if p := traces[0]; p.Action != "CUSTOM" || p.DryRun != e.handovers[i].DryRun {
				panic(fmt.Sprintf("%+v stands where CUSTOM policies do", p))
			} else if p.Matched && handed[i] == nil {
				handed[i] = rule(p)
			}
			traces = traces[1:]
		}
	}
	for _, p := range traces {
		switch {
		case p.DryRun:
			shadows[p.Namespace+"/"+p.Name] = authz.Shadow{Rule: rule(p), Denied: p.Matched && p.Action == "DENY" || !p.Matched && p.Action == "ALLOW"}
		case p.Action == "AUDIT" && p.Matched && d.Audit == nil:
			d.Audit = rule(p)
		case p.Action == "DENY" && p.Matched && d.Rule == nil:
			d.Allowed, d.Reason, d.Rule = false, authz.DenyMatched, rule(p)
		case p.Action == "ALLOW" && d.Reason == authz.NoAllowPolicy:
			d.Allowed, d.Reason = false, authz.NoAllow
			fallthrough
		case p.Action == "ALLOW" && d.Reason == authz.NoAllow:
			if p.Matched {
				d.Allowed, d.Reason, d.Rule = true, authz.AllowMatched, rule(p)
			}
		}
	}
	out := fmt.Sprintf("%v by reason %d, rule %s, audit %s;", d.Allowed, d.Reason, id(d.Rule), id(d.Audit))
	for i, h := range e.handovers {
		out += fmt.Sprintf(" %s dry %v: %s;", h.Custom.Ref.By, h.DryRun, id(handed[i]))
	}
	for _, p := range e.shadows {
		s := shadows[p.key.Namespace+"/"+p.key.Name]
		out += fmt.Sprintf(" shadow %s denied %v;", s.Rule.ID, s.Denied)
	}
	return out
}

func TestExplainAgrees(t *testing.T) {
	w, r := vocabulary(), rand.New(rand.NewPCG(17, 4))
	for range 400 {
		newPair(t, w.policies(r)).explains(t, w, r, 20)
	}
}

// Each row is a rule that doesn't match, and what is said of why.
func TestExplainRule(t *testing.T) {
	token := &jwt.Token{Issuer: "idp", Subject: "u", Audiences: []string{"x", "y"}, Presenter: "app",
		Claims: map[string]any{"role": "guest", "groups": []any{"a", json.Number("7")}, "org": map[string]any{"unit": "kitchen"}}}
	seen := call{peer: web, sni: "api.shop", method: "GET", host: "api.shop:80", path: "/a%2Fb", second: "/a/b",
		headers: fields{{"x-team", "red"}, {"authorization", "Bearer secret"}, {"x-team", "blue"}}}
	for _, c := range []struct {
		action, rule, field, want, saw string // saw "-": absent
	}{
		{"ALLOW", `from: [{source: {principals: [x/ns/a/sa/b, "*/sa/c"]}}]`, "from[0].source.principals", "x/ns/a/sa/b */sa/c", "td.example/ns/shop/sa/web"},
		{"ALLOW", `from: [{source: {notPrincipals: ["*"]}}]`, "from[0].source.notPrincipals", "*", "td.example/ns/shop/sa/web"},
		{"ALLOW", `from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]`, "from[0].source.principals", "cluster.local/ns/a/sa/b", "td.example/ns/shop/sa/web"},
		{"ALLOW", `from: [{source: {namespaces: [a], notNamespaces: [b]}}]`, "from[0].source.namespaces", "a", "shop"},
		{"ALLOW", `from: [{source: {namespaces: [shop], notNamespaces: [shop]}}]`, "from[0].source.notNamespaces", "shop", "shop"},
		{"ALLOW", `from: [{source: {serviceAccounts: [api]}}]`, "from[0].source.serviceAccounts", "api", "shop/web"},
		{"ALLOW", `from: [{source: {ipBlocks: [10.2.0.0/16]}}]`, "from[0].source.ipBlocks", "10.2.0.0/16", "10.1.2.3"},
		{"ALLOW", `from: [{source: {requestPrincipals: ["idp/v"]}}]`, "from[0].source.requestPrincipals", "idp/v", "idp/u"},
		{"ALLOW", `to: [{operation: {ports: ["80"]}}]`, "to[0].operation.ports", "80", "8080"},
		{"ALLOW", `to: [{operation: {hosts: [api.shop]}}]`, "to[0].operation.hosts", "api.shop", "api.shop:80"},
		{"ALLOW", `to: [{operation: {methods: [PUT, POST]}}]`, "to[0].operation.methods", "PUT POST", "GET"},
		{"DENY", `to: [{operation: {paths: [/b]}}]`, "to[0].operation.paths", "/b", "/a%2Fb"},
		{"ALLOW", `to: [{operation: {paths: ["/a%2F*", /a]}}, {operation: {paths: [/c]}}]`, "", "", ""},
		{"ALLOW", `to: [{operation: {paths: ["/a%2fb"]}}]`, "to[0].operation.paths", "/a%2fb", "/a%2Fb"},
		// of the decoded reading, where that is the one that fails
		{"ALLOW", `to: [{operation: {notPaths: ["/a/*"]}}]`, "to[0].operation.notPaths", "/a/*", "/a/b"},
		// the alternative that got farthest, the first of equals
		{"ALLOW", `to: [{operation: {hosts: [x]}}, {operation: {methods: [GET], paths: [/z]}}, {operation: {methods: [GET], paths: [/y]}}]`, "to[1].operation.paths", "/z", "/a%2Fb"},
		{"ALLOW", `{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [PUT]}}]}`, "to[0].operation.methods", "PUT", "GET"},
		{"ALLOW", `when: [{key: source.namespace, values: [shop]}, {key: connection.sni, notValues: ["*.shop"]}]`, "when[1].notValues", "*.shop", "api.shop"},
		{"ALLOW", `when: [{key: "request.headers[X-Team]", values: [red]}]`, "when[0].values", "red", "red, blue"},
		{"ALLOW", `when: [{key: "request.headers[x-none]", values: [red]}]`, "when[0].values", "red", "-"},
		{"ALLOW", `when: [{key: "request.headers[authorization]", values: [x]}]`, "when[0].values", "x", "(not shown)"},
		{"ALLOW", `when: [{key: "request.auth.claims[role]", values: [chef]}]`, "when[0].values", "chef", "guest"},
		{"ALLOW", `when: [{key: "request.auth.claims[groups]", values: [chef]}]`, "when[0].values", "chef", `["a",7]`},
		{"ALLOW", `when: [{key: "request.auth.claims[org][unit]", notValues: [kitchen]}]`, "when[0].notValues", "kitchen", "kitchen"},
		{"ALLOW", `when: [{key: "request.auth.claims[org][x]", values: [kitchen]}]`, "when[0].values", "kitchen", "-"},
		{"ALLOW", `when: [{key: request.auth.audiences, values: [z]}]`, "when[0].values", "z", "x, y"},
		{"ALLOW", `when: [{key: request.auth.presenter, values: [z]}]`, "when[0].values", "z", "app"},
	} {
		e, err := build([]*policy{parse(t, "shop", "p", `{action: `+c.action+`, rules: [`+braced(c.rule)+`]}`)}, options, 1)
		if err != nil {
			t.Fatal(err)
		}
		conn, req := seen.read(t)
		req.Token = token
		got := e.Explain(conn, req)[0]
		want := authz.RuleTrace{Matched: c.field == "", Field: c.field, Saw: c.saw}
		if c.want != "" {
			want.Want = strings.Split(c.want, " ")
		}
		if c.saw == "-" {
			want.Saw, want.Absent = "", true
		}
		if !reflect.DeepEqual(got.Rules[0], want) || got.Matched != want.Matched || got.Action != c.action {
			t.Errorf("%s: %+v, want %+v", c.rule, got, want)
		}
	}
}

// On TCP, HTTP fields fail an ALLOW rule, and are not there for a DENY rule.
func TestExplainTCP(t *testing.T) {
	spec := `rules: [{from: [{source: {namespaces: [shop]}}], to: [{operation: {ports: ["80"], methods: [GET]}}, {operation: {paths: [/a], ports: ["8080"]}}], when: [{key: "request.headers[x]", values: [a]}, {key: source.namespace, notValues: [shop]}]}]`
	for action, want := range map[string]authz.RuleTrace{
		"ALLOW": {Field: "to[1].operation.paths", Want: []string{"/a"}, Absent: true},
		"DENY":  {Field: "when[1].notValues", Want: []string{"shop"}, Saw: "shop"},
	} {
		e, err := build([]*policy{parse(t, "shop", "p", `{action: `+action+`, `+spec+`}`)}, options, 1)
		if err != nil {
			t.Fatal(err)
		}
		conn, _ := call{peer: web, tcp: true}.read(t)
		if got := e.Explain(conn, nil)[0].Rules[0]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", action, got, want)
		}
	}
}

func TestExplainOrder(t *testing.T) {
	quarantined := parse(t, "shop", "broken", `{action: DENY, rules: [{}]}`)
	quarantined.Annotations = map[string]string{mesh.QuarantineAnnotation: "x.yaml:3: no", dryRun: "true"}
	dry := parse(t, "shop", "a", `{action: DENY, rules: [{}]}`)
	dry.Annotations = map[string]string{dryRun: "true"}
	policies := []*policy{
		parse(t, "shop", "allow", `{rules: [{from: [{source: {namespaces: [none]}}]}, {}, {}]}`),
		quarantined, dry,
		parse(t, "istio-system", "z", `{action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}`),
		parse(t, "shop", "audit", `{action: AUDIT, rules: [{}]}`),
		parse(t, "shop", "after", `{action: CUSTOM, provider: {name: menu}, rules: [{}]}`),
		parse(t, "shop", "before", `{action: CUSTOM, provider: {name: ext}, rules: [{}]}`),
	}
	p := newPair(t, policies)
	conn, req := call{peer: web, method: "GET", path: "/"}.read(t)
	var got []string
	for _, tr := range p.indexed.Explain(conn, req) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s/%s %v %d %s %s", tr.Action, tr.Kind, tr.Namespace, tr.Name, tr.DryRun, tr.Rule, tr.Provider, tr.Quarantined)))
	}
	want := []string{
		"CUSTOM AuthorizationPolicy shop/before false 0 ext",
		"CUSTOM AuthorizationPolicy shop/after false 0 menu",
		"AUDIT AuthorizationPolicy shop/audit false 0",
		"DENY AuthorizationPolicy istio-system/z false -1",
		"DENY AuthorizationPolicy shop/a true 0",
		"DENY AuthorizationPolicy shop/broken false 0  x.yaml:3: no",
		"ALLOW AuthorizationPolicy shop/allow false 1",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
