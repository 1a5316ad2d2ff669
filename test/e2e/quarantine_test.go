package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ward is a workload of TestQuarantine with one object that is broken and mended.
type ward struct {
	kind, name string
	spec       string // of the object that is good and lets the request through
	good, bad  string // a part of the spec, and what it is replaced by to break it
	field      string // that is at fault, as told
	open, shut string // status of the request with the good object, and without a last good version
	plaintext  bool   // the request is made without the mesh
	by         string // who refuses, in the access log; "" if there is no such line
	attached   string // further objects
}

// wards are the kinds of security objects.
func wards() []ward {
	selector := func(app string) string { return "selector: {matchLabels: {app: " + app + "}}\n" }
	return []ward{
		{kind: "AuthorizationPolicy", name: "ap", spec: selector("ap") + "action: ALLOW\nrules: [{to: [{operation: {methods: [GET]}}]}]",
			good: "methods", bad: "metods", field: "spec.rules[0].to[0].operation.metods", open: "200", shut: "403", by: "AuthorizationPolicy/ward/ap[0]"},
		{kind: "PeerAuthentication", name: "pa", spec: selector("pa") + "mtls: {mode: PERMISSIVE}",
			good: "PERMISSIVE", bad: "PERMISIVE", field: "spec.mtls.mode", open: "200", shut: "curl 52", plaintext: true},
		{kind: "RequestAuthentication", name: "ra", spec: selector("ra") + "jwtRules: [{issuer: x, jwksUri: \"http://127.0.0.1:9/\"}]",
			good: "jwksUri:", bad: "jwksUrl:", field: "spec.jwtRules[0].jwksUrl", open: "200", shut: "403", by: "RequestAuthentication/ward/ra[0]"},
		{kind: "RegoPolicy", name: "rp", spec: "query: data.rp.allow\nmodule: |\n  package rp\n  allow := true",
			good: "allow :=", bad: "allow :==", field: "spec.module", open: "200", shut: "403", by: "RegoPolicy/ward/rp",
			attached: policy("ward/ask-rp", selector("rp")+"action: CUSTOM\nprovider: {name: rp}\nrules: [{}]")},
		{kind: "RateLimitPolicy", name: "rl", spec: selector("rl") + "local: {rules: [{limit: {requests: 1000, unit: Second}}]}",
			good: "unit: Second", bad: "unit: Fortnight", field: "spec.local.rules[0].limit.unit", open: "200", shut: "429", by: "RateLimitPolicy/ward/rl"},
	}
}

func (w *ward) text(broken bool) string {
	spec := w.spec
	if broken {
		spec = strings.Replace(spec, w.good, w.bad, 1)
	}
	version := "security.istio.io/v1"
	if w.kind == "RegoPolicy" || w.kind == "RateLimitPolicy" {
		version = "policy.signet.dev/v1alpha1"
	}
	return object(version, w.kind, "ward/"+w.name, spec)
}

// hospital is a mesh of a caller and one server for each ward.
type hospital struct {
	*running
	caller string
}

func newHospital(t *testing.T) *hospital {
	t.Helper()
	ip, port := addr(), echo(t, nil)
	docs := []string{meshConfig("accessLogEncoding: JSON"), entry("ward/caller", ip+"1", "caller", "app: caller", "")}
	for i, w := range wards() {
		docs = append(docs, entry("ward/"+w.name, fmt.Sprintf("%s%d", ip, 10+i), w.name, "app: "+w.name, ""), w.attached,
			networkingObject("Sidecar", "ward/"+w.name, fmt.Sprintf("workloadSelector: {labels: {app: %s}}\n"+
				"ingress: [{port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: \"127.0.0.1:%d\"}]", w.name, port)),
			networkingObject("ServiceEntry", "ward/"+w.name, fmt.Sprintf("hosts: [%s.ward]\nports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]\n"+
				"location: MESH_INTERNAL\nresolution: STATIC\nworkloadSelector: {labels: {app: %[1]s}}", w.name)))
	}
	m := up(t, map[string]string{"mesh.yaml": objects(docs...)})
	return &hospital{m, "http://" + m.workload("ward/caller").Outbound}
}

