package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// run runs one of the executables under test, or any other program, and returns its output and exit code.
func run(t *testing.T, name string, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	if p := filepath.Join(bin, name); fileExists(p) {
		name = p
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatalf("running %s: %v", name, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must is run for what has to succeed; it gives standard output.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, errs, exit := run(t, name, args...)
	if exit != 0 {
		t.Fatalf("%s %s: exit %d\n%s%s", name, strings.Join(args, " "), exit, out, errs)
	}
	return out
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func readCert(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s is not PEM", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestStateDirectory is the CA's state over several runs: what is in it, who may open it, and that the root stays.
func TestStateDirectory(t *testing.T) {
	t.Parallel()
	m := up(t, map[string]string{"mesh.yaml": shop(addr(), echo(t, nil))}, "--trust-domain", "shop.example")
	if m.Ready.TrustDomain != "shop.example" {
		t.Errorf("trust domain is %q", m.Ready.TrustDomain)
	}
	cart, pay := m.workload("shop/cart"), m.workload("shop/pay")
	if cart.SPIFFEID != "spiffe://shop.example/ns/shop/sa/cart" {
		t.Errorf("cart is %q", cart.SPIFFEID)
	}
	checkModes(t, m.State)
	checkSigningKeys(t, m)
	checkServedChain(t, m, "shop.example")

	// A second mesh on the same state: refused, and the first goes on.
	out, errs, exit := run(t, "signet", "up", "-o", "json", "--state", m.State, "--trust-domain", "shop.example", "--control-address", "127.0.0.1:0", m.Dir)
	if exit != 1 || out != "" || !strings.Contains(errs, "lock") || !strings.Contains(errs, m.State) {
		t.Errorf("second up on one state: exit %d, %q, %s", exit, out, errs)
	}
	if got := code(t, "-x", "http://"+cart.Outbound, "http://pay.shop/"); got != "200" {
		t.Errorf("the first mesh answers %s after the second was refused", got)
	}
	if body, _ := curl(t, "-x", "http://"+cart.Outbound, "http://pay.shop/"); !strings.Contains(body, "By=spiffe://shop.example/ns/shop/sa/pay") {
		t.Errorf("pay's program was told\n%s", body)
	}
	root := must(t, "openssl", "x509", "-in", filepath.Join(m.State, "root-cert.pem"), "-noout", "-fingerprint", "-sha256")
	m.stop()

	// Another trust domain: refused before anything is touched.
	_, errs, exit = run(t, "signet", "up", "-o", "json", "--state", m.State, "--trust-domain", "other.example", "--control-address", "127.0.0.1:0", m.Dir)
	if exit != 1 && exit != 2 || !strings.Contains(errs, "shop.example") || !strings.Contains(errs, "other.example") {
		t.Errorf("up for another trust domain: exit %d, %s", exit, errs)
	}

	// An issuer that ends soon: nothing that it signs outlives it. The root is the same.
	end := shortenIntermediate(t, m.State)
	m.start("--trust-domain", "shop.example")
	if again := must(t, "openssl", "x509", "-in", filepath.Join(m.State, "root-cert.pem"), "-noout", "-fingerprint", "-sha256"); again != root {
		t.Errorf("root was %s, is %s", root, again)
	}
	if w := m.workload("shop/pay"); !w.NotAfter.Equal(end) || w.SPIFFEID != pay.SPIFFEID {
		t.Errorf("pay's certificate ends %s, its issuer %s", w.NotAfter, end)
	}
	checkServedChain(t, m, "shop.example")
}

// checkModes: nothing below the state is open to others.
func checkModes(t *testing.T, state string) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		seen++
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", path, got, want)
		}
		return nil
	})
	if err != nil || seen < 10 {
		t.Errorf("looking at %s: %d files, %v", state, seen, err)
	}
}

// checkSigningKeys: PEM, ECDSA P-256, as openssl reads them.
func checkSigningKeys(t *testing.T, m *running) {
	t.Helper()
	for _, name := range []string{"root", "ca"} {
		key := must(t, "openssl", "pkey", "-in", filepath.Join(m.State, name+"-key.pem"), "-noout", "-text")
		if !strings.Contains(key, "prime256v1") {
			t.Errorf("%s key is %.60q, want one on P-256", name, key)
		}
		cert := must(t, "openssl", "x509", "-in", filepath.Join(m.State, name+"-cert.pem"), "-noout", "-text")
		for _, want := range []string{"CA:TRUE", "Certificate Sign", "ecdsa-with-SHA256", "URI:spiffe://" + m.Ready.TrustDomain + "\n"} {
			if !strings.Contains(cert, want) {
				t.Errorf("%s certificate lacks %q:\n%s", name, want, cert)
			}
		}
	}
}

// checkServedChain verifies with openssl what the control port and a sidecar present, against the root alone.
func checkServedChain(t *testing.T, m *running, trustDomain string) {
	t.Helper()
	for address, id := range map[string]string{
		m.Ready.Control.CA:                "spiffe://" + trustDomain + "/ns/signet-system/sa/signetd",
		m.workload("shop/pay").Inbound[0]: m.workload("shop/pay").SPIFFEID,
	} {
		leaf := served(t, address, filepath.Join(m.State, "root-cert.pem"))
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id {
			t.Errorf("%s presents %v, want %s", address, leaf.URIs, id)
		}
	}
}

