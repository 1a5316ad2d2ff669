package csr_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/authority"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/csr"
	"github.com/signet-mesh/signet/kube/kubetest"
)

const td = "cluster.test"

// api is the API server's configuration; TestMain sets it once, before any test.
var api *rest.Config

func TestMain(m *testing.M) { kubetest.Main(m, func(cfg *rest.Config) { api = cfg }) }

// logged is a log that may be read while it is written.
type logged struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type bench struct {
	admin kubernetes.Interface
	roots []*x509.Certificate
	log   *logged
}

func start(t *testing.T) *bench {
	t.Helper()
	b := &bench{log: &logged{}}
	var err error
	if b.admin, err = kubernetes.NewForConfig(api); err != nil {
		t.Fatal(err)
	}
	keys, err := authority.Open(t.TempDir(), td, authority.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keys.Close() })
	b.roots = keys.Roots()
	issuer, err := ca.New(ca.Options{TrustDomain: td, Keys: keys, Log: slog.New(slog.NewTextHandler(b.log, nil)), MaxTTL: 48 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := csr.New(csr.Config{Client: b.admin, CA: issuer, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- signer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

func newKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func request(t testing.TB, key crypto.Signer, template x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func uris(t testing.TB, list ...string) x509.CertificateRequest {
	var out x509.CertificateRequest
	for _, s := range list {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out.URIs = append(out.URIs, u)
	}
	return out
}

// create makes a request as a user whom the API server takes for the one named: impersonation is authentication to it.
func create(t testing.TB, user, signer string, spec certv1.CertificateSigningRequestSpec) *certv1.CertificateSigningRequest {
	t.Helper()
	cfg := rest.CopyConfig(api)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters"}}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	spec.SignerName = signer
	if spec.Usages == nil {
		spec.Usages = []certv1.KeyUsage{certv1.UsageDigitalSignature, certv1.UsageClientAuth, certv1.UsageServerAuth}
	}
	got, err := client.CertificatesV1().CertificateSigningRequests().Create(t.Context(),
		&certv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (b *bench) decide(t testing.TB, r *certv1.CertificateSigningRequest, kinds ...certv1.RequestConditionType) {
	t.Helper()
	for _, k := range kinds {
		r.Status.Conditions = append(r.Status.Conditions, certv1.CertificateSigningRequestCondition{Type: k, Status: corev1.ConditionTrue, Reason: "Test"})
	}
	if _, err := b.admin.CertificatesV1().CertificateSigningRequests().UpdateApproval(t.Context(), r.Name, r, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// outcome waits for a certificate or a failure.
func (b *bench) outcome(t testing.TB, name string) (chain []byte, failed string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		got, err := b.admin.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range got.Status.Conditions {
			if c.Type == certv1.CertificateFailed {
				return got.Status.Certificate, c.Reason + ": " + c.Message
			}
		}
		if len(got.Status.Certificate) > 0 {
			return got.Status.Certificate, ""
		}
	}
	t.Fatal("nothing became of the request")
	return nil, ""
}

const cart = "system:serviceaccount:shop:cart"

func TestSigned(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"))
	t.Run("run", func(t *testing.T) {
		b := start(t)
		key := newKey(t, elliptic.P384())
		for asked, want := range map[int32]time.Duration{0: ca.DefaultTTL, 600: 10 * time.Minute, 30 * 86400: 48 * time.Hour} {
			spec := certv1.CertificateSigningRequestSpec{Request: request(t, key, uris(t, "spiffe://cluster.test/ns/shop/sa/cart"))}
			if asked > 0 {
				spec.ExpirationSeconds = &asked
			}
			r := create(t, cart, kube.SignerName, spec)
			b.decide(t, r, certv1.CertificateApproved)
			chain, failed := b.outcome(t, r.Name)
			if failed != "" {
				t.Fatal(failed)
			}
			list, err := certs.ParseChainPEM(chain)
			if err != nil {
				t.Fatal(err)
			}
			svid, err := certs.NewSVID(list, key)
			if err != nil || svid.ID.String() != "spiffe://cluster.test/ns/shop/sa/cart" {
				t.Fatalf("%v: %v", svid, err)
			}
			bundle, err := certs.NewBundle(td, b.roots)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := certs.Verify(list, map[string]*certs.Bundle{td: bundle}, time.Now()); err != nil {
				t.Error(err)
			}
			if left := time.Until(svid.Leaf().NotAfter); left > want || left < want-time.Minute {
				t.Errorf("asked for %ds: ends in %v, want %v", asked, left, want)
			}
			if !strings.Contains(b.log.String(), "from="+r.Name) || !strings.Contains(b.log.String(), "proof=certificate-signing-request") {
				t.Error("no audit record")
			}
		}
	})
}

func TestFailed(t *testing.T) {
	b := start(t)
	key := newKey(t, elliptic.P256())
	id := "spiffe://cluster.test/ns/shop/sa/cart"
	good := uris(t, id)
	extra := func(change func(*x509.CertificateRequest)) []byte {
		r := uris(t, id)
		change(&r)
		return request(t, key, r)
	}
	// An otherName beside the URI, which x509 does not show.
	other, err := asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(id)},
		{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: []byte{0x06, 0x01, 0x2a, 0xa0, 0x03, 0x0c, 0x01, 'x'}},
	})
	if err != nil {
		t.Fatal(err)
	}
	hidden := x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: other}}}
	tests := map[string]struct {
		user    string
		request []byte
		usages  []certv1.KeyUsage
		want    string
	}{
		"a person":            {"alice", request(t, key, good), nil, "UsernameNotServiceAccount"},
		"a node":              {"system:node:a", request(t, key, good), nil, "UsernameNotServiceAccount"},
		"five parts":          {cart + ":x", request(t, key, good), nil, "UsernameNotServiceAccount"},
		"another account":     {"system:serviceaccount:shop:pay", request(t, key, good), nil, "SubjectAltNameNotIdentity"},
		"another namespace":   {"system:serviceaccount:other:cart", request(t, key, good), nil, "SubjectAltNameNotIdentity"},
		"no name":             {cart, request(t, key, uris(t)), nil, "SubjectAltNameNotIdentity"},
		"two URIs":            {cart, request(t, key, uris(t, id, "spiffe://cluster.test/ns/shop/sa/pay")), nil, "SubjectAltNameNotIdentity"},
		"twice the same":      {cart, request(t, key, uris(t, id, id)), nil, "SubjectAltNameNotIdentity"},
		"other domain":        {cart, request(t, key, uris(t, "spiffe://other.test/ns/shop/sa/cart")), nil, "SubjectAltNameNotIdentity"},
		"upper case":          {cart, request(t, key, uris(t, "spiffe://cluster.test/ns/shop/sa/Cart")), nil, "SubjectAltNameNotIdentity"},
		"a DNS name too":      {cart, extra(func(r *x509.CertificateRequest) { r.DNSNames = []string{"cart.shop.svc"} }), nil, "SubjectAltNameNotIdentity"},
		"an address too":      {cart, extra(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv6loopback} }), nil, "SubjectAltNameNotIdentity"},
		"a mail address too":  {cart, extra(func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }), nil, "SubjectAltNameNotIdentity"},
		"a hidden name":       {cart, request(t, key, hidden), nil, "SubjectAltNameNotIdentity"},
		"code signing":        {cart, request(t, key, good), []certv1.KeyUsage{certv1.UsageClientAuth, certv1.UsageCodeSigning}, "UsageNotAllowed"},
		"cert sign":           {cart, request(t, key, good), []certv1.KeyUsage{certv1.UsageCertSign}, "UsageNotAllowed"},
		"curve P-224":         {cart, request(t, newKey(t, elliptic.P224()), good), nil, "RequestMalformed"},
		"the control plane's": {"system:serviceaccount:signet-system:signetd", request(t, key, uris(t, "spiffe://cluster.test/ns/signet-system/sa/signetd")), nil, "IdentityNotAllowed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := create(t, tt.user, kube.SignerName, certv1.CertificateSigningRequestSpec{Request: tt.request, Usages: tt.usages})
			b.decide(t, r, certv1.CertificateApproved)
			chain, failed := b.outcome(t, r.Name)
			if len(chain) > 0 || !strings.HasPrefix(failed, tt.want+": ") {
				t.Errorf("certificate of %d bytes, failed %q, want %q", len(chain), failed, tt.want)
			}
			if !strings.Contains(b.log.String(), fmt.Sprintf("from=%s", r.Name)) {
				t.Error("no audit record")
			}
		})
	}
}

