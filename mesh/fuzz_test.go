package mesh_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/signet-mesh/signet/mesh"
)

// FuzzParse: nothing crashes, every refusal says what and where, and what was accepted survives the wire's judgement and
// builds.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/parse/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, problems := mesh.Parse("f.yaml", data, mesh.ParseOptions{TrustDomain: td, Now: epoch})
		for _, p := range problems {
			if p.Message == "" || p.Position.File == "" {
				t.Errorf("%+v says too little", p)
			}
			if q := mesh.Quarantine(p); q != nil && len(mesh.Refusals(mesh.Revalidate(q, td))) > 0 {
				t.Errorf("the quarantine of %v is refused itself", p.Error())
			}
		}
		for _, o := range objects {
			for _, p := range mesh.Refusals(mesh.Revalidate(o, td)) {
				t.Errorf("accepted, then refused: %s", p.Error())
			}
		}
		s, _ := mesh.Build(objects, mesh.BuildOptions{TrustDomain: td})
		for _, w := range s.Workloads() {
			if _, ok := s.View(w.Namespace, w.Name); ok == w.ID.IsZero() {
				t.Errorf("%s/%s: a view exactly when there is an identity", w.Namespace, w.Name)
			}
		}
	})
}
