package mesh_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

var update = flag.Bool("update", false, "rewrite golden files")

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const td = "cluster.local"

// TestGolden parses and builds each testdata/parse/*.yaml; the .out beside it holds every problem and what stands.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/parse/*.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("goldens: %v, %v", files, err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			objects, problems := mesh.Parse(filepath.Base(name), data, mesh.ParseOptions{TrustDomain: td, Now: epoch})
			opts := mesh.BuildOptions{TrustDomain: td}
			if strings.HasPrefix(filepath.Base(name), "store_") {
				opts.Control = control()
			}
			s, more := mesh.Build(objects, opts)
			var b strings.Builder
			for _, p := range append(problems, more...) {
				word := p.Severity.String()
				if p.Dangling {
					word = "dangling"
				}
				fmt.Fprintf(&b, "%s %s\n", word, p.Error())
			}
			for _, o := range s.Objects() {
				word := "stands"
				if o.Quarantined() {
					word = "quarantined"
				}
				fmt.Fprintf(&b, "%s %s\n", word, o.Key)
			}
			compareGolden(t, strings.TrimSuffix(name, ".yaml")+".out", b.String())
		})
	}
}

// control is what a control plane with a store and one more built-in function says.
func control() *policy.ControlSettings {
	return &policy.ControlSettings{RateLimitStore: &policy.RateLimitStore{Url: "redis://127.0.0.1:6379", Password: "secret"},
		RegoBuiltins: []string{"http.send"}}
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs\n--- got\n%s--- want\n%s", name, got, want)
	}
}

// parse reads objects that must all be good.
func parse(t *testing.T, text string) []*mesh.Object {
	t.Helper()
	objects, problems := mesh.Parse("test.yaml", []byte(text), mesh.ParseOptions{TrustDomain: td, Now: epoch})
	for _, p := range mesh.Refusals(problems) {
		t.Fatal(p.Error())
	}
	return objects
}

// build builds objects of which none may be refused.
func build(t *testing.T, text string) *mesh.Snapshot {
	t.Helper()
	s, problems := mesh.Build(parse(t, text), mesh.BuildOptions{TrustDomain: td})
	for _, p := range mesh.Refusals(problems) {
		t.Fatal(p.Error())
	}
	return s
}
