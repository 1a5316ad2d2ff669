package helm_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func kustomize(t *testing.T, dir string) map[string]map[string]any {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), root+"/deploy/kustomize/"+dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return documents(t, string(text))
}

// TestKustomize: the base is the chart's default profile, so nobody forgot 'make manifests', and the overlays are the other ones.
func TestKustomize(t *testing.T) {
	same(t, "deploy/kustomize/base", kustomize(t, "base"), documents(t, mustTemplate(t, "default")))
	for _, profile := range []string{"demo", "minimal"} {
		built := kustomize(t, "overlays/"+profile)
		delete(built, "Namespace /"+namespace)
		want := documents(t, mustTemplate(t, profile))
		for key := range want {
			if built[key] == nil {
				t.Errorf("%s: lacks %s", profile, key)
			}
		}
		for key := range built {
			if want[key] == nil {
				t.Errorf("%s: has %s", profile, key)
			}
		}
		same(t, "overlay "+profile, withNamespace(built), want)
	}
}

// withNamespace is a rendering as 'signet install' prints it.
func withNamespace(all map[string]map[string]any) map[string]map[string]any {
	all["Namespace /"+namespace] = map[string]any{"kind": "Namespace"}
	return all
}

// TestNotes: Helm says what to do next, by who owns the bare label.
func TestNotes(t *testing.T) {
	for set, want := range map[string]string{"alone=true": "istio-injection=enabled", "alone=false": "istio.io/rev=signet"} {
		if got := notes(t, set); !strings.Contains(got, "kubectl label namespace NAMESPACE "+want) {
			t.Errorf("%s: %s", set, got)
		}
	}
}
