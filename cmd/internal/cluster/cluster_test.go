package cluster_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/ca/caclient"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/rotate"
	"github.com/signet-mesh/signet/cmd/internal/cluster"
	"github.com/signet-mesh/signet/cmd/internal/plane"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/inject"
	"github.com/signet-mesh/signet/kube/kubetest"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsclient"
)

var api *rest.Config

func TestMain(m *testing.M) {
	kubetest.Main(m, func(cfg *rest.Config) { api = cfg }, "deploy/crds")
}

// lab is one API server's client and what a test makes there.
type lab struct {
	t      *testing.T
	client kubernetes.Interface
}

func newLab(t *testing.T) *lab {
	before := goleak.IgnoreCurrent()
	// The API server's clients share connections, which stay open beyond a test.
	t.Cleanup(func() {
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"),
			goleak.IgnoreAnyFunction("net/http/internal/http2.(*clientConnReadLoop).run"))
	})
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		t.Fatal(err)
	}
	return &lab{t, client}
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		l.t.Fatal(err)
	}
}

func (l *lab) namespace(name string) {
	l.t.Helper()
	_, err := l.client.CoreV1().Namespaces().Create(l.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	l.must(err)
}

// pod makes a pod with a sidecar that runs at an address, and its service account.
func (l *lab) pod(ns, name, account, address string, owner ...metav1.OwnerReference) *corev1.Pod {
	l.t.Helper()
	ctx := l.t.Context()
	_, err := l.client.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	l.must(err)
	p, err := l.client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": account}, Annotations: map[string]string{kube.AnnotationStatus: "{}"}, OwnerReferences: owner},
		Spec:       corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}}
	p, err = l.client.CoreV1().Pods(ns).UpdateStatus(ctx, p, metav1.UpdateOptions{})
	l.must(err)
	return p
}

// service makes a Service with one port that leads to a pod.
func (l *lab) service(ns, name string, port int32, p *corev1.Pod) *corev1.Service {
	l.t.Helper()
	ctx := l.t.Context()
	s, err := l.client.CoreV1().Services(ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: port}}}}, metav1.CreateOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	portName, number := "http", int32(8080)
	_, err = l.client.DiscoveryV1().EndpointSlices(ns).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &number}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{p.Status.PodIP}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: p.Name}}},
	}, metav1.CreateOptions{})
	l.must(err)
	return s
}

// token is a service-account token that is bound to a pod.
func (l *lab) token(p *corev1.Pod, audience string) string {
	l.t.Helper()
	seconds := int64(600)
	r, err := l.client.CoreV1().ServiceAccounts(p.Namespace).CreateToken(l.t.Context(), p.Spec.ServiceAccountName, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}}}, metav1.CreateOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	return r.Status.Token
}

// replica is one control plane that runs.
type replica struct {
	cfg  cluster.Config
	stop func() error
}

func (l *lab) start(ns, instance string, change func(*cluster.Config)) *replica {
	l.t.Helper()
	ready := make(chan struct{})
	r := &replica{cfg: cluster.Config{API: api, Instance: instance, Namespace: ns, Alone: true, Listener: l.listen(), Metrics: l.listen(),
		Webhooks: l.listen(), Linger: 200 * time.Millisecond, OnReady: func() { close(ready) }, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}}
	if change != nil {
		change(&r.cfg)
	}
	c, err := cluster.New(r.cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			l.t.Fatal("the control plane does not end")
			return nil
		}
	}
	l.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			l.t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		l.t.Fatal("the control plane ended: ", err)
	case <-time.After(30 * time.Second):
		l.t.Fatal("the control plane does not become ready")
	}
	return r
}

func (l *lab) listen() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	return ln
}

// roots are those that the control plane published in a namespace.
func (l *lab) roots(ns string) []*x509.Certificate {
	l.t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		c, err := l.client.CoreV1().ConfigMaps(ns).Get(l.t.Context(), kube.BundleConfigMap, metav1.GetOptions{})
		if err != nil {
			continue
		}
		roots, err := certs.ParseChainPEM([]byte(c.Data[kube.BundleKey]))
		if err == nil && len(roots) > 0 {
			return roots
		}
	}
	l.t.Fatalf("no trust bundle in namespace %s", ns)
	return nil
}

