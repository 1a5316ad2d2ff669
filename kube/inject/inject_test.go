package inject

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	return head.String() + withoutWords(string(b))
}

// withoutWords has WORD in place of the words of chance in the paths of hooks.
func withoutWords(text string) string {
	return regexp.MustCompile("(/app-lifecycle/[^/]+/[a-z]+/)[A-Z2-7]{26}").ReplaceAllString(text, "${1}WORD")
}

// What a hook's path is can't be guessed, and the sidecar knows it. A HookKey has the same text give the same path, and no other.
func TestHookWords(t *testing.T) {
	hooks := func(c *Config, namespace string) (paths []string, text string) {
		t.Helper()
		in := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: " + namespace + "}\nspec: {template: {spec: {containers: " +
			"[{name: a, livenessProbe: {tcpSocket: {port: 80}}, lifecycle: {postStart: {httpGet: {port: 80}}, preStop: {httpGet: {port: 80}}}}]}}}\n"
		out, _, err := c.Text([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		var d appsv1.Deployment
		if err := yaml.Unmarshal(out, &d); err != nil {
			t.Fatal(err)
		}
		l := d.Spec.Template.Spec.Containers[0].Lifecycle
		var probers map[string]Prober
		for _, e := range d.Spec.Template.Spec.InitContainers[1].Env {
			if e.Name == "SIGNET_PROBERS" {
				if err := yaml.Unmarshal([]byte(e.Value), &probers); err != nil {
					t.Fatal(err)
				}
			}
		}
		paths = []string{l.PostStart.HTTPGet.Path, l.PreStop.HTTPGet.Path}
		for _, p := range append(paths, "/app-health/a/livez") {
			if _, ok := probers[p]; !ok || len(probers) != 3 {
				t.Errorf("%q is not among %v", p, probers)
			}
		}
		return paths, string(out)
	}
	seen := map[string]bool{}
	collect := func(paths []string) {
		t.Helper()
		for _, p := range paths {
			if word := p[strings.LastIndexByte(p, '/')+1:]; seen[word] || withoutWords(p) == p {
				t.Errorf("%q is used again, or no word", p)
			} else {
				seen[word] = true
			}
		}
	}
	keyed, other := DefaultConfig(), DefaultConfig()
	keyed.HookKey, other.HookKey = "a key of the mesh", "another key of the mesh"
	for _, c := range []*Config{DefaultConfig(), DefaultConfig(), keyed, other} {
		paths, _ := hooks(c, "shop")
		collect(paths)
	}
	paths, _ := hooks(keyed, "bank")
	collect(paths)
	_, once := hooks(keyed, "shop")
	if _, again := hooks(keyed, "shop"); again != once {
		t.Errorf("the same text gave\n%s\nand\n%s", once, again)
	}
}

// TestDefaultTag: what is compiled in names the images that `make images` builds.
func TestDefaultTag(t *testing.T) {
	chart, err := fs.ReadFile(charts.Signet(), "Chart.yaml")
	if err != nil || !strings.Contains(string(chart), "\nappVersion: "+DefaultTag+"\n") {
		t.Errorf("DefaultTag is %q, the chart says\n%s%v", DefaultTag, chart, err)
	}
}

// What the mesh sends whole is asked for by either name, and in no other words.
func TestDiscoveryByName(t *testing.T) {
	for key, ok := range map[string]bool{"discovery: full": true, "SIGNET_DISCOVERY: full": true, "discovery: ondemand": true, "discovery: all": false, "discover: full": false} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"proxy.istio.io/config": "proxyMetadata: {" + key + "}"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a:1"}}}}
		if _, err := DefaultConfig().Inject(pod, ""); (err == nil) != ok {
			t.Errorf("%s: %v", key, err)
		}
	}
}
