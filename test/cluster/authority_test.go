package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"
)

func podSecurity(t *testing.T) {
	namespace(t, "guarded", "istio-injection=enabled", "pod-security.kubernetes.io/enforce=restricted")
	_, err := tryKubectl(`
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: guarded}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers: [{name: app, image: "registry.local/app:1", securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]
`, "apply", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "NET_ADMIN") || !strings.Contains(err.Error(), "restricted") {
		t.Errorf("got %v", err)
	}
}

// request is a PEM certificate request for one URI.
func request(t *testing.T, uri string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{u}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// certificateRequests makes requests as a service account and approves them as the administrator.
func certificateRequests(t *testing.T) {
	rights := `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: asker}
rules: [{apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests], verbs: [create, get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: asker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: asker}
subjects: [{kind: ServiceAccount, name: cart, namespace: shop}]
`
	policy(t, rights)
	ask := func(name, uri string) {
		t.Helper()
		text := fmt.Sprintf(`
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: %s}
spec: {signerName: signet.dev/workload, usages: [digital signature, client auth], expirationSeconds: 3600, request: %s}
`, name, base64.StdEncoding.EncodeToString([]byte(request(t, uri))))
		eventually(t, "asking for "+name, func() error {
			_, err := tryKubectl(text, "--as", "system:serviceaccount:shop:cart", "apply", "-f", "-")
			return err
		})
		t.Cleanup(func() { _, _ = tryKubectl("", "delete", "csr", name) })
	}
	state := func(name string) string {
		return kubectl(t, "", "get", "csr", name, "-o", "jsonpath={.status.certificate}|{.status.conditions[*].type}|{.status.conditions[*].message}")
	}
	ask("cart-true", "spiffe://cluster.local/ns/shop/sa/cart")
	ask("cart-waits", "spiffe://cluster.local/ns/shop/sa/cart")
	ask("cart-lies", "spiffe://cluster.local/ns/shop/sa/pay")
	kubectl(t, "", "certificate", "approve", "cart-true", "cart-lies")
	eventually(t, "the true one is signed", func() error {
		if s := state("cart-true"); strings.HasPrefix(s, "|") {
			return fmt.Errorf("%s", s)
		}
		return nil
	})
	eventually(t, "the lie has failed", func() error {
		if s := state("cart-lies"); !strings.Contains(s, "Failed") {
			return fmt.Errorf("%s", s)
		}
		return nil
	})
	if s := state("cart-lies"); !strings.HasPrefix(s, "|") {
		t.Errorf("the lie was signed: %s", s)
	}
	if s := state("cart-waits"); !strings.HasPrefix(s, "|") {
		t.Errorf("signed without approval: %s", s)
	}
}

// signer is a CA certificate with its key.
func signer(t *testing.T, name string, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	if parent == nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}

// pluggedCA puts a Secret cacerts in place, breaks it, and looks at whose certificates are issued.
func pluggedCA(t *testing.T) {
	root, rootKey := signer(t, "House Root", nil, nil)
	ca, key := signer(t, "House Signing", root, rootKey)
	_, other := signer(t, "Somebody", nil, nil)
	secret := func(key *ecdsa.PrivateKey) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		enc := func(kind string, der []byte) string {
			return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
		}
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: cacerts, namespace: %s}\ndata: {ca-cert.pem: %s, ca-key.pem: %s, cert-chain.pem: %s, root-cert.pem: %s}\n",
			system, enc("CERTIFICATE", ca.Raw), enc("PRIVATE KEY", der), enc("CERTIFICATE", ca.Raw), enc("CERTIFICATE", root.Raw))
	}
	t.Cleanup(func() { _, _ = tryKubectl("", "-n", system, "delete", "secret", "cacerts") })
	house := base64.StdEncoding.EncodeToString(root.Raw)
	trusted := func() bool {
		b := kubectl(t, "", "-n", "shop", "get", "configmap", "signet-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`)
		return strings.Contains(strings.ReplaceAll(b, "\n", ""), house)
	}
	apply(t, secret(other)) // the key is not the certificate's
	eventually(t, "the mismatched set is refused by name", func() error {
		out, err := tryKubectl("", "-n", system, "logs", "-l", "app.kubernetes.io/name=signetd", "--tail=200")
		if err != nil || !strings.Contains(out, "key_mismatch") {
			return fmt.Errorf("not in the log: %v", err)
		}
		return nil
	})
	if out := kubectl(t, "", "-n", system, "get", "events", "--field-selector", "involvedObject.name=cacerts", "-o", "jsonpath={.items[*].reason}"); !strings.Contains(out, "PluggedCARefused") {
		t.Errorf("Events about the Secret: %q", out)
	}
	if trusted() {
		t.Error("the root of a mismatched set is published")
	}
	if r := call(t, "shop", "deploy/cart", pay); r.Status != 200 {
		t.Errorf("after the refusal: %+v", r)
	}
	apply(t, secret(key))
	eventually(t, "the new root is published", func() error {
		if !trusted() {
			return fmt.Errorf("it is not in the bundle")
		}
		return nil
	})
	eventually(t, "it signs", func() error {
		out, err := tryKubectl("", "-n", system, "logs", "-l", "app.kubernetes.io/name=signetd", "--tail=200")
		if n := strings.Count(out, "PluggedCAInUse"); err != nil || n == 0 {
			return fmt.Errorf("no replica says so: %v", err)
		}
		return nil
	})
	// pay gets certificates under the new root while cart, and the load, have theirs under the old: nobody is lost in between.
	loaded(t, "shop", "plugged", "20", []string{pay}, func() {
		kubectl(t, "", "-n", "shop", "rollout", "restart", "deployment/pay")
		rollout(t, "shop", "pay")
		eventually(t, "pay shows a certificate under the new root", func() error {
			chain := shown(t, podIP(t, "shop", "pay")+":8080")
			if err := chain[len(chain)-1].CheckSignatureFrom(ca); err != nil && !chain[len(chain)-1].Equal(ca) {
				return fmt.Errorf("issued by %q: %v", chain[0].Issuer, err)
			}
			return nil
		})
		answered(t, 20*time.Second, 200, "shop", "deploy/cart", pay)
	})
	kubectl(t, "", "-n", "shop", "rollout", "restart", "deployment/cart")
	rollout(t, "shop", "cart")
	answered(t, 20*time.Second, 200, "shop", "deploy/cart", pay)
}

// shown is the certificate chain that a pod's sidecar shows.
func shown(t *testing.T, address string) []*x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates
}