// proxy gets a certificate for a pod, and gives its views until the test ends.
func (l *lab) proxy(r *replica, p *corev1.Pod, roots []*x509.Certificate, audience string) (*rotate.Rotator, <-chan *mesh.View, *adsclient.Client) {
	l.t.Helper()
	client, err := caclient.New(caclient.Options{Addr: r.cfg.Listener.Addr().String(), TrustDomain: "cluster.local", Workload: p.Namespace + "/" + p.Name,
		Bearer: func() (string, error) { return l.token(p, audience), nil }, Roots: func() ([]*x509.Certificate, error) { return roots, nil }})
	if err != nil {
		l.t.Fatal(err)
	}
	own, err := rotate.New(rotate.Config{Issuer: client, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		l.t.Fatal(err)
	}
	server, err := identity.ControlPlane("cluster.local")
	if err != nil {
		l.t.Fatal(err)
	}
	views := make(chan *mesh.View, 64)
	ads, err := adsclient.New(adsclient.Config{Addr: r.cfg.Listener.Addr().String(), Source: own, Server: server, Namespace: p.Namespace, Workload: p.Name,
		Log: slog.New(slog.DiscardHandler), OnDemand: true, Apply: func(v *mesh.View) error { views <- v; return nil }})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 2)
	go func() { done <- own.Run(ctx) }()
	go func() { done <- ads.Run(ctx) }()
	l.t.Cleanup(func() {
		cancel()
		<-done
		<-done
	})
	return own, views, ads
}

func next(t *testing.T, views <-chan *mesh.View, want func(*mesh.View) bool) *mesh.View {
	t.Helper()
	limit := time.After(15 * time.Second)
	for {
		select {
		case v := <-views:
			if want(v) {
				return v
			}
		case <-limit:
			t.Fatal("the view that was waited for does not come")
			return nil
		}
	}
}

// TestPodJoins is the whole path: a pod's token becomes a certificate, its sidecar is sent itself and the Service it asks for,
// and learns of a new endpoint. Afterwards the control plane knows what the pod used.
func TestPodJoins(t *testing.T) {
	l := newLab(t)
	for _, ns := range []string{"signet-one", "orders", "stock"} {
		l.namespace(ns)
	}
	keeps := true
	cart := l.pod("orders", "cart-0", "cart", "10.9.0.1", metav1.OwnerReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "cart", UID: "1", Controller: &keeps})
	bare, depot := l.pod("orders", "bare", "bare", "10.9.0.4"), l.pod("stock", "depot-0", "depot", "10.9.0.2")
	service := l.service("stock", "depot", 80, depot)
	r := l.start("signet-one", "signetd-0", nil)
	own, views, ads := l.proxy(r, cart, l.roots("orders"), kube.Audience)
	v := next(t, views, func(*mesh.View) bool { return true })
	if got := own.Current().SVID.ID.String(); got != "spiffe://cluster.local/ns/orders/sa/cart" {
		t.Errorf("identity %s", got)
	}
	if !v.Self.Pod || v.Self.Address.String() != "10.9.0.1" || len(v.Services) != 0 || v.Mesh.RootNamespace != "signet-one" {
		t.Errorf("first view: %+v, %d services, root namespace %q", v.Self, len(v.Services), v.Mesh.RootNamespace)
	}
	const host = "depot.stock.svc.cluster.local"
	ads.Ask(host, service.Spec.ClusterIP)
	v = next(t, views, func(v *mesh.View) bool {
		return v.Asked[service.Spec.ClusterIP].Host == host && v.Asked[host].Host == host
	})
	if len(v.Services) != 1 || len(v.Services[0].Endpoints[0]) != 1 {
		t.Fatalf("services %+v", v.Services)
	}
	e := v.Services[0].Endpoints[0][0]
	if e.Address != "10.9.0.2:8080" || e.Identity.String() != "spiffe://cluster.local/ns/stock/sa/depot" || e.TLSMode != mesh.TLSModeIstio || e.Workload != "stock/depot-0" {
		t.Errorf("endpoint %+v", e)
	}
	second := l.pod("stock", "depot-1", "depot", "10.9.0.3")
	slice, err := l.client.DiscoveryV1().EndpointSlices("stock").Get(t.Context(), "depot-1", metav1.GetOptions{})
	l.must(err)
	slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{second.Status.PodIP}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: second.Name}})
	_, err = l.client.DiscoveryV1().EndpointSlices("stock").Update(t.Context(), slice, metav1.UpdateOptions{})
	l.must(err)
	next(t, views, func(v *mesh.View) bool { return len(v.Services) == 1 && len(v.Services[0].Endpoints[0]) == 2 })

	_, others, once := l.proxy(r, bare, l.roots("orders"), kube.Audience)
	next(t, others, func(*mesh.View) bool { return true })
	once.Ask(host)
	next(t, others, func(v *mesh.View) bool { return v.Asked[host].Host == host })

	var status plane.Status
	l.get(r, "/status", &status)
	if len(status.Proxies) != 2 || status.Proxies[1].Workload != "orders/cart-0" {
		t.Errorf("status: %+v", status)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	kept, err := l.client.CoreV1().ConfigMaps("signet-one").Get(t.Context(), kube.UsedConfigMap+"orders", metav1.GetOptions{})
	if err != nil || !strings.Contains(kept.Data["cart"], "\n"+host+" ") || len(kept.Data) != 1 { // nothing comes after a bare pod
		t.Errorf("used hosts: %v, %v", kept.Data, err)
	}
}

