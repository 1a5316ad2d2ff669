package mesh_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/signet-mesh/signet/mesh"
)

// FuzzParse: nothing crashes, every refusal says what and where, and what was accepted survives the wire's judgement,
// builds, and makes the same view on the proxy.
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
		s, _ := mesh.Build(objects, mesh.BuildOptions{TrustDomain: td, Control: control()})
		for _, w := range s.Workloads() {
			v, ok := s.View(w.Namespace, w.Name)
			if ok == w.ID.IsZero() {
				t.Errorf("%s/%s: a view exactly when there is an identity", w.Namespace, w.Name)
			}
			if !ok {
				continue
			}
			again, problems := mesh.NewView(v.Objects, td, w.Namespace+"/"+w.Name, nil)
			if len(mesh.Refusals(problems)) > 0 || judges(again)+picture(again) != judges(v)+picture(v) {
				t.Errorf("%s/%s: the view of the view differs: %v", w.Namespace, w.Name, problems)
			}
		}
	})
}
