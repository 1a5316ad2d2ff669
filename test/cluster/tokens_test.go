package cluster_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"
)

// tokens asks the CA for certificates as a pod does, with tokens of every kind.
func tokens(t *testing.T) {
	cart := podName(t, "shop", "cart")
	const going = "apiVersion: v1\nkind: Pod\nmetadata: {name: going, namespace: shop, labels: {sidecar.istio.io/inject: \"false\"}}\n" +
		"spec: {serviceAccountName: cart, nodeSelector: {nowhere: to-be-found}, containers: [{name: app, image: \"registry.local/app:1\"}]}\n"
	policy(t, going)
	bound := func(pod string, audience string) string {
		return strings.TrimSpace(kubectl(t, "", "-n", "shop", "create", "token", "cart", "--audience", audience, "--bound-object-kind", "Pod", "--bound-object-name", pod))
	}
	right := bound(cart, "signet-ca")
	left := bound("going", "signet-ca")
	kubectl(t, "", "-n", "shop", "delete", "pod", "going")

	ask, sign := newCA(t), tokenSigner(t)
	for name, token := range map[string]string{"audience signet-ca": right, "audience istio-ca": bound(cart, "istio-ca"), "signed here": sign(right, nil)} {
		leaf, err := ask(token)
		if err != nil || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://cluster.local/ns/shop/sa/cart" {
			t.Errorf("%s: %+v, %v", name, leaf, err)
		}
	}
	began := time.Now().UTC().Format(time.RFC3339)
	long := time.Now().Add(-time.Hour).Unix()
	refused := map[string]struct{ token, reason string }{
		"another audience":  {bound(cart, "vault"), "audience"},
		"of the API server": {bound(cart, "https://kubernetes.default.svc"), "audience"},
		"expired":           {sign(right, map[string]any{"exp": long, "nbf": long - 60, "iat": long - 60}), "expired"},
		"another issuer":    {sign(right, map[string]any{"iss": "https://kubernetes.example.com"}), "unknown_issuer"},
		"a pod that left":   {left, "pod_gone"},
	}
	for name, c := range refused {
		_, err := ask(c.token)
		if s := status.Convert(err); s.Code() != codes.Unauthenticated || s.Message() != "request authenticate failure" {
			t.Errorf("%s: %v", name, err)
		}
	}
	log := kubectl(t, "", "-n", system, "logs", "-l", "app.kubernetes.io/name=signetd", "--tail=-1", "--since-time", began)
	for name, c := range refused {
		if !strings.Contains(log, "judging service-account token: "+c.reason) {
			t.Errorf("%s: no refusal for %s in the log:\n%s", name, c.reason, log)
		}
	}
}

// newCA gives calls of IstioCertificateService; each gives the leaf.
func newCA(t *testing.T) func(token string) (*x509.Certificate, error) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(kubectl(t, "", "-n", "shop", "get", "configmap", "signet-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`))) {
		t.Fatal("no root in the ConfigMap")
	}
	addr := kubectl(t, "", "-n", system, "get", "service", "signetd", "-o", "jsonpath={.spec.clusterIP}") + ":15012"
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "signetd." + system + ".svc"})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	csr := request(t, "spiffe://cluster.local/ns/shop/sa/cart")
	return func(token string) (*x509.Certificate, error) {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token), 10*time.Second)
		defer cancel()
		answer, err := security.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &security.IstioCertificateRequest{Csr: csr, ValidityDuration: 3600})
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode([]byte(strings.Join(answer.GetCertChain(), "")))
		if block == nil {
			return nil, fmt.Errorf("answer %q", answer.GetCertChain())
		}
		return x509.ParseCertificate(block.Bytes)
	}
}

// tokenSigner signs what a token says, changed, with the API server's own key.
func tokenSigner(t *testing.T) func(token string, change map[string]any) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(os.Getenv("SIGNET_CLUSTER"), "pki", "sa.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := parsed.(*rsa.PrivateKey)
	return func(token string, change map[string]any) string {
		t.Helper()
		head, rest, _ := strings.Cut(token, ".")
		body, _, _ := strings.Cut(rest, ".")
		text, err := base64.RawURLEncoding.DecodeString(body)
		if err != nil {
			t.Fatal(err)
		}
		claims := map[string]any{}
		if err := json.Unmarshal(text, &claims); err != nil {
			t.Fatal(err)
		}
		maps.Copy(claims, change)
		if text, err = json.Marshal(claims); err != nil {
			t.Fatal(err)
		}
		signed := head + "." + base64.RawURLEncoding.EncodeToString(text)
		sum := sha256.Sum256([]byte(signed))
		signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
	}
}
