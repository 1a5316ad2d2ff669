package bundle_test

import (
	"context"
	"crypto/x509"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/bundle"
	"github.com/signet-mesh/signet/kube/kubetest"
)

// api is the API server's configuration; TestMain sets it once, before any test.
var api *rest.Config

func TestMain(m *testing.M) { kubetest.Main(m, func(cfg *rest.Config) { api = cfg }) }

// roots is a bundle.Roots that a test changes.
type roots struct {
	mu      sync.Mutex // guards what follows
	list    []*x509.Certificate
	changed chan struct{}
}

func (r *roots) Watch() ([]*x509.Certificate, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list, r.changed
}

func (r *roots) set(list ...*x509.Certificate) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = list
	if r.changed != nil {
		close(r.changed)
	}
	r.changed = make(chan struct{})
	return string(certs.ChainPEM(list))
}

// faults answers every third write of a ConfigMap with 409 or 500, and counts the writes.
type faults struct {
	next   http.RoundTripper
	writes atomic.Int64
}

func (f *faults) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/configmaps") {
		if n := f.writes.Add(1); n%3 == 1 {
			status := []int{http.StatusConflict, http.StatusInternalServerError}[n/3%2]
			body := `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"` + map[int]string{409: "Conflict", 500: "InternalError"}[status] + `"}`
			out := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: http.NoBody, Request: r}
			out.Body = readCloser{strings.NewReader(body)}
			return out, nil
		}
	}
	return f.next.RoundTrip(r)
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

type bench struct {
	client  kubernetes.Interface
	dynamic dynamic.Interface
	roots   *roots
	writes  *atomic.Int64
}

func start(t *testing.T, selected func(*corev1.Namespace) bool) *bench {
	t.Helper()
	f := &faults{}
	cfg := rest.CopyConfig(api)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		f.next = next
		return f
	})
	under, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{roots: &roots{}, writes: &f.writes}
	if b.client, err = kubernetes.NewForConfig(api); err != nil {
		t.Fatal(err)
	}
	if b.dynamic, err = dynamic.NewForConfig(api); err != nil {
		t.Fatal(err)
	}
	b.roots.set(certtest.NewCA(t, "cluster.test").Cert)
	p, err := bundle.New(bundle.Config{Client: under, Dynamic: b.dynamic, Roots: b.roots, Selected: selected, Istio: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) namespace(t *testing.T, labels map[string]string) string {
	t.Helper()
	ns, err := b.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "mesh-", Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

func (b *bench) data(t *testing.T, ns, name string) map[string]string {
	got, err := b.client.CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return got.Data
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestConfigMaps(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), connections())
	t.Run("run", func(t *testing.T) {
		member := map[string]string{kube.LabelInjection: "enabled"}
		b := start(t, func(ns *corev1.Namespace) bool { return ns.Labels[kube.LabelInjection] == "enabled" })
		text := b.roots.set(certtest.NewCA(t, "cluster.test").Cert)
		in, out := b.namespace(t, member), b.namespace(t, nil)
		has := func(ns, name, want string) func() bool {
			return func() bool { return maps.Equal(b.data(t, ns, name), map[string]string{kube.BundleKey: want}) }
		}
		eventually(t, "published", has(in, kube.BundleConfigMap, text))
		eventually(t, "published by Istio's name", has(in, kube.IstioBundleConfigMap, text))
		maps := b.client.CoreV1().ConfigMaps(in)

		// A namespace that becomes a member.
		if _, err := b.client.CoreV1().Namespaces().Update(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: out, Labels: member}}, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a new member", has(out, kube.BundleConfigMap, text))

		// Damage is put right, deletion too.
		broken, err := maps.Get(t.Context(), kube.BundleConfigMap, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		broken.Data = map[string]string{kube.BundleKey: "evil", "more": "x"}
		broken.Labels, broken.Annotations = nil, map[string]string{"kept": "yes"}
		if _, err := maps.Update(t.Context(), broken, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "repaired", has(in, kube.BundleConfigMap, text))
		if got, err := maps.Get(t.Context(), kube.BundleConfigMap, metav1.GetOptions{}); err != nil || got.Annotations["kept"] != "yes" {
			t.Errorf("annotation: %v", err)
		}
		if err := maps.Delete(t.Context(), kube.IstioBundleConfigMap, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "made again", has(in, kube.IstioBundleConfigMap, text))

		// New roots reach everybody; then nothing more is written.
		text = b.roots.set(certtest.NewCA(t, "cluster.test").Cert, certtest.NewCA(t, "cluster.test").Cert)
		for _, ns := range []string{in, out} {
			eventually(t, "new roots", has(ns, kube.BundleConfigMap, text))
			eventually(t, "new roots by Istio's name", has(ns, kube.IstioBundleConfigMap, text))
		}
		time.Sleep(500 * time.Millisecond)
		before := b.writes.Load()
		time.Sleep(500 * time.Millisecond)
		if n := b.writes.Load(); n != before {
			t.Errorf("%d writes without a change", n-before)
		}
		if got := b.data(t, "default", kube.BundleConfigMap); got != nil {
			t.Error("published where nobody asked")
		}
	})
}

func TestIstiosOwnIsLeftAlone(t *testing.T) {
	b := start(t, func(ns *corev1.Namespace) bool {
		return strings.HasPrefix(ns.Name, "mesh-") && ns.Labels["go"] == "yes"
	})
	ns := b.namespace(t, nil)
	theirs := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: kube.IstioBundleConfigMap, Labels: map[string]string{"istio.io/config": "true"}}, Data: map[string]string{kube.BundleKey: "istiod's"},
	}
	if _, err := b.client.CoreV1().ConfigMaps(ns).Create(t.Context(), theirs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := b.client.CoreV1().Namespaces().Update(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{"go": "yes"}}}, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "ours", func() bool { return b.data(t, ns, kube.BundleConfigMap) != nil })
	b.roots.set(certtest.NewCA(t, "cluster.test").Cert)
	time.Sleep(500 * time.Millisecond)
	if got := b.data(t, ns, kube.IstioBundleConfigMap)[kube.BundleKey]; got != "istiod's" {
		t.Errorf("istiod's ConfigMap is %q now", got)
	}
}

func TestClusterTrustBundle(t *testing.T) {
	b := start(t, func(*corev1.Namespace) bool { return false })
	client := b.client.CertificatesV1beta1().ClusterTrustBundles()
	is := func(want string) func() bool {
		return func() bool {
			got, err := client.Get(t.Context(), kube.ClusterTrustBundle, metav1.GetOptions{})
			return err == nil && got.Spec.TrustBundle == want && got.Spec.SignerName == kube.SignerName
		}
	}
	text := b.roots.set(certtest.NewCA(t, "cluster.test").Cert)
	eventually(t, "published", is(text))
	text = b.roots.set(certtest.NewCA(t, "cluster.test").Cert, certtest.NewCA(t, "cluster.test").Cert)
	eventually(t, "new roots", is(text))
	if err := client.Delete(t.Context(), kube.ClusterTrustBundle, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "made again", is(text))
}

// connections are those of clients, which client-go keeps for the next one of the same configuration.
func connections() goleak.Option {
	return goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop")
}
