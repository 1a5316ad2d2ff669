package tool

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/kube/inject"
)

const webDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      containers: # the programs
      - {name: web, image: "web:1"}
`

func TestInject(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	web, service := file("web.yaml", webDeployment), file("service.yaml", "apiVersion: v1\nkind: Service\nmetadata:   {name: web}\n")
	settings := file("settings.yaml", "tag: '7'\ndns: true\nresources: {limits: {cpu: 2}}\n")
	for _, c := range []struct {
		name     string
		stdin    string
		args     []string
		code     int
		out, err []string // what they hold
	}{
		{"a file", "", []string{"-f", web}, 0, []string{"image: registry.local/signet/proxy:" + inject.DefaultTag, "# the programs", "restartPolicy: Always"}, nil},
		{"standard input", webDeployment, []string{"-f", "-"}, 0, []string{"signet-capture"}, nil},
		{"two files", "", []string{"-f", service, "-f", web}, 0, []string{"metadata:   {name: web}\n---\napiVersion: apps/v1"}, nil},
		{"flags", "", []string{"-f", web, "--hub", "reg.example", "--tag", "1.0", "--revision", "canary", "--native=false", "--trust-domain", "shop.example"}, 0,
			[]string{"image: reg.example/proxy:1.0", "istio.io/rev: canary", "value: shop.example", "- /signet-proxy"}, nil},
		{"settings", "", []string{"-f", web, "--config", settings, "--set", "resources.limits.memory=1Gi", "--set", "logLevel=debug"}, 0,
			[]string{"proxy:7", "- --dns", "memory: 1Gi", `cpu: "2"`, "value: debug"}, nil},
		{"a pod that stays as it is", "apiVersion: v1\nkind: Pod\nmetadata:   {name: a}\nspec: {hostNetwork: true, containers: [{name: a}]}\n", []string{"-f", "-"}, 0,
			[]string{"metadata:   {name: a}\nspec: {hostNetwork: true, containers: [{name: a}]}\n"}, []string{"-: document 1: Pod a: no sidecar is injected: spec.hostNetwork is true"}},
		{"no file", "", nil, cli.ExitMistake, nil, []string{"want -f FILE"}},
		{"a file that is not there", "", []string{"-f", filepath.Join(dir, "none")}, cli.ExitMistake, nil, []string{"none: no such file"}},
		{"an unknown setting", "", []string{"-f", web, "--set", "x.y=1"}, cli.ExitMistake, nil, []string{`unknown field "x"`}},
		{"a setting without a value", "", []string{"-f", web, "--set", "dns"}, cli.ExitMistake, nil, []string{"want KEY=VALUE"}},
		{"a setting below a text", "", []string{"-f", web, "--set", "hub=a", "--set", "hub.b=c"}, cli.ExitMistake, nil, []string{`"hub" holds no other settings`}},
		{"no kubeconfig", "", []string{"-f", web, "--kubeconfig", filepath.Join(dir, "none")}, cli.ExitMistake, nil, []string{"reading kubeconfig"}},
		{"a fault", strings.Replace(webDeployment, "spec:\n      containers", "metadata: {annotations: {sidecar.istio.io/x: v}}\n    spec:\n      containers", 1), []string{"-f", "-"}, cli.ExitMistake, nil,
			[]string{"-: document 1: Deployment web: injecting a sidecar: annotation sidecar.istio.io/x is not honoured: take it out"}},
	} {
		code, out, errs := signet(t, c.stdin, append([]string{"inject"}, c.args...)...)
		if code != c.code {
			t.Errorf("%s: exit %d, want %d: %s", c.name, code, c.code, errs)
		}
		for _, s := range c.out {
			if !strings.Contains(out, s) {
				t.Errorf("%s: the output lacks %q:\n%s", c.name, s, out)
			}
		}
		for _, s := range c.err {
			if !strings.Contains(errs, s) {
				t.Errorf("%s: standard error lacks %q:\n%s", c.name, s, errs)
			}
		}
		if c.code != 0 && out != "" {
			t.Errorf("%s: it failed and printed\n%s", c.name, out)
		}
		if c.code != 0 {
			continue
		}
		if code, again, _ := signet(t, out, "inject", "-f", "-"); code != 0 || again != out {
			t.Errorf("%s: what was printed changes when it is injected again (exit %d):\n%s", c.name, code, again)
		}
	}
}
