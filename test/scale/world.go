package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/signet-mesh/signet/kube"
)

const namespaces = 10

// world is what is in the API server.
type world struct {
	size   size
	client kubernetes.Interface
}

func namespaceOf(service int) string { return fmt.Sprintf("team-%d", service%namespaces) }
func nameOf(service int) string      { return fmt.Sprintf("svc-%d", service) }
func host(service int) string {
	return nameOf(service) + "." + namespaceOf(service) + ".svc.cluster.local"
}

// pod k is behind Service k modulo their number.
func (w *world) pod(k int) (namespace, name string) {
	return namespaceOf(k % w.size.services), fmt.Sprintf("pod-%d", k)
}

func podAddress(k int) string {
	return netip.AddrFrom4([4]byte{10, byte(1 + k>>16), byte(k >> 8), byte(k)}).String()
}

// uses are the Services of a stream.
func (w *world) uses(client int) []int {
	out := make([]int, w.size.hosts)
	for i := range out {
		out[i] = (client*31 + i*337 + 1) % w.size.services
	}
	return out
}

// users are the streams of a Service.
func (w *world) users(service int) []int {
	var out []int
	for c := range w.size.streams {
		for _, s := range w.uses(c) {
			if s == service {
				out = append(out, c)
				break
			}
		}
	}
	return out
}

// build fills the API server.
func (w *world) build(ctx context.Context) error {
	began := time.Now()
	for _, n := range append([]string{kube.SystemNamespace, "istio-system"}, namespaceNames()...) {
		ns := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: n, Labels: map[string]string{kube.LabelInjection: "enabled"}}}
		if _, err := w.client.CoreV1().Namespaces().Create(ctx, ns, meta.CreateOptions{}); err != nil {
			return err
		}
		sa := &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: "default", Namespace: n}}
		if _, err := w.client.CoreV1().ServiceAccounts(n).Create(ctx, sa, meta.CreateOptions{}); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for i := range w.size.services {
		g.Go(func() error { return w.service(ctx, i) })
	}
	for k := range w.size.endpoints {
		g.Go(func() error { return w.makePod(ctx, k) })
	}
	err := g.Wait()
	say("%d Services and %d Pods are in the API server after %.0f s", w.size.services, w.size.endpoints, time.Since(began).Seconds())
	return err
}

func namespaceNames() []string {
	out := make([]string, namespaces)
	for i := range out {
		out[i] = fmt.Sprintf("team-%d", i)
	}
	return out
}

func (w *world) makePod(ctx context.Context, k int) error {
	ns, name := w.pod(k)
	service := k % w.size.services
	p := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name, Namespace: ns, Labels: map[string]string{"app": nameOf(service)},
			Annotations: map[string]string{kube.AnnotationStatus: `{"revision":"signet"}`}},
		Spec: core.PodSpec{ServiceAccountName: "default", NodeName: "node1",
			InitContainers: []core.Container{{Name: kube.ProxyContainer, Image: "proxy"}},
			Containers:     []core.Container{{Name: "app", Image: "app"}}},
	}
	made, err := w.client.CoreV1().Pods(ns).Create(ctx, p, meta.CreateOptions{})
	if err != nil {
		return err
	}
	made.Status = core.PodStatus{Phase: core.PodRunning, PodIP: podAddress(k), PodIPs: []core.PodIP{{IP: podAddress(k)}},
		Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}}}
	_, err = w.client.CoreV1().Pods(ns).UpdateStatus(ctx, made, meta.UpdateOptions{})
	return err
}

func (w *world) service(ctx context.Context, i int) error {
	ns, name := namespaceOf(i), nameOf(i)
	s := &core.Service{ObjectMeta: meta.ObjectMeta{Name: name, Namespace: ns},
		Spec: core.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []core.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}}}
	if _, err := w.client.CoreV1().Services(ns).Create(ctx, s, meta.CreateOptions{}); err != nil {
		return err
	}
	_, err := w.client.DiscoveryV1().EndpointSlices(ns).Create(ctx, w.slice(i), meta.CreateOptions{})
	return err
}

func (w *world) slice(i int) *discovery.EndpointSlice {
	ns, name := namespaceOf(i), nameOf(i)
	port, portName, ready := int32(8080), "http", true
	s := &discovery.EndpointSlice{ObjectMeta: meta.ObjectMeta{Name: name + "-1", Namespace: ns, Labels: map[string]string{discovery.LabelServiceName: name}},
		AddressType: discovery.AddressTypeIPv4, Ports: []discovery.EndpointPort{{Name: &portName, Port: &port}}}
	for k := i; k < w.size.endpoints; k += w.size.services {
		_, pod := w.pod(k)
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{podAddress(k)}, Conditions: discovery.EndpointConditions{Ready: &ready},
			TargetRef: &core.ObjectReference{Kind: "Pod", Namespace: ns, Name: pod}})
	}
	return s
}

// watch notes when the API server told of the newest change of each EndpointSlice, until ctx ends.
func (w *world) watch(ctx context.Context, seen func(slice string, at time.Time)) error {
	all, err := w.client.DiscoveryV1().EndpointSlices(meta.NamespaceAll).List(ctx, meta.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	events, err := w.client.DiscoveryV1().EndpointSlices(meta.NamespaceAll).Watch(ctx, meta.ListOptions{ResourceVersion: all.ResourceVersion})
	if err != nil {
		return err
	}
	defer events.Stop()
	for e := range events.ResultChan() {
		if s, ok := e.Object.(*discovery.EndpointSlice); ok {
			seen(s.Namespace+"/"+s.Name, time.Now())
		}
	}
	return nil
}

// change gives a Service one more endpoint, and says when the API server had taken it.
func (w *world) change(ctx context.Context, service int, address string) (time.Time, error) {
	s := w.slice(service)
	ready := true
	s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{address}, Conditions: discovery.EndpointConditions{Ready: &ready}})
	_, err := w.client.DiscoveryV1().EndpointSlices(s.Namespace).Update(ctx, s, meta.UpdateOptions{})
	return time.Now(), err
}

// orders makes a token for each stream's pod.
func (w *world) orders(ctx context.Context, p *plane) ([]order, error) {
	out := make([]order, w.size.streams)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for c := range out {
		g.Go(func() error {
			ns, name := w.pod(c)
			pod, err := w.client.CoreV1().Pods(ns).Get(ctx, name, meta.GetOptions{})
			if err != nil {
				return err
			}
			life := int64(3600)
			r, err := w.client.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{
				Audiences: []string{kube.Audience}, ExpirationSeconds: &life,
				BoundObjectRef: &authentication.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: name, UID: pod.UID}}}, meta.CreateOptions{})
			if err != nil {
				return err
			}
			out[c] = order{Client: c, Node: [2]string{ns, name}, Token: r.Status.Token, Control: p.control, Roots: p.roots}
			for _, s := range w.uses(c) {
				out[c].Hosts = append(out[c].Hosts, host(s))
			}
			return nil
		})
	}
	return out, g.Wait()
}
