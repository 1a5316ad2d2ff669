package cluster_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
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
func (l *lab) pod(ns, name, account, address string) *corev1.Pod {
	l.t.Helper()
	ctx := l.t.Context()
	_, err := l.client.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	l.must(err)
	p, err := l.client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": account}, Annotations: map[string]string{kube.AnnotationStatus: "{}"}},
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
	cart, depot := l.pod("orders", "cart-0", "cart", "10.9.0.1"), l.pod("stock", "depot-0", "depot", "10.9.0.2")
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

	var status plane.Status
	l.get(r, "/status", &status)
	if len(status.Proxies) != 1 || status.Proxies[0].Workload != "orders/cart-0" {
		t.Errorf("status: %+v", status)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	kept, err := l.client.CoreV1().ConfigMaps("signet-one").Get(t.Context(), kube.UsedConfigMap+"orders", metav1.GetOptions{})
	if err != nil || !strings.HasPrefix(kept.Data["cart-0"], host+" ") {
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
