package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	registration "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/kube/inject"
	"github.com/signet-mesh/signet/kube/kubetest"
	"github.com/signet-mesh/signet/mesh"
)

var (
	restConfig *rest.Config
	client     kubernetes.Interface
)

func TestMain(m *testing.M) {
	kubetest.Main(m, func(cfg *rest.Config) {
		var warned warnings
		restConfig = rest.CopyConfig(cfg)
		restConfig.WarningHandler = &warned
		client = kubernetes.NewForConfigOrDie(restConfig)
	}, "deploy/crds")
}

// warnings collects what the API server warns of.
type warnings struct {
	mu  sync.Mutex
	all []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

// take gives what was collected since the last call.
func take() []string {
	w := restConfig.WarningHandler.(*warnings)
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.all
	w.all = nil
	return out
}

// told keeps Events.
type told struct {
	mu  sync.Mutex
	all []string
}

func (e *told) Event(o runtime.Object, kind, reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := o.(*corev1.ObjectReference)
	e.all = append(e.all, fmt.Sprintf("%s %s %s/%s %s: %s", kind, r.Kind, r.Namespace, r.Name, reason, message))
}

func (e *told) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.all
	e.all = nil
	return out
}

// world is a Server and a Keeper beside the API server.
type world struct {
	server *Server
	source *certs.Cell
	ca     *certtest.CA
	events *told
	cfg    *inject.Config
	url    string
}

const trustDomain = "cluster.local"

func start(t *testing.T, hooks func(w *world) (mutating, validating []string)) *world {
	t.Helper()
	before := goleak.IgnoreCurrent()
	w := &world{source: &certs.Cell{}, ca: certtest.NewCA(t, trustDomain), events: &told{}, cfg: inject.DefaultConfig()}
	w.issue(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.url = fmt.Sprintf("https://localhost:%d", l.Addr().(*net.TCPAddr).Port)
	w.server, err = New(Config{
		Listener: l, Source: w.source, Injection: func() *inject.Config { return w.cfg },
		Namespace: func(name string) (map[string]string, bool) {
			n, err := client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return nil, false
			}
			if n.Labels["cache"] == "lags" { // as an informer's may
				return nil, true
			}
			return n.Labels, true
		},
		Ask: func(ctx context.Context, name string) (map[string]string, error) {
			n, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			return n.Labels, nil
		},
		TrustDomain: trustDomain, Judge: judgeBad, Objects: func() []*mesh.Object { return nil },
		Events: w.events, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	mutating, validating := hooks(w)
	keeper := NewKeeper(KeeperConfig{Client: client, Source: w.source, TrustDomain: trustDomain, Mutating: mutating, Validating: validating, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- w.server.Run(ctx) }()
	go func() { done <- keeper.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		ending := context.WithoutCancel(ctx)
		for _, n := range mutating {
			_ = client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ending, n, metav1.DeleteOptions{})
		}
		for _, n := range validating {
			_ = client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ending, n, metav1.DeleteOptions{})
		}
		if t, ok := http.DefaultTransport.(*http.Transport); ok {
			t.CloseIdleConnections()
		}
		if err := goleak.Find(before, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
			goleak.IgnoreTopFunction("golang.org/x/net/http2.(*ClientConn).readLoop"), goleak.IgnoreAnyFunction("net/http/internal/http2.(*ClientConn).readLoop"),
			goleak.IgnoreTopFunction("internal/poll.runtime_pollWait")); err != nil {
			t.Error(err)
		}
	})
	return w
}

// issue gives the server a certificate of its CA.
func (w *world) issue(t *testing.T) {
	w.source.Set(w.ca.SVID(t, "spiffe://"+trustDomain+"/ns/signet-system/sa/signetd", certtest.AlsoDNS("localhost")),
		map[string]*certs.Bundle{trustDomain: w.ca.Bundle()})
}

// judgeBad refuses what is named bad, as a compiler would.
func judgeBad(o *mesh.Object) []mesh.Problem {
	if o.Name == "bad" {
		return []mesh.Problem{mesh.Fault(o, "spec.action", "can't be run")}
	}
	return nil
}

