package mesh_test

import (
	"strings"
	"testing"

	"github.com/signet-mesh/signet/mesh"
)

// TestLimits: what is too large is refused as a whole, with the limit in the message, before it costs anything.
func TestLimits(t *testing.T) {
	const small = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\nspec: {address: 1.2.3.4}\n---\n"
	for name, c := range map[string]struct{ text, want string }{
		"file":      {strings.Repeat("#", mesh.MaxFileBytes+1), "more than 4194304"},
		"documents": {strings.Repeat(small, mesh.MaxDocuments+1), "more than 10000 objects"},
		"depth":     {"a: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "nested deeper than 64"},
		"deeper":    {strings.Repeat("[", 20000), "broken YAML"},
		"twice":     {"kind: A\nkind: B\n", "given twice"},
		"scalar":    {"hello", "want an object"},
	} {
		objects, problems := mesh.Parse("x.yaml", []byte(c.text), mesh.ParseOptions{Now: epoch})
		if len(objects) != 0 || len(problems) == 0 || !problems[0].WholeFile() || !strings.Contains(problems[0].Message, c.want) {
			t.Errorf("%s: %d objects, problems %v", name, len(objects), problems)
		}
	}
}
