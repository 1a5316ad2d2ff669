package ca_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/authority"
	"github.com/signet-mesh/signet/ca/catest"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity"
)

func issue(t *testing.T, c *ca.CA, id identity.ID, csr []byte, ttl time.Duration) (*ca.Certificate, error) {
	t.Helper()
	req, err := c.Judge(csr, ttl)
	if err != nil {
		return nil, err
	}
	prepared, err := c.Prepare(ca.Caller{ID: id, Proof: "test"}, req)
	if err != nil {
		return nil, err
	}
	return c.Issue(prepared)
}

func workload(t *testing.T) identity.ID {
	t.Helper()
	id, err := identity.New("mesh.test", "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func open(t *testing.T, opts authority.Options, log *slog.Logger) (*authority.Authority, *ca.CA) {
	t.Helper()
	a, err := authority.Open(t.TempDir(), "mesh.test", opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	c, err := ca.New(ca.Options{TrustDomain: "mesh.test", Keys: a, Log: log, Now: opts.Now})
	if err != nil {
		t.Fatal(err)
	}
	return a, c
}

// TestIssueForOpenSSLRequests issues for requests that openssl made, of every kind of key, one of them full of wishes,
// and has openssl read what comes out.
func TestIssueForOpenSSLRequests(t *testing.T) {
	a, c := open(t, authority.Options{}, slog.New(slog.DiscardHandler))
	for _, name := range []string{"p256", "p384", "ed25519", "rsa2048", "greedy"} {
		t.Run(name, func(t *testing.T) {
			csr, err := os.ReadFile(filepath.Join("testdata/csr", name+".pem"))
			if err != nil {
				t.Fatal(err)
			}
			before := time.Now()
			cert, err := issue(t, c, workload(t), csr, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			leaf := cert.Leaf
			if d := leaf.NotAfter.Sub(before); d < time.Hour-time.Second || d > time.Hour+time.Minute {
				t.Errorf("ends in %v", d)
			}
			if d := before.Sub(leaf.NotBefore); d < 0 || d > 2*time.Minute {
				t.Errorf("began %v ago", d)
			}
			bundle, err := certs.NewBundle("mesh.test", a.Roots())
			if err != nil {
				t.Fatal(err)
			}
			id, err := certs.Verify(append([]*x509.Certificate{leaf}, cert.Intermediates...), map[string]*certs.Bundle{"mesh.test": bundle}, time.Now())
			if err != nil || id != workload(t) {
				t.Errorf("verifies as %q, %v", id, err)
			}
			checkText(t, cert)
		})
	}
}

func checkText(t *testing.T, cert *ca.Certificate) {
	t.Helper()
	cmd := exec.Command("openssl", "x509", "-noout", "-text")
	cmd.Stdin = bytes.NewReader(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Leaf.Raw}))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text := string(out)
	usage := "Digital Signature\n"
	if _, ok := cert.Leaf.PublicKey.(*rsa.PublicKey); ok {
		usage = "Digital Signature, Key Encipherment\n"
	}
	for _, want := range []string{
		"X509v3 Subject Alternative Name: critical\n                URI:spiffe://mesh.test/ns/shop/sa/cart\n",
		"X509v3 Key Usage: critical\n                " + usage,
		"X509v3 Basic Constraints: critical\n                CA:FALSE\n",
		"TLS Web Server Authentication, TLS Web Client Authentication\n",
		"Subject: \n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, never := range []string{"evil", "DNS:", "10.0.0.1", "Certificate Sign", "signetd"} {
		if strings.Contains(text, never) {
			t.Errorf("%q in\n%s", never, text)
		}
	}
}

func TestIssueRefusesForeignSignature(t *testing.T) {
	_, c := open(t, authority.Options{}, slog.New(slog.DiscardHandler))
	_, csr := catest.NewCSR(t)
	block, _ := pem.Decode(csr)
	block.Bytes[len(block.Bytes)-1] ^= 1
	_, err := issue(t, c, workload(t), pem.EncodeToMemory(block), 0)
	var csrErr *ca.CSRError
	if !errors.As(err, &csrErr) || !strings.Contains(err.Error(), "signature") {
		t.Fatalf("got %v, want a CSRError about the signature", err)
	}
}

func TestPrepareRefusesCallers(t *testing.T) {
	_, c := open(t, authority.Options{}, slog.New(slog.DiscardHandler))
	_, csr := catest.NewCSR(t)
	for _, uri := range []string{
		"", "spiffe://other.test/ns/shop/sa/cart", "spiffe://mesh.test/workload",
		"spiffe://mesh.test/ns/signet-system/sa/signetd",
	} {
		var id identity.ID
		if uri != "" {
			var err error
			if id, err = identity.Parse(uri); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := issue(t, c, id, csr, 0); !errors.Is(err, ca.ErrNotEntitled) {
			t.Errorf("%q: got %v, want ErrNotEntitled", uri, err)
		}
	}
}

func TestIssueEndsWithTheIssuer(t *testing.T) {
	a, c := open(t, authority.Options{IntermediateTTL: time.Hour}, slog.New(slog.DiscardHandler))
	_, csr := catest.NewCSR(t)
	cert, err := issue(t, c, workload(t), csr, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if end := a.Chain()[0].NotAfter; !cert.Leaf.NotAfter.Equal(end) {
		t.Fatalf("ends at %v, the issuer at %v", cert.Leaf.NotAfter, end)
	}
}

func TestIssueFailsAfterTheIssuersEnd(t *testing.T) {
	now := time.Now()
	_, c := open(t, authority.Options{IntermediateTTL: time.Hour, Now: func() time.Time { return now }}, slog.New(slog.DiscardHandler))
	now = now.Add(2 * time.Hour)
	_, csr := catest.NewCSR(t)
	if _, err := issue(t, c, workload(t), csr, time.Minute); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Fatalf("got %v", err)
	}
}

func TestControlPlaneIssue(t *testing.T) {
	_, c := open(t, authority.Options{}, slog.New(slog.DiscardHandler))
	key, csr := catest.NewCSR(t)
	block, _ := pem.Decode(csr)
	issued, err := c.ControlPlane().Issue(t.Context(), block.Bytes, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := certs.NewSVID(issued.Chain, key)
	if err != nil || !svid.ID.IsControlPlane() || len(issued.Roots) != 1 {
		t.Fatalf("%v, %v", svid, err)
	}
}

func TestAuditRecords(t *testing.T) {
	var buf bytes.Buffer
	_, c := open(t, authority.Options{}, slog.New(slog.NewJSONHandler(&buf, nil)))
	_, csr := catest.NewCSR(t)
	cert, err := issue(t, c, workload(t), csr, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Refuse(ca.Caller{ID: workload(t), From: "192.0.2.1:5"}, errors.New("no"))
	type line struct {
		Msg, ID, Proof, From, Serial, Reason string
		NotAfter                             time.Time `json:"not_after"`
		Key                                  string    `json:"key_sha256"`
	}
	dec := json.NewDecoder(&buf)
	var issued, refused line
	if err := errors.Join(dec.Decode(&issued), dec.Decode(&refused)); err != nil {
		t.Fatal(err)
	}
	if issued.Msg != "certificate issued" || issued.ID != workload(t).String() || issued.Proof != "test" ||
		strings.TrimLeft(issued.Serial, "0") != cert.Leaf.SerialNumber.Text(16) || len(issued.Serial) != 32 ||
		!issued.NotAfter.Equal(cert.Leaf.NotAfter) || len(issued.Key) != 64 {
		t.Errorf("issued: %+v", issued)
	}
	if refused.Msg != "certificate refused" || refused.Reason != "no" || refused.From != "192.0.2.1:5" {
		t.Errorf("refused: %+v", refused)
	}
}
