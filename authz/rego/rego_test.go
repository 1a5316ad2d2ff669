package rego

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh/policy"
)

const plain = "package m\ndefault allow := false\nallow if input.attributes.request.http.method == \"GET\""

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name     string
		spec     *policy.RegoPolicy
		builtins []string
		field    string
		want     string
	}{
		{"nothing", nil, nil, "query", "required"},
		{"no query", &policy.RegoPolicy{Module: plain}, nil, "query", "required"},
		{"a query that is no path", &policy.RegoPolicy{Query: "data.m.allow == true", Module: plain}, nil, "query", "is not a path"},
		{"a query of input", &policy.RegoPolicy{Query: "input.allow", Module: plain}, nil, "query", "is not a path"},
		{"a query with a variable", &policy.RegoPolicy{Query: "data.m[x]", Module: plain}, nil, "query", "is not a path"},
		{"a misspelt query", &policy.RegoPolicy{Query: "data.n.allow", Module: plain}, nil, "query", "names no rule; the packages are [\"data.m\"]"},
		{"no module", &policy.RegoPolicy{Query: "data.m.allow"}, nil, "module", "exactly one"},
		{"two sources", &policy.RegoPolicy{Query: "data.m.allow", Module: plain, Bundle: &policy.RegoBundle{}}, nil, "module", "exactly one"},
		{"a long timeout", &policy.RegoPolicy{Query: "data.m.allow", Module: plain, Timeout: durationpb.New(time.Minute)}, nil, "timeout", "1m0s"},
		{"a timeout of nothing", &policy.RegoPolicy{Query: "data.m.allow", Module: plain, Timeout: durationpb.New(0)}, nil, "timeout", "0s"},
		{"an empty module", &policy.RegoPolicy{Query: "data.m.allow", Module: "# nothing"}, nil, "module", "module"},
		{"a syntax error", &policy.RegoPolicy{Query: "data.m.allow", Module: "package m\n\nallow if {\n  x ==\n}"}, nil, "module", "module:5:1: "},
		{"a type error", &policy.RegoPolicy{Query: "data.m.allow", Modules: []*policy.RegoModule{{Name: "a.rego", Source: plain}, {Name: "b.rego", Source: "package b\nx := startswith(1, \"a\")"}}}, nil, "modules[1].source", "b.rego:2:6: "},
		{"a name twice", &policy.RegoPolicy{Query: "data.m.allow", Modules: []*policy.RegoModule{{Name: "a", Source: plain}, {Name: "a", Source: plain}}}, nil, "modules[1].name", "\"a\" is empty or taken"},
		{"http.send", &policy.RegoPolicy{Query: "data.m.allow", Module: "package m\nallow if http.send({}).status_code == 200"}, nil, "module", "module:2:10: the built-in function http.send is refused"},
		{"lookups", &policy.RegoPolicy{Query: "data.m.allow", Module: "package m\nallow if net.lookup_ip_addr(\"a\")"}, []string{"http.send"}, "module", "net.lookup_ip_addr is refused"},
		{"the environment", &policy.RegoPolicy{Query: "data.m.allow", Module: "package m\nallow if opa.runtime().env.A"}, nil, "module", "opa.runtime is refused"},
		{"a mocked http.send", &policy.RegoPolicy{Query: "data.m.allow", Module: "package m\nf(x) := x\nallow if f(1) with f as http.send"}, nil, "module", "http"},
		{"no such builtin", &policy.RegoPolicy{Query: "data.m.allow", Module: plain}, []string{"http.sent"}, "builtins", "\"http.sent\""},
		{"data that hides a rule", &policy.RegoPolicy{Query: "data.m.allow", Module: plain, Data: dataOf(t, `{"m": {"allow": true}}`)}, nil, "module", "conflict"},
		{"too much", &policy.RegoPolicy{Query: "data.m.allow", Module: plain + strings.Repeat("\n#", MaxModuleBytes/2)}, nil, "module", "more than 1048576 bytes"},
	} {
		_, err := New(Config{Namespace: "lab", Name: "menu", Spec: c.spec, Builtins: c.builtins})
		field, cause := Field(err)
		if err == nil || field != c.field || !strings.Contains(cause.Error(), c.want) {
			t.Errorf("%s: field %q, cause %v; want %q, %q", c.name, field, cause, c.field, c.want)
		}
	}
}

