package mesh_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/signet-mesh/signet/mesh"
)

// cluster is what kube/source would make of a cluster: services of so many pods each, ten services in a namespace, each with a
// VirtualService, a DestinationRule and an AuthorizationPolicy.
func cluster(services, pods int) []*mesh.Object {
	var out []*mesh.Object
	add := func(group, kind, ns, name string, o *mesh.Object) {
		o.Key = mesh.Key{Group: group, Kind: kind, Namespace: ns, Name: name}
		o.Version, o.Created = "v1", time.Unix(int64(len(out)%977), 0)
		out = append(out, o)
	}
	for i := range services {
		ns, name := fmt.Sprintf("ns%d", i/10), fmt.Sprintf("svc%d", i)
		for p := range pods {
			spec := podOf(i, p)
			add("", mesh.KindPod, ns, fmt.Sprintf("%s-%d", name, p), &mesh.Object{Spec: spec,
				Meta: mesh.Meta{Annotations: map[string]string{mesh.OwnerAnnotation: name}}})
		}
		add("", mesh.KindService, ns, name, serviceOf(i, pods))
		add(mesh.GroupNetworking, mesh.KindVirtualService, ns, name, &mesh.Object{Spec: &networking.VirtualService{Hosts: []string{name},
			Http: []*networking.HTTPRoute{{Route: []*networking.HTTPRouteDestination{{Destination: &networking.Destination{Host: name, Subset: "all"}}}}}}})
		add(mesh.GroupNetworking, mesh.KindDestinationRule, ns, name, &mesh.Object{Spec: &networking.DestinationRule{Host: name,
			Subsets: []*networking.Subset{{Name: "all"}}}})
		add(mesh.GroupSecurity, mesh.KindAuthorizationPolicy, ns, name, &mesh.Object{Spec: &security.AuthorizationPolicy{
			Selector: &typev1beta1.WorkloadSelector{MatchLabels: map[string]string{"app": name}}, Rules: []*security.Rule{{}}}})
	}
	return out
}

func podOf(service, pod int) *networking.WorkloadEntry {
	n := service*64 + pod
	address := netip.AddrFrom4([4]byte{10, byte(1 + n>>16), byte(n >> 8), byte(n)})
	return &networking.WorkloadEntry{Address: address.String(), ServiceAccount: fmt.Sprintf("svc%d", service),
		Labels: map[string]string{"app": fmt.Sprintf("svc%d", service), mesh.LabelTLSMode: "istio"}}
}

func serviceOf(i, pods int) *mesh.Object {
	ns, name := fmt.Sprintf("ns%d", i/10), fmt.Sprintf("svc%d", i)
	spec := &networking.ServiceEntry{Hosts: []string{name + "." + ns + ".svc.cluster.local"}, Resolution: networking.ServiceEntry_STATIC,
		Addresses: []string{fmt.Sprintf("10.240.%d.%d", i>>8, i&255)},
		Ports:     []*networking.ServicePort{{Number: 80, Name: "http", Protocol: "HTTP", TargetPort: 8080}, {Number: 9000, Name: "raw", TargetPort: 9000}}}
	for p := range pods {
		w := podOf(i, p)
		w.Ports = map[string]uint32{"http": 8080, "raw": 9000}
		w.Labels[mesh.WorkloadLabel] = fmt.Sprintf("%s/%s-%d", ns, name, p)
		spec.Endpoints = append(spec.Endpoints, w)
	}
	return &mesh.Object{Spec: spec, Meta: mesh.Meta{Key: mesh.Key{Kind: mesh.KindService, Namespace: ns, Name: name}, Version: "v1", Created: time.Unix(5, 0)}}
}

// changed is the objects with one Service that lost or found an endpoint.
func changed(objects []*mesh.Object, service, pods int) []*mesh.Object {
	out, o := slices.Clone(objects), serviceOf(service, pods)
	i := slices.IndexFunc(out, func(have *mesh.Object) bool { return have.Key == o.Key })
	o.Created = out[i].Created
	out[i] = o
	return out
}

func BenchmarkBuildOneChange(b *testing.B) {
	objects := cluster(1000, 5)
	opts := mesh.BuildOptions{TrustDomain: "cluster.local"}
	var s [2][]*mesh.Object
	s[0], s[1] = changed(objects, 500, 4), changed(objects, 500, 5)
	opts.Previous, _ = mesh.Build(objects, opts)
	i := 0
	for b.Loop() {
		i++
		opts.Previous, _ = mesh.Build(s[i%2], opts)
	}
}

// BenchmarkBuildOnePod changes a pod's labels, which may concern every selector.
func BenchmarkBuildOnePod(b *testing.B) {
	objects := cluster(1000, 5)
	opts := mesh.BuildOptions{TrustDomain: "cluster.local"}
	opts.Previous, _ = mesh.Build(objects, opts)
	for b.Loop() {
		next := *objects[2000]
		objects = slices.Clone(objects)
		objects[2000] = &next
		opts.Previous, _ = mesh.Build(objects, opts)
	}
}

func BenchmarkBuildFromNothing(b *testing.B) {
	objects := cluster(1000, 5)
	for b.Loop() {
		mesh.Build(objects, mesh.BuildOptions{TrustDomain: "cluster.local"})
	}
}

func BenchmarkDemand(b *testing.B) {
	s, _ := mesh.Build(cluster(1000, 5), mesh.BuildOptions{TrustDomain: "cluster.local"})
	asked := []string{"svc7.ns0.svc.cluster.local", "svc500.ns50", "10.240.2.2"}
	for b.Loop() {
		if v, ok := s.Demand("ns10", "svc100-1", asked); !ok || len(v.Services) != 3 {
			b.Fatal(v.Services)
		}
	}
}

func BenchmarkView(b *testing.B) {
	s, _ := mesh.Build(cluster(1000, 5), mesh.BuildOptions{TrustDomain: "cluster.local"})
	for b.Loop() {
		if _, ok := s.View("ns10", "svc100-1"); !ok {
			b.Fatal("no view")
		}
	}
}