// ask makes the request of a ward.
func (h *hospital) ask(t *testing.T, w *ward) string {
	t.Helper()
	if w.plaintext {
		return code(t, "--noproxy", "*", "http://"+h.workload("ward/" + w.name).Inbound[0]+"/")
	}
	return code(t, "-x", h.caller, "http://"+w.name+".ward/")
}

func (h *hospital) becomes(t *testing.T, w *ward, want, when string) {
	t.Helper()
	eventually(t, 3*time.Second, func() string {
		if got := h.ask(t, w); got != want {
			return fmt.Sprintf("%s: %s, want %s", when, got, want)
		}
		return ""
	})
}

// stays checks for a while that a request is answered with a status.
func (h *hospital) stays(t *testing.T, w *ward, want, when string) {
	t.Helper()
	for range 8 {
		if got := h.ask(t, w); got != want {
			t.Fatalf("%s: %s, want %s", when, got, want)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (h *hospital) quarantined(t *testing.T, want int) {
	t.Helper()
	eventually(t, 10*time.Second, func() string {
		if text := h.controlMetrics(t); !strings.Contains(text, fmt.Sprintf("\nsignet_quarantined_objects %d\n", want)) {
			return fmt.Sprintf("signet_quarantined_objects is not %d in\n%s", want, text)
		}
		return ""
	})
}

// TestQuarantine breaks each kind of security object once while the mesh runs: with a last good version that goes on, without
// one the workload is closed, and everybody who asks is told.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	h := newHospital(t)
	all := wards()
	for i := range all {
		h.write(all[i].name+".yaml", all[i].text(true))
	}
	t.Run("without a last good version", func(t *testing.T) {
		for i := range all {
			t.Run(all[i].kind, func(t *testing.T) { h.closed(t, &all[i]) })
		}
		h.quarantined(t, len(all))
	})
	t.Run("control plane restarted", func(t *testing.T) {
		h.signal("role-control", syscall.SIGKILL)
		h.quarantined(t, len(all)) // which the new one says
		for i := range all {
			h.becomes(t, &all[i], all[i].shut, "after a restart of the control plane")
		}
	})
	for i := range all {
		h.write(all[i].name+".yaml", all[i].text(false))
	}
	t.Run("mended", func(t *testing.T) {
		for i := range all {
			h.becomes(t, &all[i], all[i].open, all[i].kind)
		}
		h.quarantined(t, 0)
		if all, _ := h.findings(t); len(all) > 0 { // its issuer is nowhere, which is a finding of another kind
			t.Errorf("signet status: %+v", all)
		}
	})
	for i := range all {
		h.write(all[i].name+".yaml", all[i].text(true))
	}
	t.Run("with a last good version", func(t *testing.T) {
		for i := range all {
			w := &all[i]
			if f := h.found(t, "refused", w.kind, w.name); f.Field != w.field {
				t.Errorf("%+v", f)
			}
			h.logged(t, w.name+`\.yaml:\d+`, w.kind+" ward/"+w.name, "the last good version stays in force")
			h.stays(t, w, w.open, w.kind)
		}
		h.quarantined(t, 0)
	})
}

// closed is what a broken object without a last good version does.
func (h *hospital) closed(t *testing.T, w *ward) {
	h.becomes(t, w, w.shut, "broken")
	f := h.found(t, "quarantined", w.kind, w.name)
	if !strings.HasPrefix(f.Where, filepath.Join(h.Dir, w.name+".yaml:")) || f.Field != w.field || f.Message == "" {
		t.Errorf("%+v", f)
	}
	h.logged(t, w.name+`\.yaml:\d+`, w.kind+" ward/"+w.name, "quarantine|denies|closed")
	if w.by != "" {
		h.logged(t, `^\{"workload":"ward\.`+w.name+`"`, `"response_code":`+w.shut, `"denied_by":"`+strings.NewReplacer("[", `\[`, "]", `\]`).Replace(w.by)+`"`)
	}
	if table, _, _ := run(t, "signet", "status", "--state", h.State); !strings.Contains(table, "quarantined") || !strings.Contains(table, w.kind+" ward/"+w.name) {
		t.Errorf("signet status:\n%s", table)
	}
}

// TestBrokenAtStart has each of them, and what is no security object, broken when `signet up` begins: it doesn't.
func TestBrokenAtStart(t *testing.T) {
	t.Parallel()
	texts := map[string]string{
		"VirtualService": networkingObject("VirtualService", "ward/vs", "hosts: [ap.ward]\nhtp: []"),
		"ConfigMap":      meshConfig("extensionProviders: [{name: judge, envoyExtAuthzGrpc: {service: judge.ward, port: 0}}]"),
	}
	for _, w := range wards() {
		texts[w.kind] = w.text(true)
	}
	for kind, text := range texts {
		t.Run(kind, func(t *testing.T) {
			state, dir := shortDir(t), directory(t, map[string]string{"mesh.yaml": fleet("127.0.99.", 1), "broken.yaml": text})
			_, errs, exit := run(t, "signet", "up", "--state", state, "--control-address", "127.0.0.1:0", dir)
			if exit != 2 || !strings.Contains(errs, filepath.Join(dir, "broken.yaml:")) || !strings.Contains(errs, kind) || !strings.Contains(errs, "nothing was started") {
				t.Errorf("exit %d\n%s", exit, errs)
			}
		})
	}
}

// TestBrokenProviders breaks MeshConfig's extensionProviders: those that were good go on, and where there were none what is
// handed to one of them is denied.
func TestBrokenProviders(t *testing.T) {
	t.Parallel()
	k := newGatehouse(t, map[string]string{"custom.yaml": custom("ask", "judge", "/ask")})
	config := func(port int) string {
		return meshConfig(fmt.Sprintf("accessLogEncoding: JSON\nextensionProviders: [{name: judge, envoyExtAuthzHttp: {service: judge.lab, port: %d}}]", port))
	}
	k.write("config.yaml", config(70000))
	k.found(t, "refused", "ConfigMap", "istio")
	k.logged(t, `config\.yaml:\d+`, "ConfigMap istio-system/istio", `extensionProviders\[0\]\.envoyExtAuthzHttp\.port`)
	for path, want := range map[string]string{"/ask": "403", "/other": "200"} {
		if got := k.code(t, path); got != want {
			t.Errorf("without a last good MeshConfig %s: %s, want %s", path, got, want)
		}
	}
	k.found(t, "unresolved", "AuthorizationPolicy", "ask")
	// A good one, whose service answers with 200 to everything.
	k.write("judge.yaml", networkingObject("ServiceEntry", "lab/judge", fmt.Sprintf(
		"hosts: [judge.lab]\nports: [{number: 8000, name: http, protocol: HTTP}]\nlocation: MESH_INTERNAL\nresolution: STATIC\nendpoints: [{address: 127.0.0.1, ports: {http: %d}}]", echo(t, nil))))
	k.write("config.yaml", config(8000))
	k.becomes(t, 3*time.Second, "200", "/ask")
	k.write("config.yaml", config(70000))
	k.found(t, "refused", "ConfigMap", "istio")
	for range 5 {
		if got := k.code(t, "/ask"); got != "200" {
			t.Errorf("with a last good MeshConfig: %s", got)
		}
		time.Sleep(100 * time.Millisecond)
	}
	k.jsonLogged(t, "lab.oven", "/ask", 200) // the other settings of the last good one go on too
}

// TestBrokenRoute breaks a VirtualService, which protects nothing: it is refused and told, and the last good one goes on.
func TestBrokenRoute(t *testing.T) {
	t.Parallel()
	k := newGatehouse(t, nil)
	route := func(match string) string {
		return networkingObject("VirtualService", "lab/oven", "hosts: [oven.lab]\nhttp: [{"+match+": [{uri: {prefix: /gone}}], directResponse: {status: 410}}, {route: [{destination: {host: oven.lab}}]}]")
	}
	k.write("route.yaml", route("mtch"))
	if f := k.found(t, "refused", "VirtualService", "oven"); f.Field != "spec.http[0].mtch" {
		t.Errorf("%+v", f)
	}
	if got := k.code(t, "/gone"); got != "200" {
		t.Errorf("a route that never was good: %s", got)
	}
	k.write("route.yaml", route("match"))
	k.becomes(t, 2*time.Second, "410", "/gone")
	k.write("route.yaml", route("mtch"))
	k.found(t, "refused", "VirtualService", "oven")
	if got := k.code(t, "/gone"); got != "410" {
		t.Errorf("the last good route: %s", got)
	}
}