func TestAllowedBuiltins(t *testing.T) {
	for _, module := range []string{
		"package m\nallow if opa.runtime()",
		"package m\nallow if { print(\"x\"); trace(\"y\"); time.now_ns() > 1; rand.intn(\"a\", 2) >= 0; uuid.rfc4122(\"a\") != \"\"; count(rego.metadata.chain()) >= 0 }",
	} {
		p, err := New(Config{Spec: &policy.RegoPolicy{Query: "data.m.allow", Module: module}, Builtins: []string{"opa.runtime"}})
		if err != nil {
			t.Fatal(err)
		}
		if a := p.Ask(t.Context(), peer(t, ""), &authz.Request{Method: "GET", Path: "/"}); !a.Allowed {
			t.Errorf("%s: %+v", module, a)
		}
	}
}

func TestDenials(t *testing.T) {
	get := &authz.Request{Method: "GET", Path: "/", Headers: fields{"x", "notanumber"}}
	for _, c := range []struct{ name, module, want string }{
		{"undefined", "package m\nallow if false", "is undefined"},
		{"a conflict", "package m\nallow := true if input.attributes\nallow := false if input.attributes.request", "conflict"},
		{"a number", "package m\nallow := 1", "neither a boolean nor an object"},
		{"a string", "package m\nallow := \"true\"", "neither a boolean nor an object"},
		{"an error in a function", "package m\nallow if not to_number(input.attributes.request.http.headers.x) == 1", "invalid syntax"},
		{"a division by zero", "package m\nallow if not 1 / count(input.parsed_query) == 1", "divide by zero"},
		{"allowed is missing", "package m\nallow := {\"http_status\": 200}", "allowed is not a boolean"},
		{"allowed is a word", "package m\nallow := {\"allowed\": \"true\"}", "allowed is not a boolean"},
		{"no status", "package m\nallow := {\"allowed\": false, \"http_status\": 999}", "\"999\" is not a status"},
		{"an interim status", "package m\nallow := {\"allowed\": false, \"http_status\": 101}", "\"101\" is not a status"},
		{"half a status", "package m\nallow := {\"allowed\": false, \"http_status\": 403.5}", "is not a status"},
		{"a status in words", "package m\nallow := {\"allowed\": false, \"http_status\": \"403\"}", "http_status is not a number"},
		{"a header with a line break", "package m\nallow := {\"allowed\": true, \"headers\": {\"x-a\": \"b\\r\\nx-b: c\"}}", "control character"},
		{"a header's name with a line break", "package m\nallow := {\"allowed\": true, \"headers\": {\"x-a\\nb\": \"b\"}}", "is not the name of a header"},
		{"a pseudo header", "package m\nallow := {\"allowed\": true, \"headers\": {\":path\": \"/admin\"}}", "is not the name of a header"},
		{"the host", "package m\nallow := {\"allowed\": true, \"headers\": {\"Host\": \"other\"}}", "may not be changed"},
		{"the framing", "package m\nallow := {\"allowed\": true, \"headers\": {\"Content-Length\": \"3\"}}", "may not be changed"},
		{"the caller", "package m\nallow := {\"allowed\": true, \"headers\": {\"x-forwarded-client-cert\": \"\"}}", "may not be changed"},
		{"the hop", "package m\nallow := {\"allowed\": true, \"request_headers_to_remove\": [\"connection\"]}", "may not be changed"},
		{"a header that is a number", "package m\nallow := {\"allowed\": true, \"headers\": {\"x-a\": 1}}", "is not an array"},
		{"headers in words", "package m\nallow := {\"allowed\": true, \"response_headers_to_add\": \"x\"}", "is not an object"},
		{"many headers", "package m\nallow := {\"allowed\": true, \"headers\": {\"x-a\": [sprintf(\"%d\", [i]) | some i in numbers.range(1, 65)]}}", "64"},
		{"a body that is no text", "package m\nallow := {\"allowed\": false, \"body\": {}}", "body is not a string"},
	} {
		p := made(t, c.module, "data.m.allow")
		a := p.Ask(t.Context(), peer(t, ""), get)
		if a.Allowed || a.Status != 0 || a.Err == nil || !strings.Contains(a.Err.Error(), c.want) || a.Upstream != nil || a.Client != nil {
			t.Errorf("%s: %+v, want an error with %q", c.name, a, c.want)
		}
		if s := p.Status(); s.Errors+s.Undefined != 1 || (s.Errors == 1) != (s.LastError != "") {
			t.Errorf("%s: %+v", c.name, s)
		}
	}
}