// served is the certificate that an address presents to openssl, verified by openssl against a root.
func served(t *testing.T, address, root string) *x509.Certificate {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", "s_client", "-connect", address, "-CAfile", root, "-showcerts", "-alpn", "h2,istio-http/1.1")
	out, _ := cmd.CombinedOutput() // the end may be an alert: we show no certificate
	if !strings.Contains(string(out), "Verify return code: 0 (ok)") && !strings.Contains(string(out), "Verification: OK") {
		t.Fatalf("openssl does not verify what %s presents:\n%s", address, out)
	}
	if !strings.Contains(string(out), "TLSv1.3") {
		t.Errorf("%s does not speak TLS 1.3:\n%s", address, out)
	}
	_, rest, _ := strings.Cut(string(out), "-----BEGIN CERTIFICATE-----")
	block, _ := pem.Decode([]byte("-----BEGIN CERTIFICATE-----" + rest))
	if block == nil {
		t.Fatalf("%s presents no certificate:\n%s", address, out)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// shortenIntermediate replaces the signing certificate by one that ends in ten minutes, as if it were near its end.
func shortenIntermediate(t *testing.T, state string) (end time.Time) {
	t.Helper()
	old, root := readCert(t, filepath.Join(state, "ca-cert.pem")), readCert(t, filepath.Join(state, "root-cert.pem"))
	b, err := os.ReadFile(filepath.Join(state, "root-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	old.SerialNumber = big.NewInt(7)
	old.NotBefore, old.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(10*time.Minute).Truncate(time.Second)
	der, err := x509.CreateCertificate(rand.Reader, old, root, old.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(state, "ca-cert.pem"), out, 0o600); err != nil {
		t.Fatal(err)
	}
	return old.NotAfter
}

// TestCAToken: what `signet ca token` gives, and what is kept of it.
func TestCAToken(t *testing.T) {
	t.Parallel()
	state := shortDir(t)
	if _, errs, exit := run(t, "signet", "ca", "token", "--state", state, "shop/cart"); exit != 2 || !strings.Contains(errs, "start the control plane") {
		t.Errorf("without a CA: exit %d, %s", exit, errs)
	}
	m := up(t, map[string]string{"mesh.yaml": shop(addr(), freePort(t))})
	token := strings.TrimSpace(must(t, "signet", "ca", "token", "--state", m.State, "shop/cart"))
	sum := sha256.Sum256(readCert(t, filepath.Join(m.State, "root-cert.pem")).Raw)
	part := strings.Split(token, ".")
	if len(part) != 4 || part[1] != "shop/cart" || !strings.Contains(decodeHex(t, part[2]), hex.EncodeToString(sum[:])) {
		t.Errorf("token %d parts, of %q; want the root's SHA-256 %x in it", len(part), part[1], sum)
	}
	stored, _ := filepath.Glob(filepath.Join(m.State, "tokens", "*"))
	for _, f := range stored {
		if b, _ := os.ReadFile(f); strings.Contains(f+string(b), part[3]) {
			t.Errorf("%s holds the token's secret", f)
		}
	}
	if strings.Contains(m.Log(), "st1.") {
		t.Error("a token is in the log")
	}
	for _, bad := range []string{"cart", "shop/", "/cart", "Shop/Cart", "a/b/c"} {
		if _, _, exit := run(t, "signet", "ca", "token", "--state", m.State, bad); exit != 2 {
			t.Errorf("token for %q: exit %d", bad, exit)
		}
	}
}

// TestReservedIdentity: no WorkloadEntry may be the control plane.
func TestReservedIdentity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "evil.yaml")
	text := "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: evil, namespace: signet-system}\n" +
		"spec: {address: 127.0.99.1, serviceAccount: signetd}\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, _, exit := run(t, "signet", "validate", file)
	if exit != 2 || !strings.Contains(out, "evil.yaml:4:") || !strings.Contains(out, "serviceAccount") {
		t.Errorf("validate: exit %d\n%s", exit, out)
	}
	state := shortDir(t)
	_, errs, exit := run(t, "signet", "up", "--state", state, "--control-address", "127.0.0.1:0", dir)
	if exit != 2 || !strings.Contains(errs, "serviceAccount") {
		t.Errorf("up: exit %d\n%s", exit, errs)
	}
	if fileExists(filepath.Join(state, "root-key.pem")) {
		t.Error("up made a CA though it refused to start")
	}
}

// pidOf finds the process of a mesh that plays a role.
func (m *running) pidOf(role string) int {
	m.t.Helper()
	found := 0
	eventually(m.t, 10*time.Second, func() string {
		paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if arg := strings.Split(string(b), "\x00"); err == nil && len(arg) > 2 && arg[1] == role && strings.Contains(string(b), m.State) {
				_, _ = fmt.Sscanf(p, "/proc/%d/", &found)
				return ""
			}
		}
		return "no process " + role
	})
	return found
}

func (m *running) signal(role string, s syscall.Signal) {
	m.t.Helper()
	if err := syscall.Kill(m.pidOf(role), s); err != nil {
		m.t.Fatal(err)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pemDER is the content of all PEM blocks, one after the other.
func pemDER(b []byte) []byte {
	var out []byte
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		out = append(out, block.Bytes...)
	}
	return out
}