// get asks the metrics port.
func (l *lab) get(r *replica, path string, into any) {
	l.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get("http://" + r.cfg.Metrics.Addr().String() + path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		l.t.Fatalf("GET %s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		l.t.Fatal(err)
	}
}

// A token for another audience, and one of a pod that is gone, get nothing.
func TestWrongTokensGetNothing(t *testing.T) {
	l := newLab(t)
	l.namespace("signet-two")
	l.namespace("parcels")
	gone := l.pod("parcels", "gone-0", "gone", "10.9.1.1")
	r := l.start("signet-two", "signetd-0", nil)
	roots := l.roots("parcels")
	ask := func(token string) error {
		client, err := caclient.New(caclient.Options{Addr: r.cfg.Listener.Addr().String(), TrustDomain: "cluster.local",
			Bearer: func() (string, error) { return token, nil }, Roots: func() ([]*x509.Certificate, error) { return roots, nil }, Timeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		own, err := rotate.New(rotate.Config{Issuer: client, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- own.Run(ctx) }()
		for ctx.Err() == nil && own.Current().SVID == nil && own.Status().LastError == nil {
			time.Sleep(20 * time.Millisecond)
		}
		err = own.Status().LastError
		if own.Current().SVID != nil {
			err = nil
		}
		cancel()
		<-done
		return err
	}
	good := l.token(gone, kube.IstioAudience)
	if err := ask(good); err != nil {
		t.Errorf("a good token: %v", err)
	}
	if err := ask(l.token(gone, "other")); err == nil {
		t.Error("a token for another audience got a certificate")
	}
	now := int64(0)
	l.must(l.client.CoreV1().Pods("parcels").Delete(t.Context(), gone.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	time.Sleep(300 * time.Millisecond)
	if err := ask(good); err == nil {
		t.Error("the token of a pod that is gone got a certificate")
	}
}

// Two replicas share the roots. One that is told to end is not ready at once but still serves; its clients go to the other one,
// which leads then.
func TestReplicas(t *testing.T) {
	l := newLab(t)
	l.namespace("signet-three")
	l.namespace("wharf")
	crane := l.pod("wharf", "crane-0", "crane", "10.9.2.1")
	one := l.start("signet-three", "signetd-0", func(c *cluster.Config) { c.Linger = 2 * time.Second })
	two := l.start("signet-three", "signetd-1", nil)
	roots := l.roots("wharf")
	// The certificate is of the first replica, the configuration of the second.
	own, _, _ := l.proxy(one, crane, roots, kube.Audience)
	for end := time.Now().Add(10 * time.Second); own.Current().SVID == nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	server, err := identity.ControlPlane("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	views := make(chan *mesh.View, 64)
	ads, err := adsclient.New(adsclient.Config{Addr: two.cfg.Listener.Addr().String(), Source: own, Server: server, Namespace: "wharf", Workload: "crane-0",
		Log: slog.New(slog.DiscardHandler), OnDemand: true, Apply: func(v *mesh.View) error { views <- v; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ads.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	next(t, views, func(*mesh.View) bool { return true })

	ended := make(chan error, 1)
	go func() { ended <- one.stop() }()
	for end := time.Now().Add(time.Second); l.code(one) != http.StatusServiceUnavailable; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a replica that ends is still ready")
		}
	}
	late, _, _ := l.proxy(one, crane, roots, kube.Audience)
	for end := time.Now().Add(time.Second); late.Current().SVID == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a replica that lingers does not issue")
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := l.code(two); got != http.StatusOK {
		t.Errorf("the other replica: %d", got)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		lease, err := l.client.CoordinationV1().Leases("signet-three").Get(t.Context(), kube.LeaderLease, metav1.GetOptions{})
		if err == nil && lease.Spec.HolderIdentity != nil && strings.HasPrefix(*lease.Spec.HolderIdentity, "signetd-1") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nobody leads: %+v, %v", lease, err)
		}
	}
}

// outside listens on an address that an EndpointSlice may have: a loopback address may not be in one.
func (l *lab) outside() net.Listener {
	l.t.Helper()
	all, err := net.InterfaceAddrs()
	l.must(err)
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			if ln, err := net.Listen("tcp", net.JoinHostPort(n.IP.String(), "0")); err == nil {
				return ln
			}
		}
	}
	l.t.Fatal("this host has no address but loopback: give it one (ip address add 192.0.2.7/32 dev lo)")
	return nil
}

// serves puts a replica's metrics port behind the control plane's Service, as the API server's controllers would.
func (l *lab) serves(r *replica) {
	l.t.Helper()
	ctx, ns := l.t.Context(), r.cfg.Namespace
	_, err := l.client.CoreV1().Services(ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: kube.ControlPlane},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "tls-control", Port: 15012}, {Name: "http-monitoring", Port: 15014}}}}, metav1.CreateOptions{})
	l.must(err)
	at, family := r.cfg.Metrics.Addr().(*net.TCPAddr), discoveryv1.AddressTypeIPv4
	if at.IP.To4() == nil {
		family = discoveryv1.AddressTypeIPv6
	}
	names, control, metrics := []string{"tls-control", "http-monitoring"}, int32(15012), int32(at.Port)
	_, err = l.client.DiscoveryV1().EndpointSlices(ns).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: r.cfg.Instance, Labels: map[string]string{discoveryv1.LabelServiceName: kube.ControlPlane}},
		AddressType: family, Ports: []discoveryv1.EndpointPort{{Name: &names[0], Port: &control}, {Name: &names[1], Port: &metrics}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{at.IP.String()}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: r.cfg.Instance}}},
	}, metav1.CreateOptions{})
	l.must(err)
}

