package mesh_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/mesh"
)

// TestLimitsOfPolicies: one more than a limit is refused with the limit in the message, and the limit itself is taken.
func TestLimitsOfPolicies(t *testing.T) {
	list := func(n int, item string) string { return "[" + strings.Repeat(item+", ", n) + "]" }
	numbered := func(n int, item string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(strings.ReplaceAll(item, "#", fmt.Sprint(i)) + ", ")
		}
		return "[" + b.String() + "]"
	}
	text := func(n int) string { return strings.Repeat("x", n) }
	const rule = `{limit: {requests: 1, unit: Second}}`
	for name, c := range map[string]struct {
		kind  string
		spec  func(n int) string
		limit int
		want  string
	}{
		"jwt rules": {"RequestAuthentication", func(n int) string { return "{jwtRules: " + list(n, `{issuer: a, jwks: "{}"}`) + "}" }, mesh.MaxJWTRules, "more than 64"},
		"jwks":      {"RequestAuthentication", func(n int) string { return "{jwtRules: [{issuer: a, jwks: " + text(n) + "}]}" }, mesh.MaxJWKSBytes, "more than 262144"},
		"audiences": {"RequestAuthentication", func(n int) string { return `{jwtRules: [{issuer: a, jwks: "{}", audiences: ` + list(n, "a") + "}]}" }, 16, "more than 16"},
		"claim headers": {"RequestAuthentication", func(n int) string {
			return `{jwtRules: [{issuer: a, jwks: "{}", outputClaimToHeaders: ` + numbered(n, "{header: x-#, claim: a}") + "}]}"
		}, 32, "more than 32"},
		"module":  {"RegoPolicy", func(n int) string { return "{query: data.a.b, module: " + text(n) + "}" }, mesh.MaxModuleBytes, "more than 524288"},
		"modules": {"RegoPolicy", func(n int) string { return "{query: data.a.b, modules: " + numbered(n, "{name: a#, source: x}") + "}" }, mesh.MaxModules, "more than 64"},
		"all modules": {"RegoPolicy", func(n int) string {
			return "{query: data.a.b, modules: " + numbered(n, "{name: a#, source: "+text(mesh.MaxModuleBytes)+"}") + "}"
		}, 4, "more than 2097152"},
		"data":        {"RegoPolicy", func(n int) string { return "{query: data.a.b, module: a, data: {a: " + text(n) + "}}" }, mesh.MaxDataBytes - 15, "more than 1048576"},
		"limit rules": {"RateLimitPolicy", func(n int) string { return "{local: {rules: " + list(n, rule) + "}}" }, mesh.MaxLimitRules, "more than 256"},
		"selectors": {"RateLimitPolicy", func(n int) string {
			return "{local: {rules: [{limit: {requests: 1, unit: Second}, clientSelectors: " + list(n, "{path: {value: /}}") + "}]}}"
		}, 8, "more than 8"},
		"headers": {"RateLimitPolicy", func(n int) string {
			return "{local: {rules: [{limit: {requests: 1, unit: Second}, clientSelectors: [{headers: " + list(n, "{name: a, value: b}") + "}]}]}}"
		}, 16, "more than 16"},
		"expression": {"RateLimitPolicy", func(n int) string {
			return "{local: {rules: [{limit: {requests: 1, unit: Second}, clientSelectors: [{path: {type: RegularExpression, value: " + text(n) + "}}]}]}}"
		}, mesh.MaxRegexBytes, "more than 1024"},
		"targets": {"RateLimitPolicy", func(n int) string {
			return "{targetRefs: " + numbered(n, "{kind: Service, name: a#}") + ", local: {rules: [" + rule + "]}}"
		}, 16, "more than 16"},
	} {
		version := "policy.signet.dev/v1alpha1"
		if c.kind == "RequestAuthentication" {
			version = "security.istio.io/v1"
		}
		for over := range 2 {
			_, problems := mesh.Parse("x.yaml", []byte("apiVersion: "+version+"\nkind: "+c.kind+"\nmetadata: {name: a}\nspec: "+c.spec(c.limit+over)+"\n"), mesh.ParseOptions{})
			refused := mesh.Refusals(problems)
			if over == 0 && len(refused) > 0 {
				t.Errorf("%s: the limit itself is refused: %s", name, refused[0].Error())
			}
			if over == 1 && (len(refused) != 1 || !strings.Contains(refused[0].Message, c.want)) {
				t.Errorf("%s: beyond the limit: %v", name, refused)
			}
		}
	}
}
