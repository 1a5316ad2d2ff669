package house_test

import (
	"strings"
	"testing"
	"testing/fstest"
)

// snippets is a tree as text: path -> source.
type snippets map[string]string

func (s snippets) read(t *testing.T) *tree {
	t.Helper()
	fsys := fstest.MapFS{}
	for p, src := range s {
		fsys[p] = &fstest.MapFile{Data: []byte(src)}
	}
	out, err := read(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func importing(pkg, path string) string {
	return "// Package " + pkg + " is.\npackage " + pkg + "\n\nimport _ \"" + path + "\"\n"
}

func long(lines int) string {
	return "// Package x is.\npackage x\n\nfunc long() {\n" + strings.Repeat("\t_ = 0\n", lines-2) + "}\n"
}

const (
	steps1 = "// Package inbound is\n//\n//\t1 accept   2 record\npackage inbound\n"
	steps2 = "// Package outbound is\n//\n//\t1 accept   2 match   3 mTLS\npackage outbound\n"
)

// TestRules shows that each rule fails on a tree that breaks it, and doesn't on one that looks alike. want is part of the one
// finding, "" for none.
func TestRules(t *testing.T) {
	tests := []struct {
		rule, name string
		tree       snippets
		want       string
	}{
		{"floors", "downward", snippets{"ca/authority/a.go": importing("authority", module+"/ca")}, ""},
		{"floors", "unknown room", snippets{"ca/new/a.go": importing("new", module+"/ca")}, "ca/new: not in the plan"},
		{"floors", "unknown target", snippets{"ca/a.go": importing("ca", module+"/ca/new")}, "not in the plan"},
		{"floors", "upward", snippets{"ca/a.go": importing("ca", module+"/ca/authority")}, "which is not lower"},
		{"floors", "sideways", snippets{"ca/attest/a.go": importing("attest", module+"/ca/authority")}, "which is not lower"},
		{"floors", "sub-floor", snippets{"proxy/forward/a.go": importing("forward", module+"/proxy/judge")}, ""},
		{"floors", "sub-floor upward", snippets{"proxy/judge/a.go": importing("judge", module+"/proxy/forward")}, "which is not lower"},
		{"floors", "other column, shared words", snippets{"proxy/inbound/a.go": importing("inbound", module+"/certs")}, ""},
		{"floors", "other column, above", snippets{"proxy/inbound/a.go": importing("inbound", module+"/ca")}, "of another column"},
		{"floors", "cmd sees all", snippets{"cmd/internal/node/a.go": importing("node", module+"/proxy/inbound")}, ""},
		{"floors", "tests may", snippets{"ca/a_test.go": importing("ca_test", module+"/ca/authority")}, ""},
		{"floors", "test room in product", snippets{"ca/a.go": importing("ca", module+"/certs/certtest")}, "is for tests"},
		{"floors", "another module is no room", snippets{"deploy/demo/go.mod": "module x\n", "deploy/demo/a.go": importing("x", module+"/ca")}, ""},

		{"floors", "attest is no test room", snippets{"ca/caserver/a.go": importing("caserver", module+"/ca/attest")}, ""},

		{"fences", "grpc at a door", snippets{"ca/caserver/a.go": importing("caserver", "google.golang.org/grpc/codes")}, ""},
		{"fences", "grpc inside", snippets{"ca/a.go": importing("ca", "google.golang.org/grpc/codes")}, "is fenced in"},
		{"fences", "envoy inside", snippets{"sds/a.go": importing("sds", "github.com/envoyproxy/go-control-plane/envoy/config/core/v3")}, "is fenced in"},
		{"fences", "ads is a prefix", snippets{"mesh/adswire/a.go": importing("adswire", "github.com/envoyproxy/go-control-plane/envoy/config/core/v3")}, ""},
		{"fences", "apimachinery in mesh", snippets{"mesh/a.go": importing("mesh", "k8s.io/apimachinery/pkg/labels")}, ""},
		{"fences", "apimachinery in proxy", snippets{"proxy/a.go": importing("proxy", "k8s.io/apimachinery/pkg/labels")}, "is fenced in"},
		{"fences", "client-go in mesh", snippets{"mesh/a.go": importing("mesh", "k8s.io/client-go/rest")}, "is fenced in"},
		{"fences", "client-go in kube", snippets{"kube/x/a.go": importing("x", "k8s.io/client-go/rest")}, ""},
		{"fences", "tests may", snippets{"ca/a_test.go": importing("ca", "google.golang.org/grpc")}, ""},

		{"keys", "elsewhere", snippets{"ca/a.go": "package ca\nimport \"crypto/ecdsa\"\nvar f = ecdsa.GenerateKey\n"}, "makes a private key"},
		{"keys", "renamed", snippets{"ca/a.go": "package ca\nimport k \"crypto/rsa\"\nvar f = k.GenerateKey\n"}, "makes a private key"},
		{"keys", "in its room", snippets{"certs/rotate/a.go": "package rotate\nimport \"crypto/ecdsa\"\nvar f = ecdsa.GenerateKey\n"}, ""},
		{"keys", "test room", snippets{"certs/certtest/a.go": "package certtest\nimport \"crypto/ecdsa\"\nvar f = ecdsa.GenerateKey\n"}, ""},
		{"keys", "another package's", snippets{"ca/a.go": "package ca\nimport \"x/ecdsa\"\nvar f = ecdsa.GenerateKey\n"}, ""},

		{"comments", "none", snippets{"ca/a.go": "package ca\n"}, "has no package comment"},
		{"comments", "in a test file only", snippets{"ca/a.go": "package ca\n", "ca/a_test.go": "// Package ca is.\npackage ca\n"}, "has no package comment"},
		{"comments", "there", snippets{"ca/a.go": "package ca\n", "ca/b.go": "// Package ca is.\npackage ca\n"}, ""},

		{"length", "71 lines", snippets{"ca/a.go": long(71)}, "long has 71 lines"},
		{"length", "70 lines", snippets{"ca/a.go": long(70)}, ""},
		{"length", "one in a hundred", snippets{"ca/a.go": long(71) + strings.Repeat("func _() {}\n", 99)}, ""},
		{"length", "one in ninety-nine", snippets{"ca/a.go": long(71) + strings.Repeat("func _() {}\n", 98)}, "long has 71 lines"},

		{"init", "function", snippets{"ca/a.go": "package ca\nfunc init() {}\n"}, "ca/a.go:2: func init"},
		{"init", "method", snippets{"ca/a.go": "package ca\ntype x int\nfunc (x) init() {}\n"}, ""},

		{"names", "package", snippets{"ca/util/a.go": "package util\n"}, "ca/util"},
		{"names", "file", snippets{"ca/helpers_test.go": "package ca\n"}, "ca/helpers_test.go"},
		{"names", "part of a name", snippets{"ca/commonname.go": "package ca\n"}, ""},

		{"skips", "skip", snippets{"ca/a_test.go": "package ca\nfunc x(t T) { t.Skipf(\"no\") }\n"}, "ca/a_test.go:2: t.Skipf"},
		{"skips", "a decoder's", snippets{"ca/a.go": "package ca\nfunc x(dec D) { dec.Skip() }\n"}, ""},

		{"replace", "line", snippets{"test/x/go.mod": "module x\n\nreplace a => ../a\n"}, "test/x/go.mod: has a replace"},
		{"replace", "a comment", snippets{"go.mod": "module x // replace nothing\n"}, ""},

		{"leftovers", "in a text", snippets{"docs/a.md": "one\ntwo TO" + "DO three\n"}, "docs/a.md:2"},
		{"leftovers", "in a word", snippets{"docs/a.md": "mas" + "TODONS\n"}, ""},

		{"corridors", "same", snippets{"proxy/inbound/a.go": steps1, "proxy/outbound/a.go": steps2,
			"docs/architecture.md": "    1 accept   2 record\n    1 accept   2 match   3 mTLS\n"}, ""},
		{"corridors", "other", snippets{"proxy/inbound/a.go": steps1, "proxy/outbound/a.go": steps2,
			"docs/architecture.md": "    1 accept   2 record\n    1 accept   2 pick   3 mTLS\n"}, "the steps of proxy/outbound"},
	}
	tried := map[string]bool{"plan": true} // judged by TestPlan
	for _, tt := range tests {
		t.Run(tt.rule+"/"+tt.name, func(t *testing.T) {
			for _, r := range rules {
				if r.name == tt.rule {
					got := strings.Join(r.judge(tt.tree.read(t)), "\n")
					if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
						t.Errorf("found %q, want %q", got, tt.want)
					}
				}
			}
		})
		tried[tt.rule] = true
	}
	for _, r := range rules {
		if !tried[r.name] {
			t.Errorf("rule %q is not shown to fail", r.name)
		}
	}
}

func TestPlan(t *testing.T) {
	if got := judgePlan([]row{{"ca", "2", ""}, {"ca", "3", ""}}); len(got) != 1 {
		t.Errorf("found %q, want one row that is there twice", got)
	}
}
