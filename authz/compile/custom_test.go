package compile

import (
	"reflect"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh"
)

// dry makes a policy one that is judged without effect.
func dry(p *policy) *policy {
	p.Annotations = map[string]string{dryRun: "true"}
	return p
}

func custom(t testing.TB, name, provider, rules string) *policy {
	t.Helper()
	return parse(t, "shop", name, `{action: CUSTOM, provider: {name: `+provider+`}, rules: [`+rules+`]}`)
}

// Policies of one provider are one handover, those asked before tokens first; a dry run is one of its own.
func TestHandovers(t *testing.T) {
	p := newPair(t, []*policy{
		custom(t, "a", "menu", `{to: [{operation: {paths: [/menu]}}]}`),
		custom(t, "b", "ext", `{to: [{operation: {paths: [/b]}}]}`),
		dry(custom(t, "c", "ext", `{to: [{operation: {paths: [/c]}}]}`)),
		custom(t, "d", "nobody", `{to: [{operation: {paths: [/d]}}]}, {from: [{source: {requestPrincipals: ["*"]}}]}`),
		custom(t, "e", "ext", `{to: [{operation: {paths: [/x]}}]}, {to: [{operation: {paths: ["/b*", /e]}}]}`),
		custom(t, "f", "nobody", `{to: [{operation: {paths: [/f]}}]}`),
		parse(t, "shop", "g", `{action: DENY, rules: [{to: [{operation: {paths: [/deny]}}]}]}`),
	})
	for name, e := range map[string]*engine{"linear": p.linear, "indexed": p.indexed} {
		var order []string
		for _, h := range e.Handovers() {
			o := h.Custom.Ref.By
			if h.DryRun {
				o += " dry"
			}
			if h.Custom.Authority == nil && h.Custom.Ref.Policy == "nobody" && h.Custom.AfterToken {
				o += " unresolved"
			}
			order = append(order, o)
		}
		want := []string{"ExtensionProvider/ext", "ExtensionProvider/ext dry", "RegoPolicy/shop/menu", "ExtensionProvider/nobody unresolved"}
		if !reflect.DeepEqual(order, want) {
			t.Fatalf("%s: %v", name, order)
		}
		for path, want := range map[string][]string{
			"/menu": {"", "", "a[0]", ""},
			"/b":    {"b[0]", "", "", ""},
			"/bc":   {"e[1]", "", "", ""},
			"/c":    {"", "c[0]", "", ""},
			"/d":    {"", "", "", "d[0]"},
			"/f":    {"", "", "", "f[0]"},
			"/none": {"", "", "", ""},
		} {
			conn, req := call{path: path}.read(t)
			for i, w := range want {
				got := ""
				if r := e.Handover(i, conn, req); r != nil {
					got = strings.TrimPrefix(r.By, "AuthorizationPolicy/shop/")
				}
				if got != w {
					t.Errorf("%s: %s is handed to %d by %q, want %q", name, path, i, got, w)
				}
			}
			if d := e.Judge(conn, req); !d.Allowed {
				t.Errorf("%s: CUSTOM decides by itself: %+v", name, d)
			}
		}
		conn, req := call{path: "/none"}.read(t)
		req.Token = &jwt.Token{Issuer: "i", Subject: "s"}
		if r := e.Handover(3, conn, req); r == nil || r.Rule != 1 {
			t.Errorf("%s: a token is not seen by a provider that does not exist: %+v", name, r)
		}
		// On TCP rules lose their HTTP fields, and in doubt they match.
		if r := e.Handover(0, conn, nil); r == nil {
			t.Errorf("%s: a CUSTOM rule narrows on TCP", name)
		}
		conn, req = call{path: "/%62", second: "/b"}.read(t)
		if r := e.Handover(0, conn, req); r == nil {
			t.Errorf("%s: a CUSTOM rule does not see the decoded path", name)
		}
		if n := testing.AllocsPerRun(100, func() { e.Handover(0, conn, req); e.Handover(1, conn, nil) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestHandoverOfNoProviders(t *testing.T) {
	p, err := Compile([]*policy{custom(t, "a", "x", `{}`)}, options)
	if err != nil {
		t.Fatal(err)
	}
	h := p.Engine().Handovers()
	if len(h) != 1 || h[0].Custom == nil || h[0].Custom.Authority != nil || h[0].Custom.Ref.By != "ExtensionProvider/x" {
		t.Errorf("%+v", h)
	}
}

// Who is asked before tokens are verified can't be given rules that look at them.
func TestCustomBeforeTokens(t *testing.T) {
	o := options
	o.Provider = customs()
	for rule, field := range map[string]string{
		`{}, {from: [{source: {namespaces: [a]}}, {source: {requestPrincipals: ["*"]}}]}`:            "spec.rules[1].from[1].source.requestPrincipals",
		`{from: [{source: {notRequestPrincipals: [x]}}]}`:                                            "spec.rules[0].from[0].source.notRequestPrincipals",
		`{when: [{key: source.ip, values: [10.0.0.1]}, {key: request.auth.principal, values: [x]}]}`: "spec.rules[0].when[1].key",
		`{when: [{key: "request.auth.claims[a]", notValues: [x]}]}`:                                  "spec.rules[0].when[0].key",
		`{when: [{key: request.auth.audiences, values: [x]}]}`:                                       "spec.rules[0].when[0].key",
		`{when: [{key: request.auth.presenter, values: [x]}]}`:                                       "spec.rules[0].when[0].key",
	} {
		_, err := Compile([]*policy{custom(t, "a", "ext", rule)}, o)
		if at, cause := Field(err); at != field || err == nil || !strings.Contains(cause.Error(), `"ext" is asked before tokens`) {
			t.Errorf("%s: %v", rule, err)
		}
		for _, provider := range []string{"menu", "nobody"} {
			if _, err := Compile([]*policy{custom(t, "a", provider, rule)}, o); err != nil {
				t.Errorf("%s: %v", provider, err)
			}
		}
	}
}

func TestDryRun(t *testing.T) {
	p := newPair(t, []*policy{
		parse(t, "shop", "real", `{rules: [{to: [{operation: {paths: [/a, /b, /c]}}]}]}`),
		dry(parse(t, "shop", "allow", `{rules: [{from: [{source: {namespaces: [x]}}]}, {to: [{operation: {paths: [/a]}}]}]}`)),
		dry(parse(t, "shop", "audit", `{action: AUDIT, rules: [{to: [{operation: {paths: [/a]}}]}]}`)),
		dry(parse(t, "shop", "deny", `{action: DENY, rules: [{to: [{operation: {paths: [/b, /d]}}]}]}`)),
		dry(parse(t, "istio-system", "nothing", `{}`)),
	})
	for name, e := range map[string]*engine{"linear": p.linear, "indexed": p.indexed} {
		if !e.DryRuns() || len(e.Handovers()) != 0 {
			t.Fatalf("%s: %v, %v", name, e.DryRuns(), e.Handovers())
		}
		for path, want := range map[string]struct {
			allowed bool
			shadows string
		}{
			"/a": {true, "istio-system/nothing! shop/allow[1] shop/audit[0] shop/deny"},
			"/b": {true, "istio-system/nothing! shop/allow! shop/audit shop/deny[0]!"},
			"/c": {true, "istio-system/nothing! shop/allow! shop/audit shop/deny"},
			"/d": {false, "istio-system/nothing! shop/allow! shop/audit shop/deny[0]!"},
		} {
			conn, req := call{path: path}.read(t)
			if d := e.Judge(conn, req); d.Allowed != want.allowed || d.Audit != nil {
				t.Errorf("%s: %s: %+v", name, path, d)
			}
			var got []string
			for _, s := range e.DryRun(nil, conn, req) {
				text := strings.TrimPrefix(s.Rule.By, "AuthorizationPolicy/")
				if s.Denied {
					text += "!"
				}
				got = append(got, text)
			}
			if strings.Join(got, " ") != want.shadows {
				t.Errorf("%s: %s: %v, want %s", name, path, got, want.shadows)
			}
		}
		conn, req := call{path: "/a"}.read(t)
		// In doubt (the decoded path is another) DENY matches and ALLOW doesn't.
		conn, doubt := call{path: "/a", second: "/b"}.read(t)
		if s := e.DryRun(nil, conn, doubt); !s[1].Denied || !s[3].Denied || s[2].Rule.Rule != 0 {
			t.Errorf("%s: in doubt: %+v", name, s)
		}
		room := make([]authz.Shadow, 0, 8)
		if n := testing.AllocsPerRun(100, func() { e.DryRun(room, conn, req); e.DryRun(room, conn, nil) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// An ALLOW policy in dry run restricts nothing, and a quarantine is never in dry run.
func TestDryRunOnly(t *testing.T) {
	p := newPair(t, []*policy{dry(parse(t, "shop", "nothing", `{}`))})
	conn, req := call{path: "/"}.read(t)
	if d := p.indexed.Judge(conn, req); !d.Allowed || d.Reason != authz.NoAllowPolicy {
		t.Errorf("%+v", d)
	}
	for value, acts := range map[string]bool{"true": false, "1": false, "T": false, "false": true, "0": true} {
		deny := parse(t, "shop", "deny", `{action: DENY, rules: [{}]}`)
		deny.Annotations = map[string]string{dryRun: value}
		if d := newPair(t, []*policy{deny}).indexed.Judge(conn, req); d.Allowed == acts {
			t.Errorf("%s: %+v", value, d)
		}
		deny.Annotations[mesh.QuarantineAnnotation] = "broken"
		if d := newPair(t, []*policy{deny}).indexed.Judge(conn, req); d.Allowed {
			t.Errorf("quarantined, %s: %+v", value, d)
		}
	}
	if e := newPair(t, nil).indexed; e.DryRuns() || e.DryRun(nil, conn, req) != nil {
		t.Error("there is a dry run without policies")
	}
}
