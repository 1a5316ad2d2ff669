package plane

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signet-mesh/signet/mesh"
)

// build is the configuration of some YAML, with the quarantines and problems that a control plane has after its start.
func build(t *testing.T, text string) (*mesh.Snapshot, []mesh.Problem) {
	t.Helper()
	objects, problems := mesh.Parse("a.yaml", []byte(text), mesh.ParseOptions{TrustDomain: "cluster.local"})
	for _, p := range problems {
		if q := mesh.Quarantine(p); q != nil && !slices.ContainsFunc(objects, func(o *mesh.Object) bool { return o.Key == q.Key }) {
			objects = append(objects, q)
		}
	}
	s, more := mesh.Build(objects, mesh.BuildOptions{TrustDomain: "cluster.local"})
	return s, append(problems, more...)
}

const troubled = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: two-faults, namespace: shop}
spec: {acton: DENY, ruels: []}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: dangles, namespace: shop}
spec: {action: CUSTOM, provider: {name: nowhere}, rules: [{}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: refused, namespace: shop}
spec: {hosts: [a.shop], htp: []}
`

func TestFindings(t *testing.T) {
	snapshot, problems := build(t, troubled)
	var f findings
	f.set(snapshot, problems)
	got := map[string][]string{}
	for _, p := range f.list() {
		got[p.Name] = append(got[p.Name], p.State)
		if p.Message == "" || p.Where == "" || p.Kind == "" || p.Namespace != "shop" {
			t.Errorf("a finding lacks something: %+v", p)
		}
	}
	for name, want := range map[string][]string{
		"two-faults": {"quarantined", "quarantined"}, // each fault is a finding about an object that is quarantined
		"dangles":    {"unresolved"},
		"refused":    {"refused"},
	} {
		if !slices.Equal(got[name], want) {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if len(got) != 3 {
		t.Errorf("findings about %v", got)
	}

	// A control plane that starts again with a quarantine of before knows only its mark; a warning about it doesn't hide that.
	f.set(snapshot, []mesh.Problem{{Key: key("AuthorizationPolicy", "two-faults"), Severity: mesh.Warning, Message: "odd"}})
	var states []string
	for _, p := range f.list() {
		if states = append(states, p.State); p.State == "quarantined" && p.Message == "" {
			t.Errorf("no reason in %+v", p)
		}
	}
	if !slices.Equal(states, []string{"warning", "quarantined"}) {
		t.Errorf("after a restart: %q", states)
	}
	f.set(snapshot, nil)
	if b, err := json.Marshal(f.list()); err != nil || string(b) == "null" {
		t.Errorf("%s, %v", b, err)
	}
}

func key(kind, name string) mesh.Key {
	return mesh.Key{Group: mesh.GroupSecurity, Kind: kind, Namespace: "shop", Name: name}
}

func TestProblemMetrics(t *testing.T) {
	var f findings
	f.set(build(t, troubled))
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(newProblemMetrics(&f))
	families, err := r.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("%v, %v", families, err)
	}
	got := map[string]float64{}
	for _, m := range families[0].Metric {
		got[m.Label[0].GetValue()+" "+m.Label[1].GetValue()] = m.Gauge.GetValue()
	}
	want := map[string]float64{"AuthorizationPolicy quarantined": 2, "AuthorizationPolicy unresolved": 1, "VirtualService refused": 1}
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%s: %v, want %v (all: %v)", k, got[k], n, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
