package extauthz_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/authz"
)

const nginxBinary = "/usr/sbin/nginx"

// nginx is a real one with testdata/nginx.conf; it ends with the test.
func nginx(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	address = l.Addr().String()
	l.Close()
	dir := t.TempDir()
	conf, err := os.ReadFile("testdata/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("DIR", dir, "PORT", strconv.Itoa(port)).Replace(string(conf))
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nginxBinary, "-e", filepath.Join(dir, "error.log"), "-p", dir, "-c", filepath.Join(dir, "conf"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	eventually(t, "nginx listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return address
}

func value(list []authz.HeaderEdit, name string) (out []string) {
	for _, e := range list {
		if e.Name == name {
			out = append(out, e.Value)
		}
	}
	return out
}

// What nginx saw of each check, and told back.
func TestChecksOverHTTP(t *testing.T) {
	address := nginx(t)
	type check map[string]string
	for _, c := range []struct {
		name string
		p    *httpProvider
		r    *authz.Request
		want check
	}{
		{"nothing but the request itself", &httpProvider{}, get("/a%2Fb", "x-tier", "free", "authorization", "Bearer x", "user-agent", "curl"),
			check{"method": "GET", "uri": "/a%2Fb", "host": "oven.lab:8080"}},
		{"a prefix and a query", &httpProvider{PathPrefix: "/c"}, &authz.Request{Method: "DELETE", Host: "h", Path: "/a", Query: "?b={c}&d", Headers: fields{}},
			check{"method": "DELETE", "uri": "/c/a?b={c}&d", "host": "h"}},
		{"two slashes", &httpProvider{}, &authz.Request{Method: "GET", Host: "h", Path: "//evil/x", Query: "?q", Headers: fields{}},
			check{"method": "GET", "uri": "//evil/x?q", "host": "h"}},
		{"a prefix that ends with a slash", &httpProvider{PathPrefix: "/"}, get("/a"), check{"method": "GET", "uri": "//a", "host": "oven.lab:8080"}},
		{"exact names", &httpProvider{IncludeRequestHeadersInCheck: []string{"X-Tier", "user-agent"}}, get("/", "x-tier", "free", "x-tier", "paid", "x-key", "k", "user-agent", "curl"),
			check{"method": "GET", "uri": "/", "host": "oven.lab:8080", "tier": "free,paid", "agent": "curl"}},
		{"a prefix of names", &httpProvider{IncludeRequestHeadersInCheck: []string{"x-*"}}, get("/", "x-tier", "free", "x-key", "k", "authorization", "a"),
			check{"method": "GET", "uri": "/", "host": "oven.lab:8080", "tier": "free", "key": "k"}},
		{"a suffix of names", &httpProvider{IncludeRequestHeadersInCheck: []string{"*ization"}}, get("/", "x-tier", "free", "authorization", "a"),
			check{"method": "GET", "uri": "/", "host": "oven.lab:8080", "authorization": "a"}},
		//lint:ignore SA1019 what people still write
		{"the older name", &httpProvider{IncludeHeadersInCheck: []string{"x-tier"}}, get("/", "x-tier", "free"),
			check{"method": "GET", "uri": "/", "host": "oven.lab:8080", "tier": "free"}},
		{"fixed ones", &httpProvider{IncludeRequestHeadersInCheck: []string{"x-*"}, IncludeAdditionalHeadersInCheck: map[string]string{"x-key": "100%"}}, get("/", "x-key", "mine"),
			check{"method": "GET", "uri": "/", "host": "oven.lab:8080", "key": "100%"}},
		{"a body", &httpProvider{IncludeRequestBodyInCheck: &bodyInCheck{MaxRequestBytes: 9}}, &authz.Request{Method: "POST", Host: "h", Path: "/", Headers: fields{}, Body: []byte("\xff\x00\r\n")},
			check{"method": "POST", "uri": "/", "host": "h", "length": "4", "partial": "false"}},
		{"a cut body", &httpProvider{IncludeRequestBodyInCheck: &bodyInCheck{MaxRequestBytes: 9}}, &authz.Request{Method: "GET", Host: "h", Path: "/", Headers: fields{}, Body: []byte("abc"), Truncated: true},
			check{"method": "GET", "uri": "/", "host": "h", "length": "3", "partial": "true"}},
	} {
		c.p.HeadersToUpstreamOnAllow = []string{"x-echo-*"}
		a := build(t, overHTTP(c.p), address, nil).Ask(t.Context(), caller(t), c.r)
		got := check{}
		for _, e := range a.Upstream {
			got[strings.TrimPrefix(e.Name, "x-echo-")] = e.Value
		}
		if !a.Allowed || a.Err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v\nsaw  %v\nwant %v", c.name, a, got, c.want)
		}
	}
}

func TestApprovalsOverHTTP(t *testing.T) {
	address := nginx(t)
	p := &httpProvider{PathPrefix: "/check", HeadersToUpstreamOnAllow: []string{"x-user", "*-role"}, HeadersToDownstreamOnAllow: []string{"set-*"}}
	a := build(t, overHTTP(p), address, nil).Ask(t.Context(), caller(t), get("/user"))
	want := authz.Answer{Allowed: true,
		Upstream: []authz.HeaderEdit{
			{Op: authz.SetHeader, Name: "x-role", Value: "baker"},
			{Op: authz.SetHeader, Name: "x-user", Value: "ann"}, {Op: authz.AppendHeader, Name: "x-user", Value: "bob"},
			{Op: authz.RemoveHeader, Name: "x-tier"}, {Op: authz.RemoveHeader, Name: "authorization"},
		},
		Client: []authz.HeaderEdit{{Op: authz.SetHeader, Name: "set-cookie", Value: "seen=1"}},
	}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("got  %+v\nwant %+v", a, want)
	}
	// Where nothing is listed, nothing is taken, save the removals.
	if a = build(t, overHTTP(&httpProvider{PathPrefix: "/check"}), address, nil).Ask(t.Context(), caller(t), get("/user")); !a.Allowed || a.Client != nil || len(a.Upstream) != 2 {
		t.Errorf("%+v", a)
	}
	// A field that is not an authorizer's to set is harmless until it is asked for, and then refused.
	if a = build(t, overHTTP(&httpProvider{PathPrefix: "/check"}), address, nil).Ask(t.Context(), caller(t), get("/forged")); !a.Allowed {
		t.Errorf("%+v", a)
	}
	p = &httpProvider{PathPrefix: "/check", FailOpen: true, HeadersToUpstreamOnAllow: []string{"x-*"}}
	if a = build(t, overHTTP(p), address, nil).Ask(t.Context(), caller(t), get("/forged")); a.Allowed || a.Err == nil || !strings.Contains(a.Err.Error(), "may not be changed") {
		t.Errorf("%+v", a)
	}
}

func TestDenialsOverHTTP(t *testing.T) {
	address := nginx(t)
	for _, c := range []struct {
		path, method string
		list         []string
		status       int
		body         string
		headers      map[string]string // "" for absent
	}{
		{"/login", "GET", nil, 401, `{"who": "are you"}`, map[string]string{"www-authenticate": `Basic realm="lab"`, "x-why": "nobody", "content-type": "application/json", "content-length": "", "connection": "", "date": ""}},
		{"/login", "GET", []string{"x-w*"}, 401, `{"who": "are you"}`, map[string]string{"www-authenticate": `Basic realm="lab"`, "x-why": "nobody", "content-type": "", "server": ""}},
		{"/login", "HEAD", []string{"x-none"}, 401, "", map[string]string{"www-authenticate": `Basic realm="lab"`, "x-why": ""}},
		{"/away", "GET", []string{"x-none"}, 302, "", map[string]string{"location": "http://login.lab/"}},
		{"/empty", "GET", nil, 204, "", nil},
		{"/teapot", "POST", nil, 418, "short and stout", nil},
	} {
		// failOpen is no matter: it was answered.
		p := build(t, overHTTP(&httpProvider{PathPrefix: "/check", FailOpen: true, HeadersToDownstreamOnDeny: c.list}), address, nil)
		r := get(c.path)
		r.Method = c.method
		a := p.Ask(t.Context(), caller(t), r)
		if c.path == "/away" { // nginx explains redirects in HTML
			c.body = a.Body
		}
		if a.Allowed || a.Err != nil || a.Status != c.status || a.Body != c.body {
			t.Errorf("%s: %+v", c.path, a)
		}
		for name, want := range c.headers {
			if got := strings.Join(value(a.Client, name), "|"); got != want {
				t.Errorf("%s: %s is %q, want %q", c.path, name, got, want)
			}
		}
	}
	for _, open := range []bool{false, true} {
		a := build(t, overHTTP(&httpProvider{PathPrefix: "/check", FailOpen: open, StatusOnError: "500"}), address, nil).Ask(t.Context(), caller(t), get("/broken"))
		if a.Allowed != open || a.FailedOpen != open || a.Err == nil || !strings.Contains(a.Err.Error(), "it answered 503") || !open && a.Status != 500 {
			t.Errorf("503, open %v: %+v", open, a)
		}
	}
}
