package judge

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/authz/compile"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
)

// oracle is an authority that answers always the same and keeps what it saw.
type oracle struct {
	answer authz.Answer
	needs  authz.Needs
	name   string
	court  *court
}

// court is a set of authorities with the policies that hand over to them.
type court struct {
	customs map[string]*authz.Custom
	// asked are their names in order, with what they saw.
	asked []string
}

// Needs implements authz.Authority.
func (o *oracle) Needs() authz.Needs { return o.needs }

// Ask implements authz.Authority.
func (o *oracle) Ask(_ context.Context, _ *authz.Connection, r *authz.Request) authz.Answer {
	saw := o.name
	if r != nil {
		if r.Token != nil {
			saw += " token"
		}
		if o.needs.Body > 0 {
			saw += " " + string(r.Body)
			if r.Truncated {
				saw += "..."
			}
		} else if r.Body != nil || r.Truncated {
			saw += " somebody else's body"
		}
	}
	o.court.asked = append(o.court.asked, saw)
	return o.answer
}

// external and inside add an authority that is asked before, and one that is asked after tokens.
func (c *court) external(name string, a authz.Answer) *oracle {
	return c.add(name, "ExtensionProvider", false, a)
}
func (c *court) inside(name string, a authz.Answer) *oracle {
	return c.add(name, "RegoPolicy", true, a)
}

func (c *court) add(name, kind string, after bool, a authz.Answer) *oracle {
	if c.customs == nil {
		c.customs = map[string]*authz.Custom{}
	}
	o := &oracle{answer: a, name: name, court: c}
	c.customs[name] = &authz.Custom{Ref: authz.NewRef(kind, "", name, -1), AfterToken: after, Authority: o}
	return o
}

