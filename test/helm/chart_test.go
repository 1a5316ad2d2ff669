// Package helm_test judges the chart with Helm itself, and what it renders with Kubernetes' own code.
package helm_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"
)

const (
	root      = "../.."
	folder    = root + "/deploy/charts/signet"
	namespace = "signet-system"
)

// profiles are the files of values that come with the chart.
func profiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(folder + "/profiles/*.yaml")
	if err != nil || len(files) != 3 {
		t.Fatalf("profiles: %v, %v; want default, demo and minimal", files, err)
	}
	for i := range files {
		files[i] = strings.TrimSuffix(filepath.Base(files[i]), ".yaml")
	}
	return files
}

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// values are those of a profile with KEY=VALUE over them.
func values(t *testing.T, profile string, set ...string) map[string]any {
	t.Helper()
	v, err := chartutil.ReadValuesFile(filepath.Join(folder, "profiles", profile+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range set {
		if err := strvals.ParseInto(s, v); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// template is 'helm template --include-crds'.
func template(t *testing.T, v map[string]any) (string, error) {
	t.Helper()
	return templateWith(t, v, true)
}

// templateWith is 'helm template', with or without CustomResourceDefinitions: they are most of the text, and no value changes them.
func templateWith(t *testing.T, v map[string]any, definitions bool) (string, error) {
	t.Helper()
	install := action.NewInstall(&action.Configuration{})
	install.ReleaseName, install.Namespace = "signet", namespace
	install.ClientOnly, install.DryRun, install.IncludeCRDs = true, true, definitions
	install.KubeVersion = &chartutil.KubeVersion{Version: "v1.36.0", Major: "1", Minor: "36"}
	release, err := install.Run(load(t), v)
	if err != nil {
		return "", err
	}
	return release.Manifest, nil
}

func mustTemplate(t *testing.T, profile string, set ...string) string {
	t.Helper()
	text, err := template(t, values(t, profile, set...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// documents of a stream by KIND NAMESPACE/NAME.
func documents(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for doc := range strings.SplitSeq("\n"+text, "\n---") {
		var o map[string]any
		if err := yaml.UnmarshalStrict([]byte(doc+"\n"), &o); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		if len(o) == 0 {
			continue
		}
		meta, _ := o["metadata"].(map[string]any)
		ns, _ := meta["namespace"].(string)
		key := fmt.Sprintf("%v %s/%v", o["kind"], ns, meta["name"])
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = o
	}
	return all
}

// TestLint is 'helm lint --strict' with each profile.
func TestLint(t *testing.T) {
	for _, p := range profiles(t) {
		lint := action.NewLint()
		lint.Strict, lint.Namespace = true, namespace
		lint.KubeVersion = &chartutil.KubeVersion{Version: "v1.36.0", Major: "1", Minor: "36"}
		result := lint.Run([]string{folder}, values(t, p))
		for _, err := range result.Errors {
			t.Errorf("%s: %v", p, err)
		}
		for _, m := range result.Messages {
			if !strings.Contains(m.Err.Error(), "icon is recommended") {
				t.Errorf("%s: %s", p, m)
			}
		}
	}
}

// TestSchema: what is not in the schema, or not of its form, is refused by name.
func TestSchema(t *testing.T) {
	for set, want := range map[string]string{
		"replicaz=3":                           "replicaz",
		"replicas=many":                        "replicas",
		"replicas=-1":                          "replicas",
		"revision=Upper":                       "revision",
		"revision=default":                     "revision",
		"revision=":                            "revision",
		"trustDomain=Shop.Example":             "trustDomain",
		"trustDomain=":                         "trustDomain",
		"clusterDomain=a b":                    "clusterDomain",
		"rootNamespace=a.b":                    "rootNamespace",
		"hub=Registry/Upper":                   "hub",
		"tag=a b":                              "tag",
		"imagePullPolicy=Sometimes":            "imagePullPolicy",
		"alone=maybe":                          "alone",
		"workloadCertTTL=1 day":                "workloadCertTTL",
		"webhooks.timeoutSeconds=31":           "timeoutSeconds",
		"webhooks.failurePolicy=Ignore":        "failurePolicy",
		"networkPolicy.egress.redisPort=70000": "redisPort",
		"injection.hub=x":                      "hub",
		"injection.logLevel=loud":              "logLevel",
		"injection.capture.ports=1":            "ports",
		"podDisruptionBudget=true":             "podDisruptionBudget",
		"resources.cpu=1":                      "cpu",
	} {
		if _, err := template(t, values(t, "default", set)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--set %s: %v, want a refusal that names %s", set, err, want)
		}
	}
}

// TestEveryValue: each value of values.yaml is in the schema, and each of the schema in values.yaml.
func TestEveryValue(t *testing.T) {
	text, err := os.ReadFile(folder + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := yaml.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	known, _ := schema["properties"].(map[string]any)
	for name := range load(t).Values {
		if known[name] == nil {
			t.Errorf("%s is in values.yaml and not in the schema", name)
		}
	}
	for name := range known {
		if _, ok := load(t).Values[name]; !ok && name != "global" {
			t.Errorf("%s is in the schema and not in values.yaml", name)
		}
	}
}

// signet builds the command.
func signet(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "signet")
	build := exec.Command("go", "build", "-o", bin, "./cmd/signet")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building signet: %v: %s", err, out)
	}
	return bin
}

// TestInstallIsTheChart: 'signet install --offline' prints what 'helm template' does, and the namespace.
func TestInstallIsTheChart(t *testing.T) {
	bin := signet(t)
	sets := [][]string{nil, {"revision=canary", "alone=false", "tag=9.9", "rootNamespace=istio-system", "tokenReview=true", "trustDomain=a.b", "meshConfig.trustDomain=a.b"},
		{"injection.native=true", "injection.resources.limits.memory=1Gi", "networkPolicy.egress.redisPort=6379", "extraArgs[0]=--allow-rego-builtin=http.send", "workloadCertTTL=1m"}}
	for _, p := range profiles(t) {
		for _, set := range sets {
			args := []string{"install", "--offline", "--profile", p}
			for _, s := range set {
				args = append(args, "--set", s)
			}
			var out, told bytes.Buffer
			cmd := exec.Command(bin, args...)
			cmd.Stdout, cmd.Stderr = &out, &told
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %v: %s", args, err, &told)
			}
			same(t, strings.Join(args, " "), documents(t, out.String()), documents(t, mustTemplate(t, p, set...)))
		}
	}
}

func same(t *testing.T, what string, printed, want map[string]map[string]any) {
	t.Helper()
	if printed["Namespace /"+namespace] == nil {
		t.Errorf("%s: no namespace", what)
	}
	delete(printed, "Namespace /"+namespace)
	if a, b := slices.Sorted(maps.Keys(printed)), slices.Sorted(maps.Keys(want)); !slices.Equal(a, b) {
		t.Errorf("%s prints\n%v\nand helm\n%v", what, a, b)
	}
	for key := range want {
		if !reflect.DeepEqual(printed[key], want[key]) {
			t.Errorf("%s: %s differs from Helm's", what, key)
		}
	}
}

// notes is what 'helm install' says at the end.
func notes(t *testing.T, set string) string {
	t.Helper()
	install := action.NewInstall(&action.Configuration{})
	install.ReleaseName, install.Namespace, install.ClientOnly, install.DryRun = "signet", namespace, true, true
	install.KubeVersion = &chartutil.KubeVersion{Version: "v1.36.0", Major: "1", Minor: "36"}
	release, err := install.Run(load(t), values(t, "default", set))
	if err != nil {
		t.Fatal(err)
	}
	return release.Info.Notes
}