// programmed waits for the condition Programmed of a policy, and reports all messages that it had on the way.
func (l *lab) programmed(policies dynamic.ResourceInterface, name, status, message string) (before []string) {
	l.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(30 * time.Millisecond) {
		u, err := policies.Get(l.t.Context(), name, metav1.GetOptions{})
		l.must(err)
		all, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		for _, c := range all {
			m, _ := c.(map[string]any)
			if m["type"] != "Programmed" {
				continue
			}
			if m["status"] == status && m["message"] == message {
				return before
			}
			if got := fmt.Sprint(m["status"], ": ", m["message"]); len(before) == 0 || before[len(before)-1] != got {
				before = append(before, got)
			}
		}
	}
	l.t.Fatalf("Programmed of %s went through %q, want %s: %s", name, before, status, message)
	return nil
}

// Sidecars are spread over the replicas: the status that the leader writes counts those of all, and says so when a replica
// can't be asked.
func TestStatusOfAllReplicas(t *testing.T) {
	l := newLab(t)
	const system, ns = "signet-seven", "lagoon"
	l.namespace(system)
	l.namespace(ns)
	client, err := dynamic.NewForConfig(api)
	l.must(err)
	policies := client.Resource(schema.GroupVersionResource{Group: mesh.GroupSecurity, Version: "v1", Resource: "authorizationpolicies"}).Namespace(ns)
	policy := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "security.istio.io/v1", "kind": mesh.KindAuthorizationPolicy,
		"metadata": map[string]any{"name": "tide"}, "spec": map[string]any{"action": "DENY", "rules": []any{map[string]any{}}}}}
	outside := func(c *cluster.Config) { c.Metrics = l.outside() }
	one, two := l.start(system, "signetd-0", outside), l.start(system, "signetd-1", outside)
	l.serves(one)
	l.serves(two)
	roots := l.roots(ns)
	for i, r := range []*replica{one, two} {
		name := fmt.Sprintf("boat-%d", i)
		_, views, _ := l.proxy(r, l.pod(ns, name, "boat", fmt.Sprintf("10.9.7.%d", i+1)), roots, kube.Audience)
		next(t, views, func(*mesh.View) bool { return true })
	}
	_, err = policies.Create(t.Context(), policy, metav1.CreateOptions{})
	l.must(err)
	before := l.programmed(policies, "tide", "True", "2 of 2 proxies acknowledged")
	for _, b := range before {
		if strings.HasPrefix(b, "True") {
			t.Errorf("claimed before: %q", b)
		}
	}
	var a, b plane.Programmed
	l.get(one, "/programmed", &a)
	l.get(two, "/programmed", &b)
	if len(a.Objects) != 1 || len(b.Objects) != 1 || a.Objects[0] != b.Objects[0] || a.Objects[0].Version == "" || a.Objects[0].Acked != 1 {
		t.Errorf("the replicas say %+v and %+v", a, b)
	}
	// The one that does not lead ends and stays behind the Service: its sidecar counts no more.
	lease, err := l.client.CoordinationV1().Leases(system).Get(t.Context(), kube.LeaderLease, metav1.GetOptions{})
	l.must(err)
	other := two
	if strings.HasPrefix(*lease.Spec.HolderIdentity, "signetd-1") {
		other = one
	}
	l.must(other.stop())
	l.programmed(policies, "tide", "True", "1 of 1 proxies acknowledged; 1 replicas of the control plane could not be asked")
}

