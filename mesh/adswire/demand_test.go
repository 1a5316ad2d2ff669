package adswire

import (
	"slices"
	"strings"
	"testing"
	"time"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// inCluster is testdata/shop.yaml with a Service of Kubernetes, its pods, and one that authorizes.
func inCluster(t testing.TB) *mesh.Snapshot {
	t.Helper()
	meta := func(kind, name string) mesh.Meta {
		return mesh.Meta{Key: mesh.Key{Kind: kind, Namespace: "shop", Name: name}, Version: "v1", Created: time.Unix(9, 0).UTC()}
	}
	pod := func(name, address string) *mesh.Object {
		return &mesh.Object{Meta: meta(mesh.KindPod, name), Spec: &networking.WorkloadEntry{Address: address, ServiceAccount: "pay",
			Labels: map[string]string{"app": "pay", mesh.LabelTLSMode: "istio"}}}
	}
	service := &networking.ServiceEntry{Hosts: []string{"pay.shop.svc.k8s.local"}, Addresses: []string{"10.96.0.1"}, Resolution: networking.ServiceEntry_STATIC,
		Ports: []*networking.ServicePort{{Number: 80, TargetPort: 8080}}}
	for name, address := range map[string]string{"pay-1": "10.1.0.1", "pay-2": "10.1.0.2"} {
		service.Endpoints = append(service.Endpoints, &networking.WorkloadEntry{Address: address, ServiceAccount: "pay",
			Ports: map[string]uint32{"": 8081}, Labels: map[string]string{"app": "pay", mesh.LabelTLSMode: "istio", mesh.WorkloadLabel: "shop/" + name}})
	}
	slices.SortFunc(service.Endpoints, func(a, b *networking.WorkloadEntry) int { return strings.Compare(a.Address, b.Address) })
	objects := append(slices.Clone(snapshot(t).Objects()), pod("pay-1", "10.1.0.1"), pod("pay-2", "10.1.0.2"),
		&mesh.Object{Meta: meta(mesh.KindService, "pay"), Spec: service})
	s, problems := mesh.Build(objects, mesh.BuildOptions{TrustDomain: trustDomain, ClusterDomain: "k8s.local", Control: &policy.ControlSettings{
		RateLimitStore: &policy.RateLimitStore{Url: "rediss://redis.example:6379", Password: "secret"}, RegoBuiltins: []string{"http.send"}}})
	for _, p := range problems {
		if p.Severity == mesh.Refused {
			t.Fatal(&p)
		}
	}
	return s
}

// What a proxy makes of a view on demand, or of a full one in a cluster, is what the control plane made.
func TestViewsOfAClusterSurviveTheWire(t *testing.T) {
	s := inCluster(t)
	asked := [][]string{nil, {"pay"}, {"10.96.0.1", "10.1.0.2", "nothing.example"}, {"reviews.shop.svc.cluster.local", "pay.shop.svc.k8s.local"},
		{"vault.bank.svc.cluster.local", "ledger.bank.svc.cluster.local", "127.0.10.2"}}
	for _, node := range append(nodes, "shop/pay-1") {
		ns, name, _ := strings.Cut(node, "/")
		for i, names := range append(asked, nil) {
			want, ok := s.Demand(ns, name, names)
			if i == len(asked) {
				want, ok = s.View(ns, name)
			}
			if !ok {
				t.Fatalf("no view of %s", node)
			}
			set, m := encode(t, want)
			steps, err := Steps(Versions{}, set, m)
			if err != nil {
				t.Fatal(err)
			}
			held, marker := receive(t, &Set{}, steps)
			got, err := held.View(marker)
			if err != nil {
				t.Fatalf("%s %q: %v", node, names, err)
			}
			if diff := different(want, got); diff != "" {
				t.Errorf("%s, asked for %q: %s", node, names, diff)
			}
			if marker.OnDemand != (want.Asked != nil) || marker.ClusterDomain != "k8s.local" {
				t.Errorf("marker %+v", marker)
			}
		}
	}
}

// An endpoint of a Service that is not asked for does not reach a proxy, and one that is does so as endpoints only.
func TestEndpointsTravelAlone(t *testing.T) {
	v, _ := inCluster(t).Demand("shop", "frontend", []string{"pay"})
	set, _ := encode(t, v)
	service := set.byType["core/v1/Service"].byName["shop/pay"]
	if service.Name == "" || strings.Contains(string(service.Body.GetValue()), "10.1.0.1") {
		t.Errorf("the Service travels as %q", service.Body.GetValue())
	}
	if set.Version(EndpointType, "outbound|80||pay.shop.svc.k8s.local") == "" || len(set.byType["core/v1/Pod"].byName) != 0 {
		t.Errorf("the set is %v", set.byType)
	}
}

func TestMarkersDiffer(t *testing.T) {
	m := Marker{TrustDomain: "a", Self: "b/c"}
	seen := map[string]bool{m.Generation(): true}
	for _, o := range []Marker{{TrustDomain: "a", Self: "b/c", ClusterDomain: "x"}, {TrustDomain: "a", Self: "b/c", OnDemand: true},
		{TrustDomain: "a", Self: "b/c", ClusterDomain: "onDemand"}} {
		if seen[o.Generation()] {
			t.Errorf("%+v has the generation of another", o)
		}
		seen[o.Generation()] = true
	}
}

func TestAnswersAreStrict(t *testing.T) {
	for plain, want := range map[mesh.Plain]bool{"": true, "!": true, "80 9090": true, "!8080": true, "9090 80": false, "x": false} {
		answer := mesh.Answer{Host: "h", Workload: "a/b", Plain: plain}
		r, err := encodeAnswer("a.example", answer)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Parse(HostType, overTheWire(t, r), trustDomain); (err == nil) != want || err == nil && got.answer != answer {
			t.Errorf("plain %q: %+v, %v", plain, got.answer, err)
		}
	}
	for name, want := range map[string]bool{"a.example": true, "10.0.0.1": true, "fd00::1": true, "A.example": false, "fd00:0::1": false, "*": false, "*.x": false, "a b": false} {
		r, err := encodeAnswer(name, mesh.Answer{Host: "h", Workload: "a/b"})
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(HostType, overTheWire(t, r), trustDomain)
		if (err == nil) != want || err == nil && got.answer != (mesh.Answer{Host: "h", Workload: "a/b"}) {
			t.Errorf("%s: %+v, %v", name, got.answer, err)
		}
	}
}
