package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	rpc "google.golang.org/grpc/status"
	securityv1 "istio.io/api/security/v1alpha1"
)

func decodeHex(t *testing.T, s string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

// door is the CA of a mesh as grpc-go and go-spiffe see it.
type door struct {
	t      *testing.T
	m      *running
	bundle *x509bundle.Bundle
	server spiffeid.ID
}

func newDoor(t *testing.T, m *running) *door {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString(m.Ready.TrustDomain)
	bundle, err := x509bundle.Load(td, filepath.Join(m.State, "root-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return &door{t, m, bundle, spiffeid.RequireFromPath(td, "/ns/signet-system/sa/signetd")}
}

// ask calls CreateCertificate: with a token, with an SVID, with both or neither.
func (d *door) ask(csr string, ttl time.Duration, svid *x509svid.SVID, token ...string) ([]string, error) {
	d.t.Helper()
	cfg := tlsconfig.TLSClientConfig(d.bundle, tlsconfig.AuthorizeID(d.server))
	if svid != nil {
		cfg = tlsconfig.MTLSClientConfig(svid, d.bundle, tlsconfig.AuthorizeID(d.server))
	}
	cfg.MinVersion = tls.VersionTLS13
	conn, err := grpc.NewClient("passthrough:///"+d.m.Ready.Control.CA, grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithNoProxy())
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(d.t.Context(), 10*time.Second)
	defer cancel()
	for _, tok := range token {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+tok)
	}
	out, err := securityv1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx,
		&securityv1.IstioCertificateRequest{Csr: csr, ValidityDuration: int64(ttl / time.Second)})
	return out.GetCertChain(), err
}

func (d *door) token(workload string, flags ...string) string {
	d.t.Helper()
	args := append([]string{"ca", "token", "--state", d.m.State, workload}, flags...)
	return strings.TrimSpace(must(d.t, "signet", args...))
}

func parseOne(t *testing.T, s string) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode([]byte(s))
	if block == nil || len(rest) != 0 || !strings.HasSuffix(s, "-----END CERTIFICATE-----\n") {
		t.Fatalf("not one PEM block with its newline: %q", s)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// svid is what a caller holds after an answer.
func (d *door) svid(chain []string, key crypto.Signer) *x509svid.SVID {
	d.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := x509svid.Parse([]byte(strings.Join(chain[:len(chain)-1], "")), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

func request(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// greedy is a request made by openssl that asks for everything that it must not get.
func greedy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	conf := `[req]
distinguished_name = dn
req_extensions = ext
prompt = no
[dn]
O = Evil
CN = root
[ext]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
extendedKeyUsage = codeSigning
subjectAltName = URI:spiffe://cluster.local/ns/shop/sa/pay,URI:spiffe://cluster.local/ns/signet-system/sa/signetd,DNS:pay.shop,IP:10.0.0.1,email:a@b.c
`
	if err := os.WriteFile(filepath.Join(dir, "c"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", filepath.Join(dir, "c"),
		"-keyout", filepath.Join(dir, "key.pem"), "-out", filepath.Join(dir, "csr.pem"))
	b, err := os.ReadFile(filepath.Join(dir, "csr.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCreateCertificate(t *testing.T) {
	t.Parallel()
	text := shop(addr(), freePort(t))
	m := up(t, map[string]string{"mesh.yaml": text})
	d := newDoor(t, m)
	t.Run("what is in it", d.contents)
	t.Run("lifetimes", d.lifetimes)
	t.Run("bad requests", d.badRequests)
	t.Run("bad tokens", d.badTokens)
	t.Run("renewal", func(t *testing.T) { d.renewals(t, text) })
}

func (d *door) contents(t *testing.T) {
	chain, err := d.ask(greedy(t), 0, nil, d.token("shop/cart"))
	if err != nil {
		t.Fatal(err)
	}
	if len(chain) != 3 {
		t.Fatalf("cert_chain has %d strings, want leaf, intermediate, roots", len(chain))
	}
	leaf, signing, root := parseOne(t, chain[0]), parseOne(t, chain[1]), parseOne(t, chain[2])
	if leaf.CheckSignatureFrom(signing) != nil || signing.CheckSignatureFrom(root) != nil || root.CheckSignatureFrom(root) != nil {
		t.Error("cert_chain is not in order")
	}
	if !root.Equal(readCert(t, filepath.Join(d.m.State, "root-cert.pem"))) {
		t.Error("the last string is not the root")
	}
	dir := t.TempDir()
	for i, name := range []string{"leaf", "signing", "root"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(chain[i]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, purpose := range []string{"sslclient", "sslserver"} {
		must(t, "openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", filepath.Join(dir, "root"), "-untrusted", filepath.Join(dir, "signing"), filepath.Join(dir, "leaf"))
	}
	out := must(t, "openssl", "x509", "-in", filepath.Join(dir, "leaf"), "-noout", "-text")
	for _, want := range []string{
		"Subject: \n",
		"X509v3 Subject Alternative Name: critical\n                URI:spiffe://cluster.local/ns/shop/sa/cart\n",
		"X509v3 Key Usage: critical\n                Digital Signature\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("leaf lacks %q:\n%s", want, out)
		}
	}
	if !strings.Contains(out, "TLS Web Server Authentication") || !strings.Contains(out, "TLS Web Client Authentication") {
		t.Errorf("extended key usage:\n%s", out)
	}
	for _, bad := range []string{"CA:TRUE", "DNS:", "IP Address", "email:", "Evil", "Certificate Sign", "Code Signing", "sa/pay", "signetd"} {
		if strings.Contains(out, bad) {
			t.Errorf("leaf has %q of the request", bad)
		}
	}
	if n := leaf.SerialNumber.BitLen(); n > 128 || n < 90 {
		t.Errorf("serial has %d bits", n)
	}
}

func (d *door) lifetimes(t *testing.T) {
	for _, tc := range []struct{ ask, want, back time.Duration }{
		{0, 24 * time.Hour, 2 * time.Minute},
		{20 * time.Second, 20 * time.Second, 2 * time.Second},
		{time.Hour, time.Hour, 2 * time.Minute},
		{90 * 24 * time.Hour, 90 * 24 * time.Hour, 2 * time.Minute},
	} {
		before := time.Now()
		chain, err := d.ask(request(t, newKey(t)), tc.ask, nil, d.token("shop/cart"))
		if err != nil {
			t.Fatal(err)
		}
		leaf := parseOne(t, chain[0])
		if left := leaf.NotAfter.Sub(before); left > tc.want+3*time.Second || left < tc.want-3*time.Second {
			t.Errorf("asked for %s: it lives %s", tc.ask, left)
		}
		if back := before.Sub(leaf.NotBefore); back > tc.back {
			t.Errorf("asked for %s: NotBefore is %s back", tc.ask, back)
		}
	}
	for _, ask := range []time.Duration{90*24*time.Hour + time.Second, 100 * 365 * 24 * time.Hour} {
		_, err := d.ask(request(t, newKey(t)), ask, nil, d.token("shop/cart"))
		if rpc.Code(err) != codes.InvalidArgument {
			t.Errorf("asked for %s: %v", ask, err)
		}
	}
}

func (d *door) badRequests(t *testing.T) {
	good := request(t, newKey(t))
	big := "-----BEGIN CERTIFICATE REQUEST-----\n" + strings.Repeat(strings.Repeat("A", 64)+"\n", 1<<20/65) + "-----END CERTIFICATE REQUEST-----\n"
	// gRPC itself refuses what is too large, before it is read: a caller without a proof gets no memory.
	if _, err := d.ask(big, 0, nil, d.token("shop/cart")); rpc.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("1 MB: %v", err)
	}
	for name, csr := range map[string]string{
		"empty": "", "no PEM": "hello", "two": good + good, "cut off": good[:len(good)/2],
		"broken signature": forge(good), "key instead": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		start := time.Now()
		_, err := d.ask(csr, 0, nil, d.token("shop/cart"))
		if rpc.Code(err) != codes.InvalidArgument || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(start))
		}
	}
}

// forge breaks the signature of a request.
func forge(csr string) string {
	block, _ := pem.Decode([]byte(csr))
	block.Bytes[len(block.Bytes)-1] ^= 1
	return string(pem.EncodeToMemory(block))
}

func (d *door) badTokens(t *testing.T) {
	key := newKey(t)
	bound := d.token("shop/cart")
	for range 2 { // the same key may come again
		if _, err := d.ask(request(t, key), 0, nil, bound); err != nil {
			t.Fatalf("redeeming: %v", err)
		}
	}
	expired := d.token("shop/cart", "--ttl", "1s")
	good := d.token("shop/cart")
	other := d.token("shop/thief")
	part, mixed := strings.Split(good, "."), strings.Split(other, ".")
	unknown := strings.Join(append(part[:3:3], base64.RawURLEncoding.EncodeToString(make([]byte, 32))), ".")
	renamed := strings.Join(append(part[:3:3], mixed[3]), ".") // thief's secret under cart's name
	time.Sleep(1100 * time.Millisecond)
	var said []string
	for name, tokens := range map[string][]string{
		"none": nil, "garbage": {"x"}, "unknown": {unknown}, "expired": {expired}, "bound to another key": {bound},
		"workload that is not there": {d.token("shop/ghost")}, "of another workload": {renamed}, "two": {good, good},
		"long": {strings.Repeat("x", 4096)},
	} {
		_, err := d.ask(request(t, newKey(t)), 0, nil, tokens...)
		if rpc.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
		said = append(said, rpc.Convert(err).Message())
	}
	for _, s := range said {
		if s != said[0] || s == "" {
			t.Errorf("refusals differ: %q", said)
		}
	}
	if _, err := d.ask(request(t, newKey(t)), 0, nil, good); err != nil {
		t.Errorf("a token that others guessed around: %v", err)
	}
}

func (d *door) renewals(t *testing.T, text string) {
	key := newKey(t)
	chain, err := d.ask(request(t, key), time.Hour, nil, d.token("shop/thief"))
	if err != nil {
		t.Fatal(err)
	}
	svid := d.svid(chain, key)
	next := newKey(t)
	if chain, err = d.ask(request(t, next), time.Hour, svid); err != nil {
		t.Fatal("renewing by certificate:", err)
	}
	if svid = d.svid(chain, next); svid.ID.String() != "spiffe://cluster.local/ns/shop/sa/thief" {
		t.Fatalf("renewed as %s", svid.ID)
	}
	refused := func(why string) {
		t.Helper()
		eventually(t, 5*time.Second, func() string {
			if _, err := d.ask(request(t, newKey(t)), time.Hour, svid); rpc.Code(err) != codes.Unauthenticated {
				return fmt.Sprintf("%s: %v", why, err)
			}
			return ""
		})
	}
	d.m.write("mesh.yaml", strings.Replace(text, "serviceAccount: thief", "serviceAccount: honest", 1))
	refused("another service account")
	d.m.write("mesh.yaml", text)
	eventually(t, 5*time.Second, func() string {
		if _, err := d.ask(request(t, newKey(t)), time.Hour, svid); err != nil {
			return "its service account is back: " + err.Error()
		}
		return ""
	})
	at := strings.Index(text, "name: thief")
	from, to := strings.LastIndex(text[:at], "---"), at+strings.Index(text[at:], "---")
	d.m.write("mesh.yaml", text[:from]+text[to:])
	refused("no WorkloadEntry")
}
