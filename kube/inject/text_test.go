package inject

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTexts injects testdata/text/*.in and compares with *.out; what comes out goes in again unchanged.
func TestTexts(t *testing.T) {
	files, err := filepath.Glob("testdata/text/*.in")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d inputs, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			cfg := DefaultConfig()
			got, notes, err := cfg.Text(in)
			if err != nil {
				t.Fatal(err)
			}
			again, _, err := cfg.Text(got)
			if err != nil || !bytes.Equal(again, got) {
				t.Errorf("what came out changes when it goes in again: %v\n%s", err, again)
			}
			got = append(got, "\n# notes\n"+strings.Join(notes, "\n")+"\n"...)
			out := strings.TrimSuffix(f, ".in") + ".out"
			if *update {
				if err := os.WriteFile(out, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs; look at it and run with -update\ngot:\n%s", out, got)
			}
		})
	}
}

// What has no pod, or a pod that is left alone, comes out byte for byte.
func TestTextLeavesTheRest(t *testing.T) {
	for _, in := range []string{
		"", "\n", "# only a comment\n", "---\n", "\ufeff---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: |\n    x\n",
		"apiVersion: v1\r\nkind: Service\r\nmetadata:   {name: a}\r\n---\r\n# end\r\n",
		"kind: ConfigMap\napiVersion: v1\ndata:\n  f: |\n    ---\n    kind: Pod\n    apiVersion: v1\n",
		"{\"kind\":\"Service\",  \"apiVersion\":\"v1\"}\n\n{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[]}",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {sidecar.istio.io/inject: 'false'}}\nspec: {containers:   [{name: a}]}",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: kube-system}\nspec: {containers:   [{name: a}]}",
		"apiVersion: example.com/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: 5}",
		"just text", "- a\n- list\n", "apiVersion: v1\nkind: NodeList\nitems: 5",
	} {
		out, _, err := DefaultConfig().Text([]byte(in))
		if err != nil || string(out) != in {
			t.Errorf("%q became %q, %v", in, out, err)
		}
	}
}

func TestTextNamesWhatIsWrong(t *testing.T) {
	pod := func(s string) string {
		return "# head\n---\nkind: A\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: ns}\n" + s
	}
	for in, want := range map[string]string{
		"a: [":          "document 1: broken YAML",
		pod("spec: {}"): "document 2: Pod ns/a: spec.containers: must not be empty",
		pod("spec: {containers: [{name: a, ports: [{containerPort: http}]}]}"):                                                           "document 2: Pod ns/a: spec.containers.ports.containerPort: want int32, found string",
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 1}":                                                "document 1: Deployment d: spec.template: is missing",
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {hostNetwork: 1}}}":                         "Deployment d: spec.template.spec.hostNetwork: want bool, found number",
		"apiVersion: v1\nkind: List\nitems: [{kind: Pod, apiVersion: v1, metadata: {name: x}}]":                                          "document 1: items[0]: Pod x: spec.containers: must not be empty",
		"apiVersion: v1\nkind: List\nitems: {a: b}":                                                                                      "document 1: List: items: want a list",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {sidecar.istio.io/x: v}}\nspec: {containers: [{name: a}]}":          "annotation sidecar.istio.io/x is not honoured",
		"apiVersion: v1\nkind: Pod\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}":                                     "document 1: broken YAML",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: 5}\nspec: {containers: [{name: a}]}":                                                "document 1: metadata.name: want string, found number",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}], volumes: [{name: signet-token, emptyDir: {}}]}": `volume "signet-token" is there`,
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {metadata: [], spec: {containers: [{name: a}]}}}":  "spec.template.metadata",
	} {
		out, _, err := DefaultConfig().Text([]byte(in))
		if err == nil || !strings.Contains(err.Error(), want) || out != nil {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}