func hookClient(url string) registration.WebhookClientConfig {
	return registration.WebhookClientConfig{URL: &url}
}

// injector registers the injection webhook for the namespaces of this test.
func injector(name string) func(w *world) ([]string, []string) {
	return func(w *world) ([]string, []string) {
		effects, policy := registration.SideEffectClassNoneOnDryRun, registration.Fail
		_, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(context.Background(), &registration.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Webhooks: []registration.MutatingWebhook{{
				Name: "a.injector.signet.dev", ClientConfig: hookClient(w.url + InjectPath), AdmissionReviewVersions: []string{"v1"}, SideEffects: &effects, FailurePolicy: &policy,
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"test": name}},
				Rules: []registration.RuleWithOperations{{Operations: []registration.OperationType{registration.Create},
					Rule: registration.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}},
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			panic(err)
		}
		return []string{name}, nil
	}
}

func namespace(t *testing.T, name string, labels ...string) string {
	t.Helper()
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-", Labels: map[string]string{}}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		n.Labels[k] = v
	}
	made, err := client.CoreV1().Namespaces().Create(t.Context(), n, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made.Name
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 100 {
		if ok() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s: not within 10 s", what)
}

// simple is a pod with a service account: the plugin that gives every pod one is off in this API server.
func simple(mutate func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-"}, Spec: corev1.PodSpec{ServiceAccountName: "default", Containers: []corev1.Container{{Name: "web", Image: "web:1"}}}}
	if mutate != nil {
		mutate(p)
	}
	return p
}

func names(containers []corev1.Container) (out []string) {
	for i := range containers {
		out = append(out, containers[i].Name)
	}
	return out
}

// The API server itself calls the webhook, with the caBundle that the keeper wrote.
func TestPodsGetSidecars(t *testing.T) {
	w := start(t, injector("pods"))
	in := namespace(t, "in", "test=pods", "istio-injection=enabled")
	out := namespace(t, "out", "test=pods")
	create := func(ns string, p *corev1.Pod, dry ...string) (*corev1.Pod, error) {
		return client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{DryRun: dry})
	}
	eventually(t, "the first pod", func() bool { _, err := create(in, simple(nil), "All"); return err == nil })
	p, err := create(in, simple(func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "i:1"}} }))
	if err != nil || !slices.Equal(names(p.Spec.InitContainers), []string{"signet-capture", "istio-proxy", "first"}) {
		t.Fatalf("%v: init containers %v", err, names(p.Spec.InitContainers))
	}
	late := namespace(t, "late", "test=pods", "istio-injection=enabled", "cache=lags")
	if p, err = create(late, simple(nil)); err != nil || !inject.Injected(p) {
		t.Errorf("labelled a moment ago: %v, injected %v", err, inject.Injected(p))
	}
	if p, err = create(out, simple(nil)); err != nil || inject.Injected(p) {
		t.Errorf("without a label: %v, injected %v", err, inject.Injected(p))
	}
	if p, err = create(out, simple(func(p *corev1.Pod) { p.Labels = map[string]string{"sidecar.istio.io/inject": "true"} })); err != nil || !inject.Injected(p) {
		t.Errorf("by the pod's label: %v, injected %v", err, inject.Injected(p))
	}
	take()
	if p, err = create(in, simple(func(p *corev1.Pod) { p.Spec.HostNetwork = true })); err != nil || inject.Injected(p) {
		t.Errorf("hostNetwork: %v, injected %v", err, inject.Injected(p))
	}
	if got := strings.Join(take(), " "); !strings.Contains(got, "hostNetwork") {
		t.Errorf("hostNetwork: warnings %q", got)
	}
	user := func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64)}
		*p.Spec.SecurityContext.RunAsUser = 1337
	}
	if p, err = create(in, simple(user), "All"); err != nil || inject.Injected(p) || len(w.events.take()) != 0 {
		t.Errorf("a dry run: %v, or it has an Event", err)
	}
	if p, err = create(in, simple(user)); err != nil || inject.Injected(p) {
		t.Errorf("user 1337: %v, injected %v", err, inject.Injected(p))
	}
	if got := w.events.take(); len(got) != 1 || !strings.HasPrefix(got[0], "Warning Pod "+in+"/web-") || !strings.Contains(got[0], "user 1337") {
		t.Errorf("user 1337: Events %q", got)
	}
	_, err = create(in, simple(func(p *corev1.Pod) { p.Annotations = map[string]string{"sidecar.istio.io/bootstrapOverride": "x"} }))
	if err == nil || !strings.Contains(err.Error(), "annotation sidecar.istio.io/bootstrapOverride is not honoured") {
		t.Errorf("an annotation that is not honoured: %v", err)
	}
	for _, level := range []string{"baseline", "restricted"} {
		tight := namespace(t, "tight", "test=pods", "istio-injection=enabled", "pod-security.kubernetes.io/enforce="+level)
		if _, err = create(tight, simple(nil)); err == nil || !strings.Contains(err.Error(), "NET_ADMIN") || !strings.Contains(err.Error(), "Ways out") {
			t.Errorf("%s: %v", level, err)
		}
	}
	if n := testutil.ToFloat64(w.server.injection.WithLabelValues("injected")); n < 3 {
		t.Errorf("signet_injection_total{result=injected} is %v", n)
	}
	if n := testutil.ToFloat64(w.server.injection.WithLabelValues("refused")); n != 3 {
		t.Errorf("signet_injection_total{result=refused} is %v", n)
	}
}

