package judge

import (
	"errors"
	"testing"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/proxy"
)

// Explain comes to the same end as Authorize, whatever that is.
func TestExplainAgrees(t *testing.T) {
	var c court
	ext := c.external("ext", yes())
	j, token := tokens(t, nil)
	j.Program = c.program(t, "ext rehearsed? nobody?", ifHeader(security.AuthorizationPolicy_DENY, "x-no", "1"), paths(security.AuthorizationPolicy_ALLOW, &security.Operation{Paths: []string{"/a*"}}),
		ifHeader(security.AuthorizationPolicy_AUDIT, "x-audit", "1"))
	for name, change := range map[string]func(*Case){
		"allowed":   func(k *Case) { k.Head.Add("x-audit", "1") },
		"denied":    func(k *Case) { k.Head.Add("x-no", "1") },
		"no allow":  func(k *Case) { k.Head.Path = "/b" },
		"bad path":  func(k *Case) { k.Head.Path = "/%00" },
		"token":     func(k *Case) { k.Head.Add("authorization", "Bearer "+token) },
		"no token":  func(k *Case) { k.Head.Add("authorization", "Bearer x") },
		"authority": func(*Case) { ext.answer = authz.Answer{Status: 418} },
		"error":     func(*Case) { ext.answer = authz.Answer{Err: errors.New("x")} },
	} {
		ext.answer = yes()
		live, shown := newCase(t, "/a%2Fb"), newCase(t, "/a%2Fb")
		change(live)
		change(shown)
		v, f := j.Authorize(t.Context(), live)
		tr := j.Explain(t.Context(), shown, nil, nil)
		if tr.Allowed != v.Permit.Valid() || nameOf(tr.By) != nameOf(v.By) || tr.Allowing != v.Allowing || tr.Audit != v.Audit || len(tr.DryRun) != len(v.Shadows) || (tr.Failure == nil) != (f == nil) {
			t.Errorf("%s: %+v\nand %+v, %v", name, tr, v, f)
		}
		if f != nil && (tr.Failure.Code != f.Code || tr.Status != statusOf(f) || tr.Detail == "") {
			t.Errorf("%s: shown %d %q %+v, live %+v", name, tr.Status, tr.Detail, tr.Failure, f)
		}
		switch name {
		case "bad path":
			if len(tr.Policies) > 0 {
				t.Errorf("%s: policies %v", name, tr.Policies)
			}
		default:
			if len(tr.Policies) != 6 {
				t.Errorf("%s: %d policies are told, want 6", name, len(tr.Policies))
			}
		}
		if (tr.Token != nil) != (name == "token") || (tr.TokenError != nil) != (name == "no token") {
			t.Errorf("%s: token %v, %v", name, tr.Token, tr.TokenError)
		}
		if tr.Path != live.Head.Path || tr.Decoded != live.Request.DecodedPath {
			t.Errorf("%s: path %q %q", name, tr.Path, tr.Decoded)
		}
	}
	if tr := (Judge{}).Explain(t.Context(), newCase(t, "/"), nil, nil); tr.Allowed || tr.Failure == nil || tr.By == nil {
		t.Errorf("no program: %+v", tr)
	}
}

func statusOf(f *proxy.Failure) int {
	if f.Status != 0 {
		return f.Status
	}
	return f.Code.Answer().Status
}

// An authority that may not be asked counts as if it allowed, and the trace says that it was not.
func TestExplainAsks(t *testing.T) {
	var c court
	c.external("ext", authz.Answer{})
	c.inside("rego", yes())
	j := Judge{Program: c.program(t, "ext rego rego?"), Tokens: jwt.New(nil)}
	tr := j.Explain(t.Context(), newCase(t, "/"), nil, func(x *authz.Custom) bool { return x.AfterToken })
	if !tr.Allowed || len(tr.Handovers) != 3 || len(c.asked) != 2 {
		t.Fatalf("%+v, asked %q", tr, c.asked)
	}
	for i, want := range []struct {
		by         string
		asked, dry bool
	}{{"ExtensionProvider/ext", false, false}, {"RegoPolicy/rego", true, false}, {"RegoPolicy/rego", true, true}} {
		if h := tr.Handovers[i]; h.Custom.Ref.By != want.by || h.Asked != want.asked || h.DryRun != want.dry || h.Rule == nil || h.Answer.Allowed != want.asked {
			t.Errorf("handover %d: %+v, want %+v", i, h, want)
		}
	}
	if tr := j.Explain(t.Context(), newCase(t, "/"), nil, nil); tr.Allowed || tr.By == nil || tr.By.By != "ExtensionProvider/ext" || !tr.Handovers[0].Asked {
		t.Errorf("asked: %+v", tr)
	}
}

func nameOf(r *authz.RuleRef) string {
	if r == nil {
		return ""
	}
	return r.By
}
