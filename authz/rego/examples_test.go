package rego

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
)

// exampleCase is a request, and whether the examples say yes to it.
type exampleCase struct {
	caller, method, path, query string
	headers                     fields
	body                        string
	want                        bool
}

func basic(user string) fields {
	return fields{"authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":password"))}
}

func bearer(role string) fields {
	sub := base64.RawURLEncoding.EncodeToString([]byte("alice"))
	return fields{"authorization", "Bearer " + hs256(fmt.Sprintf(`{"role": %q, "sub": %q}`, role, sub)), "content-type", "application/json"}
}

// examples are requests for the policies of testdata/examples, which are what the documentation and tutorials of
// opa-envoy-plugin teach, by name without _v0 and .rego.
func examples() map[string][]exampleCase {
	certificate := fields{"x-forwarded-client-cert", "By=spiffe://cluster.local/ns/shop/sa/db;Hash=ab;URI=spiffe://cluster.local/ns/shop/sa/web"}
	return map[string][]exampleCase{
		"basic": {
			{method: "GET", path: "/people", headers: basic("alice"), want: true},
			{method: "POST", path: "/people", headers: basic("alice")},
			{method: "POST", path: "/people", headers: basic("bob"), want: true},
			{method: "GET", path: "/people", headers: fields{"authorization", "Basic"}},
			{method: "GET", path: "/people"},
		},
		"bearer": {
			{method: "GET", path: "/people", headers: bearer("guest"), want: true},
			{method: "GET", path: "/people/1", headers: bearer("guest")},
			{method: "POST", path: "/people", headers: bearer("guest"), body: `{"firstname": "Charlie"}`},
			{method: "POST", path: "/people", headers: bearer("admin"), body: `{"firstname": "Charlie"}`, want: true},
			{method: "POST", path: "/people", headers: bearer("admin"), body: `{"firstname": "Alice"}`},
			{method: "POST", path: "/people", headers: bearer("admin")},
			{method: "GET", path: "/people"},
		},
		"object": {
			{method: "GET", path: "/people", query: "?lang=en", want: true},
			{method: "POST", path: "/people", query: "?lang=en"},
			{method: "GET", path: "/other"},
		},
		"principal": {
			{caller: "web", method: "GET", path: "/good/backend", want: true},
			{caller: "backend", method: "POST", path: "/good/db", want: true},
			{caller: "web", method: "POST", path: "/good/db"},
			{method: "GET", path: "/good/backend"},
		},
		"certificate": {
			{method: "GET", path: "/good/db", headers: certificate, want: true},
			{method: "GET", path: "/good/db"}, // as the mesh's own proxy shows it: it removes the header
		},
		"headers": {
			{method: "GET", path: "/", query: "?debug=0", headers: fields{"x-a", "1"}, want: true},
			{method: "GET", path: "/", query: "?debug=0&debug=1", headers: fields{"x-a", "1"}},
			{method: "GET", path: "/", query: "?debug=0", headers: fields{"x-internal-a", "1"}},
		},
	}
}

// TestPublishedExamples judges by our evaluation and by opa with the whole input.
func TestPublishedExamples(t *testing.T) {
	files, err := filepath.Glob("testdata/examples/*.rego")
	if err != nil || len(files) < 11 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	program, cases := opa(t), examples()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		query := "data.envoy.authz.allow"
		if strings.Contains(string(text), `decision["allowed"]`) {
			query = "data.envoy.authz.decision"
		}
		p := made(t, string(text), query)
		name, old := strings.CutSuffix(strings.TrimSuffix(filepath.Base(file), ".rego"), "_v0")
		if len(cases[name]) == 0 {
			t.Errorf("no requests for %s", file)
		}
		for _, one := range cases[name] {
			c := peer(t, one.caller)
			r := &authz.Request{
				Method: one.method, Path: one.path, Query: one.query, Host: "people", Minor: 1, Headers: one.headers, Body: []byte(one.body),
			}
			want := evalByOPA(t, program, file, query, old, c, r)
			if got := p.Ask(t.Context(), c, r); got.Allowed != one.want || got.Err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %s %s %q: %+v; opa %+v", file, one.method, one.path, one.caller, got, want)
			}
		}
	}
}

// evalByOPA is what opa eval answers.
func evalByOPA(t *testing.T, program, file, query string, old bool, c *authz.Connection, r *authz.Request) authz.Answer {
	t.Helper()
	input, err := Input(c, r, false)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"eval", "--stdin-input", "--format", "json", "--strict-builtin-errors", "--data", file, query}
	if old {
		args = append(args, "--v0-compatible")
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", file, err, out)
	}
	var results struct {
		Result []struct {
			Expressions []struct{ Value json.RawMessage }
		}
	}
	if err := json.Unmarshal(out, &results); err != nil || len(results.Result) != 1 {
		t.Fatalf("%s: %v: %s", file, err, out)
	}
	v, err := ast.ValueFromReader(bytes.NewReader(results.Result[0].Expressions[0].Value))
	if err != nil {
		t.Fatal(err)
	}
	a, err := answer(v)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return a
}
