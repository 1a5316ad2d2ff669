package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// gatehouse is a mesh of two callers, web and guest, and of oven, whose policies are tested.
type gatehouse struct {
	*running
	ip         string // prefix: web is 1, oven 2, guest 3
	web, guest string // their HTTP proxies
}

// newGatehouse starts it with files besides the workloads. The program behind oven says what it saw.
func newGatehouse(t *testing.T, files map[string]string, flags ...string) *gatehouse {
	t.Helper()
	k := &gatehouse{ip: addr()}
	all := map[string]string{"workloads.yaml": objects(strict,
		entry("lab/web", k.ip+"1", "web", "app: web", ""),
		entry("lab/oven", k.ip+"2", "oven", "app: oven", ""),
		entry("yard/guest", k.ip+"3", "guest", "app: guest", ""),
		networkingObject("Sidecar", "lab/oven", fmt.Sprintf(`
workloadSelector: {labels: {app: oven}}
ingress: [{port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%d"}]`, echo(t, bake))),
		networkingObject("ServiceEntry", "lab/oven", `
hosts: [oven.lab]
ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
location: MESH_INTERNAL
resolution: STATIC
workloadSelector: {labels: {app: oven}}`))}
	for name, text := range files {
		all[name] = text
	}
	k.running = up(t, all, flags...)
	k.web, k.guest = "http://"+k.workload("lab/web").Outbound, "http://"+k.workload("yard/guest").Outbound
	return k
}

// bake is oven's program: it answers with the request, and with the length and digest of its body.
func bake(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	w.Header().Set("x-oven", "hot")
	fmt.Fprintf(w, "%s %s\nbody: %d %x %v\n", r.Method, r.RequestURI, n, sum.Sum(nil), err)
	_ = r.Header.Write(w)
}

// digest is the line in which bake says that it got a body.
func digest(body string) string {
	return fmt.Sprintf("body: %d %x <nil>\n", len(body), sha256.Sum256([]byte(body)))
}

// get is web's request to oven, with more arguments of curl, and its whole response.
func (k *gatehouse) get(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, exit := curl(t, append(append([]string{"-x", k.web}, args...), "http://oven.lab"+path)...)
	if exit != 0 {
		t.Fatalf("%s: curl ends with %d\n%s", path, exit, out)
	}
	return out
}

// code is the status of web's request to oven.
func (k *gatehouse) code(t *testing.T, path string, args ...string) string {
	t.Helper()
	return code(t, append(append([]string{"-x", k.web}, args...), "http://oven.lab"+path)...)
}

// becomes waits until a request is answered with a status.
func (k *gatehouse) becomes(t *testing.T, within time.Duration, want, path string, args ...string) {
	t.Helper()
	began := time.Now()
	eventually(t, within, func() string {
		if got := k.code(t, path, args...); got != want {
			return fmt.Sprintf("%s %q: %s, want %s", path, args, got, want)
		}
		return ""
	})
	t.Logf("%s became %s after %s", path, want, time.Since(began).Round(time.Millisecond))
}

// finding is one problem of `signet status -o json`.
type finding struct{ State, Kind, Namespace, Name, Where, Field, Message string }

// findings are the problems that `signet status` knows, and its exit code.
func (m *running) findings(t *testing.T) ([]finding, int) {
	t.Helper()
	out, errs, exit := run(t, "signet", "status", "--state", m.State, "-o", "json")
	var s struct {
		Control  struct{ Problems []finding }
		Sidecars []struct{ Warnings []string }
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("signet status: %v in %s\n%s", err, out, errs)
	}
	return s.Control.Problems, exit
}

// found waits until `signet status` has a finding of a state about an object.
func (m *running) found(t *testing.T, state, kind, name string) (got finding) {
	t.Helper()
	eventually(t, 3*time.Second, func() string {
		all, exit := m.findings(t)
		for _, got = range all {
			if got.State == state && got.Kind == kind && got.Name == name {
				if exit != 3 {
					return fmt.Sprintf("signet status ends with %d, want 3", exit)
				}
				return ""
			}
		}
		return fmt.Sprintf("no %s %s %s in %+v", state, kind, name, all)
	})
	return got
}

// controlMetrics are those of the control plane, from its admin socket, or why there are none.
func (m *running) controlMetrics(t *testing.T) string {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(m.State, "control.sock"))
	}}}
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://control/metrics", nil)
	resp, err := client.Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// onPath is a rule for paths.
func onPath(paths ...string) string {
	return `- to: [{operation: {paths: ["` + strings.Join(paths, `", "`) + `"]}}]`
}

// onOven is an AuthorizationPolicy of the namespace lab that selects oven.
func onOven(name, action, rules string) string {
	return policy("lab/"+name, "selector: {matchLabels: {app: oven}}\naction: "+action+"\nrules:\n"+rules)
}

// custom hands paths of oven to a provider.
func custom(name, provider string, paths ...string) string {
	return onOven(name, "CUSTOM\nprovider: {name: "+provider+"}", onPath(paths...))
}

// rehearsed makes an AuthorizationPolicy one in dry run.
func rehearsed(policy string) string {
	return strings.Replace(policy, "namespace: lab}", `namespace: lab, annotations: {istio.io/dry-run: "true"}}`, 1)
}

// regoPolicy is a RegoPolicy with one module.
func regoPolicy(key, query, module string) string {
	return object("policy.signet.dev/v1alpha1", "RegoPolicy", key,
		"query: "+query+"\nmodule: |\n  "+strings.ReplaceAll(strings.Trim(module, "\n"), "\n", "\n  "))
}