func TestDecisions(t *testing.T) {
	get := &authz.Request{Method: "GET", Path: "/a", Headers: fields{}}
	for _, c := range []struct {
		name, object string
		want         authz.Answer
	}{
		{"a bare denial", `{"allowed": false}`, authz.Answer{}},
		{"a denial with all", `{"allowed": false, "http_status": 302, "headers": {"Location": "/login", "set-cookie": ["a", "b"]}, "body": "go", "response_headers_to_add": {"x": "ignored"}, "reason": 3}`,
			authz.Answer{Status: 302, Body: "go", Client: []authz.HeaderEdit{{Name: "location", Value: "/login"}, {Name: "set-cookie", Value: "a"}, {Op: authz.AppendHeader, Name: "set-cookie", Value: "b"}}}},
		{"an approval with all", `{"allowed": true, "http_status": 999, "body": 1, "headers": [{"x-user": "u"}, {"X-User": "v"}], "response_headers_to_add": {"x-seen": "yes"},
			"request_headers_to_remove": ["Authorization"], "query_parameters_to_remove": ["token"], "query_parameters_to_set": {"a": ["1", "2"], "b": "3"}, "dynamic_metadata": {"a": 1}}`,
			authz.Answer{
				Allowed:     true,
				Upstream:    []authz.HeaderEdit{{Name: "x-user", Value: "u"}, {Op: authz.AppendHeader, Name: "x-user", Value: "v"}, {Op: authz.RemoveHeader, Name: "authorization"}},
				Client:      []authz.HeaderEdit{{Op: authz.AppendHeader, Name: "x-seen", Value: "yes"}},
				RemoveQuery: []string{"token"}, SetQuery: []authz.QueryParam{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}, {Name: "b", Value: "3"}},
			}},
	} {
		for _, module := range []string{"package m\nallow := " + c.object, "package m\nallow := object.union(" + c.object + ", {\"x\": time.now_ns()})"} {
			if a := made(t, module, "data.m.allow").Ask(t.Context(), peer(t, ""), get); !reflect.DeepEqual(a, c.want) {
				t.Errorf("%s: %+v, want %+v", c.name, a, c.want)
			}
		}
	}
}

// TestReadings wants both readings of a path allowed.
func TestReadings(t *testing.T) {
	const notAdmin = "package m\nallow if not input.parsed_path[0] == \"admin\""
	const raw = "package m\nallow if not startswith(input.attributes.request.http.path, \"/admin\")"
	for _, c := range []struct {
		module, path, decoded string
		want                  bool
	}{
		{notAdmin, "/shop", "", true},
		{notAdmin, "/admin/x", "", false},
		{notAdmin, "//admin/x", "", false},
		{notAdmin, "/admin%2Fx", "/admin/x", false},
		{notAdmin, "/x%2F..%2Fadmin", "/admin", false},
		{raw, "/x%2F..%2Fadmin", "/admin", false},
		{raw, "/x%2F..%2Fy", "/y", true},
		{"package m\nallow if input.attributes.request.http.path == \"/a%20b\"", "/a%20b", "/a b", false},
		{"package m\nallow if input.attributes.request.http.method == \"GET\"", "/a%20b", "/a b", true},
	} {
		p := made(t, c.module, "data.m.allow")
		r := &authz.Request{Method: "GET", Path: c.path, DecodedPath: c.decoded, Headers: fields{}}
		if a := p.Ask(t.Context(), peer(t, ""), r); a.Allowed != c.want {
			t.Errorf("%s %s: %v", c.module, c.path, a.Allowed)
		}
		if e := p.Explain(t.Context(), peer(t, ""), r); e.Answer.Allowed != c.want {
			t.Errorf("%s %s: explained as %+v", c.module, c.path, e)
		}
	}
}

