package route

import (
	"slices"
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

func TestApplyRewrite(t *testing.T) {
	regex := func(expr, to string) *Rewrite {
		rw, err := NewRegexRewrite(expr, to, "")
		if err != nil {
			t.Fatal(err)
		}
		return rw
	}
	for _, c := range []struct {
		name string
		uri  Text
		rw   *Rewrite
		path string
		want string
	}{
		{"prefix", Prefix("/old"), &Rewrite{URI: "/new"}, "/old/x", "/new/x"},
		{"prefix alone", Prefix("/old"), &Rewrite{URI: "/new"}, "/old", "/new"},
		{"prefix to root", Prefix("/old/"), &Rewrite{URI: "/"}, "/old/x", "/x"},
		{"prefix to root, Envoy's double slash", Prefix("/old"), &Rewrite{URI: "/"}, "/old/x", "//x"},
		{"exact", Exact("/old"), &Rewrite{URI: "/new"}, "/old", "/new"},
		{"no match on the path", Text{}, &Rewrite{URI: "/v1/"}, "/x", "/v1/x"},
		{"regex match: the whole path", mustRegex(t, "/a.*"), &Rewrite{URI: "/new"}, "/abc", "/new"},
		{"always rooted", Prefix("/old/"), &Rewrite{URI: "x"}, "/old/y", "/xy"},
		{"regex rewrite", Prefix("/"), regex(`^/user/([^/]+)/(.*)$`, `/\2/of/\1`), "/user/amy/cart", "/cart/of/amy"},
		{"regex rewrite, all of them", Prefix("/"), regex(`x`, `$1\\\0`), "/xax", `/$1\xa$1\x`},
		{"nothing", Prefix("/"), nil, "/x", "/x"},
		{"asterisk stays", Text{}, &Rewrite{URI: "/v1"}, "*", "*"},
	} {
		r := &Route{Condition: Condition{URI: c.uri}, Rewrite: c.rw}
		h := &proxy.Head{Path: c.path, Query: "?q=1"}
		r.ApplyRewrite(h)
		if h.Path != c.want || h.Query != "?q=1" {
			t.Errorf("%s: %q became %q %q, want %q", c.name, c.path, h.Path, h.Query, c.want)
		}
	}
	for _, bad := range [][2]string{{"(", "/"}, {"a", `\1`}, {"a", `\x`}, {"a", `\`}, {"a", "/x y"}, {"a", "/x?y"}} {
		if _, err := NewRegexRewrite(bad[0], bad[1], ""); err == nil {
			t.Errorf("rewrite of %q to %q was not refused", bad[0], bad[1])
		}
	}
}

func TestLocation(t *testing.T) {
	for _, c := range []struct {
		name string
		uri  Text
		d    Redirection
		head proxy.Head
		want string
	}{
		{"path", Text{}, Redirection{Path: "/new"}, proxy.Head{Authority: "a", Path: "/x", Query: "?q=1"}, "http://a/new?q=1"},
		{"path with query", Text{}, Redirection{Path: "/new?z"}, proxy.Head{Authority: "a", Path: "/x", Query: "?q=1"}, "http://a/new?z"},
		{"authority", Text{}, Redirection{Authority: "b:81"}, proxy.Head{Authority: "a:80", Path: "/x"}, "http://b:81/x"},
		{"prefix", Prefix("/foo/"), Redirection{ReplacePrefix: true, Prefix: "/"}, proxy.Head{Authority: "a", Path: "/foo/bar", Query: "?q"}, "http://a/bar?q"},
		{"scheme drops the default port", Text{}, Redirection{Scheme: "https"}, proxy.Head{Authority: "a:80", Path: "/"}, "https://a/"},
		{"scheme keeps another port", Text{}, Redirection{Scheme: "https"}, proxy.Head{Authority: "a:8080", Path: "/"}, "https://a:8080/"},
		{"port", Text{}, Redirection{Port: 8443, Scheme: "https"}, proxy.Head{Authority: "a:80", Path: "/"}, "https://a:8443/"},
		{"default port is not written", Text{}, Redirection{Port: 443, Scheme: "https"}, proxy.Head{Authority: "a:80", Path: "/"}, "https://a/"},
		{"request's port", Text{}, Redirection{FromRequestPort: true, Authority: "b"}, proxy.Head{Authority: "a", Path: "/"}, "http://b:8080/"},
		{"IPv6", Text{}, Redirection{Port: 81}, proxy.Head{Authority: "[::1]", Path: "/"}, "http://[::1]:81/"},
		{"asterisk", Text{}, Redirection{Authority: "b"}, proxy.Head{Authority: "a", Path: "*"}, "http://b/"},
	} {
		r := &Route{Action: Redirect, Condition: Condition{URI: c.uri}, Redirect: &c.d}
		if got := r.Location(&c.head, 8080); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestHeaderOps(t *testing.T) {
	var o HeaderOps
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(o.Request.RemoveField("X-Old"))
	do(o.Request.AddField("X-More", "2"))
	do(o.Request.SetField("x-one", "100%%", true))
	do(o.Request.SetField("Host", "other:81", true))
	do(o.Response.SetField("server", "signet", false))
	h := head("x-old", "1", "x-more", "1", "x-one", "a", "x-one", "b")
	h.Authority = "was"
	o.ApplyRequest(&h)
	want := []proxy.Field{{Name: "x-more", Value: "1"}, {Name: "x-more", Value: "2"}, {Name: "x-one", Value: "100%"}}
	if !slices.Equal(h.Fields, want) || h.Authority != "other:81" {
		t.Errorf("request became %v at %q", h.Fields, h.Authority)
	}
	r := head("server", "x")
	o.ApplyResponse(&r)
	if r.Get("server") != "signet" || len(r.Fields) != 1 {
		t.Errorf("response became %v", r.Fields)
	}
	var bad Ops
	for name, err := range map[string]error{
		"framing":        bad.SetField("Content-Length", "1", true),
		"hop":            bad.AddField("connection", "x"),
		"pseudo":         bad.SetField(":path", "/x", true),
		"host on answer": bad.SetField("host", "x", false),
		"removed host":   bad.RemoveField("host"),
		"newline":        bad.SetField("a", "x\r\nb: c", true),
		"name":           bad.SetField("a b", "x", true),
		"command":        bad.AddField("a", "%DOWNSTREAM_REMOTE_ADDRESS%"),
		"no authority":   bad.SetField("host", "", true),
	} {
		if err == nil {
			t.Errorf("%s was not refused", name)
		}
	}
	if !bad.IsZero() {
		t.Errorf("refused operations were kept: %+v", bad)
	}
}

func TestApplyRequestOrder(t *testing.T) {
	set := func(name, v string) (o HeaderOps) {
		if err := o.Request.SetField(name, v, true); err != nil {
			t.Fatal(err)
		}
		return o
	}
	r := &Route{Headers: set("x", "route"), Rewrite: &Rewrite{Authority: "rewrite"}}
	h := proxy.Head{Path: "/", Authority: "was"}
	r.ApplyRequest(&h, &Weighted{Headers: set("x", "destination")})
	if h.Get("x") != "route" || h.Authority != "rewrite" {
		t.Errorf("x is %q, authority %q", h.Get("x"), h.Authority)
	}
	r.ApplyRequest(&h, &Weighted{Headers: set("host", "destination")})
	if h.Authority != "destination" {
		t.Errorf("authority is %q", h.Authority)
	}
}
