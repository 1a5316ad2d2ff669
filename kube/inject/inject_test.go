package inject

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/signet-mesh/signet/deploy/charts"
)

var update = flag.Bool("update", false, "write the golden files")

// directive is the rest of the line "# NAME: " of a golden's input, "" where there is none.
func directive(text, name string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "# "+name+": "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// TestGoldens injects testdata/*.in.yaml and compares with *.out.yaml. Comments of the input give settings, and namespace for
// its labels; the output is the pod, or a line that says why there is none.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d inputs, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".in.yaml"), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := render(t, string(in))
			out := strings.TrimSuffix(f, ".in.yaml") + ".out.yaml"
			if *update {
				if err := os.WriteFile(out, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s differs; look at it and run with -update\ngot:\n%s", out, got)
			}
		})
	}
}

func render(t *testing.T, in string) string {
	t.Helper()
	cfg, err := ParseConfig([]byte(directive(in, "settings")))
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"istio-injection": "enabled"}
	if d := directive(in, "namespace"); d != "" {
		labels = map[string]string{}
		if err := yaml.Unmarshal([]byte(d), &labels); err != nil {
			t.Fatal(err)
		}
	}
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(in), pod); err != nil {
		t.Fatal(err)
	}
	before := pod.DeepCopy()
	if v := cfg.Wants(pod.Namespace, labels, pod); v.Decision != Wanted {
		return "# left alone: " + strings.TrimSpace(string(v.Reason)+" "+v.Message) + "\n"
	}
	warnings, err := cfg.Inject(pod, "")
	if err != nil {
		if !reflect.DeepEqual(pod, before) {
			t.Error("a refused pod was changed")
		}
		return "# refused: " + err.Error() + "\n"
	}
	if w := cfg.Wants(pod.Namespace, labels, pod); w.Decision != Done {
		t.Errorf("an injected pod is %v", w)
	}
	again := pod.DeepCopy()
	if _, err := cfg.Inject(again, ""); err != nil || !reflect.DeepEqual(again, pod) {
		t.Errorf("injecting twice: %v; the pod changed: %v", err, !reflect.DeepEqual(again, pod))
	}
	b, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	var head strings.Builder
	for _, w := range warnings {
		head.WriteString("# warning: " + w + "\n")
	}
	return head.String() + string(b)
}

// TestDefaultTag: what is compiled in names the images that `make images` builds.
func TestDefaultTag(t *testing.T) {
	chart, err := fs.ReadFile(charts.Signet(), "Chart.yaml")
	if err != nil || !strings.Contains(string(chart), "\nappVersion: "+DefaultTag+"\n") {
		t.Errorf("DefaultTag is %q, the chart says\n%s%v", DefaultTag, chart, err)
	}
}