func TestTimeout(t *testing.T) {
	p, err := New(Config{Spec: &policy.RegoPolicy{
		Query: "data.m.allow", Timeout: durationpb.New(20 * time.Millisecond),
		Module: "package m\nallow if count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i == j]) > 0",
	}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a := p.Ask(t.Context(), peer(t, ""), &authz.Request{Method: "GET", Path: "/"})
		if a.Allowed || a.Err == nil || !isTimeout(a.Err) {
			t.Fatalf("%+v", a)
		}
	}
	if s := p.Status(); s.Timeouts != 2 || s.Errors != 2 {
		t.Errorf("%+v", s)
	}
}

func TestNeeds(t *testing.T) {
	for module, want := range map[string]authz.Needs{
		plain: {},
		"package m\nallow if input.parsed_body.a":                                            {Body: MaxBody},
		"package m\nallow if input.attributes.request.http.body == \"a\"":                    {Body: MaxBody},
		"package m\nallow if { input.parsed_body.a; not input.truncated_body }":              {Body: MaxBody, Partial: true},
		"package m\nallow if { http := input.attributes.request.http; http.method == \"A\"}": {},
		"package m\nallow if { http := input.attributes.request.http; http[x] == \"A\"}":     {Body: MaxBody},
		"package m\nallow if { json.marshal(input) != \"\" }":                                {Body: MaxBody, Partial: true},
		"package m\nallow if true\nother if input.parsed_body":                               {},
		"package m\nallow if true\nelse if helper\nhelper if input.parsed_body":              {Body: MaxBody},
	} {
		if got := made(t, module, "data.m.allow").Needs(); got != want {
			t.Errorf("%s: %+v, want %+v", module, got, want)
		}
	}
}

func TestHeadersThatCannotBeListed(t *testing.T) {
	p := made(t, "package m\nallow if count(input.attributes.request.http.headers) > 0", "data.m.allow")
	r := &authz.Request{Method: "GET", Path: "/", Headers: unlisted{fields{"a", "b"}}}
	if a := p.Ask(t.Context(), peer(t, ""), r); a.Allowed || a.Err == nil {
		t.Errorf("%+v", a)
	}
	r.Headers = fields{"a", "b"}
	if a := p.Ask(t.Context(), peer(t, ""), r); !a.Allowed {
		t.Errorf("%+v", a)
	}
}

func TestConcurrently(t *testing.T) {
	policies := corpus(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			r := &authz.Request{Method: "GET", Path: fmt.Sprintf("/people/%d", i), Query: "?a=b", Headers: fields{"x-tier", "gold"}}
			for range 30 {
				for name, p := range policies {
					want := name == "spiffe.rego" || name == "globs.rego" || name == "decision.rego" || name == "conflict.rego" ||
						name == "whole.rego" || name == "comprehension.rego"
					if name == "every.rego" {
						want = true // people is segment 0, and GET method 0
					}
					if a := p.Ask(t.Context(), peer(t, "web"), r); name != "tricky.rego" && name != "order.rego" && a.Allowed != want {
						t.Errorf("%s: %+v", name, a)
					}
				}
			}
		})
	}
	all.Wait()
}

// TestPanic lets OPA and native code panic: a denial, and topdown's answer.
func TestPanic(t *testing.T) {
	p := made(t, plain, "data.m.allow")
	s := p.current.Load()
	get := &authz.Request{Method: "GET", Path: "/", Headers: fields{}}
	s.native.root = func(*frame) value { panic("native") }
	if a := p.Ask(t.Context(), peer(t, ""), get); !a.Allowed || p.Status().Natively != 0 {
		t.Errorf("%+v, %+v", a, p.Status())
	}
	broken := *s
	broken.native, broken.store = nil, nil
	broken.query = append(broken.query[:0:0], broken.query...)
	broken.compiler = nil
	p.current.Store(&broken)
	if a := p.Ask(t.Context(), peer(t, ""), get); a.Allowed || a.Err == nil || !strings.Contains(a.Err.Error(), "panic") {
		t.Errorf("%+v", a)
	}
}