// program has a CUSTOM policy for each provider named, then the others. A name that ends in ? is in dry run.
func (c *court) program(t testing.TB, providers string, more ...*security.AuthorizationPolicy) *authz.Program {
	t.Helper()
	var all []*mesh.Typed[*security.AuthorizationPolicy]
	add := func(name string, dry bool, spec *security.AuthorizationPolicy) {
		m := mesh.Meta{Key: mesh.Key{Group: mesh.GroupSecurity, Kind: mesh.KindAuthorizationPolicy, Namespace: "shop", Name: name}}
		if dry {
			m.Annotations = map[string]string{mesh.DryRunAnnotation: "true"}
		}
		all = append(all, &mesh.Typed[*security.AuthorizationPolicy]{Meta: m, Spec: spec})
	}
	for _, name := range strings.Fields(providers) {
		name, dry := strings.CutSuffix(name, "?")
		add("ask-"+name, dry, &security.AuthorizationPolicy{Action: security.AuthorizationPolicy_CUSTOM, Rules: []*security.Rule{{}},
			ActionDetail: &security.AuthorizationPolicy_Provider{Provider: &security.AuthorizationPolicy_ExtensionProvider{Name: name}}})
	}
	for i, spec := range more {
		add("p"+string(rune('0'+i)), false, spec)
	}
	p, err := compile.Compile(all, compile.Options{TrustDomain: "cluster.local", RootNamespace: "istio-system", Provider: func(_, name string) *authz.Custom {
		if known := c.customs[name]; known != nil {
			return known
		}
		return &authz.Custom{Ref: authz.NewRef("ExtensionProvider", "", name, -1), AfterToken: true}
	}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func yes() authz.Answer { return authz.Answer{Allowed: true} }

// ifHeader is a policy on a header field.
func ifHeader(action security.AuthorizationPolicy_Action, name, value string) *security.AuthorizationPolicy {
	return &security.AuthorizationPolicy{Action: action, Rules: []*security.Rule{{When: []*security.Condition{{Key: "request.headers[" + name + "]", Values: []string{value}}}}}}
}

func newCase(t testing.TB, path string) *Case {
	return &Case{Connection: caller(t), Head: get(path), Request: &authz.Request{}, Scratch: &Scratch{}}
}

// turnedAway checks that a request was, by whom and how.
func turnedAway(t *testing.T, v Verdict, f *proxy.Failure, code proxy.Code, by string) {
	t.Helper()
	if v.Permit.Valid() || f == nil || f.Code != code || v.By == nil || v.By.By != by {
		t.Errorf("permit %v, by %+v, failure %+v; want %d by %s", v.Permit.Valid(), v.By, f, code, by)
	}
}

func TestOrderOfPhases(t *testing.T) {
	var c court
	c.external("ext", yes())
	c.inside("rego", yes())
	c.inside("rego2", yes())
	j, token := tokens(t, nil)
	j.Program = c.program(t, "rego rego2 ext", ifHeader(security.AuthorizationPolicy_DENY, "x-no", "1"))
	k := newCase(t, "/")
	k.Head.Add("authorization", "Bearer "+token)
	if v, f := j.Authorize(t.Context(), k); !v.Permit.Valid() || f != nil || v.By != nil {
		t.Fatalf("%+v, %v", v, f)
	}
	if want := []string{"ext", "rego token", "rego2 token"}; !slices.Equal(c.asked, want) {
		t.Errorf("asked %q, want %q", c.asked, want)
	}
	// Each step ends the line.
	for _, step := range []struct {
		name  string
		spoil func(*Case)
		asked int
		code  proxy.Code
		by    string
	}{
		{"path", func(k *Case) { k.Head.Path = "/%00" }, 0, proxy.BadPath, ""},
		{"external", func(*Case) { c.customs["ext"].Authority.(*oracle).answer = authz.Answer{} }, 1, proxy.AuthorityDenied, "ExtensionProvider/ext"},
		{"token", func(k *Case) { k.Head.Set("authorization", "Bearer "+token[:len(token)-8]+"AAAAAAAA") }, 1, proxy.TokenInvalid, "RequestAuthentication/shop/users[0]"},
		{"rego", func(*Case) { c.customs["rego"].Authority.(*oracle).answer = authz.Answer{} }, 2, proxy.AuthorityDenied, "RegoPolicy/rego"},
		{"deny", func(k *Case) { k.Head.Add("x-no", "1") }, 3, proxy.Denied, "AuthorizationPolicy/shop/p0[0]"},
	} {
		for _, custom := range c.customs {
			custom.Authority.(*oracle).answer = yes()
		}
		c.asked = nil
		k := newCase(t, "/")
		k.Head.Add("authorization", "Bearer "+token)
		step.spoil(k)
		v, f := j.Authorize(t.Context(), k)
		by := ""
		if v.By != nil {
			by = v.By.By
		}
		if v.Permit.Valid() || f == nil || f.Code != step.code || by != step.by || len(c.asked) != step.asked {
			t.Errorf("%s: permit %v, by %q, failure %+v, asked %q", step.name, v.Permit.Valid(), by, f, c.asked)
		}
	}
}

func TestAnswers(t *testing.T) {
	var c court
	o := c.external("ext", yes())
	j := Judge{Program: c.program(t, "ext")}
	judge := func(a authz.Answer) (Verdict, *proxy.Failure) {
		o.answer = a
		return j.Authorize(t.Context(), newCase(t, "/"))
	}
	v, f := judge(authz.Answer{})
	turnedAway(t, v, f, proxy.AuthorityDenied, "ExtensionProvider/ext")
	if f.Detail != "ext_authz_denied{ExtensionProvider/ext}" || f.Status != 0 {
		t.Errorf("%+v", f)
	}
	v, f = judge(authz.Answer{Status: 418, Body: "tea", Client: []authz.HeaderEdit{{Name: "x-why", Value: "pot"}, {Op: authz.AppendHeader, Name: "x-why", Value: "lid"},
		{Op: authz.RemoveHeader, Name: "x-gone"}, {Name: "content-length", Value: "9"}, {Name: "connection", Value: "x"}, {Name: ":status", Value: "200"}}})
	turnedAway(t, v, f, proxy.AuthorityDenied, "ExtensionProvider/ext")
	if f.Status != 418 || f.Body != "tea" || !slices.Equal(f.Fields, []proxy.Field{{Name: "x-why", Value: "pot"}, {Name: "x-why", Value: "lid"}}) {
		t.Errorf("%+v", f)
	}
	broken := errors.New("no route to it")
	v, f = judge(authz.Answer{Status: 503, Err: broken})
	turnedAway(t, v, f, proxy.AuthorityFailed, "ExtensionProvider/ext")
	if f.Detail != "ext_authz_error{ExtensionProvider/ext}" || f.Status != 503 || !errors.Is(f, broken) {
		t.Errorf("%+v", f)
	}
	if v, f = judge(authz.Answer{Allowed: true, FailedOpen: true, Err: broken}); !v.Permit.Valid() || f != nil {
		t.Errorf("failed open: %+v, %v", v, f)
	}
	v, f = Judge{Program: c.program(t, "ext nobody")}.Authorize(t.Context(), newCase(t, "/"))
	turnedAway(t, v, f, proxy.AuthorityFailed, "ExtensionProvider/nobody")
	if !errors.Is(f, errUnresolved) {
		t.Errorf("%v", f)
	}
}

func TestEdits(t *testing.T) {
	var c court
	c.external("ext", authz.Answer{Allowed: true, Client: []authz.HeaderEdit{{Name: "x-seen", Value: "1"}}, Upstream: []authz.HeaderEdit{
		{Name: "x-set", Value: "new"}, {Op: authz.AppendHeader, Name: "x-more", Value: "2"}, {Op: authz.RemoveHeader, Name: "x-gone"},
		{Op: authz.AddHeader, Name: "x-set", Value: "other"}, {Op: authz.AddHeader, Name: "x-added", Value: "3"}}, RemoveQuery: []string{"debug"}, SetQuery: []authz.QueryParam{{Name: "u", Value: "a b&"}}})
	c.inside("rego", authz.Answer{Allowed: true, Client: []authz.HeaderEdit{{Op: authz.AppendHeader, Name: "x-seen", Value: "2"}}})
	k := newCase(t, "/")
	k.Head.Query = "?a=1&debug=2&u=x"
	for _, f := range []proxy.Field{{Name: "x-set", Value: "old"}, {Name: "x-set", Value: "older"}, {Name: "x-more", Value: "1"}, {Name: "x-gone", Value: "1"}} {
		k.Head.Add(f.Name, f.Value)
	}
	v, f := Judge{Program: c.program(t, "ext rego", ifHeader(security.AuthorizationPolicy_ALLOW, "x-set", "new"))}.Authorize(t.Context(), k)
	if !v.Permit.Valid() || f != nil {
		t.Fatalf("later steps don't judge what was changed: %v", f)
	}
	if want := []proxy.Field{{Name: "x-more", Value: "1"}, {Name: "x-set", Value: "new"}, {Name: "x-more", Value: "2"}, {Name: "x-added", Value: "3"}}; !slices.Equal(k.Head.Fields, want) {
		t.Errorf("%v, want %v", k.Head.Fields, want)
	}
	if want := "?a=1&u=a+b%26"; k.Head.Query != want || k.Request.Query != want {
		t.Errorf("query %q, judged %q; want %q", k.Head.Query, k.Request.Query, want)
	}
	if want := []authz.HeaderEdit{{Name: "x-seen", Value: "1"}, {Op: authz.AppendHeader, Name: "x-seen", Value: "2"}}; !slices.Equal(v.Client, want) {
		t.Errorf("for the client %v", v.Client)
	}
	// Nothing of it is left for the next request.
	if v, _ := (Judge{Program: c.program(t, "")}).Authorize(t.Context(), &Case{Connection: k.Connection, Head: get("/"), Request: k.Request, Scratch: k.Scratch}); len(v.Client)+len(v.Shadows) > 0 {
		t.Errorf("left: %+v", v)
	}
}

// Fields that frame a message, name its target or say who calls are nobody's to change.
func TestForbiddenEdits(t *testing.T) {
	for _, name := range []string{"", "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer",
		"upgrade", "expect", "x-forwarded-client-cert", ":authority", ":path"} {
		for _, a := range []authz.Answer{
			{Allowed: true, Upstream: []authz.HeaderEdit{{Name: name, Value: "x"}}}, {Allowed: true, Upstream: []authz.HeaderEdit{{Op: authz.RemoveHeader, Name: name}}},
			{Allowed: true, Client: []authz.HeaderEdit{{Name: name, Value: "x"}}},
		} {
			var c court
			c.inside("rego", a)
			v, f := Judge{Program: c.program(t, "rego")}.Authorize(t.Context(), newCase(t, "/"))
			turnedAway(t, v, f, proxy.AuthorityFailed, "RegoPolicy/rego")
			if !errors.Is(f, errEdit) || len(v.Client) > 0 {
				t.Errorf("%q: %v, %v", name, f, v.Client)
			}
		}
	}
}

func TestDryRunHandover(t *testing.T) {
	for _, a := range []authz.Answer{{}, {Err: errors.New("x")}, {Allowed: true, Upstream: []authz.HeaderEdit{{Name: "x-a", Value: "1"}}, Client: []authz.HeaderEdit{{Name: "x-b", Value: "1"}}, RemoveQuery: []string{"q"}}} {
		var c court
		c.external("ext", a)
		c.inside("rego", a)
		k := newCase(t, "/")
		k.Head.Query = "?q=1"
		v, f := Judge{Program: c.program(t, "ext? rego? nobody?")}.Authorize(t.Context(), k)
		if !v.Permit.Valid() || f != nil || len(k.Head.Fields)+len(v.Client) > 0 || k.Head.Query != "?q=1" {
			t.Errorf("%+v had an effect: %v, %v, %v, %q", a, f, k.Head.Fields, v.Client, k.Head.Query)
		}
		var got []string
		for _, s := range v.Shadows {
			if s.Denied {
				got = append(got, s.Rule.By)
			}
		}
		want := []string{"AuthorizationPolicy/shop/ask-ext[0]", "AuthorizationPolicy/shop/ask-nobody[0]", "AuthorizationPolicy/shop/ask-rego[0]"}
		if a.Allowed {
			want = want[1:2]
		}
		if !slices.Equal(got, want) || len(v.Shadows) != 3 || len(c.asked) != 2 {
			t.Errorf("%+v: would have denied %q of %d, asked %q", a, got, len(v.Shadows), c.asked)
		}
	}
}

// slowBody is a body of which so much is there.
type slowBody struct {
	text    string
	failure *proxy.Failure
	peeked  []int
}

// PeekBody implements Body.
func (b *slowBody) PeekBody(max int) ([]byte, bool, *proxy.Failure) {
	b.peeked = append(b.peeked, max)
	if b.failure != nil {
		return nil, false, b.failure
	}
	return []byte(b.text[:min(len(b.text), max)]), len(b.text) <= max, nil
}

func TestBodies(t *testing.T) {
	gone := proxy.Fail(proxy.DownstreamGone, "", nil)
	for _, tt := range []struct {
		name  string
		needs authz.Needs
		body  *slowBody // nil: none can be read
		asked string
		code  proxy.Code
	}{
		{"none needed", authz.Needs{}, &slowBody{text: "abc"}, "rego, second", proxy.OK},
		{"whole", authz.Needs{Body: 3}, &slowBody{text: "abc"}, "rego abc, second", proxy.OK},
		{"empty", authz.Needs{Body: 3}, &slowBody{}, "rego , second", proxy.OK},
		{"longer", authz.Needs{Body: 3}, &slowBody{text: "abcd"}, "", proxy.BodyTooLarge},
		{"its beginning will do", authz.Needs{Body: 3, Partial: true}, &slowBody{text: "abcd"}, "rego abc..., second", proxy.OK},
		{"never comes", authz.Needs{Body: 3}, &slowBody{failure: gone}, "", proxy.DownstreamGone},
		{"nobody reads", authz.Needs{Body: 3}, nil, "rego , second", proxy.OK},
	} {
		var c court
		c.inside("rego", yes()).needs = tt.needs
		c.inside("second", yes())
		k := newCase(t, "/")
		if tt.body != nil {
			k.Body = tt.body
		}
		v, f := Judge{Program: c.program(t, "rego second")}.Authorize(t.Context(), k)
		if got := strings.Join(c.asked, ", "); got != tt.asked || v.Permit.Valid() != (tt.code == proxy.OK) {
			t.Errorf("%s: asked %q, want %q; permit %v", tt.name, got, tt.asked, v.Permit.Valid())
		}
		if tt.code != proxy.OK && (f == nil || f.Code != tt.code || v.By == nil || v.By.By != "RegoPolicy/rego") {
			t.Errorf("%s: %+v by %v", tt.name, f, v.By)
		}
		if k.Request.Body != nil || k.Request.Truncated {
			t.Errorf("%s: the body is left in the request", tt.name)
		}
		if tt.body != nil && len(tt.body.peeked) != min(1, tt.needs.Body) {
			t.Errorf("%s: peeked %v", tt.name, tt.body.peeked)
		}
	}
}

func TestHandoverOfTCP(t *testing.T) {
	var c court
	ext, rego := c.external("ext", yes()), c.inside("rego", yes())
	ext.needs.Body = 10
	j := Judge{Program: c.program(t, "rego ext")}
	if v, f := j.AuthorizeTCP(t.Context(), caller(t), &Scratch{}); !v.Permit.Valid() || f != nil || !slices.Equal(c.asked, []string{"ext", "rego"}) {
		t.Errorf("%+v, %v, asked %q", v, f, c.asked)
	}
	rego.answer = authz.Answer{}
	v, f := j.AuthorizeTCP(t.Context(), caller(t), &Scratch{})
	turnedAway(t, v, f, proxy.AuthorityDenied, "RegoPolicy/rego")
	v, f = Judge{Program: c.program(t, "nobody")}.AuthorizeTCP(t.Context(), caller(t), &Scratch{})
	turnedAway(t, v, f, proxy.AuthorityFailed, "ExtensionProvider/nobody")
}

// What is in flight is judged again by what needs neither the network nor a body.
func TestAgain(t *testing.T) {
	var c court
	c.external("ext", authz.Answer{})
	reader := c.inside("reader", authz.Answer{})
	reader.needs.Body = 1
	rego := c.inside("rego", yes())
	j := Judge{Program: c.program(t, "ext reader rego rego?")}
	k := newCase(t, "/")
	k.Request.Method, k.Request.Path, k.Request.Headers = "GET", "/", k.Head
	if by, detail := j.Again(t.Context(), k.Connection, k.Request); by != nil || !slices.Equal(c.asked, []string{"rego"}) {
		t.Errorf("%v %s, asked %q", by, detail, c.asked)
	}
	rego.answer = authz.Answer{}
	if by, detail := j.Again(t.Context(), k.Connection, k.Request); by == nil || by.By != "RegoPolicy/rego" || detail != "ext_authz_denied{RegoPolicy/rego}" {
		t.Errorf("%v %s", by, detail)
	}
	if by, _ := (Judge{Program: c.program(t, "nobody")}).Again(t.Context(), k.Connection, k.Request); by == nil || by.By != "ExtensionProvider/nobody" {
		t.Errorf("an unresolved provider lets on: %v", by)
	}
	if by, _ := (Judge{}).Again(t.Context(), k.Connection, k.Request); by == nil {
		t.Error("no program lets on")
	}
}