// code is what the readiness probe is told.
func (l *lab) code(r *replica) int {
	l.t.Helper()
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}).Get("http://" + r.cfg.Metrics.Addr().String() + "/healthz/ready")
	if err != nil {
		l.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// The settings of injection are followed; what can't be read changes nothing.
func TestInjectionIsFollowed(t *testing.T) {
	l := newLab(t)
	l.namespace("signet-four")
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: inject.ConfigMapName}, Data: map[string]string{inject.ConfigKey: "defaultRevision: true\nsystemNamespace: signet-four\n"}}
	settings, err := l.client.CoreV1().ConfigMaps("signet-four").Create(t.Context(), settings, metav1.CreateOptions{})
	l.must(err)
	l.namespace("bay")
	l.start("signet-four", "signetd-0", nil)
	l.roots("bay") // published in namespaces that name no revision
	for _, text := range []string{"nonsense: 1", "defaultRevision: false\nsystemNamespace: signet-four\n"} {
		settings.Data[inject.ConfigKey] = text
		settings, err = l.client.CoreV1().ConfigMaps("signet-four").Update(t.Context(), settings, metav1.UpdateOptions{})
		l.must(err)
		time.Sleep(200 * time.Millisecond)
		l.namespace("quay-" + strings.ToLower(text[:3]))
	}
	l.roots("quay-non") // made while broken settings were there: those before held
	time.Sleep(500 * time.Millisecond)
	if _, err := l.client.CoreV1().ConfigMaps("quay-def").Get(t.Context(), kube.BundleConfigMap, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a namespace of nobody got the trust bundle: %v", err)
	}
}