// Whoever overwrites caBundle, and whenever the roots change: it is written again. A configuration that comes later is found.
func TestKeeper(t *testing.T) {
	w := start(t, func(w *world) ([]string, []string) {
		m, _ := injector("kept")(w)
		return append(m, "kept-later"), nil
	})
	hooks := client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	has := func(name string) func() bool {
		return func() bool {
			c, err := hooks.Get(t.Context(), name, metav1.GetOptions{})
			return err == nil && string(c.Webhooks[0].ClientConfig.CABundle) == string(w.ca.Bundle().PEM())
		}
	}
	eventually(t, "the first write", has("kept"))
	c, err := hooks.Get(t.Context(), "kept", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Webhooks[0].ClientConfig.CABundle = certtest.NewCA(t, trustDomain).Bundle().PEM()
	if _, err := hooks.Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "after somebody wrote others", has("kept"))
	w.ca = certtest.NewCA(t, trustDomain)
	w.issue(t)
	eventually(t, "after the roots changed", has("kept"))
	injector("kept-later")(w)
	eventually(t, "of a configuration that came later", has("kept-later"))
}

func TestDoorRefusesWhatIsNoReview(t *testing.T) {
	s, err := New(Config{Injection: inject.DefaultConfig, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, kind, body string
		status                   int
	}{
		{"GET", InjectPath, "application/json", "", 405},
		{"POST", "/other", "application/json", "{}", 404},
		{"POST", InjectPath, "text/plain", "{}", 415},
		{"POST", InjectPath, "application/json", "{", 400},
		{"POST", InjectPath, "application/json", "{}", 400},
		{"POST", ValidatePath, "application/json", `{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{}}`, 400},
		{"POST", ValidatePath, "application/json", `{"a":"` + strings.Repeat("x", MaxBodyBytes) + `"}`, 413},
		{"POST", ValidatePath, "application/json; charset=utf-8", `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"DELETE"}}`, 200},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, r)
		if rec.Code != c.status {
			t.Errorf("%s %s %s %.80s: %d, want %d: %s", c.method, c.path, c.kind, c.body, rec.Code, c.status, rec.Body)
		}
		if c.status == 200 && !strings.Contains(rec.Body.String(), `"uid":"u","allowed":true`) {
			t.Errorf("answer: %s", rec.Body)
		}
	}
}

// Before the first certificate a handshake fails; nothing else does.
func TestNoCertificateYet(t *testing.T) {
	s := &Server{cfg: Config{Source: &certs.Cell{}}}
	if c, err := s.certificate(nil); c != nil || err == nil {
		t.Errorf("%v, %v", c, err)
	}
}