// TestLeftAlone: what is not approved, was denied, or is another signer's stays as it is.
func TestLeftAlone(t *testing.T) {
	b := start(t)
	spec := certv1.CertificateSigningRequestSpec{Request: request(t, newKey(t, elliptic.P256()), uris(t, "spiffe://cluster.test/ns/shop/sa/cart"))}
	pending := create(t, cart, kube.SignerName, spec)
	denied := create(t, cart, kube.SignerName, spec)
	b.decide(t, denied, certv1.CertificateDenied)
	foreign := create(t, cart, "example.com/other", spec)
	b.decide(t, foreign, certv1.CertificateApproved)
	last := create(t, cart, kube.SignerName, spec)
	b.decide(t, last, certv1.CertificateApproved)
	if _, failed := b.outcome(t, last.Name); failed != "" {
		t.Fatal(failed)
	}
	for _, name := range []string{pending.Name, denied.Name, foreign.Name} {
		got, err := b.admin.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Status.Certificate) > 0 || len(got.Status.Conditions) > 1 {
			t.Errorf("%s has status %+v", name, got.Status)
		}
	}
	// Approval comes late.
	b.decide(t, pending, certv1.CertificateApproved)
	if _, failed := b.outcome(t, pending.Name); failed != "" {
		t.Fatal(failed)
	}
}
