package inject

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/yaml"
)

// The example in Config's comment is what ParseConfig reads, and names every key.
func TestTheDocumentedConfigIsRead(t *testing.T) {
	src, err := os.ReadFile("config.go")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, m := range regexp.MustCompile(`(?m)^//\t(.*)$`).FindAllStringSubmatch(string(src), -1) {
		text.WriteString(m[1] + "\n")
	}
	if _, err := ParseConfig([]byte(text.String())); err != nil {
		t.Fatalf("%v in\n%s", err, text.String())
	}
	documented := map[string]any{}
	if err := yaml.Unmarshal([]byte(text.String()), &documented); err != nil {
		t.Fatal(err)
	}
	for _, key := range regexp.MustCompile(`json:"(\w+)`).FindAllStringSubmatch(string(src[:strings.Index(string(src), "type Capture")]), -1) {
		if _, ok := documented[key[1]]; !ok {
			t.Errorf("key %q is not in the comment", key[1])
		}
	}
}

func TestParseConfig(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "",
		"{}":                                    "",
		"tag: '1'":                              "",
		"hubb: x":                               `unknown field "hubb"`,
		"hub: a\nhub: b":                        `already set`,
		"tag: 1.0":                              "want a text, found 1: quote it",
		"revision: A_b":                         `revision: "A_b" is no DNS label`,
		"trustDomain: ''":                       `trustDomain: "" is no DNS name`,
		"hookKey: short":                        `hookKey: 5 bytes: want a secret of at least 16`,
		"image: a b":                            `is no image`,
		"imagePullPolicy: Never ":               "",
		"imagePullPolicy: Often":                `imagePullPolicy: "Often"`,
		"logLevel: loud":                        `logLevel: "loud"`,
		"capture: {excludeOutboundPorts: http}": `capture.excludeOutboundPorts: "http" is no port`,
		"capture: {excludeOutboundIPRanges: '*'}":     `want addresses or CIDR ranges`,
		"capture: {includeInboundPorts: '80,*'}":      `stands alone`,
		"proxyConfig: {caCertificatesPem: [x]}":       `proxyConfig: caCertificatesPem is not honoured`,
		"proxyConfig: {concurrency: 2}":               "",
		"proxyConfig: {concurrency: -2}":              "want 0 to 1024",
		"proxyConfig: {drainDuration: -1s}":           "drainDuration: want 0s to 24h",
		"resources: {limits: {memory: lots}}":         "quantities must match",
		strings.Repeat("# comment\n", MaxConfigBytes): "more than 262144",
	} {
		c, err := ParseConfig([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || (c == nil) != (err != nil) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
	c, err := ParseConfig([]byte("resources: {requests: {cpu: 1}}"))
	if err != nil || len(c.Resources.Limits) != 0 || len(c.Resources.Requests) != 1 {
		t.Errorf("resources are not replaced as a whole: %+v, %v", c, err)
	}
}

func TestNative(t *testing.T) {
	for v, want := range map[string]bool{"v1.28.9": false, "v1.29.0": true, "v1.29.0-gke.1": true, "1.36.3+k3s1": true} {
		if got := HasNative(version.MustParseGeneric(v)); got != want {
			t.Errorf("%s: %v", v, got)
		}
	}
	said, err := ParseConfig([]byte("native: false"))
	if err != nil || *said.WithNative(true).Native {
		t.Errorf("what is said is overruled: %v", err)
	}
	if c := DefaultConfig(); !*c.WithNative(true).Native || c.Native != nil {
		t.Error("what is not said is not by the version, or the original changed")
	}
}

// A patch leaves alone what this version of Kubernetes' types does not know.
func TestDiffKeepsWhatIsUnknown(t *testing.T) {
	raw := `{"metadata":{"name":"a"},"spec":{"future":{"x":1},"initContainers":[{"name":"i","future":2}],"containers":[{"name":"a","future":3,"livenessProbe":{"httpGet":{"port":80,"future":4}}}]}}`
	pod := &corev1.Pod{}
	if err := json.Unmarshal([]byte(raw), pod); err != nil {
		t.Fatal(err)
	}
	before := pod.DeepCopy()
	if _, err := DefaultConfig().Inject(pod, ""); err != nil {
		t.Fatal(err)
	}
	ops, err := Diff(before, pod)
	if err != nil {
		t.Fatal(err)
	}
	out, err := applyJSON([]byte(raw), ops, "")
	if err != nil {
		t.Fatal(err)
	}
	got := &corev1.Pod{}
	if err := json.Unmarshal(out, got); err != nil {
		t.Fatal(err)
	}
	want, have := mustJSON(t, pod), mustJSON(t, got)
	if want != have {
		t.Errorf("the patch gives\n%s\nwant\n%s", have, want)
	}
	for _, s := range []string{`"future":{"x":1}`, `"future":2`, `"future":3`} {
		if !strings.Contains(strings.ReplaceAll(strings.ReplaceAll(string(out), "\n", ""), ": ", ":"), s) {
			t.Errorf("%s is gone: %s", s, out)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
