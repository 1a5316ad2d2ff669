package rego

import (
	"testing"

	"github.com/signet-mesh/signet/mesh/policy"
)

// What an access log does not hold can't be replayed.
func TestRecorded(t *testing.T) {
	for body, want := range map[string]bool{
		`input.attributes.request.http.method == "GET"`:                                             true,
		`startswith(input.attributes.source.principal, "spiffe://a/"); input.parsed_path[0] == "x"`: true,
		`http := input.attributes.request.http; http.path == "/x"; http.method == "GET"`:            true,
		`input.parsed_query.a[0] == "1"`:                                                            true,
		`input.attributes.request.http.headers["x-a"] == "1"`:                                       false,
		`input.token.subject == "ada"`:                                                              false,
		`input.parsed_body.a == 1`:                                                                  false,
		`input.attributes.request.time != ""`:                                                       false,
		`some k; input.attributes.request.http[k] == "GET"`:                                         false,
		`count(input) > 0`: false,
	} {
		p, err := New(Config{Namespace: "n", Name: "p", Spec: &policy.RegoPolicy{Query: "data.p.allow", Module: "package p\ndefault allow := false\nallow if { " + body + " }\n"}})
		if err != nil {
			t.Fatal(body, err)
		}
		if got := p.Recorded(); got != want {
			t.Errorf("%s: %v", body, got)
		}
	}
	p, err := New(Config{Namespace: "n", Name: "p", Spec: &policy.RegoPolicy{Query: "data.p.allow", Bundle: &policy.RegoBundle{Url: "https://bundles.example", Path: "b"}}})
	if err != nil || p.Recorded() {
		t.Error("a policy without its bundle:", err)
	}
}
