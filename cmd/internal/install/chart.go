// Package install puts Signet into a Kubernetes cluster and takes it out again. The objects are those of the Helm chart, which is
// built in and rendered by Helm's own engine.
package install

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"

	"github.com/signet-mesh/signet/deploy/charts"
)

// maxValuesBytes bounds a file of values.
const maxValuesBytes = 1 << 20

// newest is the Kubernetes version that --offline renders for.
const newest = "v1.36.0"

// object is one document, with what it says of itself.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	text string
}

// Rendered are the chart's objects in the order in which they are applied, and the values that made them.
type Rendered struct {
	objects []object
	values  chartutil.Values
	version string
}

// order is that of applying: what others refer to comes first, and the webhooks, which refuse while the control plane is away,
// come last.
func order() []string {
	return []string{"Namespace", "CustomResourceDefinition", "ServiceAccount", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
		"NetworkPolicy", "Service", "Deployment", "PodDisruptionBudget", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
}

// loadChart reads the chart that is built in.
func loadChart() (*chart.Chart, error) {
	var files []*loader.BufferedFile
	root := charts.Signet()
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, p)
		files = append(files, &loader.BufferedFile{Name: p, Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the built-in chart: %w", err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("reading the built-in chart: %w", err)
	}
	return c, nil
}

// Profiles are the names of the chart's profiles.
func Profiles() []string {
	entries, err := fs.ReadDir(charts.Signet(), "profiles")
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

func readProfile(name string) (map[string]any, error) {
	if !slices.Contains(Profiles(), name) {
		return nil, fmt.Errorf("--profile %q: want %s", name, strings.Join(Profiles(), ", "))
	}
	text, err := fs.ReadFile(charts.Signet(), path.Join("profiles", name+".yaml"))
	if err != nil {
		return nil, fmt.Errorf("reading profile %q: %w", name, err)
	}
	return readValues("profile "+name, text)
}

func readValues(from string, text []byte) (map[string]any, error) {
	v := map[string]any{}
	if err := yaml.UnmarshalStrict(text, &v); err != nil {
		return nil, fmt.Errorf("reading %s: %w", from, err)
	}
	if v == nil { // a file of comments
		v = map[string]any{}
	}
	return v, nil
}

// addValues lays files over v, and KEY=VALUE pairs over both.
func addValues(v map[string]any, files, set []string) (map[string]any, error) {
	for _, name := range files {
		text, err := readLimited(name)
		if err != nil {
			return nil, fmt.Errorf("reading --values: %w", err)
		}
		over, err := readValues(name, text)
		if err != nil {
			return nil, err
		}
		v = chartutil.MergeTables(over, v)
	}
	for _, s := range set {
		if err := strvals.ParseInto(s, v); err != nil {
			return nil, fmt.Errorf("--set %q: %w", s, err)
		}
	}
	return v, nil
}

func readLimited(name string) ([]byte, error) {
	in := io.ReadCloser(os.Stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		in = f
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxValuesBytes+1))
	if err == nil && len(text) > maxValuesBytes {
		err = fmt.Errorf("%s has more than %d bytes", name, maxValuesBytes)
	}
	return text, err
}

// Render makes the chart's objects of values, for a Kubernetes of that version ("" is the newest known).
func Render(values map[string]any, namespace, version string) (*Rendered, error) {
	c, err := loadChart()
	if err != nil {
		return nil, err
	}
	capabilities, err := capabilitiesOf(c, version)
	if err != nil {
		return nil, err
	}
	release := chartutil.ReleaseOptions{Name: "signet", Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(c, values, release, capabilities)
	if err != nil {
		return nil, refusal(c, values, err)
	}
	r := &Rendered{version: c.AppVersion()}
	if r.values, err = all.Table("Values"); err != nil {
		return nil, fmt.Errorf("reading values: %w", err)
	}
	if err := judgeValues(r.values); err != nil {
		return nil, err
	}
	texts, err := engine.Render(c, all)
	if err != nil {
		return nil, fmt.Errorf("rendering the chart: %w", err)
	}
	if !slices.Contains(preset, namespace) {
		if err := r.add(namespaceText(namespace)); err != nil {
			return nil, err
		}
	}
	for _, crd := range c.CRDObjects() {
		if err := r.add(string(crd.File.Data)); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if strings.HasSuffix(name, ".yaml") {
			if err := r.add(texts[name]); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if err := r.judge(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(r.objects, func(a, b object) int { return slices.Index(order(), a.Kind) - slices.Index(order(), b.Kind) })
	return r, nil
}

func capabilitiesOf(c *chart.Chart, version string) (*chartutil.Capabilities, error) {
	if version == "" {
		version = newest
	}
	parsed, err := chartutil.ParseKubeVersion(version)
	if err != nil {
		return nil, fmt.Errorf("reading the version of the API server, %q: %w", version, err)
	}
	if want := c.Metadata.KubeVersion; !chartutil.IsCompatibleRange(want, parsed.Version) {
		return nil, fmt.Errorf("the API server is %s; Signet needs Kubernetes %s", version, strings.TrimSuffix(want, "-0"))
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *parsed
	return capabilities, nil
}

// preset are the namespaces that Kubernetes makes itself: what else lives there must not meet our Pod Security labels.
var preset = []string{"default", "kube-system", "kube-public", "kube-node-lease"}

// namespaceText is the namespace of the control plane, which passes the strictest of the Pod Security Standards.
func namespaceText(name string) string {
	return `apiVersion: v1
kind: Namespace
metadata:
  name: ` + name + `
  labels:
    app.kubernetes.io/part-of: signet
    app.kubernetes.io/managed-by: signet
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
`
}

// add takes the documents of a text.
func (r *Rendered) add(text string) error {
	for doc := range strings.SplitSeq("\n"+text, "\n---") {
		doc = strings.TrimSpace(doc)
		if doc == "" {
			continue
		}
		o := object{text: doc}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			return fmt.Errorf("reading a rendered object: %w", err)
		}
		if o.Kind == "" {
			continue // comments
		}
		if o.Metadata.Name == "" || !slices.Contains(order(), o.Kind) {
			return fmt.Errorf("reading a rendered object: %s %q has no place in the order of applying", o.Kind, o.Metadata.Name)
		}
		r.objects = append(r.objects, o)
	}
	return nil
}

// Print writes the objects as one stream of YAML.
func (r *Rendered) Print(w io.Writer) error {
	var all []error
	for _, o := range r.objects {
		_, err := fmt.Fprintf(w, "---\n%s\n", o.text)
		all = append(all, err)
	}
	return errors.Join(all...)
}

// value is a value's text.
func (r *Rendered) value(name string) string { return fmt.Sprint(r.values[name]) }

// images are those of the control plane and the sidecar.
func (r *Rendered) images() string {
	tag := r.value("tag")
	if tag == "" {
		tag = r.version
	}
	return fmt.Sprintf("%s/{signetd,proxy}:%s", r.value("hub"), tag)
}
