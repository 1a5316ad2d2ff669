package tokens_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/kube/kubetest"
	"github.com/signet-mesh/signet/kube/tokens"
)

// api is the API server's configuration; TestMain sets it once, before any test.
var api *rest.Config

func TestMain(m *testing.M) { kubetest.Main(m, func(cfg *rest.Config) { api = cfg }) }

func noLeaks(t *testing.T) {
	options := []goleak.Option{goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop")}
	t.Cleanup(func() { goleak.VerifyNone(t, options...) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is an API server with pods, and a judge beside it whose requests are counted.
type bench struct {
	admin   kubernetes.Interface
	ns      string
	fetches atomic.Int64 // of the key set
	reviews atomic.Int64
	other   atomic.Pointer[published] // what another API server publishes, while that is the one that answers
}

// published is what an API server says of its tokens, by path. A path that is not in it is 503.
type published map[string]string

func (p published) answer(r *http.Request) *http.Response {
	text, ok := p[r.URL.Path]
	out := &http.Response{StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(text))}
	if !ok {
		out.StatusCode = http.StatusServiceUnavailable
	}
	return out
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{}
	var err error
	b.admin, err = kubernetes.NewForConfig(api)
	must(t, err)
	ns, err := b.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tokens-"}}, metav1.CreateOptions{})
	must(t, err)
	b.ns = ns.Name
	return b
}

type counted func(*http.Request) (*http.Response, error)

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) { return c(r) }

// judge runs a judge until the test ends.
func (b *bench) judge(t testing.TB, change func(*tokens.Config)) *tokens.Judge {
	t.Helper()
	cfg := rest.CopyConfig(api)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return counted(func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, "/jwks") {
				b.fetches.Add(1)
			}
			if strings.HasSuffix(r.URL.Path, "/tokenreviews") {
				b.reviews.Add(1)
			}
			if p := b.other.Load(); p != nil && (r.URL.Path == "/openid/v1/jwks" || r.URL.Path == "/.well-known/openid-configuration") {
				return p.answer(r), nil
			}
			return next.RoundTrip(r)
		})
	})
	client, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	config := tokens.Config{Client: client, Pods: b.informed(t), PodWait: 300 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&config)
	}
	j, err := tokens.New(config)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return j
}

// informed knows pods by an informer, as the control plane does.
func (b *bench) informed(t testing.TB) func(namespace, name string) (uid, serviceAccount string, ok bool) {
	factory := informers.NewSharedInformerFactoryWithOptions(b.admin, 0, informers.WithNamespace(b.ns))
	lister := factory.Core().V1().Pods().Lister()
	ctx, cancel := context.WithCancel(t.Context())
	factory.StartWithContext(ctx)
	factory.WaitForCacheSync(ctx.Done())
	t.Cleanup(func() {
		cancel()
		factory.Shutdown()
	})
	return func(namespace, name string) (string, string, bool) {
		pod, err := lister.Pods(namespace).Get(name)
		if err != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			return "", "", false
		}
		return string(pod.UID), pod.Spec.ServiceAccountName, true
	}
}

func (b *bench) account(t testing.TB, name string) {
	t.Helper()
	_, err := b.admin.CoreV1().ServiceAccounts(b.ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
}

func (b *bench) pod(t testing.TB, name, account string) *corev1.Pod {
	t.Helper()
	pod, err := b.admin.CoreV1().Pods(b.ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	return pod
}

// end lets a pod's containers have ended, all well.
func (b *bench) end(t testing.TB, pod *corev1.Pod) {
	t.Helper()
	pod.Status.Phase = corev1.PodSucceeded
	_, err := b.admin.CoreV1().Pods(b.ns).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	must(t, err)
}

func (b *bench) delete(t testing.TB, pod string) {
	t.Helper()
	var now int64
	must(t, b.admin.CoreV1().Pods(b.ns).Delete(t.Context(), pod, metav1.DeleteOptions{GracePeriodSeconds: &now}))
}

// token asks the API server for a token, bound to a pod where one is given.
func (b *bench) token(t testing.TB, account string, pod *corev1.Pod, audiences ...string) string {
	t.Helper()
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: audiences}}
	if pod != nil {
		request.Spec.BoundObjectRef = &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	got, err := b.admin.CoreV1().ServiceAccounts(b.ns).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	must(t, err)
	return got.Status.Token
}

// count sums a counter, or what it has under one label's value.
func count(t testing.TB, c prometheus.Collector, name, label string) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	must(t, err)
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || strings.Contains(m.String(), `"`+label+`"`)) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
