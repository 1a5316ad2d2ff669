package install_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/cmd/internal/cluster"
	"github.com/signet-mesh/signet/cmd/internal/install"
)

// witness notes what the API server was asked and what it forbade.
type witness struct {
	next http.RoundTripper

	mu               sync.Mutex // guards what follows
	asked, forbidden []string
}

func (w *witness) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	if line := r.Method + " " + r.URL.Path; err == nil && resp.StatusCode == http.StatusForbidden {
		w.forbidden = append(w.forbidden, line)
	} else if err == nil {
		w.asked = append(w.asked, line)
	}
	return resp, err
}

// did reports whether a request was made and allowed.
func (w *witness) did(line string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.asked, func(s string) bool { return strings.HasPrefix(s, line) })
}

// lead runs a control plane with the rights of its ServiceAccount until the test ends.
func lead(t *testing.T) *witness {
	t.Helper()
	w := &witness{}
	api := rest.CopyConfig(config)
	api.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:signet-system:signetd",
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:signet-system", "system:authenticated"}}
	api.WrapTransport = func(rt http.RoundTripper) http.RoundTripper { w.next = rt; return w }
	cfg := cluster.Config{API: api, Instance: "signetd-0", Namespace: "signet-system", Alone: true, Linger: -1, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, l := range []*net.Listener{&cfg.Listener, &cfg.Metrics, &cfg.Webhooks} {
		var err error
		if *l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	c, err := cluster.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// silence points a validating webhook at namespaces that are not there: nobody serves its Service here.
func (a *api) silence(name string) {
	a.t.Helper()
	w, err := a.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(a.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	for i := range w.Webhooks {
		w.Webhooks[i].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"nowhere": "yes"}}
	}
	if _, err := a.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Update(a.t.Context(), w, metav1.UpdateOptions{}); err != nil {
		a.t.Fatal(err)
	}
}

// TestRights: the rights that the chart gives are enough for what the control plane does at work: nothing is forbidden to it, and
// each thing that it has to write gets written.
func TestRights(t *testing.T) {
	a := connect(t)
	text, _, err := output(t, install.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a.mustApply(text)
	t.Cleanup(func() { a.remove("signet", true) })
	a.silence("signet-validator")
	a.mustApply(`{apiVersion: v1, kind: Namespace, metadata: {name: rights, labels: {istio-injection: enabled}}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: good, namespace: rights}, spec: {}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: odd, namespace: rights}, spec: {rules: [{when: [{key: connection.nonsense, values: [x]}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: lost, namespace: rights}, spec: {hosts: [nowhere], http: [{route: [{destination: {host: nowhere}}]}]}}
---
{apiVersion: policy.signet.dev/v1alpha1, kind: RateLimitPolicy, metadata: {name: few, namespace: rights}, spec: {local: {rules: [{limit: {requests: 1, unit: Day}}]}}}`)
	t.Cleanup(func() {
		a.delete(decode(t, "{apiVersion: v1, kind: Namespace, metadata: {name: rights}}")[0])
		a.gone("rights")
	})
	w := lead(t)
	want := []string{
		"POST /api/v1/namespaces/signet-system/secrets",
		"PUT /apis/coordination.k8s.io/v1/namespaces/signet-system/leases/signetd", // a renewal
		"POST /apis/coordination.k8s.io/v1/namespaces/signet-system/leases",
		"POST /api/v1/namespaces/rights/configmaps",
		"POST /apis/certificates.k8s.io/v1beta1/clustertrustbundles",
		"GET /apis/certificates.k8s.io/v1/certificatesigningrequests",
		"PATCH /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/signet-injector",
		"PATCH /apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/signet-validator",
		"PATCH /apis/security.istio.io/v1/namespaces/rights/authorizationpolicies/good/status",
		"PATCH /apis/networking.istio.io/v1/namespaces/rights/virtualservices/lost/status",
		"PATCH /apis/policy.signet.dev/v1alpha1/namespaces/rights/ratelimitpolicies/few/status",
		"POST /apis/events.k8s.io/v1/namespaces/rights/events",
		"GET /openid/v1/jwks",
		"GET /apis/networking.istio.io/v1/workloadentries",
		"GET /apis/discovery.k8s.io/v1/endpointslices",
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if want = slices.DeleteFunc(want, w.did); len(want) == 0 {
			break
		}
	}
	for _, line := range want {
		t.Errorf("in half a minute there was no allowed %s", line)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.forbidden) > 0 {
		slices.Sort(w.forbidden)
		t.Error("the API server forbade: ", fmt.Sprint(slices.Compact(w.forbidden)))
	}
}
